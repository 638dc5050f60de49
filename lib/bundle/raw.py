"""Raw transactions, as a server is sent them: checked cell by cell, and made into features.

What a table's rows are for training, checked by `lib.data` and derived by `lib.data.features`, a
single transaction is here. The manifest carries what that takes under `recipe`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from lib.bundle import by_row, categories, windows
from lib.bundle.by_row import MICROSECONDS
from lib.bundle.manifest import FLOAT32_MAX
from lib.bundle.recipe import (
    OF_LABELS,
    OF_NUMBERS,
    Arithmetic,
    Calendar,
    Category,
    Derived,
    Distance,
    Recipe,
    SinceLast,
    Window,
    parsed,
)
from lib.bundle.windows import Past

MISSING_TEXT = ("", "nan", "na", "n/a", "#n/a", "null", "none", "<na>", r"\n", "-")  # lower case
ISO_8601 = r"\d{4}-\d{2}-\d{2}([T ].*)?"
ZONE_NAME = r"\s+(?:UTC|GMT|Z)$"  # as BigQuery writes it
MIDNIGHT = r"[T ]00:00(:00(\.0+)?)?(Z|\+00:?00)?$"  # behind a day that is kept as an instant
UNITS = {  # of a time that is a number -> seconds
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LAST_S = 9e12  # so that instants in microseconds are integers of 64 bits
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
TRUE_WORDS = ("1", "true", "t", "yes", "y")
FALSE_WORDS = ("0", "false", "f", "no", "n")
LABELS = dict.fromkeys(TRUE_WORDS, 1) | dict.fromkeys(FALSE_WORDS, 0)
UNKNOWN = -1  # a label that says that nobody knows yet


class CellError(ValueError):
    """A cell cannot be used; the message ends a sentence that begins with row and column."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True, slots=True)
class Transaction:
    """One raw transaction, checked.

    Attributes
    ----------
    id : empty where none was given
    t : microseconds since 1970-01-01 UTC, or since whatever instant a time counts from that is a
        number; 0 where the table has no time
    numbers : {column: float, NaN where missing}
    texts : {column: text, None where missing}
    """

    id: str
    t: int
    numbers: Mapping[str, float]
    texts: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a transaction has to know of the earlier ones of an entity.

    Attributes
    ----------
    entity, value : the column, and the text that the transactions have in common
    begin, end : their instants: begin < t <= end, in microseconds
    before : the present instant, if the latest one before it is asked for; None: it is not
    id : of a transaction that does not count: the present one, should it be sent once more
    needs : what is asked for of each transaction
    """

    entity: str
    value: str
    begin: int
    end: int
    before: int | None
    id: str
    needs: Needs


@dataclass(frozen=True, slots=True)
class Needs:
    """What histories of one entity need of its transactions: columns, and whether their labels."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    labels: bool


def label_word(value: Any) -> str:
    """Return a label as it is compared: text without blanks around it, whatever its case.

    Whole numbers are the same word however they are written: 1, 1.0 and '1'.
    """
    text = str(value).strip().casefold()
    if not NUMBER.fullmatch(text):
        return text
    return re.sub(r"\.0*$", "", text)


