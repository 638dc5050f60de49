"""Compute histories of entities in DuckDB, as SQL that a warehouse understands, too.

Time is a whole number of microseconds, so that windows begin and end exactly: (t − within, t) is
what lies between `within − 1` and 1 of them before. Transactions of one instant do not see each
other, so the windows end before the present one, which each statistic adds by itself.
`lib.bundle.windows` computes the same for one transaction.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lib.bundle.by_row import MICROSECONDS
from lib.bundle.recipe import OF_LABELS, OF_NUMBERS, SinceLast, Window

MEMORY_LIMIT = "1GB"  # of the computation for one entity; beyond it DuckDB uses the disk
# one thread for an entity: the order in which threads meet would change the last bits of sums
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "memory_limit": MEMORY_LIMIT,
}
TABLE = "transactions"


@dataclass(frozen=True)
class Rows:
    """What histories need of n transactions.

    Attributes
    ----------
    t : (n,) int64, microseconds
    texts : {column: (n,) int64 codes of its values; a missing one has a code below 0 of its own}
    numbers : {column: (n,) float64, NaN where missing}
    fraud : (n,) float64, 1 = fraud, 0 = genuine, NaN = not known
    """

    t: np.ndarray
    texts: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray]
    fraud: np.ndarray


def compute(
    features: Sequence[Window | SinceLast], rows: Rows, threads: int = 2
) -> dict[str, np.ndarray]:
    """Return the values (n,) float64 of each feature by its name; NaN where it is missing.

    Parameters
    ----------
    threads : entities that are computed side by side
    """
    entities = dict.fromkeys(feature.entity for feature in features)
    shares = [[f for f in features if f.entity == entity] for entity in entities]
    found: dict[str, np.ndarray] = {}
    with ThreadPoolExecutor(threads) as pool:
        for columns in pool.map(lambda share: _of_entity(share, rows), shares):
            found |= columns
    return found


def _of_entity(features: Sequence[Window | SinceLast], rows: Rows) -> dict[str, np.ndarray]:
    """Return the values of features that share their entity."""
    import duckdb  # only here: a table without histories does without it

    n = len(rows.t)
    query = sql(features)
    with tempfile.TemporaryDirectory() as folder:
        settings = {**SETTINGS, "temp_directory": folder}
        with duckdb.connect(config=settings) as connection:
            connection.register(TABLE, _table(features, rows))
            answer = connection.execute(query).fetchnumpy()
    place = answer.pop("row_number")
    found = {}
    for position, feature in enumerate(features):
        values = answer.pop(f"feature_{position}")
        column = np.empty(n)
        column[place] = np.ma.filled(np.ma.asarray(values, np.float64), np.nan)
        found[feature.name] = column
    return found


def _table(features: Sequence[Window | SinceLast], rows: Rows) -> pa.Table:
    """Return the columns that the query reads."""
    columns = {
        "row_number": pa.array(np.arange(len(rows.t))),
        "t": pa.array(rows.t - rows.t.min()),
        "entity": pa.array(rows.texts[features[0].entity]),
    }
    for name, column in _used(features, OF_NUMBERS).items():
        columns[name] = pa.array(rows.numbers[column], from_pandas=True)
    for name, column in _used(features, ("distinct",)).items():
        codes = rows.texts[column]
        columns[name] = pa.array(codes, mask=codes < 0)
    if any(isinstance(f, Window) and f.statistic in OF_LABELS for f in features):
        columns["fraud"] = pa.array(rows.fraud, from_pandas=True)
    return pa.table(columns)


def _used(features: Iterable[Window | SinceLast], statistics: Sequence[str]) -> dict[str, str]:
    """Return the columns that some statistics are of: {name in the query: column}."""
    used = [
        feature.column
        for feature in features
        if isinstance(feature, Window) and feature.statistic in statistics
    ]
    prefix = "text" if "distinct" in statistics else "number"
    return {f"{prefix}_{place}": str(c) for place, c in enumerate(dict.fromkeys(used))}


def sql(features: Sequence[Window | SinceLast]) -> str:
    """Return the query of features that share their entity.

    It reads `transactions` (row_number, t, entity, fraud, number_0, …, text_0, …) and answers with
    row_number, feature_0, …
    """
    names = {}
    for statistics in (OF_NUMBERS, ("distinct",)):
        for name, column in _used(features, statistics).items():
            names[statistics == OF_NUMBERS, column] = name
    selected = ["row_number"]
    windows: dict[str, str] = {}  # definition -> name
    for position, feature in enumerate(features):
        if isinstance(feature, SinceLast):
            frame = "RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
            window = _window(windows, "entity", frame)
            expression = f"(t - max(t) OVER {window}) / {MICROSECONDS}.0"
        else:
            of = names.get((feature.statistic in OF_NUMBERS, feature.column), "")
            expression = _expression(feature, of, windows)
        selected.append(f"{expression} AS feature_{position}")
    defined = [f"{name} AS ({definition})" for definition, name in windows.items()]
    columns = ",\n  ".join(selected)
    return f"SELECT {columns}\nFROM {TABLE}\nWINDOW " + ",\n  ".join(defined)


def _window(windows: dict[str, str], partition: str, frame: str) -> str:
    """Return the name of a window, which is added if it is not there."""
    definition = f"PARTITION BY {partition} ORDER BY t {frame}"
    return windows.setdefault(definition, f"w{len(windows)}")


def _expression(feature: Window, of: str, windows: dict[str, str]) -> str:
    """Return the SQL of one statistic.

    Parameters
    ----------
    of : the column of the query that it is of
    """
    within = feature.within_s * MICROSECONDS
    if feature.delay_s is not None:
        delay = feature.delay_s * MICROSECONDS
        frame = f"RANGE BETWEEN {delay + within - 1} PRECEDING AND {delay} PRECEDING"
        window = _window(windows, "entity", frame)
        return _past(feature.statistic, of, window)
    frame = f"RANGE BETWEEN {within - 1} PRECEDING AND 1 PRECEDING"
    window = _window(windows, "entity", frame)
    if feature.statistic == "distinct":
        same = _window(windows, f"entity, {of}", frame)
        is_new = f"CASE WHEN {of} IS NULL OR count(*) OVER {same} > 0 THEN 0 ELSE 1 END"
        return f"count(DISTINCT {of}) OVER {window} + {is_new}"
    return _with_present(feature.statistic, of, window)


def _past(statistic: str, x: str, w: str) -> str:
    """Return a statistic of window `w`, which does not cover the present transaction."""
    # equal values deviate by nothing, whatever rounding makes of it
    differ = f"CASE WHEN min({x}) OVER {w} = max({x}) OVER {w} THEN 0 ELSE 1 END"
    return {
        "count": f"count(*) OVER {w}",
        "sum": f"coalesce(sum({x}) OVER {w}, 0)",
        "mean": f"avg({x}) OVER {w}",
        "max": f"max({x}) OVER {w}",
        "min": f"min({x}) OVER {w}",
        "std": f"{differ} * stddev_samp({x}) OVER {w}",
        "distinct": f"count(DISTINCT {x}) OVER {w}",
        "fraud_count": f"coalesce(sum(fraud) OVER {w}, 0)",
        "fraud_rate": f"coalesce(sum(fraud) OVER {w} / nullif(count(fraud) OVER {w}, 0), 0)",
    }[statistic]


def _with_present(statistic: str, x: str, w: str) -> str:
    """Return a statistic of window `w`, which ends before the present one, and the present one.

    The variance of n values and one more: Welford, *Note on a method for calculating corrected sums
    of squares and products*, Technometrics 4 (1962).
    """
    total = f"coalesce(sum({x}) OVER {w}, 0) + coalesce({x}, 0)"
    n = f"count({x}) OVER {w} + CASE WHEN {x} IS NULL THEN 0 ELSE 1 END"
    highest, lowest = f"max({x}) OVER {w}", f"min({x}) OVER {w}"
    greatest = f"coalesce(greatest({highest}, {x}), {highest}, {x})"
    least = f"coalesce(least({lowest}, {x}), {lowest}, {x})"
    squared = f"({x} - avg({x}) OVER {w}) * ({x} - avg({x}) OVER {w})"
    # equal values deviate by nothing, whatever rounding makes of it
    differ = f"CASE WHEN {least} = {greatest} THEN 0 ELSE 1 END"
    deviation = f"{differ} * sqrt(var_pop({x}) OVER {w} + {squared} / (count({x}) OVER {w} + 1))"
    return {
        "count": f"count(*) OVER {w} + 1",
        "sum": total,
        "mean": f"({total}) / nullif({n}, 0)",
        "max": greatest,
        "min": least,
        "std": f"CASE WHEN {x} IS NULL THEN {_past('std', x, w)} ELSE {deviation} END",
    }[statistic]
