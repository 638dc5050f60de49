"""How rare a category's values are, in SQL: shares that are counted in reference or written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lib.bundle.by_row import DAY_S, MICROSECONDS
from lib.bundle.categories import MISSING
from lib.bundle.recipe import Category
from lib.data import sql
from lib.data.datasets import Dataset
from lib.data.features import MAX_VALUES
from lib.data.sql import Steps
from lib.errors import DataError

if TYPE_CHECKING:
    from lib.data.statement import Names

REFERENCE = 0.5  # share of the weight, as notebook 02_split cuts it
DAY = DAY_S * MICROSECONDS


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


@dataclass(frozen=True)
class Encoder:
    """Where the shares of a category stand: a step (word, share), and SQL of the unseen share."""

    shares: str
    unseen: str


def add(steps: Steps, dataset: Dataset, names: Names, rarity: Rarity) -> dict[str, Encoder]:
    """Add the shares of categories in reference; return where they stand, by feature."""
    categories = dataset.recipe.categories
    if rarity.encoders is not None:
        return {c.name: _known(steps, dataset, c, rarity.encoders) for c in categories}
    if not categories:
        return {}
    if dataset.time is None:
        raise DataError(
            f"{dataset.name}: `time` is null, and a warehouse's rows have no order that tells "
            "reference from later rows; name a split or a bundle that knows the shares of "
            "categories with --encoders"
        )
    is_reference = _in_reference(steps, names, rarity.until)
    totals = f"sum({names.weight}) AS weight, count(*) AS n"
    of_all = steps.add("reference", f"SELECT {totals}\nFROM {steps.first}\nWHERE {is_reference}")
    by_column: dict[str, Encoder] = {}
    for category in categories:
        if category.column not in by_column:
            word = f"coalesce({names.checked[category.column]}, {sql.text(MISSING)})"
            by_column[category.column] = _counted(steps, names, word, is_reference, of_all)
    return {category.name: by_column[category.column] for category in categories}


def _known(
    steps: Steps, dataset: Dataset, category: Category, encoders: dict[str, dict[str, Any]]
) -> Encoder:
    """Return an encoder whose shares are written out."""
    if category.name not in encoders:
        raise DataError(
            f"--encoders: there are no shares of {category.name!r}, a category of {dataset.name}"
        )
    encoder = encoders[category.name]
    rows = [f"({sql.text(word)}, {sql.number(share)})" for word, share in encoder["shares"].items()]
    values = ",\n  ".join(rows)
    shares = steps.add("shares", f"SELECT * FROM (VALUES\n  {values}\n) AS known(word, share)")
    return Encoder(shares, sql.number(encoder["unseen"]))


def _in_reference(steps: Steps, names: Names, until: int | None) -> str:
    """Return the condition that a row belongs to reference; add the steps that it takes.

    As `lib.data.cuts`: up to the instant at which the weight is nearest to its share, the earlier
    of two. The day is looked for first: no machine has to sort the instants of the whole table.
    """
    if until is not None:
        return f"{names.instant} < {until}"
    rows = steps.first
    day = f"CAST(floor({names.instant} / {DAY}e0) AS BIGINT)"
    up_to = "OVER (ORDER BY {} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    days = steps.add(
        "days", f"SELECT {day} AS day, sum({names.weight}) AS weight\nFROM {rows}\nGROUP BY {day}"
    )
    running = steps.add(
        "running_days",
        f"SELECT day, weight, sum(weight) {up_to.format('day')} AS up_to,\n"
        f"  {sql.number(REFERENCE)} * sum(weight) OVER () AS target\nFROM {days}",
    )
    last_day = steps.add(
        "last_day",
        f"SELECT day, up_to - weight AS before, target\nFROM {running}\n"
        "WHERE up_to >= target\nORDER BY day\nLIMIT 1",
    )
    instants = steps.add(
        "instants",
        f"SELECT {names.instant} AS instant, sum({names.weight}) AS weight\nFROM {rows}\n"
        f"WHERE {day} = (SELECT day FROM {last_day})\nGROUP BY {names.instant}\nUNION ALL\n"
        f"SELECT day * {DAY} - 1 AS instant, before AS weight\nFROM {last_day}",
    )
    beyond = steps.add(
        "beyond",
        f"SELECT instant, sum(weight) {up_to.format('instant')}\n"
        f"  - (SELECT target FROM {last_day}) AS weight\nFROM {instants}",
    )
    end = steps.add(
        "reference_end", f"SELECT instant\nFROM {beyond}\nORDER BY abs(weight), instant\nLIMIT 1"
    )
    return f"{names.instant} <= (SELECT instant FROM {end})"


def _counted(steps: Steps, names: Names, word: str, is_reference: str, of_all: str) -> Encoder:
    """Return an encoder whose shares are counted in reference, see `lib.data.features.encoders`."""
    counted = steps.add(
        "counted",
        f"SELECT {word} AS word, sum({names.weight}) AS weight\nFROM {steps.first}\n"
        f"WHERE {is_reference}\nGROUP BY {word}",
    )
    ranked = steps.add(
        "ranked",
        "SELECT word, weight, row_number() OVER (ORDER BY weight DESC, word) AS place\n"
        f"FROM {counted}",
    )
    shares = steps.add(
        "shares",
        f"SELECT word, weight / (SELECT weight FROM {of_all}) AS share\nFROM {ranked}\n"
        f"WHERE place <= {MAX_VALUES} AND weight > 0",
    )
    one_more = f"(SELECT 1e0 / (n + 1) FROM {of_all})"
    unseen = steps.add("unseen", f"SELECT least(min(share), {one_more}) AS share\nFROM {shares}")
    return Encoder(shares, f"(SELECT share FROM {unseen})")
