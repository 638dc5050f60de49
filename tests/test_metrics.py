"""Metrics: by hand, against scikit-learn, against a bootstrap that really draws rows, and as
properties.
"""

import itertools
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lib.evaluation import intervals, metrics, thresholds
from lib.pipeline import console
from lib.registry.serving import Now
from lib.reporting.threshold_figures import Shown

# Ten transactions, best score first: fraud, genuine, fraud, then seven genuine ones.
Y = np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 0])
RAW = np.arange(10, 0, -1.0)
ONE = np.ones(10)
TIME = np.arange(10) * 600.0
AMOUNT = np.array([30.0, 5, 70, 5, 5, 5, 5, 5, 5, 5])


def compare(y, scores, weight, time_s, amount=None, **options):
    """metrics.compare of arrays, its options by name."""
    outcomes = metrics.Outcomes(y, weight, time_s, amount)
    return metrics.compare(outcomes, scores, metrics.Options(**options))


def evaluate(*arrays, **options):
    return compare(*arrays, **options).metrics


def pick_threshold(raw, weight, name="alert_budget", y=None, amount=None, **rule):
    """thresholds.pick_threshold of arrays, its rule by name."""
    outcomes = metrics.Outcomes(y, weight, np.zeros(len(raw)), amount)
    return thresholds.pick_threshold(raw, outcomes, thresholds.Rule(name, **rule))


def values(y, raw, weight=None, amount=None, budgets=(0.1, 0.2, 0.25, 0.5), headline=0.2):
    """Point values of one model."""
    weight = np.ones(len(y)) if weight is None else weight
    time_s = np.arange(len(y)) * 60.0
    options = {"budgets": budgets, "headline_budget": headline, "n_resamples": 0}
    table = evaluate(y, {"m": raw}, weight, time_s, amount, **options)
    return {name: figure["value"] for name, figure in table["m"].items()}


def test_by_hand():
    got = values(Y, RAW, amount=AMOUNT)
    assert got["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert got["prevalence"] == pytest.approx(0.2)
    assert got["recall_at_budget_0.1"] == pytest.approx(0.5)
    assert got["precision_at_budget_0.1"] == pytest.approx(1.0)
    assert got["recall_at_budget"] == pytest.approx(0.5)
    assert got["precision_at_budget"] == pytest.approx(0.5)
    assert got["amount_recall_at_budget"] == pytest.approx(0.3)
    assert got["roc_auc"] == pytest.approx((8 + 7) / 16)
    assert got["recall_at_fpr_0.01"] == pytest.approx(0.5)


def test_last_transaction_counts_fractionally():
    """2.5 reviews: fraud, genuine, half of the second fraud."""
    got = values(Y, RAW, amount=AMOUNT)
    assert got["recall_at_budget_0.25"] == pytest.approx(1.5 / 2)
    assert got["precision_at_budget_0.25"] == pytest.approx(1.5 / 2.5)
    assert got["amount_recall_at_budget_0.25"] == pytest.approx((30 + 35) / 100)


def test_ceilings_by_hand():
    got = values(Y, RAW, amount=AMOUNT)
    assert got["ceiling_recall_at_budget_0.1"] == pytest.approx(0.5)
    assert got["ceiling_precision_at_budget_0.1"] == pytest.approx(1.0)
    assert got["ceiling_amount_recall_at_budget_0.1"] == pytest.approx(0.7), (
        "the dearest fraud is reviewed first"
    )
    assert got["ceiling_recall_at_budget_0.5"] == pytest.approx(1.0)
    assert got["ceiling_precision_at_budget_0.5"] == pytest.approx(0.4)
    assert got["ceiling_amount_recall_at_budget_0.5"] == pytest.approx(1.0)


def test_ties_are_pessimistic():
    """All scores equal: the eight genuine transactions are reviewed before the two frauds."""
    got = values(Y, np.zeros(10), budgets=(0.5, 0.9))
    assert got["recall_at_budget_0.5"] == 0
    assert got["recall_at_budget_0.9"] == pytest.approx(0.5)
    assert got["average_precision"] == pytest.approx(0.2)
    assert got["roc_auc"] == pytest.approx(0.5)
    assert got["recall_at_fpr_0.01"] == 0


def test_no_fraud_and_no_amount_are_null_and_json():
    table = evaluate(np.zeros(10, int), {"m": RAW}, ONE, TIME, n_resamples=20)
    m = table["m"]
    for name in (
        "average_precision",
        "recall_at_budget",
        "roc_auc",
        "recall_at_fpr_0.01",
        "amount_recall_at_budget",
    ):
        assert m[name] == {"value": None, "low": None, "high": None}
    assert m["prevalence"]["value"] == 0
    assert m["ceiling_recall_at_budget"]["value"] is None
    json.dumps(table, allow_nan=False)
    json.dumps(evaluate(np.ones(10, int), {"m": RAW}, ONE, TIME, AMOUNT), allow_nan=False)


def random_case(seed, n=400, ties=False, fraud=0.1):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < fraud).astype(int)
    y[:2] = 0, 1
    raw = rng.normal(size=n) + y
    raw = np.round(raw, 1) if ties else raw
    time_s = np.sort(rng.uniform(0, 40 * 600, n))
    return y, raw, rng.choice([0.0, 1.0, 2.5, 7.0], n), time_s, rng.lognormal(3, 1, n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed, ties):
    y, raw, weight, _, _ = random_case(seed, ties=ties)
    got = values(y, raw, weight)
    assert got["average_precision"] == pytest.approx(
        average_precision_score(y, raw, sample_weight=weight)
    )
    assert got["roc_auc"] == pytest.approx(roc_auc_score(y, raw, sample_weight=weight))
    fpr, tpr, _ = roc_curve(y, raw, sample_weight=weight, drop_intermediate=False)
    assert got["recall_at_fpr_0.01"] == pytest.approx(tpr[fpr <= 0.01].max())


