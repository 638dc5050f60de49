"""From which raw score on a transaction is an alert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.bundle.calibration import threshold_for_budget
from lib.data.datasets import Arrays
from lib.evaluation.metrics import Levels, Outcomes, levels

RULES = ("alert_budget", "max_f1", "min_cost")


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    Parameters
    ----------
    name : 'alert_budget' alerts at most that share of the weight and needs no labels; 'max_f1' has
        the highest F1; 'min_cost' the lowest sum of `alert_cost_eur` an alert and the amounts of
        the frauds that are not alerted
    alert_budget : share of the weight, 0 to 1
    alert_cost_eur : what it costs to review one alert, in the unit of the amounts
    """

    name: str = "alert_budget"
    alert_budget: float = 0.002
    alert_cost_eur: float = 10.0


def pick_threshold(
    raw: np.ndarray,
    data: Arrays | Outcomes,
    rule: Rule = Rule(),
) -> float:
    """Return the raw score at or above which a transaction is an alert.

    Ties go to the higher threshold, fewer alerts. Where no alert at all is best, it is the float
    above the maximum.

    Parameters
    ----------
    raw : (n,) float, higher = more anomalous
    data : the transactions' labels, weights and amounts

    Raises
    ------
    ValueError
        For an unknown rule, or one that needs labels or amounts which are missing.
    """
    if rule.name not in RULES:
        raise ValueError(f"unknown threshold rule '{rule.name}'; known: {', '.join(RULES)}")
    if rule.name == "alert_budget":
        return threshold_for_budget(raw, data.weight, rule.alert_budget)
    is_fraud = np.asarray(data.y) == 1
    if not np.any(data.weight[is_fraud] > 0):
        raise ValueError(f"the threshold rule '{rule.name}' needs labels with at least one fraud")
    at = levels(data.y, raw, data.weight, data.amount)
    if rule.name == "max_f1":
        return _max_f1(at)
    if data.amount is None:
        raise ValueError(
            "the threshold rule 'min_cost' needs amounts; the dataset's description names none"
        )
    return _min_cost(at, np.max(raw), rule.alert_cost_eur)


def _max_f1(at: Levels) -> float:
    caught = np.cumsum(at.fraud)
    alerts = caught + at.genuine
    # F1 = 2 TP / (alerts + frauds); only at a fraud's score can it be highest
    n_frauds = caught[-1]
    f1 = 2 * caught / (alerts + n_frauds)
    best = np.argmax(f1)
    return float(at.score[best])


def _min_cost(at: Levels, highest: float, alert_cost_eur: float) -> float:
    lost = at.money.sum()
    alerts = np.cumsum(at.fraud) + at.genuine
    saved = np.cumsum(at.money)
    cost_of_level = alert_cost_eur * alerts + lost - saved
    # the first choice is to alert nothing and to lose all
    nothing = np.nextafter(highest, np.inf)
    cost = np.r_[lost, cost_of_level]
    threshold = np.r_[nothing, at.score]
    best = np.argmin(cost)
    return float(threshold[best])
