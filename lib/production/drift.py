"""Compare a reference window with the current batch, column by column.

Thresholds hold under no drift. Columns are features and, if the caller adds it, the model's score;
labels are never needed. Everything counts weight. A column that is a category is compared by the
shares of its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd

from lib.data.columns import SCORE, free_name
from lib.data.datasets import Arrays
from lib.detectors.sampling import effective_size
from lib.evaluation.distances import distances
from lib.production import drift_categories, drift_statistics
from lib.production.drift_categories import Values
from lib.production.drift_statistics import Sample

# levels of a batch; the last is the louder one
QUIET = "quiet"
DRIFT = "drift"
PERSISTENT = "persistent"
# with fewer effective rows a bin, PSI's far tail is beyond chi-squared: it decides nothing
MIN_PER_BIN = 40
MIN_PER_HOUR = 50  # reference rows that an hour of the day needs before batches are matched to it
MAX_UNCOVERED = 0.01  # share of a batch that may lie in hours which the reference does not cover
RHYTHM = (
    "The reference window does not cover this batch's hours of the day: their rhythm is flagged "
    "as drift, too."
)


@dataclass(frozen=True)
class ColumnDrift:
    """One column of one batch; None where there was nothing to compare.

    `threshold` is None, too, where there was too little: at it, PSI alone would flag the column if
    nothing else drifted. `wasserstein` is in reference standard deviations; `missing` (or infinite)
    and `out_of_range` (beyond all that the reference window holds) are shares of weight. A category
    has `total_variation` (see `drift_categories.Shift`) in place of `ks` and `wasserstein`, and the
    `value` that has moved most clearly, with its share `before` and `now`.
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
    total_variation: float | None = None
    value: str | None = None
    before: float | None = None
    now: float | None = None

    @property
    def moved(self) -> str:
        """The value of a category that has moved, `travel 0.4 % → 2.1 %`; empty for numbers."""
        if self.value is None or self.before is None or self.now is None:
            return ""
        return f"{self.value} {_percent(self.before)} → {_percent(self.now)}"


