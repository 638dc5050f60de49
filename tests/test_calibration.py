"""Calibration: what 0.999 means, order, extremes, degenerate input, and the round trip through
JSON.
"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lib.bundle.calibration import Calibration, survival, threshold_for_budget

scores = st.floats(-(2.0**100), 2.0**100, width=32)
samples = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=scores),
        hnp.arrays(np.float64, n, elements=st.floats(0.01, 100)),
    )
)


def test_by_hand():
    raw, weight = np.array([1.0, 2.0, 3.0, 3.0]), np.array([5.0, 3.0, 1.0, 1.0])
    calibration = Calibration.fit(raw, weight)
    assert calibration.apply([0, 1, 1.5, 2, 3]).tolist() == pytest.approx([0, 0, 0.25, 0.5, 0.8])
    # p = 0.2 left at q = 3; 10 p is never reached, so s comes from all the weight: (3 - 1) 5 / (5 -
    # 1) = 2.5
    assert calibration.tail_scale == pytest.approx(2.5)
    assert calibration.apply(5.5) == pytest.approx(1 - 0.2 / 2)


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "lognormal", "random"])
@pytest.mark.parametrize("n", [2_000, 11_000, 60_000])
def test_one_in_a_thousand_reaches_0_999(draw, n):
    rng = np.random.default_rng(0)
    raw = getattr(rng, draw)(size=n).astype(np.float32)
    weight = rng.choice([1.0, 4.0, 7.0], n)
    score = Calibration.fit(raw, weight).apply(raw)
    heaviest = 7.0 / weight.sum()
    for level in (0.9, 0.99, 0.998, 0.999):
        assert weight[score >= level].sum() / weight.sum() == pytest.approx(
            1 - level, abs=0.03 * (1 - level) + heaviest
        )


def test_anomaly_score_is_the_share_that_scores_lower():
    """Between knots too: within 1 % of the share left, anywhere in the tail."""
    rng = np.random.default_rng(1)
    raw, weight = rng.standard_t(3, 60_000), rng.choice([1.0, 4.0], 60_000)
    at, share = survival(raw, weight)
    left = 1 - Calibration.fit(raw, weight).apply(at)
    assert left == pytest.approx(share, rel=0.05)


def test_small_and_bounded():
    rng = np.random.default_rng(2)
    assert Calibration.fit(rng.normal(size=300_000), np.ones(300_000)).raw_score.size <= 400


@given(samples, hnp.arrays(np.float64, 50, elements=scores))
def test_never_decreases_and_stays_in_bounds(sample, new):
    raw, weight = sample
    calibration = Calibration.fit(raw, weight)
    around = np.concatenate([raw, np.nextafter(raw, np.inf), np.nextafter(raw, -np.inf), new])
    score = calibration.apply(np.sort(around))
    assert (np.diff(score) >= 0).all()
    assert score.min() >= 0
    assert score.max() <= 1
    assert calibration.apply([-np.inf, np.inf]).tolist() == [calibration.anomaly_score[0], 1.0]


@given(samples, hnp.arrays(np.float64, 20, elements=scores))
def test_one_score_and_many_get_the_same(sample, new):
    calibration = Calibration.fit(*sample)
    raw = np.concatenate([sample[0], new, [np.inf, -np.inf]])
    assert [calibration.apply(score).item() for score in raw] == calibration.apply(raw).tolist()


@given(samples)
def test_observed_scores_keep_their_ranks_at_the_knots(sample):
    raw, weight = sample
    calibration = Calibration.fit(raw, weight)
    assert (np.diff(calibration.apply(calibration.raw_score)) > 0).all()
    assert calibration.apply(calibration.raw_score).tolist() == calibration.anomaly_score.tolist()


@given(samples)
def test_round_trip_through_json(sample):
    calibration = Calibration.fit(*sample)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again.apply(sample[0]).tolist() == calibration.apply(sample[0]).tolist()


def test_extremes_stay_distinct():
    rng = np.random.default_rng(3)
    raw = rng.normal(size=50_000)
    calibration = Calibration.fit(raw, np.ones(raw.size))
    beyond = calibration.apply(raw.max() + np.geomspace(0.01, 1e6, 200))
    assert (np.diff(beyond) > 0).all()
    assert beyond[-1] < 1


def test_tail_goes_on_smoothly():
    """The step from the last knot to just beyond it is not larger than the steps before it."""
    raw = np.random.default_rng(4).exponential(size=20_000)
    calibration = Calibration.fit(raw, np.ones(raw.size))
    assert calibration.apply(raw.max() + 1e-9) == pytest.approx(
        calibration.apply(raw.max()), abs=1e-9
    )
    assert 0.1 < calibration.tail_scale < 10


def test_constant_scores_and_a_single_row():
    for raw in (np.full(100, 0.5), np.array([0.5])):
        calibration = Calibration.fit(raw, np.ones(raw.size))
        assert calibration.apply([0.4, 0.5]).tolist() == [0, 0]
        assert 0 < calibration.apply(0.6) < calibration.apply(0.7) < 1


def test_weight_is_a_number_of_rows():
    rng = np.random.default_rng(5)
    raw, weight = rng.normal(size=500), rng.integers(0, 4, 500)
    once, repeated = (
        Calibration.fit(raw, weight),
        Calibration.fit(np.repeat(raw, weight), np.ones(weight.sum())),
    )
    assert once.apply(raw) == pytest.approx(repeated.apply(raw))


def test_nan_stays_nan():
    assert np.isnan(Calibration.fit(np.arange(5.0), np.ones(5)).apply(np.nan))
    assert np.isnan(Calibration.fit(np.ones(5), np.ones(5)).apply(np.nan))


def test_threshold_for_budget_by_hand():
    raw, weight = np.array([1.0, 2, 3, 4, 5]), np.array([6.0, 1, 1, 1, 1])
    assert threshold_for_budget(raw, weight, 0.1) == 5
    assert threshold_for_budget(raw, weight, 0.25) == 4
    assert threshold_for_budget(raw, weight, 0.3) == 3
    assert threshold_for_budget(raw, weight, 1.0) == 1
    assert threshold_for_budget(raw, weight, 0.01) > 5, (
        "a budget below the first transaction alerts nobody"
    )
    assert threshold_for_budget(np.zeros(10), np.ones(10), 0.5) > 0, (
        "a tie wider than the budget alerts nobody"
    )


@given(samples, st.floats(0.001, 1.0))
def test_threshold_keeps_the_budget_in_either_unit(sample, budget):
    raw, weight = sample
    calibration, threshold = Calibration.fit(raw, weight), threshold_for_budget(raw, weight, budget)
    assert weight[raw >= threshold].sum() <= budget * weight.sum() * (1 + 1e-9)
    alerts = calibration.apply(raw) >= calibration.apply(threshold)
    assert alerts[raw >= threshold].all(), "what alerts by raw score alerts by anomaly score"


@pytest.mark.parametrize(
    ("raw", "weight", "message"),
    [
        ([1.0, np.nan], [1.0, 1.0], "raw score of row 1 is nan"),
        ([1.0, 2.0], [1.0, np.inf], "weight of row 1 is inf"),
        ([1.0, 2.0], [1.0, -1.0], "weight of row 1 is negative: -1"),
        ([1.0, 2.0], [0.0, 0.0], "no row has any weight"),
        ([], [], "no row has any weight"),
        ([1.0], [1.0, 2.0], "differ in shape"),
    ],
)
def test_bad_input_is_named(raw, weight, message):
    with pytest.raises(ValueError, match=message):
        Calibration.fit(raw, weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw_score": [2, 1]}, "do not rise"),
        ({"anomaly_score": [0.5, 0.2]}, "not non-decreasing"),
        ({"anomaly_score": [0.5, 1.2]}, "not non-decreasing within"),
        ({"anomaly_score": [0.5]}, "differ in shape"),
        ({"tail_scale": 0}, "tail_scale is 0"),
        ({"tail_scale": None}, "cannot be read"),
    ],
)
def test_a_broken_calibration_is_refused(change, message):
    good = {"raw_score": [1, 2], "anomaly_score": [0.0, 0.5], "tail_scale": 1.0}
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict(good | change)
