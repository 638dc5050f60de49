"""Rows: read from whatever holds them, every cell checked, put in time order.

A refusal is a `DataError`: one sentence with file, row, column and value. `dataset` is a
`lib.data.datasets.Dataset`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.data import fingerprints, formats, reading
from lib.data.description import UNLABELLED, LabelWords, label_word
from lib.data.reading import MISSING_TEXT
from lib.data.times import ticks
from lib.errors import DataError, nearest

FLOAT32_MAX = float(np.finfo(np.float32).max)
UNREADABLE = (pa.ArrowException, OSError, EOFError, csv.Error, UnicodeError)
ISO_8601 = r"\d{4}-\d{2}-\d{2}([T ].*)?"
MIDNIGHT = r"[T ]00:00(:00(\.0+)?)?Z?$"  # behind a day that Parquet keeps as an instant
ZONE_NAME = r"\s+(?:UTC|GMT|Z)$"  # as BigQuery writes it
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86_400.0}
FIFTY_YEARS_S = 50 * 365.25 * 86_400
LABELS = {"1": 1, "true": 1, "t": 1, "yes": 1, "y": 1, "0": 0, "false": 0, "f": 0, "no": 0, "n": 0}
A_TIME = (
    "is not a time; write a number or ISO 8601, such as 2024-01-31 13:45:00, or add "
    "`time_format` to the description"
)
INEXACT_ID = (
    "is not an exact identifier: it has a fraction, or is so large a float that others may have "
    "become the same; store the column as text or integers"
)
A_LABEL = (
    "is not a valid label; expected 1 or 0, true or false, yes or no, or an empty cell; for other "
    "words write `label: {column: …, fraud: […], genuine: […]}`"
)


def read_transactions(dataset, path: str | Path, labelled: bool = True) -> pd.DataFrame:
    """Read CSV, CSV.gz, Parquet or a folder of them; every row checked, sorted by time (stable).

    Returns
    -------
    DataFrame of `dataset.columns` under their names: numbers float64, label int8 (-1 = not known),
    ids text, and `dataset.time_column`, float64 seconds or UTC datetime. A declared weight column
    that is absent becomes 1.0. Remarks are in `frame.attrs["remarks"]`; what identifies the rows
    (`lib.data.fingerprints.of_rows`) is in `frame.attrs["fingerprint"]`.

    Raises
    ------
    DataError
        With file, row, column and value.
    """
    chunks, columns_there = [], set()
    for frame, columns in cleaned_parts(dataset, Path(path), None, labelled):
        chunks.append(dict(frame.items()))
        columns_there.update(columns)
    del frame
    names = list(chunks[0])
    # column by column: never two copies of the whole table
    joined = {c: pd.concat([f.pop(c) for f in chunks], ignore_index=True) for c in names}
    frame = pd.DataFrame(joined, copy=False)
    pa.default_memory_pool().release_unused()
    identity = fingerprints.of_rows(dataset, frame) if labelled else None
    frame = in_time_order(dataset, frame, remarks(dataset, frame, columns_there))
    frame.attrs["fingerprint"] = identity
    return frame


def iter_transactions(
    dataset, path: str | Path, rows_per_chunk: int = 100_000, labelled: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield checked frames of at most `rows_per_chunk` rows in the files' order, in flat memory.

    The index is the position in the stream, from 0. Checks as in `read_transactions`, but for
    duplicates and order.
    """
    first = 0
    for frame, _ in cleaned_parts(dataset, Path(path), rows_per_chunk, labelled):
        frame.index = pd.RangeIndex(first, first + len(frame))
        first += len(frame)
        yield frame


def check_header(dataset, path: str | Path) -> None:
    """Raise DataError if a column of the description is missing from a raw file; no row is read."""
    for part in reading.parts(Path(path)):
        try:
            present = reading.columns_of(part, dataset.format)
            columns_to_read(dataset, present, part, labelled=True)
        except UNREADABLE as error:
            raise _explained(dataset, part, True, error) from error


