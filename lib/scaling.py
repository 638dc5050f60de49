"""One scaling for every detector: median imputation, signed logarithms of skewed columns, standard units; weights.

Labels are never seen and every statistic is weighted. :meth:`lib.graphs.Graph.scaled` writes the same steps in ONNX.
"""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

CLIP = 1e4  # standard units; keeps squares and sums finite in float32 for any finite transaction
SKEW = 0.8  # |quantile skewness| above which a column is logged; 0 is symmetric, 1 the largest possible
RARE = 0.01  # a column whose most common value leaves less than this share is a rare flag


class Scaler(TransformerMixin, BaseEstimator):
    """Impute, unskew and standardise each column.

    ``z = clip((g(t) - centre_) / scale_)`` with ``t = (x - shift_) / unit_`` and, for the columns of ``logged_``,
    ``g(t) = sign(t) log(1 + |t|)``, otherwise ``g(t) = t``. NaN is replaced by the column's median first.

    A column is logged if its quantile skewness (q99 + q01 - 2 q50) / (q99 - q01) exceeds 0.8 in size (Groeneveld and
    Meeden 1984); `unit_` is then the one that makes the logged quantiles symmetric. A constant column becomes 0. So
    does a column without any value, now and later: nothing is known of its scale, so that a value says nothing. In a
    column that keeps one value in over 99 % of the weight, a typical exception lies at most 10 units from it, where the
    standard deviation alone would put one in a million at 1,000.

    Attributes
    ----------
    median_, shift_, unit_, centre_, scale_ : ndarray of shape (n_features,), float64 holding float32 values
    logged_ : ndarray of shape (n_features,), bool
    """

    def fit(self, X, weight=None):
        """Learn from X (n, n_features) float32, NaN allowed, and weight (n,); returns self."""
        X = np.asarray(X, dtype=np.float64)
        weight = check_weight(weight, len(X))
        learned = [_learn(column, weight) for column in X.T]
        names = ("median_", "shift_", "unit_", "centre_", "scale_")
        for name, values in zip(names, np.array(learned, dtype=np.float64).T[:5], strict=True):
            setattr(self, name, values.astype(np.float32).astype(np.float64))  # what the float32 graph holds
        self.logged_ = np.array([row[5] for row in learned], dtype=bool)
        self.n_features_in_ = X.shape[1]
        return self

    def impute(self, X):
        """Return X (n, n_features) float32 with NaN replaced by the medians; the same array if there is none."""
        X = np.asarray(X, dtype=np.float32)
        missing = np.isnan(X)
        return np.where(missing, self.median_.astype(np.float32), X) if missing.any() else X

    def transform(self, X):
        """Return z (n, n_features) float64, in standard units, for X (n, n_features) float32."""
        check_is_fitted(self)
        t = (self.impute(X).astype(np.float64) - self.shift_) / self.unit_
        t[:, self.logged_] = signed_log(t[:, self.logged_])
        return np.clip((t - self.centre_) / self.scale_, -CLIP, CLIP)


def signed_log(t):
    """sign(t) log(1 + |t|): odd, increasing, the identity near 0."""
    return np.sign(t) * np.log1p(np.abs(t))


def check_weight(weight, n):
    """Return weight as (n,) float64, ones if None; ValueError if its length, sign or sum is wrong."""
    if weight is None:
        return np.ones(n)
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (n,):
        raise ValueError(f"weight has shape {weight.shape}, but there are {n} rows: give one number a row.")
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.sum() > 0):
        raise ValueError("weight holds a negative or non-finite number, or only zeros: give weights >= 0, not all 0.")
    return weight


def weighted_quantile(x, weight, q):
    """Smallest x whose cumulative share of the weight is at least q; x (n,), weight (n,), q scalar or (k,)."""
    order = np.argsort(x, kind="stable")
    cumulative = np.cumsum(weight[order])
    where = np.searchsorted(cumulative, np.asarray(q) * cumulative[-1] * (1 - 1e-12))
    return np.asarray(x)[order][np.minimum(where, len(order) - 1)]