def by_rows(y, raw, weight, amount, budget):
    """Review one transaction after the other, genuine first among ties, until the budget is used
    up.
    """
    left, caught, money = budget * weight.sum(), 0.0, 0.0
    for score in np.unique(raw)[::-1]:
        for label in (0, 1):
            rows = (raw == score) & (y == label)
            size = weight[rows].sum()
            share = min(1.0, left / size) if size else 0.0
            left -= share * size
            if label:
                caught += share * size
                money += share * (weight[rows] * amount[rows]).sum()
    total = (weight * amount)[y == 1].sum()
    return caught / weight[y == 1].sum(), caught / (budget * weight.sum()), money / total


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("budget", [0.001, 0.03, 0.2])
def test_budget_agrees_with_a_walk_down_the_list(budget, ties):
    y, raw, weight, _, amount = random_case(7, ties=ties)
    got = values(y, raw, weight, amount, budgets=(budget,), headline=budget)
    walked = by_rows(y, raw, weight, amount, budget)
    names = ("recall_at_budget", "precision_at_budget", "amount_recall_at_budget")
    assert [got[name] for name in names] == pytest.approx(walked)


@pytest.mark.parametrize("ties", [False, True])
def test_bootstrap_agrees_with_drawing_rows(ties):
    """The same seeded draws of blocks, but with the rows really repeated and every metric computed
    anew.
    """
    y, raw, weight, time_s, amount = random_case(3, ties=ties)
    models = {"a": raw, "b": raw[::-1].copy()}
    n, budget = 60, 0.05
    got = compare(
        y,
        models,
        weight,
        time_s,
        amount,
        budgets=(budget,),
        headline_budget=budget,
        n_resamples=n,
        seed=4,
    )
    block = np.unique(np.floor(time_s / 600), return_inverse=True)[1]
    rng = np.random.default_rng(4)
    for i in range(n):
        drawn = rng.integers(block.max() + 1, size=block.max() + 1)
        rows = np.concatenate([np.flatnonzero(block == b) for b in drawn])
        for name, scores in models.items():
            draws = {metric: draw[i] for metric, draw in got.draws[name].items()}
            expected = values(y[rows], scores[rows], weight[rows], amount[rows], (budget,), budget)
            assert draws == pytest.approx({metric: expected[metric] for metric in draws})
            assert draws["average_precision"] == pytest.approx(
                average_precision_score(y[rows], scores[rows], sample_weight=weight[rows])
            )
    for metric, draws in got.draws["a"].items():
        low, high = np.percentile(draws, [2.5, 97.5])
        assert (got.metrics["a"][metric]["low"], got.metrics["a"][metric]["high"]) == pytest.approx(
            (low, high)
        )


