"""Columns that cannot be used: found in a header and in cells, refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lib.data.cells import SAY_DECIMAL, Column, has_decimals
from lib.errors import DataError, nearest

N_SHOWN = 40
OTHER_ENCODING = (
    "the header is not UTF-8, or not what `encoding` says; name the file's encoding in the "
    "description, such as `encoding: cp1252`"
)
NO_NUMBERS = "leave what is no number out of `features`, or put numbers in its place"


@dataclass
class Unusable:
    """The columns of a table that cannot be used, by reason."""

    where: str | Path
    present: list[str]  # names of all columns of the table
    missing: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    nested: dict[str, str] = field(default_factory=dict)  # {column: its type}
    dates: list[str] = field(default_factory=list)
    text: dict[str, list[str]] = field(default_factory=dict)  # {column: some of its values}

    def look_at_header(self, wanted: Iterable[str], nested: Mapping[str, str]) -> None:
        """Find what the names and types of the columns tell."""
        for column in wanted:
            if column not in self.present:
                self.missing.append(column)
            elif self.present.count(column) > 1:
                self.repeated.append(column)
            elif column in nested:
                self.nested[column] = nested[column]

    def look_at_cells(self, cells: Iterable[Column]) -> None:
        """Find text and dates among columns that have to be numbers."""
        for cell in cells:
            name = str(cell.cells.name)
            if cell.is_date:
                self.dates.append(name)
                continue
            words = cell.words()
            if words:
                self.text[name] = words

    @property
    def columns(self) -> list[str]:
        """All of them."""
        return [
            *self.missing,
            *self.repeated,
            *self.nested,
            *self.dates,
            *self.text,
        ]

    def refuse(self, at_least: int = 1) -> None:
        """Raise DataError if there are at least as many."""
        n = len(self.columns)
        if n < at_least:
            return
        reason = self._of_one() if n == 1 else self._of_several()
        raise DataError(f"{self.where}: {reason}")

    def _of_one(self) -> str:
        """Return what is wrong with the one column that is missing, repeated or nested."""
        (column,) = self.columns
        named = f"column {column!r}"
        if self.missing:
            near = self._nearest(column)
            advice = self._there()
            if near is not None:
                advice = f"the nearest is {near!r}"
            advice = self._encoding() or advice
            return f"{named} is missing; {advice}"
        if self.repeated:
            return f"{named} is there {self.present.count(column)} times"
        if self.nested:
            what = f"holds lists or records ({self.nested[column]})"
            return f"{named} {what}; take it apart into columns of its own"
        return f"{named} does not hold numbers; {NO_NUMBERS}"

    def _of_several(self) -> str:
        """Return what is wrong with all of them, and what to do."""
        groups = {
            "missing": [self._missing(column) for column in self.missing],
            "there more than once": [repr(column) for column in self.repeated],
            "lists or records in": _with_notes(self.nested),
            "dates in": [repr(column) for column in self.dates],
            "text in": _with_notes(self._samples()),
        }
        said = [f"{len(self.columns)} columns cannot be used"]
        for what, names in groups.items():
            if names:
                listed = ", ".join(names)
                said.append(f"{what} {listed}")
        said += self._advice()
        return "; ".join(said)

    def _samples(self) -> dict[str, str]:
        """Return the columns of text with some of their values as they are shown."""
        samples = {}
        for column, words in self.text.items():
            shown = [repr(word) for word in words]
            samples[column] = ", ".join(shown)
        return samples

    def _advice(self) -> list[str]:
        """Return what to do about several columns."""
        advice = []
        encoding = self._encoding()
        if encoding:
            advice.append(encoding)
        elif any(self._nearest(column) is None for column in self.missing):
            advice.append(self._there())
        if self.dates or self.text or self.nested:
            advice.append(NO_NUMBERS)
        if any(has_decimals(words) for words in self.text.values()):
            advice.append(SAY_DECIMAL)
        return advice

    def _missing(self, column: str) -> str:
        near = self._nearest(column)
        if near is None:
            return repr(column)
        return f"{column!r} (the nearest is {near!r})"

    def _nearest(self, column: str) -> str | None:
        return nearest(column, self.present)

    def _encoding(self) -> str | None:
        """Return the advice on a header in another encoding, if that is why names are missing."""
        is_garbled = any("�" in name for name in self.present)
        if self.missing and is_garbled:
            return OTHER_ENCODING
        return None

    def _there(self) -> str:
        """Return which columns there are."""
        names = self.present[:N_SHOWN]
        if len(self.present) > N_SHOWN:
            names.append("…")
        listed = ", ".join(names)
        said = f"there are: {listed}"
        if len(self.present) == 1:
            said += "; name what separates its cells with `separator`"
        return said


def _with_notes(notes: Mapping[str, str]) -> list[str]:
    return [f"{column!r} ({note})" for column, note in notes.items()]
