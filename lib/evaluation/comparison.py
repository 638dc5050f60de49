"""Hold a run's candidates against naive rules and champion, and write down what came of it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lib import bundle
from lib.data import labels_seen
from lib.data.budgets import Budget
from lib.data.datasets import Arrays
from lib.data.splits import Split
from lib.detectors import baselines
from lib.errors import BundleError, DataError, listed
from lib.evaluation import budget_table, gate
from lib.evaluation.costs import Cost
from lib.evaluation.entity_precision import EntityPrecision
from lib.evaluation.intervals import Basis, Comparison

PRESENT = "present_champion"  # its name among the scores of a comparison
VERSIONS = ("numpy", "pandas", "scikit-learn", "torch", "onnxruntime", "mlflow")


def score_champion(
    present: Any, X: np.ndarray, features: Sequence[str], threads: int = 1
) -> dict[str, np.ndarray]:
    """Return the champion's raw scores (n,) under the name `present_champion`.

    {} where there is no champion, or it cannot score these transactions; a line then says why.

    present : `lib.registry.mlflow_store.Champion` or None; X : (n, d) float32 of these features
    """
    if present is None:
        return {}
    if present.lost:
        print(present.lost)
        return {}
    try:
        champion = bundle.load(present.folder, threads=threads, features=features)
        return {PRESENT: champion.raw_score(X)}
    except BundleError as error:
        print(f"The champion, version {present.version}, can't score these transactions: {error}")
        return {}


def judge(  # noqa: PLR0913 - each is one thing that the decision rests on
    folders: Mapping[str, Path],
    compared: Comparison,
    data: Arrays,
    *,
    present: Any = None,
    withdrawn: Mapping[str, str] | None = None,
    costs: Mapping[str, Cost] | None = None,
    terms: gate.Terms | None = None,
) -> gate.Verdict:
    """Hold the candidates against naive rules and champion.

    Parameters
    ----------
    folders : {candidate: folder}, calibrated
    compared : all of them, the naive rules and, where it could be scored, the champion; whoever is
        neither candidate nor champion is a naive rule
    data : the transactions that decide, in time order; where none of them is a labelled fraud,
        nobody can judge and the nominee is taken
    present : `lib.registry.mlflow_store.Champion` or None
    withdrawn : {bundle hash: clause}, see `lib.registry.tracking.withdrawn`
    costs : {candidate: what it costs to score}, see `lib.evaluation.costs.measure`; without them
        the best is chosen, whatever it costs

    Raises
    ------
    DataError
        For a nominee that is no candidate, an unknown rule of promotion, or a negative margin.
    """
    terms = terms or gate.Terms()
    figures = compared.metrics
    naive = {}
    for name, entry in figures.items():
        if name not in folders and name != PRESENT:
            value = entry[terms.metric]["value"]
            naive[name] = gate.Naive(value, _at_budget(entry))
    entrants = []
    for name, folder in folders.items():
        entrant = _candidate(name, folder, compared, terms.metric)
        entrants.append(replace(entrant, cost=(costs or {}).get(name)))
    try:
        verdict = gate.decide(
            entrants,
            _champion(present, figures.get(PRESENT), terms.metric),
            _validation(data, figures, _kind_of_time(folders)),
            naive=naive,
            withdrawn=withdrawn,
            terms=terms,
        )
    except ValueError as error:
        raise DataError(str(error)) from error
    if present is not None and present.manifest.get("supervised"):
        return verdict  # whoever has such a champion knows what labels are good for
    on_labels = _on_labels(entrants, verdict.chosen, compared, terms)
    return replace(verdict, remarks=[*verdict.remarks, *on_labels])


def _on_labels(
    entrants: Sequence[gate.Candidate],
    chosen: str | None,
    compared: Comparison,
    terms: gate.Terms,
) -> list[str]:
    """Return the remark that labels would help; empty where they would not."""
    if chosen is None:
        return []
    differences = {}
    for entrant in entrants:
        if entrant.supervised:
            name = entrant.name
            differences[name] = compared.difference(name, chosen, terms.metric)
    return gate.labels_would_help(entrants, chosen, differences, terms)


def _champion(present: Any, figures: dict | None, metric: str) -> gate.Champion | None:
    """Return the registry's champion as the gate sees it."""
    if present is None:
        return None
    if present.lost:
        # nothing is known of its fit, so that no validation can be said to overlap it
        return gate.Champion(
            version=present.version,
            bundle_hash="",
            fit_start_s=math.inf,
            fit_end_s=-math.inf,
            lost=present.lost,
        )
    fit = present.manifest["fit"]
    return gate.Champion(
        version=present.version,
        bundle_hash=bundle.bundle_hash(present.folder),
        alerts=_alerts(present.manifest),
        fit_start_s=fit["start_s"],
        fit_end_s=fit["end_s"],
        figure=figures and figures[metric],
    )


