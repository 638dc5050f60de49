"""Fit a registered model anew on reference and validation, so that what is served knows both.

The comparison needs a validation that no candidate was fitted on. Once it has decided, validation
is the newest that is labelled, and a model for next week should know it. What was decided is the
configuration: family, parameters and regime are those in the registry. The bundle there stays, too,
since the next comparison has to compare with a model that has not seen its validation; the refit is
what is exported.

Calibration and threshold need scores of transactions that a model was not fitted on. Each half of
validation is scored by a model that was fitted on reference and the other half; a refit alerts the
share of these that the registered threshold alerts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from lib import bundle
from lib.bundle import Bundle
from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.bundle.manifest import read
from lib.data import cuts
from lib.data.datasets import Arrays
from lib.data.splits import Split
from lib.detectors import registry
from lib.detectors.base import Detector
from lib.evaluation import metrics
from lib.registry import candidates, challengers

FOLDER = "refit"  # of a run: gets `models/<name>`, beside the candidates that were compared
PERIODS = "reference and validation"


class _Joined(Split):
    """A split whose reference goes on to the end of validation."""

    @classmethod
    def of(cls, split: Split) -> _Joined:
        joined = cls(split.path, split.manifest)
        summary = cuts.summary(split.dataset, joined.frame("reference"))
        periods = split.manifest["periods"] | {"reference": summary}
        return cls(split.path, split.manifest | {"periods": periods})

    def frame(self, period: str) -> pd.DataFrame:
        if period != "reference":
            return super().frame(period)
        parts = [super(_Joined, self).frame(name) for name in ("reference", "validation")]
        return pd.concat(parts, ignore_index=True)


def obstacle(manifest: dict) -> str:
    """Return why a model is exported as it was compared, a sentence; empty where it is refitted."""
    family = manifest["model"].partition("@")[0]
    if family in challengers.MODELS:
        return ""
    return (
        f"{family.replace('_', ' ')} is exported as it was compared: only "
        f"{', '.join(challengers.MODELS)} are refitted."
    )


def refit(
    registered: Path,
    split: Split,
    run_dir: Path,
    *,
    card: Callable[[dict], str],
    threads: int = 1,
) -> Path:
    """Return the folder of a registered model as fitted on reference and validation.

    Parameters
    ----------
    registered : its folder, whose model `obstacle` has nothing against
    run_dir : gets `refit/models/<model>`
    card : function (manifest) -> the model card as Markdown
    """
    manifest, _ = read(Path(registered))
    reference, validation = split.arrays("reference"), split.arrays("validation")
    regime = manifest["fit"]["train_on"]
    training = _joined(reference, validation).training(regime)
    start = time.perf_counter()
    detector = _fitted(manifest, training, threads)
    seconds = time.perf_counter() - start
    fitted = candidates.Fit(detector, training, regime, seconds=seconds)
    folder = candidates.write(Path(run_dir) / FOLDER, manifest["model"], fitted, _Joined.of(split))
    _say_so(folder, of=bundle.bundle_hash(registered))
    unseen = _unseen_scores(manifest, reference, validation, threads)
    share = _alerted(bundle.load(registered, threads=threads), validation)
    budget = manifest["threshold"]["alert_budget"]
    options = metrics.Options(headline_budget=budget, seed=detector.seed)
    challengers.calibrate(
        folder,
        Calibration.fit(unseen, validation.weight),
        challengers.Threshold(
            threshold_for_budget(unseen, validation.weight, share),
            manifest["threshold"]["rule"],
            budget,
        ),
        name=manifest["name"],
        metrics=metrics.evaluate(validation, {"refit": unseen}, options)["refit"],
        card=card,
    )
    return folder


def _joined(first: Arrays, second: Arrays) -> Arrays:
    """Return the rows of both."""
    parts = []
    for ours, theirs in zip(first, second, strict=True):
        parts.append(None if ours is None else np.concatenate([ours, theirs]))
    return Arrays(*parts)


def _fitted(manifest: dict, training: Arrays, threads: int) -> Detector:
    """Return a detector of the registered configuration, fitted on these rows."""
    family = manifest["model"].partition("@")[0]
    fit = manifest["fit"]
    detector = registry.make(family, **fit["parameters"], seed=fit["seed"], threads=threads)
    # no validation is left: a network holds out every tenth row itself
    return detector.fit(training.X, weight=training.weight)


def _unseen_scores(
    manifest: dict, reference: Arrays, validation: Arrays, threads: int
) -> np.ndarray:
    """Return raw scores (n,) of validation, of each row by a model that was not fitted on it."""
    regime = manifest["fit"]["train_on"]
    middle = len(validation.X) // 2
    halves = [slice(0, middle), slice(middle, None)]
    scores = []
    for own, other in zip(halves, reversed(halves), strict=True):
        training = _joined(reference, validation.take(other)).training(regime)
        detector = _fitted(manifest, training, threads)
        scores.append(detector.raw_score(validation.take(own).X))
    return np.concatenate(scores)


def _alerted(registered: Bundle, validation: Arrays) -> float:
    """Return the share of validation that the registered model alerts; its budget if that rules."""
    threshold = registered.manifest["threshold"]
    if threshold["rule"] == "alert_budget":
        return float(threshold["alert_budget"])
    alert, _ = registered.predict(validation.X)
    return float(validation.weight @ (alert == 1) / validation.weight.sum())


def _say_so(folder: Path, of: str) -> None:
    """Write into a manifest that it is a refit, and of which bundle; part of the bundle's hash."""
    manifest, graphs = read(folder)
    fit = manifest["fit"]
    fit["labels_seen"] = fit["labels_seen"].replace("of reference", f"of {PERIODS}")
    manifest["refit"] = {"of": of, "periods": PERIODS}
    bundle.write(folder, graphs, manifest)
