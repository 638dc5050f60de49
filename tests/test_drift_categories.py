"""Drift of a category: shares by hand, found and named, and not found where there is none."""

import json

import numpy as np
import pytest
from scipy import stats

from lib.bundle.categories import MISSING, rarity
from lib.data.datasets import Arrays
from lib.production import drift, drift_categories
from lib.production.drift_categories import NO_VALUE, RARER, UNSEEN, of_encoder
from lib.production.drift_statistics import Sample
from lib.reporting.names import what_drifted

SHARES = {"groceries": 0.5, "online": 0.3, "fuel": 0.12, "health": 0.06, "travel": 0.015}
SHARES[MISSING] = 0.005
DAY_S = 86_400


def encoder(shares, n=10_000):
    return {"shares": dict(shares), "unseen": min(1 / (n + 1), *shares.values())}


def drawn(rng, shares, n):
    """n values, as a model sees them."""
    values = rng.choice(list(shares), n, p=np.array(list(shares.values())) / sum(shares.values()))
    return rarity(encoder(SHARES), list(values)).astype(np.float32)


def monitor_of(x, weight=None, time_s=None, **options):
    n = len(x)
    time_s = np.linspace(0, 60 * DAY_S, n) if time_s is None else time_s
    options = {"categories": {"category": of_encoder(encoder(SHARES))}, **options}
    return drift.Monitor(
        x.reshape(n, 1), weight, time_s, ["category"], drift.MonitorOptions(**options)
    )


def checked(monitor, x, weight=None, time_s=None):
    time_s = np.linspace(60 * DAY_S, 66 * DAY_S, len(x)) if time_s is None else time_s
    return monitor.check(x.reshape(len(x), 1), weight, time_s)


# --- which value a number stands for


def test_numbers_are_named_and_what_is_equally_frequent_stands_together():
    shares = {"b": 0.2, "a": 0.2, MISSING: 0.1, "c": 0.3, **{f"d{i}": 0.05 for i in range(4)}}
    values = of_encoder(encoder(shares))
    assert values.words == ("c", "a or b", NO_VALUE, "d0, d1 or 2 more")
    assert values.rest == UNSEEN
    asked = rarity(encoder(shares), ["a", "b", "c", None, "d3", "new"]).astype(np.float32)
    assert [values.word(code) for code in values.codes(asked)] == [
        "a or b",
        "a or b",
        "c",
        NO_VALUE,
        "d0, d1 or 2 more",
        UNSEEN,
    ]
    assert values.codes(np.array([np.nan, 17.5])).tolist() == [4, 4]


def test_a_value_as_rare_as_an_unseen_one_says_so():
    values = of_encoder(encoder({"a": 0.9999, "b": 0.0001}, n=100))
    assert values.words == ("a", f"b or {UNSEEN}")


def test_of_many_values_the_most_frequent_are_told_apart():
    shares = {f"v{i:04}": 1 / (i + 10) for i in range(5_000)}
    total = sum(shares.values())
    values = of_encoder(encoder({name: share / total for name, share in shares.items()}))
    assert values.words == tuple(f"v{i:04}" for i in range(drift_categories.MAX_VALUES))
    assert values.rest == RARER


def test_words_are_short_and_on_one_line():
    [word] = of_encoder(encoder({"x\n" * 40: 1.0})).words
    assert "\n" not in word
    assert len(word) == drift_categories.WIDTH


# --- by hand


