"""Translate a statement from DuckDB's SQL to that of a warehouse, by sqlglot."""

from __future__ import annotations

from typing import Any

from lib.errors import DataError, did_you_mean

OURS = "duckdb"
RUN = (OURS, "spark")  # that a test runs
OF_SPARK = ("spark", "databricks")


def translated(statement: str, dialect: str) -> str:
    """Return a statement in another dialect.

    Raises
    ------
    DataError
        Where sqlglot is not installed, for a dialect that it does not know, and for one in which it
        cannot write the statement.
    """
    if dialect == OURS:
        return statement
    try:
        import sqlglot
    except ImportError as error:
        raise DataError(
            f"--dialect {dialect} needs sqlglot, which is not installed: pip install '.[cluster]'"
        ) from error
    known = [name.lower() for name in sqlglot.Dialects.__members__ if name != "DIALECT"]
    if dialect not in known:
        raise DataError(f"--dialect is {dialect!r}; {did_you_mean(dialect, known)}")
    parsed = sqlglot.parse_one(statement, read=OURS)
    _keep_order(parsed, sqlglot.Dialect.get_or_raise(dialect).NULL_ORDERING)
    if dialect in OF_SPARK:
        parsed = parsed.transform(_for_spark)
    try:
        return parsed.sql(dialect, pretty=True, unsupported_level=sqlglot.ErrorLevel.RAISE) + "\n"
    except Exception as error:  # whatever a generator of a rarer dialect stumbles over
        complaint = " ".join(str(error).split())[:200]
        raise DataError(
            f"--dialect {dialect}: sqlglot cannot write the statement for it ({complaint}); print "
            "it for duckdb or spark and translate it by hand"
        ) from error


def _keep_order(parsed: Any, ordering: str) -> None:
    """Say nothing of where NULLs stand: nothing that is ordered by is NULL.

    Not every dialect can say it, and sqlglot's generators of some fail over it.
    """
    from sqlglot import exp

    for node in parsed.find_all(exp.Ordered):
        is_small = ordering == "nulls_are_small"
        is_last = ordering == "nulls_are_last"
        node.set("nulls_first", not is_last and is_small != bool(node.args.get("desc")))


def _for_spark(node: Any) -> Any:
    """Return a node as Spark has it: DISTINCT is not allowed in a window."""
    from sqlglot import exp

    is_window = isinstance(node, exp.Window) and isinstance(node.this, exp.Count)
    if not is_window or not isinstance(node.this.this, exp.Distinct):
        return node
    (value,) = node.this.this.expressions
    window = node.copy()
    window.set("this", exp.Anonymous(this="collect_set", expressions=[value.copy()]))
    return exp.Anonymous(this="size", expressions=[window])


def remark(dialect: str) -> str:
    """Return what has to be said of a dialect; empty for those that are run in tests."""
    if dialect in RUN:
        return ""
    return (
        f"Nobody has run this statement in the dialect {dialect!r} here: compare its result with "
        "that of --dialect duckdb on some rows first."
    )