def _candidate(name: str, folder: Path, compared: Comparison, metric: str) -> gate.Candidate:
    manifest = bundle.verify(folder)
    figures = compared.metrics
    difference = None
    if PRESENT in figures:
        difference = compared.difference(name, PRESENT, metric)
    return gate.Candidate(
        name,
        figures[name][metric],
        supervised=manifest["supervised"],
        bundle_hash=bundle.bundle_hash(folder),
        difference=difference,
        at_budget=_at_budget(figures[name]),
        label_free=manifest["fit"]["train_on"] == "all",
        alerts=_alerts(manifest),
    )


def _alerts(manifest: Mapping[str, Any]) -> gate.Alerts | None:
    """Return a model's graph and what its threshold was set for; None where it has none."""
    threshold = manifest.get("threshold")
    if not threshold:
        return None
    graph = manifest["files"]["model.onnx"]
    per_day = threshold.get("transactions_per_day")
    return gate.Alerts(graph, threshold["rule"], threshold["alert_budget"], per_day)


def _at_budget(figures: dict) -> gate.AtBudget:
    return gate.AtBudget(
        figures["precision_at_budget"]["value"],
        figures["recall_at_budget"]["value"],
    )


def _kind_of_time(folders: Mapping[str, Path]) -> str:
    """Return what the candidates' times are: seconds, datetime or rows."""
    for folder in folders.values():
        return bundle.verify(folder)["fit"].get("time", "seconds")
    return "seconds"


def _validation(data: Arrays, figures: Mapping[str, dict], time: str) -> gate.Validation:
    n_frauds = 0
    if data.y is not None:
        is_fraud = (data.y == 1) & (data.weight > 0)
        n_frauds = int(is_fraud.sum())
    # a property of the transactions, and so the same in every model's figures
    prevalences = [entry["prevalence"]["value"] for entry in figures.values()]
    return gate.Validation(
        start_s=float(data.time_s[0]),
        end_s=float(data.time_s[-1]),
        n_frauds=n_frauds,
        prevalence=prevalences[0] if prevalences else None,
        time=time,
    )


def champion_now(present: Any, metric: str) -> dict | None:
    """Return what a run's `metrics.json` says of the champion; None without one."""
    if present is None:
        return None
    threshold = present.manifest.get("threshold", {})
    return {
        "model": present.manifest.get("model", "unknown"),
        "name": present.name,
        "version": str(present.version),
        "metric": metric,
        "threshold": threshold.get("anomaly_score"),
        "alert_budget": threshold.get("alert_budget"),
    }


def figures_of(
    present: Any,
    folders: Mapping[str, Path],
    figures: Mapping[str, dict],
) -> dict | None:
    """Return the figures of the candidate that is the champion itself; None where none is.

    It is the champion if its graph is the same to the byte.
    """
    graph = present.manifest["files"]["model.onnx"]
    for name, folder in folders.items():
        if bundle.verify(folder)["files"]["model.onnx"] == graph:
            return figures.get(name)
    return None


@dataclass(frozen=True)
class Results:
    """Figures of a run's models in its two later periods.

    Parameters
    ----------
    validation, untouched : {model: {metric: {"value", "low", "high"}}}; `untouched` is empty
        without a final table
    basis : of the figures on validation: blocks of time, and why there are no intervals
    costs : {candidate: what it costs to score}
    reviews : what those who review entities find on validation; empty where there are none
    by_budget : what the champion finds at several budgets, see `budget_table.as_json`; empty where
        it could not be scored
    """

    validation: Mapping[str, dict]
    untouched: Mapping[str, dict] = field(default_factory=dict)
    basis: Basis | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)
    reviews: Mapping[str, Mapping[str, EntityPrecision]] = field(default_factory=dict)
    by_budget: Sequence[dict] = ()


@dataclass(frozen=True)
class Decision:
    """What was decided in a run.

    Parameters
    ----------
    champion : of the registry, after the decision, see `champion_now`; None without one
    verdict : of the gate
    budget : what people review
    """

    champion: dict | None
    verdict: gate.Verdict
    budget: Budget


