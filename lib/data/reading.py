"""The raw file behind a dataset: find its parts, read them in batches, hash them, download them.

Knows files and columns only; what the columns mean is `lib.data.datasets`' affair.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from lib.bundle.raw import MISSING_TEXT, NUMBER
from lib.data.formats import FOUND_OUT, SNIFFED_ROWS, Dialect, Format, csv_rows, dialect
from lib.data.kinds import kind
from lib.errors import DataError

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
HIDDEN = (".", "_")  # names of what other programs put beside their tables
CASES = (str, str.upper, str.capitalize)
NULL_TEXT = sorted({case(text) for text in MISSING_TEXT for case in CASES} | {"NaN"})
CHUNK_BYTES = 1 << 20
PARQUET_ROWS = 1 << 18  # of a batch where nobody says how many


def parts(path: Path) -> list[Path]:
    """The files that make up a table: the file itself, or a folder's data files sorted by name."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.is_file():
        return [path]
    files = [p for p in path.rglob("*") if p.is_file()]
    found = {}
    for file in files:
        inside = file.relative_to(path)
        if _is_part(inside):
            found[inside.as_posix()] = file
    if not found:
        suffixes = ", ".join(SUFFIXES)
        raise DataError(f"{path}: the folder holds no file that ends in {suffixes}")
    return [found[name] for name in sorted(found)]


def _is_part(path: Path) -> bool:
    """Return whether a file of a folder belongs to the table, by its name within the folder."""
    is_hidden = any(part.startswith(HIDDEN) for part in path.parts)
    is_table = path.name.lower().endswith(SUFFIXES)
    return is_table and not is_hidden


def line_of(path: Path, row: int, given: Format = FOUND_OUT) -> int | None:
    """Return the line on which a data row of a CSV file ends.

    Parameters
    ----------
    row : 0-based, blank lines not counted
    """
    if not path.is_file() or kind(path) == "parquet":
        return None
    with csv_rows(path, given) as reader:
        for n_seen, _ in enumerate(reader, start=-1):  # the header is -1
            if n_seen == row:
                return reader.line_num
    return None


def columns_of(path: Path, given: Format = FOUND_OUT) -> list[str]:
    """Return the names of a file's columns, in its order, without blanks around them."""
    if kind(path) == "parquet":
        return columns_in(pq.read_schema(path))
    return list(dialect(path, given).header)


def columns_in(schema: pa.Schema) -> list[str]:
    """Return the names of a Parquet file's columns, as `columns_of`."""
    stored = [name.strip() for name in schema.names]
    return [*stored, *_ranges(schema)]


def nested(path: Path) -> dict[str, str]:
    """Return the columns whose cells are lists or records: {name: its type}."""
    if kind(path) != "parquet":
        return {}
    return nested_in(pq.read_schema(path))


def nested_in(schema: pa.Schema) -> dict[str, str]:
    """Return the columns of a Parquet file whose cells are lists or records: {name: its type}."""
    found = [field for field in schema if pa.types.is_nested(_stored_type(field.type))]
    return {field.name.strip(): str(field.type) for field in found}


def batches(
    path: Path,
    columns: list[str],
    *,
    text: Iterable[str] = (),
    rows: int | None = None,
    given: Format = FOUND_OUT,
) -> Iterator[pd.DataFrame]:
    """Yield a file's `columns` as frames of at most `rows` rows, indexed by the file's 0-based row.

    Columns in `text` become text. Other cells of a CSV file become float64, or bool or text where
    its first rows say so; a cell that does not convert raises pyarrow.ArrowInvalid.
    """
    if kind(path) == "parquet":
        yield from _parquet_batches(path, columns, set(text), rows)
    else:
        yield from _csv_batches(path, columns, set(text), rows, given)


def _parquet_batches(
    path: Path, columns: list[str], text: set[str], rows: int | None
) -> Iterator[pd.DataFrame]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        first = 0
        for batch in stored_batches(file, columns, rows or PARQUET_ROWS):
            yield as_frame(batch, text, first)
            first += batch.num_rows


