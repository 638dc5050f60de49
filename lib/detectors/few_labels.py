"""Correct a detector by a few known frauds.

Without any known fraud the result is the detector; with many it approaches a classifier.
"""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.utils import Tags
from threadpoolctl import threadpool_limits

from lib.detectors.base import Detector, Rows, check_labels, check_rows
from lib.detectors.onnx_graph import Graph
from lib.detectors.registry import make
from lib.detectors.sampling import check_weight, thin, weighted_quantile
from lib.detectors.scaling import Scaler

# Standard units beyond which a column tilts no further: an extreme is the detector's business.
REACH = 5.0
# Prior of the slope on the detector's score, in units of the score's own spread: mean, precision
SLOPE = 2.0
SLOPE_PRECISION = 0.1
FLAT = 1e-6  # precision of the prior of the intercept: it may go anywhere
SPREAD = (0.16, 0.5, 0.84)  # quantiles one standard deviation apart, if scores were normal
OPTIONS = {"maxiter": 200, "gtol": 1e-4}  # the gradient is in weight: far below one transaction


class FewLabels(Detector):
    """Log-odds of fraud: the score of a detector, tilted by the columns towards known frauds.

    `raw_score` = a s + w'z, with s the detector's score in its own spread and z the columns in
    standard units, clipped. If a fraud were equally likely anywhere, its log-odds would be a
    constant minus the log density of the genuine transactions: the score of a density. w'z adds
    where frauds really lie. Both come from a logistic regression, and a priori
    w_j ~ N(0, 1 / `shrinkage`): with the default of 50 a column one unit out moves the odds of
    fraud by 15 %, so that five labels hardly change a ranking and a hundred may turn it round. No
    label decides on `shrinkage`.

    Rows with y = 0 are unlabelled rather than genuine. Frauds whose label is not known yet sit
    among them; if the known ones are a random part of all, that lowers the odds everywhere but
    keeps their order (Elkan and Noto, *Learning classifiers from only positive and unlabeled
    data*, KDD 2008).

    Parameters
    ----------
    detector : str
        A name in :data:`lib.detectors.registry.DETECTORS`; fitted with its defaults to the rows
        with y = 0.
    shrinkage : float
        Precision of the prior of w; inf is the detector alone.
    max_rows : int
        Unlabelled rows drawn by weight for the regression, beside all known frauds.
    seed, threads : int

    Attributes
    ----------
    detector_ : the fitted detector
    slope_ : float
        a, per unit of the detector's raw score.
    tilt_ : ndarray of shape (d,)
        w.
    n_known_ : int
        Known frauds in the fit.
    """

    def __init__(
        self,
        detector: str = "gaussian_mixture",
        shrinkage: float = 50.0,
        max_rows: int = 200_000,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.detector = detector
        self.shrinkage = shrinkage
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
        fitted: Detector | None = None,
    ) -> Self:
        """Fit to transactions of which a few are known frauds.

        Parameters
        ----------
        X : array-like of shape (n, d), float32
        y : array-like of shape (n,)
            1 for a known fraud, 0 for anything else.
        weight : array-like of shape (n,), not negative
        validation : tuple of X and weight
            For the detector, where it is fitted here.
        fitted : Detector
            Fitted before; it stays as it is, because labels often come later.

        Raises
        ------
        ValueError
            If y is None (zeros say that no fraud is known), or all rows are known frauds.
        """
        X = check_rows(X)
        known = check_labels(y, len(X), self) == 1
        weight = check_weight(weight, len(X))
        if known.all():
            raise ValueError(
                "FewLabels needs transactions that are no known frauds; these rows hold one class."
            )
        others = X[~known]
        others_weight = weight[~known]
        if fitted is None:
            detector = make(self.detector, seed=self.seed, threads=self.threads)
            fitted = detector.fit(others, weight=others_weight, validation=validation)
        self.detector_ = fitted
        self.scaler_ = Scaler().fit(others, weight=others_weight)
        rng = np.random.default_rng(self.seed)
        used, used_weight = thin(rng, known, weight, self.max_rows)
        score = self.detector_.raw_score(X[used])
        columns = self._columns(X[used])
        self._regress(score, columns, known[used], used_weight)
        self.n_known_ = int(known.sum())
        self.n_features_in_ = X.shape[1]
        return self

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that there is no fit without labels."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _columns(self, X):
        """Return z (n, d): the columns in standard units, clipped."""
        z = self.scaler_.transform(X)
        return np.clip(z, -REACH, REACH)

    def _regress(self, score, z, y, weight):
        """Learn slope and tilt from scores (n,), columns (n, d), y (n,) bool and weight (n,)."""
        low, middle, high = weighted_quantile(score[~y], weight[~y], SPREAD)
        spread = (high - low) / 2 if high > low else 1.0
        d = z.shape[1]
        prior = np.zeros(2 + d)
        prior[1] = SLOPE
        found = prior
        if weight[y].any() and np.isfinite(self.shrinkage):
            standard = (score - middle) / spread
            design = np.column_stack([np.ones(len(z)), standard, z])
            precision = np.full(2 + d, self.shrinkage, dtype=np.float64)
            precision[0] = FLAT
            precision[1] = SLOPE_PRECISION
            found = logistic(design, y, weight, prior, precision)
        # the intercept found[0] moves all scores alike: a ranking does without it
        self.slope_ = found[1] / spread
        self.tilt_ = found[2:]

    def _raw_score(self, X):
        score = self.detector_.raw_score(X)
        return self.slope_ * score + self._columns(X) @ self.tilt_

    def graph_score(self, graph: Graph) -> str:
        """Add the score; one product more than the graph of the detector."""
        score = self.detector_.graph_score(graph)
        score = graph.add("Mul", score, self.slope_)
        z = self._graph_columns(graph)
        tilt = graph.add("MatMul", z, self.tilt_[:, None])
        return graph.add("Add", score, graph.flat(tilt))

    def graph_contributions(self, graph: Graph) -> str | None:
        """Add the detector's contributions and the columns' own terms."""
        terms = self.detector_.graph_contributions(graph)
        if terms is None:
            return None
        z = self._graph_columns(graph)
        terms = graph.add("Mul", terms, self.slope_)
        return graph.add("Add", terms, graph.add("Mul", z, self.tilt_))

    def _graph_columns(self, graph):
        z = graph.scaled(self.scaler_)
        return graph.add("Clip", z, -REACH, REACH)


