"""Give a simulated production a registry, a first bundle and a server's folder of its own.

Nothing outside the sandbox's folder changes: not the project's aliases, not the exported bundle.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lib import bundle
from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.bundle.manifest import HISTORY, read
from lib.data.datasets import Arrays
from lib.data.splits import Split
from lib.detectors.isolation_forest import IsolationForest
from lib.errors import DataError
from lib.registry import candidates, challengers, tracking
from lib.registry.mlflow_store import Champion, sqlite_uri
from lib.reporting import cards

URI = "MLFLOW_TRACKING_URI"
NOTHING: Mapping[str, bytes] = {}


@contextmanager
def store(folder: Path) -> Iterator[None]:
    """Let MLflow's store be a database in `folder`, and forget the pipeline's run, for a block.

    A new database gets a name that no other has had: MLflow keeps those that it has opened open,
    and could not write to one of the same name once the folder has been deleted, as a notebook does
    that is run again.
    """
    path = next(Path(folder).glob("mlflow-*.db"), None)
    if path is None:
        path = Path(folder) / f"mlflow-{uuid.uuid4().hex}.db"
    kept = {name: os.environ.pop(name, None) for name in (URI, tracking.PARENT)}
    os.environ[URI] = sqlite_uri(path)
    try:
        yield
    finally:
        del os.environ[URI]
        for name, value in kept.items():
            if value is not None:
                os.environ[name] = value


def start_bundle(
    split: Split,
    bundle_dir: Path | str,
    folder: Path,
    alert_budget: float = 0.002,
    seed: int = 0,
) -> Path:
    """Return the folder of the bundle to begin with, made in `folder`.

    It is the exported one if that can score this split, else a quickly fitted forest.

    Raises
    ------
    DataError
        If there is no bundle in `bundle_dir`.
    BundleError
        If it is damaged.
    """
    if bundle_dir:
        exported = Path(bundle_dir)
        if not (exported / "manifest.json").is_file():
            raise DataError(
                f"{bundle_dir} holds no bundle; run notebook 10_export first, or leave bundle_dir "
                "empty."
            )
        manifest, graphs = read(exported)
        if _scores(manifest, split):
            # the sandbox's registry counts versions of its own
            manifest.pop("version", None)
            graphs.pop(HISTORY, None)
            bundle.write(folder, graphs, manifest)
            return folder
    regime = candidates.regimes("both", split)[0]
    fitted = candidates.fit(IsolationForest(seed=seed), split, regime)
    name = candidates.variant("isolation_forest", regime)
    made = candidates.write(folder, name, fitted, split)
    calibrate(made, split.arrays("validation"), alert_budget, "made for this simulation")
    return made


def _scores(manifest: dict, split: Split) -> bool:
    """Return whether a bundle was made for the data set of this split."""
    if manifest["dataset"]["name"] != split.dataset.name:
        return False
    return manifest["features"] == list(split.dataset.features)


def calibrate(
    folder: Path,
    data: Arrays,
    alert_budget: float,
    name: str,
) -> None:
    """Give a candidate its calibration and the budget's threshold on these Arrays.

    No label is used. `name` is what the candidate will be registered as.
    """
    raw = bundle.load(folder).raw_score(data.X)
    threshold = threshold_for_budget(raw, data.weight, alert_budget)
    challengers.calibrate(
        folder,
        Calibration.fit(raw, data.weight),
        challengers.Threshold(threshold, "alert_budget", alert_budget),
        name=name,
        card=cards.model,
    )


def deploy(name: str, folder: Path, brought: Mapping[str, bytes] = NOTHING) -> Champion:
    """Put the registry's champion of `name` where the server looks, as 10_export does.

    brought : the history that goes with it, see `lib.registry.export.recent_transactions`
    """
    present = tracking.champion(name)
    manifest, graphs = read(present.folder)
    # the server takes up successors of one registered name only
    manifest |= {"name": name, "version": present.version}
    bundle.write(folder, {**graphs, **brought}, manifest, hashed_names=True)
    return present
