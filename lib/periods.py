"""Where the cuts between periods lie: shares of the weight, in time order, never within one instant."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from lib import rows
from lib.datasets import DataError, Dataset


def cut(dataset: Dataset, frame: pd.DataFrame, reference: float, validation: float, n_batches: int) -> dict:
    """Name of each period -> slice of rows; DataError where the shares or the rows do not allow it."""
    if not (reference > 0 and validation > 0 and reference + validation < 1):
        raise DataError(
            f"shares reference={reference:g} and validation={validation:g}: both are above 0, together below 1"
        )
    if n_batches < 1:
        raise DataError(f"n_batches is {n_batches}; it is 1 or more")
    time = rows.ticks(frame[dataset.time])
    weight = frame[dataset.weight].to_numpy() if dataset.weight else np.ones(len(frame))
    instants = np.flatnonzero(np.r_[True, time[1:] != time[:-1], True])  # first row of each instant, and the end
    ahead = np.r_[0, np.cumsum(weight)][instants]  # weight that lies before it

    def nearest(target):
        after = int(np.searchsorted(ahead, target).clip(1, len(ahead) - 1))
        return after - 1 if target - ahead[after - 1] <= ahead[after] - target else after

    first, second = (nearest(share * ahead[-1]) for share in (reference, reference + validation))
    rest = ahead[-1] - ahead[second]
    inner = [nearest(ahead[second] + k / n_batches * rest) for k in range(1, n_batches)]
    edges = [0, first, second, *inner, len(instants) - 1]
    batches = [f"batch_{k:02d}" for k in range(1, n_batches + 1)]
    for name, start, stop in zip(["reference", "validation", *batches], edges, edges[1:], strict=False):
        if ahead[stop] <= ahead[start]:
            raise DataError(
                f"{dataset.name}: {len(frame):,} rows at {len(instants) - 1:,} instants are too few: {name} would "
                f"be empty; use more rows, fewer batches (n_batches={n_batches}) or other shares"
            )
    at = [int(instants[edge]) for edge in edges]
    parts = dict(zip(batches, map(slice, at[2:], at[3:]), strict=False))
    main = {"reference": slice(at[0], at[1]), "validation": slice(at[1], at[2]), "untouched": slice(at[2], at[-1])}
    return main | parts


def summary(dataset: Dataset, frame: pd.DataFrame) -> dict:
    """What splits.json says of one period; frauds are None without labels."""
    arrays = dataset.arrays(frame)
    fraud = None if arrays.y is None else arrays.y == 1
    return {
        "n": len(frame),
        "n_frauds": None if fraud is None else int(fraud.sum()),
        "weight": float(arrays.weight.sum()),
        "fraud_weight": None if fraud is None else float(arrays.weight[fraud].sum()),
        "start_s": float(arrays.time_s[0]),
        "end_s": float(arrays.time_s[-1]),
    }


def remarks(periods: dict) -> list[str]:
    """Sentences on periods without a fraud, which are kept."""
    empty = [name for name, p in periods.items() if p["n_frauds"] == 0]
    return [f"{name} holds no fraud: its recall is null" for name in empty]


def table(manifest: dict) -> pd.DataFrame:
    """One row a period of splits.json, as text for people; shares and fraud rate are weighted."""
    periods, is_number = manifest["periods"], manifest["time"] == "seconds"
    total = sum(p["weight"] for name, p in periods.items() if not name.startswith("batch_"))

    def time(seconds):
        return f"{seconds:,.0f} s" if is_number else pd.Timestamp(seconds, unit="s").strftime("%Y-%m-%d %H:%M:%S")

    def row(name, n, n_frauds, weight, fraud_weight, start_s, end_s):
        return {
            "period": name,
            "from": time(start_s),
            "to": time(end_s),
            "transactions": f"{n:,}",
            "frauds": "unknown" if n_frauds is None else f"{n_frauds:,}",
            "weight": f"{weight:,.0f}",
            "share": f"{weight / total:.1%}",
            "fraud rate": "unknown" if n_frauds is None else f"{fraud_weight / weight:.3%}",
        }

    return pd.DataFrame([row(name, **period) for name, period in periods.items()])


def digest(frame: pd.DataFrame) -> str:
    """Hex sha256 of a frame's content, row by row."""
    return hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes()).hexdigest()
