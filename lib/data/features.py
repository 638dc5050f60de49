"""Derive the features of a recipe over a whole table, before it is cut into periods.

No row sees a later one: histories look back only. What is counted over many rows, how rare a
category is, is fitted on reference alone once the cuts are known (`encoders`, `encode`).
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import numpy as np
import pandas as pd

from lib.bundle import by_row, categories
from lib.bundle.by_row import MICROSECONDS
from lib.bundle.categories import MISSING
from lib.bundle.raw import LAST_S
from lib.bundle.recipe import Arithmetic, Calendar, Category, Derived, Distance, Recipe
from lib.data import histories
from lib.data.datasets import UNLABELLED, Dataset
from lib.data.histories import Rows
from lib.data.times import PER_SECOND, ticks
from lib.errors import DataError
from lib.files import sha256

MAX_VALUES = 10_000  # of a category that an encoder knows, the most frequent ones


def code() -> str:
    """Return what identifies how features are derived: another way makes another split."""
    files = [__file__, histories.__file__, by_row.__file__, categories.__file__]
    hashes = [sha256(file) for file in files]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def derive(dataset: Dataset, frame: pd.DataFrame, threads: int = 2) -> pd.DataFrame:
    """Return a checked frame, whole and in time order, with the features of its recipe behind it.

    Categories stay text under `Dataset.text_of`; `encode` makes numbers of them.

    Parameters
    ----------
    threads : entities whose histories are computed side by side
    """
    recipe = dataset.recipe
    if recipe is None:
        return frame
    columns = {str(column): frame[column] for column in frame.columns}
    t = None
    if recipe.needs_time:
        t = instants(dataset, frame[dataset.time_column])
    past = {}
    if recipe.histories:
        past = histories.compute(recipe.histories, _rows(dataset, recipe, frame, t), threads)
    derived: dict[str, Any] = {}
    for category in recipe.categories:
        derived[dataset.text_of[category.name]] = frame[category.column]
        if category.name == category.column:
            del columns[category.column]
    for feature in recipe.in_order():
        if feature.name in past:
            values = past.pop(feature.name)
        elif isinstance(feature, Category):
            continue  # it waits for its encoder
        else:
            values = _by_row(feature, frame, columns | derived, t, recipe.timezone)
        derived[feature.name] = by_row.usable(values)
    result = pd.DataFrame({**columns, **derived}, index=frame.index, copy=False)
    result.attrs = dict(frame.attrs)
    return result


def _by_row(
    feature: Derived,
    frame: pd.DataFrame,
    columns: dict[str, Any],
    t: np.ndarray | None,
    timezone: str | None,
) -> np.ndarray:
    """Return a feature (n,) that each row tells by itself.

    Parameters
    ----------
    columns : the frame's and those that are derived by now
    t : instants in microseconds, of a recipe that needs the time
    """
    if isinstance(feature, Calendar):
        return by_row.calendar(feature.part, t, timezone)
    if isinstance(feature, Distance):
        places = (frame[column].to_numpy(np.float64) for column in feature.columns)
        return by_row.distance_km(*places)
    assert isinstance(feature, Arithmetic)
    sides = (np.asarray(columns[side], np.float64) for side in (feature.left, feature.right))
    return by_row.arithmetic(feature.operation, *sides)


def remarks(dataset: Dataset, frame: pd.DataFrame) -> list[str]:
    """Return sentences on what is worth knowing of a derived frame.

    Features that are missing in some rows; ids by which a server could not count each row once.
    """
    if dataset.recipe is None:
        return []
    said = []
    if dataset.recipe.histories:
        said += _on_ids(dataset, frame)
    for name in dataset.recipe.names:
        n_missing = int(frame[name].isna().sum())
        if n_missing == len(frame):
            said.append(f"derived feature {name!r} is missing everywhere: it stays a constant")
        elif n_missing:
            said.append(
                f"rows without derived feature {name!r}, for which the median stands in: "
                f"{n_missing:,}"
            )
    return said


def _on_ids(dataset: Dataset, frame: pd.DataFrame) -> list[str]:
    """Return what keeps a server from telling transactions apart."""
    if not dataset.ids:
        return [
            "there are no `ids`: a server needs one to remember each transaction once, so that it "
            "will only take features that others have derived"
        ]
    column = dataset.ids[0]
    n_again = int(frame[column].duplicated().sum())
    if not n_again:
        return []
    return [
        f"rows whose {column!r}, the first of `ids`, stands in an earlier row: {n_again:,}; a "
        "server counts each id once"
    ]


def _rows(dataset: Dataset, recipe: Recipe, frame: pd.DataFrame, t: np.ndarray) -> Rows:
    """Return what histories need of a frame; `t` are its `instants`."""
    used = {getattr(feature, "column", None) for feature in recipe.histories}
    texts = {column: _codes(frame[column]) for column in recipe.texts}
    numbers = {
        column: frame[column].to_numpy(np.float64)
        for column in used
        if column is not None and column not in texts
    }
    fraud = np.full(len(frame), np.nan)
    if dataset.label is not None and dataset.label in frame.columns:
        y = frame[dataset.label].to_numpy(np.float64)
        fraud = np.where(y == UNLABELLED, np.nan, y)
    return Rows(t, texts, numbers, fraud)


def instants(dataset: Dataset, time: pd.Series) -> np.ndarray:
    """Return times (n,) as int64 microseconds since 1970-01-01 UTC.

    Numbers are rounded, so that what is written as 0.1 is a tenth, and windows are exact; what is
    finer than a microsecond is cut off. Raises DataError for a time too far away.
    """
    raw = ticks(time)
    if not pd.api.types.is_numeric_dtype(time):
        per_second = int(PER_SECOND[time.dt.unit])
        if per_second > MICROSECONDS:
            return raw // (per_second // MICROSECONDS)
        return raw * (MICROSECONDS // per_second)
    if np.abs(raw).max() > LAST_S:
        raise DataError(
            f"{dataset.name}: a time beyond {LAST_S:g} s is too far away for windows of time; say "
            "with `time_unit` if its unit is another"
        )
    return np.rint(raw * MICROSECONDS).astype(np.int64)


def _values(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return codes (n,) and the values that they stand for; "" is missing."""
    codes, found = pd.factorize(column, use_na_sentinel=True)
    return codes, [*map(str, found), MISSING]  # of code -1, a missing cell


