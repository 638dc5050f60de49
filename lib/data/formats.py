"""What kind of file it is, told by its first bytes; how a CSV file is written: encoding, separator,
decimal point.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lib.errors import DataError

HEAD_BYTES = 1 << 16  # of a file that are looked at
SNIFFED_ROWS = 100  # rows of a CSV file that are looked at
SEPARATORS = (",", ";", "\t", "|")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+")
AS_CSV = "save it as CSV (UTF-8) or Parquet"
UNPACK = "unpack it first; CSV, CSV.gz and Parquet can be read"

# First bytes -> what the file is, what to do about it
FOREIGN = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)", AS_CSV),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"ARROW1", "an Arrow or Feather file", AS_CSV),
    (b"FEA1", "a Feather file", AS_CSV),
    (b"SQLite format 3\x00", "an SQLite database", AS_CSV),
    (b"\x89HDF", "an HDF5 file", AS_CSV),
    (b"Obj\x01", "an Avro file", AS_CSV),
    (b"ORC", "an ORC file", AS_CSV),
    (b"\x93NUMPY", "a NumPy array", AS_CSV),
    (b"%PDF", "a PDF document", "export the table as CSV"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the data",
        "run `git lfs pull` to fetch the data",
    ),
)
TEXT_FOREIGN = (
    (
        rb"<!doctype html|<html",
        "an HTML page",
        "download the file itself, not the page that offers it",
    ),
    (rb"<\?xml", "an XML document", AS_CSV),
    (rb"[{\[]", "a JSON document", AS_CSV),
)


class Format(NamedTuple):
    """How CSV files are written, as far as somebody said so; None: find out."""

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None


FOUND_OUT = Format()


class Dialect(NamedTuple):
    """How one CSV file is written, and its header."""

    separator: str
    decimal: str
    encoding: str
    header: tuple[str, ...]  # names without blanks around them
    n_lines: int  # of the file up to and including the header


def kind(path: Path) -> str:
    """Return 'csv', 'csv.gz' or 'parquet', told by the first bytes, whatever the file is called.

    Raises DataError for anything else: what it is, and what to do.
    """
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as file:
                inside = file.read(HEAD_BYTES)
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: is a gzip file that cannot be unpacked ({error})") from error
        _refuse_foreign(path, inside, " in gzip")
        return "csv.gz"
    _refuse_foreign(path, start)
    return "csv"


def _refuse_foreign(path: Path, start: bytes, packed: str = "") -> None:
    """Raise DataError unless the first bytes look like text with cells."""
    if not start.strip(b"\x00 \t\r\n\xef\xbb\xbf\xff\xfe"):
        raise DataError(f"{path}: the file is empty")
    for magic, what, advice in FOREIGN:
        if start.startswith(magic):
            raise DataError(f"{path}: is {what}{packed}; {advice}")
    if start.startswith(b"PK"):
        is_excel = b"[Content_Types].xml" in start or b"xl/" in start
        what = "an Excel workbook (.xlsx)" if is_excel else "a zip archive"
        raise DataError(f"{path}: is {what}{packed}; {AS_CSV if is_excel else UNPACK}")
    if start[257:262] == b"ustar":
        raise DataError(f"{path}: is a tar archive{packed}; {UNPACK}")
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise DataError(f"{path}: is a Python pickle, which could run code{packed}; {AS_CSV}")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for pattern, what, advice in TEXT_FOREIGN:
        if re.match(pattern, text):
            raise DataError(f"{path}: is {what}{packed}; {advice}")
    if b"\x00" in start and _utf16(start) is None:
        raise DataError(f"{path}: is a binary file of an unknown kind{packed}; {AS_CSV}")


def _utf16(start: bytes) -> str | None:
    """Return the encoding of UTF-16 text, by its byte-order mark or by where its zero bytes are."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    half = max(len(start) // 2, 1)
    if start[1::2].count(0) > 0.8 * half and start[::2].count(0) < 0.1 * half:
        return "utf-16-le"
    if start[::2].count(0) > 0.8 * half and start[1::2].count(0) < 0.1 * half:
        return "utf-16-be"
    return None


def dialect(path: Path, given: Format = FOUND_OUT) -> Dialect:
    """Return how a CSV file is written: as given, and the rest by looking at its first rows."""
    stat = path.stat()
    return _dialect(path, given, stat.st_mtime_ns, stat.st_size)


