"""What one model finds at several budgets: thresholds decided on validation, held on any period.

Unlike the metrics at a budget in `lib.evaluation.metrics`, which review the top of each period's
own ranking, these figures are of the alerts that a threshold fires, as a server would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

import numpy as np

from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.data.budgets import Budget, count
from lib.data.datasets import UNLABELLED, Arrays
from lib.detectors.sampling import effective_size
from lib.evaluation import intervals
from lib.evaluation.metrics import Outcomes

Figures = dict[str, dict]  # {metric: {"value", "low", "high"}}
ENOUGH = 0.5  # of the budget: a threshold that fires less leaves reviewers without work
MANY = 2.0  # times the budget: a threshold that fires more leaves most alerts without a reviewer


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Parameters
    ----------
    block_s : length of a block of time (s), the same for all periods
    n_resamples : of the blocks; 0: no intervals
    seed : of the resamples
    """

    block_s: float
    n_resamples: int = 1000
    seed: int = 0


def thresholds(raw: np.ndarray, weight: np.ndarray, budgets: Sequence[Budget]) -> list[float]:
    """Return the raw score from which on each budget's transactions are alerts.

    raw, weight : (n,) of validation; no label is needed
    """
    return [threshold_for_budget(raw, weight, budget.share) for budget in budgets]


def figures(
    data: Arrays | Outcomes,
    raw: np.ndarray,
    thresholds: Sequence[float],
    resampling: Resampling,
) -> list[Figures]:
    """Return what the alerts of each threshold find in a period, with 95 % intervals.

    `alert_rate`, `precision`, `recall`, `amount_recall`, `false_alarms_per_fraud`: weighted; None
    where no label, or no amount, says anything. Intervals of alert rate, precision and recall are
    the wider of two, of resampled blocks and exact binomial; with few frauds or blocks of time only
    the latter. Money has none where all resamples are alike.

    Parameters
    ----------
    data : n transactions
    raw : (n,) raw scores of one model, higher = more anomalous
    """
    sums = _Sums.of(data, raw, thresholds, resampling.block_s)
    each_once = np.ones((sums.n_blocks, 1))
    found = _shares(sums, each_once)
    basis = _basis(data, sums.n_blocks, resampling.block_s)
    n_resamples = 0 if basis.no_interval else resampling.n_resamples
    draws = {name: np.empty((len(thresholds), n_resamples)) for name in found}
    chunk = max(1, intervals.CHUNK // sums.n_blocks)
    for where, times in intervals.resamples(sums.n_blocks, n_resamples, chunk, resampling.seed):
        for name, values in _shares(sums, times).items():
            draws[name][:, where] = values
    rows = []
    for i, threshold in enumerate(thresholds):
        row = {name: intervals.figure(found[name][i, 0], draws[name][i]) for name in found}
        exact = _exact(data, raw >= threshold, row)
        row = {name: intervals.honest(row[name], exact.get(name)) for name in row}
        row["false_alarms_per_fraud"] = _per_fraud(row["precision"])
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Sums:
    """Weights by threshold and block of time; k thresholds.

    Parameters
    ----------
    alerts, judged, caught, money_caught : (k, n_blocks) weight of all alerts, of those with a
        label, of frauds among them, and the money of these frauds
    rows, frauds, money : (n_blocks,) weight of all transactions, of all frauds, and their money
    """

    alerts: np.ndarray
    judged: np.ndarray
    caught: np.ndarray
    money_caught: np.ndarray
    rows: np.ndarray
    frauds: np.ndarray
    money: np.ndarray

    @property
    def n_blocks(self) -> int:
        return len(self.rows)

    @classmethod
    def of(
        cls, data: Arrays | Outcomes, raw: np.ndarray, thresholds: Sequence[float], block_s: float
    ) -> _Sums:
        weight = np.asarray(data.weight, np.float64)
        block = intervals.blocks(np.asarray(data.time_s, np.float64), block_s)
        fraud = np.where(data.y == 1, weight, 0.0)
        judged = np.where(data.y != UNLABELLED, weight, 0.0)
        money = np.full(len(weight), np.nan)
        if data.amount is not None:
            money = fraud * np.maximum(data.amount, 0.0)
        alerted = [raw >= threshold for threshold in thresholds]

        def by_block(of_row: np.ndarray) -> np.ndarray:
            return np.bincount(block, of_row, minlength=block.max() + 1)

        def of_alerts(of_row: np.ndarray) -> np.ndarray:
            return np.array([by_block(np.where(alert, of_row, 0.0)) for alert in alerted])

        return cls(
            alerts=of_alerts(weight),
            judged=of_alerts(judged),
            caught=of_alerts(fraud),
            money_caught=of_alerts(money),
            rows=by_block(weight),
            frauds=by_block(fraud),
            money=by_block(money),
        )


def _shares(sums: _Sums, times: np.ndarray) -> dict[str, np.ndarray]:
    """Return metrics (k, r) for times (n_blocks, r), how often each block is drawn."""
    caught = sums.caught @ times
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "alert_rate": (sums.alerts @ times) / (sums.rows @ times),
            "precision": caught / (sums.judged @ times),
            "recall": caught / (sums.frauds @ times),
            "amount_recall": (sums.money_caught @ times) / (sums.money @ times),
        }


