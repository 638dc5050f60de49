"""Who pays where: the cards, merchants and cities of simulated payments, and genuine behaviour.

A city has merchants of every local category; travel and online merchants sell to the whole country,
so that a payment far from home is nothing unusual. Every card has its own frequency, level of
amounts, mix of categories, favourites, hours of the day and weekends. What looks like fraud and is
none is part of it: holidays far away, day trips, expensive purchases, busy days, new cards.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

START = "2024-01-01"  # a Monday
N_DAYS = 180
DAY_S = 86_400
PER_CARD_DAY = 0.6  # payments of a card on an average day
PER_MERCHANT_DAY = 0.6
MIN_MERCHANTS = 60  # so that few payments still have a choice
MERCHANTS_A_CITY = 25


@dataclass(frozen=True)
class Category:
    """What is sold.

    Attributes
    ----------
    share : float
        Of the payments of an average card.
    typical : float
        Median amount, euro.
    is_local : bool
        Bought in the city where the card is; else from anywhere.
    wanted : float
        Share of what a thief buys.
    """

    share: float
    typical: float
    is_local: bool = True
    wanted: float = 0.0


CATEGORIES = {
    "groceries": Category(share=0.26, typical=32, wanted=0.05),
    "fuel": Category(share=0.10, typical=48, wanted=0.05),
    "restaurants": Category(share=0.15, typical=24, wanted=0.05),
    "clothing": Category(share=0.08, typical=52, wanted=0.17),
    "electronics": Category(share=0.04, typical=95, wanted=0.23),
    "health": Category(share=0.07, typical=22, wanted=0.05),
    "household": Category(share=0.07, typical=40, wanted=0.10),
    "leisure": Category(share=0.08, typical=20, wanted=0.05),
    "travel": Category(share=0.03, typical=120, is_local=False, wanted=0.05),
    "online": Category(share=0.12, typical=35, is_local=False, wanted=0.20),
}
NAMES = np.array(list(CATEGORIES), dtype=object)
SHARE = np.array([category.share for category in CATEGORIES.values()])
TYPICAL_EUR = np.array([category.typical for category in CATEGORIES.values()])
WANTED = np.array([category.wanted for category in CATEGORIES.values()])
IS_LOCAL = np.array([category.is_local for category in CATEGORIES.values()])
ONLINE = list(CATEGORIES).index("online")

# a country of about 900 by 600 km
LATITUDE = (43.5, 50.5)
LONGITUDE = (-1.0, 7.5)
CITY_SPREAD = 0.08  # degrees, of the homes and shops of a city

AWAY_SHARE = 0.06  # of the payments outside holidays: day trips to another city
FAVOURITE_SHARE = 0.5  # of the payments go to the card's usual merchant of a category
HOLIDAY_SHARE = 0.7  # of the cards go away once
HOLIDAY_FREQUENCY = 1.5  # payments a day, in multiples of the usual
HOLIDAY_PRICE = 1.4  # amounts, in multiples of the usual
NEW_SHARE = 0.2  # of the cards are first used within the span
BUSY_SHARE = 0.01  # of the days of a card
BUSY_FREQUENCY = 4.0  # payments on such a day, in multiples of the usual
EXPENSIVE_SHARE = 0.006  # of the payments
EXPENSIVE_TIMES = (2.0, 7.0)  # what they cost, in multiples of the usual


@dataclass(frozen=True)
class Merchants:
    """M merchants in G groups: one group a city and local category, one a national category."""

    name: NDArray  # (M,), text
    category: NDArray  # (M,), position in `CATEGORIES`
    lat: NDArray  # (M,), degrees
    long: NDArray  # (M,), degrees
    price: NDArray  # (M,), multiplies amounts
    group: NDArray  # (M,), ascending
    popular: NDArray  # (M + 1,), popularity of all merchants before each
    first: NDArray  # (G + 1,), position of each group's first merchant

    def draw(self, city: NDArray, category: NDArray, lot: NDArray) -> NDArray:
        """Return a merchant (n,) of each city and category (n,): the popular ones more often.

        Parameters
        ----------
        lot : (n,), in [0, 1); the same lot finds the same merchant again
        """
        group = group_of(city, category)
        first = self.first[group]
        end = self.first[group + 1]
        low = self.popular[first]
        high = self.popular[end]
        wanted = low + lot * (high - low)
        found = np.searchsorted(self.popular, wanted, side="right") - 1
        # rounding must not lead into the next group
        return np.clip(found, first, end - 1)


@dataclass(frozen=True)
class Cards:
    """The habits of C cards."""

    name: NDArray  # (C,), text
    city: NDArray  # (C,)
    lat: NDArray  # (C,), degrees, of the home
    long: NDArray  # (C,), degrees
    level: NDArray  # (C,), multiplies amounts
    frequency: NDArray  # (C,), payments a day, relative to other cards
    weekend: NDArray  # (C,), payments on a day of the weekend, in multiples of a weekday's
    peak_h: NDArray  # (C,), hour of the day around which it pays
    spread_h: NDArray  # (C,), standard deviation around it
    taste: NDArray  # (C, K), shares of the categories; 0 for what it never buys
    favourite: NDArray  # (C, K), lot of its usual merchant, see `Merchants.draw`
    first_day: NDArray  # (C,), 0 for a card that was in use before
    leaves: NDArray  # (C,), first day of the holiday; N_DAYS if there is none
    returns: NDArray  # (C,), day after the holiday
    resort: NDArray  # (C,), city of the holiday


@dataclass
class Payments:
    """n payments in time order; frauds are written over the genuine ones."""

    time_s: NDArray  # (n,), whole seconds since `START`
    card: NDArray  # (n,), position in Cards
    category: NDArray  # (n,), position in `CATEGORIES`
    merchant: NDArray  # (n,), position in Merchants
    amount: NDArray  # (n,), euro
    kind: NDArray  # (n,), int8: -1 = genuine, else the position of the kind of fraud


@dataclass(frozen=True)
class Country:
    """Where everybody lives."""

    lat: NDArray  # (T,), degrees, of the cities
    long: NDArray  # (T,), degrees
    size: NDArray  # (T,), shares of the population, add up to 1
    merchants: Merchants
    cards: Cards


def group_of(city: NDArray, category: NDArray) -> NDArray:
    """Return the group of merchants (n,) that serves each city and category (n,).

    National categories come first: their groups do not depend on the number of cities.
    """
    n_local = IS_LOCAL.sum()
    n_national = len(IS_LOCAL) - n_local
    rank = np.where(IS_LOCAL, IS_LOCAL.cumsum(), (~IS_LOCAL).cumsum()) - 1
    of_city = n_national + city * n_local + rank[category]
    return np.where(IS_LOCAL[category], of_city, rank[category])


def draw_country(rng: Generator, n: int) -> Country:
    """Return a country whose cards make about n payments."""
    n_merchants = round(n / N_DAYS / PER_MERCHANT_DAY)
    n_merchants = max(n_merchants, MIN_MERCHANTS)
    n_cities = np.clip(n_merchants // MERCHANTS_A_CITY, 3, 60)
    lat = rng.uniform(*LATITUDE, n_cities)
    long = rng.uniform(*LONGITUDE, n_cities)
    size = 1 / np.arange(2, n_cities + 2)  # Zipf's law, without a city that dwarfs the others
    size /= size.sum()
    cities = (lat, long, size)
    merchants = _draw_merchants(rng, n_merchants, cities)
    n_cards = max(round(n / N_DAYS / PER_CARD_DAY), 1)
    cards = _draw_cards(rng, n_cards, cities)
    return Country(lat, long, size, merchants, cards)


def _draw_merchants(rng, n_merchants, cities):
    lat, long, size = cities
    n_cities = len(size)
    n_categories = len(CATEGORIES)
    # one of each category in each city, so that nobody looks for a merchant in vain
    every_city = np.repeat(np.arange(n_cities), n_categories)
    every_category = np.tile(np.arange(n_categories), n_cities)
    n_more = max(n_merchants - len(every_city), 0)
    city = np.concatenate([every_city, rng.choice(n_cities, n_more, p=size)])
    category = np.concatenate([every_category, rng.choice(n_categories, n_more, p=SHARE)])
    group = group_of(city, category)
    order = np.argsort(group, kind="stable")
    city, category, group = city[order], category[order], group[order]
    m = len(city)
    n_groups = group[-1] + 1
    popularity = rng.lognormal(0, 0.5, m)
    return Merchants(
        name=_names(rng, "M", m, 4),
        category=category,
        lat=lat[city] + rng.normal(0, CITY_SPREAD, m),
        long=long[city] + rng.normal(0, CITY_SPREAD, m),
        price=rng.lognormal(0, 0.2, m),
        group=group,
        popular=np.concatenate([[0.0], popularity.cumsum()]),
        first=np.searchsorted(group, np.arange(n_groups + 1)),
    )


def _draw_cards(rng, n_cards, cities):
    lat, long, size = cities
    n_cities = len(size)
    shape = (n_cards, len(CATEGORIES))
    city = rng.choice(n_cities, n_cards, p=size)
    is_new = rng.random(n_cards) < NEW_SHARE
    goes_away = rng.random(n_cards) < HOLIDAY_SHARE
    leaves = np.where(goes_away, rng.integers(0, N_DAYS, n_cards), N_DAYS)
    return Cards(
        name=_names(rng, "C", n_cards, 5),
        city=city,
        lat=lat[city] + rng.normal(0, CITY_SPREAD, n_cards),
        long=long[city] + rng.normal(0, CITY_SPREAD, n_cards),
        level=rng.lognormal(0, 0.5, n_cards),
        frequency=rng.lognormal(0, 0.5, n_cards),
        weekend=rng.lognormal(0, 0.4, n_cards),
        peak_h=rng.normal(14.5, 2.5, n_cards),
        spread_h=rng.uniform(2.0, 4.5, n_cards),
        taste=_draw_tastes(rng, shape),
        favourite=rng.random(shape),
        first_day=np.where(is_new, rng.integers(1, N_DAYS, n_cards), 0),
        leaves=leaves,
        returns=leaves + rng.integers(4, 15, n_cards),
        resort=rng.integers(0, n_cities, n_cards),
    )


def _draw_tastes(rng, shape):
    """Return shares of the categories (C, K); a card leaves out about one in five of them."""
    taste = SHARE * rng.gamma(2.0, 1.0, shape)
    is_used = rng.random(shape) < 0.8
    is_used[:, 0] = True  # everybody buys groceries
    taste *= is_used
    return taste / taste.sum(axis=1, keepdims=True)


def _names(rng, letter, n, digits):
    """Return n different names in an order that says nothing about what they name."""
    numbers = rng.permutation(n) + 1
    return np.array([f"{letter}{number:0{digits}d}" for number in numbers], dtype=object)


def draw_times(rng: Generator, cards: Cards, n: int) -> tuple[NDArray, NDArray]:
    """Return the time, whole seconds since `START`, and the card of n payments, in time order."""
    per_day = _expected_per_day(rng, cards)
    share = per_day.ravel() / per_day.sum()
    count = rng.multinomial(n, share)
    cell = np.repeat(np.arange(len(count)), count)
    card, day = np.divmod(cell, N_DAYS)
    hour = cards.peak_h[card] + cards.spread_h[card] * rng.standard_normal(n)
    second = (hour % 24 * 3600).astype(np.int64)
    time_s = day * DAY_S + second
    order = np.argsort(time_s, kind="stable")
    return time_s[order], card[order]


def _expected_per_day(rng, cards):
    """Return how many payments each card makes on each day (C, D), but for a common factor."""
    day = np.arange(N_DAYS)
    is_weekend = day % 7 >= 5
    expected = np.where(is_weekend, cards.weekend[:, None], 1.0)
    expected *= cards.frequency[:, None]
    expected[on_holiday(cards, slice(None), day)] *= HOLIDAY_FREQUENCY
    is_busy = rng.random(expected.shape) < BUSY_SHARE
    expected[is_busy] *= BUSY_FREQUENCY
    expected[day < cards.first_day[:, None]] = 0.0
    return expected


def on_holiday(cards: Cards, card: NDArray | slice, day: NDArray) -> NDArray:
    """Return whether cards (n,) are on holiday on days (n,), bool (n,); (C, D) for a slice."""
    leaves = cards.leaves[card]
    returns = cards.returns[card]
    if isinstance(card, slice):
        leaves = leaves[:, None]
        returns = returns[:, None]
    return (day >= leaves) & (day < returns)


def draw_genuine(rng: Generator, country: Country, n: int, moves_online: NDArray) -> Payments:
    """Return n genuine payments.

    Parameters
    ----------
    moves_online : (n,), whether a payment is made online, whatever the card's habit was
    """
    cards = country.cards
    time_s, card = draw_times(rng, cards, n)
    is_away = on_holiday(cards, card, time_s // DAY_S)
    trip = rng.choice(len(country.size), n, p=country.size)
    is_trip = rng.random(n) < AWAY_SHARE
    city = np.where(is_trip, trip, cards.city[card])
    city = np.where(is_away, cards.resort[card], city)
    category = _draw_categories(rng, cards, card)
    category[moves_online] = ONLINE
    # half of the payments go where the card has always bought this
    is_usual = rng.random(n) < FAVOURITE_SHARE
    lot = np.where(is_usual, cards.favourite[card, category], rng.random(n))
    merchant = country.merchants.draw(city, category, lot)
    amount = draw_amounts(rng, country, card, merchant)
    amount[is_away] *= HOLIDAY_PRICE
    is_expensive = rng.random(n) < EXPENSIVE_SHARE
    amount[is_expensive] *= rng.uniform(*EXPENSIVE_TIMES, is_expensive.sum())
    kind = np.full(n, -1, np.int8)
    return Payments(time_s, card, category, merchant, amount, kind)


def _draw_categories(rng, cards, card):
    """Return a category (n,) for each card (n,), by the card's taste."""
    n_categories = cards.taste.shape[1]
    cumulative = cards.taste.cumsum(axis=1)
    cumulative[:, -1] = 1.0
    # one ascending line of numbers for all cards: card c has the stretch from c to c + 1
    line = cumulative + np.arange(len(cumulative))[:, None]
    found = np.searchsorted(line.ravel(), card + rng.random(len(card)), side="right")
    return np.minimum(found - card * n_categories, n_categories - 1)


def draw_amounts(rng: Generator, country: Country, card: NDArray, merchant: NDArray) -> NDArray:
    """Return ordinary amounts, euro (n,), of cards at merchants (n,)."""
    merchants = country.merchants
    typical = TYPICAL_EUR[merchants.category[merchant]]
    usual = typical * merchants.price[merchant] * country.cards.level[card]
    return usual * rng.lognormal(0, 0.45, len(card))


def instants(time_s: NDArray) -> pd.DatetimeIndex:
    """Return times (n,), seconds since `START`, as UTC instants with a resolution of a second."""
    start = np.datetime64(START, "s")
    return pd.DatetimeIndex(start + time_s.astype("timedelta64[s]")).tz_localize("UTC")
