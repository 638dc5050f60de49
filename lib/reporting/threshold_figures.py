"""What the exported threshold finds: the figures that speak for a run, on its page and console.

The metrics at a budget review the top of each period's own ranking, which no server can know
beforehand. They stay in the tables of results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.data.budgets import Budget
from lib.evaluation import budget_table
from lib.evaluation.figures import Figure
from lib.reporting import names


@dataclass(frozen=True)
class Shown:
    """A figure under its name; `digits` and `kind` as in `lib.evaluation.figures.number`."""

    name: str
    figure: Figure
    digits: int = 2
    kind: str = "f"


def of_run(metrics: Mapping[str, Any]) -> tuple[str, list[Shown]]:
    """Return what the figures are of, and the figures; empty where no label judges the champion.

    They are of the threshold in use, on untouched where labels judge it there, else on validation;
    where no budget of the table has this threshold, of the top of the ranking.

    metrics : the run's metrics.json
    """
    entry = metrics.get("models", {}).get(names.champion_entry(metrics), {})
    period = names.period_shown(entry)
    if not period:
        return "", []
    budget = names.budget_of(metrics)
    words = names.headings(budget)
    ranking = entry[period]
    empty = {"value": None, "low": None, "high": None}
    precision = Shown(words["average_precision"], ranking.get("average_precision", empty))
    threshold = (metrics.get("champion") or {}).get("threshold")
    row = budget_table.in_use(metrics.get("by_budget") or [], threshold)
    if budget is not None and period in row:
        return f"What the threshold finds on the {period} period", [
            precision,
            *of_alerts(row[period], budget),
        ]
    found = [Shown(words[metric], ranking.get(metric, empty)) for metric in names.SHARES]
    return f"The top of the ranking on the {period} period", [precision, *found]


def of_alerts(figures: Mapping[str, Figure], budget: Budget) -> list[Shown]:
    """Return what the alerts of a threshold find in a period.

    figures : as `lib.evaluation.budget_table.figures` gives them
    """
    per_day = budget.transactions_per_day
    rate = figures["alert_rate"]
    if per_day is None:
        alerts = Shown("alerts", rate, 2, "%")
    else:
        counted = {end: None if share is None else share * per_day for end, share in rate.items()}
        alerts = Shown("alerts a day", counted, 0)
    return [
        alerts,
        Shown("precision", figures["precision"]),
        Shown("frauds found", figures["recall"], 0, "%"),
        Shown("money caught", figures["amount_recall"], 0, "%"),
        Shown("false alarms per fraud", figures["false_alarms_per_fraud"], 1),
    ]
