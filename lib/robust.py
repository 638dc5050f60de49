"""Mean and covariance that strange rows cannot pull: the strangest are left out, again and again."""

import numpy as np
from threadpoolctl import threadpool_limits

from lib.detectors.base import Detector
from lib.scaling import Scaler, check_weight, subsample, weighted_quantile

RIDGE = 1e-3  # added to every variance, in squared standard units; keeps the covariance invertible
MOSTLY = 0.9  # share of the weight on one value above which a column hardly varies
MAX_STEPS = 20


class RobustCovariance:
    """Weighted mean and covariance of the rows that are not the strangest, and the distance they define.

    Starts from all rows and repeats the concentration step of Rousseeuw and Van Driessen (*A fast algorithm for the
    minimum covariance determinant estimator*, Technometrics 1999): keep the share 1 - trim of the weight that lies
    nearest, estimate again, until the kept rows stay the same. No label is used.

    A column that holds one value in over 90 % of the weight could lose all its exceptions to the trimming and then call
    each of them infinitely strange: its variance gets 1 more.

    Parameters
    ----------
    trim : float in [0, 0.5)
        Share of the weight left out; more than the share of frauds that may be among the rows.

    Attributes
    ----------
    mean_ : ndarray of shape (d,); precision_ : ndarray of shape (d, d), the inverse covariance
    kept_ : ndarray of shape (n,), bool, the rows that were not left out
    still_ : ndarray of shape (d,), bool, the columns that hardly vary
    """

    def __init__(self, trim=0.02):
        self.trim = trim

    def fit(self, Z, weight=None, still=None):
        """Fit on Z (n, d) in standard units with weight (n,); ValueError if `trim` is not in [0, 0.5).

        `still` (d,) bool overrules which columns count as hardly varying.
        """
        if not 0 <= self.trim < 0.5:
            raise ValueError(f"trim is {self.trim}; give the share of rows to leave out, at least 0 and below 0.5.")
        Z = np.asarray(Z, dtype=np.float64)
        weight = check_weight(weight, len(Z))
        self.still_ = hardly_varies(Z, weight) if still is None else still
        ridge = np.diag(RIDGE + self.still_)
        self.kept_ = weight > 0
        for _ in range(MAX_STEPS):
            share = weight[self.kept_] / weight[self.kept_].sum()
            self.mean_ = share @ Z[self.kept_]
            centred = (Z[self.kept_] - self.mean_) * np.sqrt(share)[:, None]
            self.precision_ = np.linalg.inv(centred.T @ centred + ridge)
            distance = self.squared_distance(Z)
            kept = distance <= weighted_quantile(distance, weight, 1 - self.trim)
            if (kept == self.kept_).all():
                break
            self.kept_ = kept
        return self

    def squared_distance(self, Z):
        """Squared Mahalanobis distance (n,) of Z (n, d) from the mean; about d for an ordinary row."""
        return self.terms(Z).sum(axis=1)

    def terms(self, Z):
        """The part of each column (n, d) in the squared distance; terms can be negative, their sum cannot."""
        centred = Z - self.mean_
        return centred * (centred @ self.precision_)


class RobustDistance(Detector):
    """Squared Mahalanobis distance from ordinary rows: the simplest density, one ellipsoid, and no network.

    What an autoencoder or a mixture adds over it is what their many parameters are worth. Fully determined by the rows,
    so that `seed` only draws the sub-sample and `threads` change nothing.

    Parameters
    ----------
    trim : float, see :class:`RobustCovariance`
    max_rows : int, above which rows are sub-sampled by weight
    seed, threads : int
    """

    def __init__(self, trim=0.02, max_rows=200_000, seed=0, threads=1):
        self.trim = trim
        self.max_rows = max_rows
        self.seed = seed
        self.threads = threads

    def fit(self, X, weight=None, validation=None):
        """See :meth:`lib.detectors.base.Detector.fit`; `validation` is not used."""
        X = np.asarray(X, dtype=np.float32)
        weight = check_weight(weight, len(X))
        self.scaler_ = Scaler().fit(X, weight)
        X, weight = subsample(np.random.default_rng(self.seed), X, weight, self.max_rows)
        with threadpool_limits(1):  # sums in one order
            self.covariance_ = RobustCovariance(self.trim).fit(self.scaler_.transform(X), weight)
        self.n_features_in_ = X.shape[1]
        return self

    def _raw_score(self, X):
        with threadpool_limits(1):
            return self.covariance_.squared_distance(self.scaler_.transform(X))

    def graph_score(self, graph):
        """See :meth:`lib.detectors.base.Detector.graph_score`; |W'r|^2, where W W' is the precision."""
        residual = graph.add("Sub", graph.scaled(self.scaler_), self.covariance_.mean_)
        white = graph.add("MatMul", residual, np.linalg.cholesky(self.covariance_.precision_))
        return graph.add("ReduceSumSquare", white, axes=[1], keepdims=0)

    def graph_contributions(self, graph):
        """See :meth:`lib.detectors.base.Detector.graph_contributions`; they add up to `raw_score`."""
        residual = graph.add("Sub", graph.scaled(self.scaler_), self.covariance_.mean_)
        return graph.add("Mul", residual, graph.add("MatMul", residual, self.covariance_.precision_))


def hardly_varies(Z, weight):
    """Mask (d,) of the columns of Z (n, d) that hold one value in more than the share MOSTLY of weight (n,)."""
    largest = [np.bincount(np.unique(z, return_inverse=True)[1], weights=weight).max() for z in Z.T]
    return np.array(largest) > MOSTLY * weight.sum()
