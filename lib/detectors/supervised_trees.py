"""Learn from the known frauds by two ensembles of trees: what detectors are measured against."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.utils import ClassifierTags, Tags
from threadpoolctl import threadpool_limits

from lib.detectors.base import Detector, Rows, check_labels, check_rows
from lib.detectors.onnx_graph import Graph
from lib.detectors.onnx_trees import boosted_trees, forest_trees
from lib.detectors.sampling import check_weight, thin
from lib.detectors.scaling import Scaler

# Added to a forest's probability and to its complement: where all trees agree, log-odds are ±6.9
FLOOR = 1e-3
MAX_LEAVES = 512  # of a tree of the forest, so that many noisy frauds do not make a large file


class SupervisedTrees(Detector):
    """Boosting and a random forest on the labelled frauds: the yardstick for detectors, not one.

    `raw_score` is the mean of two log-odds of fraud: those of scikit-learn's histogram gradient
    boosting and those of its random forest. They err differently, so that the mean ranks better
    than boosting alone, by most where columns are histories of cards.

    Boosting learns slowly and is strongly regularised, because frauds are few; no early stopping,
    because a random tenth of them is too few to judge by. Genuine rows are drawn by weight where
    there are many: beyond that, frauds are what is missing. Each tree of the forest draws its own
    rows of those, by weight, and few enough that a table of any length takes seconds.

    Results do not depend on `threads`, but for the rounding of boosting's sums.

    Parameters
    ----------
    n_trees, learning_rate, max_leaf_nodes, min_samples_leaf, l2_regularization
        Of boosting, as scikit-learn explains them.
    max_rows : int
        Genuine rows for boosting, at most; all frauds come with them.
    forest_trees, forest_min_samples_leaf
        Of the forest.
    forest_rows : int
        Rows that each tree draws, at most.
    seed, threads : int

    Attributes
    ----------
    scaler_ : Scaler
        For its medians, which take the place of missing values.
    boosting_ : sklearn.ensemble.HistGradientBoostingClassifier
    forest_ : sklearn.ensemble.RandomForestClassifier
    """

    def __init__(  # noqa: PLR0913 - one argument for each hyper-parameter, as scikit-learn asks
        self,
        n_trees: int = 200,
        learning_rate: float = 0.05,
        max_leaf_nodes: int = 15,
        min_samples_leaf: int = 20,
        l2_regularization: float = 1.0,
        max_rows: int = 200_000,
        forest_trees: int = 100,
        forest_min_samples_leaf: int = 3,
        forest_rows: int = 40_000,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.n_trees = n_trees
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.l2_regularization = l2_regularization
        self.max_rows = max_rows
        self.forest_trees = forest_trees
        self.forest_min_samples_leaf = forest_min_samples_leaf
        self.forest_rows = forest_rows
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
                "SupervisedTrees needs frauds and genuine transactions to learn from; "
                f"these rows hold {held}."
            )
        weight = check_weight(weight, len(X))
        self.scaler_ = Scaler().fit(X, weight=weight)
        rng = np.random.default_rng(self.seed)
        used, used_weight = thin(rng, y, weight, self.max_rows)
        columns = self.scaler_.impute(X[used])
        known = y[used]
        self._boost(columns, known, used_weight)
        self._grow(columns, known, used_weight)
        self.n_features_in_ = X.shape[1]
        return self

    def _boost(self, columns, y, weight):
        """Fit boosting to columns (n, d), y (n,) and weight (n,)."""
        self.boosting_ = HistGradientBoostingClassifier(
            max_iter=self.n_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.max_leaf_nodes,
            min_samples_leaf=self.min_samples_leaf,
            l2_regularization=self.l2_regularization,
            early_stopping=False,
            random_state=self.seed,
        )
        with threadpool_limits(self.threads, "openmp"):
            self.boosting_.fit(columns, y, sample_weight=weight)

    def _grow(self, columns, y, weight):
        """Fit the forest to columns (n, d), y (n,) and weight (n,), which are drawn by."""
        self.forest_ = RandomForestClassifier(
            n_estimators=self.forest_trees,
            min_samples_leaf=self.forest_min_samples_leaf,
            max_leaf_nodes=MAX_LEAVES,
            max_features="sqrt",
            max_samples=min(len(y), self.forest_rows),
            n_jobs=self.threads,
            random_state=self.seed,
        )
        self.forest_.fit(columns, y, sample_weight=weight)
        # several threads would add up the trees' shares in another order each time
        self.forest_.n_jobs = 1

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that there is no fit without labels, and that they are two."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.classifier_tags = ClassifierTags(multi_class=False)
        return tags

    def _raw_score(self, X):
        columns = self.scaler_.impute(X)
        with threadpool_limits(self.threads, "openmp"):
            boosted = self.boosting_.decision_function(columns)
        share = self.forest_.predict_proba(columns)[:, 1]
        return (boosted + log_odds(share)) / 2

    def graph_score(self, graph: Graph) -> str:
        """Add the trees of both ensembles, boosting's prior, and the mean of both log-odds."""
        columns = graph.imputed(self.scaler_.median_)
        total = graph.tree_sum(boosted_trees(self.boosting_), columns)
        prior = self.boosting_._baseline_prediction.reshape(1, 1)
        boosted = graph.add("Add", total, prior)
        share = graph.tree_sum(forest_trees(self.forest_), columns)
        fraud = graph.add("Add", share, FLOOR)
        genuine = graph.add("Sub", 1 + FLOOR, share)
        odds = graph.add("Div", fraud, genuine)
        grown = graph.add("Log", odds)
        both = graph.add("Add", boosted, grown)
        mean = graph.add("Mul", both, 0.5)
        return graph.flat(mean)


def log_odds(share: NDArray) -> NDArray:
    """Return the log-odds of shares (n,) in [0, 1], finite at either end by FLOOR."""
    return np.log((share + FLOOR) / (1 + FLOOR - share))
