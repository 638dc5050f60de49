"""A table of transactions: its description (YAML), where its raw file comes from, how it is read."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from lib import rawfile, rows
from lib.rawfile import DataError, RawFileMissing
from lib.rows import check, iter_transactions, prepare, read_transactions  # noqa: F401 - this is their door

ROOT = Path(__file__).resolve().parents[1]
CHOICES = {"missing": ("refuse", "median"), "negative_amount": ("refuse", "allow")}


@dataclass(frozen=True)
class Raw:
    """Where the raw file comes from, and what a download of it must hold (`fingerprint`: see there)."""

    path: str | None = None
    url: str | None = None
    rows: int | None = None
    frauds: int | None = None
    fingerprint: str | None = None


class Arrays(NamedTuple):
    """What models and metrics see of n transactions, in time order."""

    X: np.ndarray  # (n, d) float32, in the order of Dataset.features; NaN where missing
    y: np.ndarray | None  # (n,) int8, 1 = fraud; None without labels
    weight: np.ndarray  # (n,) float64, inverse sampling probability
    time_s: np.ndarray  # (n,) float64, the time column's numbers, or seconds since 1970-01-01 UTC
    amount: np.ndarray | None  # (n,) float64, 0 where missing; None if the dataset has no amount

    def take(self, rows: np.ndarray) -> Arrays:
        """The same arrays for some rows: a boolean mask or positions."""
        return Arrays(*(None if values is None else values[rows] for values in self))

    def training(self, train_on: str) -> Arrays:
        """The rows to fit on: 'genuine' leaves out known frauds (needs labels), 'all' uses no label."""
        if train_on not in ("genuine", "all"):
            raise DataError(f"train_on is {train_on!r}; it is 'genuine' or 'all'")
        if train_on == "all":
            return self
        if self.y is None:
            raise DataError("train_on 'genuine' needs labels and there are none; use train_on 'all'")
        return self.take(self.y == 0)


@dataclass(frozen=True)
class Dataset:
    """What a table's columns mean. Everything downstream takes features and names from here."""

    name: str
    time: str
    features: tuple[str, ...]
    label: str | None = None
    amount: str | None = None
    weight: str | None = None  # inverse sampling probability; the column may be absent from a file
    ids: tuple[str, ...] = ()
    missing: str = "refuse"
    negative_amount: str = "refuse"
    alert_budgets: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01)
    raw: Raw = Raw()
    simulation: dict | None = None
    folder: Path | None = field(default=None, compare=False, repr=False)  # of the YAML: raw.path starts there

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in use: time, features, amount, weight, ids, label; each once."""
        single = (self.amount, self.weight, *self.ids, self.label)
        return tuple(dict.fromkeys(c for c in (self.time, *self.features, *single) if c))

    @property
    def raw_path(self) -> Path | None:
        """Where the raw file lies if no other is named."""
        return (self.folder or ROOT / "data") / self.raw.path if self.raw.path else None

    def arrays(self, frame: pd.DataFrame) -> Arrays:
        """Arrays of a checked frame (`read_transactions`, `prepare` or a split's)."""
        X = np.empty((len(frame), len(self.features)), np.float32)
        for i, feature in enumerate(self.features):
            X[:, i] = frame[feature].to_numpy()
        y = frame[self.label].to_numpy(np.int8) if self.label in frame.columns else None
        weight = frame[self.weight].to_numpy(np.float64) if self.weight else np.ones(len(frame))
        time = frame[self.time]
        if not pd.api.types.is_numeric_dtype(time):
            time = rows.ticks(time) / {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[time.dt.unit]
        amount = np.nan_to_num(frame[self.amount].to_numpy(np.float64)) if self.amount else None
        return Arrays(X, y, weight, np.asarray(time, np.float64), amount)

    def to_dict(self) -> dict:
        """JSON-able; `from_dict` is its inverse."""
        plain = asdict(self)
        del plain["folder"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_dict(cls, mapping: dict, where: str = "the description", folder: Path | None = None) -> Dataset:
        """Build and check a description; DataError names the key, the value and, for a typo, the nearest key."""
        given = _known(mapping, [f.name for f in fields(cls) if f.name != "folder"], where)
        for key in ("name", "time", "features"):
            if not given.get(key):
                raise DataError(f"{where}: the key {key!r} is missing")
        for key in {"name", "time", "label", "amount", "weight"} & given.keys():
            given[key] = given[key] if given[key] is None else _column_name(given[key], key, where)
        for key in ("features", "ids"):
            names = given.get(key) or []
            if not isinstance(names, list | tuple):
                raise DataError(f"{where}: {key} is {names!r}; it is a list of column names")
            given[key] = tuple(_column_name(name, key, where) for name in names)
        for key, choices in CHOICES.items():
            if given.setdefault(key, choices[0]) not in choices:
                raise DataError(f"{where}: {key} is {given[key]!r}; it is {' or '.join(choices)}")
        given["alert_budgets"] = _budgets(given.get("alert_budgets", cls.alert_budgets), where)
        given["raw"] = Raw(**_known(given.get("raw") or {}, [f.name for f in fields(Raw)], f"{where}, raw"))
        for key, value in asdict(given["raw"]).items():
            if not isinstance(value, int if key in ("rows", "frauds") else str) and value is not None:
                raise DataError(f"{where}, raw: {key} is {value!r}; put quotes around text, none around numbers")
        if given.get("simulation") is not None:
            given["simulation"] = _known(given["simulation"], ["rows", "seed", "drift"], f"{where}, simulation")
        return cls(**given, folder=folder)._with_roles_checked(where)

    def _with_roles_checked(self, where):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise DataError(f"{where}: name is {self.name!r}; it is made of letters, digits, '-' and '_'")
        roles = {}
        single = {"time": self.time, "label": self.label, "weight": self.weight, "amount": self.amount}
        listed = [*(("feature", column) for column in self.features), *(("id", column) for column in self.ids)]
        for role, column in [*single.items(), *listed]:
            roles.setdefault(column, []).append(role)
        for column, has in roles.items():
            if column and len(has) > 1 and has != ["amount", "feature"]:
                raise DataError(f"{where}: column {column!r} is {' and '.join(has)}; it can be one of them, once")
        return self


def load_description(name_or_path: str | Path) -> Dataset:
    """A dataset by name ('creditcard': data/creditcard.yaml) or by the path of a YAML file."""
    path = ROOT / "data" / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path).expanduser()
    if not path.is_file():
        known = sorted(p.stem for p in (ROOT / "data").glob("*.yaml"))
        raise DataError(
            f"dataset {str(name_or_path)!r} is unknown{_nearest(str(name_or_path), known)}; "
            f"there are {', '.join(known)}, or name a YAML file that describes yours"
        )
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    return Dataset.from_dict(mapping, str(path), path.resolve().parent)


def _known(mapping, keys: list[str], where: str) -> dict:
    if not isinstance(mapping, dict):
        raise DataError(f"{where}: holds {mapping!r}; it has to be `key: value` lines")
    for key in mapping:
        if key not in keys:
            raise DataError(f"{where}: the key {key!r} is unknown{_nearest(str(key), keys)}")
    return dict(mapping)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(known)})"


