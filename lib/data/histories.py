"""Compute histories of entities in DuckDB, as SQL that a warehouse understands, too.

The windows are written once, in `windowed`: for the query that is run here and for the statement
that `lib.data.statement` prints.

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


@dataclass(frozen=True)
class Columns:
    """What a query calls the columns that histories of one entity need.

    Attributes
    ----------
    t : microseconds
    entity : what the transactions of an entity have in common; no two without one have it
    fraud : 1 = fraud, 0 = genuine, NULL = not known
    numbers, texts : {column: its name in the query}
    """

    t: str
    entity: str
    fraud: str
    numbers: dict[str, str]
    texts: dict[str, str]

    def of(self, feature: Window) -> str:
        """Return the column that a statistic is of; "" for one that is of transactions."""
        names = self.texts if feature.statistic == "distinct" else self.numbers
        return names.get(str(feature.column), "")


def sql(features: Sequence[Window | SinceLast]) -> str:
    """Return the query of features that share their entity.

    It reads `transactions` (row_number, t, entity, fraud, number_0, …, text_0, …) and answers with
    row_number, feature_0, …
    """
    numbers = {column: name for name, column in _used(features, OF_NUMBERS).items()}
    texts = {column: name for name, column in _used(features, ("distinct",)).items()}
    expressions, windows = windowed(features, Columns("t", "entity", "fraud", numbers, texts))
    selected = ["row_number"]
    for position, expression in enumerate(expressions):
        selected.append(f"{expression} AS feature_{position}")
    columns = ",\n  ".join(selected)
    return f"SELECT {columns}\nFROM {TABLE}\n{windows}"


def windowed(features: Sequence[Window | SinceLast], columns: Columns) -> tuple[list[str], str]:
    """Return the SQL of features that share their entity, and the WINDOW clause that it needs."""
    windows: dict[str, str] = {}  # definition -> name
    expressions = []
    for feature in features:
        if isinstance(feature, SinceLast):
            frame = "RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
            window = _window(windows, columns, frame)
            expressions.append(f"({columns.t} - max({columns.t}) OVER {window}) / {MICROSECONDS}e0")
        else:
            expressions.append(_expression(feature, columns, windows))
    defined = [f"{name} AS ({definition})" for definition, name in windows.items()]
    return expressions, "WINDOW " + ",\n  ".join(defined)


def _window(windows: dict[str, str], columns: Columns, frame: str, also: str = "") -> str:
    """Return the name of a window, which is added if it is not there.

    Parameters
    ----------
    also : a column whose value the rows have in common, too
    """
    partition = f"{columns.entity}, {also}" if also else columns.entity
    definition = f"PARTITION BY {partition} ORDER BY {columns.t} {frame}"
    return windows.setdefault(definition, f"w{len(windows)}")


def _expression(feature: Window, columns: Columns, windows: dict[str, str]) -> str:
    """Return the SQL of one statistic."""
    of = columns.of(feature)
    within = feature.within_s * MICROSECONDS
    if feature.delay_s is not None:
        delay = feature.delay_s * MICROSECONDS
        frame = f"RANGE BETWEEN {delay + within - 1} PRECEDING AND {delay} PRECEDING"
        window = _window(windows, columns, frame)
        if feature.statistic in OF_LABELS:
            of = columns.fraud
        return _past(feature.statistic, of, window)
    frame = f"RANGE BETWEEN {within - 1} PRECEDING AND 1 PRECEDING"
    window = _window(windows, columns, frame)
    if feature.statistic == "distinct":
        same = _window(windows, columns, frame, also=of)
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
        "fraud_count": f"coalesce(sum({x}) OVER {w}, 0)",
        "fraud_rate": f"coalesce(sum({x}) OVER {w} / nullif(count({x}) OVER {w}, 0), 0)",
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