# asked for each message and each batch; a file that changes is looked at anew
@lru_cache(maxsize=256)
def _dialect(path: Path, given: Format, mtime_ns: int, size: int) -> Dialect:
    encoding = given.encoding or _encoding(path)
    with opened(path, encoding) as file:
        text = file.read(HEAD_BYTES)
    lines = text.splitlines()
    said = re.fullmatch(r"""\s*"?sep=(.)"?.?\s*""", lines[0]) if lines else None
    separator = given.separator or (said[1] if said else _separator(lines))
    header: tuple[str, ...] = ()
    n_lines = 0
    rows: list[list[str]] = []
    reader = csv.reader(iter(text.splitlines(keepends=True)), delimiter=separator)
    for cells in reader:
        if not any(cell.strip() for cell in cells) or (said and reader.line_num == 1):
            continue
        if not header:
            header, n_lines = tuple(cell.strip() for cell in cells), reader.line_num
        elif len(rows) < SNIFFED_ROWS:
            rows.append(cells)
    return Dialect(separator, given.decimal or _decimal(separator, rows), encoding, header, n_lines)


def _encoding(path: Path) -> str:
    opener = gzip.open if kind(path) == "csv.gz" else open
    with opener(path, "rb") as file:
        start = file.read(HEAD_BYTES)
    return _utf16(start) or "utf-8"


def _separator(lines: list[str]) -> str:
    """Return the separator that cuts the first rows into the same number of cells, the most of
    them.
    """
    best, most = ",", 1
    sample = [line for line in lines[: SNIFFED_ROWS + 1] if line.strip()][:-1] or lines[:1]
    for candidate in SEPARATORS:
        widths = Counter(len(cells) for cells in csv.reader(sample, delimiter=candidate))
        if not widths:
            continue
        width, n_rows = widths.most_common(1)[0]
        if width > most and n_rows >= 0.8 * len(sample):
            best, most = candidate, width
    if most > 1:
        return best
    # rows of all lengths: the message names the one that differs
    header = sample[0] if sample else ""
    return max(SEPARATORS, key=lambda candidate: header.count(candidate))


def _decimal(separator: str, rows: list[list[str]]) -> str:
    cells = [cell.strip() for row in rows for cell in row]
    has_comma = any(DECIMAL_COMMA.fullmatch(cell) for cell in cells)
    has_point = any(DECIMAL_POINT.fullmatch(cell) for cell in cells)
    return "," if separator != "," and has_comma and not has_point else "."


@contextmanager
def opened(path: Path, encoding: str):
    """Open a plain or gzipped text file; what is not of the encoding becomes U+FFFD."""
    opener = gzip.open if kind(path) == "csv.gz" else open
    name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    with opener(path, "rt", encoding=name, errors="replace", newline="") as file:
        yield file


@contextmanager
def csv_rows(path: Path, given: Format = FOUND_OUT) -> Iterator:
    """Yield a `csv.reader` whose first row is the header; `line_num` is the line in an editor."""
    found = dialect(path, given)
    with opened(path, found.encoding) as file:
        reader = csv.reader(file, delimiter=found.separator)
        yield _Rows(reader, found.n_lines)


class _Rows:
    """The rows of a CSV file from its header on, blank ones left out."""

    def __init__(self, reader, header_line: int):
        self.reader, self.header_line = reader, header_line

    @property
    def line_num(self) -> int:
        """The line on which the last row ended."""
        return self.reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        for cells in self.reader:
            if self.reader.line_num >= self.header_line and cells:
                yield cells


def not_decodable(path: Path, given: Format = FOUND_OUT) -> str | None:
    """Describe the first cell that is not text in the file's encoding; None if all are."""
    found = dialect(path, given)
    opener = gzip.open if kind(path) == "csv.gz" else open
    if found.encoding.startswith("utf-16"):
        return None
    with opener(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(found.encoding)
            except UnicodeDecodeError as error:
                before = line[: error.start].decode(found.encoding)
                cells = next(csv.reader([before], delimiter=found.separator), [""])
                column = len(cells) - 1
                name = found.header[column] if column < len(found.header) else "?"
                whole = next(
                    csv.reader([line.decode("cp1252", "replace")], delimiter=found.separator)
                )
                shown = whole[column][:40] if column < len(whole) else ""
                place = f"row {number - found.n_lines:,} (line {number:,})"
                place = place if number > found.n_lines else "the header"
                return (
                    f"{path}, {place}, column {name!r}: {shown!r} is not {found.encoding.upper()}; "
                    f"name the file's encoding in the description, such as `encoding: cp1252`"
                )
    return None
