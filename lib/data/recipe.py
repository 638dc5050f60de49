"""The recipe of a description: its JSON Schema, and what a table cannot follow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from lib.bundle.recipe import (
    DURATION,
    KINDS,
    OF_LABELS,
    OF_NUMBERS,
    PARTS,
    WINDOW_KEYS,
    Arithmetic,
    Calendar,
    Category,
    Derived,
    Recipe,
    SinceLast,
    Window,
)
from lib.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from lib.data.datasets import Dataset

MISSING_BEHIND = "std", "mean", "max", "min"  # of a window that may be empty


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a feature: a column's name, or a mapping of one of `KINDS`."""
    name = {"type": "string"}
    duration = {"type": "string", "pattern": f"^{DURATION.pattern}$"}
    values: dict[str, dict] = dict.fromkeys(KINDS, name)
    values["time"] = {"enum": list(PARTS)}
    for kind, n in {"distance_km": 4, "ratio": 2, "difference": 2}.items():
        values[kind] = {"type": "array", "items": name, "minItems": n, "maxItems": n}
    beside = {"name": name, "of": name, **dict.fromkeys(WINDOW_KEYS, duration)}
    branches: list[dict[str, Any]] = [name]
    for kind, keys in KINDS.items():
        required = [kind, *(key for key in keys if key != "delay" or kind in OF_LABELS)]
        properties = {kind: values[kind], **{key: beside[key] for key in (*keys, "name")}}
        branches.append(
            {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        )
    return {"anyOf": branches}


def of(features: tuple, entities: tuple[str, ...], timezone: str | None) -> Recipe | None:
    """Return the recipe of a checked description; None where it derives nothing."""
    derived = tuple(feature for feature in features if not isinstance(feature, str))
    if not derived and not entities and timezone is None:
        return None
    return Recipe(derived, entities, timezone)


def refuse(dataset: Dataset, where: str) -> None:
    """Raise DataError, one sentence, for a recipe that its table cannot follow."""
    recipe = dataset.recipe
    if recipe is None:
        return
    try:
        _refuse_timezone(recipe)
        _refuse_names(dataset, recipe)
        for feature in recipe.derived:
            _refuse_feature(dataset, recipe, feature)
        _refuse_missing(dataset, recipe)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _refuse_timezone(recipe: Recipe) -> None:
    if recipe.timezone is None:
        return
    try:
        ZoneInfo(recipe.timezone)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"timezone is {recipe.timezone!r}; expected a name such as Europe/Paris or UTC"
        ) from error
    if not any(isinstance(feature, Calendar) for feature in recipe.derived):
        raise ValueError("`timezone` has no effect without a feature of the `time`; leave it out")


def _refuse_names(dataset: Dataset, recipe: Recipe) -> None:
    """Refuse a derived feature that is called like a column or another feature."""
    columns = set(dataset.columns)
    seen: set[str] = set()
    for feature in recipe.derived:
        name = feature.name
        is_own = isinstance(feature, Category) and name == feature.column
        if name in seen or (name in columns and not is_own):
            raise ValueError(
                f"two columns are called {name!r}; give the derived feature another `name`"
            )
        if is_own and name in recipe.entities:
            raise ValueError(f"{name!r} is an entity and a category; give the category a `name`")
        seen.add(name)


def _refuse_feature(dataset: Dataset, recipe: Recipe, feature: Derived) -> None:
    """Refuse a feature that needs what the table does not have."""
    if isinstance(feature, Window | SinceLast):
        _refuse_history(dataset, recipe, feature)
    elif isinstance(feature, Calendar) and dataset.time is None:
        raise ValueError(f"feature {feature.name!r} needs a time, and `time` is null")
    elif isinstance(feature, Arithmetic):
        for needed in (feature.left, feature.right):
            # a category becomes a number last, when it is known what reference is
            encoded = [category.name for category in recipe.categories]
            derived = [name for name in recipe.names if name not in encoded]
            known = [*_numbers(dataset, recipe), *derived]
            if needed not in known:
                advice = did_you_mean(needed, known)
                raise ValueError(f"{feature.name!r} needs {needed!r}, no number here; {advice}")
        recipe.in_order()


def _refuse_history(dataset: Dataset, recipe: Recipe, feature: Window | SinceLast) -> None:
    """Refuse a history without a time, an entity, a label or the column it is of."""
    name = feature.name
    if dataset.time is None:
        raise ValueError(f"feature {name!r} is a history and needs a time, and `time` is null")
    if feature.entity not in recipe.entities:
        listed = ", ".join(recipe.entities) or "nothing"
        raise ValueError(
            f"feature {name!r} is a history of {feature.entity!r}; add it to `entities`, "
            f"which lists {listed}"
        )
    if isinstance(feature, SinceLast):
        return
    if feature.statistic in OF_LABELS and dataset.label is None:
        raise ValueError(f"feature {name!r} needs a `label`, and the description names none")
    known: Iterable[str] = ()
    if feature.statistic in OF_NUMBERS:
        known = _numbers(dataset, recipe)
    elif feature.statistic == "distinct":
        known = recipe.texts
    if feature.column is not None and feature.column not in known:
        advice = did_you_mean(feature.column, known)
        kind = "entity or category" if feature.statistic == "distinct" else "number"
        raise ValueError(
            f"feature {name!r} is of {feature.column!r}, no {kind} of the description; {advice}"
        )


def _numbers(dataset: Dataset, recipe: Recipe) -> list[str]:
    """Return the raw columns that are numbers."""
    amount = [] if dataset.amount is None else [dataset.amount]
    return list(dict.fromkeys([*dataset.plain_features, *amount, *recipe.coordinates]))


def _refuse_missing(dataset: Dataset, recipe: Recipe) -> None:
    """Refuse `missing: refuse` where a history can be empty: models would meet what they refuse."""
    if dataset.missing == "median":
        return
    for feature in recipe.derived:
        if _can_be_missing(feature):
            raise ValueError(
                f"feature {feature.name!r} is missing where there is no history or its divisor is "
                "0, and the description says `missing: refuse`; write `missing: median`"
            )


def _can_be_missing(feature: Derived) -> bool:
    if isinstance(feature, SinceLast):
        return True
    if isinstance(feature, Arithmetic):
        return feature.operation == "ratio"
    if not isinstance(feature, Window):
        return False
    may_be_empty = feature.delay is not None and feature.statistic in MISSING_BEHIND
    return feature.statistic == "std" or may_be_empty