def cleaned_parts(
    dataset, path: Path, rows: int | None, labelled: bool
) -> Iterator[tuple[pd.DataFrame, list[str]]]:
    """Yield (checked frame, names of all columns of its file), file after file."""
    time_is: dict[bool, Path] = {}  # whether it is a number -> the first file where it is so
    first = 0  # rows of the files before
    for part in reading.parts(path):
        n_rows = 0
        try:
            present = reading.columns_of(part, dataset.format)
            for frame in _frames(
                dataset, part, columns_to_read(dataset, present, part, labelled), rows
            ):
                n_rows += len(frame)
                cleaned = clean(dataset, frame, part, labelled, first=first)
                is_number = pd.api.types.is_numeric_dtype(cleaned[dataset.time_column])
                time_is.setdefault(is_number, part)
                if len(time_is) > 1:
                    raise DataError(
                        f"{dataset.time!r} is a number in {time_is[True]} and a date in "
                        f"{time_is[False]}"
                    )
                yield cleaned, present
        except UNREADABLE as error:
            raise _explained(dataset, part, labelled, error) from error
        if not n_rows:
            raise DataError(f"{part}: there are no rows")
        first += n_rows


def _frames(dataset, part: Path, wanted: list[str], rows: int | None) -> Iterator[pd.DataFrame]:
    """Yield a file's frames as they are read fastest; from a cell on that needs it, as text."""
    text = set(dataset.ids) | _read_as_text(dataset)
    options = {"rows": rows, "given": dataset.format}
    n_rows = 0
    try:
        for frame in reading.batches(part, wanted, text=text, **options):
            n_rows += len(frame)
            yield frame
    except pa.ArrowInvalid:
        if reading.kind(part) == "parquet" or formats.not_decodable(part, dataset.format):
            raise
        for frame in reading.batches(part, wanted, text=wanted, **options):
            later = frame.loc[frame.index >= n_rows]
            if len(later):
                yield later


def _read_as_text(dataset) -> set[str]:
    """Return the columns whose cells mean something as text that they do not mean as numbers."""
    text = set()
    if dataset.time_format is not None or len(dataset.time_columns) > 1:
        text.update(dataset.time_columns)
    return text


def _explained(dataset, part: Path, labelled: bool, error: Exception) -> DataError:
    """Return the cell that caused a reader's complaint, by reading a CSV file once more as text."""
    reason = f"{part}: cannot be read ({' '.join(str(error).split())[:200]})"
    try:
        if reading.kind(part) == "parquet":
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


def check(dataset, frame: pd.DataFrame, where: str | Path, labelled: bool = True) -> list[str]:
    """Raise DataError at the first thing that cannot be used; return what is only worth knowing.

    Parameters
    ----------
    where : the file (or words) to name
    labelled : False for new data: the label is neither asked for nor read
    """
    return prepare(dataset, frame, where, labelled).attrs["remarks"]


def prepare(dataset, frame: pd.DataFrame, where: str | Path, labelled: bool = True) -> pd.DataFrame:
    """Return a frame checked and in time order (stable), only the dataset's columns.

    Remarks are in `.attrs["remarks"]`.
    """
    cleaned = clean(dataset, frame.reset_index(drop=True), where, labelled)
    said = remarks(dataset, cleaned, {str(column) for column in frame.columns})
    return in_time_order(dataset, cleaned, said)


def in_time_order(dataset, frame: pd.DataFrame, said: list[str]) -> pd.DataFrame:
    """Sort a cleaned frame, which is used up, by time, rows of one instant as they came."""
    time = ticks(frame[dataset.time_column])
    if np.any(time[1:] < time[:-1]):
        order = np.argsort(time, kind="stable")
        taken = {column: frame.pop(column).take(order).array for column in list(frame.columns)}
        frame = pd.DataFrame(taken, copy=False)
    frame.attrs["remarks"] = said
    return frame


def remarks(dataset, frame: pd.DataFrame, columns_there: set[str]) -> list[str]:
    """Return sentences on what is kept as it is: extra columns, missing cells, duplicates, odd
    times.
    """
    said = []
    extra = sorted(columns_there - set(dataset.columns))
    if extra:
        shown = ", ".join(extra[:10]) + (", …" if len(extra) > 10 else "")
        said.append(
            f"columns that are not in the description and are ignored ({len(extra)}): {shown}"
        )
    if dataset.weight is not None and dataset.weight not in columns_there:
        said.append(f"there is no column {dataset.weight!r}: every row weighs 1")
    measured = [*dataset.features, *([dataset.amount] if dataset.amount is not None else [])]
    for column in dict.fromkeys(measured):
        n_missing = int(frame[column].isna().sum())
        if n_missing == len(frame):
            said.append(f"column {column!r} is empty: it stays a constant")
        elif n_missing:
            said.append(f"cells of column {column!r} for which the median stands in: {n_missing:,}")
    if dataset.label is not None and dataset.label in frame.columns:
        n_unknown = int((frame[dataset.label] == UNLABELLED).sum())
        if n_unknown:
            said.append(f"unlabelled rows, in no metric: {n_unknown:,} of {len(frame):,}")
    said += _remarks_on_time(dataset, frame)
    own = frame[[column for column in frame.columns if column in columns_there]]
    n_duplicates = int(pd.util.hash_pandas_object(own, index=False).duplicated().sum())
    if n_duplicates:
        said.append(f"rows that repeat an earlier row and are kept: {n_duplicates:,}")
    return said


