"""Drift: a reference window against the current batch, column by column, with thresholds that hold under no drift.

Columns are features and, if the caller adds it, the model's score; labels are never needed. Weighted throughout.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

SCORE = "anomaly score"  # the column of scores
QUIET, DRIFT, PERSISTENT = "quiet", "drift", "persistent"  # what a batch is; the last is the louder level
MIN_PER_BIN = 20  # below this many effective rows a bin, PSI is no longer near chi-squared: KS decides alone
MIN_PER_HOUR = 50  # reference rows that an hour of the day needs before batches are matched to it


@dataclass(frozen=True)
class ColumnDrift:
    """One column of one batch. `wasserstein` is in reference standard deviations, `missing` a share of the weight.

    `psi_threshold` is where PSI alone would flag this column, were it the only one of the batch to drift.
    """

    name: str
    psi: float
    psi_threshold: float
    ks: float
    wasserstein: float
    missing: float
    p_value: float
    drifted: bool


@dataclass(frozen=True)
class Verdict:
    """The verdict on a batch: 'quiet', 'drift' (some column) or 'persistent' (a column that had drifted before, too).

    Without `hour_matched` the reference window covers other hours of the day: its rhythm is flagged like drift.
    Sizes are effective numbers of rows, (sum w)^2 / sum w^2.
    """

    level: str
    drifted: tuple[str, ...]
    persistent: tuple[str, ...]
    hour_matched: bool
    n: int
    reference_size: float
    current_size: float
    columns: tuple[ColumnDrift, ...]

    def to_dict(self) -> dict:
        """Return what json.dumps takes."""
        return asdict(self)

    def table(self) -> pd.DataFrame:
        """A row a column, by name."""
        return pd.DataFrame([asdict(column) for column in self.columns]).set_index("name")


def effective_size(weight) -> float:
    """Rows of equal weight that would say as much: (sum w)^2 / sum w^2; 0 if there are none."""
    total = np.sum(weight)
    return float(total**2 / np.sum(np.square(weight))) if total > 0 else 0.0


def psi(reference, current) -> float:
    """Population stability index of two vectors of bin shares; shares must be above 0."""
    reference, current = np.asarray(reference, float), np.asarray(current, float)
    return float(np.sum((current - reference) * np.log(current / reference)))


def psi_p_value(value: float, n_bins: int, n: float, m: float, design_effect: float = 1.0) -> float:
    """Chance of a PSI this large without drift, which is about chi-squared(n_bins - 1) * (1/n + 1/m).

    Yurdakul and Naranjo, Journal of Risk Model Validation 2020; `design_effect` is Rao and Scott's correction.
    """
    return float(stats.chi2.sf(value / (design_effect * (1 / n + 1 / m)), n_bins - 1)) if n_bins > 1 else 1.0


def distances(x, x_weight, y, y_weight) -> tuple[float, float]:
    """Weighted Kolmogorov-Smirnov distance (0 to 1) and Wasserstein distance (unit of x) of two samples."""
    values = np.concatenate([x, y])
    order = np.argsort(values, kind="stable")
    values = values[order]
    signed = np.concatenate([x_weight / np.sum(x_weight), -(y_weight / np.sum(y_weight))])[order]
    gap, step = np.abs(np.cumsum(signed)), np.diff(values)
    last = np.append(step > 0, True)  # among equal values only the last has seen them all
    return float(gap[last].max()), float(np.sum(gap[:-1] * step))


def ks(a, b, weight_a, weight_b) -> float:
    """Weighted two-sample Kolmogorov-Smirnov distance of a (n,) and b (m,), 0 to 1; NaN are left out."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    x, y = ~np.isnan(a), ~np.isnan(b)
    return distances(a[x], np.asarray(weight_a, float)[x], b[y], np.asarray(weight_b, float)[y])[0]


def benjamini_hochberg(p_values, rate: float) -> np.ndarray:
    """Which hypotheses fall (n,) bool, at a false discovery rate of `rate` (Benjamini and Hochberg, JRSS B 1995)."""
    p = np.asarray(p_values, float)
    passed = np.flatnonzero(np.sort(p) <= rate * np.arange(1, len(p) + 1) / len(p))
    return p <= (np.sort(p)[passed[-1]] if len(passed) else -1.0)


