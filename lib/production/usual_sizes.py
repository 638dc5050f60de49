"""How large differences are that a reference window shows within itself.

With enough transactions every day differs significantly from every other. What is called drift has
to be larger than what the past has seen without anybody calling it that: the window is cut into
stretches of a batch's size, and each is compared with all others just as a batch is. Chance makes
small samples differ, too; its part is taken off on both sides, so that a short window is no excuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_STRETCHES = 8  # that a window is cut into; a batch that is larger is judged by shorter ones
MAX_STRETCHES = 40  # that are compared, evenly spaced
MIN_COMPARED = 5  # with fewer that the others cover, nothing is known
N_DEVIATIONS = 2.0  # of the differences within the window; a batch beyond is unusual
MIN_MOVED = 0.02  # share of transactions; less is never called drift
NOTHING = 1e-9  # share below which a difference of sums is 0
MIN_SHARE = 0.005  # the same of what is missing or was never seen, and of one value of a category


@dataclass(frozen=True)
class Column:
    """One column of a window as bins.

    codes : (n,) int, 0 to n_bins - 1; n_bins where the value is missing
    is_category : whether each bin is a value that people know by name
    """

    values: np.ndarray
    codes: np.ndarray
    n_bins: int
    is_category: bool


@dataclass(frozen=True)
class Usual:
    """From which size on differences of one column are unusual; all are shares of weight, 0 to 1.

    moved : of what lies in other bins, as `beyond_chance` counts it
    missing, beyond : of what is missing, and of what lies beyond all that the window holds
    of_value : (bins,), of the transactions with one value of a category; None for numbers
    """

    moved: float = MIN_MOVED
    missing: float = MIN_SHARE
    beyond: float = MIN_SHARE
    of_value: np.ndarray | None = None

    def value(self, code: int) -> float:
        """Return from which difference on the share of a category's value is unusual."""
        return MIN_SHARE if self.of_value is None else float(self.of_value[code])


@dataclass(frozen=True)
class Strata:
    """Rows that are compared with each other only, such as those of one hour of the day.

    of_row : (n,) int, 0 to n - 1
    min_rows : that a stratum needs before others are matched to it
    max_uncovered : share of weight that may lie in strata with fewer
    """

    of_row: np.ndarray
    n: int
    min_rows: int
    max_uncovered: float

    def factors(
        self, wanted: np.ndarray, weight: np.ndarray, n_rows: np.ndarray
    ) -> np.ndarray | None:
        """Return by what (n,) to multiply weights so that strata get the shares that are wanted.

        None where too much is wanted of strata with too few rows.

        Parameters
        ----------
        wanted : (n,) shares
        weight, n_rows : (n,), of each stratum
        """
        is_covered = n_rows >= self.min_rows
        if wanted[~is_covered].sum() > self.max_uncovered:
            return None
        return np.divide(wanted, weight, out=np.zeros(self.n), where=is_covered & (weight > 0))


def of_window(
    columns: Sequence[Column],
    weight: np.ndarray,
    order: np.ndarray,
    strata: Strata,
    batch_share: float,
) -> list[Usual] | None:
    """Return what is usual of each column; None where too few stretches are covered by the others.

    Parameters
    ----------
    weight : (n,), of the window's rows
    order : (n,), positions of the rows in time order
    batch_share : weight of a batch, as a share of the window's
    """
    stretches = _stretches(weight, order, batch_share)
    total_rows = np.bincount(strata.of_row, weight > 0, minlength=strata.n)
    total_weight = np.bincount(strata.of_row, weight, minlength=strata.n)
    total_square = np.bincount(strata.of_row, weight**2, minlength=strata.n)
    compared = []
    for rows in stretches:
        own_rows = np.bincount(strata.of_row[rows], weight[rows] > 0, minlength=strata.n)
        own_weight = np.bincount(strata.of_row[rows], weight[rows], minlength=strata.n)
        wanted = own_weight / own_weight.sum()
        factors = strata.factors(wanted, total_weight - own_weight, total_rows - own_rows)
        if factors is None:
            continue
        own_square = np.bincount(strata.of_row[rows], weight[rows] ** 2, minlength=strata.n)
        others_weight = factors @ (total_weight - own_weight)
        others_square = factors**2 @ (total_square - own_square)
        per_row = own_square.sum() / own_weight.sum() ** 2 + others_square / others_weight**2
        compared.append(_Stretch(rows, factors, per_row))
    if len(compared) < MIN_COMPARED:
        return None
    return [_usual(column, weight, strata, compared) for column in columns]


def beyond_chance(before: np.ndarray, now: np.ndarray, per_row: float) -> float:
    """Return the total variation of shares (bins,) that chance does not explain, 0 to 1.

    per_row : 1/n + 1/m of the effective rows behind the shares
    """
    return float(np.sqrt(max(_excess(before, now, per_row), 0.0)))