def _column_name(value, key: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{where}: {key} holds {value!r}; a name belongs there")
    return str(value)


def _budgets(values, where: str) -> tuple[float, ...]:
    values = values if isinstance(values, list | tuple) else [values]
    if not values or not all(isinstance(v, int | float) and 0 < v < 1 for v in values):
        raise DataError(f"{where}: alert_budgets is {values!r}; it lists shares between 0 and 1, such as 0.002")
    return tuple(map(float, values))


def fingerprint(dataset: Dataset, frame: pd.DataFrame) -> str:
    """Hex sha256 of what identifies the raw rows, in the file's order and whatever the file's format.

    Over time_s (float64), amount in cents (int64) and label (int8), as far as there are such columns, little
    endian, column after column; weights take no part.
    """
    _, y, _, time_s, amount = dataset.arrays(frame)
    cents = None if amount is None else np.rint(amount * 100).astype("<i8")
    columns = (time_s.astype("<f8"), cents, y)
    return hashlib.sha256(b"".join(c.tobytes() for c in columns if c is not None)).hexdigest()


def _contents(dataset: Dataset, path: Path) -> Raw:
    """Rows, frauds and fingerprint of a raw file."""
    slim = replace(dataset, features=(), weight=None, ids=())
    frame = pd.concat([part for part, _ in rows.cleaned_parts(slim, path, None, True)])
    frauds = int(frame[dataset.label].sum()) if dataset.label else None
    return Raw(rows=len(frame), frauds=frauds, fingerprint=fingerprint(slim, frame))


def find_raw(dataset: Dataset, raw: str | Path = "", download: bool = True, progress=None) -> tuple[Path, str]:
    """The raw file or folder, and its source: 'full' where the fingerprint is the description's, else 'custom'.

    `raw` if given; else the description's raw.path; else it is downloaded there from raw.url and kept only if its
    rows, frauds and fingerprint are the description's. `progress`: see `lib.rawfile.download`.
    Raises RawFileMissing where nothing is there and nothing can be had; the message says what to do.
    """
    path = Path(raw).expanduser().resolve() if raw else dataset.raw_path
    if raw and not path.exists():
        raise DataError(f"raw file {path}: there is no such file or folder")
    if path is None:
        raise RawFileMissing(f"{dataset.name}: its description names no raw.path; name the file with --raw FILE")
    if not path.exists():
        advice = "put it there, or name it with --raw FILE"
        if not (download and dataset.raw.url):
            raise RawFileMissing(f"{dataset.name}: there is no raw file {path}; {advice}")
        try:
            rawfile.download(dataset.raw.url, path, lambda part: _verify(dataset, part), progress)
        except RawFileMissing as error:
            raise RawFileMissing(f"{dataset.name}: there is no raw file {path}; {advice}. {error}") from error
    return path, _source(dataset, path)


def _verify(dataset, path):
    there = _contents(dataset, path)
    for key in ("rows", "frauds", "fingerprint"):
        if (asked := getattr(dataset.raw, key)) not in (None, found := getattr(there, key)):
            raise DataError(f"its {key} should be {asked} and is {found}")


def _source(dataset, path) -> str:
    if not dataset.raw.fingerprint:
        return "custom"
    try:
        return "full" if _contents(dataset, path).fingerprint == dataset.raw.fingerprint else "custom"
    except DataError:
        return "custom"  # what is wrong with the file is said where it is read as a whole
