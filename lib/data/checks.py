"""Rows: read from whatever holds them, every cell checked, put in time order.

A refusal is a `DataError`: one sentence with file, row, column and value.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.bundle.raw import MIDNIGHT
from lib.data import fingerprints, formats, reading, thin_record
from lib.data.cells import Column
from lib.data.kinds import kind
from lib.data.remarks import remarks
from lib.data.times import ticks
from lib.data.unusable import Unusable
from lib.errors import DataError, listed, printable

if TYPE_CHECKING:
    from lib.data.datasets import Dataset

UNREADABLE = (
    *(pa.ArrowException, OSError, EOFError, csv.Error, UnicodeError),
    *(zlib.error, json.JSONDecodeError),  # a damaged gzip file; what pandas notes in Parquet
)
N_FILES = 3  # that are named for one reason
SAMPLE_ROWS = 1000  # that are looked at where a column is missing


def read_transactions(dataset: Dataset, path: str | Path, labelled: bool = True) -> pd.DataFrame:
    """Read CSV, CSV.gz, Parquet or a folder of them; every row checked, sorted by time (stable).

    Returns
    -------
    DataFrame of `dataset.columns` under their names: numbers float64, label int8 (-1 = not known),
    ids text, and `dataset.time_column`, float64 seconds or UTC datetime. A declared weight column
    that is absent becomes 1.0. Remarks are in `frame.attrs["remarks"]`; what identifies the rows
    (`lib.data.fingerprints.of_rows`) is in `frame.attrs["fingerprint"]`, the record of a table that
    was thinned in `frame.attrs["thinned"]`, else None.

    Raises
    ------
    DataError
        With file, row, column and value.
    """
    chunks = []
    columns_there = set()
    for frame, columns in cleaned_parts(dataset, Path(path), None, labelled):
        chunks.append(dict(frame.items()))
        columns_there.update(columns)
    del frame
    frame = _joined(chunks)
    pa.default_memory_pool().release_unused()
    identity = fingerprints.of_rows(dataset, frame) if labelled else None
    said = remarks(dataset, frame, columns_there)
    thinned = thin_record.of_table(Path(path))
    if thinned is not None:
        said.append(f"thinned: {thin_record.sentence(thinned)}, with weights for the others")
    frame = in_time_order(dataset, frame, said)
    frame.attrs["fingerprint"] = identity
    frame.attrs["thinned"] = thinned
    return frame


def _joined(chunks: list[dict[str, pd.Series]]) -> pd.DataFrame:
    """Join frames, which are used up: column by column, never two copies of the whole table."""
    joined = {}
    for column in list(chunks[0]):
        own = [chunk.pop(column) for chunk in chunks]
        joined[column] = pd.concat(own, ignore_index=True)
    return pd.DataFrame(joined, copy=False)


def iter_transactions(
    dataset: Dataset, path: str | Path, rows_per_chunk: int = 100_000, labelled: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield checked frames of at most `rows_per_chunk` rows in the files' order, in flat memory.

    The index is the position in the stream, from 0. Checks as in `read_transactions`, but for
    duplicates and order.
    """
    first = 0
    for frame, _ in cleaned_parts(dataset, Path(path), rows_per_chunk, labelled):
        end = first + len(frame)
        frame.index = pd.RangeIndex(first, end)
        first = end
        yield frame


def check_header(dataset: Dataset, path: str | Path) -> None:
    """Raise DataError if columns of the description are missing from a raw file; read no row."""
    _refuse_headers(dataset, Path(path), labelled=True)


def _refuse_headers(dataset: Dataset, path: Path, labelled: bool, at_least: int = 1) -> None:
    """Raise DataError if headers of at least as many files cannot be used; name all at once."""
    parts = reading.parts(path)
    files_of: dict[str, list[str]] = {}  # reason -> files
    for part in parts:
        error = _header_error(dataset, part, labelled)
        if error is not None:
            last = error
            reason = str(error).removeprefix(f"{printable(str(part))}: ")
            files_of.setdefault(reason, []).append(str(part.relative_to(path)))
    n_refused = sum(map(len, files_of.values()))
    if n_refused < at_least:
        return
    if n_refused == 1:
        raise last
    reasons = []
    for reason, files in files_of.items():
        names = files[:N_FILES]
        if len(files) > N_FILES:
            names.append(f"{len(files) - N_FILES:,} more")
        reasons.append(f"{listed(names)}: {reason}")
    said = "; ".join(reasons)
    raise DataError(f"{path}: {n_refused:,} of {len(parts):,} files cannot be used; {said}")


