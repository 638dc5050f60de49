"""What a detector is worth: weighted metrics, alert budgets, money, and 95 % intervals by a block
bootstrap.

Every score is a raw score, higher = more anomalous. Every figure counts weight, not rows: a
transaction of weight 2 is the same as two rows. Where fraud and genuine transactions tie, the
genuine ones are reviewed first. Transactions whose label is not known (y = -1) take no part in any
figure here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy import sparse
from scipy.special import betaincinv

from lib.bundle.calibration import threshold_for_budget
from lib.detectors.sampling import effective_size

BUDGETS = (0.001, 0.002, 0.005, 0.01)
FPR = 0.01  # of recall_at_fpr_0.01
# with fewer, a bootstrap interval would pretend to a precision it lacks
MIN_BLOCKS, MIN_FRAUDS = 20, 10
BLOCK_S = 600.0  # length of a block of time, where that leaves enough of them
ENOUGH_BLOCKS = 30  # that a chosen length leaves at least, where there are so many instants
UNLABELLED = -1  # y of a transaction whose label is not known; lib.data.datasets has the same
CHUNK = 4_000_000  # numbers held at once per array while resampling
_LENGTHS = (BLOCK_S, 300.0, 120.0, 60.0, 30.0, 20.0)
_LENGTHS += tuple(
    round(step * 10.0**power, 9) for power in range(1, -7, -1) for step in (1.0, 0.5, 0.2)
)
# internal name of the perfect ranking: frauds first, the dearest before the others
CEILING = "ceiling"


class _Ranking:
    """All that the metrics need to know of one model's ranking, block by block.

    With f_1 > … > f_k the distinct scores of frauds, `genuine` (2k + 1, n_blocks) holds genuine
    weight: rows 2j between f_j and f_(j+1), rows 2j + 1 tied with f_(j+1); `fraud` and `money` (k,
    n_blocks) hold weight and weighted amount of the frauds at f_1 … f_k. A resample of blocks is a
    product with its multiplicities.
    """

    def __init__(self, y, raw, weight, amount, block, n_blocks):
        fraud, genuine = (y == 1) & (weight > 0), y == 0
        levels = np.unique(raw[fraud])
        k = levels.size
        rank = k - 1 - np.searchsorted(levels, raw[fraud])
        gap = 2 * k - sum(np.searchsorted(levels, raw[genuine], side) for side in ("left", "right"))
        money = weight * (np.nan if amount is None else np.maximum(amount, 0.0))

        def matrix(values, row, rows, n):
            return sparse.coo_array((values[rows], (row, block[rows])), shape=(n, n_blocks)).tocsr()

        self.levels = levels[::-1]
        self.genuine = matrix(weight, gap, genuine, 2 * k + 1)
        self.fraud, self.money = matrix(weight, rank, fraud, k), matrix(money, rank, fraud, k)

    def evaluate(self, times, budgets):
        """Metrics (r,), NaN if undefined, for times (n_blocks, r), how often each block is
        drawn.
        """
        reviewed = np.cumsum(self.genuine @ times, axis=0)
        n_genuine = reviewed[-1]
        # genuine weight above, and at or above, each f_j
        above, at_least = reviewed[:-1:2], reviewed[1::2]
        fraud = self.fraud @ times
        caught = np.cumsum(fraud, axis=0)
        n_fraud = fraud.sum(axis=0)
        money = self.money @ times
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(caught > 0, caught / (caught + at_least), 0.0)
            allowed = np.where(n_genuine > 0, at_least <= FPR * (1 + 1e-12) * n_genuine, np.nan)
            out = {
                "average_precision": (fraud * precision).sum(axis=0) / n_fraud,
                "roc_auc": (fraud * (n_genuine - (above + at_least) / 2)).sum(axis=0)
                / (n_fraud * n_genuine),
                f"recall_at_fpr_{FPR:g}": (fraud * allowed).sum(axis=0) / n_fraud,
                "prevalence": n_fraud / (n_fraud + n_genuine),
            }
            before = at_least + caught - fraud  # weight reviewed before the frauds of this level
            for end, budget in budgets.items():
                size = budget * (n_fraud + n_genuine)
                # the last transaction counts fractionally
                found = np.clip(size - before, 0.0, fraud)
                saved = money * np.where(fraud > 0, found / fraud, 0.0)
                out[f"recall_at_budget{end}"] = found.sum(axis=0) / n_fraud
                out[f"precision_at_budget{end}"] = found.sum(axis=0) / size
                out[f"amount_recall_at_budget{end}"] = saved.sum(axis=0) / money.sum(axis=0)
        return out


@dataclass(frozen=True)
class Basis:
    """What figures and intervals rest on: labelled transactions with weight, and blocks of time
    that hold them.
    """

    block_s: float
    n_blocks: int
    n_labelled: int
    n_frauds: int

    @property
    def no_interval(self) -> str:
        """Why average precision and the like have no interval; empty where they have one."""
        if not self.n_labelled:
            return "no transaction has a label"
        if self.n_frauds < MIN_FRAUDS:
            return f"{self.n_frauds} labelled frauds, {MIN_FRAUDS} are needed"
        if self.n_blocks < MIN_BLOCKS:
            return f"{self.n_blocks} blocks of time, {MIN_BLOCKS} are needed"
        return ""

    def __str__(self) -> str:
        if not self.n_labelled:
            return "No transaction has a label: there are no metrics."
        rows = f"{self.n_labelled:,} labelled transactions with {self.n_frauds:,} frauds"
        if self.no_interval:
            return f"{rows}. No intervals from resampled blocks of time: {self.no_interval}."
        return (
            f"{rows}. Intervals: {self.n_blocks:,} blocks of {duration(self.block_s)}, resampled."
        )

    def to_dict(self) -> dict:
        """Return what json.dumps takes."""
        return asdict(self) | {"no_interval": self.no_interval}


@dataclass(frozen=True)
class Comparison:
    """Metrics of several models on the same transactions, and on the same resamples of their
    blocks.

    `metrics[model][metric]` is {"value", "low", "high"}: floats, or None where a figure is
    undefined; `draws[model][metric]` (n_resamples,) holds the resampled values, empty where they
    carry no interval; `basis` says what they rest on.
    """

    metrics: dict
    draws: dict
    basis: Basis = Basis(BLOCK_S, 0, 0, 0)

    def difference(self, first, second, metric):
        """metric of `first` minus metric of `second`, with the 95 % interval of the paired
        resamples.
        """
        values = [self.metrics[model][metric]["value"] for model in (first, second)]
        value = np.nan if None in values else values[0] - values[1]
        return _figure(value, self.draws[first][metric] - self.draws[second][metric])


def _figure(value, draws=()):
    draws = np.asarray(draws)[np.isfinite(draws)]  # a resample without any fraud has no recall
    low, high = np.percentile(draws, [2.5, 97.5]).tolist() if draws.size else (None, None)
    known = np.isfinite(value)
    return {
        "value": float(value) if known else None,
        "low": low if known else None,
        "high": high if known else None,
    }


def duration(seconds: float) -> str:
    """Write a length of time as people do: `600 s`, `2.5 h`, `30 d`."""
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.3g} d"
    if seconds >= 3_600:
        return f"{seconds / 3_600:.3g} h"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def block_length(time_s) -> float:
    """Choose the length of the blocks of time (s) that intervals are resampled in.

    600 s, within which the data set of cards is dependent, where that leaves 30 blocks with
    transactions; else the longest of 300, 120, 60, 30, 20, 10, 5, 2, 1, 0.5, … that does. Where
    there are fewer instants than that, as in a table of days, each instant ends up in a block of
    its own: no rows of one instant are ever parted.

    time_s : (n,) float, seconds, in any order; of validation, so that all periods have blocks of
        one length
    """
    instants = np.unique(np.asarray(time_s, np.float64))
    wanted = min(ENOUGH_BLOCKS, instants.size)
    for length in _LENGTHS:
        if np.unique(np.floor(instants / length)).size >= wanted:
            return length
    return _LENGTHS[-1]


def clopper_pearson(share, n):
    """Exact binomial 95 % interval of an observed share of n trials (Clopper and Pearson,
    Biometrika 1934).

    n may be an effective number of rows, not a whole one. Returns {"value", "low", "high"}.
    """
    hits = min(share, 1.0) * n
    low = betaincinv(hits, n - hits + 1, 0.025) if hits > 0 else 0.0
    high = betaincinv(hits + 1, n - hits, 0.975) if hits < n else 1.0
    return {"value": float(share), "low": float(low), "high": float(high)}


def compare(  # noqa: PLR0913 - what a figure rests on, by name
    y,
    raw_scores,
    weight,
    time_s,
    amount=None,
    *,
    budgets=BUDGETS,
    headline_budget=0.002,
    block_s=0.0,
    n_resamples=1000,
    seed=0,
):
    """Score every model on the same transactions; 95 % percentile intervals from resampled blocks
    of time.

    Parameters
    ----------
    y : (n,) int, 1 = fraud, 0 = genuine, -1 = not known: such a row takes no part.
    raw_scores : dict of model -> (n,) float, higher = more anomalous.
    weight : (n,) float, inverse sampling probability.
    time_s : (n,) float, seconds; blocks are [i block_s, (i + 1) block_s), those with transactions
        are drawn.
    amount : (n,) float or None: money figures are then None. A negative amount is no loss and
        counts as 0.
    budgets : alert budgets, shares of the weight; metrics at `headline_budget` carry no suffix.
    block_s : length of a block (s); 0: :func:`block_length` of these transactions.

    Returns
    -------
    Comparison. Metrics, all "higher is better": average_precision, recall_at_budget,
    precision_at_budget, amount_recall_at_budget (others with _0.001 …), recall_at_fpr_0.01,
    roc_auc; and as yardsticks the prevalence (average precision of a random ranking) and ceiling_…
    of the three budget metrics: what the perfect ranking reaches at that budget, the dearest frauds
    first. With fewer than 20 blocks or 10 frauds the intervals are exact binomial for the shares
    (recall over the frauds, precision and prevalence over the transactions, both as Kish's
    effective numbers) and None else. Where no row has a label every figure is None.

    Raises ValueError: no weight at all, other lengths, a number that is not finite, a label besides
    0, 1 and -1.
    """
    y, weight, time_s = (
        np.asarray(y),
        np.asarray(weight, np.float64),
        np.asarray(time_s, np.float64),
    )
    amount = None if amount is None else np.asarray(amount, np.float64)
    scores = {name: np.asarray(raw, np.float64) for name, raw in raw_scores.items()}
    _check(y, scores, weight, time_s, amount)
    y, scores, weight, time_s, amount = _labelled(y, scores, weight, time_s, amount)
    budgets = {
        "" if b == headline_budget else f"_{b:g}": b for b in sorted({*budgets, headline_budget})
    }
    block_s = block_s or block_length(time_s)
    block = np.unique(np.floor(time_s / block_s), return_inverse=True)[1]
    n_frauds = int(np.count_nonzero(weight[y == 1]))
    basis = Basis(float(block_s), int(block.max()) + 1, int(np.count_nonzero(weight)), n_frauds)
    scores[CEILING] = np.where(y == 1, 0.0 if amount is None else np.maximum(amount, 0.0), -1.0)
    rankings = {
        name: _Ranking(y, raw, weight, amount, block, basis.n_blocks)
        for name, raw in scores.items()
    }
    point = {
        name: r.evaluate(np.ones((basis.n_blocks, 1)), budgets) for name, r in rankings.items()
    }
    draws = _resample(rankings, budgets, basis, 0 if basis.no_interval else n_resamples, seed)
    exact = _trials(weight, y, budgets) if basis.no_interval and n_resamples else {}

    def figure(name, metric):
        value = float(point[name][metric][0])
        if metric in exact and np.isfinite(value):
            return clopper_pearson(value, exact[metric])
        return _figure(value, draws[name][metric])

    ceiling = {
        f"ceiling_{metric}": figure(CEILING, metric)
        for metric in point[CEILING]
        if "budget" in metric
    }
    metrics = {name: {m: figure(name, m) for m in point[name]} | ceiling for name in raw_scores}
    return Comparison(metrics, {name: draws[name] for name in raw_scores}, basis)


def _labelled(y, scores, weight, time_s, amount):
    """The same arrays for the rows with a label; where there is none, one genuine row without
    weight.
    """
    rows = np.flatnonzero(y != UNLABELLED)
    if not rows.size:
        rows, y, weight = np.array([0]), np.zeros_like(y), np.zeros_like(weight)
    amount = None if amount is None else amount[rows]
    return (
        y[rows],
        {name: raw[rows] for name, raw in scores.items()},
        weight[rows],
        time_s[rows],
        amount,
    )


def _resample(rankings, budgets, basis, n_resamples, seed):
    """Values (n_resamples,) of every model and metric on the same resamples of the blocks."""
    n_blocks, rng = basis.n_blocks, np.random.default_rng(seed)
    metrics = next(iter(rankings.values())).evaluate(np.ones((n_blocks, 1)), budgets)
    draws = {name: {metric: np.empty(n_resamples) for metric in metrics} for name in rankings}
    step = max(1, CHUNK // max(n_blocks, 2 * basis.n_frauds + 1))
    for start in range(0, n_resamples, step):
        drawn = (
            rng.integers(n_blocks, size=n_blocks) for _ in range(min(step, n_resamples - start))
        )
        times = np.column_stack([np.bincount(d, minlength=n_blocks) for d in drawn]).astype(
            np.float64
        )
        for name, ranking in rankings.items():
            for metric, values in ranking.evaluate(times, budgets).items():
                draws[name][metric][start : start + step] = values
    return draws


def _trials(weight, y, budgets):
    """Number of trials behind each share: Kish's effective rows, (sum w)^2 / sum w^2."""
    every, frauds = (effective_size(w) for w in (weight, weight[y == 1]))
    trials = {"prevalence": every, f"recall_at_fpr_{FPR:g}": frauds}
    trials |= {f"recall_at_budget{end}": frauds for end in budgets}
    return trials | {f"precision_at_budget{end}": budget * every for end, budget in budgets.items()}


