"""Write a recipe as one SQL statement, for a table that lives in a warehouse.

`python -m lib.data.features --dataset shop.yaml --dialect spark` prints it. The result has the
table's columns and a number for each feature, as the pipeline derives them, so that everything
after it, thinning, fitting and scoring, needs no history and no recipe. The statement is written
for DuckDB with the windows of `lib.data.histories`; `lib.data.dialects` translates it. Each step
reads the one before, so that no engine has to join a row with its own history.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lib.bundle.by_row import DAY_S, EARTH_KM, HOUR_S, MICROSECONDS, THURSDAY
from lib.bundle.categories import MISSING
from lib.bundle.manifest import FLOAT32_MAX
from lib.bundle.raw import LABELS, LAST_S, MISSING_TEXT, UNITS
from lib.bundle.recipe import (
    NIGHT_ENDS,
    Arithmetic,
    Calendar,
    Category,
    Derived,
    Distance,
    Recipe,
    SinceLast,
    Window,
)
from lib.data import dialects, histories
from lib.data.columns import free_name, one_line
from lib.data.datasets import Dataset, load_description
from lib.data.features import MAX_VALUES, instants
from lib.errors import DataError
from lib.files import write_text

REFERENCE = 0.5  # share of the weight, as notebook 02_split cuts it
DAY = DAY_S * MICROSECONDS
HOUR = HOUR_S * MICROSECONDS
# what may leave the range of what models take, though the numbers that it is made of do not
MAY_OVERFLOW = ("sum", "std")


@dataclass(frozen=True)
class Rarity:
    """What the shares of a category's values are counted in.

    Parameters
    ----------
    encoders : {feature: encoder}, as `lib.data.features.encoders` has fitted them; None: the
        statement counts them itself
    until : the first instant behind reference, in microseconds; None: behind `REFERENCE` of the
        weight, which the statement finds
    """

    encoders: dict[str, dict[str, Any]] | None = None
    until: int | None = None


def statement(dataset: Dataset, table: str, rarity: Rarity | None = None) -> str:
    """Return the statement for DuckDB.

    Parameters
    ----------
    table : its name in the warehouse; points part catalog, schema and table

    Raises
    ------
    DataError
        For a description that derives nothing, or categories of a table without a time.
    """
    recipe = dataset.recipe
    if recipe is None or not recipe.derived:
        raise DataError(
            f"{dataset.name} derives nothing: its features are columns already, and the engine "
            "takes the table as it is"
        )
    rarity = rarity or Rarity()
    names = Names.of(dataset)
    query = _Query(taken={table.rpartition(".")[2]})
    query.add("checked", _checked(dataset, names, table))
    entities = dict.fromkeys(feature.entity for feature in recipe.histories)
    for place, entity in enumerate(entities):
        features = [f for f in recipe.histories if f.entity == entity]
        query.add(f"histories_{place}", _histories(features, names, query.last))
    _add_by_row(query, recipe, names)
    result = query.last
    tables = _add_encoders(query, dataset, names, rarity)
    query.add("", _result(dataset, names, result, tables))
    return query.text()


def _quoted(name: str) -> str:
    """Return a name of a column or table as SQL has it."""
    inside = name.replace('"', '""')
    return f'"{inside}"'


def _text(value: str) -> str:
    """Return a text as SQL has it."""
    inside = value.replace("'", "''")
    return f"'{inside}'"


def _number(value: float) -> str:
    """Return a float as SQL has it: with an exponent, without which some read a decimal."""
    shortest = repr(float(value))
    return shortest if "e" in shortest else f"{shortest}e0"


@dataclass(frozen=True)
class Names:
    """Columns of the statement that are not the user's, quoted.

    Attributes
    ----------
    instant, fraud, weight : time in microseconds; 1, 0 or NULL; 1 where the table has none
    clock, week : microseconds since midnight, and since Monday's
    checked : {column of the table: its checked value}
    unchecked : {feature: its value before it is known whether models can take it}
    """

    instant: str
    fraud: str
    weight: str
    clock: str
    week: str
    checked: dict[str, str]
    unchecked: dict[str, str]

    @classmethod
    def of(cls, dataset: Dataset) -> Names:
        """Return names that are unlike the table's and the features'."""
        taken = {*dataset.columns, *dataset.features, *dataset.text_of.values()}

        def free(wanted: str) -> str:
            name = free_name(f"_{wanted}", taken)
            taken.add(name)
            return _quoted(name)

        own = {
            "instant": free("instant"),
            "fraud": free("is_fraud"),
            "weight": free("row_weight"),
            "clock": free("clock"),
            "week": free("week"),
        }
        values = [*_numbers(dataset), *dataset.recipe.texts]
        checked = {column: free(column) for column in dict.fromkeys(values)}
        unchecked = {}
        for feature in dataset.recipe.derived:
            may_overflow = isinstance(feature, Window) and feature.statistic in MAY_OVERFLOW
            if may_overflow or isinstance(feature, Distance):
                unchecked[feature.name] = free(feature.name)
        return cls(**own, checked=checked, unchecked=unchecked)

    def entity(self, column: str) -> str:
        """Return what the transactions of an entity have in common.

        Those without one are parted by their instant: none has an earlier one beside it.
        """
        name = self.checked[column]
        return f"{name}, CASE WHEN {name} IS NULL THEN {self.instant} END"

    def number(self, name: str) -> str:
        """Return a raw number by its column, or a feature by its name."""
        return self.checked.get(name, _quoted(name))


def _numbers(dataset: Dataset) -> list[str]:
    """Return the table's columns of numbers, each once; not the weight."""
    amount = [] if dataset.amount is None else [dataset.amount]
    recipe = dataset.recipe
    return list(dict.fromkeys([*dataset.plain_features, *amount, *recipe.coordinates]))


