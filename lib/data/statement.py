"""Write a recipe as one SQL statement, for a table that lives in a warehouse.

`python -m lib.data.features --dataset shop.yaml --dialect spark` prints it. The result has the
table's columns and a number for each feature, as the pipeline derives them, so that everything
after it, thinning, fitting and scoring, needs no history and no recipe. The statement is written
for DuckDB with the windows of `lib.data.histories`; `lib.data.dialects` translates it. Each step
reads the one before, so that no engine has to join a row with its own history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib.bundle.by_row import EARTH_KM, HOUR_S, MICROSECONDS, THURSDAY
from lib.bundle.categories import MISSING
from lib.bundle.manifest import FLOAT32_MAX
from lib.bundle.raw import LABELS, MISSING_TEXT, UNITS
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
from lib.data import histories, shares, sql
from lib.data.columns import free_name
from lib.data.datasets import Dataset
from lib.data.shares import DAY, Encoder, Rarity
from lib.data.sql import Steps
from lib.errors import DataError

HOUR = HOUR_S * MICROSECONDS
# what may leave the range of what models take, though the numbers that it is made of do not
MAY_OVERFLOW = ("sum", "std")


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
    names = Names.of(dataset)
    steps = Steps({table.rpartition(".")[2]})
    steps.add("checked", _checked(dataset, names, table))
    entities = dict.fromkeys(feature.entity for feature in recipe.histories)
    for place, entity in enumerate(entities):
        features = [f for f in recipe.histories if f.entity == entity]
        steps.add(f"histories_{place}", _histories(features, names, steps.last))
    _add_by_row(steps, recipe, names)
    derived = steps.last
    encoders = shares.add(steps, dataset, names, rarity or Rarity())
    return steps.statement(_result(dataset, names, derived, encoders))


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
            return sql.quoted(name)

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
        return self.checked.get(name, sql.quoted(name))


def _numbers(dataset: Dataset) -> list[str]:
    """Return the table's columns of numbers, each once; not the weight."""
    amount = [] if dataset.amount is None else [dataset.amount]
    recipe = dataset.recipe
    return list(dict.fromkeys([*dataset.plain_features, *amount, *recipe.coordinates]))


# --- what a cell means


def _checked(dataset: Dataset, names: Names, table: str) -> str:
    """Return the step that reads the table: its columns, and what they say."""
    recipe = dataset.recipe
    columns = [sql.quoted(column) for column in dataset.columns]
    if dataset.time is not None:
        columns.append(f"{_instant(dataset)} AS {names.instant}")
    for column in _numbers(dataset):
        number = f"CAST({sql.quoted(column)} AS DOUBLE)"
        columns.append(f"{_usable(number)} AS {names.checked[column]}")
    for column in recipe.texts:
        columns.append(f"{_word(column)} AS {names.checked[column]}")
    if recipe.knows_labels:
        columns.append(f"{_label(dataset)} AS {names.fraud}")
    weight = "1e0"
    if dataset.weight is not None:
        weight = f"CAST({sql.quoted(dataset.weight)} AS DOUBLE)"
    columns.append(f"{weight} AS {names.weight}")
    source = ".".join(sql.quoted(part) for part in table.split("."))
    return sql.select(columns, source)


def _instant(dataset: Dataset) -> str:
    """Return the time in whole microseconds since 1970-01-01 UTC."""
    columns = [sql.quoted(column) for column in dataset.time_columns]
    if dataset.time_unit is not None:
        seconds = f"CAST({columns[0]} AS DOUBLE) * {sql.number(UNITS[dataset.time_unit])}"
        return f"CAST(round({seconds} * {MICROSECONDS}e0) AS BIGINT)"
    if dataset.time_format is not None:
        texts = [f"CAST({column} AS VARCHAR)" for column in columns]
        both = " || ' ' || ".join(texts)
        time = f"strptime({both}, {sql.text(dataset.time_format)})"
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
    return f"CASE WHEN abs({number}) <= {sql.number(FLOAT32_MAX)} THEN {number} END"


def _word(column: str) -> str:
    """Return text without blanks around it; NULL where it says that nothing is known."""
    text = f"trim(CAST({sql.quoted(column)} AS VARCHAR))"
    missing = ", ".join(map(sql.text, MISSING_TEXT))
    return f"CASE WHEN lower({text}) NOT IN ({missing}) THEN {text} END"


def _label(dataset: Dataset) -> str:
    """Return 1 for a fraud, 0 for a genuine transaction, NULL for one that is not labelled."""
    meanings: dict[str, int] = dict(LABELS)
    if dataset.label_words is not None:
        meanings = dataset.label_words.meanings
    text = f"lower(trim(CAST({sql.quoted(dataset.label)} AS VARCHAR)))"
    cases = []
    for meaning in (1, 0):
        words = [word for word, said in meanings.items() if said == meaning]
        words += [f"{word}.0" for word in words if word.isdecimal()]  # of a column of floats
        cases.append(f"WHEN {text} IN ({', '.join(map(sql.text, words))}) THEN {meaning}e0")
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
        name = names.unchecked.get(feature.name, sql.quoted(feature.name))
        added.append(f"{expression} AS {name}")
    return f"{sql.select(added, source)}\n{windows}"


def _add_by_row(steps: Steps, recipe: Recipe, names: Names) -> None:
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
                added.append(f"{value} AS {sql.quoted(feature.name)}")
    if any(isinstance(feature, Calendar) for feature in recipe.derived):
        prepared += _clocks(names, recipe.timezone)
    if len(prepared) > 1:
        steps.add("prepared", sql.select(prepared, steps.last))
    if len(added) > 1:
        steps.add("derived", sql.select(added, steps.last))
    for place, level in enumerate(_levels(recipe)):
        columns = [
            f"{_arithmetic(feature, names)} AS {sql.quoted(feature.name)}" for feature in level
        ]
        steps.add(f"arithmetic_{place}", sql.select(["*", *columns], steps.last))


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
        return f"{sql.number(2 * EARTH_KM)} * asin({most})"
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
        local = _microseconds(f"{utc} AT TIME ZONE {sql.text(timezone)}")
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


# --- the resulting table


def result_columns(dataset: Dataset) -> list[str]:
    """Return the columns of the resulting table, in its order."""
    categories = dataset.recipe.categories
    replaced = [category.column for category in categories if category.name == category.column]
    table = [column for column in dataset.columns if column not in replaced]
    texts = [dataset.text_of[column] for column in replaced]
    return list(dict.fromkeys([*table, *texts, *dataset.recipe.names]))


def _result(dataset: Dataset, names: Names, source: str, encoders: dict[str, Encoder]) -> str:
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
            value = f"CAST({source}.{sql.quoted(column)} AS DOUBLE)"
        else:
            value = f"{source}.{sql.quoted(column_of.get(column, column))}"
        selected.append(f"{value} AS {sql.quoted(column)}")
    lines = [sql.select(selected, source)]
    for category in dataset.recipe.categories:
        place = places[category.name]
        word = f"coalesce({source}.{names.checked[category.column]}, {sql.text(MISSING)})"
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