def test_paired_difference_is_narrower_than_the_models():
    y, raw, weight, time_s, _ = random_case(5, n=3000)
    nearly = raw + np.random.default_rng(0).normal(0, 0.01, raw.size)
    got = compare(y, {"a": raw, "b": nearly}, weight, time_s)
    itself, close = (got.difference("a", other, "average_precision") for other in ("a", "b"))
    own = got.metrics["a"]["average_precision"]
    assert itself == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert close["low"] <= close["value"] <= close["high"]
    assert close["high"] - close["low"] < (own["high"] - own["low"]) / 5
    assert got.difference("b", "a", "average_precision")["value"] == -close["value"]


def test_same_seed_same_intervals_and_models_do_not_disturb_each_other():
    y, raw, weight, time_s, amount = random_case(6)
    both = evaluate(y, {"a": raw, "b": -raw}, weight, time_s, amount, n_resamples=50)
    alone = evaluate(y, {"b": -raw}, weight, time_s, amount, n_resamples=50)
    assert both["b"] == alone["b"]


def test_chunks_of_resamples_do_not_change_them(monkeypatch):
    y, raw, weight, time_s, amount = random_case(6)
    whole = compare(y, {"a": raw}, weight, time_s, amount, n_resamples=50)
    monkeypatch.setattr(intervals, "CHUNK", 1000)
    for metric, draws in (
        compare(y, {"a": raw}, weight, time_s, amount, n_resamples=50).draws["a"].items()
    ):
        assert draws == pytest.approx(whole.draws["a"][metric])


def test_few_blocks_or_frauds_get_exact_binomial_intervals():
    """Ten blocks, two frauds: recall 1 of 2; Clopper-Pearson from the textbook's table."""
    m = evaluate(Y, {"m": RAW}, ONE, TIME, AMOUNT, budgets=(0.1, 0.2), headline_budget=0.2)["m"]
    assert (m["recall_at_budget"]["low"], m["recall_at_budget"]["high"]) == pytest.approx(
        (0.0126, 0.9874), abs=1e-4
    )
    assert m["average_precision"]["low"] is None
    assert m["amount_recall_at_budget"]["low"] is None
    exact = intervals.clopper_pearson(0.3, 10)
    assert (exact["low"], exact["high"]) == pytest.approx((0.0667, 0.6525), abs=1e-4)
    assert intervals.clopper_pearson(0.0, 10)["low"] == 0
    assert intervals.clopper_pearson(0.0, 10)["high"] == pytest.approx(0.3085, abs=1e-4)
    assert intervals.clopper_pearson(1.0, 10)["high"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw": np.where(np.arange(10) == 3, np.nan, RAW)}, "raw score of m of row 3 is nan"),
        ({"raw": RAW[:9]}, r"raw score of m has shape \(9,\)"),
        ({"y": Y + 1}, "labels must be 0"),
        ({"weight": 0 * ONE}, "no transaction with weight"),
        ({"time_s": TIME + np.inf}, "time_s of row 0 is inf"),
    ],
)
def test_bad_input_is_named(change, message):
    case = {"y": Y, "raw": RAW, "weight": ONE, "time_s": TIME} | change
    with pytest.raises(ValueError, match=message):
        evaluate(case["y"], {"m": case["raw"]}, case["weight"], case["time_s"])


def cases(max_size=40):
    """Labels with at least one fraud and one genuine transaction, scores with ties, integer
    weights, amounts.
    """
    return st.integers(3, max_size).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.int8, n, elements=st.integers(0, 1)).map(lambda y: np.r_[y[:-2], 0, 1]),
            hnp.arrays(np.float64, n, elements=st.integers(-5, 5).map(float)),
            hnp.arrays(np.int64, n, elements=st.integers(1, 4)),
            hnp.arrays(np.float64, n, elements=st.integers(0, 50).map(float)),
        )
    )


@given(
    cases(), st.lists(st.floats(0.001, 1.0), min_size=2, max_size=4, unique_by=lambda b: f"{b:g}")
)
def test_a_larger_budget_never_lowers_recall(case, budgets):
    y, raw, weight, amount = case
    got = values(y, raw, weight, amount, budgets=budgets, headline=-1.0)
    for name in ("recall_at_budget", "amount_recall_at_budget"):
        line = [got[f"{name}_{b:g}"] for b in sorted(budgets)]
        if amount[y == 1].any() or not name.startswith("amount"):
            assert all(a <= b + 1e-12 for a, b in itertools.pairwise(line))
            assert all(
                got[f"{name}_{b:g}"] <= got[f"ceiling_{name}_{b:g}"] + 1e-12 for b in budgets
            ), "no ranking passes the ceiling"


