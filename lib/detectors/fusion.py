"""Several detectors as one: the mean surprise of a row to each of them."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from lib.bundle.calibration import Calibration
from lib.detectors.base import Detector, Rows, check_rows
from lib.detectors.onnx_graph import Graph
from lib.detectors.registry import make
from lib.detectors.sampling import check_weight

MEMBERS = ("gaussian_mixture", "nearest_neighbours")  # the two that find most on most tables
TINY = 1e-30  # keeps a row without any contribution from dividing by 0


class Fusion(Detector):
    """The mean surprise of a row to several detectors.

    Surprise is -log of the fraction of validation transactions with an equal or higher score
    (:meth:`lib.bundle.calibration.Calibration.strangeness`), so that detectors with scores of any
    scale can be averaged: 7 is one in a thousand. No label is used.

    A mean is seldom better than its best member: over seven tables and both regimes, that of
    mixture and neighbours was in three of fourteen fits, by up to 0.02 of average precision, and
    lost up to 0.18 where one of them is blind. Third and fourth members, and weights by how far
    members agree on the highest hundredth, changed little. So a run fuses only on request.

    Parameters
    ----------
    of : dict of str to dict
        Names in :data:`lib.detectors.registry.DETECTORS` and what differs from their defaults;
        None: those of MEMBERS.
    seed, threads : int

    Attributes
    ----------
    members_ : list of fitted detectors
    calibrations_ : list of Calibration
        One for each member.
    """

    def __init__(
        self,
        of: dict[str, dict] | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.of = of
        self.seed = seed
        self.threads = threads

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        weight: ArrayLike | None = None,
        validation: Rows | None = None,
        fitted: Sequence[Detector] | None = None,
    ) -> Self:
        """Fit as :meth:`lib.detectors.base.Detector.fit` says.

        Parameters
        ----------
        X : array-like of shape (n, d), float32
        y : array-like of shape (n,)
            Only for members that learn from labels.
        weight : array-like of shape (n,), not negative
        validation : tuple of X and weight
            Surprise is measured on these rows; without them, on the fitted ones.
        fitted : sequence of detectors
            Fitted before, in the order of `of`; without them, members are fitted here.
        """
        X = check_rows(X)
        weight = check_weight(weight, len(X))
        self.members_ = fitted or self._fit_members(X, y, weight, validation)
        rows, rows_weight = validation or (X, weight)
        scores = [member.raw_score(rows) for member in self.members_]
        self.calibrations_ = [Calibration.fit(each, rows_weight) for each in scores]
        self.n_features_in_ = X.shape[1]
        return self

    def _fit_members(self, X, y, weight, validation):
        of = self.of
        if of is None:
            of = {name: {} for name in MEMBERS}
        members = []
        for name, parameters in of.items():
            member = make(name, seed=self.seed, threads=self.threads, **parameters)
            members.append(member.fit(X, y, weight=weight, validation=validation))
        return members

    def _raw_score(self, X):
        surprise = [
            calibration.strangeness(member.raw_score(X))
            for member, calibration in zip(self.members_, self.calibrations_, strict=True)
        ]
        return np.mean(surprise, axis=0)

    def graph_score(self, graph: Graph) -> str:
        """Add the graphs of all members side by side, and the mean of their surprise."""
        total, *others = self._graph_surprise(graph)
        for each in others:
            total = graph.add("Add", total, each)
        # float64 as far as the mean: the logarithms of float32 shares would be too coarse
        count = graph.constant(len(self.members_), np.float64)
        mean = graph.add("Div", total, count)
        return graph.single(mean)

    def graph_contributions(self, graph: Graph) -> str | None:
        """Add the mean of the members' contributions, or None if a member has none.

        Those of each member are scaled first, so that their sizes add up to the row's surprise to
        it: contributions of different members have no common unit.
        """
        found = [member.graph_contributions(graph) for member in self.members_]
        own = [contributions for contributions in found if contributions is not None]
        if len(own) < len(found):
            return None
        terms = []
        for contributions, surprise in zip(own, self._graph_surprise(graph), strict=True):
            size = graph.sum_columns(graph.add("Abs", contributions), keepdims=1)
            size = graph.add("Max", size, TINY)
            share = graph.add("Div", contributions, size)
            column = graph.reshape(graph.single(surprise), [-1, 1])
            terms.append(graph.add("Mul", share, column))
        return graph.add("Mean", *terms)

    def _graph_surprise(self, graph):
        """Add the surprise [n] of rows to each member, float64; return the names."""
        return [
            graph.surprise(member.graph_score(graph), calibration)
            for member, calibration in zip(self.members_, self.calibrations_, strict=True)
        ]