class RawTable:
    """What the columns of raw transactions mean to one model.

    Parameters
    ----------
    manifest : of a bundle; it holds `recipe` (see `lib.registry.candidates`), `features`, `missing`

    Attributes
    ----------
    id, label : columns, or None
    numbers, texts, time : the columns that a transaction must have, by kind
    recipe : lib.bundle.recipe.Recipe
    encoders : {feature of a category: its encoder}, see `lib.bundle.categories`
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        given = manifest["recipe"]
        features = [parsed(f) if isinstance(f, dict) else f for f in given["features"]]
        derived = tuple(f for f in features if not isinstance(f, str))
        self.recipe = Recipe(derived, tuple(given["entities"]), given.get("timezone"))
        self.features = tuple(manifest["features"])
        self.encoders: dict[str, dict] = given["encoders"]
        self.id: str | None = given.get("id")
        self.label: str | None = given.get("label")
        self.label_words: dict[str, int] = given.get("label_words", {})
        self.missing = manifest.get("missing", "refuse")
        self.amount: str | None = given.get("amount")
        self.allows_negative_amount = given.get("negative_amount") == "allow"
        time = given.get("time") or {"columns": []}
        self.time: tuple[str, ...] = tuple(time["columns"])
        self.has_dates = time.get("kind") == "datetime"
        self.time_format: str | None = time.get("format")
        self.time_unit: str = time.get("unit") or "s"
        self.texts = self.recipe.texts
        plain = [f for f in features if isinstance(f, str)]
        amount = [] if self.amount is None else [self.amount]
        self.numbers = tuple(dict.fromkeys([*plain, *self.recipe.coordinates, *amount]))
        self.order = self.recipe.in_order()
        self.by_entity = _by_entity(self.recipe)

    @property
    def has_histories(self) -> bool:
        """Whether earlier transactions tell a feature, so that they have to be remembered."""
        return bool(self.recipe.histories)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a transaction must have, each once; the id is another one."""
        return tuple(dict.fromkeys((*self.time, *self.numbers, *self.texts)))

    @property
    def oldest(self) -> int:
        """How long ago a transaction may be that a window covers, in microseconds."""
        return max((oldest for _, _, oldest, _ in self.by_entity), default=0)

    @property
    def latest_of(self) -> tuple[str, ...]:
        """Entities whose latest transaction is asked for, however long ago it was."""
        with_last = [f.entity for f in self.recipe.histories if isinstance(f, SinceLast)]
        return tuple(dict.fromkeys(with_last))

    def read(self, row: Mapping[str, Any]) -> Transaction:
        """Return a transaction of a row {column: value}, as JSON has it; others are left out.

        Raises
        ------
        CellError
            For a column that is missing, or a cell that cannot be used.
        """
        for column in self.columns:
            if column not in row:
                raise CellError(column, "is missing")
        t = self.instant(row) if self.time else 0
        numbers = {column: self._number(column, row[column]) for column in self.numbers}
        refuses_negative = self.amount is not None and not self.allows_negative_amount
        if refuses_negative and numbers[self.amount] < 0:
            shown = _shown(row[self.amount])
            raise CellError(self.amount, f"is {shown}; an amount cannot be negative here")
        texts = {column: self._text(column, row[column]) for column in self.texts}
        return Transaction(self.identity(row.get(self.id)), t, numbers, texts)

    def identity(self, value: Any) -> str:
        """Return the text of a transaction's id; empty where there is none."""
        if value is None or self.id is None:
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise CellError(self.id, f"is {_shown(value)}; expected text")
        return str(value)

    def _number(self, column: str, value: Any) -> float:
        if value is None:
            if self.missing == "refuse":
                raise CellError(column, "is null; this model needs every value")
            return math.nan
        if not isinstance(value, bool | int | float):
            raise CellError(column, f"is {_shown(value)}; expected a number")
        if not abs(value) <= FLOAT32_MAX:
            raise CellError(column, f"is {_shown(value)}, beyond ±3.4e38, the range of float32")
        return float(value)

    def _text(self, column: str, value: Any) -> str | None:
        """Return the text of an entity or a category; None where it says nothing."""
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str | bool | int):
            raise CellError(column, f"is {_shown(value)}; expected text")
        text = str(value).strip()
        return None if text.lower() in MISSING_TEXT else text

    def instant(self, row: Mapping[str, Any]) -> int:
        """Return the instant of a row in microseconds; CellError if it cannot be told."""
        first = self.time[0]
        if not self.has_dates:
            value = row[first]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise CellError(first, f"is {_shown(value)}; this model's time is a number")
            seconds = float(value) if self.time_unit == "s" else value * UNITS[self.time_unit]
            if not abs(seconds) <= LAST_S:
                raise CellError(first, f"is {_shown(value)}; it is too far away")
            return round(seconds * MICROSECONDS)
        for column in self.time:
            if not isinstance(row[column], str):
                raise CellError(column, f"is {_shown(row[column])}; expected a date as text")
        text = row[first].strip()
        if len(self.time) > 1:
            day = text if self.time_format else re.sub(MIDNIGHT, "", text)
            text = f"{day} {row[self.time[1]].strip()}"
        found = self._dated(text)
        if found is None:
            raise CellError(first, f"is {_shown(text)}; expected {self._written}")
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        return (found - EPOCH) // MICROSECOND

    def _dated(self, text: str) -> datetime | None:
        """Return what a text says in the table's own format or in ISO 8601; None if neither."""
        if self.time_format is not None:
            # ISO 8601 is taken as well
            with contextlib.suppress(ValueError):
                return datetime.strptime(text, self.time_format)
        if not re.fullmatch(ISO_8601, text):
            return None
        try:
            return datetime.fromisoformat(re.sub(ZONE_NAME, "Z", text, flags=re.IGNORECASE))
        except ValueError:
            return None

    @property
    def _written(self) -> str:
        """How a date is written, for a message."""
        iso = "ISO 8601, such as 2024-01-31T13:45:00Z"
        return iso if self.time_format is None else f"{self.time_format} or {iso}"

    def example(self, medians: Mapping[str, float], now: datetime) -> dict[str, Any]:
        """Return a raw transaction to try: of nobody, with usual values as far as they are known.

        Parameters
        ----------
        medians : {feature: its median in reference}
        now : when it is, in UTC
        """
        row: dict[str, Any] = {} if self.id is None else {self.id: "try-1"}
        for column in self.time:
            row[column] = 0.0
        if self.has_dates:
            one = len(self.time) == 1
            row[self.time[0]] = now.strftime("%Y-%m-%dT%H:%M:%SZ" if one else "%Y-%m-%d")
            row |= {clock: now.strftime("%H:%M:%S") for clock in self.time[1:]}
        for column in self.numbers:
            row[column] = float(f"{medians.get(column, 1.0):.4g}")
        for column in self.texts:
            row[column] = f"some {column}"
        for category in self.recipe.categories:
            # the most frequent value of reference comes first
            words = (word for word in self.encoders[category.name]["shares"] if word)
            row[category.column] = next(words, row[category.column])
        return row

    def known_label(self, value: Any, column: str | None = None) -> int | None:
        """Return 1 for fraud, 0 for genuine, None for not known yet; CellError for another word.

        column : where it stands; only the table's own column has the table's own words
        """
        if value is None:
            return None
        meanings = dict.fromkeys(MISSING_TEXT, UNKNOWN) | LABELS
        if column is None or column == self.label:
            meanings |= self.label_words
        meaning = meanings.get(label_word(value))
        if meaning is None:
            raise CellError(column or self.label or "label", f"is {_shown(value)}; expected 1 or 0")
        return None if meaning == UNKNOWN else meaning

    def said(self, fraud: int) -> Any:
        """Return how the table's own column says 1 (fraud) or 0 (genuine)."""
        own = (word for word, meaning in self.label_words.items() if meaning == fraud)
        return next(own, fraud)

    def lookups(self, transaction: Transaction) -> list[Lookup]:
        """Return what has to be looked up for a transaction; nothing of an entity that is missing.

        `matrix` takes the answers under the names of the entities.
        """
        asked = []
        for entity, needs, oldest, newest in self.by_entity:
            value = transaction.texts[entity]
            if value is None:
                continue
            t = transaction.t
            before = t if entity in self.latest_of else None
            end = t - max(newest, 1)  # not those of the same instant
            asked.append(Lookup(entity, value, t - oldest, end, before, transaction.id, needs))
        return asked

    def matrix(
        self, transactions: Sequence[Transaction], pasts: Sequence[Mapping[str, Past]]
    ) -> np.ndarray:
        """Return the features (n, d) float64 of transactions, NaN where one is missing.

        Parameters
        ----------
        pasts : for each transaction {entity: its earlier ones}; an entity without any may be absent
        """
        columns: dict[str, np.ndarray] = {}
        for name in self.numbers:
            columns[name] = np.array([transaction.numbers[name] for transaction in transactions])
        for feature in self.order:
            if isinstance(feature, Window | SinceLast):
                values = _histories(feature, transactions, pasts)
            else:
                values = by_row.usable(self._by_row(feature, transactions, columns))
            columns[feature.name] = values
        return np.column_stack([columns[name] for name in self.features])

    def _by_row(
        self,
        feature: Derived,
        transactions: Sequence[Transaction],
        columns: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        """Return the values (n,) of a feature that a row tells; what it needs is in `columns`."""
        if isinstance(feature, Category):
            words = [transaction.texts[feature.column] for transaction in transactions]
            return categories.rarity(self.encoders[feature.name], words)
        if isinstance(feature, Calendar):
            t = np.array([transaction.t for transaction in transactions], np.int64)
            return by_row.calendar(feature.part, t, self.recipe.timezone)
        if isinstance(feature, Distance):
            return by_row.distance_km(*(columns[name] for name in feature.columns))
        assert isinstance(feature, Arithmetic)
        left, right = columns[feature.left], columns[feature.right]
        return by_row.arithmetic(feature.operation, left, right)

    def category(self, feature: str, transaction: Transaction) -> dict[str, Any] | None:
        """Return a category's text and its share of reference, in place of the number for models.

        None for a feature that is no category. A value that reference lacks has the share 0.
        """
        for derived in self.recipe.categories:
            if derived.name == feature:
                text = transaction.texts[derived.column]
                shares = self.encoders[feature]["shares"]
                share = shares.get(categories.MISSING if text is None else text, 0.0)
                return {"column": derived.column, "value": text, "share_of_reference": share}
        return None


def _by_entity(recipe: Recipe) -> list[tuple[str, Needs, int, int]]:
    """Return for each entity with histories what they need, and how far back they look."""
    found = []
    for entity in dict.fromkeys(feature.entity for feature in recipe.histories):
        of_entity = [f for f in recipe.histories if f.entity == entity]
        numbers: dict[str, None] = {}
        texts: dict[str, None] = {}
        has_labels = False
        for feature in of_entity:
            if isinstance(feature, SinceLast):
                continue
            if feature.statistic in OF_NUMBERS:
                numbers[feature.column] = None
            elif feature.statistic == "distinct":
                texts[feature.column] = None
            has_labels |= feature.statistic in OF_LABELS
        needs = Needs(tuple(numbers), tuple(texts), has_labels)
        found.append((entity, needs, *windows.reach(of_entity)))
    return found


def _histories(
    feature: Window | SinceLast,
    transactions: Sequence[Transaction],
    pasts: Sequence[Mapping[str, Past]],
) -> np.ndarray:
    """Return a history's values (n,), NaN for what models cannot take."""
    nothing = Past()
    found = []
    for transaction, past in zip(transactions, pasts, strict=True):
        number, text = math.nan, None
        if isinstance(feature, Window) and feature.column is not None:
            if feature.statistic in OF_NUMBERS:
                number = transaction.numbers[feature.column]
            else:
                text = transaction.texts[feature.column]
        of_entity = past.get(feature.entity, nothing)
        value = windows.value(feature, transaction.t, of_entity, number, text)
        # as `by_row.usable`; numpy's calls take longer than that for one transaction
        found.append(value if abs(value) <= FLOAT32_MAX else math.nan)
    return np.array(found)


def _shown(value: Any) -> str:
    """Return a value for a message."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return repr(value)[:80]