def _remarks_on_time(dataset, frame: pd.DataFrame) -> list[str]:
    """Return what makes a time that is a number implausible as seconds."""
    if dataset.time is None:
        return [
            "there is no time: the order of the rows stands for it, and had better be the order "
            "of time"
        ]
    time = frame[dataset.time_column]
    if dataset.time_unit is not None or not pd.api.types.is_numeric_dtype(time):
        return []
    instants = np.unique(time.to_numpy(np.float64))
    if len(instants) < 2:
        return []
    steps, span_s = np.diff(instants), instants[-1] - instants[0]
    why = None
    if span_s > FIFTY_YEARS_S:
        why = f"spans {span_s / FIFTY_YEARS_S * 50:,.0f} years"
    elif np.all(steps % 1000 == 0):
        why = "has steps of whole thousands only"
    elif len(instants) < 10 * span_s / 3600:
        why = f"has {3600 * len(instants) / span_s:.2g} distinct values an hour"
    elif len(frame) >= 20 * len(instants):
        why = f"has {len(frame) / len(instants):,.0f} rows at each of its {len(instants):,} values"
    if why is None:
        return []
    return [
        f"{dataset.time!r} is taken as seconds and {why}; "
        "if its unit is another, say so with `time_unit` (ms, us, ns, min, h or d)"
    ]


def clean(
    dataset, frame: pd.DataFrame, where: str | Path, labelled: bool = True, first: int = 0
) -> pd.DataFrame:
    """Return the dataset's columns with each cell checked, and one column of time.

    Numbers become float64, the label int8, ids text, time float64 seconds or UTC datetime. Cells
    that are missing, infinite or beyond float32 become NaN where the description says `missing:
    median`.

    Parameters
    ----------
    frame : its index is the 0-based row to name in messages; for a CSV file the line is looked up
        too
    first : rows of the table before this file, for a table without a time
    """
    frame = frame.set_axis(frame.columns.astype(str), axis="columns")
    wanted = columns_to_read(dataset, list(frame.columns), where, labelled)
    if not len(frame):
        raise DataError(f"{where}: there are no rows")
    cells = {column: _Column(where, frame[column], dataset.format) for column in wanted}
    _refuse_text(dataset, cells, where)
    order_of_rows = np.arange(first, first + len(frame), dtype=np.float64)
    result = {dataset.time_column: _time(dataset, cells, where, order_of_rows)}
    for column, cell in cells.items():
        if column in dataset.time_columns:
            continue
        if column in dataset.ids:
            result[column] = cell.text()
        elif column == dataset.label:
            result[column] = cell.labels(dataset.label_words)
        elif column == dataset.weight:
            result[column] = cell.weights()
        else:
            is_amount = column == dataset.amount
            result[column] = cell.measurements(dataset.missing)
            if is_amount and dataset.negative_amount == "refuse":
                what = "is negative; the description allows it with `negative_amount: allow`"
                cell.refuse(result[column] < 0, what)
    if dataset.weight is not None:
        result.setdefault(dataset.weight, np.ones(len(frame)))
    columns = [column for column in dataset.columns if column not in dataset.time_columns]
    order = [dataset.time_column, *(column for column in columns if column in result)]
    return pd.DataFrame({c: result[c] for c in order}, index=frame.index, copy=False)


def _refuse_text(dataset, cells: dict[str, _Column], where: str | Path) -> None:
    """Refuse all columns at once that hold text where numbers are needed."""
    other = {*dataset.time_columns, *dataset.ids, dataset.label}
    found = {}
    for column, cell in cells.items():
        if column not in other:
            values = cell.words()
            if values:
                found[column] = values
    if len(found) > 1:  # one is refused with its row
        listed = "; ".join(
            f"{column!r} ({', '.join(map(repr, values))})" for column, values in found.items()
        )
        raise DataError(
            f"{where}: {len(found)} columns hold text where numbers are needed: {listed}; "
            "leave them out of `features`, or put numbers in their place"
        )


