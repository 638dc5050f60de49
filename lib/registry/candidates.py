"""Fit detectors and keep them as candidates: folders that the comparison and everyone after reads.

A candidate is a folder `models/<name>/` of a run: `model.onnx`, `manifest.json`, `metrics.json`,
`parity.npz` (`explain.onnx` where the model can name its own terms; `model_card.md` once it is
calibrated). Every fit depends on this file: what only the comparison needs is in `challengers`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from lib import bundle
from lib.bundle import Bundle
from lib.bundle.reasons import QUANTILES
from lib.data import labels_seen, raw_rows
from lib.data.datasets import UNLABELLED, Arrays
from lib.data.splits import Split
from lib.detectors.base import Detector
from lib.detectors.sampling import weighted_quantile
from lib.errors import BundleError, DataError
from lib.files import whole, write_json

if TYPE_CHECKING:
    from lib.evaluation.intervals import Basis

REGIMES = {"genuine": ("genuine",), "all": ("all",), "both": ("genuine", "all")}
# relative to the spread of the scores; float32 arithmetic over a few hundred terms
TOLERANCE = 1e-5
N_PARITY = 10_000  # rows kept for the proof that an export scores as its estimator did


@dataclass(frozen=True)
class Fit:
    """A detector that has just been fitted, and how.

    Parameters
    ----------
    detector : fitted
    training : the rows it was fitted on
    regime : `genuine` or `all`, see `REGIMES`; of no meaning in a supervised fit
    supervised : whether it has learnt from labels
    seconds : that the fit took (s); None where nobody has measured
    """

    detector: Detector
    training: Arrays
    regime: str = "genuine"
    supervised: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Shown:
    """How people see a detector that this project does not know; notebooks of one's own give it.

    Parameters
    ----------
    label : its name in tables, figures and pages
    colour : of its lines, such as `#CC00CC`
    about : what the score is, in a sentence, for the model card

    Raises
    ------
    DataError
        If one of them is not as it can stand there.
    """

    label: str
    colour: str
    about: str

    def __post_init__(self) -> None:
        for key, pattern, expected in (
            ("label", r"[^\n|<>`]{1,40}", "up to 40 characters in one line, without | < > `"),
            ("colour", r"#[0-9A-Fa-f]{6}", "six digits behind #, such as #CC00CC"),
            ("about", r"[^\n|<>`]{1,300}", "a sentence of up to 300 characters, without | < > `"),
        ):
            value = getattr(self, key)
            if re.fullmatch(pattern, str(value)) is None:
                raise DataError(f"shown: {key} is {value!r}; expected {expected}.")


def regimes(train_on: str, split: Split | None = None) -> tuple[str, ...]:
    """Return the regimes to fit, in order, for `genuine`, `all` or `both`.

    Where no transaction of the split's reference is known to be genuine, `both` is `all` alone, and
    a line says so.

    Raises
    ------
    DataError
        For any other word.
    """
    if train_on not in REGIMES:
        raise DataError(
            f"train_on is {train_on!r}; choose genuine (known frauds removed), all (no label "
            "used) or both."
        )
    if train_on == "both" and split is not None:
        is_genuine = split.arrays("reference").y == 0
        if not is_genuine.any():
            print(
                "No transaction of reference is known to be genuine: only the regime `all`, which "
                "uses no label, is fitted."
            )
            return REGIMES["all"]
    return REGIMES[train_on]


def remarks(split: Split) -> list[str]:
    """Return sentences on what every fit to this split's reference has to do without."""
    reference = split.arrays("reference")
    n_unknown = _n_unlabelled(reference)
    said = []
    for feature in empty_features(split.dataset.features, reference):
        said.append(
            f"feature {feature!r} has no value in reference: models take it for a constant, and a "
            "value that comes later has no effect until they are fitted anew"
        )
    if 0 < n_unknown < len(reference.y):
        said.append(
            f"{n_unknown:,} of {len(reference.y):,} transactions of reference have no label: the "
            "regime `all` is fitted on them, too; `genuine` and models that learn from labels are "
            "not"
        )
    return said


def empty_features(features: Sequence[str], data: Arrays) -> list[str]:
    """Return those of the features (d) of which no row has a value."""
    is_known = np.isfinite(data.X).any(axis=0)
    return [feature for feature, known in zip(features, is_known, strict=True) if not known]


def _n_unlabelled(data: Arrays) -> int:
    return int(np.count_nonzero(data.y == UNLABELLED))


