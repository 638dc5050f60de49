"""Compare a reference window with the current batch, column by column.

Columns are features and, if the caller adds it, the model's score; labels are never needed.
Everything counts weight. A column that is a category is compared by the shares of its values.

Two questions are asked of each column. Is the difference more than chance (`significant`)? With
enough transactions it nearly always is: no day is quite like another. So what is called drift
(`flagged`) has to be larger, too, than the differences that the reference window shows within
itself (see `lib.production.usual_sizes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd

from lib.bundle import Bundle
from lib.data.columns import SCORE, free_name
from lib.data.datasets import Arrays
from lib.detectors.sampling import effective_size
from lib.evaluation.distances import distances
from lib.evaluation.figures import percent
from lib.production import drift_categories, drift_profiles, drift_statistics, usual_sizes
from lib.production.drift_categories import Values
from lib.production.drift_profiles import Profile
from lib.production.drift_statistics import Sample
from lib.production.usual_sizes import Strata, Usual

# levels of a batch; the last is the louder one
QUIET = "quiet"
DRIFT = "drift"
PERSISTENT = "persistent"
# with fewer effective rows a bin, PSI's far tail is beyond chi-squared: it decides nothing
MIN_PER_BIN = 40
MIN_PER_STRATUM = 50  # reference rows that an hour, say, needs before batches are matched to it
MAX_UNCOVERED = 0.01  # share of a batch that may lie in hours which the reference does not cover
MIN_DATES = 2  # dates of each weekday, before weekdays are told apart: one says nothing of others
HOUR_S = 3_600
DAY_S = 86_400
# what batches are matched by, the finest first, as seconds of a week: its period and its steps
RHYTHMS = {
    "weekday and hour": (7 * DAY_S, HOUR_S),
    "weekday and quarter of the day": (7 * DAY_S, 6 * HOUR_S),
    "hour": (DAY_S, HOUR_S),
    "quarter of the day": (DAY_S, 6 * HOUR_S),
}
ROUNDED = 0.05  # relative difference of batches that are judged by the same usual sizes
RHYTHM = (
    "The reference window does not cover this batch's hours of the day: their rhythm is flagged "
    "as drift, too."
)
SHORT = (
    "The reference window is too short to tell how much its parts differ from each other: any "
    "significant difference of some size is flagged."
)


@dataclass(frozen=True)
class ColumnDrift:
    """One column of one batch; None where there was nothing to compare.

    `threshold` is None, too, where there was too little: at it, PSI alone would be significant if
    nothing else drifted. `wasserstein` is in reference standard deviations; `missing` (or
    infinite), `missing_before` of the reference, and `out_of_range` (beyond all that it holds) are
    shares of weight. `total_variation` is half the sum of all differences of shares, over bins of
    equal weight or over the values of a category: which share of the transactions lies elsewhere.
    `moved` is what chance does not explain of it, which is `usual` up to that share within the
    reference window. A category has no `ks` and no `wasserstein`, but
    the `value` (at position `code` of its `drift_categories.Values`) that has moved most clearly,
    with its share `before` and `now`.
    """

    name: str
    psi: float | None = None
    threshold: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    missing_before: float = 0.0
    missing: float = 0.0
    out_of_range: float = 0.0
    p_value: float = 1.0
    significant: bool = False  # more than chance
    flagged: bool = False  # and larger than usual
    loud: bool = False  # flagged in the batch before, too
    total_variation: float | None = None
    moved: float | None = None
    usual: float | None = None
    value: str | None = None
    code: int | None = None
    before: float | None = None
    now: float | None = None
    profile: Profile | None = None  # of what is flagged: both distributions, to be drawn

    @property
    def in_words(self) -> str:
        """The value of a category that has moved, `travel 0.4 % → 2.1 %`; empty for numbers."""
        if self.value is None or self.before is None or self.now is None:
            return ""
        return f"{self.value} {percent(self.before)} → {percent(self.now)}"


@dataclass(frozen=True)
class Verdict:
    """What was found in one batch.

    `level` is 'quiet', 'drift' (a column is flagged) or 'persistent' (so it was in the last batch).
    """

    level: str
    flagged: tuple[str, ...]
    significant: tuple[str, ...]
    matched_by: str  # one of RHYTHMS; empty where the reference is compared as it is
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
    fdr : false discovery rate of what is significant, over the columns of a batch
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
    """Rows of one period: X (n, k) and, (n,) each, weight, time (s) and block of time."""

    X: np.ndarray
    weight: np.ndarray
    time_s: np.ndarray
    block: np.ndarray

    def effective_blocks(self, weight: np.ndarray) -> float:
        """Return how many blocks of equal weight say as much, with another weight (n,)."""
        return effective_size(np.bincount(self.block, weight))


@dataclass(frozen=True)
class ReferenceColumn:
    """What a reference window says of one column.

    edges : (bins - 1,), between the bins of PSI; share : (bins,) of the weight
    fine_edges : between the bins in which the share that has moved is counted: as those of PSI, but
        where one value is as frequent as several bins, what is left of them divides the others
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
    fine_edges: np.ndarray = field(default_factory=lambda: np.empty(0))

    def as_bins(self, x: np.ndarray) -> usual_sizes.Column:
        """Return the numbers x (n,) with the bin that each of them lies in."""
        if self.values is None:
            codes, n_bins = np.searchsorted(self.fine_edges, x), len(self.fine_edges) + 1
        else:
            codes, n_bins = self.values.codes(x), len(self.share)
        codes = np.where(np.isfinite(x), codes, n_bins)
        return usual_sizes.Column(x, codes, n_bins, is_category=self.values is not None)


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
    """A reference window, matched by weekday and hour to the batches that it covers.

    A weekday is told apart where the window holds it twice. A window of one day takes out the
    rhythm of the day, yet nothing of what sets one day apart from the next.

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
        stratum = self._hour(self.reference.time_s[first_of_block])
        d = len(self.names)
        self._columns = [self._describe(j, stratum) for j in range(d)]
        self._usual: dict[tuple[str, int], list[Usual] | None] = {}

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
        # blocks end with their hour
        block_and_hour = time_s // self.options.block_s * 24 + self._hour(time_s)
        block = np.unique(block_and_hour, return_inverse=True)[1]
        return Window(X, weight, time_s, block)

    def _hour(self, time_s: np.ndarray) -> np.ndarray:
        """Return the hour of the day, (n,); 0 where times do not tell."""
        if not self.options.clock:
            return np.zeros(len(time_s), np.int64)
        return _steps(time_s, *RHYTHMS["hour"])

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
            fine_edges=_fine_quantiles(known, self.options.n_bins),
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

    def match(self, time_s: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, str]:
        """Give the reference the weekdays and hours of a batch at time_s (m,) with weight (m,).

        Returns
        -------
        weight : (n,) of the reference's rows
        matched_by : the finest of RHYTHMS at which the reference covers the batch; empty where it
            covers it at none, and the weight is the reference's own
        """
        own = self.reference
        for rhythm, strata in self._strata(time_s):
            of_batch = _steps(time_s, *RHYTHMS[rhythm])
            wanted = np.bincount(of_batch, weight, minlength=strata.n) / weight.sum()
            present = np.bincount(strata.of_row, own.weight, minlength=strata.n)
            n_rows = np.bincount(strata.of_row, own.weight > 0, minlength=strata.n)
            factors = strata.factors(wanted, present, n_rows)
            if factors is not None:
                return own.weight * factors[strata.of_row], rhythm
        return own.weight, ""

    def _strata(self, time_s: np.ndarray) -> Iterator[tuple[str, Strata]]:
        """Yield what a batch at time_s (m,) could be matched by, the finest first."""
        if not self.options.clock:
            return
        has_weekdays = _dates(self.reference.time_s)[np.unique(_weekday(time_s))] >= MIN_DATES
        for rhythm, (period_s, _) in RHYTHMS.items():
            if period_s > DAY_S and not has_weekdays.all():
                continue
            yield rhythm, self._strata_of(rhythm)

    def _strata_of(self, rhythm: str) -> Strata:
        """Return the strata of the reference's rows."""
        if not rhythm:
            everything = np.zeros(len(self.reference.X), np.int64)
            return Strata(everything, 1, min_rows=1, max_uncovered=0.0)
        period_s, step_s = RHYTHMS[rhythm]
        of_row = _steps(self.reference.time_s, period_s, step_s)
        return Strata(of_row, period_s // step_s, MIN_PER_STRATUM, MAX_UNCOVERED)

    def _usual_sizes(self, matched_by: str, batch_weight: float) -> list[Usual] | None:
        """Return what is usual of each column in batches of a weight; None if nobody can tell.

        Where the window has too few stretches that others match as the batch was matched, a coarser
        rhythm gives larger sizes: those of the hours that it takes together are among them.
        """
        share = batch_weight / self.reference.weight.sum()
        rounded = round(np.log(share) / ROUNDED)
        order = list(RHYTHMS)
        coarser = order[order.index(matched_by) :] if matched_by else [""]
        for rhythm in coarser:
            if (rhythm, rounded) not in self._usual:
                found = self._usual_within(rhythm, float(np.exp(rounded * ROUNDED)))
                self._usual[rhythm, rounded] = found
            if self._usual[rhythm, rounded] is not None:
                return self._usual[rhythm, rounded]
        return None

    def _usual_within(self, rhythm: str, batch_share: float) -> list[Usual] | None:
        columns = [column.as_bins(self.reference.X[:, j]) for j, column in enumerate(self._columns)]
        return usual_sizes.of_window(
            columns,
            self.reference.weight,
            np.argsort(self.reference.time_s, kind="stable"),
            self._strata_of(rhythm),
            batch_share,
        )

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
        matched, matched_by = self.match(current.time_s, current.weight)
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
        is_significant = drift_statistics.discoveries(p_values, self.options.fdr)
        usual = self._usual_sizes(matched_by, current.weight.sum())
        columns = []
        for j, column in enumerate(found):
            size = Usual() if usual is None else usual[j]
            is_flagged = bool(is_significant[j]) and _is_large(column, size)
            columns.append(
                replace(
                    column,
                    significant=bool(is_significant[j]),
                    flagged=is_flagged,
                    loud=is_flagged and previous is not None and column.name in previous.flagged,
                    usual=size.moved,
                    profile=self._profile(j, pair) if is_flagged else None,
                )
            )
        return Verdict(
            level=_level(columns),
            flagged=tuple(column.name for column in columns if column.flagged),
            significant=tuple(column.name for column in columns if column.significant),
            matched_by=matched_by,
            note=self._note(matched_by, usual is not None),
            n=len(current.X),
            reference_size=effective_size(matched),
            current_size=effective_size(current.weight),
            columns=tuple(columns),
        )

    def _note(self, matched_by: str, is_usual_known: bool) -> str:
        """Return what to bear in mind."""
        notes = []
        if self.options.clock and not matched_by:
            notes.append(RHYTHM)
        if not is_usual_known:
            notes.append(SHORT)
        return " ".join(notes)

    def _profile(self, j: int, pair: _Pair) -> Profile:
        """Return both distributions of a column."""
        reference, current = pair.samples(j)
        values = self._columns[j].values
        if values is None:
            return drift_profiles.of_numbers(reference, current)
        return drift_profiles.of_category(values, reference, current)

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
        return replace(
            found,
            missing_before=float(reference.missing_share),
            p_value=min([1.0, *corrected]),
        )

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
        before, now = reference.shares(column.fine_edges), known.shares(column.fine_edges)
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
            total_variation=float(np.abs(now - before).sum() / 2),
            moved=usual_sizes.beyond_chance(before, now, 1 / n + 1 / m),
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
            moved=shift.moved,
            missing=float(current.missing_share),
            out_of_range=shift.unheard * (1 - float(current.missing_share)),
            value=values.word(shift.code),
            code=shift.code,
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


def _fine_quantiles(sample: Sample, n_bins: int) -> np.ndarray:
    """Return `_quantiles`, with those of the other values where a frequent one counts for several.

    Nine in ten amounts may be 0: what happens to the tenth has to be seen, too.
    """
    edges = _quantiles(sample, n_bins)
    is_other = ~np.isin(sample.values, edges)
    n_left = n_bins - len(edges)
    if n_left < 2 or not sample.weight[is_other].any():
        return edges
    others = Sample(sample.values[is_other], sample.weight[is_other])
    return np.union1d(edges, _quantiles(others, n_left))


def _steps(time_s: np.ndarray, period_s: int, step_s: int) -> np.ndarray:
    """Return in which step of its period each time is, (n,) int."""
    return (time_s % period_s // step_s).astype(np.int64)


def _weekday(time_s: np.ndarray) -> np.ndarray:
    return _steps(time_s, 7 * DAY_S, DAY_S)


def _dates(time_s: np.ndarray) -> np.ndarray:
    """Return on how many dates of each weekday there are times, (7,)."""
    days = np.unique(time_s // DAY_S)
    return np.bincount(_weekday(days * DAY_S), minlength=7)


def _is_large(found: ColumnDrift, usual: Usual) -> bool:
    """Return whether a difference is larger than those within the reference window."""
    sizes = [
        (found.moved or 0.0, usual.moved),
        (abs(found.missing - found.missing_before), usual.missing),
        (found.out_of_range, usual.beyond),
    ]
    if found.code is not None:
        of_value = abs((found.now or 0.0) - (found.before or 0.0))
        sizes.append((of_value, usual.value(found.code)))
    return any(size >= limit for size, limit in sizes)


def _level(columns: Sequence[ColumnDrift]) -> str:
    if any(column.loud for column in columns):
        return PERSISTENT
    return DRIFT if any(column.flagged for column in columns) else QUIET


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

    @classmethod
    def of_model(cls, model: Bundle, data: Arrays, block_s: float, *, clock: bool) -> Reference:
        """Return what is known when a model is deployed, with its own scores.

        Parameters
        ----------
        data : of reference and validation; of a shorter past, differences from one day to the next
            that are usual would be called drift
        block_s, clock : see `MonitorOptions`
        """
        options = MonitorOptions(
            block_s=block_s, clock=clock, categories=drift_categories.of_bundle(model)
        )
        return cls(model.features, data, model.anomaly_score(data.X), options)

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