def test_a_shift_by_hand():
    values = of_encoder(encoder({"a": 0.5, "b": 0.3, "c": 0.2}))
    a, b, c = values.numbers
    reference = Sample(np.repeat([a, b, c], [500, 300, 200]), np.ones(1_000))
    current = Sample(np.repeat([a, b, c, 99], [100, 180, 80, 40]), np.ones(400))
    known = drift_categories.shares(values, reference)
    found = drift_categories.compare(values, known, reference, current, np.zeros((4, 4)))
    # 0.5 -> 0.25, 0.3 -> 0.45, 0.2 -> 0.2, 0 -> 0.1
    assert found.total_variation == pytest.approx(0.25)
    assert (values.word(found.code), found.before, found.now) == (UNSEEN, 0, 0.1)
    assert found.unheard == pytest.approx(0.1)
    # the unseen stand with c: 0.2 -> 0.3
    expected = 0.25 * np.log(2) + 0.15 * np.log(1.5) + 0.1 * np.log(1.5)
    assert found.psi == pytest.approx(expected)
    table = [[0, 1_000], [40, 360]]
    assert found.p_values[0] == pytest.approx(4 * stats.fisher_exact(table).pvalue)


def test_rare_values_stand_together_in_psi():
    group = drift_categories._groups(np.array([0.5, 0.004, 0.4, 0.006, 0.09]), 1_000)
    assert group.tolist() == [0, 2, 1, 2, 2]
    assert drift_categories._groups(np.array([0.5, 0.01, 0.49]), 1_000).tolist() == [0, 1, 1]
    assert drift_categories._groups(np.array([0.5, 0.5]), 10).tolist() == [0, 0]


def test_weights_count_as_rows_do():
    rng = np.random.default_rng(0)
    x, y = drawn(rng, SHARES, 3_000), drawn(rng, SHARES, 900)
    weighted = checked(monitor_of(x), y, 2 * np.ones(900)).columns[0]
    plain = checked(monitor_of(x), y).columns[0]
    assert weighted.total_variation == pytest.approx(plain.total_variation)
    assert weighted.psi == pytest.approx(plain.psi)


# --- what is found


def test_a_rare_value_that_grows_is_found_and_named():
    rng = np.random.default_rng(1)
    before = SHARES | {"travel": 0.004, "groceries": 0.511}
    later = SHARES | {"travel": 0.03, "groceries": 0.485}
    values = of_encoder(encoder(before))
    monitor = monitor_of(
        rarity(encoder(before), rng.choice(list(before), 14_000, p=list(before.values()))),
        categories={"category": values},
    )
    now = rarity(encoder(before), rng.choice(list(later), 1_500, p=list(later.values())))
    [column] = checked(monitor, now).columns
    assert column.flagged
    assert column.value == "travel"
    assert column.in_words.startswith("travel 0.4 % → ")
    # a tenth as large as it looks to people: few transactions have moved
    assert 0.01 < column.total_variation < 0.05


def test_values_that_nobody_has_seen_are_found_and_named():
    rng = np.random.default_rng(2)
    monitor = monitor_of(drawn(rng, SHARES, 10_000))
    x = drawn(rng, SHARES, 600)
    x[:12] = rarity(encoder(SHARES), ["crypto"]).astype(np.float32)
    [column] = checked(monitor, x).columns
    assert column.flagged
    assert column.in_words == f"{UNSEEN} 0.0 % → 2.0 %"
    assert column.out_of_range == pytest.approx(0.02)


def test_a_larger_shift_has_a_larger_effect():
    rng = np.random.default_rng(3)
    monitor = monitor_of(drawn(rng, SHARES, 10_000))
    seen = []
    for moved in (0.05, 0.15, 0.4):
        later = SHARES | {"groceries": 0.5 - moved, "online": 0.3 + moved}
        seen.append(checked(monitor, drawn(rng, later, 3_000)).columns[0])
    for effect in ("total_variation", "psi"):
        assert np.all(np.diff([getattr(column, effect) for column in seen]) > 0)
    assert [c.total_variation for c in seen] == pytest.approx([0.05, 0.15, 0.4], abs=0.03)
    assert all(c.flagged and c.psi > c.threshold for c in seen)