@dataclass
class _Query:
    """Steps of a statement: each is a SELECT under a name, the last one has none."""

    taken: set[str]
    steps: list[tuple[str, str]] = field(default_factory=list)

    def add(self, wanted: str, select: str) -> str:
        """Add a step and return the name under which later ones read it."""
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        self.steps.append((name, select))
        return name

    @property
    def last(self) -> str:
        """Name of the latest step."""
        return self.steps[-1][0]

    def text(self) -> str:
        """Return the statement."""
        *above, (_, result) = self.steps
        parts = [f"{name} AS (\n{_indented(select)}\n)" for name, select in above]
        return f"WITH {', '.join(parts)}\n{result}\n"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _select(columns: Iterable[str], source: str) -> str:
    listed = ",\n  ".join(columns)
    return f"SELECT\n  {listed}\nFROM {source}"


# --- what a cell means


def _checked(dataset: Dataset, names: Names, table: str) -> str:
    """Return the step that reads the table: its columns, and what they say."""
    recipe = dataset.recipe
    columns = [_quoted(column) for column in dataset.columns]
    if dataset.time is not None:
        columns.append(f"{_instant(dataset)} AS {names.instant}")
    for column in _numbers(dataset):
        number = f"CAST({_quoted(column)} AS DOUBLE)"
        columns.append(f"{_usable(number)} AS {names.checked[column]}")
    for column in recipe.texts:
        columns.append(f"{_word(column)} AS {names.checked[column]}")
    if recipe.knows_labels:
        columns.append(f"{_label(dataset)} AS {names.fraud}")
    weight = "1e0"
    if dataset.weight is not None:
        weight = f"CAST({_quoted(dataset.weight)} AS DOUBLE)"
    columns.append(f"{weight} AS {names.weight}")
    source = ".".join(_quoted(part) for part in table.split("."))
    return _select(columns, source)


def _instant(dataset: Dataset) -> str:
    """Return the time in whole microseconds since 1970-01-01 UTC."""
    columns = [_quoted(column) for column in dataset.time_columns]
    if dataset.time_unit is not None:
        seconds = f"CAST({columns[0]} AS DOUBLE) * {_number(UNITS[dataset.time_unit])}"
        return f"CAST(round({seconds} * {MICROSECONDS}e0) AS BIGINT)"
    if dataset.time_format is not None:
        texts = [f"CAST({column} AS VARCHAR)" for column in columns]
        both = " || ' ' || ".join(texts)
        time = f"strptime({both}, {_text(dataset.time_format)})"
    elif len(columns) == 2:
        day, clock = columns
        both = f"CAST(CAST({day} AS DATE) AS VARCHAR) || ' ' || CAST({clock} AS VARCHAR)"
        time = f"CAST({both} AS TIMESTAMP)"
    else:
        time = f"CAST({columns[0]} AS TIMESTAMP)"
    return _microseconds(time)