def _time(dataset, cells: dict[str, _Column], where: str | Path, order: np.ndarray):
    """Return the time of each row: float64 seconds (n,), or datetime64 in UTC."""
    if dataset.time is None:
        return order
    if len(dataset.time_columns) == 1:
        cell = cells[dataset.time]
        return cell.times(dataset.time_format, dataset.time_unit)
    for column in dataset.time_columns:
        cells[column].refuse(cells[column].missing(), "is not a date or a clock")
    day, clock = (cells[column].stripped() for column in dataset.time_columns)
    if dataset.time_format is None:
        day = day.str.replace(MIDNIGHT, "", regex=True)
    both = day.str.cat(clock, sep=" ").rename(" and ".join(dataset.time_columns))
    return _Column(where, both, dataset.format).times(dataset.time_format)


def columns_to_read(dataset, present: list[str], where, labelled: bool) -> list[str]:
    """Return the dataset's columns among those present.

    Raises DataError for one that is absent (but the weight) or there twice.
    """
    optional = {dataset.weight} - set(present)
    if not labelled:
        optional.add(dataset.label)
    wanted = [column for column in dataset.columns if column not in optional]
    for column in wanted:
        if present.count(column) > 1:
            raise DataError(f"{where}: column {column!r} is there {present.count(column)} times")
        if column not in present:
            raise DataError(f"{where}: column {column!r} is missing; {_instead(column, present)}")
    return wanted


def _instead(column: str, present: list[str]) -> str:
    if any("�" in name for name in present):
        return (
            "the header is not UTF-8; name the file's encoding in the description, such as "
            "`encoding: cp1252`"
        )
    near = nearest(column, present)
    if near is not None:
        return f"the nearest is {near!r}"
    there = ", ".join(present[:40]) + (", …" if len(present) > 40 else "")
    is_one = "; name what separates its cells with `separator`" if len(present) == 1 else ""
    return f"there are: {there}{is_one}"