def _percent(share: float) -> str:
    """Return a share as people write it: `12.3 %`, `0.4 %`, `0.03 %`."""
    is_tiny = 0 < share < 0.001
    return f"{100 * share:.1g} %" if is_tiny else f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Verdict:
    """What was found in one batch.

    `level` is 'quiet', 'drift' (a column is flagged) or 'persistent' (so it was in the last batch).
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
        """Return a row for each column of the data, by name."""
        return pd.DataFrame(map(asdict, self.columns)).set_index("name")


@dataclass(frozen=True)
class MonitorOptions:
    """How closely to look.

    Parameters
    ----------
    n_bins : bins of PSI, weighted quantiles of the reference
    block_s : seconds within which rows may depend on each other
    clock : whether times tell the hour of the day; numbers of rows do not, and nothing is matched
        then
    fdr : false discovery rate over the columns of a batch; a batch without drift is flagged no more
        often than that
    categories : {column: what its numbers stand for}, of columns whose numbers are no measure; see
        `drift_categories.of_split`
    """

    n_bins: int = 10
    block_s: float = 600.0
    clock: bool = True
    fdr: float = 0.001
    categories: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """Rows of one period: X (n, k) and, (n,) each, weight, hour of the day and block of time."""

    X: np.ndarray
    weight: np.ndarray
    hour: np.ndarray
    block: np.ndarray

    def effective_blocks(self, weight: np.ndarray) -> float:
        """Return how many blocks of equal weight say as much, with another weight (n,)."""
        return effective_size(np.bincount(self.block, weight))


@dataclass(frozen=True)
class ReferenceColumn:
    """What a reference window says of one column.

    edges : (bins - 1,), between the bins of PSI; share : (bins,) of the weight
    low, high, sd : smallest and largest value, standard deviation
    covariance : (bins, bins), what blocks of time add to that of the shares
    missing_variance : the same of the share that is missing
    values : of a category, whose values are the bins; None for numbers
    """

    name: str
    edges: np.ndarray
    share: np.ndarray
    low: float
    high: float
    sd: float
    covariance: np.ndarray
    missing_variance: float
    values: Values | None = None


@dataclass(frozen=True)
class _Pair:
    """The two windows of one comparison, the reference as matched to the batch."""

    reference: Window
    rows: np.ndarray  # positions of the reference's rows that have weight
    reference_weight: np.ndarray  # (rows,), theirs
    current: Window
    per_block: float  # 1 / effective blocks of the one + 1 / those of the other

    def samples(self, j: int) -> tuple[Sample, Sample]:
        """Return column j of the reference and of the batch."""
        reference = Sample(self.reference.X[self.rows, j], self.reference_weight)
        current = Sample(self.current.X[:, j], self.current.weight)
        return reference, current


class Monitor:
    """A reference window, matched by hour of the day to the batches whose hours it covers.

    A reference of one day takes out the rhythm of the day, yet nothing of what sets one day apart
    from the next.

    Parameters
    ----------
    X : (n, k) float, the reference window; what is not finite is missing; its columns have `names`
    weight : (n,) >= 0, how many transactions a row stands for; None for 1
    time_s : (n,) seconds; hours of the day count from its zero (midnight UTC for an epoch)
    options : MonitorOptions

    Raises
    ------
    ValueError
        If shapes disagree, a time or weight is not a number, or a window holds no weight.
    """

    def __init__(
        self,
        X: np.ndarray,
        weight: np.ndarray | None,
        time_s: np.ndarray,
        names: Sequence[str],
        options: MonitorOptions = MonitorOptions(),
    ) -> None:
        self.names = tuple(names)
        self.options = options
        self.reference = self._window("reference window", X, weight, time_s)
        first_of_block = np.unique(self.reference.block, return_index=True)[1]
        # blocks are compared within their hour, so that the day's rhythm counts for nothing
        stratum = self.reference.hour[first_of_block]
        d = len(self.names)
        self._columns = [self._describe(j, stratum) for j in range(d)]

    def _window(
        self,
        what: str,
        X,
        weight,
        time_s,
    ) -> Window:
        """Return the arrays as a window; ValueError names it by `what`."""
        X = np.asarray(X, np.float64)
        time_s = np.asarray(time_s, np.float64)
        n = len(X)
        weight = np.ones(n) if weight is None else np.asarray(weight, np.float64)
        expected = (len(time_s), len(self.names))
        if X.shape != expected or len(weight) != n:
            raise ValueError(
                f"The {what} has shape {X.shape}, but there are {len(time_s)} times, "
                f"{len(weight)} weights and {len(self.names)} names of columns."
            )
        is_weighted = (weight >= 0).all() and 0 < weight.sum() < np.inf
        is_timed = np.isfinite(time_s).all()
        if not (is_weighted and is_timed):
            raise ValueError(
                f"The {what} ({len(X)} rows) needs finite times, and weights >= 0 that are not "
                "all 0."
            )
        hour = np.zeros(len(time_s), np.int64)
        if self.options.clock:
            hour = (time_s // 3600 % 24).astype(np.int64)
        # blocks end with their hour
        block_and_hour = time_s // self.options.block_s * 24 + hour
        block = np.unique(block_and_hour, return_inverse=True)[1]
        return Window(X, weight, hour, block)

    def _describe(self, j: int, stratum: np.ndarray) -> ReferenceColumn:
        """Return what the reference window says of column j."""
        x = self.reference.X[:, j]
        weight = np.where(np.isfinite(x), self.reference.weight, 0.0)
        is_missing = (weight == 0).astype(int)
        missing_variance = self._block_covariance(is_missing, self.reference.weight, stratum, 2)
        if not weight.any():
            return ReferenceColumn(
                self.names[j],
                edges=np.empty(0),
                share=np.ones(1),
                low=-np.inf,
                high=np.inf,
                sd=1.0,
                covariance=np.zeros((1, 1)),
                missing_variance=missing_variance[0, 0],
            )
        values = self.options.categories.get(self.names[j])
        if values is not None:
            return self._describe_category(j, values, stratum, float(missing_variance[0, 0]))
        known = Sample(x[weight > 0], weight[weight > 0])
        edges = _quantiles(known, self.options.n_bins)
        high = known.values.max()
        edges = edges[edges < high]  # the highest value needs no bin of its own
        mean = np.average(known.values, weights=known.weight)
        variance = np.average((known.values - mean) ** 2, weights=known.weight)
        sd = np.sqrt(variance)
        bins = np.searchsorted(edges, x)
        n_bins = len(edges) + 1
        return ReferenceColumn(
            self.names[j],
            edges=edges,
            share=np.bincount(bins, weight, minlength=n_bins) / known.weight.sum(),
            low=known.values.min(),
            high=high,
            sd=sd or 1.0,
            covariance=self._block_covariance(bins, weight, stratum, n_bins),
            missing_variance=missing_variance[0, 0],
        )

    def _describe_category(
        self, j: int, values: Values, stratum: np.ndarray, missing_variance: float
    ) -> ReferenceColumn:
        """Return what the reference window says of a category."""
        x = self.reference.X[:, j]
        is_known = np.isfinite(x)
        weight = np.where(is_known, self.reference.weight, 0.0)
        known = Sample(x[is_known], weight[is_known])
        n_bins = len(values.numbers) + 1
        return ReferenceColumn(
            self.names[j],
            edges=np.empty(0),
            share=drift_categories.shares(values, known),
            low=-np.inf,
            high=np.inf,
            sd=1.0,
            covariance=self._block_covariance(values.codes(x), weight, stratum, n_bins),
            missing_variance=missing_variance,
            values=values,
        )

    def _block_covariance(
        self,
        bins,
        weight,
        stratum,
        n_bins,
    ) -> np.ndarray:
        return drift_statistics.block_covariance(
            bins, weight, self.reference.block, stratum, n_bins
        )

    def match(self, hour: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, bool]:
        """Give the reference the hours of the day of a batch with hour (m,) and weight (m,).

        Returns
        -------
        weight : (n,) of the reference's rows
        is_matched : False where the reference does not cover the batch's hours; the weight is then
            the reference's own
        """
        own = self.reference
        wanted = np.bincount(hour, weight, minlength=24) / weight.sum()
        present = np.bincount(own.hour, own.weight, minlength=24)
        n_rows = np.bincount(own.hour, own.weight > 0, minlength=24)
        is_covered = n_rows >= MIN_PER_HOUR
        if wanted[~is_covered].sum() > MAX_UNCOVERED:
            return own.weight, False
        factor = np.divide(wanted, present, out=np.zeros(24), where=is_covered)
        return own.weight * factor[own.hour], True

    def check(
        self,
        X: np.ndarray,
        weight: np.ndarray | None,
        time_s: np.ndarray,
        previous: Verdict | None = None,
    ) -> Verdict:
        """Return the verdict on a batch X (m, k), weight (m,) or None for 1, at time_s (m,).

        previous : the verdict on the batch before it
        Raises ValueError as the constructor does.
        """
        current = self._window("batch", X, weight, time_s)
        matched, hour_matched = self.match(current.hour, current.weight)
        rows = np.flatnonzero(matched)
        n_blocks = self.reference.effective_blocks(matched)
        current_blocks = current.effective_blocks(current.weight)
        pair = _Pair(
            reference=self.reference,
            rows=rows,
            reference_weight=matched[rows],
            current=current,
            per_block=1 / n_blocks + 1 / current_blocks,
        )
        found = [self._compare(j, pair) for j in range(len(self.names))]
        p_values = [column.p_value for column in found]
        is_flagged = drift_statistics.discoveries(p_values, self.options.fdr)
        flagged = tuple(self.names[j] for j in np.flatnonzero(is_flagged))
        before = previous.flagged if previous else ()
        again = set(flagged) & set(before)
        columns = [
            replace(column, flagged=column.name in flagged, loud=column.name in again)
            for column in found
        ]
        return Verdict(
            level=_level(flagged, again),
            flagged=flagged,
            hour_matched=hour_matched,
            note="" if hour_matched else RHYTHM,
            n=len(current.X),
            reference_size=effective_size(matched),
            current_size=effective_size(current.weight),
            columns=tuple(columns),
        )

    def _compare(self, j: int, pair: _Pair) -> ColumnDrift:
        """Compare one column of two windows by all tests that apply; nothing is flagged yet."""
        column = self._columns[j]
        reference, current = pair.samples(j)
        p_values = []
        if reference.missing_share or current.missing_share:
            extra = max(column.missing_variance, 0.0) * pair.per_block
            p_values.append(drift_statistics.missing_p_value(reference, current, extra))
        found = ColumnDrift(column.name, missing=float(current.missing_share))
        if reference.known().weight.any() and current.known().weight.any():
            compare = self._compare_values if column.values is None else self._compare_category
            found = compare(column, pair, reference.known(), current, p_values)
        # Bonferroni: any of the tests may have told
        corrected = [p * len(p_values) for p in p_values]
        return replace(found, p_value=min([1.0, *corrected]))

    def _compare_values(
        self,
        column: ReferenceColumn,
        pair: _Pair,
        reference: Sample,
        current: Sample,
        p_values: list[float],
    ) -> ColumnDrift:
        """Compare the values that are there; append the p-value of each test to `p_values`."""
        known = current.known()
        n = reference.effective_size
        m = known.effective_size
        # an empty bin is half a row: PSI takes logarithms
        psi = drift_statistics.psi(
            np.maximum(reference.shares(column.edges), 0.5 / n),
            np.maximum(known.shares(column.edges), 0.5 / m),
        )
        ks, area = distances(reference.values, reference.weight, known.values, known.weight)
        extra = column.covariance * pair.per_block
        ks_p_value = drift_statistics.ks_p_value(ks, column.share, 1 / n + 1 / m, extra)

        is_out = (current.values < column.low) | (current.values > column.high)
        is_out &= current.is_known & (current.weight > 0)
        # rows of one block are one event
        n_out = len(np.unique(pair.current.block[is_out]))
        chance = m / (m + effective_size(self.reference.weight))
        p_values += [ks_p_value, drift_statistics.extremes_p_value(n_out, chance)]

        found = ColumnDrift(
            column.name,
            psi=psi,
            ks=ks,
            wasserstein=float(area / column.sd),
            missing=float(current.missing_share),
            out_of_range=float(current.weight[is_out].sum() / current.weight.sum()),
        )
        n_bins = len(column.share)
        if n_bins > 1 and min(n, m) >= MIN_PER_BIN * n_bins:
            null = drift_statistics.psi_null(column.share, n, m, extra)
            p_values.append(null.p_value(psi))
            found = replace(found, threshold=null.threshold(self._strictest(len(p_values))))
        return found

    def _strictest(self, n_tests: int) -> float:
        """Return the p-value that each of a column's tests needs if nothing else has drifted.

        The strictest step of Benjamini and Hochberg: that of the smallest p-value.
        """
        return self.options.fdr / len(self.names) / n_tests

    def _compare_category(
        self,
        column: ReferenceColumn,
        pair: _Pair,
        reference: Sample,
        current: Sample,
        p_values: list[float],
    ) -> ColumnDrift:
        """Compare the shares of a category's values; append the p-value of each test."""
        values = column.values
        if values is None:
            return ColumnDrift(column.name)
        extra = column.covariance * pair.per_block
        shift = drift_categories.compare(values, column.share, reference, current.known(), extra)
        p_values += shift.p_values
        threshold = None
        if shift.null is not None:
            threshold = shift.null.threshold(self._strictest(len(p_values)))
        return ColumnDrift(
            column.name,
            psi=shift.psi,
            threshold=threshold,
            total_variation=shift.total_variation,
            missing=float(current.missing_share),
            out_of_range=shift.unheard * (1 - float(current.missing_share)),
            value=values.word(shift.code),
            before=shift.before,
            now=shift.now,
        )