def _microseconds(time: str) -> str:
    """Return a timestamp as microseconds since 1970-01-01."""
    return f"date_diff('microsecond', CAST('1970-01-01 00:00:00' AS TIMESTAMP), {time})"


def _usable(number: str) -> str:
    """Return a number, or NULL where models cannot take it: infinite, NaN or beyond float32."""
    return f"CASE WHEN abs({number}) <= {_number(FLOAT32_MAX)} THEN {number} END"


def _word(column: str) -> str:
    """Return text without blanks around it; NULL where it says that nothing is known."""
    text = f"trim(CAST({_quoted(column)} AS VARCHAR))"
    missing = ", ".join(map(_text, MISSING_TEXT))
    return f"CASE WHEN lower({text}) NOT IN ({missing}) THEN {text} END"


def _label(dataset: Dataset) -> str:
    """Return 1 for a fraud, 0 for a genuine transaction, NULL for one that is not labelled."""
    meanings: dict[str, int] = dict(LABELS)
    if dataset.label_words is not None:
        meanings = dataset.label_words.meanings
    text = f"lower(trim(CAST({_quoted(dataset.label)} AS VARCHAR)))"
    cases = []
    for meaning in (1, 0):
        words = [word for word, said in meanings.items() if said == meaning]
        words += [f"{word}.0" for word in words if word.isdecimal()]  # of a column of floats
        cases.append(f"WHEN {text} IN ({', '.join(map(_text, words))}) THEN {meaning}e0")
    return f"CASE {' '.join(cases)} END"


# --- features


def _histories(features: Sequence[Window | SinceLast], names: Names, source: str) -> str:
    """Return the step that adds the features of one entity."""
    columns = histories.Columns(
        names.instant, names.entity(features[0].entity), names.fraud, names.checked, names.checked
    )
    expressions, windows = histories.windowed(features, columns)
    added = ["*"]
    for feature, expression in zip(features, expressions, strict=True):
        name = names.unchecked.get(feature.name, _quoted(feature.name))
        added.append(f"{expression} AS {name}")
    return f"{_select(added, source)}\n{windows}"


def _add_by_row(query: _Query, recipe: Recipe, names: Names) -> None:
    """Add what a row tells by itself, and what has to be looked at before models see it."""
    prepared = ["*"]
    added = ["*"]
    for feature in recipe.derived:
        if isinstance(feature, Distance):
            chord = _half_chord(*(names.checked[column] for column in feature.columns))
            prepared.append(f"{chord} AS {names.unchecked[feature.name]}")
        if not isinstance(feature, Category | Arithmetic):
            value = _of_row(feature, names)
            if value:
                added.append(f"{value} AS {_quoted(feature.name)}")
    if any(isinstance(feature, Calendar) for feature in recipe.derived):
        prepared += _clocks(names, recipe.timezone)
    if len(prepared) > 1:
        query.add("prepared", _select(prepared, query.last))
    if len(added) > 1:
        query.add("derived", _select(added, query.last))
    for place, level in enumerate(_levels(recipe)):
        columns = [f"{_arithmetic(feature, names)} AS {_quoted(feature.name)}" for feature in level]
        query.add(f"arithmetic_{place}", _select(["*", *columns], query.last))


def _of_row(feature: Derived, names: Names) -> str:
    """Return a feature by what earlier steps have prepared; "" where one of them has it."""
    if isinstance(feature, Calendar):
        return {
            "hour_of_day": f"floor({names.clock} / {HOUR}e0)",
            "day_of_week": f"floor({names.week} / {DAY}e0)",
            "is_night": f"CASE WHEN {names.clock} < {NIGHT_ENDS * HOUR} THEN 1 ELSE 0 END",
            "is_weekend": f"CASE WHEN {names.week} >= {5 * DAY} THEN 1 ELSE 0 END",
        }[feature.part]
    unchecked = names.unchecked.get(feature.name, "")
    if isinstance(feature, Distance):
        most = f"CASE WHEN {unchecked} > 1 THEN 1 ELSE {unchecked} END"
        return f"{_number(2 * EARTH_KM)} * asin({most})"
    return _usable(unchecked) if unchecked else ""


def _half_chord(lat: str, long: str, to_lat: str, to_long: str) -> str:
    """Return half the chord between two places in degrees, on a sphere of radius 1 (haversine)."""
    of_lat = f"power(sin((radians({to_lat}) - radians({lat})) / 2e0), 2)"
    of_long = f"power(sin((radians({to_long}) - radians({long})) / 2e0), 2)"
    return f"sqrt({of_lat} + cos(radians({lat})) * cos(radians({to_lat})) * {of_long})"


