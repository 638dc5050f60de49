"""Learn from the known frauds by gradient boosting: what detectors are measured against."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.utils import ClassifierTags, Tags
from threadpoolctl import threadpool_limits

from lib.detectors.base import Detector, Rows, check_labels, check_rows
from lib.detectors.onnx_graph import Graph
from lib.detectors.onnx_trees import boosted_trees
from lib.detectors.sampling import check_weight, thin
from lib.detectors.scaling import Scaler


class SupervisedBoosting(Detector):
    """Gradient boosting on the labelled frauds: the reference for detectors, not one of them.

    scikit-learn's histogram gradient boosting, whose page explains the parameters; raw_score is
    the log-odds of fraud. Slow learning and strong regularisation, because frauds are few; no
    early stopping, because a random tenth of them is too few to judge by. Of the genuine rows at
    most `max_rows` are drawn, by weight: beyond that, frauds are what is missing.

    Attributes
    ----------
    scaler_ : Scaler
        For its medians, which take the place of missing values.
    model_ : sklearn.ensemble.HistGradientBoostingClassifier
    """

    def __init__(  # noqa: PLR0913 - one argument for each hyper-parameter, as scikit-learn asks
        self,
        n_trees: int = 200,
        learning_rate: float = 0.05,
        max_leaf_nodes: int = 15,
        min_samples_leaf: int = 20,
        l2_regularization: float = 1.0,
        max_rows: int = 200_000,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.n_trees = n_trees
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.l2_regularization = l2_regularization
        self.max_rows = max_rows
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
        """Fit to labelled transactions; `validation` is not used.

        Parameters
        ----------
        X : array-like of shape (n, d), float32
        y : array-like of shape (n,)
            1 for fraud.
        weight : array-like of shape (n,), not negative

        Raises
        ------
        ValueError
            If y is None, or holds another number of classes than two.
        """
        X = check_rows(X)
        y = check_labels(y, len(X), self)
        n_classes = len(np.unique(y))
        if n_classes != 2:
            held = "one class" if n_classes == 1 else f"{n_classes} classes"
            raise ValueError(
                "Boosting needs frauds and genuine transactions to learn from; "
                f"these rows hold {held}."
            )
        weight = check_weight(weight, len(X))
        self.scaler_ = Scaler().fit(X, weight=weight)
        rng = np.random.default_rng(self.seed)
        used, used_weight = thin(rng, y, weight, self.max_rows)
        columns = self.scaler_.impute(X[used])
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
            self.model_.fit(columns, y[used], sample_weight=used_weight)
        self.n_features_in_ = X.shape[1]
        return self

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that there is no fit without labels, and that they are two."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.classifier_tags = ClassifierTags(multi_class=False)
        return tags

    def _raw_score(self, X):
        columns = self.scaler_.impute(X)
        with threadpool_limits(self.threads, "openmp"):
            return self.model_.decision_function(columns)

    def graph_score(self, graph: Graph) -> str:
        """Add the trees of the model and its prior log-odds."""
        trees = boosted_trees(self.model_)
        columns = graph.imputed(self.scaler_.median_)
        total = graph.tree_sum(trees, columns)
        prior = self.model_._baseline_prediction.reshape(1, 1)
        log_odds = graph.add("Add", total, prior)
        return graph.flat(log_odds)
