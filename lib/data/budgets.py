"""How much people can review, in both units: a share of all transactions, and reviews a day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.errors import DataError

DAY_S = 86_400
UNITS = ("alert_budget", "reviews_per_day")  # the same in two units: one of them decides
COUNTED = ("reference", "validation")  # the periods that decisions may know
N_LADDER = 8  # budgets in a table of budgets
N_SMALLER = 3  # of them below the one that decides
STEPS = (1, 2, 5)
APART = 1.1  # a neighbour of the deciding budget differs from it by more than this factor


@dataclass(frozen=True)
class Budget:
    """What people can review; print it for both units: `285 of 142,403 transactions a day (0.2 %)`.

    Parameters
    ----------
    share : of all transactions, above 0 and below 1
    transactions_per_day : weight a day of the table; None where it has no time, or too little
    """

    share: float
    transactions_per_day: float | None = None

    @property
    def reviews_per_day(self) -> float | None:
        """Reviews a day; None where nobody can tell how many transactions a day has."""
        if self.transactions_per_day is None:
            return None
        return self.share * self.transactions_per_day

    @property
    def short(self) -> str:
        """`285 a day`, or `0.2 %` of a table without a time: for the heads of columns."""
        if self.reviews_per_day is None:
            return percent(self.share)
        return f"{count(self.reviews_per_day)} a day"

    def __str__(self) -> str:
        if self.transactions_per_day is None:
            return f"{percent(self.share)} of the transactions"
        own, of = count(self.reviews_per_day), count(self.transactions_per_day)
        return f"{own} of {of} transactions a day ({percent(self.share)})"


def count(value: float) -> str:
    """Return a number of reviews as people say it: `285`, `2.5`."""
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:,.2g}"


def percent(share: float) -> str:
    """Return a share as people write it, in three digits: `0.2 %`."""
    return f"{100 * share:.3g} %"


def transactions_per_day(manifest: Mapping[str, Any]) -> float | None:
    """Return the weight a day of a split's reference and validation, from its splits.json.

    None where the table has no time, or these periods span less than a day.
    """
    if manifest["time"] == "rows":
        return None
    days = _days(manifest)
    if days < 1:
        return None
    weight = sum(manifest["periods"][name]["weight"] for name in COUNTED)
    return weight / days


def _days(manifest: Mapping[str, Any]) -> float:
    first, last = (manifest["periods"][name] for name in COUNTED)
    return (last["end_s"] - first["start_s"]) / DAY_S


def check_one(alert_budget: float | None, reviews_per_day: int | None) -> None:
    """Raise ValueError, a sentence, where a budget is given in both units."""
    if alert_budget and reviews_per_day:
        raise ValueError(
            f"alert_budget ({alert_budget:g}) and reviews_per_day ({reviews_per_day:,}) are the "
            "same budget in two units; leave one out"
        )


def from_reviews(reviews_per_day: int, manifest: Mapping[str, Any]) -> Budget:
    """Return the budget of so many reviews a day on the table of a split.

    Raises
    ------
    DataError
        The table cannot say how many transactions a day has, or has no more than are reviewed.
    """
    name = manifest["dataset"]["name"]
    asked = f"reviews_per_day is {reviews_per_day:,}"
    instead = "give alert_budget, a share of the transactions, instead"
    if reviews_per_day < 1:
        raise DataError(f"{asked}; expected 1 or more")
    if manifest["time"] == "rows":
        raise DataError(f"{asked}, but {name} has no time, and so no days; {instead}")
    per_day = transactions_per_day(manifest)
    if per_day is None:
        hours = 24 * _days(manifest)
        raise DataError(
            f"{asked}, but reference and validation of {name} span {hours:.1f} hours, too short to "
            f"tell how many transactions a day has; {instead}"
        )
    if reviews_per_day >= per_day:
        raise DataError(
            f"{asked}, but {name} has {count(per_day)} transactions a day; expected fewer reviews"
        )
    return Budget(reviews_per_day / per_day, per_day)


def ladder(budget: Budget) -> list[Budget]:
    """Return eight budgets around one that decides, ascending: 1, 2, 5, 10, 20, 50 … reviews a day.

    Without days, the same round steps as shares.
    """
    unit = 1.0 if budget.transactions_per_day is None else budget.transactions_per_day
    own = budget.share * unit
    # no fewer than one review a day; half of all transactions is no review any more
    least = 1e-5 if budget.transactions_per_day is None else 1.0
    most = 0.5 * unit
    round_ones = [step * 10.0**power for power in range(-5, 12) for step in STEPS]
    allowed = [size for size in round_ones if least <= size <= most]
    below = [size for size in allowed if size * APART < own]
    above = [size for size in allowed if size > own * APART]
    n_below = max(N_SMALLER, N_LADDER - 1 - len(above))
    smaller = below[-n_below:]
    larger = above[: N_LADDER - 1 - len(smaller)]
    around = [Budget(size / unit, budget.transactions_per_day) for size in (*smaller, *larger)]
    return sorted([budget, *around], key=lambda each: each.share)