def variant(model: str, regime: str, **changed: Any) -> str:
    """Return a candidate's name: the model's own, with `@train_on=all` where no label is used.

    `changed` are the parameters that tell it from another candidate of the model and regime.
    """
    said = {} if regime == "genuine" else {"train_on": regime}
    said |= changed
    if not said:
        return model
    separator = "," if "@" in model else "@"
    return model + separator + ",".join(f"{key}={value}" for key, value in said.items())


def fit(
    detector: Detector,
    split: Split,
    regime: str = "genuine",
    *,
    supervised: bool = False,
    labels: np.ndarray | None = None,
    **fitted: Any,
) -> Fit:
    """Fit a detector on reference; validation gives its loss only, no label.

    Parameters
    ----------
    labels : (n,) of a supervised fit: the known ones of reference, see
        :func:`lib.detectors.few_labels.known_labels`; None: all. Rows of the table without a label
        take no part in a supervised fit.
    fitted : of a detector that builds on others: those, where they have been fitted before
    """
    validation = split.arrays("validation")
    reference = split.arrays("reference")
    if supervised:
        training = reference if labels is None else reference._replace(y=labels)
        training = training.take(reference.y != UNLABELLED)
    else:
        training = reference.training(regime)
    start = time.perf_counter()
    if supervised:
        detector.fit(training.X, training.y, weight=training.weight, **fitted)
    else:
        later = (validation.X, validation.weight)
        detector.fit(training.X, weight=training.weight, validation=later, **fitted)
    seconds = time.perf_counter() - start
    return Fit(detector, training, regime, supervised, seconds)


def write(run_dir: Path, name: str, fitted: Fit, split: Split, shown: Shown | None = None) -> Path:
    """Write a fit as the candidate `name` of a run, whole or not at all; return its folder.

    `parity.npz` keeps up to 10,000 validation rows (`X`, float32) with the estimator's own scores
    (`raw_score`, float64), so that an export can prove, much later and elsewhere, that the graph
    answers as the estimator did.

    shown : of a detector that this project does not know
    """
    folder = Path(run_dir) / "models" / name
    detector = fitted.detector
    graphs = {"model.onnx": detector.to_onnx()}
    explain = detector.explain_onnx()
    if explain is not None:
        graphs["explain.onnx"] = explain
    manifest = _manifest(name, fitted, split)
    if shown is not None:
        manifest["shown"] = asdict(shown)
    bundle.write(folder, graphs, manifest)
    X = split.arrays("validation").X[:N_PARITY]
    with whole(folder / "parity.npz") as partial:
        np.savez_compressed(partial, X=X, raw_score=detector.raw_score(X))
    return folder


def write_all(
    run_dir: Path,
    candidate: str,
    fitted: dict[str, Fit],
    split: Split,
    threads: int = 1,
    *,
    shown: Shown | None = None,
) -> dict[str, Bundle]:
    """Write the fit of each regime as a candidate of a run; return the bundles by name.

    They are loaded from what was written: what is compared is what would be served.

    Parameters
    ----------
    candidate : name of the fit without known frauds; `variant` names the others
    threads : of scoring
    shown : of a detector that this project does not know
    """
    bundles = {}
    for regime, fit_of_regime in fitted.items():
        name = variant(candidate, regime)
        folder = write(run_dir, name, fit_of_regime, split, shown)
        bundles[name] = bundle.load(folder, threads=threads)
    return bundles


def parity(exported: Bundle, folder: Path) -> dict[str, Any]:
    """Compare a bundle with the estimator's own scores on the rows kept in `parity.npz`.

    Returns
    -------
    dict: `n` rows, `max_relative_difference` (of the raw score, relative to the larger of its size
    and the spread of all scores), `rank_correlation` (Spearman), `swapped`: rows whose neighbour in
    the estimator's order scores lower in the bundle by more than float32 explains.

    Raises
    ------
    BundleError
        If a difference or a swap is beyond that; the bundle must not be served.
    """
    with np.load(Path(folder) / "parity.npz") as kept:
        X, expected = kept["X"], kept["raw_score"]
    scores = exported.raw_score(X)
    # a model may score everything alike: its spread is then 0
    scale = np.maximum(np.abs(expected), np.ptp(expected) or 1.0)
    difference = np.abs(scores - expected) / scale
    worst = float(difference.max())
    order = np.argsort(expected, kind="stable")
    # in the estimator's order scores may fall by what float32 explains, and no more
    step = np.diff(scores[order])
    allowed = TOLERANCE * scale[order][1:]
    swapped = int((step < -allowed).sum())
    if worst > TOLERANCE or swapped:
        raise BundleError(
            f"The graph differs from its estimator by {worst:.1e} (relative), {swapped} rows out "
            "of order."
        )
    # ranks of scores that are all alike have no correlation
    varied = np.ptp(expected) > 0 and np.ptp(scores) > 0
    correlation = float(spearmanr(scores, expected).statistic) if varied else 1.0
    return {
        "n": len(X),
        "max_relative_difference": worst,
        "rank_correlation": correlation,
        "swapped": swapped,
    }


