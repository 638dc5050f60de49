"""Where the cuts between periods lie: shares of the weight, in time order, never within one
instant.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.data.datasets import UNLABELLED, Dataset
from lib.data.times import ticks
from lib.errors import DataError


@dataclass(frozen=True)
class Instants:
    """The distinct times of a table of n rows; cuts lie between two of them.

    Attributes
    ----------
    row : ndarray of shape (k + 1,), int
        First row of each of the k instants, then n.
    weight_before : ndarray of shape (k + 1,), float64
        Weight of all rows before that row.
    """

    row: NDArray
    weight_before: NDArray

    @classmethod
    def of(cls, time: NDArray, weight: NDArray) -> Instants:
        """Find the instants of time (n,), ascending, and weight (n,)."""
        n = len(time)
        later = time[1:] != time[:-1]
        is_first = np.ones(n + 1, dtype=bool)  # the first row, and the end
        is_first[1:n] = later
        row = np.flatnonzero(is_first)
        up_to_row = np.cumsum(weight)
        cumulative = np.append(0, up_to_row)
        return cls(row, cumulative[row])

    @property
    def total(self) -> float:
        """Weight of all rows."""
        return self.weight_before[-1]

    def nearest(self, target: float) -> int:
        """Position of the cut whose weight before it is nearest to `target`, the earlier of two."""
        last = len(self.weight_before) - 1
        after = int(np.searchsorted(self.weight_before, target))
        after = min(max(after, 1), last)
        before = after - 1
        too_little = target - self.weight_before[before]
        too_much = self.weight_before[after] - target
        return before if too_little <= too_much else after


def cut(
    dataset: Dataset,
    frame: pd.DataFrame,
    reference: float,
    validation: float,
    n_batches: int,
) -> dict[str, slice]:
    """Cut a table, in time order, into periods by shares of its weight.

    Parameters
    ----------
    dataset : Dataset
    frame : DataFrame of n rows, ascending in time
    reference, validation : float
        Shares of the weight; the rest is the period `untouched`.
    n_batches : int
        Parts of equal weight of `untouched`.

    Returns
    -------
    dict of slice
        Rows of `reference`, `validation`, `untouched` and each batch of it.

    Raises
    ------
    DataError
        If the shares or the rows do not allow it.
    """
    _check_shares(reference, validation, n_batches)
    time_column = frame[dataset.time_column]
    time = ticks(time_column)
    weight = np.ones(len(frame))
    if dataset.weight:
        weight = frame[dataset.weight].to_numpy()
    instants = Instants.of(time, weight)
    edges = _edges(instants, reference, validation, n_batches)
    names = ["reference", "validation"]
    for k in range(1, n_batches + 1):
        names.append(f"batch_{k:02d}")
    for name, (start, stop) in zip(names, pairwise(edges), strict=True):
        if instants.weight_before[stop] <= instants.weight_before[start]:
            n_instants = len(instants.row) - 1
            raise DataError(
                f"{dataset.name}: {len(frame):,} rows at {n_instants:,} instants "
                f"are too few: {name} would be empty; "
                f"use more rows, fewer batches (n_batches={n_batches}) or other shares"
            )
    rows = instants.row[edges].tolist()
    parts = [slice(start, stop) for start, stop in pairwise(rows)]
    by_name = dict(zip(names, parts, strict=True))
    untouched_starts = rows[2]
    return {
        "reference": by_name.pop("reference"),
        "validation": by_name.pop("validation"),
        "untouched": slice(untouched_starts, rows[-1]),
        **by_name,
    }


def _check_shares(reference, validation, n_batches):
    """Raise DataError unless both shares leave something, and something is left for batches."""
    both = reference + validation
    if not (reference > 0 and validation > 0 and both < 1):
        raise DataError(
            f"shares reference={reference:g} and validation={validation:g}: both are above 0, "
            "together below 1"
        )
    if n_batches < 1:
        raise DataError(f"n_batches is {n_batches}; it is 1 or more")


def _edges(instants, reference, validation, n_batches):
    """Positions among the instants of all edges: reference, validation, each batch, the end."""
    total = instants.total
    both = reference + validation
    first = instants.nearest(reference * total)
    second = instants.nearest(both * total)
    # from where the cut really lies: batches share evenly what is left
    begins = instants.weight_before[second]
    rest = total - begins
    inner = []
    for k in range(1, n_batches):
        target = begins + k / n_batches * rest
        inner.append(instants.nearest(target))
    last = len(instants.row) - 1
    return [0, first, second, *inner, last]


def summary(dataset: Dataset, frame: pd.DataFrame) -> dict:
    """What splits.json says of one period; frauds are None without labels."""
    arrays = dataset.arrays(frame)
    weight = arrays.weight
    fraud = arrays.y == 1
    known = arrays.y != UNLABELLED
    n_frauds = None
    fraud_weight = None
    if known.any():
        n_frauds = int(fraud.sum())
        fraud_weight = float(weight[fraud].sum())
    return {
        "n": len(frame),
        "n_labelled": int(known.sum()),
        "n_frauds": n_frauds,
        "weight": float(weight.sum()),
        "labelled_weight": float(weight[known].sum()),
        "fraud_weight": fraud_weight,
        "start_s": float(arrays.time_s[0]),
        "end_s": float(arrays.time_s[-1]),
    }


def remarks(periods: dict) -> list[str]:
    """Return sentences on periods that are labelled and hold no fraud; they are kept."""
    said = []
    for name, period in periods.items():
        if period["n_frauds"] != 0:
            continue
        what = "its recall is null"
        if name == "validation":
            what = (
                "nothing can be compared on it, and nobody will have judged the model that is "
                "chosen; a larger share may hold some"
            )
        said.append(f"{name} holds no fraud: {what}")
    return said


def table(manifest: dict) -> pd.DataFrame:
    """One row a period of splits.json, as text for people; shares and fraud rate are weighted."""
    periods = manifest["periods"]
    kind = manifest["time"]
    total = 0.0
    for name, period in periods.items():
        if not name.startswith("batch_"):  # a batch is a part of untouched
            total += period["weight"]
    has_unlabelled = any(period["n_labelled"] < period["n"] for period in periods.values())
    rows_of_table = []
    for name, period in periods.items():
        row = {
            "period": name,
            "from": instant(period["start_s"], kind),
            "to": instant(period["end_s"], kind),
            "transactions": f"{period['n']:,}",
        }
        if has_unlabelled:
            row["labelled"] = f"{period['n_labelled']:,}"
        weight = period["weight"]
        share = weight / total
        row["frauds"] = "unknown"
        row["weight"] = f"{weight:,.0f}"
        row["share"] = f"{share:.1%}"
        row["fraud rate"] = "unknown"
        if period["n_frauds"] is not None:
            row["frauds"] = f"{period['n_frauds']:,}"
            row["fraud rate"] = _fraud_rate(period)
        rows_of_table.append(row)
    return pd.DataFrame(rows_of_table)


def _fraud_rate(period: dict) -> str:
    """Share of the labelled weight that is fraud, as text."""
    labelled = period["labelled_weight"]
    if labelled == 0:
        return "0.000%"
    rate = period["fraud_weight"] / labelled
    return f"{rate:.3%}"


def instant(seconds: float, kind: str) -> str:
    """A time of a split as people read it; kind: `seconds`, `datetime`, or `rows` for a table
    without one.
    """
    if kind == "rows":
        return f"row {seconds:,.0f}"
    if kind == "seconds":
        return f"{seconds:,.0f} s"
    moment = pd.Timestamp(seconds, unit="s")
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def day_and_time(seconds: float) -> str:
    """Return seconds since the first midnight as people read them: `day 2, 08:04`.

    Numbers beyond ten years are no count of days that anybody follows: they stay seconds.
    """
    days, rest = divmod(int(seconds), 86_400)
    if not 0 <= days < 3_650:
        return f"{seconds:,.0f} s"
    return f"day {days + 1:,}, {rest // 3_600:02d}:{rest % 3_600 // 60:02d}"


def digest(frame: pd.DataFrame) -> str:
    """Hex sha256 of a frame's content, row by row."""
    row_hashes = pd.util.hash_pandas_object(frame, index=False)
    content = row_hashes.to_numpy().tobytes()
    return hashlib.sha256(content).hexdigest()
