"""The contract of a detector. This file decides the sign: a higher ``raw_score`` is more anomalous, for every model."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from lib.graphs import Graph


class Detector(BaseEstimator):
    """What every detector is: scikit-learn's estimator with one score, its direction and its ONNX graph.

    Subclasses take ``seed`` and ``threads`` (compute threads; results may depend on them, see each class), define
    ``fit``, ``_raw_score`` and ``graph_score``, and ``graph_contributions`` if they can name their own terms.
    """

    def fit(self, X, weight=None, validation=None):
        """Fit on X (n, d) float32, raw units, with weight (n,) float64; returns self.

        `validation` is an (X, weight) pair without labels, for early stopping and held-out likelihoods.
        """
        raise NotImplementedError

    def raw_score(self, X):
        """Return (n,) float64, higher is more anomalous, for X (n, d) float32 in raw units.

        Raises ValueError if the number of columns is not the one that was fitted.
        """
        check_is_fitted(self)
        X = np.asarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has shape {X.shape}, but this detector was fitted on {self.n_features_in_} columns.")
        return self._raw_score(X)

    def graph_score(self, graph):
        """Add the raw score to a :class:`lib.graphs.Graph` and return its name, float32 [n]."""
        raise NotImplementedError

    def graph_contributions(self, graph):
        """Add what each column contributes to the raw score, float32 [n, d]; None if there is no such thing."""
        return None

    def to_onnx(self):
        """Return the graph from ``features`` float32 [n, d], raw, NaN imputed, to ``raw_score`` float32 [n]."""
        graph = Graph(self.n_features_in_)
        return graph.finish(self.graph_score(graph))

    def explain_onnx(self):
        """Return the graph from ``features`` to ``contributions`` float32 [n, d], or None if there is no such thing."""
        graph = Graph(self.n_features_in_)
        contributions = self.graph_contributions(graph)
        return None if contributions is None else graph.finish(contributions, "contributions")
