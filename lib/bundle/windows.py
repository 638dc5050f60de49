"""Compute histories for one transaction from an entity's earlier ones, as a server does.

The same statistics as `lib.data.histories` has in SQL for a whole table; tests hold them together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.bundle.by_row import MICROSECONDS
from lib.bundle.recipe import OF_NUMBERS, SinceLast, Window

NOTHING = np.empty(0)
NEVER = -(2**63)  # an instant before all others


@dataclass(frozen=True)
class Past:
    """Earlier transactions of one value of an entity, in the order of time.

    Attributes
    ----------
    t : (n,) int64, microseconds since 1970-01-01 UTC, ascending
    numbers : {column: (n,) float64, NaN where missing}
    texts : {column: n texts, None where missing}
    fraud : (n,) float64, 1 = fraud, 0 = genuine, NaN = not known (yet)
    last_t : the latest instant before the present one, even if it is not among `t`; `NEVER` if
        there is none
    """

    t: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    fraud: np.ndarray = field(default_factory=lambda: np.empty(0))
    last_t: int = NEVER


def reach(features: Sequence[Window | SinceLast]) -> tuple[int, int]:
    """Return which earlier transactions windows cover: from how long ago, to how long ago.

    In microseconds; a transaction counts if its age is below the first and at least the second, or
    above 0 if that is 0. (0, 0) where there is no window.
    """
    oldest, newest = 0, None
    for feature in features:
        if isinstance(feature, Window):
            delay = (feature.delay_s or 0) * MICROSECONDS
            oldest = max(oldest, delay + feature.within_s * MICROSECONDS)
            newest = delay if newest is None else min(newest, delay)
    return oldest, newest or 0


def value(
    feature: Window | SinceLast,
    t: int,
    past: Past,
    number: float = math.nan,
    text: str | None = None,
) -> float:
    """Return a history's value for the transaction at the instant `t`; NaN where it is missing.

    Parameters
    ----------
    past : earlier transactions of its entity, at least those that `reach` says
    number, text : the present transaction's value of the column that the feature is of
    """
    if isinstance(feature, SinceLast):
        return math.nan if past.last_t == NEVER else (t - past.last_t) / MICROSECONDS
    is_present = feature.delay_s is None
    end = t if is_present else t - feature.delay_s * MICROSECONDS
    begin = end - feature.within_s * MICROSECONDS
    first = int(past.t.searchsorted(begin, "right"))
    last = int(past.t.searchsorted(end, "left" if is_present else "right"))
    if feature.statistic == "count":
        return float(last - first + is_present)
    if feature.statistic in OF_NUMBERS:
        values = past.numbers.get(feature.column, NOTHING)[first:last]
        values = values[~np.isnan(values)]
        if is_present and not math.isnan(number):
            values = np.append(values, number)
        return _of_numbers(feature.statistic, values)
    if feature.statistic == "distinct":
        different = set(past.texts.get(feature.column, ())[first:last])
        if is_present:
            different.add(text)
        return float(len(different - {None}))
    known = past.fraud[first:last]
    known = known[~np.isnan(known)]
    if feature.statistic == "fraud_count":
        return float(known.sum())
    return float(known.mean()) if len(known) else 0.0


def _of_numbers(statistic: str, values: np.ndarray) -> float:
    """Return one of `OF_NUMBERS` of values (n,); without any, a sum is 0 and the rest missing."""
    if statistic == "sum":
        return float(values.sum())
    if len(values) < (2 if statistic == "std" else 1):
        return math.nan
    if statistic == "std":
        if values.min() == values.max():
            return 0.0  # whatever rounding would make of it
        return float(values.std(ddof=1))
    if statistic == "mean":
        return float(values.mean())
    return float(values.max() if statistic == "max" else values.min())
