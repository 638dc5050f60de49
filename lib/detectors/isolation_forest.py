"""Isolate outliers by random splits: scikit-learn's forest as a detector, with oblique splits where wanted."""

import numpy as np
from sklearn.ensemble import IsolationForest as SklearnForest

from lib.detectors.base import Detector
from lib.scaling import Scaler, check_weight, draw
from lib.trees import average_path_length, isolation_trees

MAX_DRAWN = 200_000  # rows handed to scikit-learn's forest, which samples them again for each tree


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


def _oblique(rng, d, k):
    """k directions (d, k) float32, each a unit vector over two to four columns."""
    directions = np.zeros((d, k), dtype=np.float32)
    for direction in directions.T:
        chosen = rng.choice(d, size=min(d, rng.integers(2, 5)), replace=False)
        direction[chosen] = rng.normal(size=len(chosen))
        direction /= np.linalg.norm(direction)
    return directions