def _manifest(name: str, fitted: Fit, split: Split) -> dict[str, Any]:
    """Return what is known of a candidate before its calibration."""
    detector = fitted.detector
    training = fitted.training
    dataset = split.dataset
    period = split.manifest["periods"]["reference"]
    # known frauds are in a supervised fit; what is usual is told by the others
    usual = training.take(training.y != 1) if fitted.supervised else training
    low, median, high = _ranges(usual)
    manifest = {
        "model": name,
        "supervised": fitted.supervised,
        "dataset": {"name": dataset.name, "source": split.source},
        "features": list(dataset.features),
        "amount": dataset.amount,
        "missing": dataset.missing,
        "fit": {
            "train_on": "labels" if fitted.supervised else fitted.regime,
            "labels_seen": _labels_seen(fitted, split),
            "n": len(training.X),
            "weight": float(training.weight.sum()),
            "start_s": period["start_s"],
            "end_s": period["end_s"],
            **_kind_of_time(split),
            "split": split.fingerprint,
            "seed": detector.seed,
            "threads": detector.threads,
            "parameters": detector.described(),
        },
        "reference": {"low": low, "median": median, "high": high},
    }
    described = raw_rows.described(dataset, split.manifest)
    if described is not None:
        manifest["recipe"] = described
    empty = empty_features(dataset.features, training)
    if empty:
        manifest["empty_features"] = empty
    # no part of the bundle's hash: the same fit gives the same hash
    manifest["provenance"] = {
        "fit_s": fitted.seconds,
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return manifest


def _kind_of_time(split: Split) -> dict[str, str]:
    """Return what the instants of a fit are, `datetime` or `rows`; nothing where they are seconds.

    Nothing: the bundles of such a table keep their hash.
    """
    kind = split.manifest.get("time", "seconds")
    return {} if kind == "seconds" else {"time": kind}


def _labels_seen(fitted: Fit, split: Split) -> str:
    """Return the labels that the fit has seen, and those that its features know."""
    if fitted.supervised:
        n_frauds = int(np.count_nonzero(fitted.training.y == 1))
        of_fit = labels_seen.in_full("labels", n_frauds=n_frauds)
    else:
        n_unlabelled = _n_unlabelled(split.arrays("reference"))
        of_fit = labels_seen.in_full(fitted.regime, n_unlabelled=n_unlabelled)
    of_features = labels_seen.in_features(split.dataset.recipe)
    return of_fit if of_features is None else f"{of_fit}; in features: {of_features}"


def add_metrics(folder: Path, metrics: dict) -> Path:
    """Write the candidate's `metrics.json`.

    metrics : {"validation": {metric: {"value", "low", "high"}}, …}
    """
    return write_json(Path(folder) / "metrics.json", metrics)


def record(run_dir: Path, figures: dict[str, dict], basis: Basis) -> dict[str, Any]:
    """Write the figures of validation beside each candidate; return what its notebook records.

    Parameters
    ----------
    figures : {candidate: {metric: {"value", "low", "high"}}}
    basis : what the intervals rest on
    """
    entries = {name: {"validation": figure} for name, figure in figures.items()}
    for name, entry in entries.items():
        add_metrics(Path(run_dir) / "models" / name, entry)
    return entries | {"intervals": basis.to_dict()}


def _ranges(training: Arrays) -> list[list[float]]:
    """Return weighted 1 %, 50 % and 99 % quantiles of the fitted rows: three lists of d floats.

    0 where a column is empty.
    """
    low, high = QUANTILES
    found = np.zeros((training.X.shape[1], 3))
    for j, x in enumerate(training.X.T):
        known = ~np.isnan(x) & (training.weight > 0)
        if known.any():
            found[j] = weighted_quantile(x[known], training.weight[known], (low, 0.5, high))
    return found.T.tolist()
