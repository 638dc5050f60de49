"""Measure how well one feature, on its own, tells frauds from genuine transactions."""

from __future__ import annotations

import numpy as np

from lib.data.datasets import Arrays
from lib.evaluation import intervals
from lib.evaluation.figures import Figure

Z = 1.959964  # of a normal distribution, 2.5 % lie beyond


def roc_auc(data: Arrays, x: np.ndarray) -> dict:
    """Return how likely a fraud has the larger value, ties counting half, with its 95 % interval.

    0.5 is what chance gives, 1: every fraud has a larger value than every genuine transaction, 0:
    every fraud has a smaller one. Only labelled transactions count, each as much as its weight.

    The interval is normal on the logarithm of the odds. Its variance is that between blocks of
    time, as in Obuchowski, Biometrics 1997, for clustered data: transactions of one block depend on
    each other. It is None with fewer than 20 blocks or 10 frauds, and at 0 and 1.

    Parameters
    ----------
    x : (n,) float, a feature of the transactions in `data`; NaN counts as the median

    Returns
    -------
    dict : ``value``, ``low``, ``high``; all None without a fraud or a genuine transaction
    """
    is_used = (data.y >= 0) & (data.weight > 0)
    x = np.asarray(x, np.float64)
    known = x[np.isfinite(x)]
    x = np.where(np.isfinite(x), x, np.median(known) if known.size else 0.0)
    x, y, weight, time_s = (a[is_used] for a in (x, data.y, data.weight, data.time_s))
    fraud, genuine = np.where(y == 1, weight, 0.0), np.where(y == 0, weight, 0.0)
    if not fraud.any() or not genuine.any():
        return intervals.figure(np.nan)

    # of each row: how much of the other class it wins against, ties half
    won = np.where(y == 1, _below(x, genuine), 1 - _below(x, fraud))
    value = float(fraud @ won / fraud.sum())
    share = fraud / fraud.sum() + genuine / genuine.sum()
    block = intervals.blocks(time_s, intervals.block_length(data.time_s))
    n_blocks = block.max() + 1
    n_frauds = np.count_nonzero(fraud)
    is_enough = n_frauds >= intervals.MIN_FRAUDS and n_blocks >= intervals.MIN_BLOCKS
    found = intervals.figure(value)
    if not is_enough or not 0 < value < 1:
        return found
    # a row's part in the error; blocks are independent, their rows are not
    of_block = np.bincount(block, share * (won - value))
    error = np.sqrt(np.sum(of_block**2) * n_blocks / (n_blocks - 1))
    logit = np.log(value / (1 - value))
    reach = Z * error / (value * (1 - value))
    ends = 1 / (1 + np.exp(-(logit + np.array([-reach, reach]))))
    return found | {"low": float(ends[0]), "high": float(ends[1])}


def _below(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return, for each of x (n,), which share of the weight has smaller values; ties count half."""
    values, code = np.unique(x, return_inverse=True)
    of_value = np.bincount(code, weight, minlength=len(values))
    below = np.cumsum(of_value) - of_value / 2
    return below[code] / weight.sum()


def either_way(auc: Figure) -> tuple[Figure, str]:
    """Return how far an AUC separates, whichever way, 0.5 to 1, and where frauds lie.

    The ends of the interval are turned round together with the value: one that begins below 0.5
    means that the sign is not sure. Where frauds lie is `higher`, `lower`, or empty if that is not
    sure.
    """
    value, low, high = auc["value"], auc["low"], auc["high"]
    if value is None:
        return auc, ""
    is_sure = low is not None and high is not None and (low > 0.5 or high < 0.5)
    side = "higher" if value > 0.5 else "lower"
    if value < 0.5:
        value = 1 - value
        low, high = (None if end is None else 1 - end for end in (high, low))
    return {"value": value, "low": low, "high": high}, side if is_sure else ""