def run_metrics(
    run: str,
    split: Split,
    seed: int,
    folders: Mapping[str, Path],
    results: Results,
    decision: Decision,
) -> dict:
    """Return the run's `metrics.json`; `start` and `end` of its `splits` are seconds.

    The champion in it gets `figures`, the name among the models of its own figures, None where it
    could not be scored.

    folders : {candidate: folder}; other models are naive rules or the champion
    """
    models = _models(results, folders)
    _note_labels_of_features(models, split)
    verdict = decision.verdict
    champion = decision.champion
    own = leader(results.validation, verdict)
    if champion is not None:
        champion = champion | {"figures": own}
    threshold = (champion or {}).get("threshold")
    in_use = budget_table.in_use(results.by_budget, threshold)
    versions = {"python": platform.python_version()}
    for package in VERSIONS:
        versions[package] = version(package)
    periods: dict[str, dict] = {}
    for name, period in split.manifest["periods"].items():
        periods[name] = {}
        for key, value in period.items():
            periods[name][key.removesuffix("_s")] = value
    return {
        "run": run,
        "dataset": split.dataset.name,
        "source": split.source,
        "thinned_from": split.manifest.get("thinned", {}).get("of"),
        "seed": seed,
        "versions": versions,
        "splits": periods,
        "alert_budget": decision.budget.share,
        "reviews_per_day": decision.budget.reviews_per_day,
        "transactions_per_day": decision.budget.transactions_per_day,
        "alert_budgets": list(split.dataset.alert_budgets),
        "drifts_on_purpose": split.drifts_on_purpose,
        "intervals": results.basis and results.basis.to_dict(),
        "models": models,
        "reviews": _reviews(results.reviews),
        "by_budget": list(results.by_budget),
        "champion": champion,
        "verdict": {
            "action": verdict.action,
            "promote": verdict.promote,
            "resets": verdict.resets,
            "reasons": verdict.reasons,
        },
        "remarks": [
            *verdict.remarks,
            *beaten_later(results.untouched, own),
            *budget_table.off_budget(in_use, decision.budget),
        ],
    }


def _reviews(found: Mapping[str, Mapping[str, EntityPrecision]]) -> dict[str, dict]:
    """Return {entity: {model: precision of the reviews, its interval, ceiling, reviews a day}}."""
    plain: dict[str, dict] = {}
    for entity, of_models in found.items():
        plain[entity] = {}
        for model, result in of_models.items():
            plain[entity][model] = {
                **result.precision,
                "ceiling": result.ceiling,
                "per_day": result.per_day,
            }
    return plain


def _models(results: Results, folders: Mapping[str, Path]) -> dict[str, dict]:
    """Return what is known of each model, under its name."""
    others = [figures for name, figures in results.validation.items() if name != PRESENT]
    models = {}
    for name, figures in results.validation.items():
        # equal in every digit: the champion is one of the candidates, and is there already
        if name == PRESENT and figures in others:
            continue
        models[name] = {"validation": figures}
        if name in results.untouched:
            models[name]["untouched"] = results.untouched[name]
        if name in folders:
            manifest = bundle.verify(folders[name])
            fit = manifest["fit"]
            models[name]["train_on"] = fit["train_on"]
            models[name]["labels_seen"] = fit["labels_seen"]
            if "shown" in manifest:
                models[name]["shown"] = manifest["shown"]
        if name in results.costs:
            # here and not in the manifest: a bundle is the same bytes on a slower machine
            models[name] |= asdict(results.costs[name])
    return models


def _note_labels_of_features(models: dict, split: Split) -> None:
    """Say of each model that scores by features which know labels that they do."""
    known = labels_seen.kinds_in_features(split.dataset.recipe)
    if known is None:
        return
    for name, entry in models.items():
        if name not in baselines.WITHOUT_FEATURES:
            entry["labels_in_features"] = known


def leader(figures: Mapping[str, dict], verdict: gate.Verdict) -> str | None:
    """Return under which name the figures on validation hold the champion's, after the decision.

    A candidate that is the champion stands for it; None where the champion could not be scored.
    """
    if verdict.action == "promote":
        return verdict.promote
    own = figures.get(PRESENT)
    if own is None:
        return None
    # where no label judges anybody, all figures are alike and say nothing of who is who
    if any(figure["value"] is not None for figure in own.values()):
        for name in figures:
            if figures[name] == own:
                return name
    return PRESENT


def beaten_later(figures: Mapping[str, dict], champion: str | None) -> list[str]:
    """Return a sentence where naive rules rank better than the champion after the decision.

    Parameters
    ----------
    figures : {model: {metric: figure}} on untouched; empty where it was not read
    champion : its name among them
    """
    own = figures.get(champion or "", {}).get("average_precision", {}).get("value")
    if own is None:
        return []
    better = []
    for rule in baselines.NAIVE:
        value = figures.get(rule, {}).get("average_precision", {}).get("value")
        if value is not None and value >= own:
            better.append(f"{rule} ({value:.3f})")
    if not better:
        return []
    return [
        f"On untouched the champion loses to the naive rule {listed(better)}: its average "
        f"precision is {own:.3f} there. What it beat on validation no longer holds."
    ]
