"""Compare rules for which columns are logged, with the labels of validation and without them."""

from typing import Any

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min

from lib.data.datasets import Arrays
from lib.detectors.robust_covariance import RobustCovariance
from lib.detectors.sampling import draw, weighted_quantile
from lib.detectors.scaling import LOGS, Scaler
from lib.detectors.trimming import ordinary_rows
from lib.evaluation.metrics import average_precision

TRIM = 0.02  # share of the weight that decides neither the ellipsoid nor its density
NEAR_TRIM = 0.002  # and that which is in no sample of neighbours
SAMPLES, SAMPLE_ROWS = 5, 4_000  # of neighbours


def compare(reference: Arrays, validation: Arrays, seed: int = 0) -> list[dict[str, Any]]:
    """Return what each of :data:`lib.detectors.scaling.LOGS` is worth, a row each.

    `log`, the rule; `log_density`, see :func:`held_out`; the average precision on validation of
    `robust_covariance` and of `nearest_neighbours`, which are the distances of those detectors in
    the units of that rule. Labels of validation measure the latter two and nothing else.

    Parameters
    ----------
    reference : Arrays
        The rows to fit; their labels are not used.
    validation : Arrays
    seed : int
    """
    ordinary = reference.take(ordinary_rows(reference.X, reference.weight, seed=seed))
    found = []
    for log in LOGS:
        scaler = Scaler(log).fit(reference.X, weight=reference.weight)
        covariance = RobustCovariance(TRIM).fit(scaler.transform(reference.X), reference.weight)
        scores = {
            "robust_covariance": covariance.squared_distance(scaler.transform(validation.X)),
            "nearest_neighbours": _nearest(log, ordinary, validation, seed),
        }
        quality = {
            model: average_precision(validation.y, score, validation.weight)
            for model, score in scores.items()
        }
        density = held_out(scaler, covariance, validation)
        found.append({"log": log, "log_density": density, **quality})
    return found


def held_out(scaler: Scaler, covariance: RobustCovariance, data: Arrays) -> float:
    """Return the mean log density (nats) of later rows under the Gaussian of scaled columns.

    It is a density of the raw columns, whatever the scaling: the logarithm of each column's slope
    is added. The share TRIM of the weight with the lowest density is left out of the mean, since
    one such row can outweigh a thousand others. No label is used.
    """
    t = (scaler.impute(data.X) - scaler.shift_) / scaler.unit_
    slope = -np.log1p(np.abs(t)) * scaler.logged_ - np.log(scaler.unit_ * scaler.scale_)
    known = np.isfinite(scaler.scale_)  # a column without any value has no density
    _, log_volume = np.linalg.slogdet(covariance.precision_ / (2 * np.pi))
    distance = covariance.squared_distance(scaler.transform(data.X))
    log_density = (log_volume - distance) / 2 + slope[:, known].sum(axis=1)
    kept = log_density >= weighted_quantile(log_density, data.weight, TRIM)
    return float(np.average(log_density[kept], weights=data.weight[kept]))


def _nearest(log, ordinary, validation, seed):
    """Return the mean distance (n,) of validation from the nearest of samples of ordinary rows."""
    scaler = Scaler(log).fit(ordinary.X, weight=ordinary.weight)
    z = scaler.transform(ordinary.X)
    covariance = RobustCovariance(NEAR_TRIM).fit(z, ordinary.weight)
    root = np.linalg.cholesky(covariance.precision_)
    kept = z[covariance.kept_] @ root
    weight = ordinary.weight[covariance.kept_]
    later = scaler.transform(validation.X) @ root
    rng = np.random.default_rng(seed)
    total = np.zeros(len(later))
    for _ in range(SAMPLES):
        drawn = draw(rng, weight, min(SAMPLE_ROWS, len(kept)))
        _, distance = pairwise_distances_argmin_min(later, kept[drawn])
        total += distance
    return total / SAMPLES
