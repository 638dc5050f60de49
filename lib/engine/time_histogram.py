"""Totals of a table over time, added up over parts, and where its periods are cut.

A bin is a power of two of seconds wide, the smallest with which the table has at most `MAX_BINS` of
them: widths that are halves of each other have edges in common, so that totals of parts are made
coarser without loss, and the result does not depend on the parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.data.description import UNLABELLED
from lib.errors import DataError

MAX_BINS = 16_384
FINEST = -20  # a microsecond, as a power of two of seconds
LARGEST = 2.0**52  # number of a bin that float64 still tells from the next
CLASSES = ("genuine", "fraud", "unlabelled")
PERIODS = ("reference", "validation", "untouched")
REFERENCE, VALIDATION = 0.5, 0.2  # shares of the weight, as notebook 02_split cuts by default


def class_of(y: np.ndarray) -> np.ndarray:
    """Return the place in `CLASSES` (n,) of labels y (n,)."""
    return np.where(y == UNLABELLED, 2, y).astype(np.int64)


@dataclass(frozen=True)
class TimeHistogram:
    """Rows and weight of each class in k bins of time.

    Parameters
    ----------
    power : bins are 2**power seconds wide
    bins : (k,) int64, ascending; bin i begins at i * 2**power seconds
    rows, weight : (k, 3) float64, a column for each of `CLASSES`
    """

    power: int
    bins: np.ndarray
    rows: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, time_s: np.ndarray, y: np.ndarray, weight: np.ndarray) -> TimeHistogram:
        """Return the histogram of rows with time_s, y and weight, each (n,)."""
        power = _power(float(time_s.min()), float(time_s.max()))
        number = np.floor(time_s / 2.0**power).astype(np.int64)
        bins, place = np.unique(number, return_inverse=True)
        n_classes = len(CLASSES)
        cell = place * n_classes + class_of(y)
        shape = (len(bins), n_classes)
        n_cells = len(bins) * n_classes
        rows = np.bincount(cell, minlength=n_cells).astype(np.float64)
        weights = np.bincount(cell, weight, minlength=n_cells)
        return cls(power, bins, rows.reshape(shape), weights.reshape(shape))

    def __add__(self, other: TimeHistogram) -> TimeHistogram:
        power = max(self.power, other.power)
        first, second = self.coarser(power), other.coarser(power)
        low = min(first.bins[0], second.bins[0]) * 2.0**power
        high = max(first.bins[-1], second.bins[-1]) * 2.0**power
        power = max(power, _power(low, high))
        first, second = first.coarser(power), second.coarser(power)
        return _added_up(
            power,
            np.concatenate([first.bins, second.bins]),
            np.concatenate([first.rows, second.rows]),
            np.concatenate([first.weight, second.weight]),
        )

    def coarser(self, power: int) -> TimeHistogram:
        """Return the same in bins of 2**power seconds, which are not finer than its own."""
        if power == self.power:
            return self
        bins = self.bins >> (power - self.power)
        return _added_up(power, bins, self.rows, self.weight)

    def cuts(self) -> tuple[float, float]:
        """Return when validation and untouched begin (s): edges of bins, nearest to their shares.

        Raises DataError where a period would have no weight.
        """
        before = np.concatenate([[0.0], np.cumsum(self.weight.sum(axis=1))])
        total = before[-1]
        if total <= 0:
            raise DataError("all weights of the table are 0")
        places = [
            int(np.argmin(np.abs(before - share * total)))
            for share in (REFERENCE, REFERENCE + VALIDATION)
        ]
        weights = np.diff(before[[0, *places, len(self.bins)]])
        if (weights <= 0).any():
            raise DataError(
                f"{len(self.bins):,} intervals of {2.0**self.power:g} s are too few to cut the "
                "table into reference, validation and untouched"
            )
        first, second = (float(self.bins[place] * 2.0**self.power) for place in places)
        return first, second

    def totals(self, cuts: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and weight of each period and class, (3, 3) each."""
        period = period_of(self.bins * 2.0**self.power, cuts)
        rows = np.zeros((len(PERIODS), len(CLASSES)))
        weight = np.zeros_like(rows)
        np.add.at(rows, period, self.rows)
        np.add.at(weight, period, self.weight)
        return rows, weight


def period_of(time_s: np.ndarray, cuts: tuple[float, float]) -> np.ndarray:
    """Return the place in `PERIODS` (n,) of times time_s (n,)."""
    return np.searchsorted(np.asarray(cuts), time_s, side="right")


def _power(low: float, high: float) -> int:
    """Return the finest power of two of seconds with which few bins go from `low` to `high`."""
    power = FINEST
    while True:
        first, last = np.floor(low / 2.0**power), np.floor(high / 2.0**power)
        is_exact = max(abs(first), abs(last)) < LARGEST
        if is_exact and last - first < MAX_BINS:
            return power
        power += 1


def _added_up(power: int, bins: np.ndarray, rows: np.ndarray, weight: np.ndarray) -> TimeHistogram:
    """Return a histogram in which every bin is there once."""
    found, place = np.unique(bins, return_inverse=True)
    sums = np.zeros((2, len(found), rows.shape[1]))
    np.add.at(sums[0], place, rows)
    np.add.at(sums[1], place, weight)
    return TimeHistogram(power, found, sums[0], sums[1])