def design_effect(bins, weight, block, stratum) -> float:
    """How many times more bin shares vary if blocks are resampled within strata than if rows are; at least 1.

    bins (n,) int, weight (n,), block (n,) int from 0, stratum (number of blocks,) int. The variance is what a bootstrap
    of whole blocks tends to, K/(K-1) times the squared residuals of a stratum's K blocks, so nothing is drawn; averaged
    over bins as suits a chi-squared (Rao and Scott, JASA 1981). 1.0 where under ten blocks are left to tell.
    """
    n_bins, n_strata, n_blocks = bins.max() + 1, stratum.max() + 1, np.bincount(stratum)
    counts = np.bincount(block * n_bins + bins, weight, minlength=len(stratum) * n_bins).reshape(-1, n_bins)
    total = np.zeros((n_strata, n_bins))
    np.add.at(total, stratum, counts)
    share = total / np.maximum(total.sum(1, keepdims=True), 1e-300)
    told = n_blocks > 1  # a stratum of one block says nothing
    if (n_blocks[told] - 1).sum() < 10:
        return 1.0
    residual = (counts - counts.sum(1, keepdims=True) * share[stratum]) ** 2
    between = (residual * (told * n_blocks / np.maximum(n_blocks - 1, 1))[stratum, None]).sum(0)
    squares = np.bincount(stratum[block], weight**2, minlength=n_strata)
    within = ((told * squares)[:, None] * share * (1 - share)).sum(0)
    used = within > 0
    overall = total.sum(0)[used]
    return max(1.0, float((between[used] / overall).sum() / (within[used] / overall).sum())) if used.any() else 1.0