@given(cases(), st.floats(0.001, 1.0))
def test_a_perfect_ranking_reaches_the_ceiling(case, budget):
    y, _, weight, amount = case
    got = values(
        y, np.where(y == 1, 1 + amount, 0.0), weight, amount, budgets=(budget,), headline=budget
    )
    assert got["average_precision"] == pytest.approx(1.0)
    assert got["roc_auc"] == pytest.approx(1.0)
    for name in ("recall_at_budget", "precision_at_budget", "amount_recall_at_budget"):
        assert got[name] == got[f"ceiling_{name}"]


@given(cases())
def test_weight_is_a_number_of_rows(case):
    y, raw, weight, amount = case
    assert values(y, raw, weight, amount) == pytest.approx(
        values(*(np.repeat(a, weight) for a in (y, raw)), amount=np.repeat(amount, weight))
    )


def test_order_of_rows_does_not_matter():
    y, raw, weight, time_s, amount = random_case(9, ties=True)
    p = np.random.default_rng(1).permutation(y.size)
    a = evaluate(y, {"m": raw}, weight, time_s, amount, n_resamples=30)["m"]
    b = evaluate(y[p], {"m": raw[p]}, weight[p], time_s[p], amount[p], n_resamples=30)["m"]
    assert {k: v["low"] for k, v in a.items()} == pytest.approx({k: v["low"] for k, v in b.items()})


def test_curves_by_hand():
    recall, precision, threshold = metrics.precision_recall_curve(Y, RAW, ONE)
    assert recall.tolist() == [0.5, 1.0]
    assert precision.tolist() == pytest.approx([1, 2 / 3])
    assert threshold.tolist() == [10, 8]
    reviewed, money = metrics.money_curve(Y, RAW, ONE, AMOUNT)
    assert np.interp([0.1, 0.2, 0.25, 0.3, 1.0], reviewed, money).tolist() == pytest.approx(
        [0.3, 0.3, 0.65, 1, 1]
    )


def test_money_curve_passes_through_the_budget_metrics():
    y, raw, weight, _, amount = random_case(2, ties=True)
    reviewed, money = metrics.money_curve(y, raw, weight, amount)
    assert (np.diff(reviewed) >= -1e-12).all()
    assert (np.diff(money) >= -1e-12).all()
    got = values(y, raw, weight, amount, budgets=(0.03,), headline=0.03)
    assert np.interp(0.03, reviewed, money) == pytest.approx(got["amount_recall_at_budget"])


def test_thresholds_by_hand():
    assert pick_threshold(RAW, ONE, alert_budget=0.2) == 9
    assert pick_threshold(RAW, ONE, "max_f1", y=Y) == 8
    cost = {"name": "min_cost", "y": Y, "amount": AMOUNT}
    assert pick_threshold(RAW, ONE, alert_cost_eur=1, **cost) == 8
    assert pick_threshold(RAW, ONE, alert_cost_eur=29, **cost) == 8, "2 alerts for 70 euro pay off"
    assert pick_threshold(RAW, ONE, alert_cost_eur=36, **cost) > 10, "no alert pays off"


@given(cases(), st.floats(0.0, 60.0))
def test_min_cost_is_no_dearer_than_any_observed_threshold(case, price):
    y, raw, weight, amount = case

    def cost(threshold):
        alert = raw >= threshold
        return price * weight[alert].sum() + (weight * amount)[~alert & (y == 1)].sum()

    best = pick_threshold(raw, weight, "min_cost", y=y, amount=amount, alert_cost_eur=price)
    assert cost(best) <= min(cost(t) for t in [*raw, np.inf]) + 1e-9


