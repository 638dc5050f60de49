"""Measure how far two weighted samples differ, and how far they would by chance alone.

Rows of transactions are not independent: within minutes they resemble each other. What that adds to
the variance of a share is estimated from blocks of time and taken into every test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lib.detectors.sampling import effective_size

# with fewer degrees of freedom, the variance between blocks would itself be a guess
MIN_BLOCKS = 10


@dataclass(frozen=True)
class Sample:
    """One column of one window: values (n,) float64 and weight (n,).

    A value that is not finite is missing.
    """

    values: np.ndarray
    weight: np.ndarray

    @property
    def is_known(self) -> np.ndarray:
        """Whether each value is there, (n,) bool."""
        return np.isfinite(self.values)

    @property
    def missing_share(self) -> float:
        """Share of the weight whose value is missing, 0 to 1."""
        is_missing = ~self.is_known
        return self.weight[is_missing].sum() / self.weight.sum()

    @property
    def effective_size(self) -> float:
        """How many rows of equal weight say as much."""
        return effective_size(self.weight)

    def known(self) -> Sample:
        """Return the rows that have a value."""
        is_known = self.is_known
        return Sample(self.values[is_known], self.weight[is_known])

    def shares(self, edges: np.ndarray) -> np.ndarray:
        """Return the share of the weight in each bin, (len(edges) + 1,)."""
        bins = np.searchsorted(edges, self.values)
        in_bin = np.bincount(bins, self.weight, minlength=len(edges) + 1)
        return in_bin / self.weight.sum()


@dataclass(frozen=True)
class PSINull:
    """The population stability index where nothing has drifted.

    It is distributed about as offset + scale * chi-squared(freedom).
    """

    offset: float
    scale: float
    freedom: float

    def p_value(self, psi: float) -> float:
        """Return how likely chance alone gets as far."""
        chi2 = (psi - self.offset) / self.scale
        return float(stats.chi2.sf(chi2, self.freedom))

    def threshold(self, p_value: float) -> float:
        """Return the index that chance alone exceeds with this probability."""
        chi2 = stats.chi2.isf(p_value, self.freedom)
        return float(self.offset + self.scale * chi2)


def psi(reference: ArrayLike, current: ArrayLike) -> float:
    """Return the population stability index of two vectors (bins,) of shares, all above 0."""
    difference = np.subtract(current, reference)
    log_ratio = np.log(np.divide(current, reference))
    return float(np.sum(difference * log_ratio))


def psi_null(
    share: ArrayLike,
    n: float,
    m: float,
    extra: ArrayLike = 0.0,
) -> PSINull:
    """Return the distribution of PSI under no drift.

    For independent rows that is (1/n + 1/m) chi-squared(bins - 1) (Yurdakul and Naranjo, Journal of
    Risk Model Validation 2020). Rows that depend on each other make it a weighted sum of
    chi-squared (Rao and Scott, JASA 1981), here matched by its first three moments (Imhof,
    Biometrika 1961).

    Parameters
    ----------
    share : (bins,) of the reference window, all above 0
    n, m : effective rows of the two windows
    extra : (bins, bins), what blocks add to the covariance of the shares' difference
    """
    share = np.asarray(share, float)
    n_bins = len(share)
    variance = 1 / n + 1 / m
    # the covariance, each row over its share
    covariance = variance * (np.eye(n_bins) - share)
    covariance = covariance + extra / share[:, None]
    eigenvalues = np.sort(np.linalg.eigvals(covariance).real)
    # the first is 0: shares sum to 1
    factors = np.maximum(eigenvalues[1:], 1e-6 / n)
    # blocks that differ less than by chance earn nothing
    factors *= max(1.0, (n_bins - 1) * variance / factors.sum())
    first = float(np.sum(factors))
    second = float(np.sum(factors**2))
    third = float(np.sum(factors**3))
    return PSINull(
        offset=first - second**2 / third,
        scale=third / second,
        freedom=second**3 / third**2,
    )


def discoveries(p_values: ArrayLike, rate: float) -> np.ndarray:
    """Return which hypotheses (n,) bool fall at a false discovery rate of `rate`.

    Benjamini and Hochberg, JRSS B 1995.
    """
    return stats.false_discovery_control(p_values) <= rate


def block_covariance(
    bins: np.ndarray,
    weight: np.ndarray,
    block: np.ndarray,
    stratum: np.ndarray,
    n_bins: int,
) -> np.ndarray:
    """Return what blocks of time add to the covariance (n_bins, n_bins) of bin shares.

    It is what resampling whole blocks within strata gives in the limit, less what resampling rows
    gives, so nothing is drawn; for one block: of a window, divide by its effective number of
    blocks. 0 where too few blocks can tell.

    Parameters
    ----------
    bins : (n,) int
    weight : (n,) float
    block : (n,) int, from 0
    stratum : (blocks,) int, of each block
    """
    in_stratum = np.bincount(stratum)
    has_peers = in_stratum > 1
    is_used = has_peers[stratum]  # the only block of its stratum says nothing
    counts = np.bincount(block * n_bins + bins, weight, minlength=len(stratum) * n_bins)
    counts = counts.reshape(-1, n_bins)
    block_weight = counts.sum(axis=1)
    freedom = np.count_nonzero(is_used) - np.count_nonzero(has_peers)
    if freedom < MIN_BLOCKS or not block_weight[is_used].any():
        return np.zeros((n_bins, n_bins))
    stratum_counts = np.stack([np.bincount(stratum, column) for column in counts.T], axis=1)
    stratum_weight = stratum_counts.sum(axis=1, keepdims=True)
    share = stratum_counts / np.maximum(stratum_weight, 1e-300)
    residual = counts - block_weight[:, None] * share[stratum]
    # a sample's variance: over n - 1, in each stratum
    correction = in_stratum / np.maximum(in_stratum - 1, 1)
    correction = np.where(is_used, correction[stratum], 0.0)
    between = (residual * correction[:, None]).T @ residual
    squared_weight = np.where(is_used[block], weight**2, 0.0)
    squared_weight = np.bincount(stratum[block], squared_weight, minlength=len(share))
    # multinomial: what the same rows would give if they fell into their blocks by chance
    variance = np.diag(squared_weight @ share)
    independent = variance - (share * squared_weight[:, None]).T @ share
    squared_blocks = np.where(is_used, block_weight**2, 0.0)
    return (between - independent) / np.sum(squared_blocks)


def missing_p_value(
    reference: Sample,
    current: Sample,
    extra: float,
) -> float:
    """Return how likely two windows differ by chance in what they miss (Fisher's exact test).

    extra : what blocks add to the variance of the difference of shares; both windows count as so
        many fewer rows
    """
    sizes = (reference.effective_size, current.effective_size)
    shares = (reference.missing_share, current.missing_share)
    return share_p_value(shares, sizes, extra)


def share_p_value(
    shares: tuple[float, float],
    sizes: tuple[float, float],
    extra: float,
) -> float:
    """Return how likely two windows differ by chance in a share (Fisher's exact test).

    Parameters
    ----------
    shares : of the weight in the reference and in the current window, 0 to 1
    sizes : their effective rows
    extra : see `missing_p_value`
    """
    # where the reference holds none, the share that one row would be
    of_one = max(shares[0] * (1 - shares[0]), 1 / sizes[0])
    per_row = 1 / sizes[0] + 1 / sizes[1]
    independent = per_row * of_one
    inflation = 1 + extra / independent
    table = []
    for share, size in zip(shares, sizes, strict=True):
        n = size / inflation
        n_with = round(n * share)
        n_without = round(n * (1 - share))
        table.append([n_with, n_without])
    return float(stats.fisher_exact(table).pvalue)


def ks_p_value(
    ks: float,
    share: np.ndarray,
    variance: float,
    extra: np.ndarray,
) -> float:
    """Return how likely a Kolmogorov-Smirnov distance of `ks` or more is by chance.

    Kolmogorov's limit, with the variance of the distribution functions' difference where blocks
    make it largest.

    Parameters
    ----------
    share : (bins,) of the reference window
    variance : 1/n + 1/m, of independent rows
    extra : (bins, bins), what blocks add to the covariance of the shares' difference
    """
    below = np.cumsum(share)[:-1]
    cumulated = np.cumsum(extra, axis=0)
    cumulated = np.cumsum(cumulated, axis=1)
    # the last is the whole distribution: no variance is left
    added = np.diag(cumulated)[:-1]
    added = added / (below * (1 - below))
    variance += np.max(added, initial=0.0)
    standardised = ks / np.sqrt(variance)
    return float(stats.kstwobign.sf(standardised))


def extremes_p_value(n_beyond: int, chance: float) -> float:
    """Return how likely the `n_beyond` most extreme of all rows all lie in the current window.

    chance : that one row of both windows is of the current one; the extremes are those of two ends,
        which `n_beyond` + 1 ways of sharing them out allow for
    """
    n_ways = n_beyond + 1
    return min(1.0, n_ways * chance**n_beyond)
