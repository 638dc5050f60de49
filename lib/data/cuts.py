"""Where the cuts between periods lie: shares of the weight, in time order, never within one
instant.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from lib.data.datasets import UNLABELLED, Dataset
from lib.data.times import ticks
from lib.errors import DataError


def cut(
    dataset: Dataset, frame: pd.DataFrame, reference: float, validation: float, n_batches: int
) -> dict:
    """Name of each period -> slice of rows; DataError where the shares or the rows do not allow
    it.
    """
    if not (reference > 0 and validation > 0 and reference + validation < 1):
        raise DataError(
            f"shares reference={reference:g} and validation={validation:g}: both are above 0, "
            "together below 1"
        )
    if n_batches < 1:
        raise DataError(f"n_batches is {n_batches}; it is 1 or more")
    time = ticks(frame[dataset.time_column])
    weight = frame[dataset.weight].to_numpy() if dataset.weight else np.ones(len(frame))
    # first row of each instant, and the end
    instants = np.flatnonzero(np.r_[True, time[1:] != time[:-1], True])
    ahead = np.r_[0, np.cumsum(weight)][instants]  # weight that lies before it

    def nearest(target):
        after = int(np.searchsorted(ahead, target).clip(1, len(ahead) - 1))
        return after - 1 if target - ahead[after - 1] <= ahead[after] - target else after

    first, second = (nearest(share * ahead[-1]) for share in (reference, reference + validation))
    rest = ahead[-1] - ahead[second]
    inner = [nearest(ahead[second] + k / n_batches * rest) for k in range(1, n_batches)]
    edges = [0, first, second, *inner, len(instants) - 1]
    batches = [f"batch_{k:02d}" for k in range(1, n_batches + 1)]
    for name, start, stop in zip(
        ["reference", "validation", *batches], edges, edges[1:], strict=False
    ):
        if ahead[stop] <= ahead[start]:
            raise DataError(
                f"{dataset.name}: {len(frame):,} rows at {len(instants) - 1:,} instants are too "
                f"few: {name} would "
                f"be empty; use more rows, fewer batches (n_batches={n_batches}) or other shares"
            )
    at = [int(instants[edge]) for edge in edges]
    parts = dict(zip(batches, map(slice, at[2:], at[3:]), strict=False))
    main = {
        "reference": slice(at[0], at[1]),
        "validation": slice(at[1], at[2]),
        "untouched": slice(at[2], at[-1]),
    }
    return main | parts


def summary(dataset: Dataset, frame: pd.DataFrame) -> dict:
    """What splits.json says of one period; frauds are None without labels."""
    arrays = dataset.arrays(frame)
    fraud, known = arrays.y == 1, arrays.y != UNLABELLED
    return {
        "n": len(frame),
        "n_labelled": int(known.sum()),
        "n_frauds": int(fraud.sum()) if known.any() else None,
        "weight": float(arrays.weight.sum()),
        "labelled_weight": float(arrays.weight[known].sum()),
        "fraud_weight": float(arrays.weight[fraud].sum()) if known.any() else None,
        "start_s": float(arrays.time_s[0]),
        "end_s": float(arrays.time_s[-1]),
    }


def remarks(periods: dict) -> list[str]:
    """Sentences on periods without a fraud, which are kept."""
    empty = [name for name, p in periods.items() if p["n_frauds"] == 0]
    return [f"{name} holds no fraud: its recall is null" for name in empty]


def table(manifest: dict) -> pd.DataFrame:
    """One row a period of splits.json, as text for people; shares and fraud rate are weighted."""
    periods = manifest["periods"]
    total = sum(p["weight"] for name, p in periods.items() if not name.startswith("batch_"))
    has_unlabelled = any(p["n_labelled"] < p["n"] for p in periods.values())
    rows_of_table = []
    for name, period in periods.items():
        row = {
            "period": name,
            "from": _instant(period["start_s"], manifest["time"]),
            "to": _instant(period["end_s"], manifest["time"]),
            "transactions": f"{period['n']:,}",
        }
        if has_unlabelled:
            row["labelled"] = f"{period['n_labelled']:,}"
        is_known = period["n_frauds"] is not None
        row |= {
            "frauds": f"{period['n_frauds']:,}" if is_known else "unknown",
            "weight": f"{period['weight']:,.0f}",
            "share": f"{period['weight'] / total:.1%}",
            "fraud rate": _fraud_rate(period) if is_known else "unknown",
        }
        rows_of_table.append(row)
    return pd.DataFrame(rows_of_table)


def _fraud_rate(period: dict) -> str:
    """Share of the labelled weight that is fraud, as text."""
    return f"{period['fraud_weight'] / (period['labelled_weight'] or 1):.3%}"


def _instant(seconds: float, kind: str) -> str:
    """A time of a split as people read it; kind: `seconds`, `datetime`, or `rows` for a table
    without one.
    """
    if kind == "rows":
        return f"row {seconds:,.0f}"
    if kind == "seconds":
        return f"{seconds:,.0f} s"
    return pd.Timestamp(seconds, unit="s").strftime("%Y-%m-%d %H:%M:%S")


def digest(frame: pd.DataFrame) -> str:
    """Hex sha256 of a frame's content, row by row."""
    return hashlib.sha256(
        pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes()
    ).hexdigest()
