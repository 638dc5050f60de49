"""How far two weighted samples of one column are apart."""

from __future__ import annotations

import numpy as np


def distances(
    x: np.ndarray,
    x_weight: np.ndarray,
    y: np.ndarray,
    y_weight: np.ndarray,
) -> tuple[float, float]:
    """Return the weighted Kolmogorov-Smirnov and Wasserstein distances of x (n,) and y (m,).

    The first is between 0 and 1, the second in the unit of x.
    """
    values = np.concatenate([x, y])
    x_share = x_weight / np.sum(x_weight)
    y_share = y_weight / np.sum(y_weight)
    shares = np.concatenate([x_share, -y_share])
    order = np.argsort(values, kind="stable")
    step = np.diff(values[order])
    # difference of the two distribution functions, between one value and the next
    between = np.cumsum(shares[order])
    gap = np.abs(between[:-1])
    # between equal values there is nothing to see: they are one step
    is_step = step > 0
    largest = np.max(gap[is_step], initial=0.0)
    area = np.sum(gap * step)
    return float(largest), float(area)


def ks(
    a: np.ndarray,
    b: np.ndarray,
    weight_a: np.ndarray,
    weight_b: np.ndarray,
) -> float:
    """Return the weighted Kolmogorov-Smirnov distance of a (n,) and b (m,), 0 to 1.

    By their known values with a weight above 0; NaN if one of them has none.
    """
    x, x_weight = _known(a, weight_a)
    y, y_weight = _known(b, weight_b)
    if not len(x) or not len(y):
        return float("nan")
    largest, _ = distances(x, x_weight, y, y_weight)
    return largest


def _known(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, float)
    weight = np.asarray(weight, float)
    known = ~np.isnan(values) & (weight > 0)
    return values[known], weight[known]
