"""The cells of one column: checked, and turned into numbers, labels, text or times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.bundle.raw import ISO_8601, LABELS, MISSING_TEXT, NUMBER, UNITS, ZONE_NAME, label_word
from lib.data import formats, reading
from lib.data.description import UNLABELLED, LabelWords
from lib.data.formats import DECIMALS, is_decimal
from lib.data.kinds import kind
from lib.errors import DataError

FLOAT32_MAX = float(np.finfo(np.float32).max)
SAY_DECIMAL = (
    "say with `decimal` in the description whether a comma or a point stands before its decimals"
)
A_TIME = (
    "is not a time; write a number or ISO 8601, such as 2024-01-31 13:45:00, or add "
    "`time_format` to the description"
)
INEXACT_ID = (
    "is not an exact identifier: a float with a fraction, or as large as this, may stand for "
    "others as well; store the column as text or integers"
)
FLOAT_AS_TEXT = r" *[+-]?\d+(?:\.\d+)?[eE]\+\d+ *"  # as spreadsheets write large numbers
A_LABEL = (
    "is not a valid label; expected 1 or 0, true or false, yes or no, or an empty cell; for other "
    "words write `label: {column: …, fraud: […], genuine: […]}`"
)
A_LABEL_WORD = "is in none of the label's lists; add it to `fraud`, `genuine` or `unknown`"


class Column:
    """One column of a frame on its way to numbers; remembers its cells, for messages."""

    def __init__(self, where: str | Path, cells: pd.Series, given: formats.Format):
        self.where = where
        self.cells = cells
        self.given = given

    def refuse(self, bad: np.ndarray, what: str) -> None:
        """Raise DataError on the first bad cell, if there is one."""
        if np.any(bad):
            self._refuse_cell(int(np.argmax(bad)), what)

    def _refuse_all(self, what: str) -> None:
        """Raise DataError on the first cell."""
        self._refuse_cell(0, what)

    def _refuse_cell(self, place: int, what: str) -> NoReturn:
        row = int(self.cells.index[place])
        value = shown(self.cells.iloc[place])
        line = None
        if isinstance(self.where, Path):
            line = reading.line_of(self.where, row, self.given)
        at = f"row {row + 1:,}"
        if line:
            at = f"{at} (line {line:,})"
        name = self.cells.name
        raise DataError(f"{self.where}, {at}, column {name!r}: {value} {what}")

    @property
    def is_number(self) -> bool:
        """Whether the cells came as numbers."""
        return pd.api.types.is_numeric_dtype(self.cells)

    @property
    def is_date(self) -> bool:
        """Whether the cells came as dates or durations."""
        kinds = pd.api.types
        is_instant = kinds.is_datetime64_any_dtype(self.cells)
        return is_instant or kinds.is_timedelta64_dtype(self.cells)

    def stripped(self) -> pd.Series:
        """Return the cells as text without blanks around them."""
        text = self.cells.astype("str").fillna("")
        return text.str.strip()

    def missing(self) -> np.ndarray:
        """Return which cells (n,) are empty or say that nothing is known."""
        lower = self.stripped().str.lower()
        says_nothing = lower.isin(MISSING_TEXT)
        is_missing = says_nothing | self.cells.isna()
        return is_missing.to_numpy(bool)

    def _parsed(self) -> tuple[np.ndarray, np.ndarray]:
        """Parse text as numbers: values (n,), NaN where that fails, and which cells are missing."""
        text = self.stripped()
        lower = text.str.lower()
        missing = lower.isin(MISSING_TEXT).to_numpy(bool)
        text = self._with_points(text)
        text = text.mask(lower == "true", "1")
        text = text.mask(lower == "false", "0")
        text = text.mask(missing, "nan")
        try:
            numbers = pa.array(text, pa.string()).cast(pa.float64())
            values = numbers.to_numpy()
        except pa.ArrowInvalid:
            numbers = pd.to_numeric(text, errors="coerce")
            values = np.asarray(numbers, np.float64)
        return values, missing

    def _with_points(self, text: pd.Series) -> pd.Series:
        """Return text with points for decimal commas, and a CSV file's other points marked."""
        decimal = self.given.decimal
        if isinstance(self.where, Path) and kind(self.where) != "parquet":
            decimal = formats.dialect(self.where, self.given).decimal
            if decimal == ",":
                text = text.str.replace(".", "?", regex=False)
        if decimal != ",":
            return text
        return text.str.replace(",", ".", regex=False)

    def words(self, n: int = 3) -> list[str]:
        """Return up to `n` different values that are text and no numbers."""
        if self.is_number or self.is_date:
            return []
        values, missing = self._parsed()
        is_odd = np.isnan(values) & ~missing
        odd = self.stripped()[is_odd]
        return [value[:40] for value in odd.unique()[:n]]

    def numbers(self) -> np.ndarray:
        """Return float64 (n,), NaN where missing; text is parsed, true and false are 1 and 0."""
        if self.is_number:
            return self.cells.to_numpy(dtype=np.float64, na_value=np.nan)
        if self.is_date:
            self._refuse_all("is a date or a duration where a number is needed")
        values, missing = self._parsed()
        is_odd = np.isnan(values) & ~missing
        if is_odd.any():
            first = self.stripped()[is_odd].iloc[0]
            what = "is not a number"
            if has_decimals([first]):
                what = f"{what}; {SAY_DECIMAL}"
            self.refuse(is_odd, what)
        return values

    def measurements(self, missing: str) -> np.ndarray:
        """Return float64 (n,), NaN where a cell is missing and `missing` allows that."""
        values = self.numbers()
        unusable = ~(np.abs(values) <= FLOAT32_MAX)
        if missing == "refuse":
            what = "is not a finite number; the description allows it with `missing: median`"
            self.refuse(unusable, what)
        if unusable.any():
            return np.where(unusable, np.nan, values)
        return values

    def weights(self) -> np.ndarray:
        """Return float64 (n,), finite and not negative."""
        values = self.numbers()
        is_weight = np.isfinite(values) & (values >= 0)
        self.refuse(~is_weight, "is not a valid weight; a weight is a number from 0 up")
        return values

    def labels(self, words: LabelWords | None) -> np.ndarray:
        """Return int8 (n,): 1 = fraud, 0 = genuine, -1 = not known.

        Parameters
        ----------
        words : the description's own words for fraud, genuine and unknown, or None
        """
        known = LABELS
        what = A_LABEL
        if words is not None:
            known = words.meanings
            what = A_LABEL_WORD
        meanings = dict.fromkeys(MISSING_TEXT, UNLABELLED)
        meanings.update(known)
        # few different values in many rows: each is looked up once
        codes, distinct = pd.factorize(self.cells, use_na_sentinel=True)
        found = [meanings.get(label_word(value)) for value in distinct]
        found.append(UNLABELLED)  # of code -1, an empty cell
        is_odd = np.array([meaning is None for meaning in found])
        self.refuse(is_odd[codes], what)
        return np.array(found, np.int8)[codes]

    def text(self) -> pd.api.extensions.ExtensionArray:
        """Return the cells as text; floats, also those in text, only if whole and exact."""
        cells = self.cells
        if pd.api.types.is_float_dtype(cells):
            values = pa.array(cells, from_pandas=True)
            self.refuse(reading.inexact(values), INEXACT_ID)
            cells = reading.as_text(values).to_pandas()
        text = cells.astype("str")
        is_float = text.str.fullmatch(FLOAT_AS_TEXT, na=False)
        self.refuse(is_float.to_numpy(bool), INEXACT_ID)
        return text.array

    def values(self) -> pd.api.extensions.ExtensionArray:
        """Return the cells as text without blanks around it; missing where they say nothing."""
        codes, found = pd.factorize(pd.Series(self.text()), use_na_sentinel=True)
        stripped = [str(word).strip() for word in found]
        words = [None if word.lower() in MISSING_TEXT else word for word in stripped]
        words.append(None)  # of code -1, an empty cell
        return pd.array(words, dtype="str").take(codes % len(words))

    def times(
        self, time_format: str | None = None, unit: str | None = None
    ) -> np.ndarray | pd.api.extensions.ExtensionArray:
        """Return float64 seconds (n,) for numbers, datetime64 in UTC for dates.

        A date without a zone is taken as UTC.
        """
        cells = self.cells
        if pd.api.types.is_datetime64_any_dtype(cells):
            return self._dates(cells, "is not a time", unit)
        if pd.api.types.is_bool_dtype(cells):
            self._refuse_all("is not a time")
        if time_format is not None:
            text = self.stripped()
            dates = pd.to_datetime(text, format=time_format, utc=True, errors="coerce")
            return self._dates(dates, f"does not match `time_format: {time_format!r}`", unit)
        if self.is_number or self._starts_with_number():
            return self._seconds(unit or "s")
        return self._dates(self._iso_dates(), A_TIME, unit)

    def _seconds(self, unit: str) -> np.ndarray:
        """Return times (n,) that are numbers in seconds."""
        values = self.numbers()
        self.refuse(~np.isfinite(values), "is not a time")
        return values if unit == "s" else values * UNITS[unit]

    def _iso_dates(self) -> pd.Series:
        """Return what is written in ISO 8601 as dates; shorter or swapped is ambiguous."""
        text = self.stripped()
        iso = text.where(text.str.fullmatch(ISO_8601))
        iso = iso.str.replace(ZONE_NAME, "Z", regex=True, flags=re.IGNORECASE)
        return pd.to_datetime(iso, format="ISO8601", utc=True, errors="coerce")

    def _starts_with_number(self) -> bool:
        first = self.stripped().iloc[0]
        with_point = first.replace(",", ".")
        return NUMBER.fullmatch(with_point) is not None

    def _dates(
        self, dates: pd.Series, what: str, unit: str | None
    ) -> pd.api.extensions.ExtensionArray:
        """Return dates in UTC that are all there, and have no unit that would go unheard."""
        self.refuse(dates.isna().to_numpy(), what)
        if unit is not None:
            self._refuse_all("is a date, on which `time_unit` has no effect; leave it out")
        if dates.dt.tz is not None:
            dates = dates.dt.tz_convert(None)
        return dates.array


def has_decimals(words: Sequence[str]) -> bool:
    """Return whether a text would be a number if its comma or point stood before decimals."""
    return any(is_decimal(word, point) for word in words for point in DECIMALS)


def shown(value: Any) -> str:
    """Return a cell's value for a message."""
    if pd.isna(value):
        return "an empty cell or NaN"
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        return repr(value[:80])
    return str(value).removesuffix(".0")
