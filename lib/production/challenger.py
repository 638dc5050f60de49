"""Fit a challenger on later transactions, let it score in the champion's shadow, judge it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from lib import bundle
from lib.data import splits
from lib.detectors import baselines
from lib.detectors import registry as detectors
from lib.detectors.base import Detector
from lib.detectors.wrapped import from_description
from lib.errors import DataError
from lib.evaluation import comparison, gate, metrics
from lib.production.history import History, Periods
from lib.registry import candidates, challengers
from lib.registry.fused_candidate import fuse
from lib.registry.mlflow_store import Champion

CHALLENGER = "challenger"
FUSION = "fusion"


@dataclass
class Challenger:
    """A model that was fitted on later transactions and has not been promoted."""

    folder: Path
    fitted_on: slice
    validated_on: slice
    fit_s: float
    shadow: dict[str, Any] = field(default_factory=dict)


def retrain(
    champion: dict[str, Any],
    history: History,
    periods: Periods,
    folder: Path,
    seed: int = 0,
    threads: int = 1,
) -> Challenger:
    """Fit the champion's own family, with its parameters and regime, to later transactions.

    The calls are those of the model notebooks, so that the model is the one that they would make of
    these periods. Of a fusion each member is fitted.

    Parameters
    ----------
    champion : the manifest of the model that is live
    folder : gets the split (`split/`) and the candidates (`models/`)

    Raises
    ------
    DataError
        Where the family is none that is fitted without labels of fraud.
    """
    family = champion["model"].partition("@")[0]
    regime = champion["fit"]["train_on"]
    members = {family: champion["fit"]["parameters"]}
    if family == FUSION:
        members = members[FUSION]["of"]
    fresh = {name: _unfitted(name, given, seed, threads) for name, given in members.items()}
    split = splits.open_split(history.write(folder / "split", periods))
    start = time.perf_counter()
    # one after another: each sets the compute threads of the whole process
    for name, detector in fresh.items():
        fitted = candidates.fit(detector, split, regime)
        shown = candidates.Shown(**champion["shown"]) if "shown" in champion else None
        candidates.write(folder, candidates.variant(name, regime), fitted, split, shown)
    if family == FUSION:
        folders = challengers.ensure(folder, split, make=False)
        fuse(folder, split, folders, list(members), threads)
    made = folder / "models" / candidates.variant(family, regime)
    return Challenger(made, *periods, fit_s=time.perf_counter() - start)


def _unfitted(name: str, parameters: dict[str, Any], seed: int, threads: int) -> Detector:
    """Return a detector of the champion's family with its parameters.

    Of another library's estimator the manifest names class and parameters.
    """
    why = f"only {', '.join(challengers.MODELS)} and estimators of other libraries can"
    if name in challengers.MODELS:
        return detectors.make(name, **parameters, seed=seed, threads=threads)
    if "estimator" in parameters:
        try:
            return from_description(parameters, seed, threads)
        except (ValueError, TypeError) as error:
            why = str(error).rstrip(".")
    raise DataError(f"{name} cannot be retrained: {why}. Choose the policies frozen and threshold.")


def shadow(
    challenger: Challenger,
    X: np.ndarray,
    weight: np.ndarray,
    log: pd.DataFrame,
) -> dict[str, Any]:
    """Let the challenger score what the champion has just answered; keep that as its `shadow`.

    Parameters
    ----------
    X, weight : (n, d) float32 and (n,), as the server got them
    log : the champion's, n lines

    Returns
    -------
    dict
        `rank_correlation` of the scores (Spearman; None where one of them does not vary),
        `alert_rate`, `alert_overlap` (weight of the transactions that both alert over that of those
        that either does; None without any) and `alert` (n,) bool.
    """
    alert, score = bundle.load(challenger.folder).predict(X)
    ours = alert == 1
    theirs = log["alert"].to_numpy() == 1
    either = weight[ours | theirs].sum()
    overlap = None
    if either:
        overlap = float(weight[ours & theirs].sum() / either)
    is_scored = log["anomaly_score"].notna().to_numpy()
    challenger.shadow = {
        "rank_correlation": _rank_correlation(
            score[is_scored], log["anomaly_score"].to_numpy()[is_scored]
        ),
        "alert_rate": float(weight[ours].sum() / weight.sum()),
        "alert_overlap": overlap,
        "alert": ours,
    }
    return challenger.shadow


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Spearman's correlation; None where nothing, or the same value, is in one of them."""
    if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b)[0])


def judge(
    challenger: Challenger,
    present: Champion,
    history: History,
    n_known: int,
    metric: str,
    options: metrics.Options,
) -> gate.Verdict:
    """Hold a challenger against the champion by the comparison's gate.

    Parameters
    ----------
    n_known : transactions, from the first on, whose labels are known; those after the challenger's
        fit decide, as neither model was fitted on them
    metric : that decides, higher is better
    options : of the figures; `headline_budget` is the alert budget
    """
    data = history.data.take(slice(challenger.fitted_on.stop, n_known))
    features = history.split.dataset.features
    fitted_on = history.data.take(challenger.fitted_on)
    scores = baselines.naive_scores(data, fitted_on, options.seed)
    model = bundle.load(challenger.folder, features=features)
    scores[CHALLENGER] = model.raw_score(data.X)
    scores |= comparison.score_champion(present, data.X, features)
    compared = metrics.compare(data, scores, options)
    terms = gate.Terms(metric=metric, alert_budget=options.headline_budget)
    folders = {CHALLENGER: challenger.folder}
    return comparison.judge(folders, compared, data, present=present, terms=terms)
