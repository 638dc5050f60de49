"""Fit every detector once more, with another seed or on another cut: what a result depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lib.data import splits
from lib.detectors import registry
from lib.detectors.fusion import Fusion
from lib.evaluation import metrics
from lib.registry import candidates

LABELS = "labels"  # the regime of models that learn from frauds
FIGURES = ("average_precision", "recall_at_budget")


@dataclass(frozen=True)
class Study:
    """All detectors of one regime, fitted with one seed on one split of a table.

    Parameters
    ----------
    split : the split's folder
    table, cut : as people name them
    regime : "genuine", "all" or `LABELS`
    seed : of the fits
    models : detectors to fit; those that learn from labels follow from the regime
    fused : models whose calibrated scores are averaged, if they are all there
    alert_budget : share of transactions that people can review; 0: as the description says
    threads : compute threads
    """

    split: Path
    table: str
    cut: str
    regime: str
    seed: int
    models: tuple[str, ...]
    fused: tuple[str, ...] = ()
    alert_budget: float = 0.0
    threads: int = 1

    def __str__(self) -> str:
        return f"{self.table} {self.cut} {self.regime} seed {self.seed}"


def judged(study: Study) -> tuple[Study, list[dict[str, Any]]]:
    """Return a study, and {"model": …, and its `FIGURES` on validation} of every detector."""
    split = _opened(study.split)
    data = split.arrays("validation")
    scores = {model: detector.raw_score(data.X) for model, detector in _fitted(study).items()}
    return study, _figures(split, scores, study.alert_budget)


@lru_cache(maxsize=1)
def _opened(folder: Path) -> splits.Split:
    """Return a split, opened once for studies that follow each other in a process."""
    return splits.open_split(folder)


def _fitted(study: Study) -> dict[str, Any]:
    """Return {candidate: fitted detector}."""
    split = _opened(study.split)
    is_supervised = study.regime == LABELS
    models = registry.SUPERVISED if is_supervised else study.models
    alternatives = [(model, registry.alternative(model, study.regime)) for model in models]
    fitted: dict[str, Any] = {}
    for model, change in [*((model, {}) for model in models), *alternatives]:
        name = candidates.variant(model, "genuine", **change)
        if name in fitted:
            continue  # this family has no second candidate
        settings = registry.settings(model, study.regime) | change
        detector = registry.make(model, **settings, seed=study.seed, threads=study.threads)
        found = candidates.fit(detector, split, study.regime, supervised=is_supervised)
        fitted[name] = found.detector
    if len(study.fused) > 1 and set(study.fused) <= set(fitted):
        members = [fitted[model] for model in study.fused]
        fusion = Fusion({name: {} for name in study.fused})
        found = candidates.fit(fusion, split, study.regime, fitted=members)
        fitted["fusion"] = found.detector
    return fitted


def _figures(
    split: splits.Split, scores: dict[str, np.ndarray], alert_budget: float
) -> list[dict[str, Any]]:
    options = metrics.Options(
        headline_budget=alert_budget or split.dataset.alert_budget, n_resamples=0
    )
    figures = metrics.evaluate(split.arrays("validation"), scores, options)
    rows = []
    for model, figure in figures.items():
        rows.append({"model": model, **{name: figure[name]["value"] for name in FIGURES}})
    return rows
