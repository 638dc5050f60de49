"""Card precision at k: who is reviewed, who leaves the list, what a perfect ranking reaches."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.evaluation.entity_precision import (
    DAY_S,
    EntityPrecision,
    Reviews,
    entity_precision,
    usual_reviews,
)


def judged(rows, per_day=2, delay_d=0.0):
    """The precision of rows (score, label, day, entity)."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    score, y, day, entity = columns
    reviews = Reviews(per_day, delay_d * DAY_S)
    return entity_precision(score, y, np.array(day) * DAY_S, entity, reviews)


def naive(rows, per_day, delay_d):
    """The same, a day and an entity at a time -> (mean precision, mean ceiling)."""
    found, best = [], []
    for day in sorted({int(when) for _, _, when, _ in rows}):
        known = {
            who
            for _, y, when, who in rows
            if y == 1 and int(when) < day and when + delay_d <= day and who is not None
        }
        mine = [row for row in rows if int(row[2]) == day and row[3] is not None]
        listed = []
        for who in {row[3] for row in mine} - known:
            own = [row for row in mine if row[3] == who]
            if any(row[1] >= 0 for row in own):
                listed.append((max(row[0] for row in own), any(row[1] == 1 for row in own)))
        if listed:
            listed.sort(key=lambda pair: (-pair[0], pair[1]))
            found.append(sum(fraud for _, fraud in listed[:per_day]) / per_day)
            best.append(min(sum(fraud for _, fraud in listed), per_day) / per_day)
    return (np.mean(found), np.mean(best)) if found else (None, None)


def test_two_of_three_cards_are_reviewed():
    result = judged(
        [(0.9, 1, 0.1, "a"), (0.2, 0, 0.2, "a"), (0.5, 0, 0.3, "b"), (0.4, 1, 0.4, "c")]
    )
    assert result.precision == {"value": 0.5, "low": None, "high": None}
    assert result.ceiling == 1.0
    [row] = result.by_day.to_dict("records")
    assert row == {"day": 0, "n_entities": 3, "n_with_fraud": 2, "n_found": 1}


@pytest.mark.parametrize(("delay_d", "n_entities"), [(0, 1), (0.5, 1), (1, 2), (1.5, 2)])
def test_a_card_that_is_known_to_be_compromised_is_not_reviewed(delay_d, n_entities):
    rows = [(0.9, 1, 0.4, "a"), (0.9, 1, 1.5, "a"), (0.1, 0, 1.5, "b")]
    result = judged(rows, delay_d=delay_d)
    assert list(result.by_day["n_entities"]) == [1, n_entities]


def test_a_fraud_at_midnight_is_reviewed_on_its_day():
    result = judged([(0.9, 1, 0.0, "a"), (0.9, 1, 1.0, "a"), (0.9, 0, 1.0, "b")])
    assert list(result.by_day["n_found"]) == [1, 0]


def test_ties_are_pessimistic_and_k_divides():
    assert judged([(0.5, 1, 0, "a"), (0.5, 0, 0, "b"), (0.5, 0, 0, "c")]).precision["value"] == 0
    assert judged([(0.5, 1, 0, "a")], per_day=10).precision["value"] == 0.1


def test_who_has_no_label_or_no_card_is_on_no_list():
    rows = [(0.9, -1, 0.1, "a"), (0.8, 1, 0.2, None), (0.7, 1, 0.3, "b"), (0.1, -1, 1.1, "b")]
    result = judged(rows)
    [row] = result.by_day.to_dict("records")
    assert row["n_entities"] == 1
    assert row["n_found"] == 1
    nobody = judged([(0.9, -1, 0.1, "a")])
    assert nobody.precision["value"] is None
    assert nobody.ceiling is None


