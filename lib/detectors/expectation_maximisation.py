"""One mixture of Student t or Gaussian components, fitted to weighted rows by EM."""

from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp

from lib.detectors.sampling import weighted_quantile

ROWS_AT_ONCE = 512  # their residuals to all components stay in the processor's cache
NO_SHARE = 1e-8  # share of a row in a component that is too little to change its covariance


@dataclass(frozen=True)
class EMSettings:
    """What a fit by expectation-maximisation depends on, beside rows and starting points.

    Attributes
    ----------
    least : ndarray of shape (d,)
        Added to the variances.
    tail : float
        Degrees of freedom of the components, not fitted; inf is Gaussian.
    min_share : float
        Components with less of the weight are dropped, the smallest one per step.
    max_iter : int
    tolerance : float
        Gain of the mean log density at which the fit has ended.
    """

    least: NDArray
    tail: float
    min_share: float
    max_iter: int = 60
    tolerance: float = 2e-3


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture of K components over d columns.

    Attributes
    ----------
    log_weight : ndarray of shape (K,)
    mean : ndarray of shape (K, d)
    root : ndarray of shape (K, d, d)
        Roots of the precisions: precision = root @ root.T, root upper triangular.
    tail : float
        Degrees of freedom; inf is Gaussian.
    """

    log_weight: NDArray
    mean: NDArray
    root: NDArray
    tail: float

    @property
    def heavy(self) -> bool:
        """Whether the components are heavier in the tails than Gaussian ones."""
        return bool(np.isfinite(self.tail))

    def flat_roots(self) -> tuple[NDArray, NDArray]:
        """Return matrix (d, K d) and offset (K d,) so that z @ matrix - offset whitens z.

        One product whitens rows z (n, d) for all components at once: residuals (n, K d).
        """
        k, d = self.mean.shape
        by_row = self.root.transpose(1, 0, 2)
        matrix = by_row.reshape(d, k * d)
        offset = np.einsum("kd,kde->ke", self.mean, self.root)
        return matrix, offset.ravel()

    def distance(self, z: NDArray) -> NDArray:
        """Return the squared Mahalanobis distances (n, K) of z (n, d) to the components."""
        k, d = self.mean.shape
        matrix, offset = self.flat_roots()
        distance = np.empty((len(z), k))
        for start in range(0, len(z), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            residual = z[part] @ matrix - offset
            residual = residual.reshape(-1, k, d)
            np.einsum("nkd,nkd->nk", residual, residual, out=distance[part])
        return distance

    def log_constant(self) -> NDArray:
        """Return the part of each log(weight x density) that does not depend on the row, (K,)."""
        d = self.mean.shape[1]
        diagonal = np.einsum("kdd->kd", self.root)
        log_diagonal = np.log(diagonal)
        log_root = log_diagonal.sum(axis=1)  # log of the root of the precision's determinant
        if not self.heavy:
            norm = d / 2 * np.log(2 * np.pi)
            return self.log_weight + log_root - norm
        whole = (self.tail + d) / 2
        half = self.tail / 2
        gamma = gammaln(whole) - gammaln(half)
        norm = d / 2 * np.log(self.tail * np.pi)
        return self.log_weight + log_root + gamma - norm

    def log_terms(self, distance: NDArray) -> NDArray:
        """Return log(weight x density) of each component from squared distances, both (n, K)."""
        if not self.heavy:
            return self.log_constant() - distance / 2
        d = self.mean.shape[1]
        power = (self.tail + d) / 2
        far = np.log1p(distance / self.tail)
        return self.log_constant() - power * far

    def log_density(self, z: NDArray) -> NDArray:
        """Return the log density (n,) of z (n, d)."""
        terms = self.log_terms(self.distance(z))
        return logsumexp(terms, axis=1)

    def pull(self, distance: NDArray) -> NDArray:
        """Return the influence (n, K) of rows on components: 1 for Gaussian ones, small far out.

        Equation 20 of Peel and McLachlan, *Robust mixture modelling using the t distribution*,
        Statistics and Computing 2000: rows far away hardly move a heavy-tailed component.
        """
        if not self.heavy:
            return np.ones_like(distance)
        d = self.mean.shape[1]
        return (self.tail + d) / (self.tail + distance)


def fit_mixture(
    z: NDArray,
    weight: NDArray,
    n_components: int,
    settings: EMSettings,
    rng: np.random.Generator,
) -> Mixture:
    """Fit a mixture by weighted expectation-maximisation.

    For t components, see section 3 of Peel and McLachlan, *Robust mixture modelling using the t
    distribution*, Statistics and Computing 2000.

    Parameters
    ----------
    z : ndarray of shape (n, d), float64
    weight : ndarray of shape (n,)
    n_components : int
        At the start: rows drawn by weight. Small components are dropped on the way.
    settings : EMSettings
    rng : numpy.random.Generator
    """
    weight = weight / weight.sum()
    n_starts = min(n_components, len(z))
    drawn = rng.choice(len(z), n_starts, p=weight)
    starts = z[drawn]
    nearest = _nearest(z, starts)
    share = np.eye(n_starts)[nearest]  # (n, K) responsibilities
    pull = np.ones_like(share)  # (n, K)
    before = -np.inf
    for _ in range(settings.max_iter):
        mass = weight @ share
        kept, dropped = _large_enough(mass, settings.min_share)
        share = share[:, kept]
        pull = pull[:, kept]
        mixture = _maximise(z, weight, share, pull, settings)
        distance = mixture.distance(z)
        terms = mixture.log_terms(distance)
        log_density = logsumexp(terms, axis=1)
        share = np.exp(terms - log_density[:, None])
        pull = mixture.pull(distance)
        now = weight @ log_density
        # a dropped component lowers the density, which says nothing about convergence
        if now - before < settings.tolerance and not dropped:
            break
        before = now
    return mixture


def held_out_density(
    z: NDArray,
    weight: NDArray,
    numbers: tuple[int, ...],
    settings: EMSettings,
    rng: np.random.Generator,
    threads: int = 1,
) -> dict[int, float]:
    """Return the mean log density of rows that a fit has not seen, by number of components.

    Cross-validated likelihood (Smyth, *Model selection for probabilistic clustering using
    cross-validated likelihood*, Statistics and Computing 2000) over two halves drawn by chance,
    each judged by the mixture fitted to the other. See :func:`fit_mixture` for the parameters.
    """
    shuffled = rng.permutation(len(z))
    first, second = np.array_split(shuffled, 2)

    def total(number, fitted, judged, generator):
        mixture = fit_mixture(z[fitted], weight[fitted], number, settings, generator)
        log_density = mixture.log_density(z[judged])
        return weight[judged] @ log_density

    # every fit has a generator of its own, so that results do not depend on `threads`
    fits = []
    for number in numbers:
        for fitted, judged in ((first, second), (second, first)):
            (generator,) = rng.spawn(1)
            fits.append(delayed(total)(number, fitted, judged, generator))
    totals = Parallel(threads, prefer="threads")(fits)
    by_half = np.reshape(totals, (len(numbers), 2))
    means = by_half.sum(axis=1) / weight.sum()
    return dict(zip(numbers, means.tolist(), strict=True))


def spacing(z: NDArray, weight: NDArray) -> NDArray:
    """Return the weighted median (d,) of the distance from a value to the nearest other one.

    Near 0 in a continuous column of z (n, d), 1 in a count, 0 in a constant one.
    """
    return np.array([_spacing(column, weight) for column in z.T])


def _spacing(column, weight):
    values, place = np.unique(column, return_inverse=True)
    if len(values) < 2:
        return 0.0
    gaps = np.diff(values)
    above = np.append(gaps, np.inf)
    below = np.append(np.inf, gaps)
    nearest = np.minimum(above, below)
    mass = np.bincount(place, weights=weight)
    return weighted_quantile(nearest, mass, 0.5)


def _nearest(z, starts):
    """Return the position (n,) of the start nearest to each row of z (n, d)."""
    # |z - s|^2 = |z|^2 - 2 z's + |s|^2: one product in place of an array (n, K, d)
    z_square = (z**2).sum(axis=1)[:, None]
    start_square = (starts**2).sum(axis=1)
    distance = z_square - 2 * z @ starts.T + start_square
    return distance.argmin(axis=1)


def _large_enough(mass, min_share):
    """Return which components (K,) to keep, and whether one of them was too small.

    Only the smallest goes: its rows may make the next one large enough.
    """
    kept = mass > 0
    if kept.sum() < 2:
        return kept, False
    smallest = np.argmin(np.where(kept, mass, np.inf))
    too_small = mass[smallest] < min_share
    if too_small:
        kept[smallest] = False
    return kept, too_small


def _maximise(
    z,
    weight,
    share,
    pull,
    settings,
):
    """Return the mixture whose weights, means and covariances fit the responsibilities."""
    d = z.shape[1]
    part = weight[:, None] * share  # (n, K)
    mass = part.sum(axis=0)  # (K,)
    part = part * pull
    pulled_mass = part.sum(axis=0)[:, None]
    mean = part.T @ z / pulled_mass
    root = np.empty((len(mass), d, d))
    for k in range(len(mass)):
        rows = np.flatnonzero(share[:, k] > NO_SHARE)
        centred = z[rows] - mean[k]
        root_part = np.sqrt(part[rows, k])
        centred *= root_part[:, None]
        covariance = centred.T @ centred / mass[k]
        covariance.flat[:: d + 1] += settings.least  # the diagonal
        lower = np.linalg.cholesky(covariance)
        # the inverse of a triangular root is a root of the precision, without inverting the matrix
        inverse = solve_triangular(lower, np.eye(d), lower=True)
        root[k] = inverse.T
    log_weight = np.log(mass / mass.sum())
    return Mixture(log_weight, mean, root, settings.tail)
