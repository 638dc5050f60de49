"""How a CSV file is written: encoding, separator, decimal point.

What kind of file it is at all is `lib.data.kinds`' affair.
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
from typing import NamedTuple, TextIO

from lib.data.kinds import HEAD_BYTES, kind, marked_encoding, wide_encoding

SNIFFED_ROWS = 100  # rows of a CSV file that are looked at
SEPARATORS = (",", ";", "\t", "|")
DECIMALS = {
    ",": re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?"),
    ".": re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?"),
}
WIDE = ("utf-16", "utf-32")
UTF_8 = ("utf-8", "utf8")
SEP_LINE = re.compile(
    r"""[^\S\r\n]*"?sep=(.)"?.?[^\S\r\n]*(?=[\r\n]|$)"""
)  # as Excel writes it above the header
SURROGATE = re.compile(r"[\udc80-\udcff]")  # stands for a byte that is not of the encoding


class Format(NamedTuple):
    """How CSV files are written, as far as somebody said so; None: find out."""

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    numbers: frozenset[str] | None = None  # columns that show the decimal point; None: all


FOUND_OUT = Format()


class Dialect(NamedTuple):
    """How one CSV file is written, and its header."""

    separator: str
    decimal: str
    encoding: str
    header: tuple[str, ...]  # names without blanks around them
    n_lines: int  # of the file up to and including the header


def dialect(path: Path, given: Format = FOUND_OUT) -> Dialect:
    """Return how a CSV file is written: as given, and the rest by looking at its rows."""
    stat = path.stat()
    return _dialect(path, given, stat.st_mtime_ns, stat.st_size)


# asked for each message and each batch; a file that changes is looked at anew
@lru_cache(maxsize=256)
def _dialect(path: Path, given: Format, mtime_ns: int, size: int) -> Dialect:
    encoding = _encoding(path, given.encoding)
    with opened(path, encoding) as file:
        text = file.read(HEAD_BYTES)
    lines = text.splitlines()
    said = SEP_LINE.match(text)
    n_skipped = 0
    separator = given.separator or _separator(lines)
    if said:
        n_skipped = 1
        separator = given.separator or said[1]
    header, n_lines = _header(text, separator, n_skipped)
    found = Dialect(separator, ".", encoding, header, n_lines)
    decimal = given.decimal or _decimal(path, found, given.numbers)
    return found._replace(decimal=decimal)


def _header(text: str, separator: str, n_skipped: int) -> tuple[tuple[str, ...], int]:
    """Return the names of a header and the line on which it ends."""
    lines = iter(text.splitlines(keepends=True))
    reader = csv.reader(lines, delimiter=separator)
    for cells in reader:
        names = tuple(cell.strip() for cell in cells)
        if any(names) and reader.line_num > n_skipped:
            return names, reader.line_num
    return (), 0


def _encoding(path: Path, given: str | None) -> str:
    """Return a file's encoding; a byte-order mark knows it better than whoever gave one."""
    opener = gzip.open if kind(path) == "csv.gz" else open
    with opener(path, "rb") as file:
        start = file.read(HEAD_BYTES)
    return marked_encoding(start) or given or wide_encoding(start) or "utf-8"


def _separator(lines: list[str]) -> str:
    """Return the separator that cuts most first rows into as many cells, the most of them."""
    best, most = ",", 1
    filled = [line for line in lines[: SNIFFED_ROWS + 1] if line.strip()]
    sample = filled[:-1] or lines[:1]  # the last one may be cut off
    for candidate in SEPARATORS:
        reader = csv.reader(sample, delimiter=candidate)
        widths = Counter(len(cells) for cells in reader)
        if not widths:
            continue
        width, n_rows = widths.most_common(1)[0]
        is_regular = n_rows >= 0.8 * len(sample)
        if width > most and is_regular:
            best, most = candidate, width
    if most > 1:
        return best
    # rows of all lengths: the message names the one that differs
    header = sample[0] if sample else ""
    return max(SEPARATORS, key=header.count)


def _decimal(path: Path, found: Dialect, numbers: frozenset[str] | None) -> str:
    """Return the decimal point that the cells of number columns show; `.` where none does."""
    if found.separator == ",":
        return "."
    has_comma = False
    has_point = False
    with rows_as(path, found) as reader:
        for n_seen, cells in enumerate(reader):
            is_decided = has_comma or has_point
            if is_decided and n_seen > SNIFFED_ROWS:
                break
            for name, cell in zip(found.header, cells, strict=False):
                if numbers is None or name in numbers:
                    has_comma = has_comma or is_decimal(cell, ",")
                    has_point = has_point or is_decimal(cell, ".")
    return "," if has_comma and not has_point else "."


def is_decimal(cell: str, point: str) -> bool:
    """Return whether a cell is a number with decimals behind a point or a comma."""
    if point not in cell:
        return False
    pattern = DECIMALS[point]
    return pattern.fullmatch(cell.strip()) is not None


@contextmanager
def opened(path: Path, encoding: str, errors: str = "replace") -> Iterator[TextIO]:
    """Open a plain or gzipped text file; what is not of the encoding becomes U+FFFD."""
    opener = gzip.open if kind(path) == "csv.gz" else open
    spelling = encoding.lower().replace("_", "-")
    name = "utf-8-sig" if spelling in UTF_8 else encoding
    with opener(path, "rt", encoding=name, errors=errors, newline="") as file:
        yield file


@contextmanager
def csv_rows(path: Path, given: Format = FOUND_OUT, errors: str = "replace") -> Iterator[Rows]:
    """Yield the `Rows` of a CSV file, the first of which is the header."""
    with rows_as(path, dialect(path, given), errors) as rows:
        yield rows


@contextmanager
def rows_as(path: Path, found: Dialect, errors: str = "replace") -> Iterator[Rows]:
    """Yield the `Rows` of a CSV file whose dialect is known."""
    with opened(path, found.encoding, errors) as file:
        reader = csv.reader(file, delimiter=found.separator)
        yield Rows(reader, found.n_lines)


class Rows:
    """The rows of a CSV file from its header on, blank ones left out."""

    def __init__(self, reader, header_line: int):
        self.reader = reader
        self.header_line = header_line

    @property
    def line_num(self) -> int:
        """The line on which the last row ended, as an editor counts."""
        return self.reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        for cells in self.reader:
            if cells and self.line_num >= self.header_line:
                yield cells


def not_decodable(path: Path, given: Format = FOUND_OUT) -> str | None:
    """Describe the first cell that is not text in the file's encoding; None if all are."""
    found = dialect(path, given)
    if found.encoding.startswith(WIDE):
        return None
    with rows_as(path, found, errors="surrogateescape") as reader:
        for row, cells in enumerate(reader):  # the header is 0
            for column, cell in enumerate(cells):
                if SURROGATE.search(cell):
                    place = "the header"
                    if row:
                        place = f"row {row:,} (line {reader.line_num:,})"
                    complaint = _undecoded(found, column, cell)
                    return f"{path}, {place}, {complaint}"
    return None


def _undecoded(found: Dialect, column: int, cell: str) -> str:
    """Describe a cell that is not text in the file's encoding."""
    name = "?"
    if column < len(found.header):
        name = found.header[column]
    raw = cell.encode(found.encoding, "surrogateescape")
    shown = raw.decode("cp1252", "replace")[:40]
    return (
        f"column {name!r}: {shown!r} is not {found.encoding.upper()}; "
        "name the file's encoding in the description, such as `encoding: cp1252`"
    )
