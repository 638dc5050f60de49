"""Print a description's features as one SQL statement: `python -m lib.data.features`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lib.bundle.by_row import MICROSECONDS
from lib.bundle.raw import LAST_S, UNITS
from lib.data import dialects, statement
from lib.data.columns import one_line
from lib.data.datasets import Dataset, load_description
from lib.data.features import instants
from lib.data.shares import REFERENCE, Rarity
from lib.errors import DataError
from lib.files import write_text


def header(dataset: Dataset, table: str, rarity: Rarity) -> list[str]:
    """Return what has to be known of a statement, in lines."""
    lines = [f"The features of {dataset.name}, over the whole of {table}."]
    if dataset.time is not None and dataset.time_unit is None:
        time = " and ".join(dataset.time_columns)
        lines.append(f"Set the session's time zone to UTC: {time} is read as a time in UTC.")
        if dataset.time_format is None and len(dataset.time_columns) == 1:
            lines.append(f"If {time} is a number, add `time_unit` to the description.")
    if dataset.recipe.categories:
        lines.append(_of_categories(rarity))
    columns = ", ".join(statement.result_columns(dataset))
    lines.append(f"Columns of the result: {columns}.")
    return lines


def _of_categories(rarity: Rarity) -> str:
    if rarity.encoders is not None:
        return "Categories: the shares of their values are written out, as a split or bundle knows."
    if rarity.until is not None:
        return "Categories: the shares of their values are counted before --reference-until."
    return (
        f"Categories: the shares of their values are counted in the first {REFERENCE:.0%} of the "
        "weight, which moves when rows are added; --reference-until fixes it."
    )


def _encoders(folder: str) -> dict[str, dict[str, Any]]:
    """Return the shares of categories that a split or a bundle knows."""
    for name in ("splits.json", "manifest.json"):
        path = Path(folder) / name
        if path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                return known["encoders"] if "encoders" in known else known["recipe"]["encoders"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}: knows no shares of categories") from error
    raise DataError(f"{folder}: is neither the folder of a split nor that of a bundle")


def _until(dataset: Dataset, text: str) -> int:
    """Return a time that a user has written, in microseconds."""
    where = f"--reference-until {text!r}"
    if dataset.time_unit is not None:
        try:
            seconds = float(text) * UNITS[dataset.time_unit]
        except ValueError as error:
            raise DataError(f"{where}: expected a number, as the table's time is one") from error
        if not abs(seconds) <= LAST_S:
            raise DataError(f"{where}: is too far away")
        return round(seconds * MICROSECONDS)
    try:
        time = pd.to_datetime(pd.Series([text]), utc=True)
    except ValueError as error:
        raise DataError(f"{where}: expected a time such as 2024-03-31 12:00:00") from error
    if time.isna().any():
        raise DataError(f"{where}: is not a time")
    return int(instants(dataset, time.dt.tz_localize(None))[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m lib.data.features",
        description="Print the features of a description as one SQL statement.",
    )
    parser.add_argument(
        "--dataset", required=True, help="a name in data/ or the path of a YAML file"
    )
    parser.add_argument(
        "--dialect", default="duckdb", help="spark, or another that sqlglot knows (default: duckdb)"
    )
    parser.add_argument("--table", default="", help="its name there (default: the description's)")
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument(
        "--reference-until",
        default="",
        metavar="TIME",
        help="count the shares of categories in what is earlier (default: in half of the weight)",
    )
    shares.add_argument(
        "--encoders",
        default="",
        metavar="FOLDER",
        help="take the shares of categories from a split or a bundle",
    )
    parser.add_argument(
        "--yaml", default="", metavar="FILE", help="write the description of the result, too"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a statement; return the exit code: 0, or 2 where the description is at fault."""
    given = _parser().parse_args(arguments)
    try:
        dataset = load_description(given.dataset)
        table = given.table or dataset.name
        rarity = Rarity(
            _encoders(given.encoders) if given.encoders else None,
            _until(dataset, given.reference_until) if given.reference_until else None,
        )
        written = statement.statement(dataset, table, rarity)
        said = dialects.translated(written, given.dialect)
        if given.yaml:
            text = yaml.safe_dump(
                statement.description(dataset), sort_keys=False, allow_unicode=True
            )
            write_text(Path(given.yaml), text)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{given.yaml}: cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    remark = dialects.remark(given.dialect)
    for line in [*header(dataset, table, rarity), *([remark] if remark else [])]:
        print(f"-- {one_line(line)}")
    print(said, end="")
    if remark:
        print(remark, file=sys.stderr)
    return 0