def _clocks(names: Names, timezone: str | None) -> list[str]:
    """Return the columns that tell how long ago midnight and Monday's midnight were."""
    local = names.instant
    if timezone not in (None, "UTC"):
        utc = f"make_timestamp({names.instant}) AT TIME ZONE 'UTC'"
        local = _microseconds(f"{utc} AT TIME ZONE {_text(timezone)}")
    week = 7 * DAY
    # % of a time before 1970 is negative
    return [
        f"({local} % {DAY} + {DAY}) % {DAY} AS {names.clock}",
        f"(({local} + {THURSDAY * DAY}) % {week} + {week}) % {week} AS {names.week}",
    ]


def _levels(recipe: Recipe) -> list[list[Arithmetic]]:
    """Return ratios and differences, each in a list behind those that it needs."""
    level_of: dict[str, int] = {}
    levels: list[list[Arithmetic]] = []
    for feature in recipe.in_order():
        if isinstance(feature, Arithmetic):
            level = max(level_of.get(side, 0) for side in (feature.left, feature.right))
            level_of[feature.name] = level + 1
            if level == len(levels):
                levels.append([])
            levels[level].append(feature)
    return levels


def _arithmetic(feature: Arithmetic, names: Names) -> str:
    left, right = names.number(feature.left), names.number(feature.right)
    if feature.operation == "difference":
        return _usable(f"{left} - {right}")
    return _usable(f"{left} / nullif({right}, 0)")


# --- categories


@dataclass(frozen=True)
class _Encoder:
    """Where the shares of a category stand: a step (word, share), and SQL of the unseen share."""

    shares: str
    unseen: str


def _add_encoders(
    query: _Query, dataset: Dataset, names: Names, rarity: Rarity
) -> dict[str, _Encoder]:
    """Add the shares of categories in reference; return where they stand, by feature."""
    categories = dataset.recipe.categories
    if rarity.encoders is not None:
        return {c.name: _known(query, dataset, c, rarity.encoders) for c in categories}
    if not categories:
        return {}
    if dataset.time is None:
        raise DataError(
            f"{dataset.name}: `time` is null, and a warehouse's rows have no order that tells "
            "reference from later rows; name a split or a bundle that knows the shares of "
            "categories with --encoders"
        )
    is_reference = _in_reference(query, names, rarity.until)
    totals = f"sum({names.weight}) AS weight, count(*) AS n"
    of_all = query.add(
        "reference", f"SELECT {totals}\nFROM {query.steps[0][0]}\nWHERE {is_reference}"
    )
    by_column: dict[str, _Encoder] = {}
    for category in categories:
        if category.column not in by_column:
            word = f"coalesce({names.checked[category.column]}, {_text(MISSING)})"
            by_column[category.column] = _counted(query, names, word, is_reference, of_all)
    return {category.name: by_column[category.column] for category in categories}


def _known(
    query: _Query, dataset: Dataset, category: Category, encoders: dict[str, dict[str, Any]]
) -> _Encoder:
    """Return an encoder whose shares are written out."""
    if category.name not in encoders:
        raise DataError(
            f"--encoders: there are no shares of {category.name!r}, a category of {dataset.name}"
        )
    encoder = encoders[category.name]
    rows = [f"({_text(word)}, {_number(share)})" for word, share in encoder["shares"].items()]
    values = ",\n  ".join(rows)
    shares = query.add("shares", f"SELECT * FROM (VALUES\n  {values}\n) AS known(word, share)")
    return _Encoder(shares, _number(encoder["unseen"]))


