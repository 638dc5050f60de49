"""What the comparison hands to the gate, and the run's `metrics.json`."""

import platform
from importlib.metadata import version

from lib import bundle, gate
from lib.manifest import BundleError

PRESENT = "present_champion"  # its name among the scores of a comparison
VERSIONS = ("numpy", "pandas", "scikit-learn", "torch", "onnxruntime", "mlflow")


def score_champion(present, X, features, threads=1):
    """Raw scores (n,) of the registry's champion under the name `present_champion`; {} where it can't score these."""
    if present is None:
        return {}
    try:
        return {PRESENT: bundle.load(present.folder, threads=threads, features=features).raw_score(X)}
    except BundleError as error:
        print(f"The champion, version {present.version}, can't score these transactions: {error}")
        return {}


def judge(folders, compared, naive, present, split, *, metric, accept=False, allow_supervised=False):
    """Hold the candidates against naive rules and champion -> gate.Verdict.

    Parameters
    ----------
    folders : {candidate: folder}, calibrated
    compared : metrics.Comparison of all of them, of the naive rules and, where it could be scored, of the champion
    naive : names of the naive rules
    present : tracking.Champion or None
    """
    figures, champion = compared.metrics, None
    if present is not None:
        fit = present.manifest["fit"]
        figure = figures[PRESENT][metric] if PRESENT in figures else None
        own = bundle.bundle_hash(present.folder)
        champion = gate.Champion(str(present.version), own, fit["start_s"], fit["end_s"], figure)
    entrants = [
        gate.Candidate(
            name,
            figures[name][metric],
            bundle.verify(folder)["supervised"],
            bundle.bundle_hash(folder),
            compared.difference(name, PRESENT, metric) if PRESENT in figures else None,
        )
        for name, folder in folders.items()
    ]
    period = split.manifest["periods"]["validation"]
    values = {rule: figures[rule][metric]["value"] for rule in naive}
    options = {"metric": metric, "accept": accept, "allow_supervised": allow_supervised}
    return gate.decide(entrants, values, champion, validation_s=(period["start_s"], period["end_s"]), **options)


def figures_of(present, folders, figures):
    """Figures of the candidate that is the champion itself, to the byte of its graph; None where none is."""
    graph = present.manifest["files"]["model.onnx"]
    same = (name for name, folder in folders.items() if bundle.verify(folder)["files"]["model.onnx"] == graph)
    return figures.get(next(same, None))


def run_metrics(run, split, seed, folders, validation, untouched, champion, verdict, alert_budget, basis=None):
    """The run's `metrics.json` -> dict; `start` and `end` of its `splits` are seconds.

    validation, untouched : {model: {metric: {"value", "low", "high"}}}; `untouched` is empty without a final table
    champion : {"model", "name", "version", "metric", "threshold"} or None; gets `figures`, the name among the models
        of its own figures, None where it could not be scored
    basis : metrics.Basis of the figures on validation: blocks of time, and why there are no intervals
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
        champion = champion | {"figures": next((name for name in models if validation[name] == own), None)}
    return {
        "run": run,
        "dataset": split.dataset.name,
        "source": split.source,
        "seed": seed,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in VERSIONS},
        "splits": {
            name: {key.removesuffix("_s"): value for key, value in period.items()}
            for name, period in split.manifest["periods"].items()
        },
        "alert_budget": alert_budget,
        "alert_budgets": list(split.dataset.alert_budgets),
        "intervals": basis and basis.to_dict(),
        "models": models,
        "champion": champion,
        "verdict": {"action": verdict.action, "promote": verdict.promote, "reasons": verdict.reasons},
    }