def _excess(before: np.ndarray, now: np.ndarray, per_row: float) -> float:
    """Return the square of the total variation of shares (bins,), less what chance adds to it.

    Where rows are drawn from the same shares, differences are about normal; here they are taken for
    independent. On average that leaves 0.
    """
    moved = np.abs(now - before).sum() / 2
    variance = np.maximum(before * (1 - before), 0.0) * per_row
    expected = np.sqrt(2 / np.pi * variance).sum() / 2
    around = (1 - 2 / np.pi) * variance.sum() / 4
    return float(moved**2 - expected**2 - around)


def _deviations(excess: Sequence[float] | np.ndarray) -> float:
    """Return N_DEVIATIONS times the root of the mean of squares less chance; 0 if that is below."""
    return N_DEVIATIONS * float(np.sqrt(max(float(np.mean(excess)), 0.0)))


@dataclass(frozen=True)
class _Stretch:
    """A stretch of the window and the others as matched to it.

    rows : positions of its rows
    factors : (strata,), of the others' weights
    per_row : 1/n + 1/m of the effective rows of the two
    """

    rows: np.ndarray
    factors: np.ndarray
    per_row: float


def _stretches(weight: np.ndarray, order: np.ndarray, batch_share: float) -> list[np.ndarray]:
    """Return the positions of the rows of each stretch; all have the same weight."""
    share = min(batch_share, 1 / MIN_STRETCHES)
    cumulated = np.cumsum(weight[order])
    cumulated = cumulated / cumulated[-1]
    n = min(int(1 / share + 1e-9), MAX_STRETCHES)
    starts = np.linspace(0, 1 - share, n)
    first = np.searchsorted(cumulated, starts, side="right")
    last = np.searchsorted(cumulated, starts + share, side="right")
    parts = [order[start:stop] for start, stop in zip(first, last, strict=True)]
    return [rows for rows in parts if weight[rows].sum() > 0]


def _usual(
    column: Column,
    weight: np.ndarray,
    strata: Strata,
    compared: Sequence[_Stretch],
) -> Usual:
    """Return from which size on differences of one column are unusual."""
    n_codes = column.n_bins + 1
    total = _counts(column.codes, weight, strata.of_row, (strata.n, n_codes))
    is_missing = column.codes == column.n_bins
    known = np.where(is_missing, np.nan, column.values)
    ends = _ends([known[stretch.rows] for stretch in compared])
    moved, missing, beyond, of_value = [], [], [], []
    for i, stretch in enumerate(compared):
        rows = stretch.rows
        own = _counts(column.codes[rows], weight[rows], strata.of_row[rows], total.shape)
        # a difference of sums may fall a hair below 0
        others = np.maximum(stretch.factors @ (total - own), 0.0)
        here = own.sum(axis=0)
        missing.append(_square(_last_share(others), _last_share(here), stretch.per_row))
        before, now = _known_shares(others), _known_shares(here)
        moved.append(_excess(before, now, stretch.per_row))
        of_value.append(_square(before, now, stretch.per_row))
        if column.is_category:
            beyond.append(now[before <= NOTHING].sum())
        else:
            low, high = ends.without(i)
            is_beyond = (known[rows] < low) | (known[rows] > high)
            beyond.append(weight[rows][is_beyond].sum() / weight[rows].sum())
    each_value = [max(MIN_SHARE, _deviations(squares)) for squares in np.transpose(of_value)]
    return Usual(
        moved=max(MIN_MOVED, _deviations(moved)),
        missing=max(MIN_SHARE, _deviations(missing)),
        # extremes are rare, and of a column that grows they come last: no mean tells
        beyond=max(MIN_SHARE, N_DEVIATIONS * max(beyond)),
        of_value=np.array(each_value) if column.is_category else None,
    )


def _square(before: Any, now: Any, per_row: float) -> Any:
    """Return the square of a difference of shares, less what chance adds to it."""
    return (now - before) ** 2 - before * (1 - before) * per_row


def _counts(
    codes: np.ndarray, weight: np.ndarray, stratum: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Return the weight in each stratum and bin, of a shape (strata, bins)."""
    cell = stratum * shape[1] + codes
    return np.bincount(cell, weight, minlength=shape[0] * shape[1]).reshape(shape)


def _last_share(counts: np.ndarray) -> float:
    """Return the share of the last bin, that of missing values."""
    return float(counts[-1] / max(counts.sum(), 1e-300))


def _known_shares(counts: np.ndarray) -> np.ndarray:
    """Return the shares of all bins but the last, of what is not missing."""
    known = counts[:-1]
    return known / max(known.sum(), 1e-300)


@dataclass(frozen=True)
class _Ends:
    """Smallest and largest value of each stretch, (k,) each."""

    low: np.ndarray
    high: np.ndarray

    def without(self, i: int) -> tuple[float, float]:
        """Return the smallest and largest value of all stretches but one."""
        return float(np.delete(self.low, i).min()), float(np.delete(self.high, i).max())


def _ends(stretches: Sequence[np.ndarray]) -> _Ends:
    low = [np.min(x, initial=np.inf, where=~np.isnan(x)) for x in stretches]
    high = [np.max(x, initial=-np.inf, where=~np.isnan(x)) for x in stretches]
    return _Ends(np.array(low), np.array(high))