def _quantiles(sample: Sample, n_bins: int) -> np.ndarray:
    """Return the distinct values that cut a sample into `n_bins` parts of equal weight."""
    order = np.argsort(sample.values)
    cumulated = np.cumsum(sample.weight[order])
    wanted = np.arange(1, n_bins) / n_bins * sample.weight.sum()
    places = np.searchsorted(cumulated, wanted)
    places = np.minimum(places, len(order) - 1)
    return np.unique(sample.values[order][places])


def _level(flagged: Sequence[str], again: set[str]) -> str:
    if again:
        return PERSISTENT
    return DRIFT if flagged else QUIET


class Reference(Monitor):
    """A `Monitor` of Arrays, with a model's scores (n,) as one more column, for batches in order.

    Attributes
    ----------
    score : name of that column, which no feature has
    verdict : on the last batch; None before the first
    """

    def __init__(
        self,
        names: Sequence[str],
        data: Arrays,
        score: np.ndarray,
        options: MonitorOptions = MonitorOptions(),
    ) -> None:
        self.score = free_name(SCORE, names)
        columns = np.column_stack([data.X, score])
        super().__init__(columns, data.weight, data.time_s, (*names, self.score), options)
        self.verdict: Verdict | None = None

    def compare(
        self,
        X: np.ndarray,
        weight: np.ndarray,
        time_s: np.ndarray,
        score: np.ndarray,
        *,
        scored: np.ndarray | bool = True,
    ) -> pd.DataFrame:
        """Return `Verdict.table` of the next batch, X (m, d), with the column `is_score`.

        The score (m,) of a row that is not `scored` is missing.
        """
        columns = np.column_stack([X, np.where(scored, score, np.nan)])
        self.verdict = self.check(columns, weight, time_s, self.verdict)
        table = self.verdict.table()
        return table.assign(is_score=table.index == self.score)
