"""The contract of a detector.

This file decides the sign: a higher ``raw_score`` is more anomalous, for every model.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted

from lib.detectors.onnx_graph import Graph

# apart from the parameters in a manifest: they are named beside them
OUTSIDE_PARAMETERS = {"seed", "threads"}
Rows = tuple[ArrayLike, ArrayLike | None]  # X (n, d) float32 and weight (n,) float64


class Detector(BaseEstimator):
    """A scikit-learn estimator with one score, its direction and its ONNX graph.

    Subclasses take ``seed`` and ``threads`` (compute threads; whether results depend on them is
    said by each class). They define ``fit``, ``_raw_score`` and ``graph_score``, and
    ``graph_contributions`` if they can name the terms of their score.
    """

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        weight: ArrayLike | None = None,
        validation: Rows | None = None,
    ) -> Self:
        """Fit to transactions.

        Parameters
        ----------
        X : array-like of shape (n, d), float32
            In raw units, NaN where a value is missing.
        y : array-like of shape (n,)
            1 for a known fraud, 0 for anything else. Only detectors that learn from labels read
            it; the others ignore it.
        weight : array-like of shape (n,), not negative
            None: every row counts once.
        validation : tuple of X and weight
            Later transactions, without labels, for early stopping and held-out likelihoods.

        Raises
        ------
        ValueError
            See :func:`check_rows` and :func:`lib.detectors.scaling.check_weight`.
        """
        raise NotImplementedError

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that missing values are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def raw_score(self, X: ArrayLike) -> NDArray:
        """Score transactions; higher is more anomalous.

        Parameters
        ----------
        X : array-like of shape (n, d), float32
            In raw units, NaN where a value is missing.

        Returns
        -------
        ndarray of shape (n,), float64

        Raises
        ------
        ValueError
            If the number of columns is not the one that was fitted.
        """
        check_is_fitted(self)
        X = np.asarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has shape {X.shape}, "
                f"but this detector was fitted on {self.n_features_in_} columns."
            )
        return self._raw_score(X)

    def graph_score(self, graph: Graph) -> str:
        """Add the raw score to a graph and return its name, float32 [n]."""
        raise NotImplementedError

    def graph_contributions(self, graph: Graph) -> str | None:
        """Add what each column contributes to the raw score and return its name, float32 [n, d].

        None if the detector has no such terms.
        """
        return None

    def described(self) -> dict[str, Any]:
        """Return the parameters as plain data, but for seed and threads, for a manifest."""
        parameters = self.get_params()
        return {key: value for key, value in parameters.items() if key not in OUTSIDE_PARAMETERS}

    def to_onnx(self) -> bytes:
        """Return the graph from ``features`` float32 [n, d], raw, to ``raw_score`` float32 [n]."""
        graph = Graph(self.n_features_in_)
        score = self.graph_score(graph)
        return graph.finish(score)

    def explain_onnx(self) -> bytes | None:
        """Return the graph from ``features`` to ``contributions``, both float32 [n, d].

        None if the detector has no terms to contribute.
        """
        graph = Graph(self.n_features_in_)
        contributions = self.graph_contributions(graph)
        if contributions is None:
            return None
        return graph.finish(contributions, "contributions")


def check_rows(X: ArrayLike) -> NDArray:
    """Return transactions to fit as (n, d) float32, NaN where a value is missing.

    Raises
    ------
    ValueError
        If X is not two-dimensional, holds no row or no column, or a number that is infinite or
        too large for float32.
    TypeError
        If X is sparse.
    """
    return check_array(X, dtype=np.float32, ensure_all_finite="allow-nan", input_name="X")


def check_labels(y: ArrayLike | None, n: int, detector: Detector) -> NDArray:
    """Return the labels that a detector learns from as an array (n,).

    Raises
    ------
    ValueError
        If y is None or has another shape.
    """
    name = type(detector).__name__
    if y is None:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None: "
            "it learns from labels, 1 for a known fraud and 0 for anything else."
        )
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f"y has shape {y.shape}, but there are {n} rows: give one label a row.")
    return y
