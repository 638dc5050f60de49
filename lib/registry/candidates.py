"""A fitted detector as files: written by the model notebooks, calibrated by the comparison, read by
everyone after.

A candidate is a folder `models/<name>/` of a run: `model.onnx`, `manifest.json`, `metrics.json`,
`parity.npz` (`explain.onnx` where the model can name its own terms; `model_card.md` once it is
calibrated). Every fit depends on this file: what only the comparison needs is in `challengers`.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lib import bundle
from lib.detectors.sampling import weighted_quantile
from lib.errors import DataError
from lib.files import whole, write_json

REGIMES = {"genuine": ("genuine",), "all": ("all",), "both": ("genuine", "all")}
UNLABELLED = -1  # y of a transaction whose label is not known; lib.data.datasets has the same
LABELS_SEEN = {"genuine": "known frauds of reference removed from the fit", "all": "none"}
N_PARITY = 10_000


def regimes(train_on, split=None):
    """`genuine`, `all` or `both` -> the regimes to fit, in order; DataError for anything else.

    Where no transaction of the split's reference is known to be genuine, `both` is `all` alone, and
    a line says so.
    """
    if train_on not in REGIMES:
        raise DataError(
            f"train_on is {train_on!r}; choose genuine (known frauds removed), all (no label "
            "used) or both."
        )
    if train_on == "both" and split is not None and not (split.arrays("reference").y == 0).any():
        print(
            "No transaction of reference is known to be genuine: only the regime `all`, which "
            "uses no label, is fitted."
        )
        return REGIMES["all"]
    return REGIMES[train_on]


def remarks(split):
    """Sentences on what every fit to this split's reference has to do without."""
    reference = split.arrays("reference")
    unknown = int(np.count_nonzero(reference.y == UNLABELLED))
    said = []
    for feature in empty_features(split.dataset.features, reference):
        said.append(
            f"feature {feature!r} has no value in reference: models take it for a constant, and a "
            "value that comes "
            "later has no effect until they are fitted anew"
        )
    if 0 < unknown < len(reference.y):
        said.append(
            f"{unknown:,} of {len(reference.y):,} transactions of reference have no label: the "
            "regime `all` is fitted "
            "on them, too; `genuine` and models that learn from labels are not"
        )
    return said


def empty_features(features, data):
    """Those of the features (d) of which no row of these Arrays has a value."""
    there = np.isfinite(data.X).any(axis=0)
    return [feature for feature, known in zip(features, there, strict=True) if not known]


def variant(model, regime):
    """The candidate's name: the model's own in the regime `genuine`, `model@train_on=all` without
    labels.
    """
    if regime == "genuine":
        return model
    return f"{model},train_on={regime}" if "@" in model else f"{model}@train_on={regime}"


def fit(detector, split, regime="genuine", supervised=False, labels=None, **fitted):
    """Fit on reference -> (detector, Arrays it was fitted on, seconds). Validation gives its loss
    only, no label.

    `labels` (n,), of a supervised fit: the known ones of reference
    (:func:`lib.detectors.few_labels.known_labels`); None: all. Rows of the table without a label
    take no part in a supervised fit. `fitted`, of a detector that builds on others: those, where
    they have been fitted before.
    """
    validation, reference = split.arrays("validation"), split.arrays("reference")
    training = reference if supervised else reference.training(regime)
    if supervised:
        training = training if labels is None else training._replace(y=labels)
        training = training.take(reference.y != UNLABELLED)
    start = time.perf_counter()
    if supervised:
        detector.fit(training.X, training.y, weight=training.weight, **fitted)
    else:
        later = (validation.X, validation.weight)
        detector.fit(training.X, weight=training.weight, validation=later, **fitted)
    return detector, training, time.perf_counter() - start


def write(run_dir, name, detector, split, training, regime="genuine", fit_s=None, supervised=False):  # noqa: PLR0913 - what a candidate's manifest says
    """Write a detector that has just been fitted as the candidate `name` of a run, whole or not at
    all -> its folder.

    `parity.npz` keeps up to 10,000 validation rows (`X`, float32) with the estimator's own scores
    (`raw_score`, float64), so that an export can prove, much later and elsewhere, that the graph
    answers as the estimator did.
    """
    folder = Path(run_dir) / "models" / name
    period = split.manifest["periods"]["reference"]
    X = split.arrays("validation").X[:N_PARITY]
    seen = (
        f"{np.sum(training.y == 1):,} known frauds of reference, in the fit"
        if supervised
        else LABELS_SEEN[regime]
    )
    unlabelled = int(np.count_nonzero(split.arrays("reference").y == UNLABELLED))
    if unlabelled and regime == "genuine" and not supervised:
        seen = (
            f"known frauds and {unlabelled:,} unlabelled transactions of reference removed from "
            "the fit"
        )
    graphs = {"model.onnx": detector.to_onnx()}
    if (explain := detector.explain_onnx()) is not None:
        graphs["explain.onnx"] = explain
    low, median, high = _ranges(training)
    empty = empty_features(split.dataset.features, training)
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
            "parameters": {
                k: v for k, v in detector.get_params().items() if k not in {"seed", "threads"}
            },
        },
        "reference": {"low": low, "median": median, "high": high},
        **({"empty_features": empty} if empty else {}),
        "provenance": {
            "fit_s": fit_s,
            "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    bundle.write(folder, graphs, manifest)
    with whole(folder / "parity.npz") as partial:
        np.savez_compressed(partial, X=X, raw_score=detector.raw_score(X))
    return folder


def add_metrics(folder, metrics):
    """Write the candidate's `metrics.json` ({"validation": {metric: {"value", "low", "high"}},
    …}).
    """
    return write_json(Path(folder) / "metrics.json", metrics)


def _ranges(training):
    """Weighted 1 %, 50 % and 99 % quantiles of the fitted rows: three lists of d floats, 0 where a
    column is empty.
    """
    found = np.zeros((training.X.shape[1], 3))
    for j, x in enumerate(training.X.T):
        known = ~np.isnan(x) & (training.weight > 0)
        if known.any():
            found[j] = weighted_quantile(x[known], training.weight[known], (0.01, 0.5, 0.99))
    return found.T.tolist()