def test_threshold_rules_say_what_they_miss():
    with pytest.raises(ValueError, match="unknown threshold rule 'f1'; known: alert_budget"):
        pick_threshold(RAW, ONE, "f1", y=Y)
    with pytest.raises(ValueError, match="needs labels with at least one fraud"):
        pick_threshold(RAW, ONE, "max_f1", y=0 * Y)
    with pytest.raises(ValueError, match="needs labels with at least one fraud"):
        pick_threshold(RAW, ONE * (Y == 0), "max_f1", y=Y)  # all frauds weigh nothing
    with pytest.raises(ValueError, match="needs amounts"):
        pick_threshold(RAW, ONE, "min_cost", y=Y)


def test_unlabelled_rows_take_no_part():
    y, raw, weight, time_s, amount = random_case(11, n=800)
    unknown = np.random.default_rng(0).random(800) < 0.4
    labelled = np.where(unknown, -1, y)
    strange = np.where(unknown, raw.max() + 1, raw)  # ranked above everything else
    with_them = compare(labelled, {"m": strange}, weight, time_s, amount, n_resamples=30)
    known = ~unknown
    without = compare(
        y[known], {"m": raw[known]}, weight[known], time_s[known], amount[known], n_resamples=30
    )
    assert with_them.metrics == without.metrics
    assert with_them.basis.n_labelled == np.count_nonzero(weight[known])
    for curve in (metrics.precision_recall_curve, metrics.money_curve):
        more = (amount,) if curve is metrics.money_curve else ()
        few = tuple(a[known] for a in more)
        got = curve(labelled, strange, weight, *more)
        expected = curve(y[known], raw[known], weight[known], *few)
        assert all(np.allclose(a, b) for a, b in zip(got, expected, strict=True))
    rule = {"amount": amount, "alert_cost_eur": 3.0}
    assert pick_threshold(strange, weight, "max_f1", y=labelled) == pick_threshold(
        raw[known], weight[known], "max_f1", y=y[known]
    )
    assert pick_threshold(strange, weight, "min_cost", y=labelled, **rule) <= raw.max()


def test_without_any_label_every_figure_is_null():
    got = compare(np.full(10, -1), {"m": RAW}, ONE, TIME, AMOUNT)
    assert got.metrics["m"]["average_precision"] == {"value": None, "low": None, "high": None}
    assert {figure["value"] for figure in got.metrics["m"].values()} == {None}
    assert got.difference("m", "m", "average_precision")["value"] is None
    assert got.basis.n_labelled == 0
    assert "label" in got.basis.no_interval
    json.dumps(got.basis.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("time_s", "expected"),
    [
        (np.arange(0, 60 * 600, 7.0), 600),  # the card data: ten hours
        (np.arange(4_000.0), 120),  # row numbers
        (np.repeat(np.arange(150.0), 20), 5),  # hourly steps 1, 2, 3 …
        # hourly steps in seconds: an instant is a block
        (np.repeat(np.arange(150.0) * 3_600, 20), 600),
        (np.repeat(np.arange(6.0) * 86_400, 50), 600),  # days: there are no more than six
        (np.repeat(np.arange(6.0), 50), 1),
        (np.linspace(0, 1, 1_000), 0.02),
        (np.zeros(50), 600),
    ],
)
def test_blocks_are_chosen_so_that_there_are_enough(time_s, expected):
    assert intervals.block_length(time_s) == expected
    n_blocks = len(np.unique(np.floor(time_s / expected)))
    assert n_blocks >= min(intervals.ENOUGH_BLOCKS, len(np.unique(time_s)))


@pytest.mark.parametrize("step_s", [0.001, 1.0, 3_600.0])
def test_intervals_whatever_the_step_of_time(step_s):
    y, raw, weight, _, amount = random_case(12, n=2_000)
    time_s = np.sort(np.random.default_rng(1).integers(0, 150, 2_000)) * step_s
    got = compare(y, {"m": raw}, weight, time_s, amount, n_resamples=50)
    assert got.metrics["m"]["average_precision"]["low"] is not None
    assert not got.basis.no_interval


def test_reason_for_no_interval_is_told():
    few = compare(Y, {"m": RAW}, ONE, TIME, AMOUNT).basis
    assert "2 labelled frauds" in few.no_interval
    assert few.no_interval in str(few)
    y, raw, weight, _, _ = random_case(1)
    instants = compare(y, {"m": raw}, weight, np.repeat(np.arange(10.0), 40)).basis
    assert "10 blocks" in instants.no_interval