def _in_reference(query: _Query, names: Names, until: int | None) -> str:
    """Return the condition that a row belongs to reference; add the steps that it takes.

    As `lib.data.cuts`: up to the instant at which the weight is nearest to its share, the earlier
    of two. The day is looked for first: no machine has to sort the instants of the whole table.
    """
    if until is not None:
        return f"{names.instant} < {until}"
    rows = query.steps[0][0]
    day = f"CAST(floor({names.instant} / {DAY}e0) AS BIGINT)"
    up_to = "OVER (ORDER BY {} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    days = query.add(
        "days", f"SELECT {day} AS day, sum({names.weight}) AS weight\nFROM {rows}\nGROUP BY {day}"
    )
    running = query.add(
        "running_days",
        f"SELECT day, weight, sum(weight) {up_to.format('day')} AS up_to,\n"
        f"  {_number(REFERENCE)} * sum(weight) OVER () AS target\nFROM {days}",
    )
    last_day = query.add(
        "last_day",
        f"SELECT day, up_to - weight AS before, target\nFROM {running}\n"
        "WHERE up_to >= target\nORDER BY day\nLIMIT 1",
    )
    instants = query.add(
        "instants",
        f"SELECT {names.instant} AS instant, sum({names.weight}) AS weight\nFROM {rows}\n"
        f"WHERE {day} = (SELECT day FROM {last_day})\nGROUP BY {names.instant}\nUNION ALL\n"
        f"SELECT day * {DAY} - 1 AS instant, before AS weight\nFROM {last_day}",
    )
    beyond = query.add(
        "beyond",
        f"SELECT instant, sum(weight) {up_to.format('instant')}\n"
        f"  - (SELECT target FROM {last_day}) AS weight\nFROM {instants}",
    )
    end = query.add(
        "reference_end", f"SELECT instant\nFROM {beyond}\nORDER BY abs(weight), instant\nLIMIT 1"
    )
    return f"{names.instant} <= (SELECT instant FROM {end})"


def _counted(query: _Query, names: Names, word: str, is_reference: str, of_all: str) -> _Encoder:
    """Return an encoder whose shares are counted in reference, see `lib.data.features.encoders`."""
    counted = query.add(
        "counted",
        f"SELECT {word} AS word, sum({names.weight}) AS weight\nFROM {query.steps[0][0]}\n"
        f"WHERE {is_reference}\nGROUP BY {word}",
    )
    ranked = query.add(
        "ranked",
        "SELECT word, weight, row_number() OVER (ORDER BY weight DESC, word) AS place\n"
        f"FROM {counted}",
    )
    shares = query.add(
        "shares",
        f"SELECT word, weight / (SELECT weight FROM {of_all}) AS share\nFROM {ranked}\n"
        f"WHERE place <= {MAX_VALUES} AND weight > 0",
    )
    one_more = f"(SELECT 1e0 / (n + 1) FROM {of_all})"
    unseen = query.add("unseen", f"SELECT least(min(share), {one_more}) AS share\nFROM {shares}")
    return _Encoder(shares, f"(SELECT share FROM {unseen})")


# --- the resulting table


def result_columns(dataset: Dataset) -> list[str]:
    """Return the columns of the resulting table, in its order."""
    categories = dataset.recipe.categories
    replaced = [category.column for category in categories if category.name == category.column]
    table = [column for column in dataset.columns if column not in replaced]
    texts = [dataset.text_of[column] for column in replaced]
    return list(dict.fromkeys([*table, *texts, *dataset.recipe.names]))


def _result(dataset: Dataset, names: Names, source: str, encoders: dict[str, _Encoder]) -> str:
    """Return the last step: numbers for all features, beside the table's own columns."""
    places = {name: f"encoder_{i}" for i, name in enumerate(encoders)}
    column_of = {dataset.text_of[c.name]: c.column for c in dataset.recipe.categories}
    numbers = {*_numbers(dataset)}
    selected = []
    for column in result_columns(dataset):
        if column in encoders:
            share = f"coalesce({places[column]}.share, {encoders[column].unseen})"
            value = f"-ln({share})"
        elif column in numbers:
            value = f"{source}.{names.checked[column]}"
        elif column == dataset.weight:
            value = f"{source}.{names.weight}"
        elif column in dataset.recipe.names:
            value = f"CAST({source}.{_quoted(column)} AS DOUBLE)"
        else:
            value = f"{source}.{_quoted(column_of.get(column, column))}"
        selected.append(f"{value} AS {_quoted(column)}")
    lines = [_select(selected, source)]
    for category in dataset.recipe.categories:
        place = places[category.name]
        word = f"coalesce({source}.{names.checked[category.column]}, {_text(MISSING)})"
        lines.append(
            f"LEFT JOIN {encoders[category.name].shares} AS {place} ON {place}.word = {word}"
        )
    return "\n".join(lines)


