"""Rows: read from whatever holds them, every cell checked, put in time order.

A refusal is a `DataError`: one sentence with file, row, column and value. `dataset` is a `lib.datasets.Dataset`.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from lib import rawfile
from lib.rawfile import DataError

FLOAT32_MAX = float(np.finfo(np.float32).max)
UNREADABLE = (pa.ArrowException, OSError, EOFError, csv.Error)
MISSING_TEXT = ["", "nan", "na", "n/a", "#n/a", "null", "none", "<na>"]
ISO_8601 = r"\d{4}-\d{2}-\d{2}([T ].*)?"


def read_transactions(dataset, path: str | Path, labelled: bool = True) -> pd.DataFrame:
    """Read CSV, CSV.gz, Parquet or a folder of them; every row checked, sorted by time (stable).

    Only `dataset.columns`, under their names: numbers float64, label int8, ids text, time float64 or UTC datetime;
    a declared weight column that is absent becomes 1.0. Remarks lie in `frame.attrs["remarks"]`.
    Raises DataError with file, row, column and value.
    """
    chunks, columns_there = [], set()
    for frame, columns in cleaned_parts(dataset, Path(path), None, labelled):
        chunks.append(dict(frame.items()))
        columns_there.update(columns)
    del frame
    names = list(chunks[0])  # column by column: never two copies of the whole table
    frame = pd.DataFrame({c: pd.concat([f.pop(c) for f in chunks], ignore_index=True) for c in names}, copy=False)
    pa.default_memory_pool().release_unused()
    return in_time_order(dataset, frame, remarks(dataset, frame, columns_there - {dataset.label}))


def iter_transactions(
    dataset, path: str | Path, rows_per_chunk: int = 100_000, labelled: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield checked frames of at most `rows_per_chunk` rows in the files' order, in flat memory.

    The index is the position in the stream, from 0. Checks as in `read_transactions`, but for duplicates and order.
    """
    first = 0
    for frame, _ in cleaned_parts(dataset, Path(path), rows_per_chunk, labelled):
        frame.index = pd.RangeIndex(first, first + len(frame))
        first += len(frame)
        yield frame


def check_header(dataset, path: str | Path) -> None:
    """Raise DataError if a column that the description names is missing from a raw file; no row is read."""
    for part in rawfile.parts(Path(path)):
        try:
            columns_to_read(dataset, rawfile.columns_of(part), part, labelled=True)
        except UNREADABLE as error:
            raise _explained(dataset, part, True, error) from error


def cleaned_parts(dataset, path, rows, labelled):
    """Yield (checked frame, names of all columns of its file), file after file."""
    time_is = {}  # whether it is a number -> the first file where it is so
    for part in rawfile.parts(path):
        try:
            present = rawfile.columns_of(part)
            wanted = columns_to_read(dataset, present, part, labelled)
            n_rows = 0
            for frame in rawfile.batches(part, wanted, dataset.ids, rows):
                n_rows += len(frame)
                cleaned = clean(dataset, frame, part, labelled)
                numeric = pd.api.types.is_numeric_dtype(cleaned[dataset.time])
                if time_is.setdefault(numeric, part) and len(time_is) > 1:
                    raise DataError(f"{dataset.time!r} is a number in {time_is[True]} and a date in {time_is[False]}")
                yield cleaned, present
            if not n_rows:
                raise DataError(f"{part}: there are no rows")
        except UNREADABLE as error:
            raise _explained(dataset, part, labelled, error) from error


def _explained(dataset, part, labelled, error) -> DataError:
    """Turn a reader's complaint into the cell that caused it, by reading a CSV file once more as text."""
    reason = f"{part}: cannot be read ({' '.join(str(error).split())[:200]})"
    try:
        if rawfile.kind(part) != "parquet":
            reason = rawfile.ragged_row(part) or reason
            wanted = columns_to_read(dataset, rawfile.columns_of(part), part, labelled)
            for frame in rawfile.batches(part, wanted, tuple(wanted), None):
                clean(dataset, frame, part, labelled)
    except DataError as found:
        return found
    except UNREADABLE:
        return DataError(reason)
    return DataError(reason)


