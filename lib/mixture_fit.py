"""One mixture of multivariate Student t or Gaussian components, fitted to weighted rows by expectation-maximisation."""

from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp

ROWS_AT_ONCE = 512  # their residuals to all components stay in the processor's cache
NO_SHARE = 1e-8  # of a row in a component, too little to tell in the covariance


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture of K components over d columns.

    Attributes
    ----------
    log_weight : ndarray of shape (K,)
    mean : ndarray of shape (K, d)
    root : ndarray of shape (K, d, d), roots of the precisions: precision = root @ root.T, root upper triangular
    tail : float, degrees of freedom; inf is Gaussian
    """

    log_weight: np.ndarray
    mean: np.ndarray
    root: np.ndarray
    tail: float

    def distance(self, z):
        """Squared Mahalanobis distances (n, K) of z (n, d) to the components."""
        k, d = self.mean.shape
        roots = self.root.transpose(1, 0, 2).reshape(d, k * d)
        centres = np.einsum("kd,kde->ke", self.mean, self.root).ravel()
        distance = np.empty((len(z), k))
        for start in range(0, len(z), ROWS_AT_ONCE):
            residual = (z[start : start + ROWS_AT_ONCE] @ roots - centres).reshape(-1, k, d)
            np.einsum("nkd,nkd->nk", residual, residual, out=distance[start : start + ROWS_AT_ONCE])
        return distance

    def log_constant(self):
        """Log weight plus everything in a component's log density that does not depend on the row, (K,)."""
        d = self.mean.shape[1]
        log_root = np.log(np.einsum("kdd->kd", self.root)).sum(axis=1)
        if np.isinf(self.tail):
            return self.log_weight + log_root - d / 2 * np.log(2 * np.pi)
        gamma = gammaln((self.tail + d) / 2) - gammaln(self.tail / 2)
        return self.log_weight + log_root + gamma - d / 2 * np.log(self.tail * np.pi)

    def log_terms(self, distance):
        """log(weight x density) of each component, (n, K), from squared distances (n, K)."""
        if np.isinf(self.tail):
            return self.log_constant() - distance / 2
        return self.log_constant() - (self.tail + self.mean.shape[1]) / 2 * np.log1p(distance / self.tail)

    def log_density(self, z):
        """Log density (n,) of z (n, d)."""
        return logsumexp(self.log_terms(self.distance(z)), axis=1)


def fit_mixture(z, weight, n_components, least, tail, min_share, rng, max_iter=60, tolerance=2e-3):
    """Fit a :class:`Mixture` by weighted EM; for t components, Peel and McLachlan 2000, section 3.

    Parameters
    ----------
    z : ndarray of shape (n, d), float64
    weight : ndarray of shape (n,)
    n_components : int, at the start: rows drawn by weight
    least : ndarray of shape (d,), added to the variances
    tail : float, degrees of freedom, not fitted; inf is Gaussian
    min_share : float, components with less of the weight are dropped, the smallest one per step
    rng : numpy.random.Generator
    max_iter : int
    tolerance : float, gain of the mean log density at which the fit has ended
    """
    weight = weight / weight.sum()
    n, d = z.shape
    starts = z[rng.choice(n, min(n_components, n), p=weight)]
    nearest = ((z**2).sum(axis=1)[:, None] - 2 * z @ starts.T + (starts**2).sum(axis=1)).argmin(axis=1)
    share = np.eye(len(starts))[nearest]  # (n, K) responsibilities
    pull = np.ones_like(share)  # (n, K) influence of a row on a component: small far out
    before = -np.inf
    for _ in range(max_iter):
        mass = weight @ share
        kept = mass > 0
        smallest = np.argmin(np.where(kept, mass, np.inf))
        dropped = mass[smallest] < min_share and kept.sum() > 1
        kept[smallest] &= not dropped
        mixture = _maximise(z, weight, share[:, kept], pull[:, kept], least, tail)
        distance = mixture.distance(z)
        terms = mixture.log_terms(distance)
        log_density = logsumexp(terms, axis=1)
        share = np.exp(terms - log_density[:, None])
        pull = np.ones_like(share) if np.isinf(tail) else (tail + d) / (tail + distance)
        now = weight @ log_density
        if now - before < tolerance and not dropped:
            break
        before = now
    return mixture


def held_out_density(z, weight, numbers, least, tail, min_share, rng, threads=1):
    """Mean log density of rows that a fit has not seen, by number of components -> {number: float}.

    Cross-validated likelihood (Smyth, *Model selection for probabilistic clustering using cross-validated likelihood*,
    Statistics and Computing 2000) over two halves drawn by chance, each judged by the mixture fitted to the other.
    See :func:`fit_mixture` for the parameters.
    """
    halves = np.array_split(rng.permutation(len(z)), 2)
    folds = [(number, *pair, rng.spawn(1)[0]) for number in numbers for pair in (halves, halves[::-1])]

    def total(number, fitted, judged, generator):
        mixture = fit_mixture(z[fitted], weight[fitted], number, least, tail, min_share, generator)
        return weight[judged] @ mixture.log_density(z[judged])

    totals = Parallel(threads, prefer="threads")(delayed(total)(*fold) for fold in folds)
    return {number: float(sum(totals[2 * i : 2 * i + 2]) / weight.sum()) for i, number in enumerate(numbers)}


def _maximise(z, weight, share, pull, least, tail):
    """Weights, means and precision roots (K, ...) that fit the responsibilities."""
    d = z.shape[1]
    part = weight[:, None] * share
    mass = part.sum(axis=0)
    part = part * pull
    mean = (part.T @ z) / part.sum(axis=0)[:, None]
    root = np.empty((len(mass), d, d))
    for k in range(len(mass)):
        rows = np.flatnonzero(share[:, k] > NO_SHARE)
        centred = (z[rows] - mean[k]) * np.sqrt(part[rows, k])[:, None]
        covariance = centred.T @ centred / mass[k]
        covariance.flat[:: d + 1] += least
        lower = np.linalg.cholesky(covariance)
        root[k] = solve_triangular(lower, np.eye(d), lower=True).T
    return Mixture(np.log(mass / mass.sum()), mean, root, tail)


def spacing(z, weight):
    """Weighted median (d,) of the distance from a value to the nearest other one in its column.

    Near 0 in a continuous column, 1 in a count, 0 in a constant one.
    """
    result = np.zeros(z.shape[1])
    for j, column in enumerate(z.T):
        values, place = np.unique(column, return_inverse=True)
        if len(values) < 2:
            continue
        gaps = np.diff(values)
        nearest = np.minimum(np.append(gaps, np.inf), np.append(np.inf, gaps))
        order = np.argsort(nearest)
        cumulative = np.cumsum(np.bincount(place, weights=weight, minlength=len(values))[order])
        result[j] = nearest[order][np.searchsorted(cumulative, cumulative[-1] / 2)]
    return result