def _header_error(dataset: Dataset, part: Path, labelled: bool) -> DataError | None:
    """Return what is wrong with a file as far as its header tells, or None."""
    try:
        _of_header(dataset, part, labelled).refuse()
    except DataError as error:
        return error
    except UNREADABLE as error:
        return _explained(dataset, part, labelled, error)
    return None


def cleaned_parts(
    dataset: Dataset, path: Path, rows: int | None, labelled: bool
) -> Iterator[tuple[pd.DataFrame, list[str]]]:
    """Yield (checked frame, names of all columns of its file), file after file."""
    time_is: dict[bool, Path] = {}  # whether it is a number -> the first file where it is so
    first = 0  # rows of the files before
    # one alone is refused when it is read, with what is wrong with its cells
    _refuse_headers(dataset, path, labelled, at_least=2)
    for part in reading.parts(path):
        n_rows = 0
        try:
            present = reading.columns_of(part, dataset.format)
            wanted = _usable_columns(dataset, part, labelled)
            for frame in _frames(dataset, part, wanted, rows):
                cleaned = clean(dataset, frame, part, labelled, first=first + n_rows)
                n_rows += len(frame)
                time_is.setdefault(time_is_number(dataset, cleaned), part)
                refuse_two_times(dataset, time_is)
                yield cleaned, present
        except UNREADABLE as error:
            raise _explained(dataset, part, labelled, error) from error
        if not n_rows:
            raise DataError(f"{part}: there are no rows")
        first += n_rows


@dataclass(frozen=True)
class Stretch:
    """Some row groups, one behind the other, of an open Parquet file.

    Parameters
    ----------
    where : the file's name in messages
    groups : numbers of the row groups
    row : rows of the file before them
    first : rows of the table before them
    """

    file: pq.ParquetFile
    where: str
    groups: range
    row: int
    first: int


def checked_batches(
    dataset: Dataset, stretch: Stretch, rows: int, labelled: bool
) -> Iterator[tuple[pa.RecordBatch, pd.DataFrame]]:
    """Yield rows as they are stored, at most `rows` at a time, and as a checked frame.

    What a whole file is refused for is refused here, in the same words.
    """
    schema = stretch.file.schema_arrow
    present = reading.columns_in(schema)
    wanted = _wanted(dataset, present, labelled)
    found = Unusable(stretch.where, present)
    found.look_at_header(wanted, reading.nested_in(schema))
    found.refuse()
    text = set(dataset.texts) | _read_as_text(dataset)
    batches = reading.stored_batches(stretch.file, wanted, rows, stretch.groups, stretch.row)
    n_rows = 0
    for batch in batches:
        frame = reading.as_frame(batch, text, stretch.row + n_rows)
        first = stretch.first + n_rows
        yield batch, clean(dataset, frame, stretch.where, labelled, first=first)
        n_rows += batch.num_rows


def time_is_number(dataset: Dataset, cleaned: pd.DataFrame) -> bool:
    """Return whether the time of a checked frame is a number; else it is a date."""
    return pd.api.types.is_numeric_dtype(cleaned[dataset.time_column])


def refuse_two_times(dataset: Dataset, time_is: Mapping[bool, str | Path]) -> None:
    """Refuse a table whose time is a number in one file and a date in another.

    Parameters
    ----------
    time_is : {whether it is a number: a file where that is so}
    """
    if len(time_is) > 1:
        kinds = f"a number in {time_is[True]} and a date in {time_is[False]}"
        raise DataError(f"{dataset.time!r} is {kinds}")


def _usable_columns(dataset: Dataset, part: Path, labelled: bool) -> list[str]:
    """Return the columns to read of a file; refuse all at once that cannot be used."""
    found = _of_header(dataset, part, labelled)
    wanted = _wanted(dataset, found.present, labelled)
    if not found.columns:
        return wanted
    readable = [column for column in wanted if column not in found.columns]
    sample = _sample(dataset, part, readable)
    cells = {column: Column(part, sample[column], dataset.format) for column in sample}
    found.look_at_cells(_measured(dataset, cells))
    found.refuse()
    return wanted


