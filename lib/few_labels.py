"""A detector that a few known frauds correct: without any it is the detector, with many it approaches a classifier."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

from lib.detectors.base import Detector
from lib.detectors.registry import make
from lib.scaling import Scaler, check_weight, thin, weighted_quantile

REACH = 5.0  # standard units beyond which a column tilts no further: an extreme is the detector's business
SLOPE, SLOPE_PRECISION = 2.0, 0.1  # prior of the slope on the detector's score, in its own spread
OPTIONS = {"maxiter": 200, "gtol": 1e-4}  # the gradient is in units of weight: far below one transaction


class FewLabels(Detector):
    """Log-odds of fraud: the score of a detector, tilted by the columns as far as known frauds ask for it.

    `raw_score` = a s + w'z, with s the detector's score in its own spread and z the columns in standard units, clipped.
    If a fraud were equally likely anywhere, its log-odds would be a constant minus the log density of the genuine
    transactions: the score of a density. w'z adds where frauds really lie. Both come from a logistic regression, and
    a priori w_j ~ N(0, 1 / `shrinkage`): with the default 50 a column one unit out moves the odds of fraud by 15 %,
    so that five labels hardly change a ranking and a hundred may turn it round. No label decides on `shrinkage`.

    Rows with y = 0 are unlabelled rather than genuine. Frauds whose label is not known yet sit among them; if the known
    ones are a random part of all, that lowers the odds everywhere but keeps their order (Elkan and Noto, *Learning
    classifiers from only positive and unlabeled data*, KDD 2008).

    Parameters
    ----------
    detector : str, a name in :data:`lib.detectors.registry.DETECTORS`; fitted with its defaults to the rows with y = 0
    shrinkage : float, precision of the prior of w; inf is the detector alone
    max_rows : int, unlabelled rows drawn by weight for the regression, beside all known frauds
    seed, threads : int

    Attributes
    ----------
    detector_ : the fitted detector
    slope_ : float, a, per unit of the detector's raw score
    tilt_ : ndarray of shape (d,), w
    n_known_ : int, known frauds in the fit
    """

    def __init__(self, detector="gaussian_mixture", shrinkage=50.0, max_rows=200_000, seed=0, threads=1):
        self.detector = detector
        self.shrinkage = shrinkage
        self.max_rows = max_rows
        self.seed = seed
        self.threads = threads

    def fit(self, X, y, weight=None, fitted=None):
        """Fit on X (n, d) float32 with y (n,), 1 = known fraud, 0 = anything else, and weight (n,); returns self.

        `fitted` is a detector fitted before, which stays as it is: labels often come later.
        """
        X, known = np.asarray(X, dtype=np.float32), np.asarray(y) == 1
        weight = check_weight(weight, len(X))
        fitted = fitted or make(self.detector, seed=self.seed, threads=self.threads).fit(X[~known], weight[~known])
        self.detector_ = fitted
        self.scaler_ = Scaler().fit(X[~known], weight[~known])
        used, w = thin(np.random.default_rng(self.seed), known, weight, self.max_rows)
        score = self.detector_.raw_score(X[used])
        self._regress(score, self._columns(X[used]), known[used], w)
        self.n_known_, self.n_features_in_ = int(known.sum()), X.shape[1]
        return self

    def _columns(self, X):
        return np.clip(self.scaler_.transform(X), -REACH, REACH)

    def _regress(self, score, z, y, weight):
        """Learn slope and tilt from scores (n,), columns (n, d), y (n,) bool and weight (n,)."""
        low, middle, high = weighted_quantile(score[~y], weight[~y], [0.16, 0.5, 0.84])
        spread = (high - low) / 2 if high > low else 1.0
        prior = np.zeros(2 + z.shape[1])
        prior[1] = SLOPE
        found = prior
        if weight[y].any() and np.isfinite(self.shrinkage):
            F = np.column_stack([np.ones(len(z)), (score - middle) / spread, z])
            precision = np.array([1e-6, SLOPE_PRECISION] + [self.shrinkage] * z.shape[1])
            found = logistic(F, y, weight, prior, precision)
        self.slope_, self.tilt_ = found[1] / spread, found[2:]

    def _raw_score(self, X):
        return self.slope_ * self.detector_.raw_score(X) + self._columns(X) @ self.tilt_

    def graph_score(self, graph):
        """See :meth:`Detector.graph_score`; one product more than the graph of the detector."""
        score = graph.add("Mul", self.detector_.graph_score(graph), self.slope_)
        z = graph.add("Clip", graph.scaled(self.scaler_), -REACH, REACH)
        return graph.add("Add", score, graph.flat(graph.add("MatMul", z, self.tilt_[:, None])))

    def graph_contributions(self, graph):
        """See :meth:`Detector.graph_contributions`; those of the detector and the columns' own terms, added."""
        terms = self.detector_.graph_contributions(graph)
        if terms is None:
            return None
        z = graph.add("Clip", graph.scaled(self.scaler_), -REACH, REACH)
        return graph.add("Add", graph.add("Mul", terms, self.slope_), graph.add("Mul", z, self.tilt_))


def logistic(F, y, weight, prior, precision):
    """Coefficients (k,) of a logistic regression of y (n,) bool on F (n, k), the likeliest under a normal prior.

    Newton's method within a trust region, from `prior`; the loss is convex.
    """

    def loss(b):
        odds = F @ b
        return weight @ (np.logaddexp(0, odds) - y * odds) + precision @ (b - prior) ** 2 / 2

    def gradient(b):
        return F.T @ (weight * (expit(F @ b) - y)) + precision * (b - prior)

    def curvature(b):
        p = expit(F @ b)
        return (F * (weight * p * (1 - p))[:, None]).T @ F + np.diag(precision)

    with threadpool_limits(1):  # sums in one order, whatever `threads`
        return minimize(loss, prior, method="trust-exact", jac=gradient, hess=curvature, options=OPTIONS).x


def known_labels(data, n_known_frauds=-1, label_delay_s=0.0, seed=0):
    """What a bank knows when `data` ends: labels (n,) int8 of lib.datasets.Arrays, 0 where a fraud is not known yet.

    Parameters
    ----------
    n_known_frauds : int, at most so many frauds are known, drawn by `seed`; -1: all whose label has arrived
    label_delay_s : float, a label is known so long after its transaction (s)
    """
    arrived = np.flatnonzero((data.y == 1) & (data.time_s <= data.time_s[-1] - label_delay_s))
    if 0 <= n_known_frauds < len(arrived):
        arrived = np.random.default_rng(seed).choice(arrived, n_known_frauds, replace=False)
    labels = np.zeros_like(data.y)
    labels[arrived] = 1
    return labels
