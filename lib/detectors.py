"""The contract of a detector, the detectors by name, the isolation forest, boosting with labels, naive rules.

This file decides the sign: a higher ``raw_score`` is more anomalous, for every model.
"""

from importlib import import_module

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.ensemble import IsolationForest as SklearnForest
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from lib.graphs import Graph
from lib.scaling import Scaler, check_weight, draw, thin
from lib.trees import average_path_length, boosted_trees, isolation_trees

MAX_DRAWN = 200_000  # rows handed to scikit-learn's forest, which samples them again for each tree
DETECTORS = {
    "isolation_forest": ("lib.detectors", "IsolationForest"),
    "autoencoder": ("lib.autoencoder", "Autoencoder"),
    "gaussian_mixture": ("lib.mixture", "GaussianMixtureEnsemble"),
    "supervised_boosting": ("lib.detectors", "SupervisedBoosting"),
    "robust_covariance": ("lib.robust", "RobustDistance"),
    "few_labels": ("lib.few_labels", "FewLabels"),
    "fusion": ("lib.fusion", "Fusion"),
}
SUPERVISED = ("supervised_boosting", "few_labels")  # those whose fit takes labels: fit(X, y, weight)


def make(name, **params):
    """Return an unfitted detector by name; its module (torch, for one) is imported only now.

    Raises ValueError naming the known detectors if there is none of that name.
    """
    if name not in DETECTORS:
        raise ValueError(f"There is no detector {name!r}; there are {', '.join(sorted(DETECTORS))}.")
    module, cls = DETECTORS[name]
    return getattr(import_module(module), cls)(**params)


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


class IsolationForest(Detector):
    """Isolation forest: strange rows are cut off from the others by few random splits.

    Liu, Ting and Zhou, *Isolation forest*, ICDM 2008; with `projections`, splits also fall across random oblique
    directions of the scaled columns, in the spirit of Hariri, Kind and Brunner, *Extended isolation forest*, TKDE 2019.
    Scores are 2^(-E[path length] / c(max_samples)), in (0, 1); they do not depend on `threads`.

    Parameters
    ----------
    n_trees : int
    max_samples : int, rows in each tree; the paper's 256 is enough where anomalies are far away from everything
    projections : int, random directions offered beside the columns; 0 is the classical forest
    seed, threads : int
    """

    def __init__(self, n_trees=100, max_samples=2048, projections=0, seed=0, threads=1):
        self.n_trees = n_trees
        self.max_samples = max_samples
        self.projections = projections
        self.seed = seed
        self.threads = threads

    def fit(self, X, weight=None, validation=None):
        """Fit on rows drawn in proportion to weight; `validation` is not used. See :meth:`Detector.fit`."""
        X = np.asarray(X, dtype=np.float32)
        weight = check_weight(weight, len(X))
        rng = np.random.default_rng(self.seed)
        self.scaler_ = Scaler().fit(X, weight)
        self.directions_ = _oblique(rng, X.shape[1], self.projections)
        drawn = draw(rng, weight, min(len(X), MAX_DRAWN))
        self.forest_ = SklearnForest(
            n_estimators=self.n_trees,
            max_samples=min(self.max_samples, len(drawn)),
            random_state=self.seed,
            n_jobs=self.threads,
        ).fit(self._inputs(X[drawn]))
        self.n_features_in_ = X.shape[1]
        return self

    def _inputs(self, X):
        """What the trees split: imputed columns, then projections (n, d + projections) float32."""
        columns = self.scaler_.impute(X)
        if not self.projections:
            return columns
        oblique = self.scaler_.transform(X).astype(np.float32) @ self.directions_
        return np.concatenate([columns, oblique], axis=1)

    def _raw_score(self, X):
        return -self.forest_.score_samples(self._inputs(X))

    def graph_score(self, graph):
        """See :meth:`Detector.graph_score`; one flat tree ensemble whose leaves hold path lengths."""
        inputs = graph.imputed(self.scaler_.median_)
        if self.projections:
            oblique = graph.add("MatMul", graph.scaled(self.scaler_), self.directions_)
            inputs = graph.add("Concat", inputs, oblique, axis=1)
        trees = isolation_trees(self.forest_)
        length = graph.tree_sum(trees, inputs)
        scale = np.log(2) / (len(trees) * average_path_length(self.forest_.max_samples_))
        return graph.flat(graph.add("Exp", graph.add("Mul", length, -scale)))


