"""How features follow from raw columns: categories, calendar, distances, ratios and histories.

A recipe says what is derived and in which words. `lib.data.features` derives it for a table,
`lib.bundle.raw` for the transactions that a server is sent. The history of an entity, such as a
card, are its earlier transactions: a window covers those of the last `within` and the present one,
or, with a `delay`, those up to `delay` ago, whose labels are known by now.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lib.errors import did_you_mean

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
DURATION = re.compile(r"([0-9]{1,9})(s|min|h|d|w)")
LONGEST_S = 100 * 366 * 86_400  # so that instants in microseconds stay integers of 64 bits
QUOTED = ", in quotes where YAML reads it as something else"
A_DURATION = "expected a duration such as 30min, 12h or 7d, above 0 and at most 100 years"
NIGHT_ENDS = 6  # o'clock
PARTS = {  # of a time -> what it means
    "hour_of_day": "hour of the day, 0 to 23",
    "day_of_week": "day of the week, 0 = Monday",
    "is_night": f"1 before {NIGHT_ENDS}:00, else 0",
    "is_weekend": "1 on Saturdays and Sundays, else 0",
}
OF_NUMBERS = ("mean", "sum", "max", "min", "std")
OF_LABELS = ("fraud_rate", "fraud_count")
STATISTICS = ("count", *OF_NUMBERS, "distinct", *OF_LABELS)
ARITHMETIC = ("ratio", "difference")
WINDOW_KEYS = ("within", "delay")
KINDS: dict[str, tuple[str, ...]] = {  # the key that says the kind -> what may stand beside it
    "category": (),
    "time": (),
    "distance_km": (),
    **dict.fromkeys(ARITHMETIC, ()),
    "count": WINDOW_KEYS,
    **dict.fromkeys((*OF_NUMBERS, "distinct"), ("of", *WINDOW_KEYS)),
    "since_last": (),
    **dict.fromkeys(OF_LABELS, WINDOW_KEYS),
}


@dataclass(frozen=True)
class Category:
    """How rare a value of a column is in reference: −log(its share of the weight)."""

    name: str
    column: str
    written: tuple

    @property
    def meaning(self) -> str:
        """What the number says, in words."""
        return f"rarity of `{self.column}`: −log(share of its value in reference)"

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return self.column


@dataclass(frozen=True)
class Calendar:
    """A part of the time, such as the hour of the day."""

    name: str
    part: str
    written: tuple

    @property
    def meaning(self) -> str:
        """What the number says, in words."""
        return PARTS[self.part]

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return self.part.replace("_", " ")


@dataclass(frozen=True)
class Distance:
    """Great-circle distance between two places: latitude, longitude, latitude, longitude."""

    name: str
    columns: tuple[str, ...]
    written: tuple

    @property
    def meaning(self) -> str:
        """What the number says, in words."""
        lat, long, to_lat, to_long = self.columns
        return f"kilometres from (`{lat}`, `{long}`) to (`{to_lat}`, `{to_long}`)"

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        lat, long, to_lat, to_long = self.columns
        return f"kilometres from {lat}, {long} to {to_lat}, {to_long}"


@dataclass(frozen=True)
class Arithmetic:
    """A ratio or a difference of two numbers, derived ones included."""

    name: str
    operation: str
    left: str
    right: str
    written: tuple

    @property
    def meaning(self) -> str:
        """What the number says, in words."""
        sign = "divided by" if self.operation == "ratio" else "minus"
        return f"`{self.left}` {sign} `{self.right}`"

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return self.named({})

    def named(self, titles: Mapping[str, str]) -> str:
        """Return the title, in which other features have theirs: {name: title}."""
        left, right = (titles.get(side, side) for side in (self.left, self.right))
        return f"{left} {'divided by' if self.operation == 'ratio' else 'minus'} {right}"


@dataclass(frozen=True)
class Window:
    """A statistic of the transactions of the same entity within a window of time.

    Attributes
    ----------
    statistic : one of `STATISTICS`
    entity : the column whose value the transactions have in common
    within, delay : durations as they are written; without a delay the present one is covered
    column : what the statistic is of, for one of `OF_NUMBERS` and `distinct`
    """

    name: str
    statistic: str
    entity: str
    within: str
    delay: str | None
    column: str | None
    written: tuple

    @property
    def within_s(self) -> int:
        """Length of the window in seconds."""
        return seconds_of(self.within)

    @property
    def delay_s(self) -> int | None:
        """How long before the present one the window ends, in seconds; None: with it."""
        return None if self.delay is None else seconds_of(self.delay)

    @property
    def meaning(self) -> str:
        """What the number says, in words."""
        of_column = f"{self.statistic} of `{self.column}` over"
        what = {
            "count": "number of",
            "distinct": f"number of distinct values of `{self.column}` in",
            "fraud_rate": "known frauds / known labels of",
            "fraud_count": "known frauds of",
        }
        words = what.get(self.statistic, of_column)
        when = f"in the last {self.within}, this one included"
        if self.delay is not None:
            when = f"in the {self.within} that ended {self.delay} ago"
        return f"{words} transactions of the same `{self.entity}` {when}"

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        what = {
            "count": "transactions",
            "mean": f"mean {self.column}",
            "sum": f"total {self.column}",
            "max": f"largest {self.column}",
            "min": f"smallest {self.column}",
            "std": f"standard deviation of {self.column}",
            "distinct": f"distinct values of {self.column}",
            "fraud_rate": "fraud rate",
            "fraud_count": "known frauds",
        }
        words = f"{what[self.statistic]} of the {self.entity}"
        within = _in_full(self.within)
        if self.delay is None:
            return f"{words} within {within}"
        return f"{words} within {within}, up to {_in_full(self.delay)} ago"


@dataclass(frozen=True)
class SinceLast:
    """Seconds since an entity's previous transaction."""

    name: str
    entity: str
    written: tuple

    @property
    def meaning(self) -> str:
        """What the number says, in words."""
        return f"seconds since the previous transaction of the same `{self.entity}`"

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return f"seconds since the previous transaction of the {self.entity}"


