"""Derive what a row tells by itself: parts of its time, distances, ratios and differences.

The one definition for tables (`lib.data.features`) and for what a server is sent
(`lib.bundle.raw`); times are whole microseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from lib.bundle.manifest import FLOAT32_MAX
from lib.bundle.recipe import NIGHT_ENDS

MICROSECONDS = 1_000_000  # in a second
EARTH_KM = 6371.0088  # mean radius (IUGG)
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
THURSDAY = 3  # the first day, 1970-01-01, where Monday is 0


def calendar(part: str, t: np.ndarray, timezone: str | None) -> np.ndarray:
    """Return a part of each time, float64 (n,).

    Parameters
    ----------
    part : one of `lib.bundle.recipe.PARTS`
    t : (n,) int64, microseconds
    timezone : whose clocks count, such as Europe/Paris; None: UTC
    """
    local_s = t // MICROSECONDS
    if timezone not in (None, "UTC"):
        local_s = local_s + _offsets_s(local_s, ZoneInfo(timezone))
    hour = local_s % DAY_S // HOUR_S
    day_of_week = (local_s // DAY_S + THURSDAY) % 7
    values = {
        "hour_of_day": hour,
        "day_of_week": day_of_week,
        "is_night": hour < NIGHT_ENDS,
        "is_weekend": day_of_week >= 5,
    }[part]
    return values.astype(np.float64)


def _offsets_s(t_s: np.ndarray, zone: ZoneInfo) -> np.ndarray:
    """Return how far local clocks are ahead of UTC (n,), in seconds.

    Clocks have changed at full minutes only since 1972, so that each minute is looked up once.
    """
    minutes, places = np.unique(t_s // MINUTE_S, return_inverse=True)
    offsets = []
    for minute in minutes.tolist():
        local = datetime.fromtimestamp(minute * MINUTE_S, UTC).astimezone(zone)
        offsets.append(int(local.utcoffset().total_seconds()))
    return np.array(offsets, np.int64)[places]


def distance_km(
    lat: np.ndarray, long: np.ndarray, to_lat: np.ndarray, to_long: np.ndarray
) -> np.ndarray:
    """Return the great-circle distance (n,) of places in degrees (haversine formula)."""
    lat, long, to_lat, to_long = (np.radians(degrees) for degrees in (lat, long, to_lat, to_long))
    of_lat = np.sin((to_lat - lat) / 2) ** 2
    of_long = np.sin((to_long - long) / 2) ** 2
    half_chord = np.sqrt(of_lat + np.cos(lat) * np.cos(to_lat) * of_long)
    return 2 * EARTH_KM * np.arcsin(np.minimum(half_chord, 1))


def arithmetic(operation: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return a ratio or a difference (n,) of float64; a ratio by 0 is missing, NaN."""
    if operation == "difference":
        return left - right
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(right == 0, np.nan, left / right)


def usable(values: np.ndarray) -> np.ndarray:
    """Return values (n,) with NaN for what models cannot take: infinite or beyond float32."""
    return np.where(np.abs(values) <= FLOAT32_MAX, values, np.nan)
