"""Compare rules for which columns are logged, with the labels of validation and without them."""

from typing import Any

import numpy as np

from lib.data.datasets import Arrays
from lib.detectors.registry import make, settings
from lib.detectors.robust_covariance import RobustDistance
from lib.detectors.sampling import weighted_quantile
from lib.detectors.scaling import LOGS
from lib.evaluation.metrics import average_precision

TRIM = 0.02  # share of the weight, of lowest density, that the mean density leaves out


def compare(
    reference: Arrays,
    validation: Arrays,
    regime: str = "all",
    *,
    seed: int = 0,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Return what each of :data:`lib.detectors.scaling.LOGS` is worth, a row each.

    `log`, the rule; `log_density`, see :func:`held_out`; the average precision on validation of
    `robust_covariance` and of `nearest_neighbours`, fitted in the units of that rule. Labels of
    validation measure the latter two and nothing else.

    Parameters
    ----------
    reference : Arrays
        The rows to fit; their labels are not used.
    validation : Arrays
    regime : {"genuine", "all"}
        Which settings the detectors have (:func:`lib.detectors.registry.settings`).
    seed, threads : int
    """
    found = []
    for log in LOGS:
        entry: dict[str, Any] = {"log": log}
        for model in ("robust_covariance", "nearest_neighbours"):
            detector = make(model, **settings(model, regime), log=log, seed=seed, threads=threads)
            detector.fit(reference.X, weight=reference.weight)
            score = detector.raw_score(validation.X)
            entry[model] = average_precision(validation.y, score, validation.weight)
            if model == "robust_covariance":
                entry["log_density"] = held_out(detector, validation)
        found.append(entry)
    return found


def held_out(detector: RobustDistance, data: Arrays) -> float:
    """Return the mean log density (nats) of later rows under the Gaussian of scaled columns.

    It is a density of the raw columns, whatever the scaling: the logarithm of each column's slope
    is added. The share TRIM of the weight with the lowest density is left out of the mean, since
    one such row can outweigh a thousand others. No label is used.
    """
    scaler = detector.scaler_
    covariance = detector.covariance_
    t = (scaler.impute(data.X) - scaler.shift_) / scaler.unit_
    slope = -np.log1p(np.abs(t)) * scaler.logged_ - np.log(scaler.unit_ * scaler.scale_)
    known = np.isfinite(scaler.scale_)  # a column without any value has no density
    _, log_volume = np.linalg.slogdet(covariance.precision_ / (2 * np.pi))
    distance = detector.raw_score(data.X)
    log_density = (log_volume - distance) / 2 + slope[:, known].sum(axis=1)
    kept = log_density >= weighted_quantile(log_density, data.weight, TRIM)
    return float(np.average(log_density[kept], weights=data.weight[kept]))