def check(dataset, frame: pd.DataFrame, where: str | Path, labelled: bool = True) -> list[str]:
    """Raise DataError at the first thing that cannot be used; return what is only worth knowing.

    `where`: the file (or words) to name. `labelled=False`, for new data: the label is neither asked for nor read.
    """
    return prepare(dataset, frame, where, labelled).attrs["remarks"]


def prepare(dataset, frame: pd.DataFrame, where: str | Path, labelled: bool = True) -> pd.DataFrame:
    """Checked and in time order (stable), only the dataset's columns; remarks in `.attrs["remarks"]`."""
    cleaned = clean(dataset, frame.reset_index(drop=True), where, labelled)
    said = remarks(dataset, cleaned, {str(c) for c in frame.columns} - {dataset.label})
    return in_time_order(dataset, cleaned, said)


def in_time_order(dataset, frame: pd.DataFrame, said: list[str]) -> pd.DataFrame:
    """Sort a cleaned frame, which is used up, by time, rows of one instant as they came."""
    time = ticks(frame[dataset.time])
    if np.any(time[1:] < time[:-1]):
        order = np.argsort(time, kind="stable")
        frame = pd.DataFrame({c: frame.pop(c).take(order).array for c in list(frame.columns)}, copy=False)
    frame.attrs["remarks"] = said
    return frame


def ticks(time: pd.Series) -> np.ndarray:
    """Time as exact comparable numbers: float64 as they are, datetimes as int64 of their own unit."""
    return time.to_numpy() if pd.api.types.is_numeric_dtype(time) else time.astype("int64").to_numpy()


def remarks(dataset, frame: pd.DataFrame, columns_there: set[str]) -> list[str]:
    """Sentences on what is kept as it is: extra columns, missing cells, duplicate rows, no weights."""
    said = []
    if extra := sorted(columns_there - set(dataset.columns)):
        shown = ", ".join(extra[:10]) + (", …" if len(extra) > 10 else "")
        said.append(f"columns that are not in the description and are ignored ({len(extra)}): {shown}")
    if dataset.weight and dataset.weight not in columns_there:
        said.append(f"there is no column {dataset.weight!r}: every row weighs 1")
    for column in dict.fromkeys((*dataset.features, *((dataset.amount,) if dataset.amount else ()))):
        if n_missing := int(frame[column].isna().sum()):
            said.append(f"cells of column {column!r} for which the median stands in: {n_missing:,}")
    if n_duplicates := int(pd.util.hash_pandas_object(frame, index=False).duplicated().sum()):
        said.append(f"rows that repeat an earlier row and are kept: {n_duplicates:,}")
    return said


def clean(dataset, frame: pd.DataFrame, where: str | Path, labelled: bool = True) -> pd.DataFrame:
    """The dataset's columns as float64 (label int8, ids text, time float64 or UTC datetime), each cell checked.

    Cells that are missing, infinite or beyond float32 become NaN where the description says `missing: median`.
    The frame's index is the 0-based row to name in messages; for a CSV file the line is looked up as well.
    """
    frame = frame.set_axis(frame.columns.astype(str), axis="columns")
    wanted = columns_to_read(dataset, list(frame.columns), where, labelled)
    if not len(frame):
        raise DataError(f"{where}: there are no rows")
    result = {}
    for column in wanted:
        cell = _Column(where, frame[column])
        if column in dataset.ids:
            result[column] = frame[column].astype("str").array
        elif column == dataset.time:
            result[column] = cell.times()
        elif column == dataset.label:
            values = cell.numbers()
            cell.refuse(~np.isin(values, (0, 1)), "is no label; 0 is genuine, 1 is fraud")
            result[column] = values.astype(np.int8)
        elif column == dataset.weight:
            values = result[column] = cell.numbers()
            cell.refuse(~(np.isfinite(values) & (values >= 0)), "is no weight; a weight is a number from 0 up")
        else:
            result[column] = cell.measurements(dataset.missing, column == dataset.amount, dataset.negative_amount)
    if dataset.weight:
        result.setdefault(dataset.weight, np.ones(len(frame)))
    in_order = {column: result[column] for column in dataset.columns if column in result}
    return pd.DataFrame(in_order, index=frame.index, copy=False)