def _codes(column: pd.Series) -> np.ndarray:
    """Return codes (n,) int64 of a column's values; missing ones differ from each other."""
    codes, _ = _values(column)
    alone = -1 - np.arange(len(codes))
    return np.where(codes < 0, alone, codes)


def encoders(dataset: Dataset, reference: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Count how large a share of reference's weight each value of a category has.

    Returns
    -------
    dict
        {feature: encoder}, as JSON has it; see `lib.bundle.categories.rarity`. A value that
        reference lacks is taken to have the share that one more row of n would have, 1 / (n + 1),
        or the smallest share of reference if that is less; so is one beyond the `MAX_VALUES` most
        frequent.
    """
    recipe = dataset.recipe
    if recipe is None:
        return {}
    weight = np.ones(len(reference))
    if dataset.weight is not None:
        weight = reference[dataset.weight].to_numpy(np.float64)
    fitted = {}
    for category in recipe.categories:
        codes, words = _values(reference[dataset.text_of[category.name]])
        weights = np.bincount(codes % len(words), weight, minlength=len(words))  # -1 is the last
        fitted[category.name] = _encoder(words, weights, len(reference))
    return fitted


def _encoder(words: list[str], weights: np.ndarray, n: int) -> dict[str, Any]:
    """Return the encoder of values and their weights, from n rows."""
    total = float(weights.sum())
    pairs = zip(words, weights.tolist(), strict=True)
    ordered = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    shares = {word: weight / total for word, weight in ordered[:MAX_VALUES] if weight > 0}
    return {"shares": shares, "unseen": min(1 / (n + 1), *shares.values())}


def encode(
    dataset: Dataset, frame: pd.DataFrame, fitted: dict[str, dict[str, Any]]
) -> pd.DataFrame:
    """Return a derived frame with numbers for its categories, by fitted encoders."""
    recipe = dataset.recipe
    if recipe is None:
        return frame
    columns = {}
    for category in recipe.categories:
        codes, words = _values(frame[dataset.text_of[category.name]])
        columns[category.name] = categories.rarity(fitted[category.name], words)[codes]
    return frame.assign(**columns)


if __name__ == "__main__":
    from lib.data import statement_command  # it imports this module

    sys.exit(statement_command.main())
