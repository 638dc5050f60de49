"""What a ranking is worth, from a histogram of raw scores that is added up over parts.

A bin is 2**SHIFT neighbouring float32 numbers, 1/8192 of the score wide. How rows of one bin are
ranked is not known any more, so that a figure is a pair of bounds between which it certainly lies.
As in `lib.evaluation.metrics` a figure counts weight, unlabelled rows take no part, and where fraud
and genuine rows tie the genuine ones come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lib.data.datasets import Arrays

SHIFT = 10  # bits of a score that a bin leaves out
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
    bins : (k,) int32, ascending as the scores are
    mass : (k, MASSES) float64
    """

    bins: np.ndarray
    mass: np.ndarray

    @classmethod
    def empty(cls) -> Histogram:
        """Return the histogram of no rows."""
        return cls(np.empty(0, np.int32), np.empty((0, MASSES)))

    @classmethod
    def of(cls, raw: np.ndarray, data: Arrays) -> Histogram:
        """Return the histogram of rows with raw scores (n,), higher = more anomalous."""
        is_fraud = data.y == 1
        is_genuine = data.y == 0
        bins, place = np.unique(bin_of(raw), return_inverse=True)
        money = np.zeros(len(raw))
        if data.amount is not None:
            money = np.maximum(data.amount, 0.0)
        has_weight = data.weight > 0
        of_rows = (
            data.weight * is_genuine,
            data.weight * is_fraud,
            data.weight * money * is_fraud,
            is_fraud & has_weight,
        )
        mass = _added_up(place, np.stack(of_rows, axis=1), len(bins))
        is_used = mass.any(axis=1)
        return cls(bins[is_used], mass[is_used])

    def __add__(self, other: Histogram) -> Histogram:
        bins, place = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        return Histogram(bins, _added_up(place, np.concatenate([self.mass, other.mass]), len(bins)))

    def ranking(self) -> Ranking:
        """Return the masses from the highest bin down."""
        genuine, fraud, money, n_frauds = self.mass[::-1].T
        return Ranking(genuine, fraud, money, n_frauds)


def _added_up(place: np.ndarray, mass: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the sums (n_bins, MASSES) of mass (n, MASSES) at the same place (n,)."""
    added = np.empty((n_bins, MASSES))
    for column in range(MASSES):
        added[:, column] = np.bincount(place, mass[:, column], minlength=n_bins)
    return added


def bin_of(raw: np.ndarray) -> np.ndarray:
    """Return the bin (n,) int32 of raw scores (n,), which rises with the score.

    The bits of a float32 are ordered as the numbers are, once those of negative ones are turned
    round; -0.0, which equals 0.0, has bits of its own and is made 0.0 before.
    """
    bits = (np.asarray(raw, np.float32) + np.float32(0)).view(np.int32)
    ordered = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    return ordered >> SHIFT


@dataclass(frozen=True)
class Ranking:
    """Masses (k,) of bins from the highest down: weights, weighted money, number of frauds."""

    genuine: np.ndarray
    fraud: np.ndarray
    money: np.ndarray
    n_frauds: np.ndarray

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
                caught = self._caught(size)
                money = self._money_caught(size)
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
        from 0 to f give, and one fraud alone makes one step.
        """
        genuine, fraud = self._before()
        caught = fraud + self.fraud
        best = np.where(caught > 0, caught / (caught + genuine), 0.0)
        below = genuine + self.genuine
        one_step = self.fraud * caught / (caught + below)
        many_steps = self.fraud - below * np.log1p(self.fraud / (fraud + below))
        many_steps = np.where(below > 0, many_steps, self.fraud)
        worst = np.where(self.n_frauds == 1, one_step, many_steps)
        worst = np.where(self.fraud > 0, worst, 0.0)
        total = self.fraud.sum()
        return Bounds(worst.sum() / total, (self.fraud * best).sum() / total)

    def _caught(self, size: float) -> Bounds:
        """Return bounds of the fraud weight among the first `size` of the weight."""
        genuine, fraud = self._before()
        first = np.clip(size - genuine - fraud, 0.0, self.fraud)
        last = np.clip(size - genuine - self.genuine - fraud, 0.0, self.fraud)
        return Bounds(last.sum(), first.sum())

    def _money_caught(self, size: float) -> Bounds:
        """Return bounds of the money of those frauds: of the bin at the end, none or all of it."""
        genuine, fraud = self._before()
        is_reached = genuine + fraud < size
        is_passed = genuine + self.genuine + fraud + self.fraud <= size
        return Bounds(self.money[is_passed].sum(), self.money[is_reached].sum())
