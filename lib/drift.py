"""Drift: a reference window against the current batch, column by column, with thresholds that hold under no drift.

Columns are features and, if the caller adds it, the model's score; labels are never needed. Weighted throughout.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

SCORE = "anomaly score"  # the column of scores
QUIET, DRIFT, PERSISTENT = "quiet", "drift", "persistent"  # levels of a batch; the last is the louder one
MIN_PER_BIN = 40  # with fewer effective rows a bin, PSI's far tail is beyond chi-squared: it decides nothing
MIN_PER_HOUR = 50  # reference rows that an hour of the day needs before batches are matched to it
RHYTHM = "The reference window does not cover this batch's hours of the day: their rhythm is flagged as drift, too."


@dataclass(frozen=True)
class ColumnDrift:
    """One column of one batch; None where there was nothing, or for PSI's threshold too little, to compare.

    `wasserstein` is in reference standard deviations; `missing` (or infinite) and `out_of_range` (beyond all that the
    reference window holds) are shares of the batch's weight. `psi_threshold` is where PSI alone would flag this column
    if no other column drifted.
    """

    name: str
    psi: float | None = None
    psi_threshold: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    missing: float = 0.0
    out_of_range: float = 0.0
    p_value: float = 1.0
    drifted: bool = False


@dataclass(frozen=True)
class Verdict:
    """A batch is 'quiet', has 'drift' (some column) or 'persistent' drift (of a column that drifted in the last, too).

    Sizes are effective numbers of rows; `note` says what to bear in mind, or is empty.
    """

    level: str
    drifted: tuple[str, ...]
    persistent: tuple[str, ...]
    hour_matched: bool
    note: str
    n: int
    reference_size: float
    current_size: float
    columns: tuple[ColumnDrift, ...]

    def to_dict(self) -> dict:
        """Return what json.dumps takes."""
        return asdict(self)

    def table(self) -> pd.DataFrame:
        """A row for each column of the data, by name."""
        return pd.DataFrame([asdict(column) for column in self.columns]).set_index("name")


def effective_size(weight) -> float:
    """Equally weighted rows that say as much: (sum w)^2 / sum w^2; 0 if there is no weight."""
    total = np.sum(weight)
    return float(total**2 / np.sum(np.square(weight))) if total > 0 else 0.0


def psi(reference, current) -> float:
    """Population stability index of two vectors of bin shares, all above 0."""
    reference, current = np.asarray(reference, float), np.asarray(current, float)
    return float(np.sum((current - reference) * np.log(current / reference)))


def psi_null(share, n: float, m: float, extra=None) -> tuple[float, float]:
    """Scale and degrees of freedom of the chi-squared that PSI follows under no drift.

    (1/n + 1/m, bins - 1) for independent rows (Yurdakul and Naranjo, Journal of Risk Model Validation 2020). `extra`
    (bins, bins) is what dependent rows add to the covariance of the shares' difference: Satterthwaite's approximation
    then (Rao and Scott, JASA 1981).
    """
    share = np.asarray(share, float)
    V = (1 / n + 1 / m) * (np.eye(len(share)) - share)  # covariance of the difference, each row over its share
    V += 0.0 if extra is None else extra / share[:, None]
    mean = max(np.trace(V), (1 / n + 1 / m) * (len(share) - 1))
    squares = max(np.sum(V * V.T), mean**2 / (len(share) - 1))
    return float(squares / mean), float(mean**2 / squares)


def distances(x, x_weight, y, y_weight) -> tuple[float, float]:
    """Weighted Kolmogorov-Smirnov (0 to 1) and Wasserstein (unit of x) distance of two samples."""
    values = np.concatenate([x, y])
    order = np.argsort(values, kind="stable")
    step = np.diff(values[order])
    gap = np.abs(np.cumsum(np.concatenate([x_weight / np.sum(x_weight), -y_weight / np.sum(y_weight)])[order]))[:-1]
    return float(np.max(gap[step > 0], initial=0.0)), float(np.sum(gap * step))  # equal values are one step


def ks(a, b, weight_a, weight_b) -> float:
    """Weighted Kolmogorov-Smirnov distance of a (n,) and b (m,), 0 to 1, by their known values; NaN if none is."""
    samples = []
    for values, weight in ((a, weight_a), (b, weight_b)):
        values, weight = np.asarray(values, float), np.asarray(weight, float)
        known = ~np.isnan(values) & (weight > 0)
        samples += [values[known], weight[known]]
    return distances(*samples)[0] if len(samples[0]) and len(samples[2]) else float("nan")


def benjamini_hochberg(p_values, rate: float) -> np.ndarray:
    """Which hypotheses fall (n,) bool, at a false discovery rate of `rate` (Benjamini and Hochberg, JRSS B 1995)."""
    p = np.asarray(p_values, float)
    passed = np.sort(p)[np.sort(p) <= rate * np.arange(1, len(p) + 1) / len(p)]
    return p <= np.max(passed, initial=-1.0)


def block_covariance(bins, weight, block, stratum, n_bins: int) -> np.ndarray:
    """Covariance (n_bins, n_bins) of bin shares between blocks of one stratum, beyond that of independent rows.

    bins (n,) int, weight (n,), block (n,) int from 0, stratum (blocks,) int. It is what resampling whole blocks within
    strata gives in the limit, less what resampling rows gives, so nothing is drawn. 0 where under ten blocks can tell.
    """
    counts = np.bincount(block * n_bins + bins, weight, minlength=len(stratum) * n_bins).reshape(-1, n_bins)
    size, n_blocks = counts.sum(1), np.bincount(stratum)
    total = np.stack([np.bincount(stratum, c) for c in counts.T], axis=1)
    share = total / np.maximum(total.sum(1, keepdims=True), np.finfo(float).tiny)
    told = (n_blocks > 1)[stratum]  # the only block of its stratum says nothing
    if told.sum() - (n_blocks > 1).sum() < 10 or not (told * size).any():
        return np.zeros((n_bins, n_bins))
    factor = told * (n_blocks / np.maximum(n_blocks - 1, 1))[stratum]
    residual = counts - size[:, None] * share[stratum]
    rows = np.bincount(stratum[block], weight**2 * told[block], minlength=len(total))
    independent = np.diag(rows @ share) - (share * rows[:, None]).T @ share
    return ((residual * factor[:, None]).T @ residual - independent) / np.sum(told * size**2)


class Monitor:
    """A reference window that batches are compared with, matched by hour of the day where it covers their hours.

    A reference of one day takes the rhythm of the day out, yet not what sets one day apart from the next; with several
    days, blocks are compared over all of them and the thresholds widen by what days differ.

    Parameters
    ----------
    X : (n, k) float, the reference window; what is not finite is missing
    weight : (n,) >= 0, how many transactions a row stands for; None for 1
    time_s : (n,) seconds; hours of the day count from its zero (midnight UTC for an epoch)
    names : of the k columns
    n_bins : bins of PSI, weighted quantiles of the reference
    block_s : seconds within which rows may depend on each other
    fdr : false discovery rate over the columns of one batch, and the rate of false alarms in batches without drift

    Raises
    ------
    ValueError if shapes disagree, a time or weight is not a number, or a window holds no weight.
    """

    def __init__(self, X, weight, time_s, names, *, n_bins=10, block_s=600.0, fdr=0.001):
        self.names, self.block_s, self.fdr = tuple(names), block_s, fdr
        X, self.weight, self.hour, self.block = self._window("reference window", X, weight, time_s)
        self.X = np.ascontiguousarray(X.T)
        stratum = self.hour[np.unique(self.block, return_index=True)[1]]
        self._columns = [self._describe(x, n_bins, stratum) for x in self.X]

    def _window(self, what, X, weight, time_s):
        X, time_s = np.asarray(X, np.float64), np.asarray(time_s, np.float64)
        weight = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
        if X.shape != (len(time_s), len(self.names)) or len(weight) != len(X):
            expected = f"({len(time_s)}, {len(self.names)}) for its times and columns, and a weight a row"
            raise ValueError(f"The {what} has shape {X.shape} and {len(weight)} weights; expected {expected}.")
        if not (np.isfinite(time_s).all() and (weight >= 0).all() and 0 < weight.sum() < np.inf):
            raise ValueError(f"The {what} ({len(X)} rows) needs finite times, and weights >= 0 that are not all 0.")
        hour = (time_s // 3600 % 24).astype(np.int64)
        block = np.unique(time_s // self.block_s * 24 + hour, return_inverse=True)[1]  # blocks end with their hour
        return X, weight, hour, block

    def _describe(self, x, n_bins, stratum):
        """Inner bin edges, shares, range, standard deviation, block covariances (values, missing) of a column (n,)."""
        weight = np.where(np.isfinite(x), self.weight, 0.0)
        missing = block_covariance((weight == 0).astype(int), self.weight, self.block, stratum, 2)
        if not weight.sum() > 0:
            return np.empty(0), np.ones(1), (-np.inf, np.inf), 1.0, np.zeros((1, 1)), missing
        values, w = x[weight > 0], weight[weight > 0]
        order = np.argsort(values)
        at = np.searchsorted(np.cumsum(w[order]), np.arange(1, n_bins) / n_bins * w.sum())
        edges = np.unique(values[order][np.minimum(at, len(order) - 1)])
        edges = edges[edges < values.max()]  # bins are (below, edge]: the highest value needs none of its own
        sd = np.sqrt(np.average((values - np.average(values, weights=w)) ** 2, weights=w))
        bins, n_bins = np.searchsorted(edges, x), len(edges) + 1
        share = np.bincount(bins, weight, minlength=n_bins) / w.sum()
        covariance = block_covariance(bins, weight, self.block, stratum, n_bins)
        return edges, share, (values.min(), values.max()), float(sd) or 1.0, covariance, missing

    def match(self, hour, weight) -> tuple[np.ndarray, bool]:
        """Reference weights (n,) with the batch's shares of the hours of the day, and whether that was possible."""
        wanted = np.bincount(hour, weight, minlength=24) / weight.sum()
        there = np.bincount(self.hour, self.weight, minlength=24)
        covered = (np.bincount(self.hour, minlength=24) >= MIN_PER_HOUR) & (there > 0)
        if wanted[~covered].sum() > 0.01:
            return self.weight, False
        return self.weight * np.divide(wanted, there, out=np.zeros(24), where=covered)[self.hour], True

    def check(self, X, weight, time_s, previous: Verdict | None = None) -> Verdict:
        """Return the verdict on a batch X (m, k) at time_s (m,); `previous` is the verdict on the batch before it."""
        Y, y_weight, hour, y_block = self._window("batch", X, weight, time_s)
        x_weight, hour_matched = self.match(hour, y_weight)
        samples = ((self.block, x_weight), (y_block, y_weight))
        blocks = sum(1 / effective_size(np.bincount(block, w)) for block, w in samples)
        rows = np.flatnonzero(x_weight)
        columns = [
            self._compare(j, rows, x_weight[rows], Y[:, j], y_weight, y_block, blocks) for j in range(Y.shape[1])
        ]
        flags = benjamini_hochberg([c["p_value"] for c in columns], self.fdr)
        columns = tuple(ColumnDrift(**c, drifted=bool(f)) for c, f in zip(columns, flags, strict=True))
        drifted = tuple(c.name for c in columns if c.drifted)
        persistent = tuple(name for name in drifted if previous and name in previous.drifted)
        level = PERSISTENT if persistent else DRIFT if drifted else QUIET
        sizes, note = (effective_size(x_weight), effective_size(y_weight)), "" if hour_matched else RHYTHM
        return Verdict(level, drifted, persistent, hour_matched, note, len(Y), *sizes, columns)

    def _compare(self, j, rows, x_weight, y, y_weight, y_block, blocks) -> dict:
        x, (edges, share, (low, high), sd, covariance, of_missing) = self.X[j, rows], self._columns[j]
        known = np.isfinite(x), np.isfinite(y)
        sizes, missing = [effective_size(w) for w in (x_weight, y_weight)], []
        for k, w in zip(known, (x_weight, y_weight), strict=True):
            missing.append(float(w[~k].sum() / w.sum()))
        found, p_values = {"name": self.names[j], "missing": missing[1]}, []
        if any(missing):
            independent = (1 / sizes[0] + 1 / sizes[1]) * max(missing[0] * (1 - missing[0]), 1 / sizes[0])
            inflation = 1 + max(of_missing[0, 0], 0.0) * blocks / independent
            table = [np.round(np.array([p, 1 - p]) * s / inflation) for p, s in zip(missing, sizes, strict=True)]
            p_values.append(float(stats.fisher_exact(np.array(table, int)).pvalue))
        samples = (x[known[0]], x_weight[known[0]]), (y[known[1]], y_weight[known[1]])
        if all(w.sum() > 0 for _, w in samples):
            n, m, n_bins = *(effective_size(w) for _, w in samples), len(edges) + 1
            shares = [np.bincount(np.searchsorted(edges, v), w, minlength=n_bins) / w.sum() for v, w in samples]
            a, b = np.maximum(shares[0], 0.5 / n), np.maximum(shares[1], 0.5 / m)  # an empty bin is half a row
            distance, gap = distances(*samples[0], *samples[1])
            below = np.cumsum(share)[:-1]
            extra = np.diag(np.cumsum(np.cumsum(covariance, 0), 1))[:-1] * blocks / (below * (1 - below))
            inflation = 1 + np.max(extra, initial=0.0) / (1 / n + 1 / m)  # variance of the distribution function
            p_values.append(float(stats.kstwobign.sf(distance * np.sqrt(n * m / (n + m) / inflation))))
            beyond = known[1] & (y_weight > 0) & ((y < low) | (y > high))
            times, chance = len(np.unique(y_block[beyond])), m / (m + effective_size(self.weight))
            p_values.append(min(1.0, (times + 1) * chance**times))  # of all rows the `times` most extreme in the batch
            out_of_range = float(y_weight[beyond].sum() / y_weight.sum())
            found |= {"psi": psi(a, b), "ks": distance, "wasserstein": gap / sd, "out_of_range": out_of_range}
            if n_bins > 1 and min(n, m) >= MIN_PER_BIN * n_bins:
                scale, freedom = psi_null(share, n, m, covariance * blocks)
                p_values.append(float(stats.chi2.sf(found["psi"] / scale, freedom)))
                strictest = self.fdr / len(self.names) / len(p_values)
                found["psi_threshold"] = float(stats.chi2.isf(strictest, freedom) * scale)
        return found | {"p_value": min([1.0, *(p * len(p_values) for p in p_values)])}


class Reference(Monitor):
    """A reference window with a model's scores as one more column, for batches in time order.

    Parameters
    ----------
    names : the features
    data : Arrays of the window
    score : (n,) of its rows
    """

    def __init__(self, names, data, score, **options):
        super().__init__(np.c_[data.X, score], data.weight, data.time_s, (*names, SCORE), **options)
        self.verdict = None  # on the last batch

    def compare(self, X, weight, time_s, score, scored=None) -> pd.DataFrame:
        """Table of a batch; `flagged` are the columns that drifted, `loud` those that did in the last batch, too."""
        score = np.asarray(score, float) if scored is None else np.where(scored, score, np.nan)
        self.verdict = self.check(np.c_[X, score], weight, time_s, self.verdict)
        table = self.verdict.table().rename(columns={"drifted": "flagged", "psi_threshold": "threshold"})
        return table.assign(loud=table.index.isin(self.verdict.persistent))