def stored_batches(
    file: pq.ParquetFile,
    columns: list[str],
    rows: int,
    groups: range | None = None,
    first: int = 0,
) -> Iterator[pa.RecordBatch]:
    """Yield `columns` of an open Parquet file as they are stored, at most `rows` rows at a time.

    Parameters
    ----------
    groups : numbers of the row groups to read; None: all
    first : rows of the file before those
    """
    schema = file.schema_arrow
    names = {name.strip(): name for name in schema.names}
    all_ranges = _ranges(schema)
    stored = {}
    ranges = {}
    for column in columns:
        if column in names:
            stored[names[column]] = column
        else:
            ranges[column] = all_ranges[column]
    found = file.iter_batches(rows, row_groups=groups, columns=list(stored))
    renamed = (_renamed(batch, stored) for batch in found)
    filled = (batch for batch in renamed if batch.num_rows)
    yield from _with_ranges(filled, ranges, first)


def as_frame(batch: pa.RecordBatch, text: Iterable[str], first: int) -> pd.DataFrame:
    """Return stored rows as a frame whose index begins at `first`.

    The columns in `text` and those of bytes and UUIDs become text.
    """
    coded = {field.name for field in batch.schema if _is_coded(field.type)}
    (frame,) = _frames([batch], {*text, *coded}, None)
    frame.index = pd.RangeIndex(first, first + len(frame))
    return frame


def _renamed(batch: pa.RecordBatch, names: dict[str, str]) -> pa.RecordBatch:
    """Return a batch with other names of its columns: {name in the file: name}."""
    return batch.rename_columns([names[name] for name in batch.schema.names])


def _csv_batches(
    path: Path, columns: list[str], text: set[str], rows: int | None, given: Format
) -> Iterator[pd.DataFrame]:
    found = dialect(path, given)
    types = _sniff(path, columns, found, given)
    types |= {column: pa.string() for column in columns if column in text}
    packing = "gzip" if kind(path) == "csv.gz" else None
    with pa.input_stream(str(path), compression=packing) as stream:
        reader = pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(
                block_size=8 * CHUNK_BYTES,
                encoding=found.encoding,
                column_names=_unlike(found.header),
                skip_rows=found.n_lines,
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=found.separator,
                newlines_in_values=True,
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=columns,
                column_types=types,
                null_values=NULL_TEXT,
                decimal_point=found.decimal,
            ),
        )
        yield from _frames(reader, text, rows)


def _unlike(names: Iterable[str]) -> list[str]:
    """Return the names of a header, those that repeat an earlier one made different."""
    seen = set()
    result = []
    for place, name in enumerate(names):
        is_new = name not in seen
        result.append(name if is_new else f"{name}\0{place}")
        seen.add(name)
    return result


def _ranges(schema: pa.Schema) -> dict[str, range]:
    """Return the columns that pandas has stored as three numbers: {its name: its values}."""
    metadata = schema.pandas_metadata or {}
    ranges = {}
    for entry in metadata.get("index_columns", []):
        is_range = isinstance(entry, dict) and entry.get("kind") == "range"
        if is_range and entry.get("name") is not None:
            name = entry["name"].strip()
            ranges[name] = range(entry["start"], entry["stop"], entry["step"])
    return ranges


def _with_ranges(
    record_batches: Iterable[pa.RecordBatch], ranges: dict[str, range], first: int
) -> Iterator[pa.RecordBatch]:
    """Yield the batches with the columns that were stored as ranges; `first`: rows before them."""
    for batch in record_batches:
        end = first + batch.num_rows
        for name, values in ranges.items():
            part = pa.array(values[first:end], pa.int64())
            batch = batch.append_column(name, part)
        first = end
        yield batch


def _is_coded(type_: pa.DataType) -> bool:
    return is_bytes(_stored_type(type_)) or isinstance(type_, pa.BaseExtensionType)