class SupervisedBoosting(Detector):
    """Gradient boosting on the labelled frauds: the reference that detectors are measured against, not one of them.

    scikit-learn's histogram gradient boosting, whose page explains the parameters; raw_score is the log-odds of fraud.
    Slow learning and strong regularisation, because frauds are few; no early stopping, because a random tenth of them
    is too few to judge by. Of the genuine rows at most `max_rows` are drawn, by weight: beyond that, frauds are what is
    missing.
    """

    def __init__(
        self,
        n_trees=200,
        learning_rate=0.05,
        max_leaf_nodes=15,
        min_samples_leaf=20,
        l2_regularization=1.0,
        max_rows=200_000,
        seed=0,
        threads=1,
    ):
        self.n_trees = n_trees
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.l2_regularization = l2_regularization
        self.max_rows = max_rows
        self.seed = seed
        self.threads = threads

    def fit(self, X, y, weight=None):
        """Fit on X (n, d) float32 with y (n,), 1 = fraud, and weight (n,); ValueError if one class is missing."""
        X = np.asarray(X, dtype=np.float32)
        if len(np.unique(y)) != 2:
            raise ValueError("Boosting needs frauds and genuine transactions to learn from; these rows hold one class.")
        weight = check_weight(weight, len(X))
        self.scaler_ = Scaler().fit(X, weight)
        used, w = thin(np.random.default_rng(self.seed), np.asarray(y), weight, self.max_rows)
        self.model_ = HistGradientBoostingClassifier(
            max_iter=self.n_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.max_leaf_nodes,
            min_samples_leaf=self.min_samples_leaf,
            l2_regularization=self.l2_regularization,
            early_stopping=False,
            random_state=self.seed,
        )
        with threadpool_limits(self.threads, "openmp"):
            self.model_.fit(self.scaler_.impute(X[used]), np.asarray(y)[used], sample_weight=w)
        self.n_features_in_ = X.shape[1]
        return self

    def _raw_score(self, X):
        with threadpool_limits(self.threads, "openmp"):
            return self.model_.decision_function(self.scaler_.impute(X))

    def graph_score(self, graph):
        """See :meth:`Detector.graph_score`; the trees of the model plus its prior log-odds."""
        total = graph.tree_sum(boosted_trees(self.model_), graph.imputed(self.scaler_.median_))
        return graph.flat(graph.add("Add", total, self.model_._baseline_prediction.reshape(1, 1)))


def naive_scores(arrays, reference, seed=0):
    """Raw scores of the rules that every model must beat.

    Parameters
    ----------
    arrays, reference : lib.datasets.Arrays
        The rows to score and the rows that models were fitted on.
    seed : int, of `random`

    Returns
    -------
    dict of str to (n,) float64
        ``random``; ``amount``, if there is one; ``max_abs_z``, the largest distance of a column from its weighted mean,
        in standard deviations.
    """
    X = np.ma.masked_invalid(reference.X.astype(np.float64))
    mean = np.ma.average(X, axis=0, weights=reference.weight)
    sd = np.ma.filled(np.sqrt(np.ma.average((X - mean) ** 2, axis=0, weights=reference.weight)), 0.0)
    scores = {"random": np.random.default_rng(seed).random(len(arrays.X))}
    if arrays.amount is not None:
        scores["amount"] = np.asarray(arrays.amount, dtype=np.float64)
    z = np.abs((arrays.X - np.ma.filled(mean, 0.0)) / np.where(sd > 0, sd, 1.0))
    scores["max_abs_z"] = np.nan_to_num(z, nan=0.0).max(axis=1)  # a missing value is not strange
    return scores


def _oblique(rng, d, k):
    """k directions (d, k) float32, each a unit vector over two to four columns."""
    directions = np.zeros((d, k), dtype=np.float32)
    for direction in directions.T:
        chosen = rng.choice(d, size=min(d, rng.integers(2, 5)), replace=False)
        direction[chosen] = rng.normal(size=len(chosen))
        direction /= np.linalg.norm(direction)
    return directions
