"""Compute histories for one transaction from an entity's earlier ones, as a server does.

The same statistics as `lib.data.histories` has in SQL for a whole table; tests hold them together.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lib.bundle.by_row import MICROSECONDS
from lib.bundle.recipe import OF_NUMBERS, SinceLast, Window

NEVER = -(2**63)  # an instant before all others


# lists, not arrays: most windows hold a few transactions, for which numpy's calls take longer
@dataclass(frozen=True, slots=True)
class Past:
    """Earlier transactions of one value of an entity, in the order of time.

    Attributes
    ----------
    t : n instants, microseconds since 1970-01-01 UTC, ascending
    numbers : {column: n numbers, None where missing}
    texts : {column: n texts, None where missing}
    fraud : n labels, 1 = fraud, 0 = genuine, None = not known (yet)
    last_t : the latest instant before the present one, even if it is not among `t`; `NEVER` if
        there is none
    """

    t: Sequence[int] = ()
    numbers: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    fraud: Sequence[int | None] = ()
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
    first = bisect_right(past.t, end - feature.within_s * MICROSECONDS)
    last = bisect_left(past.t, end) if is_present else bisect_right(past.t, end)
    if feature.statistic == "count":
        return float(last - first + is_present)
    if feature.statistic in OF_NUMBERS:
        values = _known(past.numbers.get(feature.column, ())[first:last])
        if is_present and not math.isnan(number):
            values.append(number)
        return _of_numbers(feature.statistic, values)
    if feature.statistic == "distinct":
        different = set(past.texts.get(feature.column, ())[first:last])
        if is_present:
            different.add(text)
        return float(len(different - {None}))
    known = _known(past.fraud[first:last])
    if feature.statistic == "fraud_count":
        return float(sum(known))
    return sum(known) / len(known) if known else 0.0


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _of_numbers(statistic: str, values: list[float]) -> float:
    """Return one of `OF_NUMBERS`; without any values, a sum is 0 and the rest is missing."""
    n = len(values)
    if statistic == "sum":
        return math.fsum(values)
    if n < (2 if statistic == "std" else 1):
        return math.nan
    if statistic == "max":
        return max(values)
    if statistic == "min":
        return min(values)
    mean = math.fsum(values) / n
    if statistic == "mean":
        return mean
    if min(values) == max(values):
        return 0.0  # whatever rounding would make of it
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