def _sample(dataset: Dataset, part: Path, columns: list[str]) -> pd.DataFrame:
    """Return the first rows of a file; an empty frame where they cannot be read."""
    nothing = pd.DataFrame()
    if not columns:
        return nothing
    text = set(columns)
    if kind(part) == "parquet":
        text = set(dataset.texts)
    batches = reading.batches(
        part,
        columns,
        text=text,
        rows=SAMPLE_ROWS,
        given=dataset.format,
    )
    try:
        return next(batches, nothing)
    except UNREADABLE:  # what is known without them is said
        return nothing


def _of_header(dataset: Dataset, part: Path, labelled: bool) -> Unusable:
    """Return the columns that cannot be used as far as a file's header tells."""
    present = reading.columns_of(part, dataset.format)
    found = Unusable(part, present)
    wanted = _wanted(dataset, present, labelled)
    found.look_at_header(wanted, reading.nested(part))
    return found


def _measured(dataset: Dataset, cells: dict[str, Column]) -> list[Column]:
    """Return the columns that have to be numbers."""
    other = {*dataset.time_columns, *dataset.texts, dataset.label}
    return [cell for column, cell in cells.items() if column not in other]


def _frames(
    dataset: Dataset, part: Path, wanted: list[str], rows: int | None
) -> Iterator[pd.DataFrame]:
    """Yield a file's frames as they are read fastest; from a cell on that needs it, as text."""
    text = set(dataset.texts) | _read_as_text(dataset)
    given = dataset.format
    n_rows = 0
    try:
        for frame in reading.batches(part, wanted, text=text, rows=rows, given=given):
            n_rows += len(frame)
            yield frame
    except pa.ArrowInvalid:
        if kind(part) == "parquet" or formats.not_decodable(part, given):
            raise
        for frame in reading.batches(part, wanted, text=wanted, rows=rows, given=given):
            is_later = frame.index >= n_rows
            if is_later.any():
                yield frame.loc[is_later]


def _read_as_text(dataset: Dataset) -> set[str]:
    """Return the columns whose cells mean something as text that they do not mean as numbers."""
    found: set[str] = set()
    is_written = dataset.time_format is not None
    is_pair = len(dataset.time_columns) > 1
    if is_written or is_pair:
        found.update(dataset.time_columns)
    if dataset.label is not None and dataset.label_words is not None:
        found.add(dataset.label)  # `none` may mean genuine there, and 007 is not 7
    return found


def _explained(dataset: Dataset, part: Path, labelled: bool, error: Exception) -> DataError:
    """Return the cell that caused a reader's complaint, by reading a CSV file once more as text."""
    complaint = " ".join(str(error).split())
    reason = f"{part}: cannot be read ({complaint[:200]})"
    try:
        if kind(part) == "parquet":
            return DataError(reason)
        undecodable = formats.not_decodable(part, dataset.format)
        if undecodable:
            return DataError(undecodable)
        reason = reading.ragged_row(part, dataset.format) or reason
        present = reading.columns_of(part, dataset.format)
        wanted = columns_to_read(dataset, present, part, labelled)
        for frame in reading.batches(part, wanted, text=wanted, given=dataset.format):
            clean(dataset, frame, part, labelled)
    except DataError as found:
        return found
    except UNREADABLE:
        return DataError(reason)
    return DataError(reason)


def check(
    dataset: Dataset, frame: pd.DataFrame, where: str | Path, labelled: bool = True
) -> list[str]:
    """Raise DataError at the first thing that cannot be used; return what is only worth knowing.

    Parameters
    ----------
    where : the file (or words) to name
    labelled : False for new data: the label is neither asked for nor read
    """
    return prepare(dataset, frame, where, labelled).attrs["remarks"]


def prepare(
    dataset: Dataset, frame: pd.DataFrame, where: str | Path, labelled: bool = True
) -> pd.DataFrame:
    """Return a frame checked and in time order (stable), only the dataset's columns.

    Remarks are in `.attrs["remarks"]`.
    """
    numbered = frame.reset_index(drop=True)
    cleaned = clean(dataset, numbered, where, labelled)
    columns_there = {str(column) for column in frame.columns}
    said = remarks(dataset, cleaned, columns_there)
    return in_time_order(dataset, cleaned, said)