@pytest.mark.parametrize(("weighted", "n"), [(False, 1_200), (True, 1_200), (False, 150)])
def test_no_shift_is_not_found_at_the_promised_rate(weighted, n):
    alarms = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = drawn(rng, SHARES, 20 * n)
        weight = rng.choice([1.0, 4.0, 7.0], 20 * n) if weighted else np.ones(20 * n)
        monitor = monitor_of(x[: 14 * n], weight[: 14 * n], fdr=0.05)
        for i in range(14, 20):
            part = slice(i * n, (i + 1) * n)
            alarms.append(checked(monitor, x[part], weight[part]).level != drift.QUIET)
    assert np.sum(alarms) <= stats.binom.isf(1e-3, len(alarms), 0.05)


def test_values_that_come_in_bursts_are_no_drift():
    """Within ten minutes everybody buys the same; rows taken for independent would alarm."""
    rng = np.random.default_rng(4)
    time_s = np.sort(rng.uniform(0, 6 * DAY_S, 30_000))
    block = (time_s // 600).astype(int)
    of_block = drawn(rng, SHARES, block.max() + 1)
    x = np.where(rng.random(30_000) < 0.5, of_block[block], drawn(rng, SHARES, 30_000))
    alarms = {}
    for block_s in (600.0, 1e-3):
        monitor = monitor_of(x[:15_000], None, time_s[:15_000], block_s=block_s)
        parts = [slice(a, a + 3_000) for a in range(15_000, 30_000, 3_000)]
        verdicts = [checked(monitor, x[p], None, time_s[p]) for p in parts]
        alarms[block_s] = sum(bool(verdict.significant) for verdict in verdicts)
    assert alarms[600.0] == 0 < 2 < alarms[1e-3]


def test_many_values_are_quiet_and_quick():
    rng = np.random.default_rng(5)
    shares = {f"v{i:04}": 1 / (i + 10) for i in range(5_000)}
    total = sum(shares.values())
    shares = {name: share / total for name, share in shares.items()}
    known = encoder(shares)
    x = rarity(known, rng.choice(list(shares), 12_000, p=list(shares.values())))
    monitor = monitor_of(x[:10_000], categories={"category": of_encoder(known)})
    assert checked(monitor, x[10_000:]).level == drift.QUIET


def test_a_category_that_is_missing_everywhere_and_one_that_goes_missing():
    rng = np.random.default_rng(6)
    x = drawn(rng, SHARES, 4_000)
    nothing = np.full(600, np.nan, np.float32)
    [column] = checked(monitor_of(x), nothing).columns
    assert column.flagged
    assert column.missing == 1
    assert column.in_words == ""
    [column] = checked(monitor_of(np.full(4_000, np.nan, np.float32)), x[:600]).columns
    assert column.flagged


# --- where people read it


def test_a_verdict_is_json_and_people_read_the_value():
    rng = np.random.default_rng(7)
    n = 6_000
    X = np.column_stack([drawn(rng, SHARES, n), rng.normal(size=n)]).astype(np.float32)
    time_s = np.linspace(0, 6 * DAY_S, n)
    data = Arrays(X, np.zeros(n, np.int8), np.ones(n), time_s, None)
    options = drift.MonitorOptions(categories={"type": of_encoder(encoder(SHARES))})
    reference = drift.Reference(["type", "eur"], data, rng.random(n), options)
    later = SHARES | {"groceries": 0.2, "online": 0.6}
    X = np.column_stack([drawn(rng, later, 1_000), rng.normal(size=1_000)]).astype(np.float32)
    table = reference.compare(X, np.ones(1_000), time_s[:1_000], rng.random(1_000))
    assert list(table.index[table["flagged"]]) == ["type"]
    verdict = reference.verdict.to_dict()
    assert json.loads(json.dumps(verdict, allow_nan=False))["columns"][0]["value"] == "groceries"
    moved = {c.name: c.in_words for c in reference.verdict.columns if c.in_words}
    [words] = what_drifted({"drifted": ["type"], "moved": moved})
    assert words.startswith("type: groceries 50.")
    assert what_drifted({"drifted": ["a\nb", "type"]}) == ["a b", "type"]