def _basis(data: Arrays | Outcomes, n_blocks: int, block_s: float) -> intervals.Basis:
    has_weight = np.asarray(data.weight) > 0
    n_labelled = int(np.count_nonzero(has_weight & (data.y != UNLABELLED)))
    n_frauds = int(np.count_nonzero(has_weight & (data.y == 1)))
    return intervals.Basis(block_s, n_blocks, n_labelled, n_frauds)


def _exact(data: Arrays | Outcomes, alert: np.ndarray, row: Mapping[str, dict]) -> Figures:
    """Return rate, precision and recall with exact binomial intervals, where they are known."""
    weight = np.asarray(data.weight)
    trials = {
        "alert_rate": weight,
        "precision": weight[alert & (data.y != UNLABELLED)],
        "recall": weight[data.y == 1],
    }
    found = {}
    for metric, of_trials in trials.items():
        value = row[metric]["value"]
        if value is not None:
            found[metric] = intervals.clopper_pearson(value, effective_size(of_trials))
    return found


def _per_fraud(precision: Mapping[str, Any]) -> dict:
    """Return false alarms for each fraud that is found, (1 - p) / p; None where p is 0."""

    def turned(share: float | None) -> float | None:
        return (1 - share) / share if share else None

    return {
        "value": turned(precision["value"]),
        # the better the precision, the fewer false alarms
        "low": turned(precision["high"]),
        "high": turned(precision["low"]),
    }


def in_use(rows: Sequence[Mapping[str, Any]], threshold: float | None) -> Mapping[str, Any]:
    """Return the row of the budget that decides, where its threshold is the one in use; else {}.

    A champion of other data, or of another rule than the budget, has a threshold of its own.

    rows : as `as_json` gives them; threshold : of the champion, an anomaly score
    """
    for row in rows:
        if row["decides"] and threshold is not None and isclose(row["threshold"], threshold):
            return row
    return {}


def off_budget(row: Mapping[str, Any], budget: Budget) -> list[str]:
    """Return a remark where a threshold fires far from its budget on untouched; else [].

    Under half of it, or more than twice as much.

    row : of the threshold in use, see `in_use`
    """
    rate = row.get("untouched", {}).get("alert_rate", {}).get("value")
    if rate is None or ENOUGH * budget.share <= rate <= MANY * budget.share:
        return []
    fired = Budget(rate, budget.transactions_per_day).short if rate else "no alert"
    if rate and budget.reviews_per_day is not None:
        fired = f"{count(rate * budget.transactions_per_day)} alerts a day"
    more = "-p alert_budget" if budget.reviews_per_day is None else "-p reviews_per_day"
    highest = "highest scores" if budget.reviews_per_day is None else "highest scores of each day"
    if rate > budget.share:
        return [
            f"On untouched the threshold fires {fired}, of {budget.short} that people can review: "
            "scores have risen since validation. What the threshold finds is found by whoever "
            f"reviews all of these; the tables say what {budget.short} find. Retrain on newer "
            f"transactions, or review the {highest}, whatever the threshold says."
        ]
    return [
        f"On untouched the threshold fires {fired}, of {budget.short} that people can review: "
        f"scores have fallen since validation. Set a larger budget ({more}), or review the "
        f"{highest}, whatever the threshold says."
    ]


def as_json(
    budgets: Sequence[Budget],
    thresholds: Sequence[float],
    calibration: Calibration,
    periods: Mapping[str, Sequence[Figures]],
    deciding: Budget,
) -> list[dict[str, Any]]:
    """Return the table as plain data, a row a budget.

    Parameters
    ----------
    thresholds : raw scores, decided on validation
    calibration : of the model: thresholds are given in the unit of anomaly scores
    periods : {"validation" or "untouched": what `figures` gives}
    deciding : the budget that the threshold in use was set for
    """
    anomaly_scores = calibration.apply(np.array(thresholds))
    rows = []
    for i, budget in enumerate(budgets):
        rows.append(
            {
                "alert_budget": budget.share,
                "reviews_per_day": budget.reviews_per_day,
                "threshold": float(anomaly_scores[i]),
                "decides": budget == deciding,
                **{period: found[i] for period, found in periods.items()},
            }
        )
    return rows