Derived = Category | Calendar | Distance | Arithmetic | Window | SinceLast


def _in_full(duration: str) -> str:
    """Return a duration such as `7d` in words, `7 days`."""
    found = DURATION.fullmatch(duration)
    if found is None:
        return duration
    words = {"s": "second", "min": "minute", "h": "hour", "d": "day", "w": "week"}
    many = "" if found[1] == "1" else "s"
    return f"{found[1]} {words[found[2]]}{many}"


def seconds_of(duration: Any) -> int:
    """Return the seconds of a duration such as `7d`; ValueError if it is none."""
    if not isinstance(duration, str):
        raise ValueError(A_DURATION)
    return _seconds(duration)


@functools.cache  # a server asks for those of its windows with every transaction
def _seconds(duration: str) -> int:
    found = DURATION.fullmatch(duration)
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(A_DURATION)
    return seconds


def parsed(mapping: dict) -> Derived:
    """Return the feature that a mapping of the description stands for.

    Raises ValueError on a key or a value that cannot be used.
    """
    kinds = [key for key in mapping if key in KINDS]
    if len(kinds) != 1:
        listed = ", ".join(KINDS)
        raise ValueError(f"expected exactly one of {listed}")
    (kind,) = kinds
    allowed = (kind, *KINDS[kind], "name")
    for key in mapping:
        if key not in allowed:
            raise ValueError(f"the key {key!r} is unknown; {did_you_mean(str(key), allowed)}")
    name = mapping.get("name")
    if "name" in mapping and not _is_name(name):
        raise ValueError(f"name is {name!r}; expected a text{QUOTED}")
    feature = _builder(kind)(kind, mapping)
    return _named(feature, name)


def _named(feature: Derived, name: str | None) -> Derived:
    if name is None:
        return feature
    values = {key: getattr(feature, key) for key in feature.__dataclass_fields__}
    return type(feature)(**values | {"name": name})


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _builder(kind: str) -> Callable[[str, dict], Derived]:
    builders: dict[str, Callable[[str, dict], Derived]] = {
        "category": _category,
        "time": _calendar,
        "distance_km": _distance,
        "since_last": _since_last,
    }
    if kind in ARITHMETIC:
        return _arithmetic
    return builders.get(kind, _window)


def _written(mapping: dict) -> tuple:
    """Return a mapping as it can be compared and hashed; `as_mapping` is the inverse."""
    pairs = []
    for key, value in mapping.items():
        pairs.append((key, tuple(value) if isinstance(value, list) else value))
    return tuple(pairs)


def as_mapping(feature: Derived) -> dict[str, Any]:
    """Return a feature as it stands in the description."""
    plain = {}
    for key, value in feature.written:
        plain[key] = list(value) if isinstance(value, tuple) else value
    return plain


def _column(mapping: dict, key: str) -> str:
    """Return the column that a key names."""
    if not _is_name(mapping.get(key)):
        raise ValueError(f"`{key}` is {mapping.get(key)!r}; expected the name of a column{QUOTED}")
    return mapping[key]


def _columns(mapping: dict, key: str, n: int) -> tuple[str, ...]:
    """Return the n columns that a key names."""
    value = mapping[key]
    is_list = isinstance(value, list | tuple) and len(value) == n
    if not is_list or not all(_is_name(column) for column in value):
        raise ValueError(f"`{key}` is {value!r}; expected a list of {n} names{QUOTED}")
    return tuple(value)


def _duration(mapping: dict, key: str) -> str:
    """Return the duration of a key; ValueError with what is expected."""
    if key not in mapping:
        raise ValueError(f"`{key}` is missing; {A_DURATION}")
    try:
        seconds_of(mapping[key])
    except ValueError as error:
        raise ValueError(f"`{key}` is {mapping[key]!r}; {error}") from error
    return mapping[key]


def _category(kind: str, mapping: dict) -> Category:
    column = _column(mapping, kind)
    return Category(column, column, _written(mapping))


def _calendar(kind: str, mapping: dict) -> Calendar:
    part = mapping[kind]
    if not isinstance(part, str) or part not in PARTS:
        raise ValueError(f"`{kind}` is {part!r}; expected one of {', '.join(PARTS)}")
    return Calendar(part, part, _written(mapping))


