"""A fitted detector as files: written by the model notebooks, calibrated by the comparison, read by everyone after.

A candidate is a folder `models/<name>/` of a run: `model.onnx`, `manifest.json`, `metrics.json`, `parity.npz`
(`explain.onnx` where the model can name its own terms; `model_card.md` once it is calibrated).
Every fit depends on this file: what only the comparison needs is in `challengers`.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lib import bundle
from lib.datasets import DataError
from lib.notebook import write_json
from lib.scaling import weighted_quantile

REGIMES = {"genuine": ("genuine",), "all": ("all",), "both": ("genuine", "all")}
LABELS_SEEN = {"genuine": "known frauds of reference removed from the fit", "all": "none"}
N_PARITY = 10_000


def regimes(train_on):
    """`genuine`, `all` or `both` -> the regimes to fit, in order; DataError for anything else."""
    if train_on not in REGIMES:
        raise DataError(
            f"train_on is {train_on!r}; choose genuine (known frauds removed), all (no label used) or both."
        )
    return REGIMES[train_on]


def variant(model, regime):
    """The candidate's name: the model's own in the regime `genuine`, `model@train_on=all` without labels."""
    if regime == "genuine":
        return model
    return f"{model},train_on={regime}" if "@" in model else f"{model}@train_on={regime}"


def fit(detector, split, regime="genuine", supervised=False, labels=None, **fitted):
    """Fit on reference -> (detector, Arrays it was fitted on, seconds). Validation gives its loss only, no label.

    `labels` (n,), of a supervised fit: the known ones of reference (:func:`lib.few_labels.known_labels`); None: all.
    `fitted`, of a detector that builds on others: those, where they have been fitted before.
    """
    validation, reference = split.arrays("validation"), split.arrays("reference")
    training = reference if supervised else reference.training(regime)
    training = training if labels is None else training._replace(y=labels)
    start = time.perf_counter()
    if supervised:
        detector.fit(training.X, training.y, training.weight, **fitted)
    else:
        detector.fit(training.X, training.weight, validation=(validation.X, validation.weight), **fitted)
    return detector, training, time.perf_counter() - start


def write(run_dir, name, detector, split, training, regime="genuine", fit_s=None, supervised=False):
    """Write a detector that has just been fitted as the candidate `name` of a run, whole or not at all -> its folder.

    `parity.npz` keeps up to 10,000 validation rows (`X`, float32) with the estimator's own scores (`raw_score`,
    float64), so that an export can prove, much later and elsewhere, that the graph answers as the estimator did.
    """
    folder = Path(run_dir) / "models" / name
    period = split.manifest["periods"]["reference"]
    X = split.arrays("validation").X[:N_PARITY]
    seen = f"{np.sum(training.y == 1):,} known frauds of reference, in the fit" if supervised else LABELS_SEEN[regime]
    graphs = {"model.onnx": detector.to_onnx()}
    if (explain := detector.explain_onnx()) is not None:
        graphs["explain.onnx"] = explain
    low, median, high = _ranges(training)
    manifest = {
        "model": name,
        "supervised": supervised,
        "dataset": {"name": split.dataset.name, "source": split.source},
        "features": list(split.dataset.features),
        "amount": split.dataset.amount,
        "missing": split.dataset.missing,
        "fit": {
            "train_on": "labels" if supervised else regime,
            "labels_seen": seen,
            "n": len(training.X),
            "weight": float(training.weight.sum()),
            "start_s": period["start_s"],
            "end_s": period["end_s"],
            "split": split.fingerprint,
            "seed": detector.seed,
            "threads": detector.threads,
            "parameters": {k: v for k, v in detector.get_params().items() if k not in {"seed", "threads"}},
        },
        "reference": {"low": low, "median": median, "high": high},
        "provenance": {"fit_s": fit_s, "trained_at": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    bundle.write(folder, graphs, manifest)
    partial = folder / ".parity.npz"
    np.savez_compressed(partial, X=X, raw_score=detector.raw_score(X))
    partial.replace(folder / "parity.npz")
    return folder


def add_metrics(folder, metrics):
    """Write the candidate's `metrics.json` ({"validation": {metric: {"value", "low", "high"}}, …})."""
    return write_json(Path(folder) / "metrics.json", metrics)


def _ranges(training):
    """Weighted 1 %, 50 % and 99 % quantiles of the fitted rows: three lists of d floats, 0 where a column is empty."""
    found = np.zeros((training.X.shape[1], 3))
    for j, x in enumerate(training.X.T):
        known = ~np.isnan(x) & (training.weight > 0)
        if known.any():
            found[j] = weighted_quantile(x[known], training.weight[known], (0.01, 0.5, 0.99))
    return found.T.tolist()
