"""How far out in the tails of its columns a row lies, column by column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from lib.detectors.base import Detector, Rows, check_rows
from lib.detectors.onnx_graph import Graph
from lib.detectors.sampling import check_weight, effective_size
from lib.detectors.scaling import Scaler

N_LEVELS = 16  # of tail probability on each side, from a half down to one row
MAX_VALUES = 32  # a column with at most so many values is kept whole
FARTHEST = 1e30  # keeps the logarithm finite for any finite value
FAR = 0.01  # tail probability from which the scale beyond the last row is taken


class EmpiricalTails(Detector):
    """The sum over columns of -log of the share of rows that lie as far out as this one.

    In each column the nearer tail counts: -log min(P(x' <= x), P(x' >= x)) among the fitted rows.
    Li, Zhao, Hu, Botta, Ionescu and Chen, *ECOD: unsupervised outlier detection using empirical
    cumulative distribution functions*, TKDE 2022, choose between the tails by the sign of the
    skewness and do not tell values beyond the last row apart; here the surprise goes on to grow
    with the logarithm of the distance from it. Nothing is assumed of a column's shape, so that
    skewed columns and columns with half of their mass on an edge need no scaling; but nothing is
    known of how columns depend on each other.

    The rows determine the fit: `seed` and `threads` change nothing.

    Attributes
    ----------
    scaler_ : Scaler
        For its medians, which take the place of missing values.
    lines_ : Lines
    """

    def __init__(self, seed: int = 0, threads: int = 1) -> None:
        self.seed = seed
        self.threads = threads

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        weight: ArrayLike | None = None,
        validation: Rows | None = None,
    ) -> Self:
        """Fit as :meth:`lib.detectors.base.Detector.fit` says; `validation` is not used."""
        X = check_rows(X)
        weight = check_weight(weight, len(X))
        self.scaler_ = Scaler().fit(X, weight=weight)
        columns = self.scaler_.impute(X)[weight > 0]
        weight = weight[weight > 0]
        self.lines_ = Lines.through([Tails.of(x, weight) for x in columns.T])
        self.n_features_in_ = X.shape[1]
        return self

    def surprise(self, X: ArrayLike) -> NDArray:
        """Return the surprise of each value, (n, d) float64; :meth:`raw_score` is its sum."""
        x = self.scaler_.impute(X).astype(np.float64)
        return self.lines_.at(x)

    def _raw_score(self, X):
        with threadpool_limits(1):
            return self.surprise(X).sum(axis=1)

    def graph_score(self, graph: Graph) -> str:
        """Add the sum over columns of straight lines."""
        return graph.sum_columns(self._graph_surprise(graph))

    def graph_contributions(self, graph: Graph) -> str:
        """Add the surprise of each column; they add up to `raw_score`."""
        return self._graph_surprise(graph)

    def _graph_surprise(self, graph):
        """Add the surprise [n, d] as a sum over the segments of each column's lines."""
        lines = self.lines_
        x = graph.imputed(self.scaler_.median_)
        column = graph.reshape(x, [-1, self.n_features_in_, 1])
        start = lines.knot[:, :-1]
        inside = graph.add("Max", column, start)
        inside = graph.add("Min", inside, lines.knot[:, 1:])
        along = graph.add("Sub", inside, start)
        risen = graph.add("Mul", along, lines.slope)
        axes = graph.constant([2], np.int64)
        risen = graph.add("ReduceSum", risen, axes, keepdims=0)
        surprise = graph.add("Add", risen, lines.first)

        beyond = graph.add("Sub", x, lines.knot[:, -1])
        before = graph.add("Sub", lines.knot[:, 0], x)
        beyond = graph.add("Div", beyond, lines.above)
        before = graph.add("Div", before, lines.below)
        outside = graph.add("Max", beyond, before)
        outside = graph.add("Clip", outside, 0.0, FARTHEST)
        growth = graph.add("Log", graph.add("Add", outside, 1.0))
        return graph.add("Add", surprise, growth)


@dataclass(frozen=True)
class Lines:
    """The surprise of each of d columns: straight lines between k knots, logarithms beyond.

    Parameters
    ----------
    knot : ndarray of shape (d, k), ascending
        The last one is repeated where a column has fewer.
    first : ndarray of shape (d,)
        Surprise at the first knot.
    slope : ndarray of shape (d, k - 1)
    below, above : ndarray of shape (d,)
        Units of the distance from the first and the last knot; inf: it says nothing.
    """

    knot: NDArray
    first: NDArray
    slope: NDArray
    below: NDArray
    above: NDArray

    @classmethod
    def through(cls, columns: Sequence["Tails"]) -> Self:
        """Lay lines through the tails of each column."""
        k = max(2, *(len(each.value) for each in columns))
        knot = np.stack([_padded(each.value, k) for each in columns])
        surprise = np.stack([_padded(each.surprise, k) for each in columns])
        width = np.diff(knot)
        rise = np.diff(surprise)
        slope = np.divide(rise, width, out=np.zeros_like(width), where=width > 0)
        below = np.array([each.below for each in columns])
        above = np.array([each.above for each in columns])
        return cls(knot, surprise[:, 0], slope, below, above)

    def at(self, x: NDArray) -> NDArray:
        """Return the surprise (n, d) of x (n, d) float64."""
        start = self.knot[:, :-1]
        inside = np.clip(x[:, :, None], start, self.knot[:, 1:])
        risen = ((inside - start) * self.slope).sum(axis=2)
        beyond = (x - self.knot[:, -1]) / self.above
        before = (self.knot[:, 0] - x) / self.below
        outside = np.clip(np.maximum(beyond, before), 0, FARTHEST)
        return self.first + risen + np.log1p(outside)


@dataclass(frozen=True)
class Tails:
    """The surprise of some values of one column, and the scales beyond them; see :class:`Lines`."""

    value: NDArray
    surprise: NDArray
    below: float
    above: float

    @classmethod
    def of(cls, x: NDArray, weight: NDArray) -> Self:
        """Read them from the values x (n,) of a column with weight (n,) > 0."""
        value, place = np.unique(x.astype(np.float64), return_inverse=True)
        mass = np.bincount(place, weights=weight)
        share = mass / mass.sum()
        at_most = np.cumsum(share)
        at_least = np.cumsum(share[::-1])[::-1]
        n = effective_size(weight)
        kept = _knots(at_most, at_least, n)
        tail = np.minimum(at_most, at_least)[kept]
        surprise = -np.log(np.clip(tail, 0.5 / n, 1))
        low = value[np.searchsorted(at_most, FAR)]
        high = value[len(value) - 1 - np.searchsorted(at_least[::-1], FAR)]
        width = value[-1] - value[0] or np.inf
        return cls(
            value=value[kept],
            surprise=surprise,
            below=low - value[0] or width,
            above=value[-1] - high or width,
        )


def _knots(at_most, at_least, n):
    """Return the positions of the values to keep: all if few, else those at certain tails."""
    count = len(at_most)
    if count <= MAX_VALUES:
        return np.arange(count)
    levels = np.geomspace(0.5, max(n, 4) ** -1, N_LEVELS)
    left = np.searchsorted(at_most, levels)
    right = count - 1 - np.searchsorted(at_least[::-1], levels)
    places = np.concatenate([[0, count - 1], left, right])
    return np.unique(np.clip(places, 0, count - 1))


def _padded(values, k):
    """Repeat the last of the values until there are k."""
    return np.append(values, np.full(k - len(values), values[-1]))