def evaluate(y, raw_scores, weight, time_s, amount=None, **options):
    """Return only the metrics of `compare`, see there.

    {model: {metric: {"value", "low", "high"}}}
    """
    return compare(y, raw_scores, weight, time_s, amount, **options).metrics


def _check(y, scores, weight, time_s, amount):
    if not weight.sum() > 0:
        raise ValueError("there is no transaction with weight to evaluate")
    if not np.isin(y, (0, 1, UNLABELLED)).all():
        raise ValueError("labels must be 0 (genuine), 1 (fraud) or -1 (not known)")
    named = {f"raw score of {name}": raw for name, raw in scores.items()} | {
        "weight": weight,
        "time_s": time_s,
    }
    for what, values in (named if amount is None else named | {"amount": amount}).items():
        if values.shape != y.shape:
            raise ValueError(f"{what} has shape {values.shape}, the labels have {y.shape}")
        for row in np.flatnonzero(~np.isfinite(values)):
            raise ValueError(f"{what} of row {row} is {values[row]}; a finite number is needed")


def _levels(y, raw, weight, amount=None):
    """At each distinct fraud score, descending: genuine weight at or above, fraud weight, fraud
    money.
    """
    arrays = [np.asarray(values, np.float64) for values in (y, raw, weight)]
    ranking = _Ranking(
        *arrays, None if amount is None else np.asarray(amount), np.zeros(len(y), dtype=int), 1
    )
    at_least = np.cumsum(ranking.genuine.sum(axis=1))
    return ranking.levels, at_least[1::2], ranking.fraud.sum(axis=1), ranking.money.sum(axis=1)


