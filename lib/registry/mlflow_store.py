"""Locate the MLflow store and read aliases straight from SQLite, without importing MLflow.

The import takes seconds.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import socket
import sqlite3
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lib.data.datasets import ROOT
from lib.errors import TrackingError

EXPERIMENT = "fraud-pipeline"
MAX_PART = 80  # characters of one part of a metric's name; MLflow takes 250 for all parts together
PATHS = (  # columns in which MLflow keeps absolute paths
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


SETTINGS = {
    # about a minute: a server that is started again is waited for. MLflow's own 7 take four minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Champion:
    """A registered version, with a copy of its files in `folder` that lasts as long as the process.

    lost : the sentence that says why its files can't be read, empty where they can; `folder` is
        None then, and `manifest` holds no more than what the registry's tags say: `model`,
        `threshold`.
    """

    name: str
    version: str
    run_id: str
    manifest: dict
    folder: Path | None
    lost: str = ""


@dataclass(frozen=True)
class Version:
    """What the registry itself knows of a registered version; its files are not looked at.

    version : the number as text, such as "3"
    tags : {name: text} as they are in the registry; older versions lack some of those below
    """

    name: str
    version: str
    tags: Mapping[str, str]

    @property
    def model(self) -> str:
        """Name of the candidate that it was, such as `fusion`; empty where it is not known."""
        return self.tags.get("model", "")

    @property
    def threshold(self) -> float | None:
        """Anomaly score, 0 to 1, from which on there is an alert."""
        return _number(self.tags.get("threshold"))

    @property
    def alert_budget(self) -> float | None:
        """Share of the transactions that the threshold was set for."""
        return _number(self.tags.get("alert_budget"))

    @property
    def since(self) -> str:
        """When it became champion the last time, ISO 8601 in UTC; empty where that is not known."""
        return self.tags.get("champion_since", "")

    @property
    def withdrawn(self) -> str:
        """Why it was rolled back from; empty where it was not."""
        return self.tags.get("withdrawn", "")

    @property
    def withdrawn_at(self) -> str:
        """When it was rolled back from, ISO 8601 in UTC; empty where it was not."""
        return self.tags.get("withdrawn_at", "")

    @property
    def bundle_hash(self) -> str:
        """See `lib.bundle.bundle_hash`; empty where it was not noted yet."""
        return self.tags.get("bundle_hash", "")


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, by default the SQLite store `mlflow.db` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(ROOT / "mlflow.db")


def registry_uri() -> str:
    """Return MLFLOW_REGISTRY_URI if it is set, else the store of the runs."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri()


def sqlite_uri(path: Path) -> str:
    """Return the URI of a SQLite store, for `database` and MLflow alike.

    Only what would end the path or be decoded is quoted: MLflow makes the folder of the URI as it
    is written.
    """
    quoted = str(Path(path).absolute()).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{quoted}"


def shown(uri: str) -> str:
    """Return the URI without name and password."""
    parts = urlsplit(uri)
    if not parts.hostname:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host).geturl()


