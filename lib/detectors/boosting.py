"""Learn from the known frauds by gradient boosting: the reference that detectors are measured against."""

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from lib.detectors.base import Detector
from lib.scaling import Scaler, check_weight, thin
from lib.trees import boosted_trees


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