def precision_recall_curve(y, raw, weight):
    """Return recall (k,), precision (k,), threshold (k,) of labels and raw scores (n,).

    One point for each distinct score of a fraud, descending.
    """
    threshold, genuine, fraud, _ = _levels(y, raw, weight)
    caught = np.cumsum(fraud)
    return caught / caught[-1:], caught / (caught + genuine), threshold


def average_precision(y, raw, weight):
    """Return the average precision of raw scores (n,), of labelled rows only.

    NaN where no fraud is known.
    """
    recall, precision, _ = precision_recall_curve(y, raw, weight)
    return float(np.diff(recall, prepend=0.0) @ precision) if recall.size else np.nan


def money_curve(y, raw, weight, amount):
    """Return which share of the fraud money is caught when a share of transactions is reviewed.

    Of labels, raw scores, weights and amounts (n,): the corners of a rising line from 0, 0 to 1, 1.
    """
    _, genuine, fraud, money = _levels(y, raw, weight, amount)
    before = genuine + np.cumsum(fraud) - fraud
    x = np.column_stack([before, before + fraud]).ravel() / np.sum(
        np.where(np.equal(y, UNLABELLED), 0.0, weight)
    )
    gain = np.column_stack([np.cumsum(money) - money, np.cumsum(money)]).ravel()
    return np.r_[0.0, x, 1.0], np.r_[0.0, gain, money.sum()] / (money.sum() or 1.0)