def database(uri: str) -> Path | None:
    """Return the path of a SQLite store; None for any other store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(_as_written(uri))).absolute()


def _as_written(uri):
    return uri.removeprefix("sqlite:///").partition("?")[0]


def _remove_mistaken_folders(uri):
    """Remove the empty folders that MLflow makes for a URI with quoted characters.

    It makes the folder `50%25`, with the quoting as part of the name, before it opens the store in
    `50%`.
    """
    path = database(uri)
    mistaken = path and Path(_as_written(uri)).absolute()
    while path != mistaken:
        path, mistaken = path.parent, mistaken.parent
        if path != mistaken:
            with contextlib.suppress(OSError):  # there is none, or somebody keeps something in it
                mistaken.rmdir()


def artifacts(path: Path) -> str:
    """Return the URI of the folder `mlartifacts` beside a SQLite store."""
    return (path.parent / "mlartifacts").as_uri()


def check() -> None:
    """Raise TrackingError if a store does not answer within seconds.

    MLflow itself would ask again for minutes.
    """
    for uri in dict.fromkeys((tracking_uri(), registry_uri())):
        try:
            _reach(uri)
        except (OSError, sqlite3.Error, ValueError) as error:
            raise TrackingError(unreachable(uri, error)) from error


def _reach(uri):
    parts, path = urlsplit(uri), database(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
    elif parts.scheme in ("http", "https"):
        _ask(f"{shown(uri).rstrip('/')}/health")
    elif parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()


def _ask(url):
    """Ask for any answer; a refusal will do.

    So will a certificate that MLflow may have been told to accept.
    """
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.URLError as error:
        if getattr(error, "code", 500) >= 500 and not isinstance(error.reason, ssl.SSLError):
            raise


def unreachable(uri: str, error: Exception) -> str:
    """Return the sentence for a store that does not answer."""
    said = (
        f"MLflow at {shown(uri)} does not answer ({str(error).splitlines()[0][:200]}): start it, "
        "or unset"
    )
    if uri != tracking_uri():
        return f"{said} MLFLOW_REGISTRY_URI to keep the registry beside the runs."
    return f"{said} MLFLOW_TRACKING_URI to use mlflow.db in the project's folder."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let MLflow keep log lines, links and telemetry to itself, and not be patient for ever.

    It leaves no URI in the environment of our children either.
    """
    for variable, value in SETTINGS.items():
        os.environ.setdefault(variable, value)
    named = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        yield
    finally:
        if not named:
            os.environ.pop("MLFLOW_TRACKING_URI", None)


def relocate() -> None:
    """Let a SQLite store find its artifacts again after its folder was moved or copied."""
    path = database(tracking_uri())
    if path is None or not path.is_file():
        return
    new = artifacts(path)
    with _open(path) as connection:
        row = _first(
            connection, "SELECT artifact_location FROM experiments WHERE name = ?", EXPERIMENT
        )
        if row is None or row[0] == new:
            return
        n = len(row[0])
        for table, column in PATHS:
            moved = (
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column}, 1, ?) = ?"
            )
            connection.execute(moved, [new, n + 1, n, row[0]])


def experiment_id() -> str | None:
    """Return the id of our experiment in a SQLite store; None where nothing was logged to it yet.

    Other stores: TrackingError.
    """
    path = database(tracking_uri())
    if path is None:
        raise TrackingError(
            f"{shown(tracking_uri())} is no SQLite store; its server has pages of its own."
        )
    if not path.is_file():
        return None
    with _open(path) as connection:
        query = "SELECT experiment_id FROM experiments WHERE name = ?"
        row = _first(connection, query, EXPERIMENT)
    return str(row[0]) if row else None


def champion_version(name: str, alias: str = "champion") -> str | None:
    """Return the version behind an alias of a SQLite registry; None without one.

    It takes a millisecond. Other stores: TrackingError.
    """
    found = champion(name, alias)
    return None if found is None else found.version


def champion(name: str, alias: str = "champion") -> Version | None:
    """Return what a SQLite registry knows of an alias's version; None without one.

    It takes a millisecond, imports no MLflow and reads no artifact. For the registry of a server
    see `lib.registry.tracking.serving`.

    Raises
    ------
    TrackingError
        The registry is no SQLite store.
    """
    path = database(registry_uri())
    if path is None:
        raise TrackingError(
            f"{shown(registry_uri())} is no SQLite store; ask lib.registry.tracking for the "
            "champion."
        )
    if not path.is_file():
        return None
    with _open(path) as connection:
        query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
        row = _first(connection, query, name, alias)
        if row is None:
            return None
        query = "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?"
        return Version(name, str(row[0]), dict(connection.execute(query, (name, row[0]))))


