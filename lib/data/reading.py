"""The raw file behind a dataset: find its parts, read them in batches, hash them, download them.

Knows files and columns only; what the columns mean is `lib.data.datasets`' affair.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from lib.data.formats import (
    FOUND_OUT,
    NUMBER,
    SNIFFED_ROWS,
    Dialect,
    Format,
    csv_rows,
    dialect,
    kind,
)
from lib.errors import DataError

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
MISSING_TEXT = ("", "nan", "na", "n/a", "#n/a", "null", "none", "<na>", r"\n", "-")  # lower case
NULL_TEXT = sorted(
    {f(text) for text in MISSING_TEXT for f in (str, str.upper, str.capitalize)} | {"NaN"}
)
CHUNK_BYTES = 1 << 20


def parts(path: Path) -> list[Path]:
    """The files that make up a table: the file itself, or a folder's data files sorted by name."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.is_file():
        return [path]
    files = [p for p in path.rglob("*") if p.is_file()]
    found = [p for p in files if p.name.lower().endswith(SUFFIXES)]
    shown = [
        p for p in found if not any(s.startswith((".", "_")) for s in p.relative_to(path).parts)
    ]
    if not shown:
        raise DataError(f"{path}: the folder holds no file that ends in {', '.join(SUFFIXES)}")
    return sorted(shown, key=lambda p: p.relative_to(path).as_posix())


def line_of(path: Path, row: int, given: Format = FOUND_OUT) -> int | None:
    """Return the line on which data row `row` (0-based, blank lines not counted) of a CSV file
    ends.
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
        schema = pq.ParquetFile(path).schema_arrow
        return [*schema.names, *_ranges(schema)]
    return list(dialect(path, given).header)


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
    text = [column for column in columns if column in set(text)]
    if kind(path) == "parquet":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _refuse_nested(path, file.schema_arrow, columns)
            text = _as_text_too(file.schema_arrow, columns, text)
            stored = [column for column in columns if column in file.schema_arrow.names]
            found_batches = file.iter_batches(batch_size=rows or 1 << 18, columns=stored)
            ranges = _ranges(file.schema_arrow)
            wanted = {column: ranges[column] for column in columns if column not in stored}
            yield from _frames(_with_ranges(found_batches, wanted), text, rows)
        return
    found = dialect(path, given)
    types = _sniff(path, columns, found, given) | dict.fromkeys(text, pa.string())
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
            parse_options=pacsv.ParseOptions(delimiter=found.separator, newlines_in_values=True),
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
    seen, result = set(), []
    for place, name in enumerate(names):
        result.append(f"{name}\0{place}" if name in seen else name)
        seen.add(name)
    return result


def _ranges(schema: pa.Schema) -> dict[str, range]:
    """Return the columns that pandas has stored as three numbers: {name of an index: its
    values}.
    """
    stored = (schema.pandas_metadata or {}).get("index_columns", [])
    found = [entry for entry in stored if isinstance(entry, dict) and entry.get("kind") == "range"]
    return {
        entry["name"]: range(entry["start"], entry["stop"], entry["step"])
        for entry in found
        if entry.get("name") is not None
    }


def _with_ranges(record_batches, ranges: dict[str, range]):
    """Yield the batches with the columns that were stored as ranges."""
    first = 0
    for batch in record_batches:
        for name, values in ranges.items():
            part = pa.array(values[first : first + batch.num_rows], pa.int64())
            batch = batch.append_column(name, part)
        first += batch.num_rows
        yield batch


def _refuse_nested(path: Path, schema: pa.Schema, columns: list[str]) -> None:
    stored = [column for column in columns if column in schema.names]
    nested = [c for c in stored if pa.types.is_nested(schema.field(c).type)]
    if nested:
        kinds = ", ".join(f"{column!r} ({schema.field(column).type})" for column in nested)
        raise DataError(
            f"{path}: lists or records stand where one value a cell is needed: {kinds}; "
            "take them apart into columns of their own"
        )


def _as_text_too(schema: pa.Schema, columns: list[str], text: list[str]) -> list[str]:
    """Return the columns that become text: those asked for, and those of bytes or UUIDs."""
    stored = [schema.field(column) for column in columns if column in schema.names]
    is_text = {
        f.name for f in stored if is_bytes(f.type) or isinstance(f.type, pa.BaseExtensionType)
    }
    return [column for column in columns if column in is_text or column in text]


def _frames(record_batches, text, rows):
    first = 0
    for batch in record_batches:
        for column in text:
            place = batch.schema.get_field_index(column)
            batch = batch.set_column(place, column, as_text(batch.column(place)))
        for offset in range(0, batch.num_rows, rows or max(batch.num_rows, 1)):
            frame = batch.slice(offset, rows).to_pandas(
                date_as_object=False,
                split_blocks=True,
                ignore_metadata=True,  # a column that was pandas' index stays a column
            )
            frame.index = pd.RangeIndex(first, first + len(frame))
            first += len(frame)
            yield frame


def as_text(values: pa.Array) -> pa.Array:
    """Return a column as text: whole floats without exponent or point, UUIDs as people write
    them. Floats that are not exact stay floats, for others to refuse.
    """
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        return values if inexact(values).any() else values.cast(pa.int64()).cast(pa.string())
    if is_bytes(values.type):
        return pa.array([_bytes_as_text(value) for value in values.to_pylist()], pa.string())
    return values.cast(pa.string())


def inexact(values: pa.Array) -> np.ndarray:
    """Return which floats (n,) have a fraction, or are so large that their neighbours are lost."""
    numbers = values.to_numpy(zero_copy_only=False)
    limit = 2.0 ** (np.finfo(numbers.dtype).nmant + 1)  # from here on not every integer is there
    is_exact = (np.abs(numbers) < limit) & (np.trunc(numbers) == numbers)
    return ~is_exact & values.is_valid().to_numpy(zero_copy_only=False)


def is_bytes(type_: pa.DataType) -> bool:
    """Return whether cells are bytes, which some programs write for text."""
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(type_) for is_kind in kinds)


def _bytes_as_text(value: bytes | None) -> str | None:
    if value is None:
        return None
    if len(value) == 16:
        return str(uuid.UUID(bytes=value))
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.hex()


def _sniff(path, columns, found: Dialect, given: Format):
    """Return the Arrow type of each column of a CSV file: numbers unless its first rows say
    otherwise.
    """
    with csv_rows(path, given) as reader:
        head = [cells for _, cells in zip(range(SNIFFED_ROWS + 1), reader, strict=False)][1:]
    types = {}
    for column in columns:
        place = found.header.index(column)
        cells = [row[place].strip() for row in head if len(row) > place]
        cells = [cell for cell in cells if cell.lower() not in MISSING_TEXT]
        if cells and all(cell.lower() in ("true", "false") for cell in cells):
            types[column] = pa.bool_()
        else:
            is_number = not cells or NUMBER.fullmatch(cells[0].replace(found.decimal, "."))
            types[column] = pa.float64() if is_number else pa.string()
    return types


def ragged_row(path: Path, given: Format = FOUND_OUT) -> str | None:
    """Describe the first line of a CSV file that has more or fewer cells than the header."""
    header = dialect(path, given).header
    with csv_rows(path, given) as reader:
        for row, cells in enumerate(reader):
            if len(cells) != len(header):
                where = f"row {row:,} (line {reader.line_num:,})"
                return f"{path}, {where}: {len(cells)} cells where the header has {len(header)}"
    return None