def logistic(
    design: NDArray,
    y: NDArray,
    weight: NDArray,
    prior: NDArray,
    precision: NDArray,
) -> NDArray:
    """Return the most likely coefficients (k,) of a logistic regression under a normal prior.

    Newton's method within a trust region, from the prior's mean; the loss is convex.

    Parameters
    ----------
    design : ndarray of shape (n, k)
    y : ndarray of shape (n,), bool
    weight : ndarray of shape (n,)
    prior, precision : ndarray of shape (k,)
        Mean and precision of the prior of each coefficient.
    """

    def loss(b):
        odds = design @ b
        surprise = np.logaddexp(0, odds) - y * odds
        return weight @ surprise + precision @ (b - prior) ** 2 / 2

    def gradient(b):
        error = expit(design @ b) - y
        return design.T @ (weight * error) + precision * (b - prior)

    def curvature(b):
        p = expit(design @ b)
        each = weight * p * (1 - p)
        return (design * each[:, None]).T @ design + np.diag(precision)

    with threadpool_limits(1):  # several threads would add up in another order
        found = minimize(
            loss,
            prior,
            method="trust-exact",
            jac=gradient,
            hess=curvature,
            options=OPTIONS,
        )
    return found.x


def known_labels(
    data,
    n_known_frauds: int = -1,
    label_delay_s: float = 0.0,
    seed: int = 0,
) -> NDArray:
    """Return what a bank knows when `data` ends: labels (n,) int8, 0 where a fraud is not known.

    Parameters
    ----------
    data : lib.data.datasets.Arrays
    n_known_frauds : int
        At most so many frauds are known, drawn by `seed`; -1: all whose label has arrived.
    label_delay_s : float
        A label is known so long after its transaction (s).
    seed : int
    """
    end_s = data.time_s[-1]
    arrived = data.time_s <= end_s - label_delay_s
    known = np.flatnonzero((data.y == 1) & arrived)
    if 0 <= n_known_frauds < len(known):
        rng = np.random.default_rng(seed)
        known = rng.choice(known, n_known_frauds, replace=False)
    labels = np.zeros_like(data.y)
    labels[known] = 1
    return labels