def columns_to_read(dataset, present: list[str], where, labelled: bool) -> list[str]:
    """The dataset's columns among those present; DataError for one that is absent (but the weight) or there twice."""
    optional = [dataset.weight] if dataset.weight not in present else []
    wanted = [c for c in dataset.columns if c not in optional and (labelled or c != dataset.label)]
    for column in wanted:
        if present.count(column) > 1:
            raise DataError(f"{where}: column {column!r} is there {present.count(column)} times")
        if column not in present:
            lower = {name.strip().lower(): name for name in present}
            near = difflib.get_close_matches(column.lower(), lower, n=1)
            there = ", ".join(present[:40]) + (", …" if len(present) > 40 else "")
            hint = f"the nearest is {lower[near[0]]!r}" if near else f"there are: {there}"
            comma = "; cells are to be separated by commas" if len(present) == 1 else ""
            raise DataError(f"{where}: column {column!r} is missing; {hint}{comma}")
    return wanted


class _Column:
    """One column of a frame on its way to numbers; remembers the cells as they were, for the messages."""

    def __init__(self, where, cells: pd.Series):
        self.where, self.cells = where, cells

    def refuse(self, bad: np.ndarray, what: str) -> None:
        if not np.any(bad):
            return
        row, value = int(self.cells.index[np.argmax(bad)]), self.cells.iloc[np.argmax(bad)]
        line = rawfile.line_of(self.where, row) if isinstance(self.where, Path) else None
        at = f"row {row + 1:,}" + (f" (line {line:,})" if line else "")
        is_name = isinstance(value, str) and not rawfile.NUMBER.fullmatch(value)
        shown = "an empty cell or NaN" if pd.isna(value) else repr(value) if is_name else str(value).removesuffix(".0")
        raise DataError(f"{self.where}, {at}, column {self.cells.name!r}: {shown} {what}")

    def numbers(self) -> np.ndarray:
        """Cells as float64 (n,), NaN where missing; text is parsed, true and false are 1 and 0."""
        cells = self.cells
        if pd.api.types.is_numeric_dtype(cells):
            return cells.to_numpy(dtype=np.float64, na_value=np.nan)
        if pd.api.types.is_datetime64_any_dtype(cells) or pd.api.types.is_timedelta64_dtype(cells):
            self.refuse(np.ones(len(cells), bool), "is a date or a duration where a number belongs")
        text = cells.astype("str").fillna("").str.strip()
        lower = text.str.lower()
        text = text.mask(lower == "true", "1").mask(lower == "false", "0")
        missing = lower.isin(MISSING_TEXT).to_numpy(bool)
        try:
            values = pa.array(text.mask(missing, "nan"), pa.string()).cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            values = np.asarray(pd.to_numeric(text, errors="coerce"), np.float64)
        self.refuse(np.isnan(values) & ~missing, "is not a number")
        return values

    def measurements(self, missing: str, is_amount: bool, negative_amount: str) -> np.ndarray:
        values = self.numbers()
        unusable = ~(np.abs(values) <= FLOAT32_MAX)
        if missing == "refuse":
            self.refuse(unusable, "is no finite number; the description allows it with `missing: median`")
        if is_amount and negative_amount == "refuse":
            self.refuse(values < 0, "is negative; the description allows it with `negative_amount: allow`")
        return np.where(unusable, np.nan, values) if unusable.any() else values

    def times(self) -> np.ndarray | pd.api.extensions.ExtensionArray:
        """float64 (n,) for numbers, datetime64 in UTC for dates; a date without a zone is taken as UTC."""
        cells = self.cells
        if pd.api.types.is_datetime64_any_dtype(cells):
            self.refuse(cells.isna().to_numpy(), "is no time")
            return (cells if cells.dt.tz is None else cells.dt.tz_convert(None)).array
        if pd.api.types.is_bool_dtype(cells):
            self.refuse(np.ones(len(cells), bool), "is no time")
        if not pd.api.types.is_numeric_dtype(cells):
            text = cells.astype("str").fillna("").str.strip()
            if not rawfile.NUMBER.fullmatch(text.iloc[0]):
                iso = text.where(text.str.fullmatch(ISO_8601))  # anything shorter or swapped is ambiguous
                times = pd.to_datetime(iso, format="ISO8601", utc=True, errors="coerce")
                self.refuse(times.isna().to_numpy(), "is no time; write a number or ISO 8601, 2024-01-31 13:45:00")
                return times.dt.tz_convert(None).array
        values = self.numbers()
        self.refuse(~np.isfinite(values), "is no time")
        return values
