"""What the comparison hands to the gate, and the run's `metrics.json`."""

import math
import platform
from importlib.metadata import version

from lib import bundle
from lib.errors import BundleError, DataError
from lib.evaluation import gate

PRESENT = "present_champion"  # its name among the scores of a comparison
VERSIONS = ("numpy", "pandas", "scikit-learn", "torch", "onnxruntime", "mlflow")


def score_champion(present, X, features, threads=1):
    """Raw scores (n,) of the registry's champion under the name `present_champion`; {} where it
    can't score these.
    """
    if present is None:
        return {}
    if present.lost:
        print(present.lost)
        return {}
    try:
        return {
            PRESENT: bundle.load(present.folder, threads=threads, features=features).raw_score(X)
        }
    except BundleError as error:
        print(f"The champion, version {present.version}, can't score these transactions: {error}")
        return {}


def judge(folders, compared, data, *, present=None, withdrawn=None, terms=None):
    """Hold the candidates against naive rules and champion -> gate.Verdict.

    Parameters
    ----------
    folders : {candidate: folder}, calibrated
    compared : metrics.Comparison of all of them, of the naive rules and, where it could be scored,
        of the champion; whoever is neither candidate nor champion is a naive rule
    data : Arrays of the transactions that decide, in time order; where none of them is a labelled
        fraud, nobody can judge and the nominee is taken
    present : store.Champion or None
    withdrawn : {bundle hash: clause}, see `tracking.withdrawn`
    terms : gate.Terms, its defaults by default

    Raises
    ------
    DataError
        For a nominee that is no candidate, or an unknown rule of promotion.
    """
    figures, terms = compared.metrics, terms or gate.Terms()
    champion = _champion(present, figures.get(PRESENT), terms.metric)
    entrants = [
        _candidate(name, folder, compared, terms.metric) for name, folder in folders.items()
    ]
    naive = {
        name: gate.Naive(entry[terms.metric]["value"], _at_budget(entry))
        for name, entry in figures.items()
        if name not in folders and name != PRESENT
    }
    validation = _validation(data, figures)
    try:
        return gate.decide(
            entrants, champion, validation, naive=naive, withdrawn=withdrawn, terms=terms
        )
    except ValueError as error:
        raise DataError(str(error)) from error


def _champion(present, figures, metric):
    """The registry's champion as the gate sees it; of files that are gone nothing is known."""
    if present is None:
        return None
    if present.lost:
        return gate.Champion(present.version, "", math.inf, -math.inf, None, present.lost)
    fit, figure = present.manifest["fit"], figures and figures[metric]
    own = bundle.bundle_hash(present.folder)
    return gate.Champion(present.version, own, fit["start_s"], fit["end_s"], figure)


def _candidate(name, folder, compared, metric):
    manifest, figures = bundle.verify(folder), compared.metrics
    return gate.Candidate(
        name,
        figures[name][metric],
        supervised=manifest["supervised"],
        bundle_hash=bundle.bundle_hash(folder),
        difference=compared.difference(name, PRESENT, metric) if PRESENT in figures else None,
        at_budget=_at_budget(figures[name]),
        label_free=manifest["fit"]["train_on"] == "all",
    )


def _at_budget(figures):
    return gate.AtBudget(
        figures["precision_at_budget"]["value"], figures["recall_at_budget"]["value"]
    )


def _validation(data, figures):
    n_frauds = 0 if data.y is None else int(((data.y == 1) & (data.weight > 0)).sum())
    prevalence = next((entry["prevalence"]["value"] for entry in figures.values()), None)
    return gate.Validation(float(data.time_s[0]), float(data.time_s[-1]), n_frauds, prevalence)


def champion_now(present, metric):
    """What a run's `metrics.json` says of the champion -> dict, see `run_metrics`; None without
    one.
    """
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


def figures_of(present, folders, figures):
    """Figures of the candidate that is the champion itself, to the byte of its graph; None where
    none is.
    """
    graph = present.manifest["files"]["model.onnx"]
    same = (
        name
        for name, folder in folders.items()
        if bundle.verify(folder)["files"]["model.onnx"] == graph
    )
    return figures.get(next(same, None))


def run_metrics(  # noqa: PLR0913 - the parts of metrics.json
    run, split, seed, folders, validation, untouched, champion, verdict, alert_budget, basis=None
):
    """The run's `metrics.json` -> dict; `start` and `end` of its `splits` are seconds.

    validation, untouched : {model: {metric: {"value", "low", "high"}}}; `untouched` is empty
        without a final table
    champion : {"model", "name", "version", "metric", "threshold"} or None; gets `figures`, the name
        among the models of its own figures, None where it could not be scored
    basis : metrics.Basis of the figures on validation: blocks of time, and why there are no
        intervals
    """
    models, others = {}, [figures for name, figures in validation.items() if name != PRESENT]
    for name, figures in validation.items():
        if name == PRESENT and figures in others:
            continue  # the champion is one of the candidates
        models[name] = {"validation": figures}
        if name in untouched:
            models[name]["untouched"] = untouched[name]
        if name in folders:
            fit = bundle.verify(folders[name])["fit"]
            models[name] |= {"train_on": fit["train_on"], "labels_seen": fit["labels_seen"]}
    if champion is not None and verdict.action == "promote":
        champion = champion | {"figures": verdict.promote}
    elif champion is not None:
        own = validation.get(PRESENT)
        champion = champion | {
            "figures": next((name for name in models if validation[name] == own), None)
        }
    return {
        "run": run,
        "dataset": split.dataset.name,
        "source": split.source,
        "seed": seed,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in VERSIONS},
        "splits": {
            name: {key.removesuffix("_s"): value for key, value in period.items()}
            for name, period in split.manifest["periods"].items()
        },
        "alert_budget": alert_budget,
        "alert_budgets": list(split.dataset.alert_budgets),
        "intervals": basis and basis.to_dict(),
        "models": models,
        "champion": champion,
        "verdict": {
            "action": verdict.action,
            "promote": verdict.promote,
            "reasons": verdict.reasons,
        },
        "remarks": verdict.remarks,
    }
