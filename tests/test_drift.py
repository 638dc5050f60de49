"""Drift: figures by hand, known shifts found, and no shift not found at the promised rate."""

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from lib.data.datasets import load_description
from lib.data.simulation import DRIFTS, simulate
from lib.detectors.sampling import effective_size
from lib.evaluation.distances import distances, ks
from lib.production import drift, drift_statistics, usual_sizes
from lib.production.drift import MonitorOptions
from lib.reporting import drift_details

DAY_S = 86_400


def table(seed=0, n=40_000, days=2, k=4, block_sd=0.0, rhythm=0.3):
    """Transactions of two days: k features with a rhythm of the day, moved together within 10
    minutes by `block_sd`.
    """
    rng = np.random.default_rng(seed)
    time_s = np.sort(rng.uniform(0, days * DAY_S, n))
    X = rng.standard_t(4, (n, k)) + rhythm * np.cos(2 * np.pi * time_s / DAY_S)[:, None]
    X += block_sd * rng.standard_normal((days * 144, k))[(time_s // 600).astype(int)]
    return X, np.ones(n), time_s


def parts(n, n_batches=10):
    edges = np.linspace(0.7 * n, n, n_batches + 1).astype(int)
    return slice(0, n // 2), [slice(a, b) for a, b in pairwise(edges)]


def watch(X, weight, time_s, **options):
    """A monitor of the first half, and the batches of the last 30 %."""
    reference, batches = parts(len(X))
    names = [f"f{j}" for j in range(X.shape[1])]
    monitor = drift.Monitor(
        X[reference], weight[reference], time_s[reference], names, MonitorOptions(**options)
    )
    return monitor, batches


def test_psi_by_hand():
    assert drift_statistics.psi([0.5, 0.5], [0.25, 0.75]) == pytest.approx(
        0.25 * np.log(2) + 0.25 * np.log(1.5)
    )
    assert drift_statistics.psi([0.2, 0.8], [0.2, 0.8]) == 0


def test_effective_size_by_hand():
    assert effective_size(np.ones(7)) == 7
    assert effective_size([3.0, 1.0]) == pytest.approx(16 / 10)
    assert effective_size([0.0, 0.0]) == 0


def test_distances_by_hand():
    # F: 1/4 at 0, 1 from 1 on; G: 1/2 at 1, 1 from 3 on
    found = distances([0.0, 1.0], np.array([1.0, 3.0]), [3.0, 1.0], np.array([2.0, 2.0]))
    assert found == pytest.approx((0.5, 0.25 * 1 + 0.5 * 2))


@pytest.mark.parametrize("seed", range(3))
def test_distances_equal_scipy_where_weights_repeat_rows(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=60).round(1), rng.normal(0.3, 1.5, 80).round(1)
    v, w = rng.integers(1, 5, 60), rng.integers(1, 5, 80)
    found = distances(x, v.astype(float), y, w.astype(float))
    assert found[0] == pytest.approx(stats.ks_2samp(np.repeat(x, v), np.repeat(y, w)).statistic)
    assert found[1] == pytest.approx(stats.wasserstein_distance(x, y, v, w))
    assert ks(x, y, v, w) == found[0]


def test_ks_leaves_missing_values_out():
    assert ks([0.0, np.nan, 1.0], [5.0], [1, 9, 1], [1]) == 1.0
    assert np.isnan(ks([np.nan], [5.0], [1], [1]))


def test_discoveries_by_hand():
    # thresholds at 0.1: 0.025, 0.05, 0.075, 0.1; the third falls, and takes the second along
    assert drift_statistics.discoveries([0.9, 0.07, 0.06, 0.01], 0.1).tolist() == [
        False,
        True,
        True,
        True,
    ]
    assert not drift_statistics.discoveries([0.5, 0.03], 0.01).any()


def test_psi_of_independent_rows_is_chi_squared():
    null = drift_statistics.psi_null(np.full(10, 0.1), 1000, 500)
    found = (null.offset, null.scale, null.freedom)
    assert found == pytest.approx((0, 1 / 1000 + 1 / 500, 9), abs=1e-12)
    assert null.p_value(null.threshold(0.01)) == pytest.approx(0.01)
    rng = np.random.default_rng(0)
    a, b = (rng.multinomial(n, np.full(10, 0.1), 20_000) / n for n in (1000, 500))
    passed = ((b - a) * np.log(b / a)).sum(axis=1) > null.threshold(0.01)
    assert passed.mean() == pytest.approx(0.01, abs=0.004)


def test_block_covariance_by_hand():
    # two blocks of two rows, all of one bin each: shares 1 and 0, variance 1/2 between; rows alone
    # would give 1/8 each
    found = drift_statistics.block_covariance(
        np.tile([0, 0, 1, 1], 10), np.ones(40), np.repeat(np.arange(20), 2), np.zeros(20, int), 2
    )
    between, within = 20 / 19 * 20 * 1, 40 * 0.25  # sums of squared residuals of counts
    assert found[0, 0] == pytest.approx((between - within) / 80)
    assert found == pytest.approx(np.array([[1, -1], [-1, 1]]) * found[0, 0])


def test_blocks_that_differ_by_chance_add_nothing():
    rng = np.random.default_rng(0)
    bins, block = rng.integers(0, 5, 50_000), np.sort(rng.integers(0, 200, 50_000))
    weight = rng.choice([1.0, 4.0, 7.0], 50_000)
    found = drift_statistics.block_covariance(bins, weight, block, np.arange(200) // 10, 5)
    # a quarter of the variance that 250 rows of a block make
    assert abs(np.diag(found)).max() < 0.25 * 0.16 / 250


@pytest.mark.parametrize(("block_sd", "weighted"), [(0.0, False), (0.0, True), (0.3, False)])
def test_no_shift_is_not_found_at_the_promised_rate(block_sd, weighted):
    alarms = []
    for seed in range(12):
        X, weight, time_s = table(seed, block_sd=block_sd)
        X[:, 1] = X[:, 1].round()
        if weighted:
            weight = np.random.default_rng(seed).choice([1.0, 4.0, 7.0], len(X))
        monitor, batches = watch(X, weight, time_s, fdr=0.05)
        verdicts = [monitor.check(X[b], weight[b], time_s[b]) for b in batches]
        assert all(v.matched_by == "hour" for v in verdicts)
        alarms += [bool(v.significant) for v in verdicts]
    assert np.sum(alarms) <= stats.binom.isf(1e-3, len(alarms), 0.05)


def test_rows_taken_for_independent_that_are_not_raise_false_alarms():
    X, weight, time_s = table(0, block_sd=0.3)
    alarms = {}
    for block_s in (600.0, 1e-3):
        monitor, batches = watch(X, weight, time_s, block_s=block_s)
        alarms[block_s] = sum(
            bool(monitor.check(X[b], weight[b], time_s[b]).significant) for b in batches
        )
    assert alarms[600.0] == 0 < 5 < alarms[1e-3]


def test_one_more_seed_of_simulated_drift_is_found_at_once_and_nothing_else():
    dataset, first = load_description("simulated"), {}
    for what in (what for what in DRIFTS if what.what != "fraud"):
        first |= dict.fromkeys(what.features, what.first_batch)
    data = dataset.arrays(simulate(60_000, seed=101))
    reference, batches = parts(len(data.X))
    known, previous = data.take(reference), None
    monitor = drift.Monitor(known.X, known.weight, known.time_s, dataset.features)
    for number, batch in enumerate(batches, 1):
        previous = monitor.check(data.X[batch], data.weight[batch], data.time_s[batch], previous)
        assert set(previous.flagged) == {name for name, start in first.items() if start <= number}
        assert {c.name for c in previous.columns if c.loud} == {
            name for name, start in first.items() if start < number
        }
    assert previous.level == drift.PERSISTENT


def test_simulated_transactions_without_drift_are_quiet():
    dataset = load_description("simulated")
    data = dataset.arrays(simulate(20_000, seed=102, drift=False))
    monitor, batches = watch(data.X, data.weight, data.time_s)
    for batch in batches:
        assert (
            monitor.check(data.X[batch], data.weight[batch], data.time_s[batch]).level
            == drift.QUIET
        )


def test_larger_shifts_give_larger_distances():
    X, weight, time_s = table()
    monitor, batches = watch(X, weight, time_s)
    batch = batches[4]
    seen = [
        monitor.check(X[batch] + shift, None, time_s[batch]).columns[0]
        for shift in (0.1, 0.3, 1.0, 5.0)
    ]
    for figure in ("psi", "ks", "wasserstein"):
        assert np.all(np.diff([getattr(column, figure) for column in seen]) > 0)
    assert [column.flagged for column in seen[1:]] == [True] * 3


def test_hours_that_the_reference_lacks_are_not_matched_and_the_verdict_says_so():
    X, weight, time_s = table(rhythm=1.0)
    night, morning = time_s < 6 * 3600, (time_s > 9 * 3600) & (time_s < 10 * 3600)
    monitor = drift.Monitor(X[night], weight[night], time_s[night], "abcd")
    verdict = monitor.check(X[morning], weight[morning], time_s[morning])
    assert not verdict.matched_by
    assert verdict.flagged == tuple("abcd")
    assert "hours of the day" in verdict.note


def test_matching_takes_the_rhythm_of_the_day_out():
    X, weight, time_s = table(rhythm=1.0)
    monitor, batches = watch(X, weight, time_s)
    assert [monitor.check(X[b], weight[b], time_s[b]).level for b in batches] == [drift.QUIET] * 10
    matched, by = monitor.match(3_600.0 * np.array([3, 3, 3, 4]), np.ones(4))
    assert by == "hour"
    hour = (monitor.reference.time_s // 3_600 % 24).astype(int)
    assert np.bincount(hour, matched, minlength=24)[[3, 4, 5]] == pytest.approx([0.75, 0.25, 0])


def stretches_that_differ(seed=0, days=6, n=36_000):
    """Days of which each has a mean of its own, and a weight of 1."""
    rng = np.random.default_rng(seed)
    time_s = np.sort(rng.uniform(0, days * DAY_S, n))
    of_day = 0.3 * rng.standard_normal((days, 3))
    X = rng.standard_normal((n, 3)) + of_day[(time_s // DAY_S).astype(int)]
    return X, np.ones(n), time_s


def test_a_day_unlike_the_others_is_significant_but_drift_only_if_it_is_unlike_them_by_more():
    X, weight, time_s = stretches_that_differ()
    before, day = time_s < 5 * DAY_S, time_s >= 5 * DAY_S
    monitor = drift.Monitor(X[before], weight[before], time_s[before], "abc")
    ordinary = monitor.check(X[day], weight[day], time_s[day])
    assert ordinary.significant
    assert not ordinary.flagged
    assert ordinary.level == drift.QUIET
    unusual = monitor.check(X[day] + [0, 0, 1.5], weight[day], time_s[day])
    assert unusual.flagged == ("c",)
    assert unusual.columns[2].moved > unusual.columns[2].usual > 0.1
    assert unusual.columns[0].usual == ordinary.columns[0].usual


def test_chance_is_no_part_of_what_is_usual():
    """However small batches are: what they differ by chance does not raise the limit."""
    X, weight, time_s = table(rhythm=0.0, days=4)
    monitor = drift.Monitor(X, weight, time_s, "abcd")
    usual = {}
    for n in (200, 5_000):
        start = 20_000
        batch = slice(start, start + n)
        verdict = monitor.check(X[batch], weight[batch], time_s[batch])
        usual[n] = max(column.usual for column in verdict.columns)
    chance = np.sqrt(10 / 200) / 2  # about, of ten shares of 200 rows
    assert usual[200] < 0.6 * chance
    assert usual[5_000] < 0.04


def test_beyond_chance_is_nothing_on_average_where_nothing_has_moved():
    rng = np.random.default_rng(0)
    share = np.array([0.4, 0.3, 0.2, 0.1])
    draws = rng.multinomial(400, share, 4_000) / 400
    excess = [usual_sizes._excess(share, now, 1 / 400) for now in draws]
    assert np.mean(excess) == pytest.approx(0, abs=1e-4)
    assert usual_sizes.beyond_chance(share, share[::-1], 0.0) == pytest.approx(0.4)
    assert usual_sizes.beyond_chance(share, share, 0.1) == 0


def test_a_weekly_rhythm_is_no_drift_where_the_reference_holds_weekdays_twice():
    rng = np.random.default_rng(3)
    time_s = np.sort(rng.uniform(0, 28 * DAY_S, 42_000))
    is_weekend = time_s // DAY_S % 7 >= 5
    X = rng.standard_normal((len(time_s), 2)) + 1.5 * is_weekend[:, None]
    before = time_s < 21 * DAY_S
    weekend = (time_s >= 26 * DAY_S) & (time_s < 28 * DAY_S)  # two days, both of a weekend
    monitor = drift.Monitor(X[before], None, time_s[before], "ab")
    verdict = monitor.check(X[weekend], None, time_s[weekend])
    assert verdict.matched_by == "weekday and hour"
    assert not verdict.significant
    moved = monitor.check(X[weekend] + [0.5, 0], None, time_s[weekend])
    assert moved.flagged == ("a",)
    # of one week only nobody knows whether the weekend is always like that
    week = time_s < 7 * DAY_S
    short = drift.Monitor(X[week], None, time_s[week], "ab")
    assert short.check(X[weekend], None, time_s[weekend]).matched_by == "hour"


def test_sparse_windows_are_matched_more_coarsely():
    rng = np.random.default_rng(5)
    time_s = np.sort(rng.uniform(0, 30 * DAY_S, 1_000))
    X = rng.standard_normal((1_000, 1)) + (time_s // (6 * 3600) % 4 >= 2)[:, None]
    monitor = drift.Monitor(X[:800], None, time_s[:800], "a")
    evening = time_s[800:] // (6 * 3600) % 4 == 3
    verdict = monitor.check(X[800:][evening], None, time_s[800:][evening])
    assert verdict.matched_by == "quarter of the day"
    assert not verdict.significant


def test_a_history_that_grows_in_reference_may_go_on_growing():
    """A count over 30 days rises while the table is younger than that."""
    rng = np.random.default_rng(6)
    time_s = np.sort(rng.uniform(0, 40 * DAY_S, 20_000))
    count = rng.poisson(np.minimum(time_s / DAY_S, 30))[:, None].astype(float)
    before, batch = time_s < 28 * DAY_S, (time_s > 28 * DAY_S) & (time_s < 32 * DAY_S)
    monitor = drift.Monitor(count[before], None, time_s[before], "n")
    assert monitor.check(count[batch], None, time_s[batch]).significant == ("n",)
    assert not monitor.check(count[batch], None, time_s[batch]).flagged


def test_what_is_rare_beside_a_frequent_value_is_seen():
    rng = np.random.default_rng(7)
    time_s = np.linspace(0, 10 * DAY_S, 20_000)
    x = np.where(rng.random(20_000) < 0.85, 0.0, rng.uniform(1, 2, 20_000))[:, None]
    monitor = drift.Monitor(x[:18_000], None, time_s[:18_000], "a")
    now = np.where(x[18_000:] > 0, x[18_000:] / 4 + 1.7, 0.0)
    [column] = monitor.check(now, None, time_s[18_000:]).columns
    assert column.flagged
    assert column.total_variation > 0.05


def test_a_flag_carries_both_distributions_and_others_do_not():
    X, weight, time_s = table()
    monitor, batches = watch(X, weight, time_s)
    batch = batches[4]
    verdict = monitor.check(X[batch] + [2, 0, 0, 0], weight[batch], time_s[batch])
    profile = verdict.columns[0].profile
    assert verdict.columns[1].profile is None
    assert len(profile.edges) == len(profile.reference) + 1 == len(profile.current) + 1
    assert sum(profile.reference) == pytest.approx(1)
    assert sum(profile.current) == pytest.approx(1)
    middle = (np.array(profile.edges[1:]) + profile.edges[:-1]) / 2
    assert middle @ profile.current - middle @ profile.reference == pytest.approx(2, abs=0.2)
    step = {"batch": "batch_05", "flags": [asdict(verdict.columns[0]) | {"name": "<b>f</b>"}]}
    shown = drift_details.html([step, step | {"batch": "batch_06"}])
    assert shown.count("<details>") == shown.count("<svg") == 1
    assert "&lt;b&gt;f&lt;/b&gt;: batches 5, 6" in shown
    assert drift_details.html([{"batch": "batch_01", "flags": []}]) == ""


def test_missing_and_unheard_of_values_are_found():
    X, weight, time_s = table()
    monitor, batches = watch(X, weight, time_s)
    batch, rng = batches[0], np.random.default_rng(0)
    Y = X[batch].copy()
    lost, far = rng.random(len(Y)) < 0.03, np.arange(len(Y)) % 100 == 0
    Y[lost, 0], Y[far, 1], Y[:, 2], Y[:, 3] = np.nan, 1e6, np.nan, np.inf
    verdict = monitor.check(Y, weight[batch], time_s[batch])
    assert verdict.flagged == ("f0", "f1", "f2", "f3")
    assert [c.missing for c in verdict.columns] == pytest.approx([lost.mean(), 0, 1, 1])
    assert verdict.columns[1].out_of_range == pytest.approx(far.mean())
    assert verdict.columns[2].psi is None


def test_a_share_that_has_always_been_missing_is_no_drift():
    X, weight, time_s = table()
    X[np.random.default_rng(0).random(len(X)) < 0.2, 0] = np.nan
    monitor, batches = watch(X, weight, time_s)
    assert monitor.check(X[batches[0]], weight[batches[0]], time_s[batches[0]]).level == drift.QUIET


def test_a_constant_column_drifts_when_it_changes():
    X, weight, time_s = table(k=1)
    X[:] = 7
    monitor, batches = watch(X, weight, time_s)
    batch = batches[0]
    assert monitor.check(X[batch], weight[batch], time_s[batch]).level == drift.QUIET
    assert monitor.check(X[batch] + 1, weight[batch], time_s[batch]).flagged == ("f0",)


def test_weights_count_as_rows_do():
    X, weight, time_s = table(n=8_000)
    monitor = drift.Monitor(X[:4000], 3 * weight[:4000], time_s[:4000], "abcd")
    repeated = drift.Monitor(np.repeat(X[:4000], 3, 0), None, np.repeat(time_s[:4000], 3), "abcd")
    for figure in ("psi", "ks", "wasserstein"):
        one, other = (
            [
                getattr(c, figure)
                for c in m.check(X[4000:], weight[4000:], time_s[4000:] - DAY_S).columns
            ]
            for m in (monitor, repeated)
        )
        assert one == pytest.approx(other)


def test_a_verdict_is_json():
    X, weight, time_s = table()
    X[:, 3] = np.nan
    monitor, batches = watch(X.astype(np.float32), weight, time_s)
    verdict = monitor.check(X[batches[0]], weight[batches[0]], time_s[batches[0]])
    text = json.dumps(verdict.to_dict(), allow_nan=False)
    assert json.loads(text)["columns"][0]["name"] == "f0"
    assert list(verdict.table().index) == ["f0", "f1", "f2", "f3"]


def test_a_reference_watches_scores_and_remembers_the_last_batch():
    dataset = load_description("simulated")
    data = dataset.arrays(simulate(20_000, seed=1, drift=False))
    reference, batches = parts(len(data.X))
    score = np.abs(data.X).max(axis=1)
    watched, refused = (
        drift.Reference(dataset.features, data.take(reference), score[reference]),
        np.arange(600) < 300,
    )
    found = []
    for batch, moved, scored in [
        (batches[0], 0, True),
        (batches[1], 2, True),
        (batches[2], 2, ~refused),
    ]:
        now = data.take(batch)
        found.append(
            watched.compare(now.X, now.weight, now.time_s, score[batch] + moved, scored=scored).loc[
                drift.SCORE
            ]
        )
    assert [bool(row["flagged"]) for row in found] == [False, True, True]
    assert [bool(row["loud"]) for row in found] == [False, False, True]
    assert [row["missing"] for row in found] == pytest.approx([0, 0, 0.5])
    assert watched.verdict.level == drift.PERSISTENT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda X, w, t: (X[:, :3], w, t), "4 names"),
        (lambda X, w, t: (X, w[1:], t), "weights"),
        (lambda X, w, t: (X, 0 * w, t), "not all 0"),
        (lambda X, w, t: (X, w - 2, t), "weights >= 0"),
        (lambda X, w, t: (X, w, t * np.nan), "finite times"),
        (lambda X, w, t: (X[:0], w[:0], t[:0]), r"0 rows"),
    ],
)
def test_bad_input_is_named(change, said):
    X, weight, time_s = table(n=1000)
    monitor = drift.Monitor(X, weight, time_s, "abcd")
    with pytest.raises(ValueError, match=said):
        monitor.check(*change(X, weight, time_s))
