"""The three kinds of fraud in simulated payments, written over genuine ones.

A fraud takes the place of a genuine payment at that instant, so that the number of rows and the
rhythm of the day stay as they are. `KINDS` says how many there are of each kind, and how many once
the tactics have shifted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lib.data.payment_world import (
    DAY_S,
    N_DAYS,
    SHARE,
    TYPICAL_EUR,
    WANTED,
    Country,
    Payments,
    draw_amounts,
)

GOLDEN_RATIO = 1.618033988749895

STOLEN_PAYMENTS = (6, 13)  # that a thief makes with one card, the upper bound left out
STOLEN_DAYS = (0.5, 3.0)  # for which the card is misused
STOLEN_TIMES = (2.0, 6.0)  # amounts, in multiples of what the card usually spends on that
COMPROMISED_DAYS = (28.0, 56.0)  # until somebody notices
COMPROMISED_RATE = 0.9  # share of the merchant's payments that are frauds
LARGE_TIMES = (6.0, 15.0)  # amounts, in multiples of the card's mean
MEAN_EUR = SHARE @ TYPICAL_EUR  # of a card at level 1, about


@dataclass(frozen=True)
class Plan:
    """How many frauds of one kind there are to be.

    Attributes
    ----------
    number : int
        Expected over the whole span, if there were as many throughout as at the worst time.
    rate : ndarray (n,)
        Share of these that happen at each row.
    """

    number: int
    rate: NDArray


@dataclass(frozen=True)
class Kind:
    """A kind of fraud: its share of the frauds before and after the tactics shift."""

    share: float
    later: float
    commit: Callable[[Generator, Country, Payments, Plan], NDArray]


def commit(
    rng: Generator, country: Country, payments: Payments, n_frauds: int, has_shifted: NDArray
) -> None:
    """Turn about `n_frauds` of the payments into frauds, in place.

    Parameters
    ----------
    has_shifted : (n,), whether the tactics have shifted at a row
    """
    for position, kind in enumerate(KINDS.values()):
        most = max(kind.share, kind.later)
        share = np.where(has_shifted, kind.later, kind.share)
        plan = Plan(round(n_frauds * most), share / most)
        rows = kind.commit(rng, country, payments, plan)
        payments.kind[rows] = position


def _steal(rng, country, payments, plan):
    """Let thieves use the details of a card for a few days, while its owner goes on paying.

    A thief pays in a city of his own or online, around the clock, what can be sold, more often than
    the owner and several times as much.
    """
    n = len(payments.time_s)
    n_thefts = max(round(plan.number / np.mean(np.arange(*STOLEN_PAYMENTS))), 1)
    first = _evenly(rng, n_thefts, n)  # row of the payment at which the details were copied
    happens = rng.random(n_thefts) < plan.rate[first]
    city = rng.choice(len(country.size), n_thefts, p=country.size)
    duration_s = rng.uniform(*STOLEN_DAYS, n_thefts) * DAY_S
    count = rng.integers(*STOLEN_PAYMENTS, n_thefts)
    theft = np.repeat(np.arange(n_thefts), count)  # (m,), of each payment of a thief
    m = len(theft)
    time_s = payments.time_s[first[theft]] + rng.random(m) * duration_s[theft]
    category = rng.choice(len(WANTED), m, p=WANTED / WANTED.sum())
    merchant = country.merchants.draw(city[theft], category, rng.random(m))
    card = payments.card[first[theft]]
    amount = draw_amounts(rng, country, card, merchant) * rng.uniform(*STOLEN_TIMES, m)
    rows = np.searchsorted(payments.time_s, time_s)
    is_within = (rows < n) & happens[theft]
    # where two thieves want the same row, the earlier theft gets it
    rows, winner = np.unique(rows[is_within], return_index=True)
    payments.card[rows] = card[is_within][winner]
    payments.category[rows] = category[is_within][winner]
    payments.merchant[rows] = merchant[is_within][winner]
    payments.amount[rows] = amount[is_within][winner]
    return rows


def _compromise(rng, country, payments, plan):
    """Let some busy merchants leak for weeks: most payments there are frauds, of usual amounts."""
    n = len(payments.time_s)
    is_fraud = payments.kind >= 0
    begins, ends = _leaks(rng, country, payments, plan.number)
    day = payments.time_s / DAY_S
    is_open = (day >= begins[payments.merchant]) & (day < ends[payments.merchant])
    is_drawn = rng.random(n) < COMPROMISED_RATE * plan.rate
    return np.flatnonzero(is_open & is_drawn & ~is_fraud)


def _leaks(rng, country, payments, number):
    """Return the days on which each merchant (M,) begins and ceases to leak; never: infinity."""
    n_merchants = len(country.merchants.name)
    # what happens late in the span, and may drift, has no say in who leaks
    early = len(payments.time_s) // 2
    early_s = payments.time_s[early] + 1
    count = np.bincount(payments.merchant[:early], minlength=n_merchants)
    per_day = count * (DAY_S / early_s)
    # thieves want merchants with many customers; the largest are guarded, and one of them would
    # outweigh all other leaks
    times = per_day / per_day.mean()
    is_worth_it = (times >= 1.0) & (times <= 2.5)
    order = rng.permutation(np.flatnonzero(is_worth_it))
    m = len(order)
    # golden steps: however many leaks are needed, they lie evenly over the span
    place = (np.arange(m) / GOLDEN_RATIO + rng.random()) % 1
    longest = COMPROMISED_DAYS[1]
    begins = place * (N_DAYS + longest) - longest
    ends = begins + rng.uniform(*COMPROMISED_DAYS, m)
    days_within = np.clip(ends, 0, N_DAYS) - np.clip(begins, 0, N_DAYS)
    expected = COMPROMISED_RATE * per_day[order] * days_within
    # as many leaks as come nearest to the number
    leaks = expected.cumsum() - expected / 2 < number
    begins_of = np.full(n_merchants, np.inf)
    ends_of = np.full(n_merchants, np.inf)
    begins_of[order[leaks]] = begins[leaks]
    ends_of[order[leaks]] = ends[leaks]
    return begins_of, ends_of


def _enlarge(rng, country, payments, plan):
    """Make single payments unusually large for their card."""
    n = len(payments.time_s)
    rows = _evenly(rng, plan.number, n)
    happens = rng.random(len(rows)) < plan.rate[rows]
    times = rng.uniform(*LARGE_TIMES, len(rows))
    is_free = payments.kind[rows] < 0
    chosen = happens & is_free
    rows = rows[chosen]
    level = country.cards.level[payments.card[rows]]
    payments.amount[rows] = level * MEAN_EUR * times[chosen]
    return rows


def _evenly(rng, m, n):
    """Return m of the rows 0 ... n - 1, ascending, at random but evenly over the span."""
    place = (np.arange(m) + rng.random(m)) / m
    return (place * n).astype(np.int64)


KINDS = {
    # first: it writes over whole payments, the others over what has been paid
    "stolen": Kind(
        share=0.35,
        later=0.70,
        commit=_steal,
    ),
    "compromised": Kind(
        share=0.45,
        later=0.20,
        commit=_compromise,
    ),
    "large": Kind(
        share=0.20,
        later=0.10,
        commit=_enlarge,
    ),
}
