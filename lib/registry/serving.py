"""What is served now: the registry's champion, and the bundle that the server's folder holds.

Read at the moment of asking, in milliseconds, without MLflow where the registry is SQLite. What
cannot be read is said in a sentence: this never fails.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.bundle import manifest
from lib.errors import BundleError, TrackingError
from lib.files import read_json
from lib.registry import mlflow_store


@dataclass(frozen=True)
class Model:
    """A model as people ask for it; what is not known is empty or None.

    Parameters
    ----------
    name : the registered name
    version : the registry's number
    model : the candidate that it was, such as `fusion`
    since : when it became champion, or was exported; ISO 8601 in UTC
    dataset, source : what it was made for and from; of a bundle only
    refit : the periods that its configuration was fitted on anew; empty: it is what was compared
    """

    name: str
    version: str
    model: str = ""
    threshold: float | None = None
    since: str = ""
    dataset: str = ""
    source: str = ""
    refit: str = ""

    @property
    def called(self) -> str:
        """The candidate's name as far as it can be told here; `names.served` has better words."""
        family, at, variant = self.model.partition("@")
        return f"{family.replace('_', ' ')}{at}{variant}"

    def __str__(self) -> str:
        said = f"{self.name} version {self.version}"
        if self.model:
            said += f" ({self.called})"
        if self.threshold is not None:
            said += f", threshold {self.threshold:.6g}"
        return said


@dataclass(frozen=True)
class Now:
    """What is served at the time `as_of`, ISO 8601 in UTC.

    Parameters
    ----------
    name : the registered name that was asked for
    champion : of that name; None if there is none, or `unknown` says why it cannot be told
    bundle : in the server's folder; None if there is none, or `damage` says what is wrong with it
    withdrawn : {version: why it was rolled back from}
    """

    as_of: str
    name: str
    champion: Model | None
    bundle: Model | None
    unknown: str = ""
    damage: str = ""
    withdrawn: dict[str, str] | None = None

    @property
    def is_exported(self) -> bool:
        """Whether the server's folder holds the champion of this name."""
        if self.champion is None or self.bundle is None:
            return False
        ours, theirs = self.champion, self.bundle
        return (ours.name, ours.version) == (theirs.name, theirs.version)

    def sentences(self) -> list[str]:
        """Return what a person wants to know, in one or two sentences."""
        if self.champion is not None:
            since = f", since {self.champion.since}" if self.champion.since else ""
            said = [f"Champion now: {self.champion}{since}."]
        else:
            said = [f"Champion now: {self.unknown or f'{self.name} has none'}."]
        if self.damage:
            return [*said, f"serve/model cannot be served: {self.damage}"]
        if self.bundle is None:
            return [*said, "serve/model is empty: nothing is served from it."]
        of = f" for {self.bundle.dataset}" if self.bundle.dataset else ""
        exported = f", exported {self.bundle.since}" if self.bundle.since else ""
        anew = f", fitted anew on {self.bundle.refit}" if self.bundle.refit else ""
        said.append(f"serve/model holds {self.bundle}{of}{anew}{exported}.")
        if self.champion is not None and not self.is_exported:
            said.append(self._difference())
        return said

    def _difference(self) -> str:
        if self.bundle.name == self.champion.name:
            return "They differ: run_pipeline.py --only 10_export exports the champion."
        return (
            "It belongs to another registered name: the command of this run with "
            "--only 10_export --replace replaces it."
        )

    def fixed(self) -> str:
        """Return what is served without the time of looking, to compare two looks."""
        parts = [self.champion, self.unknown, self.bundle, self.damage, self.withdrawn]
        return " | ".join(map(str, parts))

    def to_dict(self) -> dict[str, Any]:
        """Return what json.dumps takes."""
        return asdict(self)


def now(name: str, bundle_dir: Path) -> Now:
    """Return what is served of a registered name, and from the server's folder."""
    champion, unknown = _champion(name)
    bundle, damage = exported(bundle_dir)
    # a tracking server that does not answer must not hide what the folder holds
    try:
        withdrawn = _withdrawn(name)
    except TrackingError:
        withdrawn = {}
    as_of = datetime.now(UTC).isoformat(timespec="seconds")
    return Now(as_of, name, champion, bundle, unknown, damage, withdrawn)


def _champion(name: str) -> tuple[Model | None, str]:
    try:
        try:
            found = mlflow_store.champion(name)
        except TrackingError:  # not SQLite: ask MLflow, whose import takes seconds
            from lib.registry import tracking

            found = tracking.serving(name)
    except TrackingError as error:
        return None, f"unknown ({error})"
    if found is None:
        return None, ""
    return Model(name, found.version, found.model, found.threshold, found.since), ""


def _withdrawn(name: str) -> dict[str, str]:
    if mlflow_store.database(mlflow_store.registry_uri()) is not None:
        return mlflow_store.withdrawn(name)
    from lib.registry import tracking

    return tracking.withdrawn_versions(name)


def stated_name(bundle_dir: Path) -> str:
    """Return the registered name that a manifest states, whatever else is wrong with the bundle."""
    found = read_json(Path(bundle_dir) / "manifest.json", {})
    if not isinstance(found, dict):
        return ""
    provenance = found.get("provenance")
    stated = provenance.get("registered_name") if isinstance(provenance, dict) else None
    return str(stated or found.get("name") or "")


def exported(bundle_dir: Path) -> tuple[Model | None, str]:
    """Return the bundle in a folder, and what is wrong with it; (None, "") where there is none."""
    if not (Path(bundle_dir) / "manifest.json").is_file():
        return None, ""
    try:
        found, _ = manifest.read(Path(bundle_dir))
    except BundleError as error:
        return None, str(error)
    provenance = found.get("provenance", {})
    model = Model(
        name=provenance.get("registered_name") or str(found.get("name", "")),
        version=found.get("version", ""),
        model=str(found.get("model", "")),
        threshold=found.get("threshold", {}).get("anomaly_score"),
        since=str(provenance.get("exported_at", "")),
        dataset=str(found.get("dataset", {}).get("name", "")),
        source=str(found.get("dataset", {}).get("source", "")),
        refit=str(found.get("refit", {}).get("periods", "")),
    )
    return model, ""
