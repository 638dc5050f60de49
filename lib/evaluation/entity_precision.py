"""The precision that investigators see: who review cards, not transactions.

Card precision at k of Le Borgne, Siblini, Lebichot and Bontempi, *Reproducible Machine Learning for
Credit Card Fraud Detection – Practical Handbook* (2022), for any entity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lib.evaluation.intervals import figure

DAY_S = 86_400
N_RESAMPLES = 1_000  # of the days
USUAL = 100  # reviews a day
MIN_DAYS = 7  # with fewer, resampled days would pretend to a precision that they lack


@dataclass(frozen=True)
class Reviews:
    """How people review.

    Parameters
    ----------
    per_day : int
        Entities that they look at each day, k.
    label_delay_s : float
        How long after a fraud it is known (s); its entity is on no list of a day that begins later.
    """

    per_day: int = 100
    label_delay_s: float = 0.0


@dataclass(frozen=True)
class EntityPrecision:
    """What the reviews of some days find.

    Attributes
    ----------
    precision : dict
        ``value``, ``low``, ``high``: the mean over days and its 95 % interval, in [0, 1]; None
        where there is no day, or too few days for an interval.
    ceiling : float or None
        What a perfect ranking reaches under the same rule, in [0, 1].
    by_day : DataFrame
        A row a day: ``day`` (days since the time's zero), ``n_entities`` to choose from,
        ``n_with_fraud`` among them, ``n_found`` by the reviews.
    per_day : int
        Reviews a day.
    """

    precision: dict
    ceiling: float | None
    by_day: pd.DataFrame
    per_day: int = USUAL


def entity_precision(
    score: ArrayLike,
    y: ArrayLike,
    time_s: ArrayLike,
    entity: ArrayLike,
    reviews: Reviews = Reviews(),
    *,
    seed: int = 0,
) -> EntityPrecision:
    """Return the share of the reviewed entities that have a fraud, a mean over days.

    Every day (UTC, where the time is a date) the `per_day` entities with the highest score are
    reviewed; an entity's score is the highest of its transactions that day. The precision of a day
    is the number of reviewed entities with a fraud that day, over `per_day`, also where there are
    fewer entities. Entities whose fraud is known when the day begins are not reviewed any more.
    Among equal scores, those without a fraud come first.

    Parameters
    ----------
    score : array-like of shape (n,)
        Higher is more anomalous. NaN is no score: such a transaction is reviewed last.
    y : array-like of shape (n,)
        1 = fraud, 0 = genuine, -1 = not known. An entity without any known label on a day is not on
        that day's list.
    time_s : array-like of shape (n,)
        Seconds.
    entity : array-like of shape (n,)
        Whose transaction it is, of any type; one without an entity, None, NaN or "", is on no list.
    reviews : Reviews
    seed : int
        Of the resampled days that give the interval.
    """
    owner = _owners(entity)
    pairs = _entity_days(score, y, time_s, owner)
    pairs = pairs[pairs["day"] * DAY_S < _known_from(y, time_s, owner, pairs, reviews)]
    ranked = pairs.sort_values(["day", "score", "fraud"], ascending=[True, False, True])
    place = ranked.groupby("day").cumcount()
    ranked["found"] = ranked["fraud"] & (place < reviews.per_day)
    days = ranked.groupby("day")
    by_day = pd.DataFrame(
        {
            "n_entities": days.size(),
            "n_with_fraud": days["fraud"].sum().astype(int),
            "n_found": days["found"].sum().astype(int),
        }
    ).reset_index()
    found = by_day["n_found"].to_numpy() / reviews.per_day
    if not len(found):
        return EntityPrecision(figure(np.nan), None, by_day, reviews.per_day)
    best = np.minimum(by_day["n_with_fraud"], reviews.per_day) / reviews.per_day
    draws = _resampled_means(found, seed)
    precision = figure(float(found.mean()), draws)
    return EntityPrecision(precision, float(best.mean()), by_day, reviews.per_day)


def usual_reviews(time_s: ArrayLike) -> int:
    """Return how many reviews a day to assume: 100, or a tenth of the transactions if that is less.

    Who reviews everybody finds every fraud, whatever the ranking.

    Parameters
    ----------
    time_s : array-like of shape (n,)
        Seconds.
    """
    days = np.floor_divide(np.asarray(time_s, np.float64), DAY_S)
    n_days = len(np.unique(days))
    return int(np.clip(len(days) // (10 * max(n_days, 1)), 1, USUAL))


def _owners(entity) -> NDArray:
    """Return entities (n,) as plain objects, None where there is none.

    Of a categorical column, values that do not occur would else be entities, too.
    """
    owner = np.asarray(entity, object)
    owner = np.where(pd.isna(owner), None, owner)
    return np.where(owner == "", None, owner)


def _entity_days(score, y, time_s, owner) -> pd.DataFrame:
    """Return a row for each entity and day with a known label: `score`, `fraud`."""
    y = np.asarray(y)
    rows = pd.DataFrame(
        {
            "entity": pd.Series(owner, dtype=object),
            "day": np.floor_divide(np.asarray(time_s, np.float64), DAY_S).astype(np.int64),
            "score": np.asarray(score, np.float64),
            "fraud": y == 1,
            "labelled": y >= 0,
        }
    )
    pairs = rows.groupby(["entity", "day"], sort=False).max().reset_index()
    return pairs[pairs["labelled"]]


def _known_from(y, time_s, owner, pairs, reviews: Reviews) -> NDArray:
    """Return when (s) the first fraud of each pair's entity is known; inf where it has none."""
    is_fraud = np.asarray(y) == 1
    first = (
        pd.Series(np.asarray(time_s, np.float64)[is_fraud])
        .groupby(pd.Series(owner[is_fraud], dtype=object), sort=False)
        .min()
    )
    end_of_day = (first // DAY_S + 1) * DAY_S  # on its own day nobody knows it, at midnight either
    known = np.maximum(first + reviews.label_delay_s, end_of_day)
    known_s = pairs["entity"].map(known)
    return known_s.fillna(np.inf).to_numpy()


def _resampled_means(values: NDArray, seed: int) -> NDArray:
    """Return means (N_RESAMPLES,) of resampled days; empty where there are too few days."""
    if len(values) < MIN_DAYS:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(values), size=(N_RESAMPLES, len(values)))
    return values[drawn].mean(axis=1)
