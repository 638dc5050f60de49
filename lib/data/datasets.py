"""A table of transactions: what its columns mean, and what models and metrics see of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.bundle.recipe import Recipe, as_mapping
from lib.data import checks, description, recipe

# this module is the door of these
from lib.data.checks import check, iter_transactions, prepare, read_transactions  # noqa: F401
from lib.data.columns import free_name
from lib.data.description import BUDGET, BUDGETS, ROOT, UNLABELLED, LabelWords, Raw
from lib.data.download import fetch
from lib.data.fingerprints import of_rows as fingerprint
from lib.data.formats import Format
from lib.data.times import seconds
from lib.errors import DataError, RawFileMissing, did_you_mean, listed

LATER_KEYS = (
    *("time_format", "time_unit", "separator", "decimal", "encoding"),
    "reviews_per_day",
)
NUMBERS = {"amount", "feature", "coordinate"}  # roles that a column of numbers may have at once
TEXTS = {"entity", "category"}
NO_HOME = "there is no such home folder; write the path in full"


class Arrays(NamedTuple):
    """What models and metrics see of n transactions, in time order."""

    X: np.ndarray  # (n, d) float32, in the order of Dataset.features; NaN where missing
    y: np.ndarray  # (n,) int8, 1 = fraud, 0 = genuine, -1 = not known
    weight: np.ndarray  # (n,) float64, inverse sampling probability
    time_s: np.ndarray  # (n,) float64, seconds; since 1970-01-01 UTC where time is a date
    amount: np.ndarray | None  # (n,) float64, 0 where missing; None if the dataset has no amount

    def take(self, rows: np.ndarray | slice) -> Arrays:
        """Return the same arrays for some rows: a boolean mask, positions or a slice."""
        taken = [None if values is None else values[rows] for values in self]
        return Arrays(*taken)

    def training(self, train_on: str) -> Arrays:
        """Return the rows to fit on.

        'genuine' keeps those that are known to be genuine; 'all' keeps all and uses no label.
        Raises DataError for another word, or for 'genuine' where nothing is labelled.
        """
        if train_on not in ("genuine", "all"):
            raise DataError(f"train_on is {train_on!r}; it is 'genuine' or 'all'")
        if train_on == "all":
            return self
        is_labelled = self.y != UNLABELLED
        if not is_labelled.any():
            raise DataError(
                "train_on 'genuine' needs labels and there are none; use train_on 'all'"
            )
        is_genuine = self.y == 0
        return self.take(is_genuine)


@dataclass(frozen=True)
class Dataset:
    """What a table's columns mean. Everything downstream takes features and names from here.

    The keys are those of `lib.data.description.Description`; `label` is the column, `label_words`
    its words for fraud and genuine where it has its own. `features` are names of numbers; those
    that are no columns of the table are derived by `recipe`, which is None where all are columns.
    """

    name: str
    time: str | tuple[str, str] | None
    features: tuple[str, ...]
    label: str | None = None
    amount: str | None = None
    weight: str | None = None
    ids: tuple[str, ...] = ()
    missing: str = "refuse"
    negative_amount: str = "refuse"
    alert_budgets: tuple[float, ...] = BUDGETS
    raw: Raw = field(default_factory=Raw)
    simulation: dict | None = None
    alert_budget: float | None = None
    reviews_per_day: int | None = None
    label_words: LabelWords | None = None
    time_format: str | None = None
    time_unit: str | None = None
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    recipe: Recipe | None = None
    folder: Path | None = field(default=None, compare=False, repr=False)  # raw.path starts there

    def __post_init__(self) -> None:
        if self.alert_budget is None:
            is_listed = BUDGET in self.alert_budgets
            budget = BUDGET if is_listed else self.alert_budgets[0]
            object.__setattr__(self, "alert_budget", budget)

    @property
    def time_columns(self) -> tuple[str, ...]:
        """The columns that tell the time: none, one, or date and time."""
        if self.time is None:
            return ()
        if isinstance(self.time, str):
            return (self.time,)
        return self.time

    @property
    def plain_features(self) -> tuple[str, ...]:
        """The features that are columns of the table."""
        derived = () if self.recipe is None else self.recipe.names
        return tuple(feature for feature in self.features if feature not in derived)

    @property
    def texts(self) -> tuple[str, ...]:
        """The table's columns that are text: ids, entities and categories; each once."""
        of_recipe = () if self.recipe is None else self.recipe.texts
        return tuple(dict.fromkeys((*self.ids, *of_recipe)))

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns that are kept as text beside the scores: ids and entities."""
        return (*self.ids, *self.entities)

    @property
    def entities(self) -> tuple[str, ...]:
        """The columns whose values have histories."""
        return () if self.recipe is None else self.recipe.entities

    @property
    def text_of(self) -> dict[str, str]:
        """Where a split keeps the text of its categories: {feature: column}."""
        if self.recipe is None:
            return {}
        taken = {*self.columns, *self.features}
        found = {}
        for category in self.recipe.categories:
            column = category.column
            is_free = category.name != column
            found[category.name] = column if is_free else free_name(f"{column}_text", taken)
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns in use, each once.

        Time, features and what a recipe makes them of, amount, weight, ids, label.
        """
        coordinates = () if self.recipe is None else self.recipe.coordinates
        named = [
            *self.time_columns,
            *self.plain_features,
            *coordinates,
            self.amount,
            self.weight,
            *self.texts,
            self.label,
        ]
        there = [column for column in named if column is not None]
        return tuple(dict.fromkeys(there))

    @property
    def time_column(self) -> str:
        """The one column of a checked frame that holds the time.

        The table's own where it has one; else a name that none of its columns has.
        """
        if isinstance(self.time, str):
            return self.time
        return free_name("time", {*self.columns, *self.features})

    @property
    def format(self) -> Format:
        """How its CSV files are written, as far as the description says."""
        coordinates = () if self.recipe is None else self.recipe.coordinates
        measured = {*self.plain_features, *coordinates, self.amount, self.weight}
        if isinstance(self.time, str) and self.time_format is None:
            measured.add(self.time)
        numbers = frozenset(column for column in measured if column is not None)
        return Format(self.separator, self.decimal, self.encoding, numbers)

    @property
    def raw_path(self) -> Path | None:
        """Where the raw file lies if no other is named."""
        if not self.raw.path:
            return None
        folder = self.folder or ROOT / "data"
        return folder / _at_home(self.raw.path)

    def arrays(self, frame: pd.DataFrame) -> Arrays:
        """Return the Arrays of a checked frame (`read_transactions`, `prepare` or a split's).

        Raises DataError if features of the recipe are not derived yet (`lib.data.features`).
        """
        absent = [feature for feature in self.features if feature not in frame.columns]
        if absent and self.recipe is not None:
            raise DataError(
                f"{self.name}: feature {absent[0]!r} is not derived yet; take the rows of a split"
            )
        n = len(frame)
        X = np.empty((n, len(self.features)), np.float32)
        for i, feature in enumerate(self.features):
            X[:, i] = frame[feature].to_numpy()
        y = np.full(n, UNLABELLED, np.int8)
        if self.label is not None and self.label in frame.columns:
            y = frame[self.label].to_numpy(np.int8)
        weight = np.ones(n)
        if self.weight is not None:
            weight = frame[self.weight].to_numpy(np.float64)
        amount = None
        if self.amount is not None:
            amount = frame[self.amount].to_numpy(np.float64)
            amount = np.nan_to_num(amount)
        time_s = seconds(frame[self.time_column])
        return Arrays(X, y, weight, time_s, amount)

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON has it; `from_dict` is its inverse.

        Keys that came later are left out where they have their defaults, so that the folders of
        splits that were made before are found again.
        """
        label: Any = self.label
        if self.label_words is not None:
            label = self.label_words.model_dump(mode="json")
        time: Any = self.time
        if isinstance(time, tuple):
            time = list(time)
        plain: dict[str, Any] = {
            "name": self.name,
            "time": time,
            "features": list(self.features),
            "label": label,
            "amount": self.amount,
            "weight": self.weight,
            "ids": list(self.ids),
            "missing": self.missing,
            "negative_amount": self.negative_amount,
            "alert_budgets": list(self.alert_budgets),
            "raw": self.raw.model_dump(),
            "simulation": self.simulation,
        }
        if self.recipe is not None:
            plain |= self._recipe_as_json()
        for key in LATER_KEYS:
            value = getattr(self, key)
            if value is not None:
                plain[key] = value
        undecided = replace(self, alert_budget=None)
        if self.alert_budget != undecided.alert_budget:
            plain["alert_budget"] = self.alert_budget
        return plain

    def _recipe_as_json(self) -> dict[str, Any]:
        """Return the keys of the recipe."""
        written = {f.name: as_mapping(f) for f in self.recipe.derived}
        plain: dict[str, Any] = {
            "features": [written.get(feature, feature) for feature in self.features],
            "entities": list(self.recipe.entities),
        }
        if self.recipe.timezone is not None:
            plain["timezone"] = self.recipe.timezone
        return plain

    @classmethod
    def from_dict(
        cls, mapping: dict, where: str = "the description", folder: Path | None = None
    ) -> Dataset:
        """Build and check a dataset.

        Raises DataError naming the key, the value and, for a typo, the nearest key.
        """
        checked = description.validated(mapping, where)
        keys = type(checked).model_fields
        values = {key: getattr(checked, key) for key in keys if key not in ("entities", "timezone")}
        features = checked.features
        values["recipe"] = recipe.of(features, checked.entities, checked.timezone)
        values["features"] = tuple(f if isinstance(f, str) else f.name for f in features)
        if isinstance(checked.label, LabelWords):
            values["label"] = checked.label.column
            values["label_words"] = checked.label
        if checked.simulation is not None:
            values["simulation"] = checked.simulation.model_dump(exclude_unset=True)
        dataset = cls(**values, folder=folder)
        dataset._refuse_two_roles(where, [f for f in features if isinstance(f, str)])
        recipe.refuse(dataset, where)
        return dataset

    def _refuse_two_roles(self, where: str, plain_features: list[str]) -> None:
        """Refuse a column that has two roles; an amount may be a feature as well."""
        entities: tuple[str, ...] = ()
        categories: dict[str, None] = {}
        coordinates: tuple[str, ...] = ()
        if self.recipe is not None:
            entities = self.recipe.entities
            categories = dict.fromkeys(c.column for c in self.recipe.categories)
            coordinates = self.recipe.coordinates
        columns_of = {
            "time": self.time_columns,
            "label": (self.label,),
            "weight": (self.weight,),
            "amount": (self.amount,),
            "feature": plain_features,
            "coordinate": coordinates,
            "id": self.ids,
            "entity": entities,
            "category": categories,
        }
        roles_of: dict[str, list[str]] = {}
        for role, columns in columns_of.items():
            for column in columns:
                if column is not None:
                    roles_of.setdefault(column, []).append(role)
        for column, roles in roles_of.items():
            for role, times in Counter(roles).items():
                if times > 1:
                    raise DataError(
                        f"{where}: column {column!r} is named {times} times as {role}; once is "
                        "enough"
                    )
            if len(roles) > 1 and not (set(roles) <= NUMBERS or set(roles) <= TEXTS):
                raise DataError(
                    f"{where}: column {column!r} is {listed(roles)}; it can be one of them only"
                )


def _at_home(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {NO_HOME}") from error


def load_description(name_or_path: str | Path) -> Dataset:
    """Return a dataset by its name or by the path of a YAML file.

    'creditcard' is data/creditcard.yaml.
    """
    ours = ROOT / "data"
    path = ours / f"{name_or_path}.yaml"
    if not path.is_file():
        path = _at_home(name_or_path)
    if not path.is_file():
        name = str(name_or_path)
        known = sorted(p.stem for p in ours.glob("*.yaml"))
        if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
            raise DataError(f"there is no description {path.absolute()}")
        raise DataError(
            f"dataset {name!r} is unknown; {did_you_mean(name, known)} "
            "A YAML file can be named, too, that describes your own"
        )
    mapping = description.read(path)
    folder = path.resolve().parent
    return Dataset.from_dict(mapping, str(path), folder)


def find_raw(
    dataset: Dataset,
    raw: str | Path = "",
    download: bool = True,
    progress: Callable | None = None,
) -> Path:
    """Return the raw file or folder.

    It is `raw` if that is given; else the description's raw.path; else it is downloaded there from
    raw.url, and kept only if its rows, frauds and fingerprint are the description's.

    Raises RawFileMissing where nothing is there and nothing can be had; the message says what to
    do.
    """
    path = _at_home(raw).resolve() if raw else dataset.raw_path
    if raw and not path.exists():
        raise DataError(f"raw file {path}: there is no such file or folder")
    if path is None:
        raise RawFileMissing(
            f"{dataset.name}: its description names no raw.path; name the file with --raw FILE"
        )
    if path.exists():
        return path
    advice = "put it there, or name it with --raw FILE"
    missing = f"{dataset.name}: there is no raw file {path}; {advice}"
    url = dataset.raw.url
    if not download or not url:
        raise RawFileMissing(missing)

    def verify(part: Path) -> None:
        """Raise DataError unless a download is what the description says."""
        _verify(dataset, part)

    try:
        fetch(url, path, verify, progress)
    except RawFileMissing as error:
        raise RawFileMissing(f"{missing}. {error}") from error
    return path


def source(dataset: Dataset, frame: pd.DataFrame) -> str:
    """Return 'full' where a frame (`read_transactions`) is the table described, else 'custom'."""
    described = dataset.raw.fingerprint
    found = frame.attrs["fingerprint"]
    is_full = described and found == described
    return "full" if is_full else "custom"


def _verify(dataset: Dataset, path: Path) -> None:
    """Raise DataError where rows, frauds or fingerprint are not the description's."""
    slim = replace(
        dataset, features=(), weight=None, ids=(), recipe=None
    )  # a fraction of the memory
    parts = checks.cleaned_parts(slim, path, None, True)
    frame = pd.concat([part for part, _ in parts])
    frauds = None
    if dataset.label is not None:
        is_fraud = frame[dataset.label] == 1
        frauds = int(is_fraud.sum())
    there = {
        "rows": len(frame),
        "frauds": frauds,
        "fingerprint": fingerprint(slim, frame),
    }
    for key, found in there.items():
        asked = getattr(dataset.raw, key)
        if asked is not None and asked != found:
            raise DataError(f"its {key} should be {asked} and is {found}")
