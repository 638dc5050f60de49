"""The parts of a table that are worked on one by one: row groups of Parquet files, in order.

Number, position and time of the last change of all row groups come from listing and footers; no
row is read for them. Small files share a part, a large one is several.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from lib.data import checks
from lib.data.checks import UNREADABLE, Stretch
from lib.data.datasets import Dataset
from lib.engine import storage
from lib.engine.storage import File
from lib.errors import DataError

PART_ROWS = 250_000  # of a part, unless one row group is larger
CHUNK_ROWS = 100_000  # that a worker holds at a time
SUFFIXES = (".parquet", ".pq")
OTHERS = (".csv", ".csv.gz")  # that can be scored without an engine
HIDDEN = (".", "_")  # names of what other programs put beside their tables
FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Piece:
    """Some row groups of one file.

    Parameters
    ----------
    file : with its size and the time of its last change, which tell that it is another one now
    groups : from the first to before the last
    row : rows of the file before them
    first : rows of the table before them
    rows : in them
    """

    file: File
    groups: tuple[int, int]
    row: int
    first: int
    rows: int


@dataclass(frozen=True)
class Part:
    """What is read by one worker in one go; `number` counts from 0."""

    number: int
    pieces: tuple[Piece, ...]

    @property
    def first(self) -> int:
        """Rows of the table before it."""
        return self.pieces[0].first

    @property
    def rows(self) -> int:
        """Rows in it."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def name(self) -> str:
        """The name of a file that is made of it."""
        return f"part-{self.number:06d}.parquet"

    def __str__(self) -> str:
        return f"{storage.shown(self.pieces[0].file.address)} ({self.rows:,} rows)"


@dataclass(frozen=True)
class Table:
    """A table's parts in its order, and how many rows they have together."""

    parts: tuple[Part, ...]
    rows: int


def of_table(address: str, part_rows: int = PART_ROWS) -> Table:
    """Return the parts of a Parquet file or of a folder of them.

    Raises DataError for files of another kind, a file without rows or one that cannot be read.
    """
    files = _files(address)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        groups_of = list(pool.map(_group_rows, files))
    pieces: list[Piece] = []
    first = 0
    for file, groups in zip(files, groups_of, strict=True):
        row = 0
        for number, rows in enumerate(groups):
            pieces.append(Piece(file, (number, number + 1), row, first + row, rows))
            row += rows
        if not row:
            raise DataError(f"{storage.shown(file.address)}: there are no rows")
        first += row
    return Table(tuple(_packed(pieces, part_rows)), first)


def _files(address: str) -> list[File]:
    """Return the Parquet files of a table; those of other programs are left out."""
    found = []
    for file in storage.files(address):
        names = file.name.split("/")
        is_named = file.address == address  # by the user: it may be called anything
        if not is_named and any(name.startswith(HIDDEN) for name in names):
            continue
        lower = file.name.lower()
        if lower.endswith(OTHERS):
            raise DataError(
                f"{storage.shown(file.address)}: an engine reads Parquet only; save the table as "
                "Parquet, or leave --engine out"
            )
        if is_named or lower.endswith(SUFFIXES):
            found.append(file)
    if not found:
        suffixes = ", ".join(SUFFIXES)
        raise DataError(f"{storage.shown(address)}: holds no file that ends in {suffixes}")
    return found


def _group_rows(file: File) -> list[int]:
    """Return the number of rows of each row group of a file, from its footer."""
    try:
        with storage.parquet(file.address) as opened:
            footer = opened.metadata
            return [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        complaint = " ".join(str(error).split())[:200]
        where = storage.shown(file.address)
        raise DataError(f"{where}: cannot be read as Parquet ({complaint})") from error


def _packed(pieces: list[Piece], part_rows: int) -> Iterator[Part]:
    """Yield parts of as many row groups as make up `part_rows`, one at least."""
    number = 0
    held: list[Piece] = []
    n_rows = 0
    for piece in pieces:
        if held and n_rows + piece.rows > part_rows:
            yield Part(number, tuple(_joined(held)))
            number += 1
            held = []
            n_rows = 0
        held.append(piece)
        n_rows += piece.rows
    yield Part(number, tuple(_joined(held)))


def _joined(pieces: list[Piece]) -> Iterator[Piece]:
    """Yield the pieces, neighbours in one file as one."""
    last = pieces[0]
    for piece in pieces[1:]:
        if piece.file == last.file:
            groups = (last.groups[0], piece.groups[1])
            last = Piece(last.file, groups, last.row, last.first, last.rows + piece.rows)
        else:
            yield last
            last = piece
    yield last


@dataclass(frozen=True)
class Rows:
    """Rows of a part.

    Parameters
    ----------
    first : rows of the table before them
    stored : as the file has them
    frame : checked, see `lib.data.checks.clean`
    where : their file, for messages
    """

    first: int
    stored: pa.RecordBatch
    frame: pd.DataFrame
    where: str


def rows_of(
    dataset: Dataset, part: Part, labelled: bool, chunk_rows: int = CHUNK_ROWS
) -> Iterator[Rows]:
    """Yield the rows of a part, every cell checked.

    Raises
    ------
    DataError
        For what the description does not allow, with file, row, column and value.
    OSError
        For a file that cannot be read; another attempt may succeed.
    """
    for piece in part.pieces:
        where = storage.shown(piece.file.address)
        first = piece.first
        try:
            with storage.parquet(piece.file.address) as opened:
                stretch = Stretch(opened, where, range(*piece.groups), piece.row, first)
                for batch, frame in checks.checked_batches(dataset, stretch, chunk_rows, labelled):
                    yield Rows(first, batch, frame, where)
                    first += batch.num_rows
        except UNREADABLE as error:
            complaint = " ".join(str(error).split())[:200]
            raise OSError(f"{where}: cannot be read ({complaint})") from error
        if first - piece.first != piece.rows:
            raise DataError(f"{where}: has changed since its footer was read; start again")