class _Column:
    """One column of a frame on its way to numbers; remembers the cells as they were, for
    messages.
    """

    def __init__(self, where, cells: pd.Series, given: formats.Format):
        self.where, self.cells, self.given = where, cells, given

    def refuse(self, bad: np.ndarray, what: str) -> None:
        """Raise DataError on the first bad cell, if there is one."""
        if not np.any(bad):
            return
        place = int(np.argmax(bad))
        row, value = int(self.cells.index[place]), self.cells.iloc[place]
        is_file = isinstance(self.where, Path)
        line = reading.line_of(self.where, row, self.given) if is_file else None
        at = f"row {row + 1:,}" + (f" (line {line:,})" if line else "")
        raise DataError(f"{self.where}, {at}, column {self.cells.name!r}: {_shown(value)} {what}")

    @property
    def _is_number(self) -> bool:
        return pd.api.types.is_numeric_dtype(self.cells)

    @property
    def _is_date(self) -> bool:
        kinds = pd.api.types
        return kinds.is_datetime64_any_dtype(self.cells) or kinds.is_timedelta64_dtype(self.cells)

    def stripped(self) -> pd.Series:
        """Return the cells as text without blanks around them."""
        return self.cells.astype("str").fillna("").str.strip()

    def missing(self) -> np.ndarray:
        """Return which cells (n,) are empty or say that nothing is known."""
        says_nothing = self.stripped().str.lower().isin(MISSING_TEXT)
        return (says_nothing | self.cells.isna()).to_numpy(bool)

    def _parsed(self) -> tuple[np.ndarray, np.ndarray]:
        """Parse text as numbers: values (n,), NaN where that fails, and which cells are missing."""
        text = self.stripped()
        lower = text.str.lower()
        missing = lower.isin(MISSING_TEXT).to_numpy(bool)
        if self.given.decimal == "," or self._has_decimal_comma():
            text = text.str.replace(",", ".", regex=False)
        text = text.mask(lower == "true", "1").mask(lower == "false", "0").mask(missing, "nan")
        try:
            values = pa.array(text, pa.string()).cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            values = np.asarray(pd.to_numeric(text, errors="coerce"), np.float64)
        return values, missing

    def _has_decimal_comma(self) -> bool:
        """Return whether the file's own rows write a decimal comma."""
        if not isinstance(self.where, Path) or reading.kind(self.where) == "parquet":
            return False
        return formats.dialect(self.where, self.given).decimal == ","

    def words(self, n: int = 3) -> list[str]:
        """Return up to `n` different values that are text and no numbers."""
        if self._is_number or self._is_date:
            return []
        values, missing = self._parsed()
        odd = self.stripped()[np.isnan(values) & ~missing]
        return [value[:40] for value in odd.unique()[:n]]

    def numbers(self) -> np.ndarray:
        """Return float64 (n,), NaN where missing; text is parsed, true and false are 1 and 0."""
        if self._is_number:
            return self.cells.to_numpy(dtype=np.float64, na_value=np.nan)
        if self._is_date:
            every = np.ones(len(self.cells), bool)
            self.refuse(every, "is a date or a duration where a number is needed")
        values, missing = self._parsed()
        self.refuse(np.isnan(values) & ~missing, "is not a number")
        return values

    def measurements(self, missing: str) -> np.ndarray:
        """Return float64 (n,), NaN where a cell is missing and `missing` allows that."""
        values = self.numbers()
        unusable = ~(np.abs(values) <= FLOAT32_MAX)
        if missing == "refuse":
            what = "is not a finite number; the description allows it with `missing: median`"
            self.refuse(unusable, what)
        return np.where(unusable, np.nan, values) if unusable.any() else values

    def weights(self) -> np.ndarray:
        """Return float64 (n,), finite and not negative."""
        values = self.numbers()
        bad = ~(np.isfinite(values) & (values >= 0))
        self.refuse(bad, "is not a valid weight; a weight is a number from 0 up")
        return values

    def labels(self, words: LabelWords | None) -> np.ndarray:
        """Return int8 (n,): 1 = fraud, 0 = genuine, -1 = not known.

        Parameters
        ----------
        words : the description's own words for fraud, genuine and unknown, or None
        """
        known, what = LABELS, A_LABEL
        if words is not None:
            known = words.meanings
            what = "is in none of the label's lists; add it to `fraud`, `genuine` or `unknown`"
        unknown = dict.fromkeys(MISSING_TEXT, UNLABELLED)
        # few different values in many rows: each is looked up once
        codes, distinct = pd.factorize(self.cells, use_na_sentinel=True)
        meaning = [(unknown | known).get(label_word(value)) for value in distinct]
        is_odd = np.array([each is None for each in meaning] + [False])
        self.refuse(is_odd[codes], what)
        return np.array([*meaning, UNLABELLED], np.int8)[codes]

    def text(self) -> pd.api.extensions.ExtensionArray:
        """Return the cells as text; floats only where they are whole and exact."""
        if pd.api.types.is_float_dtype(self.cells):
            values = pa.array(self.cells, from_pandas=True)
            self.refuse(reading.inexact(values), INEXACT_ID)
            return reading.as_text(values).to_pandas().astype("str").array
        return self.cells.astype("str").array

    def times(self, time_format: str | None = None, unit: str | None = None):
        """Return float64 seconds (n,) for numbers, datetime64 in UTC for dates.

        A date without a zone is taken as UTC.
        """
        cells = self.cells
        if pd.api.types.is_datetime64_any_dtype(cells):
            dates = cells if cells.dt.tz is None else cells.dt.tz_convert(None)
            return self._dates(dates, "is not a time", unit)
        if pd.api.types.is_bool_dtype(cells):
            self.refuse(np.ones(len(cells), bool), "is not a time")
        if time_format is not None:
            dates = pd.to_datetime(self.stripped(), format=time_format, utc=True, errors="coerce")
            what = f"does not match `time_format: {time_format!r}`"
            return self._dates(dates.dt.tz_convert(None), what, unit)
        if not self._is_number and not self._starts_with_number():
            text = self.stripped()
            iso = text.where(text.str.fullmatch(ISO_8601))  # shorter or swapped is ambiguous
            iso = iso.str.replace(ZONE_NAME, "Z", regex=True, flags=re.IGNORECASE)
            dates = pd.to_datetime(iso, format="ISO8601", utc=True, errors="coerce")
            return self._dates(dates.dt.tz_convert(None), A_TIME, unit)
        values = self.numbers()
        self.refuse(~np.isfinite(values), "is not a time")
        unit_s = SECONDS[unit or "s"]
        return values if unit_s == 1.0 else values * unit_s

    def _starts_with_number(self) -> bool:
        first = self.stripped().iloc[0]
        return reading.NUMBER.fullmatch(first.replace(",", ".")) is not None

    def _dates(self, dates: pd.Series, what: str, unit: str | None):
        """Return dates that are all there, and have no unit that would go unheard."""
        self.refuse(dates.isna().to_numpy(), what)
        if unit is not None:
            is_date = np.ones(len(dates), bool)
            self.refuse(is_date, "is a date, on which `time_unit` has no effect; leave it out")
        return dates.array


def _shown(value) -> str:
    """Return a cell's value for a message."""
    if pd.isna(value):
        return "an empty cell or NaN"
    if isinstance(value, str) and not reading.NUMBER.fullmatch(value):
        return repr(value[:80])
    return str(value).removesuffix(".0")
