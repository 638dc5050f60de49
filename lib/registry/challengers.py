"""Candidates on their way to the comparison: found or fitted, then calibrated and given a card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib import bundle
from lib.bundle.calibration import Calibration
from lib.bundle.manifest import MODEL_CARD, read
from lib.data.splits import Split
from lib.detectors.registry import SUPERVISED, settings
from lib.detectors.registry import make as make_detector
from lib.errors import DataError
from lib.registry import candidates

MODELS = (
    "isolation_forest",
    "autoencoder",
    "gaussian_mixture",
    "nearest_neighbours",
    "robust_covariance",
    "empirical_tails",
)


@dataclass(frozen=True)
class Threshold:
    """From which score on there is an alert, and why.

    Parameters
    ----------
    raw_score : alert iff a raw score is at least this
    rule : by which it was chosen, see `lib.evaluation.thresholds.Rule`
    alert_budget : share of the transactions that people review
    """

    raw_score: float
    rule: str
    alert_budget: float


def calibrate(
    folder: Path,
    calibration: Calibration,
    threshold: Threshold,
    *,
    name: str,
    card: Callable[[dict], str],
    metrics: dict | None = None,
) -> Path:
    """Add calibration, threshold, figures, name and card to a candidate; its graphs stay.

    Parameters
    ----------
    calibration : fitted to the raw scores of all validation transactions; no label is used
    threshold : stored in the unit of `anomaly_score` as well
    name : under which the candidate would be registered
    card : function (manifest) -> the model card as Markdown, see `lib.reporting.cards.model`; how
        it is worded must not decide whether a fit is up to date
    metrics : on validation, {metric: {"value", "low", "high"}}
    """
    manifest, graphs = read(Path(folder))
    anomaly_score = calibration.apply(np.array([threshold.raw_score]))[0]
    manifest |= {
        "name": name,
        "calibration": calibration.to_dict(),
        "threshold": {
            "anomaly_score": float(anomaly_score),
            "raw_score": float(threshold.raw_score),
            "rule": threshold.rule,
            "alert_budget": threshold.alert_budget,
        },
        "metrics": {"validation": metrics or {}},
    }
    files = graphs | {MODEL_CARD: card(manifest).encode()}
    bundle.write(folder, files, manifest)
    return folder


def ensure(
    run_dir: Path, split: Split, seed: int = 0, threads: int = 1, make: bool = True
) -> dict[str, Path]:
    """Return the run's candidates of this split: {name: folder}.

    Where no model notebook has written any, they are fitted here with the defaults.

    Raises
    ------
    DataError
        There is none, and `make` is false.
    """
    models = Path(run_dir) / "models"
    found = {}
    for path in sorted(models.glob("*/manifest.json")):
        folder = path.parent
        # a run's folder may hold candidates of a split before, which are not to be compared
        if bundle.verify(folder)["fit"]["split"] == split.fingerprint:
            found[folder.name] = folder
    made_by_comparison = {"fusion", *SUPERVISED}
    if {name.split("@")[0] for name in found} - made_by_comparison:
        return found
    if not make:
        raise DataError(
            f"{models} holds no candidate of this split; run notebook 03_isolation_forest, or "
            "another that fits a detector, with the same run_dir and split_dir first."
        )
    regime = candidates.regimes("both", split)[0]
    for model in MODELS:
        chosen = settings(model, regime)
        detector = make_detector(model, **chosen, seed=seed, threads=threads)
        fitted = candidates.fit(detector, split, regime)
        name = candidates.variant(model, regime)
        found[name] = candidates.write(run_dir, name, fitted, split)
    return found
