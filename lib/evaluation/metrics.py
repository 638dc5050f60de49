"""What a ranking of transactions is worth: weighted metrics, alert budgets, money.

Every score is a raw score, higher = more anomalous. Every figure counts weight, not rows: a
transaction of weight 2 is the same as two rows. Where fraud and genuine transactions tie, the
genuine ones are reviewed first. Transactions whose label is not known (y = -1) take no part in any
figure here. The intervals of the figures are in `lib.evaluation.intervals`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lib.data.datasets import UNLABELLED, Arrays
from lib.detectors.sampling import effective_size
from lib.evaluation import intervals
from lib.evaluation.intervals import Basis, Comparison

BUDGETS = (0.001, 0.002, 0.005, 0.01)
FPR = 0.01
RECALL_AT_FPR = f"recall_at_fpr_{FPR:g}"
ROUNDING = 1e-12  # relative; a share that is exactly FPR must not be lost to the last bit
# shorthands of the types below
Budgets = Mapping[str, float]  # suffix of a metric's name -> alert budget
Values = dict[str, np.ndarray]  # model or metric -> (n,) or (r,) float64
# internal name of the perfect ranking: frauds first, the dearest before the others
CEILING = "ceiling"


@dataclass(frozen=True)
class Outcomes:
    """What n transactions turned out to be; `lib.data.datasets.Arrays` has the same and more.

    Parameters
    ----------
    y : (n,) int, 1 = fraud, 0 = genuine, -1 = not known: such a row takes no part
    weight : (n,) float, inverse sampling probability
    time_s : (n,) float, seconds
    amount : (n,) float or None: money figures are then None. A negative amount is no loss and
        counts as 0.
    """

    y: np.ndarray
    weight: np.ndarray
    time_s: np.ndarray
    amount: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Outcomes:
        """Return the same of some rows: a boolean mask or positions."""
        return Outcomes(
            y=self.y[rows],
            weight=self.weight[rows],
            time_s=self.time_s[rows],
            amount=None if self.amount is None else self.amount[rows],
        )

    def money(self) -> np.ndarray:
        """Return what each transaction would lose (n,), NaN where there are no amounts."""
        if self.amount is None:
            return np.full(len(self.y), np.nan)
        return np.maximum(self.amount, 0.0)


@dataclass(frozen=True)
class Options:
    """What is computed of a ranking, and how its intervals are.

    Parameters
    ----------
    budgets : alert budgets, shares of the weight; their metrics end in `_0.001` and so on
    headline_budget : the one whose metrics carry no suffix
    block_s : length of a block of time (s); 0: `intervals.block_length` of the transactions
    n_resamples : of the blocks; 0: no intervals
    seed : of the resamples
    """

    budgets: Iterable[float] = BUDGETS
    headline_budget: float = 0.002
    block_s: float = 0.0
    n_resamples: int = 1000
    seed: int = 0

    def suffixes(self) -> dict[str, float]:
        """Return {suffix of a metric's name: alert budget}, the smallest budget first."""
        named = {}
        for budget in sorted({*self.budgets, self.headline_budget}):
            suffix = "" if budget == self.headline_budget else f"_{budget:g}"
            named[suffix] = budget
        return named


@dataclass(frozen=True)
class _Sums:
    """Weights down a ranking in r resamples; level j of k is the j-th highest score of a fraud."""

    above: np.ndarray  # (k, r) genuine weight that scores higher than the level
    at_least: np.ndarray  # (k, r) genuine weight that scores as high, or higher
    fraud: np.ndarray  # (k, r) weight of the frauds of the level
    money: np.ndarray  # (k, r) weighted amount of the frauds of the level
    n_genuine: np.ndarray  # (r,)
    n_fraud: np.ndarray  # (r,)


class _Ranking:
    """All that the metrics need to know of one model's ranking, block by block.

    With f_1 > … > f_k the distinct scores of frauds, `genuine` (2k + 1, n_blocks) holds genuine
    weight: rows 2j between f_j and f_(j+1), rows 2j + 1 tied with f_(j+1); `fraud` and `money` (k,
    n_blocks) hold weight and weighted amount of the frauds at f_1 … f_k. A resample of blocks is a
    product with its multiplicities.
    """

    def __init__(
        self,
        data: Outcomes,
        raw: np.ndarray,
        block: np.ndarray,
        n_blocks: int,
    ) -> None:
        fraud = (data.y == 1) & (data.weight > 0)
        genuine = data.y == 0
        levels = np.unique(raw[fraud])
        k = levels.size
        # np.unique ascends, the rows of the matrices descend
        n_lower = np.searchsorted(levels, raw[fraud])
        rank = k - 1 - n_lower
        genuine_raw = raw[genuine]
        n_below = np.searchsorted(levels, genuine_raw, "left")
        n_not_above = np.searchsorted(levels, genuine_raw, "right")
        gap = 2 * k - (n_below + n_not_above)  # odd where a genuine row ties with a level

        def matrix(values, row, rows, n):
            entries = (values[rows], (row, block[rows]))
            return sparse.coo_array(entries, shape=(n, n_blocks)).tocsr()

        self.levels = levels[::-1]
        self.genuine = matrix(data.weight, gap, genuine, 2 * k + 1)
        self.fraud = matrix(data.weight, rank, fraud, k)
        money = data.weight * data.money()
        self.money = matrix(money, rank, fraud, k)

    def sums(self, times: np.ndarray) -> _Sums:
        """Add up the ranking for times (n_blocks, r), how often each block is drawn."""
        reviewed = np.cumsum(self.genuine @ times, axis=0)
        fraud = self.fraud @ times
        return _Sums(
            above=reviewed[:-1:2],
            at_least=reviewed[1::2],
            fraud=fraud,
            money=self.money @ times,
            n_genuine=reviewed[-1],
            n_fraud=fraud.sum(axis=0),
        )

    def evaluate(self, times: np.ndarray, budgets: Budgets) -> Values:
        """Return metrics (r,) for times (n_blocks, r), how often each block is drawn.

        Undefined ones are NaN: without any fraud there is no recall.
        """
        sums = self.sums(times)
        with np.errstate(divide="ignore", invalid="ignore"):
            n_all = sums.n_fraud + sums.n_genuine
            found = {
                "average_precision": _average_precision(sums),
                "roc_auc": _roc_auc(sums),
                RECALL_AT_FPR: _recall_at_fpr(sums),
                "prevalence": sums.n_fraud / n_all,
            }
            for suffix, budget in budgets.items():
                found |= _at_budget(sums, budget, suffix)
        return found


def _average_precision(sums: _Sums) -> np.ndarray:
    caught = np.cumsum(sums.fraud, axis=0)
    reviewed = caught + sums.at_least
    precision = np.where(caught > 0, caught / reviewed, 0.0)
    weighted = sums.fraud * precision
    return weighted.sum(axis=0) / sums.n_fraud


def _roc_auc(sums: _Sums) -> np.ndarray:
    # a genuine transaction that ties counts half, as in the Mann-Whitney statistic
    not_lower = (sums.above + sums.at_least) / 2
    lower = sums.n_genuine - not_lower
    won = sums.fraud * lower
    n_pairs = sums.n_fraud * sums.n_genuine
    return won.sum(axis=0) / n_pairs


def _recall_at_fpr(sums: _Sums) -> np.ndarray:
    most = FPR * (1 + ROUNDING) * sums.n_genuine
    allowed = sums.at_least <= most
    # without a genuine transaction there is no false positive rate
    is_defined = sums.n_genuine > 0
    counted = np.where(is_defined, allowed, np.nan)
    counted_fraud = sums.fraud * counted
    caught = counted_fraud.sum(axis=0)
    return caught / sums.n_fraud


def _at_budget(sums: _Sums, budget: float, suffix: str) -> Values:
    """Return the three metrics of an alert budget, under names that end in `suffix`."""
    size = budget * (sums.n_fraud + sums.n_genuine)
    caught = np.cumsum(sums.fraud, axis=0)
    # weight reviewed before the frauds of each level: with ties the genuine ones come first
    before = sums.at_least + caught - sums.fraud
    # the last transaction counts fractionally
    found = np.clip(size - before, 0.0, sums.fraud)
    share = np.where(sums.fraud > 0, found / sums.fraud, 0.0)
    n_found = found.sum(axis=0)
    money_found = sums.money * share
    money_caught = money_found.sum(axis=0)
    money_at_stake = sums.money.sum(axis=0)
    return {
        f"recall_at_budget{suffix}": n_found / sums.n_fraud,
        f"precision_at_budget{suffix}": n_found / size,
        f"amount_recall_at_budget{suffix}": money_caught / money_at_stake,
    }


def compare(
    data: Arrays | Outcomes,
    raw_scores: Mapping[str, np.ndarray],
    options: Options = Options(),
) -> Comparison:
    """Score every model on the same transactions, with 95 % intervals from the same resamples.

    Metrics, all "higher is better": average_precision, recall_at_budget, precision_at_budget,
    amount_recall_at_budget (others with _0.001 …), recall_at_fpr_0.01, roc_auc; and as yardsticks
    the prevalence (average precision of a random ranking) and ceiling_… of the three budget
    metrics: what the perfect ranking reaches at that budget, the dearest frauds first.

    With fewer than 20 blocks or 10 frauds the intervals are exact binomial for the shares (recall
    over the frauds, precision and prevalence over the transactions, both as Kish's effective
    numbers) and None else. Where no row has a label every figure is None.

    Parameters
    ----------
    data : n transactions
    raw_scores : {model: (n,) float}, higher = more anomalous

    Raises
    ------
    ValueError
        No weight at all, other lengths, a number that is not finite, a label besides 0, 1 and -1.
    """
    outcomes, scores = _labelled(*_checked(data, raw_scores))
    budgets = options.suffixes()
    block_s = options.block_s or intervals.block_length(outcomes.time_s)
    block = intervals.blocks(outcomes.time_s, block_s)
    of_frauds = outcomes.weight[outcomes.y == 1]
    n_blocks = block.max() + 1
    n_labelled = np.count_nonzero(outcomes.weight)
    n_frauds = np.count_nonzero(of_frauds)
    basis = Basis(
        block_s=float(block_s),
        n_blocks=int(n_blocks),
        n_labelled=int(n_labelled),
        n_frauds=int(n_frauds),
    )
    scores[CEILING] = _perfect_scores(outcomes)
    rankings = {}
    for name, raw in scores.items():
        rankings[name] = _Ranking(outcomes, raw, block, basis.n_blocks)
    draws = _resample(rankings, budgets, basis, options)
    trials = {}
    if basis.no_interval and options.n_resamples:
        trials = _trials(outcomes, budgets)

    each_once = np.ones((basis.n_blocks, 1))
    figures = {}
    for name, ranking in rankings.items():
        found = ranking.evaluate(each_once, budgets)
        figures[name] = _with_intervals(found, draws[name], trials)
    ceiling = {}
    for metric, figure in figures[CEILING].items():
        if "budget" in metric:
            ceiling[f"ceiling_{metric}"] = figure
    return Comparison(
        metrics={model: figures[model] | ceiling for model in raw_scores},
        draws={model: draws[model] for model in raw_scores},
        basis=basis,
    )


def evaluate(
    data: Arrays | Outcomes,
    raw_scores: Mapping[str, np.ndarray],
    options: Options = Options(),
) -> dict:
    """Return only the metrics of `compare`: {model: {metric: {"value", "low", "high"}}}."""
    return compare(data, raw_scores, options).metrics


def _checked(data, raw_scores) -> tuple[Outcomes, Values]:
    """Return outcomes and scores as arrays of numbers; ValueError for what cannot be evaluated."""
    amount = data.amount
    if amount is not None:
        amount = np.asarray(amount, np.float64)
    outcomes = Outcomes(
        y=np.asarray(data.y),
        weight=np.asarray(data.weight, np.float64),
        time_s=np.asarray(data.time_s, np.float64),
        amount=amount,
    )
    has_weight = outcomes.weight.sum() > 0
    if not has_weight:
        raise ValueError("there is no transaction with weight to evaluate")
    is_label = np.isin(outcomes.y, (0, 1, UNLABELLED))
    if not is_label.all():
        raise ValueError("labels must be 0 (genuine), 1 (fraud) or -1 (not known)")
    shape = outcomes.y.shape
    scores = {}
    for name, raw in raw_scores.items():
        scores[name] = np.asarray(raw, np.float64)
        _check_column(f"raw score of {name}", scores[name], shape)
    _check_column("weight", outcomes.weight, shape)
    _check_column("time_s", outcomes.time_s, shape)
    if outcomes.amount is not None:
        _check_column("amount", outcomes.amount, shape)
    return outcomes, scores


def _check_column(what: str, values: np.ndarray, shape: tuple) -> None:
    if values.shape != shape:
        raise ValueError(f"{what} has shape {values.shape}, the labels have {shape}")
    odd = np.flatnonzero(~np.isfinite(values))
    if odd.size:
        row = odd[0]
        raise ValueError(f"{what} of row {row} is {values[row]}; a finite number is needed")


def _labelled(outcomes: Outcomes, scores: Values) -> tuple[Outcomes, Values]:
    """Return the rows with a label.

    Where there is none, it is one genuine row without weight: all figures are then undefined, and
    nothing has to ask whether there are any rows.
    """
    rows = np.flatnonzero(outcomes.y != UNLABELLED)
    if not rows.size:
        rows = np.array([0])
        nothing = np.zeros_like(outcomes.weight)
        genuine = np.zeros_like(outcomes.y)
        outcomes = Outcomes(genuine, nothing, outcomes.time_s, outcomes.amount)
    known = {}
    for name, raw in scores.items():
        known[name] = raw[rows]
    return outcomes.take(rows), known


def _perfect_scores(outcomes: Outcomes) -> np.ndarray:
    """Return scores (n,) that rank all frauds first, the dearest before the others."""
    worth = np.zeros(len(outcomes.y))
    if outcomes.amount is not None:
        worth = outcomes.money()
    return np.where(outcomes.y == 1, worth, -1.0)


def _resample(rankings, budgets, basis: Basis, options: Options) -> dict:
    """Return values (n_resamples,) of every model and metric on the same resamples of blocks."""
    n_resamples = 0 if basis.no_interval else options.n_resamples
    each_once = np.ones((basis.n_blocks, 1))
    # every model has the same metrics
    some_model = next(iter(rankings.values()))
    names = some_model.evaluate(each_once, budgets)
    draws = {}
    for model in rankings:
        draws[model] = {metric: np.empty(n_resamples) for metric in names}
    # a ranking has up to 2 n_frauds + 1 rows of genuine weight, its multiplicities n_blocks
    rows = max(basis.n_blocks, 2 * basis.n_frauds + 1)
    chunk = max(1, intervals.CHUNK // rows)
    chunks = intervals.resamples(basis.n_blocks, n_resamples, chunk, options.seed)
    for where, times in chunks:
        for model, ranking in rankings.items():
            for metric, values in ranking.evaluate(times, budgets).items():
                draws[model][metric][where] = values
    return draws


def _trials(outcomes: Outcomes, budgets: Budgets) -> dict[str, float]:
    """Return the number of trials behind each share: Kish's effective rows, (Σ w)² / Σ w²."""
    n_rows = effective_size(outcomes.weight)
    n_frauds = effective_size(outcomes.weight[outcomes.y == 1])
    trials = {"prevalence": n_rows, RECALL_AT_FPR: n_frauds}
    for suffix, budget in budgets.items():
        trials[f"recall_at_budget{suffix}"] = n_frauds
        trials[f"precision_at_budget{suffix}"] = budget * n_rows
    return trials


def _with_intervals(found: Values, draws: Values, trials: Mapping) -> dict[str, dict]:
    """Return the figure of each metric: exact binomial where `trials` has it, else resampled."""
    figures = {}
    for metric, values in found.items():
        value = float(values[0])
        if metric in trials and np.isfinite(value):
            figures[metric] = intervals.clopper_pearson(value, trials[metric])
        else:
            figures[metric] = intervals.figure(value, draws[metric])
    return figures


@dataclass(frozen=True)
class Levels:
    """A ranking at each of the k distinct scores of its frauds, the highest first.

    Parameters
    ----------
    score : (k,)
    genuine : (k,) genuine weight that scores as high, or higher
    fraud, money : (k,) weight and weighted amount of the frauds with this score
    """

    score: np.ndarray
    genuine: np.ndarray
    fraud: np.ndarray
    money: np.ndarray


def levels(
    y: np.ndarray,
    raw: np.ndarray,
    weight: np.ndarray,
    amount: np.ndarray | None = None,
) -> Levels:
    """Return a ranking of raw scores (n,) at the scores of its frauds; y and weight are (n,)."""
    n = len(y)
    if amount is not None:
        amount = np.asarray(amount)
    outcomes = Outcomes(
        y=np.asarray(y, np.float64),
        weight=np.asarray(weight, np.float64),
        time_s=np.zeros(n),
        amount=amount,
    )
    ranking = _Ranking(
        outcomes,
        np.asarray(raw, np.float64),
        block=np.zeros(n, dtype=int),
        n_blocks=1,
    )
    reviewed = np.cumsum(ranking.genuine.sum(axis=1))
    return Levels(
        score=ranking.levels,
        genuine=reviewed[1::2],
        fraud=ranking.fraud.sum(axis=1),
        money=ranking.money.sum(axis=1),
    )


def precision_recall_curve(
    y: np.ndarray,
    raw: np.ndarray,
    weight: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return recall, precision and threshold, each (k,), of y, raw and weight, each (n,).

    One point for each distinct score of a fraud, the highest first.
    """
    at = levels(y, raw, weight)
    caught = np.cumsum(at.fraud)
    recall = caught / caught[-1:]
    precision = caught / (caught + at.genuine)
    return recall, precision, at.score


def average_precision(y: np.ndarray, raw: np.ndarray, weight: np.ndarray) -> float:
    """Return the average precision of y, raw and weight, each (n,); NaN without a known fraud."""
    recall, precision, _ = precision_recall_curve(y, raw, weight)
    if not recall.size:
        return np.nan
    gained = np.diff(recall, prepend=0.0)
    return float(gained @ precision)


def money_curve(
    y: np.ndarray,
    raw: np.ndarray,
    weight: np.ndarray,
    amount: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of transactions reviewed and of fraud money caught, for arrays of shape (n,).

    They are the corners of a rising line from 0, 0 to 1, 1.
    """
    at = levels(y, raw, weight, amount)
    is_unlabelled = np.equal(y, UNLABELLED)
    n_labelled = np.sum(np.where(is_unlabelled, 0.0, weight))
    # money rises only while frauds are reviewed: two corners a level, before and after them
    frauds = np.cumsum(at.fraud)
    before = at.genuine + frauds - at.fraud
    after = before + at.fraud
    reviewed = np.column_stack([before, after]).ravel()
    money = np.cumsum(at.money)
    money_before = money - at.money
    caught = np.column_stack([money_before, money]).ravel()
    total = at.money.sum()
    share_reviewed = np.r_[0.0, reviewed / n_labelled, 1.0]
    # frauds of no amount: the line stays at 0
    share_caught = np.r_[0.0, caught, total] / (total or 1.0)
    return share_reviewed, share_caught
