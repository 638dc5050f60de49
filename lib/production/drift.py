"""Drift: a reference window against the current batch, column by column, with thresholds that hold
under no drift.

Columns are features and, if the caller adds it, the model's score; labels are never needed.
Weighted throughout.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lib.data.columns import SCORE, free_name
from lib.detectors.sampling import effective_size
from lib.evaluation.distances import distances

# levels of a batch; the last is the louder one
QUIET, DRIFT, PERSISTENT = "quiet", "drift", "persistent"
# with fewer effective rows a bin, PSI's far tail is beyond chi-squared: it decides nothing
MIN_PER_BIN = 40
MIN_PER_HOUR = 50  # reference rows that an hour of the day needs before batches are matched to it
RHYTHM = (
    "The reference window does not cover this batch's hours of the day: their rhythm is flagged "
    "as drift, too."
)


@dataclass(frozen=True)
class ColumnDrift:
    """One column of one batch; None where there was nothing, or for PSI's threshold too little, to
    compare.

    `wasserstein` is in reference standard deviations; `missing` (or infinite) and `out_of_range`
    (beyond all that the reference window holds) are shares of weight; at `threshold` PSI alone
    would flag it if nothing else drifted.
    """

    name: str
    psi: float | None = None
    threshold: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    missing: float = 0.0
    out_of_range: float = 0.0
    p_value: float = 1.0
    flagged: bool = False
    loud: bool = False  # flagged in the batch before, too


@dataclass(frozen=True)
class Verdict:
    """A batch is 'quiet', has 'drift' (a column is flagged) or 'persistent' drift (one that was in
    the last, too).
    """

    level: str
    flagged: tuple[str, ...]
    hour_matched: bool
    note: str  # what to bear in mind, or empty
    n: int  # rows of the batch
    reference_size: float  # effective rows compared with
    current_size: float  # effective rows
    columns: tuple[ColumnDrift, ...]

    def to_dict(self) -> dict:
        """Return what json.dumps takes."""
        return asdict(self)

    def table(self) -> pd.DataFrame:
        """A row for each column of the data, by name."""
        return pd.DataFrame(map(asdict, self.columns)).set_index("name")


def psi(reference, current) -> float:
    """Population stability index of two vectors of bin shares, all above 0."""
    return float(np.sum(np.subtract(current, reference) * np.log(np.divide(current, reference))))


def psi_null(share, n: float, m: float, extra=0.0) -> tuple[float, float, float]:
    """PSI under no drift is about offset + scale * chi-squared(freedom) -> offset, scale, freedom.

    (0, 1/n + 1/m, bins - 1) for independent rows (Yurdakul and Naranjo, Journal of Risk Model
    Validation 2020). Blocks add `extra` (bins, bins) to the covariance of the shares' difference: a
    weighted sum of chi-squared (Rao and Scott, JASA 1981), here by its first three moments (Imhof,
    Biometrika 1961).
    """
    share, k = np.asarray(share, float), len(share) - 1
    # the covariance, each row over its share
    V = (1 / n + 1 / m) * (np.eye(k + 1) - share) + extra / share[:, None]
    # the first is 0: shares sum to 1
    factors = np.maximum(np.sort(np.linalg.eigvals(V).real)[1:], 1e-6 / n)
    # blocks that differ less than by chance earn nothing
    factors *= max(1.0, k * (1 / n + 1 / m) / factors.sum())
    c1, c2, c3 = (float(np.sum(factors**power)) for power in (1, 2, 3))
    return c1 - c2**2 / c3, c3 / c2, c2**3 / c3**2


def benjamini_hochberg(p_values, rate: float) -> np.ndarray:
    """Which hypotheses fall (n,) bool, at a false discovery rate of `rate` (Benjamini and Hochberg,
    JRSS B 1995).
    """
    p = np.asarray(p_values, float)
    passed = np.sort(p) <= rate * np.arange(1, len(p) + 1) / len(p)
    return p <= np.max(np.sort(p)[passed], initial=-1.0)


def block_covariance(bins, weight, block, stratum, n_bins: int) -> np.ndarray:
    """Covariance (n_bins, n_bins) of bin shares between blocks of one stratum, beyond that of
    independent rows.

    bins (n,) int, weight (n,), block (n,) int from 0, stratum (blocks,) int. It is what resampling
    whole blocks within strata gives in the limit, less what resampling rows gives, so nothing is
    drawn. 0 where under ten blocks can tell.
    """
    counts = np.bincount(block * n_bins + bins, weight, minlength=len(stratum) * n_bins).reshape(
        -1, n_bins
    )
    size, n_blocks = counts.sum(1), np.bincount(stratum)
    total = np.stack([np.bincount(stratum, c) for c in counts.T], axis=1)
    share = total / np.maximum(total.sum(1, keepdims=True), 1e-300)
    told = (n_blocks > 1)[stratum]  # the only block of its stratum says nothing
    if told.sum() - (n_blocks > 1).sum() < 10 or not (told * size).any():
        return np.zeros((n_bins, n_bins))
    factor = told * (n_blocks / np.maximum(n_blocks - 1, 1))[stratum]
    residual = counts - size[:, None] * share[stratum]
    rows = np.bincount(stratum[block], weight**2 * told[block], minlength=len(total))
    independent = np.diag(rows @ share) - (share * rows[:, None]).T @ share
    return ((residual * factor[:, None]).T @ residual - independent) / np.sum(told * size**2)


class Monitor:
    """A reference window, matched by hour of the day to the batches whose hours it covers.

    A reference of one day takes out the rhythm of the day, yet nothing of what sets one day apart
    from the next.

    Parameters
    ----------
    X : (n, k) float, the reference window; what is not finite is missing; its columns have `names`
    weight : (n,) >= 0, how many transactions a row stands for; None for 1
    time_s : (n,) seconds; hours of the day count from its zero (midnight UTC for an epoch)
    n_bins : bins of PSI, weighted quantiles of the reference
    block_s : seconds within which rows may depend on each other
    clock : whether times tell the hour of the day; numbers of rows do not, and nothing is matched
        then
    fdr : false discovery rate over the columns of a batch; a batch without drift is flagged no more
        often than that

    Raises ValueError if shapes disagree, a time or weight is not a number, or a window holds no
    weight.
    """

    def __init__(  # noqa: PLR0913 - a monitor's settings, by name
        self, X, weight, time_s, names, *, n_bins=10, block_s=600.0, clock=True, fdr=0.001
    ):
        self.names, self.block_s, self.clock, self.fdr = tuple(names), block_s, clock, fdr
        self.X, self.weight, self.hour, self.block = self._window(
            "reference window", X, weight, time_s
        )
        stratum = self.hour[np.unique(self.block, return_index=True)[1]]
        self._columns = [self._describe(x, n_bins, stratum) for x in self.X.T]

    def _window(self, what, X, weight, time_s):
        X, time_s = np.asarray(X, np.float64), np.asarray(time_s, np.float64)
        weight = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
        if X.shape != (len(time_s), len(self.names)) or len(weight) != len(X):
            others = (
                f"{len(time_s)} times, {len(weight)} weights and {len(self.names)} names of columns"
            )
            raise ValueError(f"The {what} has shape {X.shape}, but there are {others}.")
        if not (np.isfinite(time_s).all() and (weight >= 0).all() and 0 < weight.sum() < np.inf):
            raise ValueError(
                f"The {what} ({len(X)} rows) needs finite times, and weights >= 0 that are not "
                "all 0."
            )
        hour = (time_s // 3600 % 24 if self.clock else np.zeros(len(time_s))).astype(np.int64)
        # blocks end with their hour
        block = np.unique(time_s // self.block_s * 24 + hour, return_inverse=True)[1]
        return X, weight, hour, block

    def _describe(self, x, n_bins, stratum):
        """Bin edges and shares, range, standard deviation, what blocks add to the variance of
        shares and missing.
        """
        weight = np.where(np.isfinite(x), self.weight, 0.0)
        missing = block_covariance((weight == 0).astype(int), self.weight, self.block, stratum, 2)[
            0, 0
        ]
        if not weight.sum() > 0:
            return np.empty(0), np.ones(1), -np.inf, np.inf, 1.0, np.zeros((1, 1)), missing
        values, w = x[weight > 0], weight[weight > 0]
        order = np.argsort(values)
        at = np.searchsorted(np.cumsum(w[order]), np.arange(1, n_bins) / n_bins * w.sum())
        edges, (low, high) = (
            np.unique(values[order][np.minimum(at, len(order) - 1)]),
            values[order][[0, -1]],
        )
        edges = edges[edges < high]  # the highest value needs no bin of its own
        sd = np.sqrt(np.average((values - np.average(values, weights=w)) ** 2, weights=w))
        bins, n_bins = np.searchsorted(edges, x), len(edges) + 1
        share = np.bincount(bins, weight, minlength=n_bins) / w.sum()
        covariance = block_covariance(bins, weight, self.block, stratum, n_bins)
        return edges, share, low, high, sd or 1.0, covariance, missing

    def match(self, hour, weight) -> tuple[np.ndarray, bool]:
        """Reference weights (n,) with the batch's shares of the hours of the day, and whether that
        was possible.
        """
        wanted = np.bincount(hour, weight, minlength=24) / weight.sum()
        there = np.bincount(self.hour, self.weight, minlength=24)
        covered = np.bincount(self.hour, self.weight > 0, minlength=24) >= MIN_PER_HOUR
        if wanted[~covered].sum() > 0.01:
            return self.weight, False
        return self.weight * np.divide(wanted, there, out=np.zeros(24), where=covered)[
            self.hour
        ], True

    def check(self, X, weight, time_s, previous: Verdict | None = None) -> Verdict:
        """Return the verdict on a batch X (m, k) at time_s (m,); `previous` is the verdict on the
        batch before it.
        """
        Y, y_weight, hour, y_block = self._window("batch", X, weight, time_s)
        x_weight, hour_matched = self.match(hour, y_weight)
        blocks = sum(
            1 / effective_size(np.bincount(*of))
            for of in ((self.block, x_weight), (y_block, y_weight))
        )
        rows = np.flatnonzero(x_weight)
        found = [
            self._compare(j, rows, x_weight[rows], Y[:, j], y_weight, y_block, blocks)
            for j in range(Y.shape[1])
        ]
        flags = benjamini_hochberg([column["p_value"] for column in found], self.fdr)
        flagged = tuple(self.names[j] for j in np.flatnonzero(flags))
        again = set(flagged) & set(previous.flagged if previous else ())
        columns = (
            ColumnDrift(**c, flagged=c["name"] in flagged, loud=c["name"] in again) for c in found
        )
        level, note = (
            PERSISTENT if again else DRIFT if flagged else QUIET,
            "" if hour_matched else RHYTHM,
        )
        sizes = effective_size(x_weight), effective_size(y_weight)
        return Verdict(level, flagged, hour_matched, note, len(Y), *sizes, tuple(columns))

    def _compare(self, j, rows, x_weight, y, y_weight, y_block, blocks) -> dict:  # noqa: PLR0913 - a monitor's settings, by name
        edges, share, low, high, sd, covariance, missing_variance = self._columns[j]
        x, p_values = self.X[rows, j], []
        x_known, y_known = np.isfinite(x), np.isfinite(y)
        missing = [
            w[~known].sum() / w.sum() for w, known in ((x_weight, x_known), (y_weight, y_known))
        ]
        if any(missing):
            sizes = effective_size(x_weight), effective_size(y_weight)
            independent = (1 / sizes[0] + 1 / sizes[1]) * max(
                missing[0] * (1 - missing[0]), 1 / sizes[0]
            )
            inflation = 1 + max(missing_variance, 0.0) * blocks / independent
            table = [
                [round(size / inflation * p) for p in (q, 1 - q)]
                for q, size in zip(missing, sizes, strict=True)
            ]
            p_values.append(float(stats.fisher_exact(table).pvalue))
        found = {"name": self.names[j], "missing": float(missing[1])}
        samples = (x[x_known], x_weight[x_known]), (y[y_known], y_weight[y_known])
        if all(w.any() for _, w in samples):
            n, m, n_bins = *(effective_size(w) for _, w in samples), len(share)
            a, b = (
                np.bincount(np.searchsorted(edges, v), w, minlength=n_bins) / w.sum()
                for v, w in samples
            )
            # an empty bin is half a row
            found["psi"] = psi(np.maximum(a, 0.5 / n), np.maximum(b, 0.5 / m))
            found["ks"], gap = distances(*samples[0], *samples[1])
            found["wasserstein"] = float(gap / sd)
            below, extra = np.cumsum(share)[:-1], covariance * blocks
            grown = np.diag(np.cumsum(np.cumsum(extra, 0), 1))[:-1] / (below * (1 - below))
            # of the distribution functions' difference
            variance = 1 / n + 1 / m + np.max(grown, initial=0.0)
            p_values.append(float(stats.kstwobign.sf(found["ks"] / np.sqrt(variance))))
            beyond = y_known & (y_weight > 0) & ((y < low) | (y > high))
            found["out_of_range"] = float(y_weight[beyond].sum() / y_weight.sum())
            times, chance = len(np.unique(y_block[beyond])), m / (m + effective_size(self.weight))
            # that the most extreme of all rows are all here
            p_values.append(min(1.0, (times + 1) * chance**times))
            if n_bins > 1 and min(n, m) >= MIN_PER_BIN * n_bins:
                offset, scale, freedom = psi_null(share, n, m, extra)
                p_values.append(float(stats.chi2.sf((found["psi"] - offset) / scale, freedom)))
                strictest = stats.chi2.isf(self.fdr / len(self.names) / len(p_values), freedom)
                found["threshold"] = float(offset + scale * strictest)
        return found | {"p_value": min([1.0, *(p * len(p_values) for p in p_values)])}


class Reference(Monitor):
    """A `Monitor` of Arrays, with a model's scores (n,) as one more column, for batches in time
    order.

    Attributes
    ----------
    score : name of that column, which no feature has
    verdict : on the last batch; None before the first
    """

    def __init__(self, names, data, score, **options):
        self.score = free_name(SCORE, names)
        super().__init__(
            np.c_[data.X, score], data.weight, data.time_s, (*names, self.score), **options
        )
        self.verdict = None

    def compare(self, X, weight, time_s, score, scored=True) -> pd.DataFrame:
        """Return `Verdict.table` of the next batch, X (m, d), with the column `is_score`.

        The score (m,) of a row that is not `scored` is missing.
        """
        self.verdict = self.check(
            np.c_[X, np.where(scored, score, np.nan)], weight, time_s, self.verdict
        )
        table = self.verdict.table()
        return table.assign(is_score=table.index == self.score)