class Monitor:
    """A reference window that batches are compared with.

    Batches are matched to it by hour of the day where it covers their hours. With a reference of one day that takes
    the rhythm of the day out, yet not what sets one day apart from another; that needs a reference of several days.

    Parameters
    ----------
    X : (n, k) float, the reference window; a value that is not finite is missing
    weight : (n,) >= 0, how many transactions a row stands for; None: 1
    time_s : (n,) seconds; the hour of the day counts from its zero (midnight UTC for an epoch)
    names : the k columns: features, and the score if it is to be watched
    n_bins : bins of PSI, weighted quantiles of the reference
    block_s : seconds within which rows may depend on each other
    fdr : false discovery rate over the columns of one batch

    Raises
    ------
    ValueError if shapes disagree or the window holds no weight.
    """

    def __init__(self, X, weight, time_s, names, *, n_bins=10, block_s=600.0, fdr=0.001):
        self.names, self.n_bins, self.fdr = tuple(names), n_bins, fdr
        self.X, self.hour, self.weight = self._window("reference window", X, time_s, weight)
        block = np.floor(np.asarray(time_s) / block_s).astype(np.int64) * 24 + self.hour
        _, first, self._block = np.unique(block, return_index=True, return_inverse=True)
        self._stratum = self.hour[first]  # blocks are resampled within their hour of the day, over all days
        self._columns = [self._describe(x) for x in self.X.T]

    def _window(self, what, X, time_s, weight):
        X = np.asarray(X, dtype=np.float64)
        weight = np.ones(len(X)) if weight is None else np.asarray(weight, dtype=np.float64)
        if X.shape[1:] != (len(self.names),) or len(X) != len(time_s) or len(X) != len(weight):
            raise ValueError(
                f"The {what} has shape {X.shape}, {len(time_s)} times and {len(weight)} weights; "
                f"expected one of each a row and the {len(self.names)} columns {', '.join(self.names[:3])}, ..."
            )
        if not weight.sum() > 0:
            raise ValueError(f"The {what} holds no weight ({len(X)} rows); there is nothing to compare.")
        return X, (np.floor(np.asarray(time_s) / 3600) % 24).astype(np.int64), weight

    def _describe(self, x):
        """Bin edges, standard deviation and design effect of one reference column (n,)."""
        known = np.isfinite(x) & (self.weight > 0)
        if not known.any():
            return np.empty(0), 1.0, 1.0
        values, weight = x[known], self.weight[known]
        order = np.argsort(values)
        share = np.cumsum(weight[order]) / weight.sum()
        at = np.searchsorted(share, np.arange(1, self.n_bins) / self.n_bins)
        edges = np.unique(values[order][at])
        edges = edges[edges < values.max()]  # bins are (below, edge]: the highest value needs none of its own
        scale = np.sqrt(np.cov(values, aweights=weight, ddof=0)) or 1.0
        bins = np.searchsorted(edges, x)
        return edges, float(scale), design_effect(bins, np.where(known, self.weight, 0.0), self._block, self._stratum)

    def _matched(self, hour, weight):
        """Reference weights (n,) with the hours of the day that the batch has, and whether that was possible."""
        wanted = np.bincount(hour, weight, minlength=24) / weight.sum()
        there = np.bincount(self.hour, self.weight, minlength=24)
        covered = (np.bincount(self.hour, minlength=24) >= MIN_PER_HOUR) & (there > 0)
        if wanted[~covered].sum() > 0.01:
            return self.weight, False
        return self.weight * np.divide(wanted, there, out=np.zeros(24), where=covered)[self.hour], True

    def check(self, X, weight, time_s, previous: Verdict | None = None) -> Verdict:
        """Return the verdict on a batch X (m, k) at time_s (m,); `previous` is that on the batch before it."""
        X, hour, weight = self._window("batch", X, time_s, weight)
        reference_weight, hour_matched = self._matched(hour, weight)
        compared = [
            self._compare(self.X[:, j], reference_weight, X[:, j], weight, *column)
            for j, column in enumerate(self._columns)
        ]
        flags = benjamini_hochberg([c["p_value"] for c in compared], self.fdr)
        columns = tuple(
            ColumnDrift(name=name, drifted=bool(flag), **c)
            for name, flag, c in zip(self.names, flags, compared, strict=True)
        )
        drifted = tuple(c.name for c in columns if c.drifted)
        persistent = tuple(name for name in drifted if previous and name in previous.drifted)
        level = PERSISTENT if persistent else DRIFT if drifted else QUIET
        sizes = effective_size(reference_weight), effective_size(weight)
        return Verdict(level, drifted, persistent, hour_matched, len(X), *sizes, columns)

    def _compare(self, x, x_weight, y, y_weight, edges, scale, effect):
        """Figures of one column, x (n,) of the reference against y (m,) of the batch."""
        x_known, y_known = np.isfinite(x) & (x_weight > 0), np.isfinite(y) & (y_weight > 0)
        missing = [1 - w[known].sum() / w.sum() for w, known in ((x_weight, x_known), (y_weight, y_known))]
        sizes = [effective_size(x_weight), effective_size(y_weight)]
        gone = [round(size * share) for size, share in zip(sizes, missing, strict=True)]
        left = [round(size) - g for size, g in zip(sizes, gone, strict=True)]
        p_values = [stats.fisher_exact([gone, left]).pvalue] if any(gone) else []
        found = {"psi": None, "psi_threshold": None, "ks": None, "wasserstein": None}
        if x_known.any() and y_known.any():
            x, x_weight, y, y_weight = x[x_known], x_weight[x_known], y[y_known], y_weight[y_known]
            n, m, n_bins = effective_size(x_weight), effective_size(y_weight), len(edges) + 1
            shares = [
                np.maximum(np.bincount(np.searchsorted(edges, v), w, minlength=n_bins) / w.sum(), 0.5 / size)
                for v, w, size in ((x, x_weight, n), (y, y_weight, m))
            ]  # an empty bin counts as half a row
            found["psi"] = psi(*shares)
            ks, gap = distances(x, x_weight, y, y_weight)
            found["ks"], found["wasserstein"] = ks, gap / scale
            p_values.append(float(stats.kstwobign.sf(ks * np.sqrt(n * m / (n + m) / effect))))
            if min(n, m) >= MIN_PER_BIN * n_bins and n_bins > 1:
                p_values.append(psi_p_value(found["psi"], n_bins, n, m, effect))
                strictest = self.fdr / len(self.names) / len(p_values)
                found["psi_threshold"] = float(effect * (1 / n + 1 / m) * stats.chi2.isf(strictest, n_bins - 1))
        p = min(1.0, len(p_values) * min(p_values)) if p_values else 1.0
        return found | {"missing": float(missing[1]), "p_value": float(p)}


class Reference(Monitor):
    """A reference window with a model's scores as one more column; batches are compared in time order.

    Parameters
    ----------
    names : the features
    data : Arrays of the window
    score : (n,) of its rows
    """

    def __init__(self, names, data, score, **options):
        super().__init__(np.c_[data.X, score], data.weight, data.time_s, (*names, SCORE), **options)
        self.verdict = None

    def compare(self, X, weight, time_s, score, scored=None) -> pd.DataFrame:
        """Table of a batch, with `flagged` and `loud`; the whole `verdict` is kept until the next batch."""
        score = np.asarray(score, float) if scored is None else np.where(scored, score, np.nan)
        self.verdict = self.check(np.c_[X, score], weight, time_s, self.verdict)
        table = self.verdict.table().rename(columns={"drifted": "flagged", "psi_threshold": "threshold"})
        return table.assign(loud=table.index.isin(self.verdict.persistent))