@pytest.mark.parametrize(
    ("figure", "why", "shown"),
    [
        ({"value": 0.6364, "low": 0.39, "high": 0.815}, "", "0.636 [0.390, 0.815]"),
        (
            {"value": 0.6364, "low": None, "high": None},
            "3 labelled frauds",
            "0.636 (no interval: 3 labelled frauds)",
        ),
        ({"value": 0.6364, "low": None, "high": None}, "", "0.636 (no interval)"),
    ],
)
def test_the_console_says_why_there_is_no_interval(figure, why, shown):
    assert console._interval(Shown("recall", figure, 3), why) == shown


def test_average_precision_agrees_with_scikit_learn_and_leaves_unlabelled_rows_out():
    y, raw, weight, _, _ = random_case(2, ties=True)
    expected = average_precision_score(y, raw, sample_weight=weight)
    more = np.r_[y, [-1, -1]], np.r_[raw, [99.0, -99.0]], np.r_[weight, [5.0, 5.0]]
    assert metrics.average_precision(*more) == pytest.approx(expected)
    assert np.isnan(metrics.average_precision(0 * y, raw, weight))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.02, "0.02 s"), (600, "600 s"), (5_265.3, "1.46 h"), (86_400, "24 h"), (2_592_000, "30 d")],
)
def test_lengths_of_time_are_written_as_people_do(seconds, said):
    assert intervals.duration(seconds) == said


def test_a_champion_that_nobody_judged_gets_one_line_and_no_dashes():
    nothing = {"value": None, "low": None, "high": None}
    champion = {"model": "fusion", "name": "fraud-detector-x", "version": "1"}
    champion |= {"of": "", "figures_shown": []}  # no label judges it
    summary = {
        "stages": [],
        "status": "done",
        "run": "r",
        "remarks": [],
        "verdict": "",
        "no_interval": "no label",
        "budget": {},
    }
    summary["champion"] = champion | {"validation": dict.fromkeys(console.SHOWN, nothing)}
    now = Now("2026-01-02T03:04:05+00:00", "fraud-detector-x", champion=None, bundle=None)
    summary |= {"headline": "", "not_exported": ""}
    text = console.told(summary, now)
    assert "nobody has judged it: no label" in text
    assert "Fusion on validation:" in text
    assert "recall" not in text
    known = Shown("average precision", {"value": 0.5, "low": 0.4, "high": 0.6}, 3)
    shown = [asdict(known), asdict(Shown("money caught", nothing))]
    summary["champion"] |= {"of": "The top of the ranking", "figures_shown": shown}
    told = console.told(summary, now)
    assert re.search(r"^  average precision +0\.500 \[0\.400, 0\.600\]$", told, re.MULTILINE)
    assert "money caught" not in told


def test_the_console_calls_models_and_figures_as_people_do():
    model = "robust_covariance@train_on=all,isolated=0.15"
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    figures = dict.fromkeys(console.SHOWN, figure)
    champion = {"model": model, "name": "fraud-detector-x", "version": "1"}
    metrics = {"champion": champion, "models": {model: {"validation": figures}}}
    champion = console._champion(metrics)
    summary = {"stages": [], "status": "done", "run": "r", "remarks": [], "no_interval": ""}
    summary["budget"] = {}
    summary |= {"headline": "", "not_exported": "", "verdict": ""}
    summary["champion"] = champion
    now = Now("2026-01-02T03:04:05+00:00", "fraud-detector-x", champion=None, bundle=None)
    told = console.told(summary, now)
    assert "Robust covariance (no labels, 15 % isolated), the top of the ranking on" in told
    assert "money caught at the alert budget" in told
    assert not re.search(r"_at_|_covariance|train_on", told)
    beaten = "it does not beat the naive rule max_abs_z (0.1234)"
    told = console.told(summary | {"champion": None, "verdict": beaten}, now)
    assert "No champion. It does not beat the naive rule largest |z| (0.1234)." in told


def test_the_console_says_where_tracking_is(monkeypatch):
    summary = {"stages": [], "status": "failed", "run": "r", "remarks": [], "champion": None}
    summary |= {"headline": "", "not_exported": "", "verdict": ""}
    now = Now("2026-01-02T03:04:05+00:00", "fraud-detector-x", champion=None, bundle=None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "Tracking    make mlflow" in console.told(summary, now)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@team:5000")
    assert "Tracking    https://team:5000\n" in console.told(summary, now) + "\n"
