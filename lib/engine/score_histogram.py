"""What a ranking is worth, from a histogram of raw scores that is added up over parts.

A bin is one float32 number or 2, 4, 8 … neighbouring ones: bins are joined by two whenever there
are more than MAX_BINS of them, so that small tables keep every score and large ones take no more
memory. The joining does not depend on the order of adding: what needs it in a part needs it in the
whole. (Metrics of OpenTelemetry do so with exponential histograms.)

How rows of one bin are ranked is not known any more, so that a figure is a pair of bounds between
which it certainly lies; where all of them have one and the same score, what ties cost is certain.
As in `lib.evaluation.metrics` a figure counts weight, unlabelled rows take no part, and where fraud
and genuine rows tie the genuine ones come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lib.data.datasets import Arrays

MAX_BINS = 1 << 16  # at 16 bytes each in a part's file
MASSES = 4  # weight of genuine rows, of frauds, of the frauds' money; number of frauds


@dataclass(frozen=True)
class Bounds:
    """Two numbers between which a figure lies."""

    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return what json.dumps takes; None where the figure is undefined."""
        pair = {"low": float(self.low), "high": float(self.high)}
        return {end: value if np.isfinite(value) else None for end, value in pair.items()}


@dataclass(frozen=True)
class Histogram:
    """Mass of labelled rows in k bins of raw score.

    Parameters
    ----------
    shift : a bin is 2**shift neighbouring float32 numbers
    bins : (k,) int32, ascending as the scores are
    mass : (k, MASSES) float64
    score : (k,) float32, the score of all rows of a bin; NaN where there are several
    """

    shift: int
    bins: np.ndarray
    mass: np.ndarray
    score: np.ndarray

    @classmethod
    def empty(cls) -> Histogram:
        """Return the histogram of no rows."""
        return cls(0, np.empty(0, np.int32), np.empty((0, MASSES)), np.empty(0, np.float32))

    @classmethod
    def of(cls, raw: np.ndarray, data: Arrays) -> Histogram:
        """Return the histogram of rows with raw scores (n,), higher = more anomalous.

        Scores are taken as float32, which graphs answer.
        """
        counts = (data.y >= 0) & (data.weight > 0)
        score = np.asarray(raw, np.float32)[counts]
        y, weight = data.y[counts], data.weight[counts]
        money = np.zeros(len(score))
        if data.amount is not None:
            money = np.maximum(data.amount[counts], 0.0)
        is_fraud = y == 1
        fraud = weight * is_fraud
        mass = np.stack([weight - fraud, fraud, fraud * money, is_fraud], axis=1)
        return cls(0, ordered(score), mass, score)._gathered()._small()

    def __add__(self, other: Histogram) -> Histogram:
        shift = max(self.shift, other.shift)
        pair = [each._joined(shift) for each in (self, other)]
        bins, mass, score = (
            np.concatenate([getattr(each, name) for each in pair])
            for name in ("bins", "mass", "score")
        )
        return Histogram(shift, bins, mass, score)._gathered()._small()

    def _small(self) -> Histogram:
        """Return it with bins joined until there are no more than MAX_BINS."""
        shift, bins = self.shift, self.bins
        while np.count_nonzero(np.diff(bins)) >= MAX_BINS:
            shift, bins = shift + 1, bins >> 1
        return self._joined(shift)

    def _joined(self, shift: int) -> Histogram:
        """Return it with wider bins."""
        if shift == self.shift:
            return self
        bins = self.bins >> (shift - self.shift)
        return Histogram(shift, bins, self.mass, self.score)._gathered()

    def _gathered(self) -> Histogram:
        """Return it with every bin once, in ascending order."""
        bins, place = np.unique(self.bins, return_inverse=True)
        mass = np.empty((len(bins), MASSES))
        for column in range(MASSES):
            mass[:, column] = np.bincount(place, self.mass[:, column], minlength=len(bins))
        least = np.full(len(bins), np.inf, np.float32)
        greatest = -least
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            np.minimum.at(least, place, self.score)
            np.maximum.at(greatest, place, self.score)
        return Histogram(self.shift, bins, mass, np.where(least == greatest, least, np.nan))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return arrays to store; most bins hold no fraud, and of these nothing is said of it."""
        place = np.flatnonzero(self.mass[:, 1:].any(axis=1))
        return {
            "shift": np.array(self.shift),
            "bins": self.bins,
            "score": self.score,
            "genuine": self.mass[:, 0],
            "place": place,
            "fraud": self.mass[place, 1:],
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Histogram:
        """Return what `to_arrays` has stored."""
        mass = np.zeros((len(arrays["bins"]), MASSES))
        mass[:, 0] = arrays["genuine"]
        mass[arrays["place"], 1:] = arrays["fraud"]
        return cls(int(arrays["shift"]), arrays["bins"], mass, arrays["score"])

    def ranking(self) -> Ranking:
        """Return the masses from the highest bin down."""
        genuine, fraud, money, n_frauds = self.mass[::-1].T
        is_tie = np.isfinite(self.score[::-1])
        return Ranking(genuine, fraud, money, n_frauds, is_tie)


def ordered(score: np.ndarray) -> np.ndarray:
    """Return int32 numbers (n,) that rise by one from a float32 to the next.

    The bits of a float32 are ordered as the numbers are, once those of negative ones are turned
    round; -0.0, which equals 0.0, has bits of its own and is made 0.0 before.
    """
    bits = (np.asarray(score, np.float32) + np.float32(0)).view(np.int32)
    return np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)


@dataclass(frozen=True)
class Ranking:
    """Masses (k,) of bins from the highest down: weights, weighted money, number of frauds.

    `is_tie` (k,) says which bins hold one score only.
    """

    genuine: np.ndarray
    fraud: np.ndarray
    money: np.ndarray
    n_frauds: np.ndarray
    is_tie: np.ndarray

    def figures(self, budgets: Mapping[str, float]) -> dict[str, Bounds]:
        """Return bounds of average precision and of the figures at budgets.

        Parameters
        ----------
        budgets : {suffix of a metric's name: alert budget}, see `lib.evaluation.metrics.Options`
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {"average_precision": self._average_precision()}
            for suffix, budget in budgets.items():
                size = budget * (self.genuine.sum() + self.fraud.sum())
                caught, money = self._caught(size)
                for name, pair, whole in (
                    ("recall_at_budget", caught, self.fraud.sum()),
                    ("precision_at_budget", caught, size),
                    ("amount_recall_at_budget", money, self.money.sum()),
                ):
                    found[name + suffix] = Bounds(pair.low / whole, pair.high / whole)
        return found

    def _before(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (k,) of genuine rows and of frauds in higher bins."""
        return np.cumsum(self.genuine) - self.genuine, np.cumsum(self.fraud) - self.fraud

    def _average_precision(self) -> Bounds:
        """Return bounds of the average precision.

        Within a bin, with F fraud weight and G genuine weight above it, f and g in it: no fraud has
        a higher precision than (F + f) / (F + f + G), which all have that tie above the genuine
        rows. The least is that of frauds one by one below them: with t of f behind it, a fraud has
        (F + t) / (F + t + G + g); the mean of that over t from 0 to f is less than what any steps
        from 0 to f give, and one fraud alone makes one step. So do frauds that tie, exactly.
        """
        genuine, fraud = self._before()
        caught = fraud + self.fraud
        best = np.where(caught > 0, caught / (caught + genuine), 0.0)
        below = genuine + self.genuine
        one_step = self.fraud * caught / (caught + below)
        many_steps = self.fraud - below * np.log1p(self.fraud / (fraud + below))
        many_steps = np.where(below > 0, many_steps, self.fraud)
        is_one_step = self.is_tie | (self.n_frauds == 1)
        worst = np.where(is_one_step, one_step, many_steps)
        worst = np.where(self.fraud > 0, worst, 0.0)
        best = np.where(self.is_tie, worst, self.fraud * best)
        total = self.fraud.sum()
        return Bounds(worst.sum() / total, best.sum() / total)

    def _caught(self, size: float) -> tuple[Bounds, Bounds]:
        """Return bounds of the fraud weight, and its money, among the first `size` of the weight.

        The last bin's frauds come before its genuine rows or behind them: behind them if all tie.
        Which of its frauds come first is as open, and with it whose money; ties share it evenly.
        """
        genuine, fraud = self._before()
        first = np.clip(size - genuine - fraud, 0.0, self.fraud)
        last = np.clip(size - genuine - self.genuine - fraud, 0.0, self.fraud)
        first = np.where(self.is_tie, last, first)
        share = np.where(self.fraud > 0, last / self.fraud, 0.0)
        none_or_all = [
            genuine + self.genuine + fraud + self.fraud <= size,
            genuine + fraud < size,
        ]
        least, most = (np.where(self.is_tie, share, each) * self.money for each in none_or_all)
        return Bounds(last.sum(), first.sum()), Bounds(least.sum(), most.sum())