def _distance(kind: str, mapping: dict) -> Distance:
    columns = _columns(mapping, kind, 4)
    return Distance(kind, columns, _written(mapping))


def _arithmetic(kind: str, mapping: dict) -> Arithmetic:
    left, right = _columns(mapping, kind, 2)
    if left == right:
        raise ValueError(f"`{kind}` is of {left!r} and itself; name two features")
    return Arithmetic(f"{left}_{kind}_{right}", kind, left, right, _written(mapping))


def _since_last(kind: str, mapping: dict) -> SinceLast:
    entity = _column(mapping, kind)
    return SinceLast(f"{kind}_{entity}", entity, _written(mapping))


def _window(kind: str, mapping: dict) -> Window:
    """Return a window: `mean: amount, of: card`, or `count: card`."""
    has_column = "of" in KINDS[kind]
    column = _column(mapping, kind) if has_column else None
    entity = _column(mapping, "of") if has_column else _column(mapping, kind)
    within = _duration(mapping, "within")
    delay = None
    if kind in OF_LABELS and "delay" not in mapping:
        raise ValueError(
            f"`{kind}` needs a `delay`, such as 7d: how late a label is known; without one the "
            "feature would know what nobody knew"
        )
    if "delay" in mapping:
        delay = _duration(mapping, "delay")
    words = [column, kind, entity, within]
    if delay is not None:
        words += ["delay", delay]
    name = "_".join(word for word in words if word is not None)
    return Window(name, kind, entity, within, delay, column, _written(mapping))


@dataclass(frozen=True)
class Recipe:
    """What is derived from a table.

    Attributes
    ----------
    derived : the features that are derived, in the description's order
    entities : columns whose values have histories
    timezone : of hours and days
    """

    derived: tuple[Derived, ...]
    entities: tuple[str, ...] = ()
    timezone: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the derived features."""
        return tuple(feature.name for feature in self.derived)

    @property
    def categories(self) -> tuple[Category, ...]:
        """The features that a category makes."""
        return tuple(f for f in self.derived if isinstance(f, Category))

    @property
    def histories(self) -> tuple[Window | SinceLast, ...]:
        """The features that come from histories."""
        return tuple(f for f in self.derived if isinstance(f, Window | SinceLast))

    @property
    def needs_time(self) -> bool:
        """Whether a feature needs the time of a transaction."""
        of_time = (Calendar, Window, SinceLast)
        return any(isinstance(feature, of_time) for feature in self.derived)

    @property
    def label_delay_s(self) -> int:
        """How late a label is known, in seconds: the shortest delay of what counts frauds."""
        windows = (f for f in self.histories if isinstance(f, Window))
        delays = [w.delay_s for w in windows if w.statistic in OF_LABELS]
        return min(delays, default=0)

    @property
    def knows_labels(self) -> bool:
        """Whether a feature counts frauds."""
        windows = (f for f in self.histories if isinstance(f, Window))
        return any(window.statistic in OF_LABELS for window in windows)

    @property
    def simple_windows(self) -> tuple[Window, ...]:
        """The windows that end with the present transaction, means first: to show by hand."""
        windows = (f for f in self.histories if isinstance(f, Window))
        simple = (f for f in windows if f.delay is None and f.statistic != "distinct")
        return tuple(sorted(simple, key=lambda f: f.statistic != "mean"))

    @property
    def texts(self) -> tuple[str, ...]:
        """Raw columns that are text: entities and categories, each once."""
        columns = [*self.entities, *(category.column for category in self.categories)]
        return tuple(dict.fromkeys(columns))

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Raw columns of numbers that distances need, each once."""
        columns = [c for f in self.derived if isinstance(f, Distance) for c in f.columns]
        return tuple(dict.fromkeys(columns))

    def in_order(self) -> list[Derived]:
        """Return the derived features, each behind those that it needs.

        Raises ValueError for ratios and differences that need each other.
        """
        by_name = {feature.name: feature for feature in self.derived}
        done: dict[str, Derived] = {}

        def visit(feature: Derived, above: tuple[str, ...]) -> None:
            if feature.name in above:
                circle = " -> ".join((*above, feature.name))
                raise ValueError(f"features need each other in a circle: {circle}")
            if isinstance(feature, Arithmetic):
                for needed in (feature.left, feature.right):
                    if needed in by_name and needed not in done:
                        visit(by_name[needed], (*above, feature.name))
            done[feature.name] = feature

        for feature in self.derived:
            if feature.name not in done:
                visit(feature, ())
        return list(done.values())

    @property
    def titles(self) -> dict[str, str]:
        """What each derived feature is called in a sentence: {name: title}."""
        titles: dict[str, str] = {}
        for feature in self.in_order():
            if isinstance(feature, Arithmetic):
                titles[feature.name] = feature.named(titles)
            else:
                titles[feature.name] = feature.title
        return titles

    @property
    def meanings(self) -> dict[str, str]:
        """What each derived feature says, in words: {name: meaning}."""
        return {feature.name: feature.meaning for feature in self.derived}