@pytest.mark.parametrize(
    "as_column",
    [
        lambda names: pd.Series(names).astype(pd.CategoricalDtype(["a", "b", "c", "never"])),
        lambda names: pd.Series(names, dtype="string"),
        lambda names: pd.Series(names, index=range(50, 50 + len(names))),
        lambda names: pd.Series(names).map({"a": 1, "b": 2, "c": 3}).astype("Int64"),
        lambda names: pd.Series(names).fillna(""),
    ],
)
def test_an_entity_may_be_of_any_type(as_column):
    rows = [(0.9, 0, 0.1, "a"), (0.8, 1, 0.2, "b"), (0.7, 0, 1.1, "c"), (0.9, 1, 1.2, None)]
    score, y, day, names = (list(column) for column in zip(*rows, strict=True))
    time_s = np.array(day) * DAY_S
    found = entity_precision(score, y, time_s, as_column(names), Reviews(2))
    plain = judged(rows)
    pd.testing.assert_frame_equal(found.by_day, plain.by_day)
    assert found.precision == plain.precision
    assert list(found.by_day["n_entities"]) == [2, 1]


def test_what_has_no_score_is_reviewed_last():
    nan = float("nan")
    rows = [(nan, 1, 0.1, "a"), (0.1, 0, 0.2, "b"), (nan, 0, 0.3, "c"), (0.0, 0, 0.4, "d")]
    assert [judged(rows, per_day=k).precision["value"] for k in (2, 3)] == [0, 0]
    assert judged(rows, per_day=4).precision["value"] == 0.25
    # one score of several is enough
    assert judged([*rows, (0.9, 0, 0.5, "a")], per_day=1).precision["value"] == 1


def test_a_day_without_frauds_counts_and_lowers_the_ceiling_too():
    rows = [(0.9, 1, 0.1, "a"), (0.8, 0, 0.2, "b"), (0.7, 0, 1.1, "c")]
    result = judged(rows, per_day=1)
    assert (result.precision["value"], result.ceiling) == (0.5, 0.5)
    none = judged([(0.9, 0, 0.1, "a"), (0.7, 0, 1.1, "c")], per_day=1)
    assert (none.precision["value"], none.ceiling) == (0, 0)
    assert none.per_day == 1


transactions = st.tuples(
    st.sampled_from([0.1, 0.2, 0.3, 0.4]),
    st.sampled_from([-1, 0, 0, 1]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 2.75, 4.0]),
    st.sampled_from(["a", "b", "c", "d", None]),
)


@given(
    st.lists(transactions, min_size=1, max_size=25),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.randoms(use_true_random=False),
)
def test_it_is_the_plain_definition_whatever_the_order(rows, per_day, delay_d, random):
    value, ceiling = naive(rows, per_day, delay_d)
    random.shuffle(rows)
    result = judged(rows, per_day, delay_d)
    assert result.precision["value"] == (None if value is None else pytest.approx(value))
    assert result.ceiling == (None if ceiling is None else pytest.approx(ceiling))
    if value is not None:
        assert result.precision["value"] <= result.ceiling + 1e-12


def many(n=60_000, seed=0) -> dict:
    """Transactions of 3,000 cards on 60 days."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.02).astype(int)
    return {
        "y": y,
        "time_s": np.sort(rng.uniform(0, 60 * DAY_S, n)),
        "entity": rng.integers(0, 3_000, n).astype(str),
    }


def test_a_perfect_ranking_reaches_the_ceiling_and_its_interval_is_seeded():
    data = many()
    perfect = entity_precision(data["y"], **data, reviews=Reviews(20))
    assert perfect.precision["value"] == pytest.approx(perfect.ceiling)
    noise = np.random.default_rng(1).random(len(data["y"]))
    random = entity_precision(noise, **data, reviews=Reviews(20))
    assert random.precision["value"] < 0.2 * perfect.precision["value"]
    assert random.precision["low"] <= random.precision["value"] <= random.precision["high"]
    again = entity_precision(noise, **data, reviews=Reviews(20))
    assert isinstance(again, EntityPrecision)
    assert again.precision == random.precision


@pytest.mark.parametrize(("n", "expected"), [(0, 1), (5, 1), (300, 10), (60_000, 100)])
def test_reviews_are_fewer_where_few_transactions_are_made(n, expected):
    assert usual_reviews(np.linspace(0, 3 * DAY_S - 1, n)) == expected