def draw(rng, weight, n):
    """Positions (n,) of rows drawn with replacement in proportion to weight, ascending.

    Systematic sampling: one random start, equal steps of weight, so a row of weight w comes floor or ceil(n w / sum w)
    times and equal weights with n = len(weight) give every row once.
    """
    cumulative = np.cumsum(weight)
    steps = (np.arange(n) + rng.random()) * (cumulative[-1] / n)
    return np.minimum(np.searchsorted(cumulative, steps, side="right"), len(weight) - 1)


def subsample(rng, X, weight, n):
    """X and weight as they are up to n rows; otherwise n rows drawn by weight, all of weight 1."""
    if len(X) <= n:
        return X, weight
    return X[draw(rng, weight, n)], np.ones(n)


def thin(rng, y, weight, n):
    """Positions, ascending, and weights of all rows with y = 1, and of n others at most, drawn by weight."""
    rare, others = np.flatnonzero(y == 1), np.flatnonzero(y != 1)
    kept, each = others, weight[others]
    if len(others) > n:
        kept, each = others[draw(rng, weight[others], n)], np.full(n, weight[others].sum() / n)
    positions = np.concatenate([rare, kept])
    order = np.argsort(positions, kind="stable")
    return positions[order], np.concatenate([weight[rare], each])[order]


def _learn(x, weight):
    """Return (median, shift, unit, centre, scale, logged) of one column."""
    known = ~np.isnan(x) & (weight > 0)
    if not known.any():
        return 0.0, 0.0, 1.0, 0.0, np.inf, False
    low, median, high = weighted_quantile(x[known], weight[known], [0.01, 0.5, 0.99])
    x = np.where(np.isnan(x), median, x)
    mode, exceptions = _mode(x, weight)
    if not exceptions.any():  # constant
        return median, mode, 1.0, 0.0, 1.0, False
    shift, unit, logged = _unskew(x, weight, low, median, high, exceptions)
    shift, unit = float(np.float32(shift)), float(np.float32(unit))
    z = (x - shift) / unit
    z = signed_log(z) if logged else z
    centre = np.average(z, weights=weight)
    scale = np.sqrt(np.average((z - centre) ** 2, weights=weight))
    if weight[exceptions].sum() < RARE * weight.sum():
        at_mode = z[~exceptions][0]
        distance = weighted_quantile(np.abs(z[exceptions] - at_mode), weight[exceptions], 0.5)
        scale = max(scale, distance / 10)
    return median, shift, unit, centre, scale, logged


def _mode(x, weight):
    """Return the value with most weight, and the mask of the rows that do not have it."""
    values, place = np.unique(x, return_inverse=True)
    mode = values[np.argmax(np.bincount(place, weights=weight, minlength=len(values)))]
    return mode, (x != mode) & (weight > 0)


def _unskew(x, weight, low, median, high, exceptions):
    """Return (shift, unit, logged): where the logarithm begins and at what scale, or a plain centring."""
    spread = high - low
    several = len(np.unique(x[exceptions])) > 1  # two values stay two values: nothing to unskew
    skewness = (high + low - 2 * median) / spread if spread > 0 else 1.0
    if not several or abs(skewness) <= SKEW:
        return np.average(x, weights=weight), (spread if spread > 0 else 1.0), False
    edge = low if skewness > 0 else high
    near, far = abs(median - edge), abs((high if skewness > 0 else low) - edge)
    if near > 0:  # log(1 + far/unit) = 2 log(1 + near/unit)
        return edge, near**2 / (far - 2 * near), True
    away = x != edge  # over half of the weight sits on the edge: the unit of the others is their median
    return edge, weighted_quantile(np.abs(x[away] - edge), weight[away], 0.5), True
