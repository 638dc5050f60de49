"""Scale columns for every detector: impute medians, take logarithms, standardise.

No statistic sees a label, and every statistic is weighted.
:meth:`lib.detectors.onnx_graph.Graph.scaled` writes the same steps in ONNX.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lib.detectors.sampling import check_weight, weighted_quantile

CLIP = 1e4  # standard units; keeps squares and sums finite in float32 for any finite transaction
SKEW = 0.8  # |quantile skewness| above which a column is logged; 0 is symmetric, 1 the maximum
LOGS = ("never", "skewed", "always")  # rules for which columns are logged
RARE = 0.01  # a column whose most common value leaves less than this share is a rare flag
RARE_REACH = 10  # standard units from a rare flag's common value to its typical exception


class Scaler(TransformerMixin, BaseEstimator):
    """A transformer that imputes, unskews and standardises each column.

    ``z = clip((g(t) - centre_) / scale_)`` with ``t = (x - shift_) / unit_`` and, for the columns
    of ``logged_``, ``g(t) = sign(t) log(1 + |t|)``, otherwise ``g(t) = t``. NaN is replaced by the
    column's median first.

    A column is logged if its quantile skewness (q99 + q01 - 2 q50) / (q99 - q01) exceeds 0.8 in
    size (Groeneveld and Meeden, *Measuring skewness and kurtosis*, The Statistician 1984), and its
    median is not its edge; ``unit_`` is then the distance between the two, so that the column is
    about linear up to its median and logarithmic beyond. A constant column becomes
    0. So does a column without any value, now and later: nothing is known of its scale, so that a
    value says nothing. In a column that keeps one value in over 99 % of the weight, a typical
    exception lies at most 10 units from it, where the standard deviation alone would put one in a
    million at 1,000.

    Parameters
    ----------
    log : {"never", "skewed", "always"}
        `never` logs no column. `always` logs skewed columns whose median is their edge as well,
        with the median distance of the other values from it as the unit. Both are there to compare
        the rule with.

    Attributes
    ----------
    median_, shift_, unit_, centre_, scale_ : ndarray of shape (n_features,), float64
        They hold float32 values, so that an ONNX graph has exactly the same.
    logged_ : ndarray of shape (n_features,), bool
    n_features_in_ : int
    """

    def __init__(self, log: str = "skewed") -> None:
        self.log = log

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        weight: ArrayLike | None = None,
    ) -> Self:
        """Learn the scale of each column.

        Parameters
        ----------
        X : array-like of shape (n, n_features), float32, NaN where a value is missing
        y : ignored
        weight : array-like of shape (n,), not negative; None: every row counts once

        Raises
        ------
        ValueError
            If `weight` has another length, a negative or non-finite number, or only zeros; if
            `log` is none of the three.
        """
        if self.log not in LOGS:
            raise ValueError(f"log is {self.log!r}; give one of {', '.join(LOGS)}.")
        X = np.asarray(X, dtype=np.float64)
        weight = check_weight(weight, len(X))
        columns = [_learn(column, weight, self.log) for column in X.T]
        self.median_ = _gather(columns, "median")
        self.shift_ = _gather(columns, "shift")
        self.unit_ = _gather(columns, "unit")
        self.centre_ = _gather(columns, "centre")
        self.scale_ = _gather(columns, "scale")
        self.logged_ = _gather(columns, "logged").astype(bool)
        self.n_features_in_ = X.shape[1]
        return self

    def impute(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return X (n, n_features) float32 with NaN replaced by the medians.

        Without any NaN the array itself is returned, not a copy.
        """
        X = np.asarray(X, dtype=np.float32)
        missing = np.isnan(X)
        if not missing.any():
            return X
        median = self.median_.astype(np.float32)
        return np.where(missing, median, X)

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return z (n, n_features) float64, in standard units, for X (n, n_features) float32."""
        check_is_fitted(self)
        x = self.impute(X).astype(np.float64)
        t = (x - self.shift_) / self.unit_
        skewed = t[:, self.logged_]
        t[:, self.logged_] = signed_log(skewed)
        z = (t - self.centre_) / self.scale_
        return np.clip(z, -CLIP, CLIP)


def signed_log(t: NDArray) -> NDArray:
    """Return sign(t) log(1 + |t|): odd, increasing, close to t near 0."""
    size = np.log1p(np.abs(t))
    return np.sign(t) * size


@dataclass(frozen=True)
class _Quantiles:
    """Weighted 1 %, 50 % and 99 % quantiles of a column."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, x, weight):
        found = weighted_quantile(x, weight, [0.01, 0.5, 0.99])
        return cls(*found)

    @property
    def spread(self):
        return self.high - self.low

    @property
    def skewness(self):
        if self.spread > 0:
            balance = self.high + self.low - 2 * self.median
            return balance / self.spread
        return 1.0  # at least 98 % of the weight lies on one value: the others are its tail