def in_time_order(dataset: Dataset, frame: pd.DataFrame, said: list[str]) -> pd.DataFrame:
    """Sort a cleaned frame, which is used up, by time, rows of one instant as they came."""
    time = ticks(frame[dataset.time_column])
    if np.any(time[1:] < time[:-1]):
        order = np.argsort(time, kind="stable")
        taken = {}
        for column in list(frame.columns):
            values = frame.pop(column)
            taken[column] = values.take(order).array
        frame = pd.DataFrame(taken, copy=False)
    frame.attrs["remarks"] = said
    return frame


def clean(
    dataset: Dataset,
    frame: pd.DataFrame,
    where: str | Path,
    labelled: bool = True,
    first: int = 0,
) -> pd.DataFrame:
    """Return the dataset's columns with each cell checked, and one column of time.

    Numbers become float64, the label int8, ids, entities and categories text, time float64 seconds
    or UTC datetime. Cells that are missing, infinite or beyond float32 become NaN where the
    description says `missing: median`.

    Parameters
    ----------
    frame : its index is the 0-based row to name in messages; for a CSV file the line is looked up
        too
    first : rows of the table before this frame, for a table without a time
    """
    frame = frame.set_axis(frame.columns.astype(str), axis="columns")
    wanted = columns_to_read(dataset, list(frame.columns), where, labelled)
    if not len(frame):
        raise DataError(f"{where}: there are no rows")
    cells = {column: Column(where, frame[column], dataset.format) for column in wanted}
    _refuse_words(dataset, cells, where, list(frame.columns))
    order_of_rows = np.arange(first, first + len(frame), dtype=np.float64)
    result = {dataset.time_column: _time(dataset, cells, where, order_of_rows)}
    for column in dataset.columns:
        if column in cells and column not in dataset.time_columns:
            result[column] = _values(dataset, column, cells[column])
        elif column == dataset.weight:
            result[column] = np.ones(len(frame))
    return pd.DataFrame(result, index=frame.index, copy=False)


def _values(
    dataset: Dataset, column: str, cell: Column
) -> np.ndarray | pd.api.extensions.ExtensionArray:
    """Return the checked values (n,) of a column as its role asks."""
    if column in dataset.ids:
        return cell.text()
    if column in dataset.texts:
        return cell.values()
    if column == dataset.label:
        return cell.labels(dataset.label_words)
    if column == dataset.weight:
        return cell.weights()
    values = cell.measurements(dataset.missing)
    if column == dataset.amount and dataset.negative_amount == "refuse":
        what = "is negative; the description allows it with `negative_amount: allow`"
        cell.refuse(values < 0, what)
    return values


def _refuse_words(
    dataset: Dataset, cells: dict[str, Column], where: str | Path, present: list[str]
) -> None:
    """Refuse all columns at once that hold text or dates where numbers are needed."""
    found = Unusable(where, present)
    found.look_at_cells(_measured(dataset, cells))
    found.refuse(at_least=2)  # one is refused with its row


def _time(
    dataset: Dataset, cells: dict[str, Column], where: str | Path, order: np.ndarray
) -> np.ndarray | pd.api.extensions.ExtensionArray:
    """Return the time of each row: float64 seconds (n,), or datetime64 in UTC."""
    if dataset.time is None:
        return order
    if len(dataset.time_columns) == 1:
        (column,) = dataset.time_columns
        return cells[column].times(dataset.time_format, dataset.time_unit)
    day_cells, clock_cells = (cells[column] for column in dataset.time_columns)
    for half in (day_cells, clock_cells):
        half.refuse(half.missing(), "is not a date or a clock")
    day = day_cells.stripped()
    if dataset.time_format is None:
        day = day.str.replace(MIDNIGHT, "", regex=True)
    both = day.str.cat(clock_cells.stripped(), sep=" ")
    both.name = " and ".join(dataset.time_columns)
    return Column(where, both, dataset.format).times(dataset.time_format)


def columns_to_read(
    dataset: Dataset, present: list[str], where: str | Path, labelled: bool
) -> list[str]:
    """Return the dataset's columns among those present.

    Raises DataError for those that are absent (but the weight) or there twice.
    """
    wanted = _wanted(dataset, present, labelled)
    found = Unusable(where, present)
    found.look_at_header(wanted, nested={})
    found.refuse()
    return wanted


def _wanted(dataset: Dataset, present: Iterable[str], labelled: bool) -> list[str]:
    """Return the columns that have to be there, and the weight if it is."""
    optional = {dataset.weight} - set(present)
    if not labelled:
        optional.add(dataset.label)
    return [column for column in dataset.columns if column not in optional]