def pick_threshold(  # noqa: PLR0913 - what a figure rests on, by name
    raw, weight, rule="alert_budget", *, budget=0.002, y=None, amount=None, alert_cost_eur=10.0
):
    """Return the raw score at or above which a transaction is an alert.

    raw, weight, y, amount : (n,), of all validation transactions
    rule : 'alert_budget' alerts at most `budget` of the weight and needs no labels; 'max_f1' has
        the highest F1; 'min_cost' the lowest sum of `alert_cost_eur` an alert and the amounts of
        the frauds not alerted.
    Ties go to the higher threshold, fewer alerts. Where no alert at all is best, the float above
    the maximum.
    """
    if rule == "alert_budget":
        return threshold_for_budget(raw, weight, budget)
    if rule not in ("max_f1", "min_cost"):
        raise ValueError(f"unknown threshold rule '{rule}'; known: alert_budget, max_f1, min_cost")
    if y is None or not np.any(np.asarray(y) == 1):
        raise ValueError(f"the threshold rule '{rule}' needs labels with at least one fraud")
    level, genuine, fraud, money = _levels(y, raw, weight, amount)
    caught = np.cumsum(fraud)
    if rule == "max_f1":
        return float(level[np.argmax(2 * caught / (caught + genuine + caught[-1]))])
    if amount is None:
        raise ValueError(
            "the threshold rule 'min_cost' needs amounts; the dataset's description names none"
        )
    cost = np.r_[money.sum(), alert_cost_eur * (caught + genuine) + money.sum() - np.cumsum(money)]
    return float(np.r_[np.nextafter(np.max(raw), np.inf), level][np.argmin(cost)])
