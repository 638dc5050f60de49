"""Drift: figures by hand and against scipy, known shifts found, none found where there is none, nor by the hour."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lib import drift
from lib.simulation import DRIFTS, FEATURES, simulate

HOUR, DAY = 3600, 86_400


def times(rng, n, start_s=0, end_s=DAY):
    return np.sort(rng.uniform(start_s, end_s, n))


def replay(rows, seed, drifting):
    """Verdicts on the ten batches of the last 30 % of the rows, against the first half."""
    frame = simulate(rows, seed, drift=drifting)
    X, time_s = frame[[*FEATURES, "Amount"]].to_numpy(), frame.Time.to_numpy()
    monitor = drift.Monitor(X[: rows // 2], None, time_s[: rows // 2], (*FEATURES, "Amount"))
    bounds, verdicts = np.round(rows * np.linspace(0.7, 1, 11)).astype(int), []
    for start, end in pairwise(bounds):
        verdicts.append(monitor.check(X[start:end], None, time_s[start:end], verdicts[-1] if verdicts else None))
    return verdicts


@pytest.fixture(scope="module")
def monitor():
    """Three columns of 20,000 rows over a day: standard normal, exponential, and one that is 0 nine times in ten."""
    rng = np.random.default_rng(0)
    return drift.Monitor(columns(rng, 20_000), None, times(rng, 20_000), ("normal", "waiting", "mostly 0"))


def columns(rng, n):
    normal, waiting = rng.standard_normal(n), rng.exponential(size=n)
    return np.column_stack([normal, waiting, np.where(rng.random(n) < 0.9, 0.0, rng.random(n))])


def test_psi_by_hand():
    assert drift.psi([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.25 * np.log(3))
    assert drift.psi([0.2, 0.8], [0.2, 0.8]) == 0


def test_psi_without_drift_is_chi_squared_scaled_by_both_sizes():
    *_, scale, freedom = drift.psi_null(np.full(10, 0.1), n=4000, m=1000)
    assert scale == pytest.approx(1 / 4000 + 1 / 1000)
    assert freedom == pytest.approx(9)
    rng = np.random.default_rng(1)
    a, b = rng.multinomial(4000, np.full(10, 0.1), 4000) / 4000, rng.multinomial(1000, np.full(10, 0.1), 4000) / 1000
    found = np.array([drift.psi(x, y) for x, y in zip(a, b, strict=True)])
    assert found.mean() == pytest.approx(scale * freedom, rel=0.05)
    assert (stats.chi2.sf(found / scale, freedom) < 0.01).mean() == pytest.approx(0.01, abs=0.006)


def test_rows_that_depend_widen_the_null():
    share = np.full(4, 0.25)
    extra = 0.01 * (np.diag(share) - np.outer(share, share))  # as if both samples had far fewer rows
    *_, scale, freedom = drift.psi_null(share, 1000, 1000, extra)
    assert scale == pytest.approx(0.012)
    assert freedom == pytest.approx(3)


def test_effective_size_by_hand():
    assert drift.effective_size([1, 1, 2]) == pytest.approx(16 / 6)
    assert drift.effective_size([5, 5, 5]) == 3
    assert drift.effective_size([]) == 0


def test_distances_by_hand():
    x, y, one = np.array([0.0, 1.0]), np.array([0.0, 2.0]), np.ones(2)
    assert drift.distances(x, one, y, one) == (0.5, 0.5)
    assert drift.distances(x, one, x[::-1], one) == (0, 0)
    assert drift.distances(x, one, x, np.array([1.0, 3.0])) == (0.25, 0.25)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_distances_agree_with_scipy_ties_included(x, y):
    x, y = np.array(x, float), np.array(y, float)
    ks, gap = drift.distances(x, np.ones(len(x)), y, np.ones(len(y)))
    assert ks == pytest.approx(stats.ks_2samp(x, y).statistic)
    assert gap == pytest.approx(stats.wasserstein_distance(x, y))


def test_a_weight_of_three_is_three_rows():
    x, y, weight = np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.5]), np.array([1.0, 3.0, 1.0])
    repeated = drift.ks(np.repeat(x, 3), y, np.ones(9), np.ones(2))
    assert drift.ks(x, y, 3 * np.ones(3), np.ones(2)) == pytest.approx(repeated)
    assert drift.ks(x, y, weight, np.ones(2)) == pytest.approx(
        drift.ks(np.array([0.1, 0.5, 0.5, 0.5, 0.9]), y, np.ones(5), np.ones(2))
    )
    assert np.isnan(drift.ks(x, np.full(2, np.nan), weight, np.ones(2)))


def test_benjamini_hochberg_by_hand():
    assert drift.benjamini_hochberg([0.03, 0.9, 0.01, 0.02], 0.05).tolist() == [True, False, True, True]
    assert drift.benjamini_hochberg([0.03, 0.9, 0.04, 0.06], 0.05).tolist() == [False] * 4
    assert drift.benjamini_hochberg([0.02, 0.04], 0.05).all()  # the second carries itself


def test_block_covariance_of_blocks_that_hold_one_value_and_of_independent_rows():
    rng, block, weight = np.random.default_rng(0), np.repeat(np.arange(400), 50), np.ones(20_000)
    stratum = np.arange(400) % 2
    together = drift.block_covariance(rng.integers(0, 2, 400)[block], weight, block, stratum, 2)
    assert together == pytest.approx(np.array([[0.25, -0.25], [-0.25, 0.25]]), abs=0.02)
    apart = drift.block_covariance(rng.integers(0, 2, 20_000), weight, block, stratum, 2)
    assert np.abs(apart).max() < 0.001
    assert not drift.block_covariance(np.array([0, 1]), np.ones(2), np.array([0, 1]), np.zeros(2, int), 2).any()


@pytest.mark.parametrize("seed", range(5))
def test_what_has_not_changed_is_quiet(monitor, seed):
    rng = np.random.default_rng(100 + seed)
    verdict = monitor.check(columns(rng, 2_000), None, times(rng, 2_000))
    assert verdict.level == drift.QUIET
    assert verdict.hour_matched
    assert verdict.flagged == ()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("normal", lambda X: X + [0.25, 0, 0]),
        ("normal", lambda X: X * [1.4, 1, 1]),
        ("waiting", lambda X: X * [1, 1.3, 1]),
        (
            "mostly 0",
            lambda X: np.where(np.arange(len(X))[:, None] % 12 == 0, [[0, 0, 0.5]], X * [[0, 0, 1]]) + X * [1, 1, 0],
        ),
    ],
)
def test_what_has_changed_is_flagged_and_nothing_else(monitor, name, change):
    rng = np.random.default_rng(7)
    verdict = monitor.check(change(columns(rng, 2_000)), None, times(rng, 2_000))
    assert verdict.flagged == (name,)
    assert verdict.level == drift.DRIFT


def test_a_larger_shift_is_never_less_certain(monitor):
    rng = np.random.default_rng(3)
    X, time_s = columns(rng, 1_000), times(rng, 1_000)
    found = [monitor.check(X + [shift, 0, 0], None, time_s).columns[0] for shift in (0, 0.1, 0.2, 0.4, 0.8)]
    assert (np.diff([c.p_value for c in found]) <= 0).all()
    assert (np.diff([c.wasserstein for c in found])[1:] > 0).all()
    assert found[-1].wasserstein == pytest.approx(0.8, abs=0.1)  # in standard deviations


def test_drift_is_louder_only_once_it_stays(monitor):
    rng = np.random.default_rng(4)
    shifted = columns(rng, 2_000) + [0.5, 0, 0]
    first = monitor.check(shifted, None, times(rng, 2_000))
    second = monitor.check(shifted, None, times(rng, 2_000), first)
    elsewhere = monitor.check(
        shifted[:, [1, 1, 2]] * [0, 3, 1] + columns(rng, 2_000) * [1, 0, 0], None, times(rng, 2_000), first
    )
    assert [first.level, second.level, elsewhere.level] == [drift.DRIFT, drift.PERSISTENT, drift.DRIFT]
    assert [c.name for c in second.columns if c.loud] == ["normal"]


def test_the_unit_of_weights_does_not_matter(monitor):
    rng = np.random.default_rng(5)
    X, time_s, weight = columns(rng, 2_000) + [0.1, 0, 0], times(rng, 2_000), rng.uniform(1, 7, 2_000)
    one, thousand = monitor.check(X, weight, time_s), monitor.check(X, 1000 * weight, time_s)
    assert one.current_size == pytest.approx(drift.effective_size(weight)) == pytest.approx(thousand.current_size)
    assert one.columns[0].p_value == pytest.approx(thousand.columns[0].p_value)
    assert one.current_size < 2_000


def test_missing_values_are_flagged_by_their_share_not_by_one_cell(monitor):
    rng = np.random.default_rng(6)
    X, time_s = columns(rng, 2_000), times(rng, 2_000)
    X[0, 0] = np.nan
    assert monitor.check(X, None, time_s).level == drift.QUIET
    X[:60, 0] = np.inf
    verdict = monitor.check(X, None, time_s)
    assert verdict.flagged == ("normal",)
    assert verdict.columns[0].missing == pytest.approx(0.03)
    X[:, 0] = np.nan
    assert monitor.check(X, None, time_s).columns[0].ks is None


def test_values_beyond_the_reference_are_flagged_when_they_come_again_and_again(monitor):
    rng = np.random.default_rng(8)
    X, time_s = columns(rng, 2_000), times(rng, 2_000)
    X[1000, 0] = 1e6
    assert monitor.check(X, None, time_s).level == drift.QUIET
    X[::200, 0] = 1e6
    assert monitor.check(X, None, time_s).flagged == ("normal",)


def test_the_rhythm_of_the_day_is_no_drift_where_the_reference_has_those_hours():
    rng = np.random.default_rng(9)
    day, evening = times(rng, 20_000), times(rng, 2_000, DAY + 18 * HOUR, DAY + 20 * HOUR)

    def rhythm(time_s):
        return (rng.standard_normal(len(time_s)) + np.sin(time_s * 2 * np.pi / DAY))[:, None]

    whole = drift.Monitor(rhythm(day), None, day, ["x"]).check(rhythm(evening), None, evening)
    assert (whole.level, whole.hour_matched, whole.note) == (drift.QUIET, True, "")
    assert whole.reference_size < 2_000  # two hours of the day
    morning = day[day < 12 * HOUR]
    half = drift.Monitor(rhythm(morning), None, morning, ["x"]).check(rhythm(evening), None, evening)
    assert (half.level, half.hour_matched, half.note) == (drift.DRIFT, False, drift.RHYTHM)


def test_rows_that_depend_within_ten_minutes_raise_no_alarm():
    def window(start_s, end_s, n):
        time_s = times(rng, n, start_s, end_s)
        common = 0.3 * rng.standard_normal((int(DAY // 600) + 1, 5))
        return rng.standard_normal((n, 5)) + common[(time_s % DAY // 600).astype(int)], time_s

    alarms = {600.0: 0, 1e-3: 0}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X, time_s = window(0, DAY, 20_000)
        batches = [window(hour * HOUR, (hour + 1) * HOUR, 1_500) for hour in range(5)]
        for block_s in alarms:
            monitor = drift.Monitor(X, None, time_s, list("abcde"), block_s=block_s)
            alarms[block_s] += sum(monitor.check(Y, None, t).level != drift.QUIET for Y, t in batches)
    assert alarms[600.0] == 0
    assert alarms[1e-3] >= 5  # taken for independent, they would


def test_columns_without_variation_or_values():
    rng = np.random.default_rng(10)
    X = np.column_stack([np.ones(5_000), np.full(5_000, np.nan)])
    monitor = drift.Monitor(X, None, times(rng, 5_000), ["constant", "empty"])
    assert monitor.check(X[:500], None, times(rng, 500)).level == drift.QUIET
    assert monitor.check(np.ones((500, 2)) * [2, 1], None, times(rng, 500)).flagged == ("constant", "empty")


def test_a_verdict_can_be_written_to_json(monitor):
    rng = np.random.default_rng(11)
    verdict = monitor.check(columns(rng, 300), None, times(rng, 300))
    read = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert read["level"] == "quiet"
    assert [column["name"] for column in read["columns"]] == list(verdict.table().index)


def test_scores_are_one_more_column():
    rng = np.random.default_rng(12)
    X, time_s, score = rng.standard_normal((5_000, 2)), times(rng, 5_000), rng.random(5_000)
    reference = drift.Reference(["a", "b"], SimpleNamespace(X=X, weight=np.ones(5_000), time_s=time_s), score)
    table = reference.compare(X[:800], None, time_s[:800], score[:800] ** 2)
    assert list(table.index[table.flagged]) == [drift.SCORE]
    assert not table.loud.any()
    assert reference.compare(X[:800], None, time_s[:800], score[:800] ** 2).loud[drift.SCORE]
    scored = np.arange(800) % 2 == 0
    assert reference.compare(X[:800], None, time_s[:800], score[:800], scored).missing[drift.SCORE] == 0.5


def test_windows_that_make_no_sense_are_refused(monitor):
    with pytest.raises(
        ValueError, match=r"reference window has shape \(4, 2\), but there are 4 times, 4 weights and 1"
    ):
        drift.Monitor(np.ones((4, 2)), None, np.arange(4), ["x"])
    with pytest.raises(ValueError, match=r"batch has shape \(5, 2\)"):
        monitor.check(np.ones((5, 2)), None, np.arange(5))
    with pytest.raises(ValueError, match="weights >= 0 that are not all 0"):
        monitor.check(np.ones((5, 3)), np.zeros(5), np.arange(5))
    with pytest.raises(ValueError, match="finite times"):
        monitor.check(np.ones((1, 3)), None, [np.nan])


@pytest.mark.parametrize("seed", [0, 1])
def test_injected_drifts_are_found_at_once_and_nothing_before_them(seed):
    found, still = replay(60_000, seed, True), replay(60_000, seed, False)
    assert [verdict.level for verdict in still] == [drift.QUIET] * 10
    assert all(verdict.hour_matched for verdict in found)
    starts = {feature: d.first_batch for d in DRIFTS if d.what != "fraud" for feature in d.features}
    for feature, first in starts.items():
        flagged = [batch for batch, verdict in enumerate(found, 1) if feature in verdict.flagged]
        assert flagged[0] in (first, first + 1)
    assert {feature for verdict in found for feature in verdict.flagged} == set(starts)
