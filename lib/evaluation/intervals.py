"""How sure a figure is: resampled blocks of time, exact binomial intervals, paired differences.

Transactions of a short time depend on each other (one attack is many frauds), so that what is
resampled are blocks of time, not rows (Künsch, Annals of Statistics 1989).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import betaincinv

# with fewer, a bootstrap interval would pretend to a precision it lacks
MIN_BLOCKS = 20
MIN_FRAUDS = 10
BLOCK_S = 600.0  # length of a block of time, where that leaves enough of them
ENOUGH_BLOCKS = 30  # that a chosen length leaves at least, where there are so many instants
CHUNK = 4_000_000  # numbers held at once per array while resampling
PERCENTILES = (2.5, 97.5)  # of the resampled values: the ends of a 95 % interval


def _block_lengths() -> tuple[float, ...]:
    """Return the lengths (s) to choose from: 600, 300, … 20, then 10, 5, 2, 1, 0.5, 0.2, …."""
    lengths = [BLOCK_S, 300.0, 120.0, 60.0, 30.0, 20.0]
    for power in range(1, -7, -1):
        for step in (1.0, 0.5, 0.2):
            # rounded: 0.2 * 10.0**-1 is a little more than the 0.02 that is written in reports
            lengths.append(round(step * 10.0**power, 9))
    return tuple(lengths)


_LENGTHS = _block_lengths()


@dataclass(frozen=True)
class Basis:
    """What figures and intervals rest on.

    Parameters
    ----------
    block_s : length of a block of time (s)
    n_blocks : blocks that hold labelled transactions
    n_labelled, n_frauds : labelled transactions, and frauds among them, with a weight above 0
    """

    block_s: float
    n_blocks: int
    n_labelled: int
    n_frauds: int

    @property
    def no_interval(self) -> str:
        """Why average precision and the like have no interval; empty where they have one."""
        if not self.n_labelled:
            return "no transaction has a label"
        if self.n_frauds < MIN_FRAUDS:
            return f"{self.n_frauds} labelled frauds, {MIN_FRAUDS} are needed"
        if self.n_blocks < MIN_BLOCKS:
            return f"{self.n_blocks} blocks of time, {MIN_BLOCKS} are needed"
        return ""

    def __str__(self) -> str:
        if not self.n_labelled:
            return "No transaction has a label: there are no metrics."
        rows = f"{self.n_labelled:,} labelled transactions with {self.n_frauds:,} frauds"
        if self.no_interval:
            return f"{rows}. No intervals from resampled blocks of time: {self.no_interval}."
        length = duration(self.block_s)
        return f"{rows}. Intervals: {self.n_blocks:,} blocks of {length}, resampled."

    def to_dict(self) -> dict:
        """Return what json.dumps takes."""
        return asdict(self) | {"no_interval": self.no_interval}


@dataclass(frozen=True)
class Comparison:
    """Metrics of several models on the same transactions and the same resamples.

    Parameters
    ----------
    metrics : {model: {metric: {"value", "low", "high"}}}, floats, or None where undefined
    draws : {model: {metric: (n_resamples,) float64}}, the resampled values, empty where there is
        no interval
    basis : what they rest on
    """

    metrics: dict
    draws: dict
    basis: Basis = Basis(BLOCK_S, 0, 0, 0)

    def difference(self, first: str, second: str, metric: str) -> dict:
        """Return a metric of `first` minus that of `second`, with its 95 % interval.

        Both are taken on the same resamples: what makes a resample hard makes it hard for both, so
        that the interval is narrower than those of the two models.
        """
        ours = self.metrics[first][metric]["value"]
        theirs = self.metrics[second][metric]["value"]
        value = np.nan
        if ours is not None and theirs is not None:
            value = ours - theirs
        our_draws = self.draws[first][metric]
        their_draws = self.draws[second][metric]
        return figure(value, our_draws - their_draws)


def figure(value: float, draws: np.ndarray | tuple = ()) -> dict:
    """Return {"value", "low", "high"}: a value with the percentile interval of its resamples.

    value : NaN where it is undefined; all three are None then.
    draws : (n_resamples,) float; without any the ends are None.
    """
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    draws = np.asarray(draws)
    defined = draws[np.isfinite(draws)]  # a resample without any fraud has no recall
    if not defined.size:
        return {
            "value": float(value),
            "low": None,
            "high": None,
        }
    low, high = np.percentile(defined, PERCENTILES)
    return {
        "value": float(value),
        "low": float(low),
        "high": float(high),
    }


def clopper_pearson(share: float, n: float) -> dict:
    """Return the exact binomial 95 % interval of a share of n trials: {"value", "low", "high"}.

    Clopper and Pearson, Biometrika 1934. `n` may be an effective number of rows, not a whole one.
    """
    hits = min(share, 1.0) * n
    low = 0.0
    if hits > 0:
        low = betaincinv(hits, n - hits + 1, 0.025)
    high = 1.0
    if hits < n:
        high = betaincinv(hits + 1, n - hits, 0.975)
    return {
        "value": float(share),
        "low": float(low),
        "high": float(high),
    }


def honest(resampled: dict, exact: dict | None = None) -> dict:
    """Return a share with the wider of two intervals, resampled and exact binomial.

    Resamples that are all alike, as of ten alerts that are all frauds, say nothing of how sure a
    share is: without an exact interval it has none.
    """
    if exact is None:
        is_degenerate = resampled["low"] == resampled["high"]
        return resampled | {"low": None, "high": None} if is_degenerate else resampled
    if resampled["low"] is None:
        return exact
    return {
        "value": resampled["value"],
        "low": min(resampled["low"], exact["low"]),
        "high": max(resampled["high"], exact["high"]),
    }


def duration(seconds: float) -> str:
    """Write a length of time as people do: `600 s`, `2.5 h`, `30 d`."""
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.3g} d"
    if seconds >= 3_600:
        return f"{seconds / 3_600:.3g} h"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.2g} s"


def block_length(time_s: np.ndarray) -> float:
    """Choose the length (s) of the blocks of time that intervals are resampled in.

    600 s, within which the data set of cards is dependent, where that leaves 30 blocks with
    transactions; else the longest of 300, 120, 60, 30, 20, 10, 5, 2, 1, 0.5, … that does. Where
    there are fewer instants than that, as in a table of days, each instant ends up in a block of
    its own: no rows of one instant are ever parted.

    time_s : (n,) float, seconds, in any order; of validation, so that all periods have blocks of
        one length
    """
    time_s = np.asarray(time_s, np.float64)
    instants = np.unique(time_s)
    wanted = min(ENOUGH_BLOCKS, instants.size)
    for length in _LENGTHS:
        in_block = np.floor(instants / length)
        held = np.unique(in_block)
        if held.size >= wanted:
            return length
    return _LENGTHS[-1]


def blocks(time_s: np.ndarray, block_s: float) -> np.ndarray:
    """Return the block (n,) int of each transaction, counted from 0; empty blocks have no number.

    Block i holds the times time_s (n,) in [i block_s, (i + 1) block_s).
    """
    number = np.floor(time_s / block_s)
    _, block = np.unique(number, return_inverse=True)
    return block


def resamples(
    n_blocks: int,
    n_resamples: int,
    chunk: int,
    seed: int,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield chunks of resamples: their positions, and how often each block is drawn in them.

    The second is (n_blocks, at most `chunk`) float64. The draws do not depend on `chunk`.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, n_resamples, chunk):
        stop = min(start + chunk, n_resamples)
        n = stop - start
        times = np.empty((n_blocks, n))
        for i in range(n):
            drawn = rng.integers(n_blocks, size=n_blocks)
            times[:, i] = np.bincount(drawn, minlength=n_blocks)
        yield slice(start, stop), times
