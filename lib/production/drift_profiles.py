"""The two distributions behind a flag, small enough for a report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.production import drift_categories
from lib.production.drift_categories import Values
from lib.production.drift_statistics import Sample

N_BINS = 24
TAIL = 0.01  # share of weight at each end that the outermost bins hold together
N_VALUES = 8  # of a category, those that have moved most


@dataclass(frozen=True)
class Profile:
    """Shares of weight in the reference window, as matched to the batch, and in the batch.

    edges : of the bins, one more than there are; the first and the last take in all beyond. None
        for a category
    values : the words for a category's values; None for numbers
    reference, current : shares, 0 to 1
    """

    reference: tuple[float, ...]
    current: tuple[float, ...]
    edges: tuple[float, ...] | None = None
    values: tuple[str, ...] | None = None


def of_numbers(reference: Sample, current: Sample) -> Profile | None:
    """Return the shares in bins of equal width; None where one of the two has no values."""
    known, now = reference.known(), current.known()
    if not known.weight.any() or not now.weight.any():
        return None
    ends = np.array([_ends(known), _ends(now)])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    if low == high:
        # a constant: it is in the middle
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, N_BINS + 1)
    return Profile(
        reference=tuple(known.shares(edges[1:-1]).tolist()),
        current=tuple(now.shares(edges[1:-1]).tolist()),
        edges=tuple(edges.tolist()),
    )


def _ends(sample: Sample) -> tuple[float, float]:
    """Return the values between which nearly all weight lies."""
    order = np.argsort(sample.values)
    cumulated = np.cumsum(sample.weight[order]) / sample.weight.sum()
    low, high = np.searchsorted(cumulated, [TAIL, 1 - TAIL])
    values = sample.values[order]
    return float(values[low]), float(values[min(high, len(values) - 1)])


def of_category(values: Values, reference: Sample, current: Sample) -> Profile | None:
    """Return the shares of the values that have moved most; None where one of the two has none."""
    known, now = reference.known(), current.known()
    if not known.weight.any() or not now.weight.any():
        return None
    before = drift_categories.shares(values, known)
    after = drift_categories.shares(values, now)
    most_first = np.argsort(-np.abs(after - before), kind="stable")
    is_there = (before > 0) | (after > 0)
    shown = [code for code in most_first if is_there[code]][:N_VALUES]
    return Profile(
        reference=tuple(before[shown].tolist()),
        current=tuple(after[shown].tolist()),
        values=tuple(values.word(code) for code in shown),
    )