def _stored_type(type_: pa.DataType) -> pa.DataType:
    """Return the type of the cells themselves, of an extension or of a dictionary."""
    if isinstance(type_, pa.BaseExtensionType):
        return _stored_type(type_.storage_type)
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _frames(
    record_batches: Iterable[pa.RecordBatch], text: set[str], rows: int | None
) -> Iterator[pd.DataFrame]:
    """Yield batches as frames of at most `rows` rows, the columns in `text` as text."""
    first = 0
    for batch in record_batches:
        batch = _with_text(batch, text)
        step = rows or max(batch.num_rows, 1)
        for offset in range(0, batch.num_rows, step):
            frame = batch.slice(offset, rows).to_pandas(
                date_as_object=False,
                split_blocks=True,
                ignore_metadata=True,  # a column that was pandas' index stays a column
            )
            end = first + len(frame)
            frame.index = pd.RangeIndex(first, end)
            first = end
            yield frame


def _with_text(batch: pa.RecordBatch, text: set[str]) -> pa.RecordBatch:
    for place, column in enumerate(batch.schema.names):
        if column in text:
            values = as_text(batch.column(place))
            batch = batch.set_column(place, column, values)
    return batch


def as_text(values: pa.Array) -> pa.Array:
    """Return a column as text: floats without exponent or point, UUIDs as people write them.

    Floats that are not exact stay floats, for others to refuse.
    """
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        if inexact(values).any():
            return values
        values = values.cast(pa.int64())
    if is_bytes(values.type):
        words = [_bytes_as_text(value) for value in values.to_pylist()]
        return pa.array(words, pa.string())
    return values.cast(pa.string())


def inexact(values: pa.Array) -> np.ndarray:
    """Return which floats (n,) have a fraction, or are so large that their neighbours are lost."""
    numbers = values.to_numpy(zero_copy_only=False)
    n_bits = np.finfo(numbers.dtype).nmant + 1
    limit = 2.0**n_bits  # from here on not every integer is there
    is_whole = np.trunc(numbers) == numbers
    is_exact = is_whole & (np.abs(numbers) < limit)
    is_there = values.is_valid().to_numpy(zero_copy_only=False)
    return is_there & ~is_exact


def is_bytes(type_: pa.DataType) -> bool:
    """Return whether cells are bytes, which some programs write for text."""
    kinds = pa.types
    is_long = kinds.is_large_binary(type_) or kinds.is_binary_view(type_)
    return kinds.is_binary(type_) or kinds.is_fixed_size_binary(type_) or is_long


def _bytes_as_text(value: bytes | None) -> str | None:
    if value is None:
        return None
    if len(value) == 16:
        return str(uuid.UUID(bytes=value))
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.hex()


def _sniff(path: Path, columns: list[str], found: Dialect, given: Format) -> dict[str, pa.DataType]:
    """Return the type of each column of a CSV file: numbers unless its first rows say otherwise."""
    with csv_rows(path, given) as reader:
        _header, *rows = islice(reader, SNIFFED_ROWS + 1)
    types = {}
    for column in columns:
        place = found.header.index(column)
        cells = [row[place].strip() for row in rows if place < len(row)]
        there = [cell for cell in cells if cell.lower() not in MISSING_TEXT]
        types[column] = _type_of(there, found.decimal)
    return types


def _type_of(cells: list[str], decimal: str) -> pa.DataType:
    """Return the type of a column by its first cells, none of which is missing."""
    if not cells:
        return pa.float64()
    if all(cell.lower() in ("true", "false") for cell in cells):
        return pa.bool_()
    first = cells[0].replace(decimal, ".")
    if NUMBER.fullmatch(first):
        return pa.float64()
    return pa.string()


def ragged_row(path: Path, given: Format = FOUND_OUT) -> str | None:
    """Describe the first line of a CSV file that has more or fewer cells than the header."""
    n_columns = len(dialect(path, given).header)
    with csv_rows(path, given) as reader:
        for row, cells in enumerate(reader):
            n_cells = len(cells)
            if n_cells != n_columns:
                where = f"{path}, row {row:,} (line {reader.line_num:,})"
                return f"{where}: {n_cells} cells where the header has {n_columns}"
    return None