def description(dataset: Dataset) -> dict[str, Any]:
    """Return the description of the resulting table: its features are columns.

    Where it has no weight, one is named, which thinning adds.
    """
    name = f"{dataset.name}-derived"
    plain = dataset.to_dict() | {
        "name": name,
        "features": list(dataset.features),
        "weight": dataset.weight or free_name("weight", result_columns(dataset)),
        "raw": {"path": f"{name}.parquet"},
    }
    del plain["simulation"]
    plain.pop("timezone", None)
    return {key: value for key, value in plain.items() if value not in (None, [])}


# --- the command


def header(dataset: Dataset, table: str, rarity: Rarity) -> list[str]:
    """Return what has to be known of a statement, in lines."""
    lines = [f"The features of {dataset.name}, over the whole of {table}."]
    if dataset.time is not None and dataset.time_unit is None:
        time = " and ".join(dataset.time_columns)
        lines.append(f"Set the session's time zone to UTC: {time} is read as a time in UTC.")
        if dataset.time_format is None and len(dataset.time_columns) == 1:
            lines.append(f"If {time} is a number, add `time_unit` to the description.")
    if dataset.recipe.categories:
        lines.append(_of_categories(rarity))
    columns = ", ".join(result_columns(dataset))
    lines.append(f"Columns of the result: {columns}.")
    return lines


def _of_categories(rarity: Rarity) -> str:
    if rarity.encoders is not None:
        return "Categories: the shares of their values are written out, as a split or bundle knows."
    if rarity.until is not None:
        return "Categories: the shares of their values are counted before --reference-until."
    return (
        f"Categories: the shares of their values are counted in the first {REFERENCE:.0%} of the "
        "weight, which moves when rows are added; --reference-until fixes it."
    )


def _encoders(folder: str) -> dict[str, dict[str, Any]]:
    """Return the shares of categories that a split or a bundle knows."""
    for name in ("splits.json", "manifest.json"):
        path = Path(folder) / name
        if path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                return known["encoders"] if "encoders" in known else known["recipe"]["encoders"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}: knows no shares of categories") from error
    raise DataError(f"{folder}: is neither the folder of a split nor that of a bundle")


def _until(dataset: Dataset, text: str) -> int:
    """Return a time that a user has written, in microseconds."""
    where = f"--reference-until {text!r}"
    if dataset.time_unit is not None:
        try:
            seconds = float(text) * UNITS[dataset.time_unit]
        except ValueError as error:
            raise DataError(f"{where}: expected a number, as the table's time is one") from error
        if not abs(seconds) <= LAST_S:
            raise DataError(f"{where}: is too far away")
        return round(seconds * MICROSECONDS)
    try:
        time = pd.Timestamp(text)
        utc = time.tz_localize("UTC") if time.tz is None else time.tz_convert("UTC")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{where}: expected a time such as 2024-03-31 12:00:00") from error
    return int(instants(dataset, pd.Series([utc.tz_localize(None)]))[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m lib.data.features",
        description="Print the features of a description as one SQL statement.",
    )
    parser.add_argument(
        "--dataset", required=True, help="a name in data/ or the path of a YAML file"
    )
    parser.add_argument(
        "--dialect", default="duckdb", help="spark, or another that sqlglot knows (default: duckdb)"
    )
    parser.add_argument("--table", default="", help="its name there (default: the description's)")
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument(
        "--reference-until",
        default="",
        metavar="TIME",
        help="count the shares of categories in what is earlier (default: in half of the weight)",
    )
    shares.add_argument(
        "--encoders",
        default="",
        metavar="FOLDER",
        help="take the shares of categories from a split or a bundle",
    )
    parser.add_argument(
        "--yaml", default="", metavar="FILE", help="write the description of the result, too"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a statement; return the exit code: 0, or 2 where the description is at fault."""
    given = _parser().parse_args(arguments)
    try:
        dataset = load_description(given.dataset)
        table = given.table or dataset.name
        rarity = Rarity(
            _encoders(given.encoders) if given.encoders else None,
            _until(dataset, given.reference_until) if given.reference_until else None,
        )
        written = statement(dataset, table, rarity)
        said = dialects.translated(written, given.dialect)
        if given.yaml:
            text = yaml.safe_dump(description(dataset), sort_keys=False, allow_unicode=True)
            write_text(Path(given.yaml), text)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    remark = dialects.remark(given.dialect)
    for line in [*header(dataset, table, rarity), *([remark] if remark else [])]:
        print(f"-- {one_line(line)}")
    print(said)
    if remark:
        print(remark, file=sys.stderr)
    return 0
