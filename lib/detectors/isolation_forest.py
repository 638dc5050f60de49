"""Isolate outliers by random splits: scikit-learn's forest as a detector."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import IsolationForest as SklearnForest

from lib.detectors.base import Detector, Rows, check_rows
from lib.detectors.onnx_graph import Graph
from lib.detectors.onnx_trees import average_path_length, isolation_trees
from lib.detectors.sampling import check_weight, draw
from lib.detectors.scaling import Scaler
from lib.detectors.trimming import trimmed

MAX_DRAWN = 200_000  # rows handed to scikit-learn's forest, which samples them again for each tree


class IsolationForest(Detector):
    """A forest in which few random splits cut off what is anomalous.

    Liu, Ting and Zhou, *Isolation forest*, ICDM 2008. Scores are
    2^(-E[path length] / c(max_samples)), in (0, 1); they do not depend on `threads`.

    Parameters
    ----------
    n_trees : int
    max_samples : int
        Rows in each tree; the paper's 256 is enough where anomalies are far away from everything.
    seed, threads : int

    Attributes
    ----------
    scaler_ : Scaler
        For its medians, which take the place of missing values.
    forest_ : sklearn.ensemble.IsolationForest
    """

    def __init__(
        self,
        n_trees: int = 100,
        max_samples: int = 2048,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.n_trees = n_trees
        self.max_samples = max_samples
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
        """Fit as :meth:`Detector.fit` says, on rows drawn by weight; `validation` is not used."""
        X = check_rows(X)
        weight = check_weight(weight, len(X))
        rng = np.random.default_rng(self.seed)
        X, weight = trimmed(X, weight, seed=self.seed, threads=self.threads)
        self.scaler_ = Scaler().fit(X, weight=weight)
        # scikit-learn's forest takes weights but samples without them: draw by weight before
        drawn = draw(rng, weight, min(len(X), MAX_DRAWN))
        forest = SklearnForest(
            n_estimators=self.n_trees,
            max_samples=min(self.max_samples, len(drawn)),
            random_state=self.seed,
            n_jobs=self.threads,
        )
        self.forest_ = forest.fit(self.scaler_.impute(X[drawn]))
        self.n_features_in_ = X.shape[1]
        return self

    def _raw_score(self, X):
        # scikit-learn's score is higher for ordinary rows
        return -self.forest_.score_samples(self.scaler_.impute(X))

    def graph_score(self, graph: Graph) -> str:
        """Add one flat tree ensemble whose leaves hold path lengths, and turn them to scores."""
        inputs = graph.imputed(self.scaler_.median_)
        trees = isolation_trees(self.forest_)
        length = graph.tree_sum(trees, inputs)
        # 2^(-mean length / c) = exp(-total length * log 2 / (number of trees * c))
        total = len(trees) * average_path_length(self.forest_.max_samples_)
        exponent = graph.add("Mul", length, -np.log(2) / total)
        return graph.flat(graph.add("Exp", exponent))
