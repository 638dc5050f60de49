"""A checked frame's time as numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

PER_SECOND = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}


def ticks(time: pd.Series) -> np.ndarray:
    """Return time (n,) as exact comparable numbers: float64, or int64 of a datetime's own unit."""
    if pd.api.types.is_numeric_dtype(time):
        return time.to_numpy()
    return time.astype("int64").to_numpy()


def seconds(time: pd.Series) -> np.ndarray:
    """Return time (n,) as float64 seconds; since 1970-01-01 UTC where it is a date."""
    if pd.api.types.is_numeric_dtype(time):
        return np.asarray(time, np.float64)
    return ticks(time) / PER_SECOND[time.dt.unit]
