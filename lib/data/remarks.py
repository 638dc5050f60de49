"""What is only worth knowing about a checked table: sentences, none of which stops it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib.bundle.raw import UNITS
from lib.data.description import UNLABELLED
from lib.errors import printable

if TYPE_CHECKING:
    from lib.data.datasets import Dataset

FIFTY_YEARS_S = 50 * 365.25 * 86_400
YEARS = (1990, 2049)
DATES_S = (6.3e8, 2.5e9)  # seconds since 1970 in these years
SHORT = 1 / 20  # of the time since 1970: what a table covers, unless it counts from its own start
WRITTEN = ("%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S")  # dates without anything between their digits
N_LOOKED_AT = 1000
THREE_HOURS_S = 10_800
N_SHOWN = 10
NO_TIME = (
    "there is no time: the order of the rows stands for it, and had better be the order of time"
)


def remarks(dataset: Dataset, frame: pd.DataFrame, columns_there: set[str]) -> list[str]:
    """Return sentences on what is kept as it is: extra columns, missing cells, duplicates, times.

    Parameters
    ----------
    columns_there : the names of all columns of the table
    """
    said = _on_columns(dataset, columns_there)
    said += _on_missing_cells(dataset, frame)
    if dataset.label is not None and dataset.label in frame.columns:
        n_unknown = int((frame[dataset.label] == UNLABELLED).sum())
        if n_unknown:
            said.append(f"unlabelled rows, in no metric: {n_unknown:,} of {len(frame):,}")
    said += _on_time(dataset, frame)
    own = [column for column in frame.columns if column in columns_there]
    hashes = pd.util.hash_pandas_object(frame[own], index=False)
    n_duplicates = int(hashes.duplicated().sum())
    if n_duplicates:
        said.append(f"rows that repeat an earlier row and are kept: {n_duplicates:,}")
    return said


def _on_columns(dataset: Dataset, columns_there: set[str]) -> list[str]:
    """Return remarks on columns that are too many, and on a weight that is not there."""
    said = []
    extra = sorted(columns_there - set(dataset.columns))
    if extra:
        names = [printable(name) for name in extra[:N_SHOWN]]
        if len(extra) > N_SHOWN:
            names.append("…")
        listed = ", ".join(names)
        what = "columns that are not in the description and are ignored"
        said.append(f"{what} ({len(extra)}): {listed}")
    if dataset.weight is not None and dataset.weight not in columns_there:
        said.append(f"there is no column {dataset.weight!r}: every row weighs 1")
    return said


def _on_missing_cells(dataset: Dataset, frame: pd.DataFrame) -> list[str]:
    said = []
    measured = list(dataset.plain_features)
    if dataset.amount is not None:
        measured.append(dataset.amount)
    for column in dict.fromkeys(measured):
        n_missing = int(frame[column].isna().sum())
        if n_missing == len(frame):
            said.append(f"column {column!r} is empty: it stays a constant")
        elif n_missing:
            said.append(f"cells of column {column!r} for which the median stands in: {n_missing:,}")
    return said


def _on_time(dataset: Dataset, frame: pd.DataFrame) -> list[str]:
    """Return what makes a time that is a number implausible as seconds."""
    if dataset.time is None:
        return [NO_TIME]
    time = frame[dataset.time_column]
    if dataset.time_unit is not None or not pd.api.types.is_numeric_dtype(time):
        return []
    instants = time.to_numpy(np.float64)
    taken = f"{dataset.time!r} is taken as seconds and"
    pattern = _pattern(instants)
    if pattern is not None:
        return [
            f"{taken} looks like dates in digits; if so, say it with `time_format: '{pattern}'`"
        ]
    unit = _unit_since_1970(instants)
    if unit == "s":
        return []
    if unit is not None:
        return [f"{taken} looks like {unit} since 1970; if so, say it with `time_unit: {unit}`"]
    why = _odd_as_seconds(instants)
    if why is None:
        return []
    return [
        f"{taken} {why}; if its unit is another, say so with `time_unit` (ms, us, ns, min, h or d)"
    ]


def _pattern(time: np.ndarray) -> str | None:
    """Return the pattern by which times (n,) would all be dates of our days, such as 20240131."""
    digits = [f"{instant:.15g}" for instant in time[:N_LOOKED_AT]]
    for pattern in WRITTEN:
        dates = pd.to_datetime(digits, format=pattern, errors="coerce")
        if np.all((dates.year >= YEARS[0]) & (dates.year <= YEARS[1])):
            return pattern
    return None


def _unit_since_1970(time: np.ndarray) -> str | None:
    """Return the unit in which times (n,) would all be dates of our days."""
    earliest, latest = DATES_S
    for unit, seconds in UNITS.items():
        first = time.min() * seconds
        last = time.max() * seconds
        if earliest <= first and last <= latest and last - first <= SHORT * first:
            return unit
    return None


def _odd_as_seconds(time: np.ndarray) -> str | None:
    """Return what is odd about times (n,) if they are seconds."""
    instants = np.unique(time)
    n_instants = len(instants)
    if n_instants < 2:
        return None
    span_s = instants[-1] - instants[0]
    n_an_hour = 3600 * n_instants / span_s
    n_a_second = len(time) / span_s
    if span_s > FIFTY_YEARS_S:
        return f"spans {span_s / FIFTY_YEARS_S * 50:,.0f} years"
    if np.all(np.diff(instants) % 1000 == 0):
        return "has steps of whole thousands only"
    if n_an_hour < 10:
        return f"has {n_an_hour:.2g} distinct values an hour"
    if n_a_second >= 20 or (n_a_second >= 2 and span_s < THREE_HOURS_S):
        return f"has {n_a_second:,.0f} rows a second over {span_s:,.0f} seconds"
    return None
