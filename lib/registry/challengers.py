"""Candidates on their way to the comparison: found, or fitted with the defaults, then calibrated
and given a card.
"""

from pathlib import Path

import numpy as np

from lib import bundle
from lib.bundle.calibration import Calibration
from lib.bundle.manifest import MODEL_CARD, read
from lib.detectors.registry import make as make_detector
from lib.errors import DataError
from lib.registry import candidates

MODELS = ("isolation_forest", "autoencoder", "gaussian_mixture")


def calibrate(folder, raw_score, weight, threshold_raw, rule, alert_budget, metrics, name, *, card):  # noqa: PLR0913 - what calibration adds to a manifest
    """Add calibration, threshold, validation metrics, registered name and model card; the graphs
    stay as they are.

    Parameters
    ----------
    raw_score, weight : (n,) float64, all validation transactions; no label is used
    threshold_raw : float, alert iff the raw score is at least this; stored in the unit of
        `anomaly_score` as well
    card : function (manifest) -> the model card as Markdown, see `lib.reporting.cards.model`; how
        it is worded must not decide whether a fit is up to date
    """
    manifest, graphs = read(Path(folder))
    calibration = Calibration.fit(raw_score, weight)
    manifest |= {
        "name": name,
        "calibration": calibration.to_dict(),
        "threshold": {
            "anomaly_score": float(calibration.apply(np.array([threshold_raw]))[0]),
            "raw_score": float(threshold_raw),
            "rule": rule,
            "alert_budget": alert_budget,
        },
        "metrics": {"validation": metrics},
    }
    bundle.write(folder, graphs | {MODEL_CARD: card(manifest).encode()}, manifest)
    return folder


def ensure(run_dir, split, seed=0, threads=1, make=True):
    """The run's candidates of this split -> {name: folder}.

    Where no model notebook has written any, they are fitted here with the defaults; without `make`,
    DataError.
    """
    models = Path(run_dir) / "models"
    found = {p.parent.name: p.parent for p in sorted(models.glob("*/manifest.json"))}
    found = {
        n: p for n, p in found.items() if bundle.verify(p)["fit"]["split"] == split.fingerprint
    }
    if not any(name.split("@")[0] in MODELS for name in found):
        if not make:
            raise DataError(
                f"{models} holds no candidate of this split; run notebook 03_isolation_forest, "
                "04_autoencoder or "
                f"05_gaussian_mixture with the same run_dir and split_dir first."
            )
        regime = candidates.regimes("both", split)[0]
        for model in MODELS:
            detector = make_detector(model, seed=seed, threads=threads)
            detector, training, seconds = candidates.fit(detector, split, regime)
            name = candidates.variant(model, regime)
            found[name] = candidates.write(
                run_dir, name, detector, split, training, regime, seconds
            )
    return found