def champions():
    """Return the champions of all names of a SQLite registry; TrackingError for other stores."""
    path = database(registry_uri())
    if path is None:
        raise TrackingError(
            f"{shown(registry_uri())} is not a SQLite store; ask lib.registry.tracking."
        )
    if not path.is_file():
        return []
    with _open(path) as connection:
        if _first(connection, "SELECT 1 FROM registered_model_aliases") is None:
            return []
        query = "SELECT name FROM registered_model_aliases WHERE alias = 'champion' ORDER BY name"
        names = [name for (name,) in connection.execute(query)]
    return [champion(name) for name in names]


def withdrawn(name: str) -> dict[str, str]:
    """Return why versions of a SQLite registry were rolled back from: {version: reason}.

    Other stores: TrackingError.
    """
    path = database(registry_uri())
    if path is None:
        raise TrackingError(
            f"{shown(registry_uri())} is no SQLite store; ask lib.registry.tracking."
        )
    if not path.is_file():
        return {}
    with _open(path) as connection:
        if _first(connection, "SELECT 1 FROM model_version_tags WHERE key = 'withdrawn'") is None:
            return {}
        query = "SELECT version, value FROM model_version_tags WHERE name = ? AND key = 'withdrawn'"
        return {str(number): why for number, why in connection.execute(query, (name,))}


@contextlib.contextmanager
def _open(path):
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        yield connection


def _first(connection, query, *values):
    """Return the first row, or None: also where the store has no tables yet."""
    has_tables = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE name = 'experiments'"
    ).fetchone()
    return connection.execute(query, values).fetchone() if has_tables else None


@functools.cache
def git_commit() -> str | None:
    """Return the project's commit, with `+` where files differ from it; None outside git."""
    ask = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    with contextlib.suppress(OSError):
        return (
            subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() or None
        )
    return None


def in_a_sentence(function: Callable) -> Callable:
    """Turn what MLflow and its libraries raise into TrackingError."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in (
                "mlflow",
                "requests",
                "sqlalchemy",
                "sqlite3",
            ):
                raise
            said = " ".join(str(error).split())[:400]
            uri = shown(tracking_uri())
            raise TrackingError(f"MLflow at {uri} failed in {function.__name__}: {said}") from error
        finally:
            _remove_mistaken_folders(tracking_uri())

    return wrapped


def flatten(nested: dict) -> dict[str, float]:
    """Return the finite numbers of a nested dict, under names that MLflow takes.

    Such as {"autoencoder/validation/roc_auc": 0.9}.

    A figure {"value", "low", "high"} becomes the name itself, `…_low` and `…_high`. No two numbers
    share a name: where replaced characters, or a store that ignores case, would merge two, the
    later one ends in `_2`, `_3` and so on.
    """
    flat, taken = {}, set()
    for name, value in _numbers(nested, ""):
        free, n = name, 1
        while free.lower() in taken:
            n += 1
            free = f"{name}_{n}"
        taken.add(free.lower())
        flat[free] = value
    return flat


def _numbers(nested, prefix):
    """Yield (name, number) of all finite numbers, depth first."""
    figure = _is_figure(nested)
    for key, value in nested.items():
        if figure and prefix:
            name = prefix if key == "value" else f"{prefix}_{key}"
        else:
            name = f"{prefix}/{_part(key)}" if prefix else _part(key)
        if isinstance(value, dict):
            yield from _numbers(value, name)
        elif isinstance(value, int | float) and math.isfinite(value):
            yield name, float(value)


def _is_figure(nested):
    kinds = (isinstance(value, int | float | None) for value in nested.values())
    return set(nested) == {"value", "low", "high"} and all(kinds)


def _part(key):
    """Return a part of a metric's name as MLflow takes it: neither empty nor only dots."""
    part = re.sub(r"[^\w\-. ]", "_", str(key))[:MAX_PART]
    return part if part.strip(". ") else f"_{part}"
