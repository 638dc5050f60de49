"""Simulated raw card payments: what a bank has before anybody has derived a feature.

Each row names a card, a merchant, a category and two places; most of what tells fraud from genuine
is in the history of the card and of the merchant. The three kinds of fraud take up the scenarios of
Le Borgne, Siblini, Lebichot and Bontempi, *Reproducible Machine Learning for Credit Card Fraud
Detection – Practical Handbook* (2022): amounts that are too large, compromised terminals, stolen
credentials. People and merchants are described in `lib.data.payment_world`, the frauds in
`lib.data.payment_frauds`.
"""

import numpy as np
import pandas as pd

from lib.data import payment_frauds, payment_world
from lib.data.payment_frauds import KINDS
from lib.data.payment_world import NAMES, Country, Payments
from lib.data.simulation import Drift
from lib.errors import DataError

COLUMNS = (
    "transaction",
    "paid_at",
    "card",
    "merchant",
    "category",
    "amount",
    "home_lat",
    "home_long",
    "merchant_lat",
    "merchant_long",
    "fraud",
)
MIN_ROWS = 2_000  # below, the periods hold too few frauds
PREVALENCE = 0.007
MIN_FRAUDS = 60  # about; below 8,600 rows they are more than `PREVALENCE`
UNCATEGORISED = 0.005  # share of the rows whose category is missing
LEAST_EUR = 0.5

# all prices rise: `strength` multiplies amounts
INFLATION = Drift(
    what="inflation",
    features=("amount",),
    first_batch=3,
    strength=1.25,
)
# `share` of the payments move to online merchants, whatever the card's habit was
ONLINE = Drift(
    what="online",
    features=("category", "merchant", "merchant_lat", "merchant_long"),
    first_batch=4,
    strength=1.0,
    share=0.15,
)
# the shares of the kinds of fraud change from `share` to `later` (`KINDS`): more stolen credentials
# of cards that are then used often, fewer merchants that leak for weeks
TACTICS = Drift(
    what="fraud",
    features=("amount", "category", "card", "merchant", "merchant_lat", "merchant_long"),
    first_batch=5,
    strength=1.0,
)
DRIFTS = (INFLATION, ONLINE, TACTICS)


def simulate(n: int = 100_000, seed: int = 0, *, drift: bool = True) -> pd.DataFrame:
    """Simulate 180 days of card payments from 2024-01-01 on, in time order.

    With more rows there are more cards and merchants, and a card's history stays about as long: a
    card pays 0.6 times a day on average. Another seed draws other people, merchants and frauds.

    Parameters
    ----------
    n : int, number of payments, at least 2,000
    seed : int, draws everything; the same seed gives the same table on one platform
    drift : bool; False leaves out all of `DRIFTS`

    Returns
    -------
    DataFrame (n rows) with
        transaction : str, identifies the payment, such as "T0000001"; unique
        paid_at : datetime64[s, UTC]
        card : str, such as "C00001"
        merchant : str, such as "M0001"
        category : str, what the merchant sells; missing in one row of two hundred
        amount : float64, euro and cents
        home_lat, home_long : float64, degrees, where the card's owner lives
        merchant_lat, merchant_long : float64, degrees
        fraud : int64, 1 = fraud

    Raises
    ------
    DataError if n is below 2,000.

    Notes
    -----
    About 0.7 % of the payments are frauds, of three kinds (`fraud_kinds` names them):

    - *large*: a single amount of six to fifteen times the card's mean.
    - *compromised*: for four to eight weeks, nine in ten payments at a merchant are frauds, of
      amounts that are usual there; nothing but the merchant's past tells them.
    - *stolen*: a thief uses the details of a card for half a day to three days, six to twelve
      times, around the clock, in a city of his own or online, for goods that can be sold, at two to
      six times the amounts that the card usually pays for them. The owner goes on paying.

    Genuine payments look like them at times: holidays and day trips far away, merchants that sell
    to the whole country, expensive purchases, days with many payments, new cards.

    In the last 30 % of the rows, ten equal batches, three things change (`DRIFTS`): from batch 3 on
    all amounts are 25 % higher; from batch 4 on 15 % of the genuine payments move online; from
    batch 5 on the tactics shift from compromised merchants and large amounts (65 % of the frauds
    before, 30 % after) to stolen credentials (35 %, then 70 %). The rows before are those of the
    simulation without drift.
    """
    country, payments = _simulated(n, seed, drift)
    return _table(country, payments, seed)


def fraud_kinds(n: int = 100_000, seed: int = 0, *, drift: bool = True) -> pd.Series:
    """Return the kind (see `KINDS`) of every fraud in ``simulate(n, seed, drift=drift)``.

    Parameters
    ----------
    n, seed, drift
        As in :func:`simulate`.

    Returns
    -------
    Series of str, indexed by the row of the fraud, ascending; one fraud a row.
    """
    _, payments = _simulated(n, seed, drift)
    rows = np.flatnonzero(payments.kind >= 0)
    names = np.array(list(KINDS), dtype=object)
    return pd.Series(names[payments.kind[rows]], index=rows, name="kind")


def _simulated(n: int, seed: int, drift: bool) -> tuple[Country, Payments]:
    """Return who pays, and what is paid."""
    if n < MIN_ROWS:
        raise DataError(
            f"rows is {n}; a simulation needs at least {MIN_ROWS:,} for its periods to hold frauds"
        )
    # a stream for each: what one part draws does not change the next
    of_country, of_payments, of_frauds, of_drift = _streams(seed, 4)
    country = payment_world.draw_country(of_country, n)
    place = np.arange(n) / n
    is_moved = of_drift.random(n) < ONLINE.share
    moves_online = drift & is_moved & (place >= ONLINE.begins)
    payments = payment_world.draw_genuine(of_payments, country, n, moves_online)
    has_shifted = drift & (place >= TACTICS.begins)
    n_frauds = max(round(PREVALENCE * n), MIN_FRAUDS)
    payment_frauds.commit(of_frauds, country, payments, n_frauds, has_shifted)
    if drift:
        payments.amount[place >= INFLATION.begins] *= INFLATION.strength
    return country, payments


def _streams(seed, n_streams):
    """Return independent generators."""
    return [np.random.default_rng([seed, stream]) for stream in range(n_streams)]


def _table(country: Country, payments: Payments, seed: int) -> pd.DataFrame:
    """Return the payments as a bank would store them."""
    n = len(payments.time_s)
    cards, merchants = country.cards, country.merchants
    card, merchant = payments.card, payments.merchant
    category = NAMES[payments.category]
    is_unknown = np.random.default_rng([seed, 4]).random(n) < UNCATEGORISED
    category[is_unknown] = None
    amount = np.maximum(payments.amount, LEAST_EUR)
    columns = {
        "transaction": [f"T{number:07d}" for number in range(1, n + 1)],
        "paid_at": payment_world.instants(payments.time_s),
        "card": cards.name[card],
        "merchant": merchants.name[merchant],
        "category": category,
        "amount": np.round(amount, 2),
        "home_lat": np.round(cards.lat, 5)[card],
        "home_long": np.round(cards.long, 5)[card],
        "merchant_lat": np.round(merchants.lat, 5)[merchant],
        "merchant_long": np.round(merchants.long, 5)[merchant],
        "fraud": (payments.kind >= 0).astype(np.int64),
    }
    return pd.DataFrame(columns, copy=False)
