"""The raw file behind a dataset: find its parts, read them in batches, hash them, download them.

Knows files and columns only; what the columns mean is `lib.datasets`' affair.
"""

from __future__ import annotations

import csv
import fcntl
import gzip
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from lib.errors import DataError, RawFileMissing

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
SNIFFED_ROWS = 100  # rows of a CSV file that are looked at to tell numbers, booleans and dates apart
CHUNK_BYTES = 1 << 20


def parts(path: Path) -> list[Path]:
    """The files that make up a table: the file itself, or a folder's data files sorted by name."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.is_file():
        return [path]
    found = [p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES)]
    shown = [p for p in found if not any(s.startswith((".", "_")) for s in p.relative_to(path).parts)]
    if not shown:
        raise DataError(f"{path}: the folder holds no file that ends in {', '.join(SUFFIXES)}")
    return sorted(shown, key=lambda p: p.relative_to(path).as_posix())


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes; of a folder, over the names and hashes of its parts in order."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for part in parts(path):
        whole.update(f"{part.relative_to(path).as_posix()}\n{sha256(part)}\n".encode())
    return whole.hexdigest()


def kind(path: Path) -> str:
    """'csv', 'csv.gz' or 'parquet', told by the first bytes, whatever the file is called."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        raise DataError(f"{path}: is a zip archive; unpack it first (CSV, CSV.gz or Parquet can be read)")
    if not start.strip():
        raise DataError(f"{path}: the file is empty")
    return "parquet" if start == b"PAR1" else "csv.gz" if start[:2] == b"\x1f\x8b" else "csv"


@contextmanager
def csv_rows(path: Path):
    """A `csv.reader` over a plain or gzipped file; its `line_num` is the line as an editor counts it."""
    opener = gzip.open if kind(path) == "csv.gz" else open
    with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        yield csv.reader(file)


def line_of(path: Path, row: int) -> int | None:
    """Line on which data row `row` (0-based, header and blank lines not counted) of a CSV file ends."""
    if not path.is_file() or kind(path) == "parquet":
        return None
    with csv_rows(path) as reader:
        n_seen = -2  # the header becomes -1, the first row 0
        for cells in reader:
            n_seen += bool(cells)
            if n_seen == row:
                return reader.line_num
    return None


def columns_of(path: Path) -> list[str]:
    """Names of a file's columns, in its order."""
    if kind(path) == "parquet":
        return list(pq.ParquetFile(path).schema_arrow.names)
    with csv_rows(path) as reader:
        return next((cells for cells in reader if cells), [])


def batches(path: Path, columns: list[str], text: tuple[str, ...], rows: int | None) -> Iterator[pd.DataFrame]:
    """Yield a file's `columns` as frames of at most `rows` rows, indexed by the 0-based row of the file.

    Columns in `text` become text. Other cells of a CSV file become float64, or bool or text where its first rows
    say so; a cell that does not convert raises pyarrow.ArrowInvalid.
    """
    if kind(path) == "parquet":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield from _frames(file.iter_batches(batch_size=rows or 1 << 18, columns=columns), text, rows)
        return
    types = _sniff(path, columns) | dict.fromkeys(text, pa.string())
    with pa.input_stream(str(path), compression="gzip" if kind(path) == "csv.gz" else None) as stream:
        reader = pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(block_size=8 * CHUNK_BYTES),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(include_columns=columns, column_types=types),
        )
        yield from _frames(reader, text, rows)


def _frames(record_batches, text, rows):
    first = 0
    for batch in record_batches:
        for column in text:
            place = batch.schema.get_field_index(column)
            batch = batch.set_column(place, column, batch.column(place).cast(pa.string()))
        for offset in range(0, batch.num_rows, rows or max(batch.num_rows, 1)):
            frame = batch.slice(offset, rows).to_pandas(date_as_object=False, split_blocks=True)
            frame.index = pd.RangeIndex(first, first + len(frame))
            first += len(frame)
            yield frame


def _sniff(path, columns):
    """Arrow type of each column of a CSV file: numbers unless the first rows say otherwise."""
    with csv_rows(path) as reader:
        header = next((cells for cells in reader if cells), [])
        head = [cells for _, cells in zip(range(SNIFFED_ROWS), reader, strict=False)]
    types = {}
    for column in columns:
        place = header.index(column)
        cells = [row[place].strip() for row in head if len(row) > place and row[place].strip()]
        if cells and all(cell.lower() in ("true", "false") for cell in cells):
            types[column] = pa.bool_()
        else:
            number = not cells or NUMBER.fullmatch(cells[0])
            types[column] = pa.float64() if number else pa.string()
    return types


def ragged_row(path: Path) -> str | None:
    """Describe the first line of a CSV file that has more or fewer cells than the header."""
    with csv_rows(path) as reader:
        header = next((cells for cells in reader if cells), [])
        for row, cells in enumerate(filter(None, reader), start=1):
            if len(cells) != len(header):
                where = f"row {row:,} (line {reader.line_num:,})"
                return f"{path}, {where}: {len(cells)} cells where the header has {len(header)}"
    return None


@contextmanager
def locked(folder: Path):
    """Hold `folder`/.lock: one process at a time; the system releases it when a process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def download(url: str, target: Path, verify: Callable[[Path], None], progress: Callable | None = None) -> None:
    """Fetch `url` to `target`, whole or not at all; what an earlier call has fetched is not fetched again.

    `verify` is called with the complete `target`.part before it takes its name, and raises DataError. `progress` is
    called with (bytes done, bytes in all or None); default: a bar, or lines without a terminal. Raises
    RawFileMissing with the reason; the part stays for the next call, unless its content is wrong.
    """
    part = target.with_name(target.name + ".part")
    progress = progress or progress_on(sys.stderr, f"downloading {target.name}")
    try:
        with locked(target.parent):
            while not target.exists():  # another process may have fetched it while this one waited
                before = part.stat().st_size if part.exists() else 0
                try:
                    _fetch(url, part, before, progress)
                except (OSError, http.client.HTTPException):
                    if not part.exists() or part.stat().st_size <= before:
                        raise
                    continue  # the connection broke, but it brought something: go on from there
                try:
                    verify(part)
                except DataError:
                    part.unlink()
                    raise
                os.replace(part, target)
    except (OSError, http.client.HTTPException, DataError) as error:
        why = getattr(getattr(error, "reason", None), "strerror", None) or error  # without urllib's wrapping
        raise RawFileMissing(f"{url} could not be downloaded ({why})") from error


def _fetch(url, part, have, progress):
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing lies beyond what we have
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return
        return _fetch(url, part, 0, progress)
    with answer:
        resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-") and have > 0
        done = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes")


def progress_on(stream, what: str) -> Callable:
    """A progress callback: one rewritten line on a terminal, else a plain line for each tenth."""
    said = -1

    def show(done, total):
        nonlocal said
        share = done / total if total else 0.0
        size = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if total else f"{done / 1e6:,.0f} MB"
        if stream.isatty():
            bar = "#" * int(30 * share)
            stream.write(f"\r{what} [{bar:<30}] {size}" + ("\n" if done == total else ""))
        elif (step := int(10 * share) if total else done // 10_000_000) > said:
            said = step
            stream.write(f"{what}: {size}\n")
        stream.flush()

    return show
