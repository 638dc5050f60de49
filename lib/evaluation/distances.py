"""How far two weighted samples of one column are apart."""

import numpy as np


def distances(x, x_weight, y, y_weight) -> tuple[float, float]:
    """Return the weighted Kolmogorov-Smirnov and Wasserstein distances of x (n,) and y (m,).

    The first is between 0 and 1, the second in the unit of x.
    """
    values = np.concatenate([x, y])
    order = np.argsort(values, kind="stable")
    step = np.diff(values[order])
    gap = np.abs(
        np.cumsum(
            np.concatenate([x_weight / np.sum(x_weight), -y_weight / np.sum(y_weight)])[order]
        )
    )[:-1]
    # equal values are one step
    return float(np.max(gap[step > 0], initial=0.0)), float(np.sum(gap * step))


def ks(a, b, weight_a, weight_b) -> float:
    """Weighted Kolmogorov-Smirnov distance of a (n,) and b (m,), 0 to 1, by their known values; NaN
    if none is.
    """
    samples = [
        (np.asarray(v, float), np.asarray(w, float)) for v, w in ((a, weight_a), (b, weight_b))
    ]
    x, y = ((v[known], w[known]) for v, w in samples for known in [~np.isnan(v) & (w > 0)])
    return distances(*x, *y)[0] if len(x[0]) and len(y[0]) else float("nan")