@dataclass(frozen=True)
class _Unskewing:
    """The first step of a column's scaling; see :class:`Scaler` for the formula."""

    shift: float
    unit: float
    logged: bool

    @classmethod
    def rounded(cls, shift, unit, logged=False):
        """Hold float32 numbers: centre and scale must fit those that the graph will use."""
        shift = float(np.float32(shift))
        unit = float(np.float32(unit))
        return cls(shift, unit, logged)

    def apply(self, x):
        t = (x - self.shift) / self.unit
        return signed_log(t) if self.logged else t


@dataclass(frozen=True)
class _Column:
    """What is learned about one column; the defaults leave it as it is."""

    median: float = 0.0
    shift: float = 0.0
    unit: float = 1.0
    centre: float = 0.0
    scale: float = 1.0
    logged: bool = False


def _learn(x, weight, log):
    """Return the :class:`_Column` of x (n,) float64, NaN where missing, with weight (n,)."""
    known = ~np.isnan(x) & (weight > 0)
    if not known.any():
        return _Column(scale=np.inf)  # whatever comes later is divided to 0
    quantiles = _Quantiles.of(x[known], weight[known])
    median = quantiles.median
    x = np.where(np.isnan(x), median, x)
    mode = _mode(x, weight)
    exceptions = (x != mode) & (weight > 0)
    if not exceptions.any():
        return _Column(median=median, shift=mode)  # constant: all its values become 0
    step = _unskew(x, weight, quantiles, exceptions, log)
    z = step.apply(x)
    centre = np.average(z, weights=weight)
    variance = np.average((z - centre) ** 2, weights=weight)
    scale = np.sqrt(variance)
    exceptional = weight[exceptions].sum()
    if exceptional < RARE * weight.sum():
        z_mode = z[~exceptions][0]
        distances = np.abs(z[exceptions] - z_mode)
        typical = weighted_quantile(distances, weight[exceptions], 0.5)
        scale = max(scale, typical / RARE_REACH)
    return _Column(
        median=median,
        shift=step.shift,
        unit=step.unit,
        centre=centre,
        scale=scale,
        logged=step.logged,
    )


def _mode(x, weight):
    """Return the value of x (n,) with most weight."""
    values, place = np.unique(x, return_inverse=True)
    mass = np.bincount(place, weights=weight)
    return values[np.argmax(mass)]


def _unskew(x, weight, quantiles, exceptions, log):
    """Return the :class:`_Unskewing` of a column that is not constant.

    `exceptions` (n,) bool marks the rows that do not hold the most common value.
    """
    spread = quantiles.spread
    # Two values stay two values after any map: there is nothing to unskew.
    n_exceptions = len(np.unique(x[exceptions]))
    if log == "never" or n_exceptions < 2 or abs(quantiles.skewness) <= SKEW:
        return _linear(x, weight, spread)
    edge = quantiles.low if quantiles.skewness > 0 else quantiles.high
    typical = abs(quantiles.median - edge)
    if typical == 0 and log == "always":
        others = (x != edge) & (weight > 0)
        typical = weighted_quantile(np.abs(x[others] - edge), weight[others], 0.5)
    if typical == 0:
        # Half of the weight or more sits on the edge: there is no typical distance from it, and any
        # other unit would make 0.3 and 0.8 nearly the same, or 0 and 0.01 very different.
        return _linear(x, weight, spread)
    return _Unskewing.rounded(edge, typical, logged=True)


def _linear(x, weight, spread):
    mean = np.average(x, weights=weight)
    return _Unskewing.rounded(mean, spread if spread > 0 else 1.0)


def _gather(columns, name):
    """Return one number of each column, (d,) float64, as float32 holds it."""
    values = [getattr(column, name) for column in columns]
    return _as_float32(np.array(values, dtype=np.float64))


def _as_float32(values):
    """Round float64 to the nearest float32, and keep it as float64."""
    single = np.float32(values)
    return np.float64(single)
