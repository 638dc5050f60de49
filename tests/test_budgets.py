"""How much people can review: one budget in two units, and what it finds at eight sizes."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from lib.bundle.calibration import Calibration
from lib.data.budgets import Budget, from_reviews, ladder, transactions_per_day
from lib.data.datasets import Dataset
from lib.data.splits import Split
from lib.errors import DataError, Refused, listed
from lib.evaluation import budget_table, comparison
from lib.evaluation.gate import Verdict
from lib.evaluation.metrics import Outcomes
from lib.pipeline.settings import Settings, jobs
from lib.pipeline.stages import STAGES, notebook
from lib.reporting import differences, pages, tables, threshold_figures


def manifest(days=4.0, weight=1_000.0, time="seconds", **description):
    """What splits.json says of a table: reference is two thirds of the days, validation one."""
    cut = days * 86_400 * 2 / 3
    periods = {
        "reference": {"weight": weight * 2, "start_s": 0.0, "end_s": cut},
        "validation": {"weight": weight, "start_s": cut, "end_s": days * 86_400},
    }
    table = Dataset("shop", time=None if time == "rows" else "t", features=("a",), **description)
    return {"dataset": table.to_dict(), "time": time, "periods": periods}


def test_reviews_a_day_become_a_share_by_weights_and_times(tmp_path):
    split = Split(tmp_path, manifest(days=4, weight=1_000))
    assert transactions_per_day(split.manifest) == 750
    budget = split.budget(reviews_per_day=30)
    assert budget.share == pytest.approx(0.04)
    assert str(budget) == "30 of 750 transactions a day (4 %)"
    assert budget.short == "30 a day"
    by_share = split.budget(alert_budget=0.01)
    assert by_share.reviews_per_day == pytest.approx(7.5)


def test_the_description_decides_where_no_parameter_does(tmp_path):
    split = Split(tmp_path, manifest(reviews_per_day=15))
    assert split.budget().share == pytest.approx(0.02)
    assert split.budget(alert_budget=0.1).share == 0.1
    assert split.budget(reviews_per_day=30).share == pytest.approx(0.04)
    assert Split(tmp_path, manifest(alert_budget=0.005)).budget().share == 0.005


@pytest.mark.parametrize(
    ("table", "reviews", "words"),
    [
        ({"time": "rows"}, 50, ["50", "shop has no time", "alert_budget"]),
        ({"days": 0.5}, 50, ["50", "12.0 hours", "alert_budget"]),
        ({}, 800, ["800", "750 transactions a day", "fewer"]),
        ({}, -1, ["-1", "1 or more"]),
    ],
)
def test_reviews_that_no_share_follows_from_are_refused_in_a_sentence(table, reviews, words):
    with pytest.raises(DataError) as refused:
        from_reviews(reviews, manifest(**table))
    assert [word for word in words if word not in str(refused.value)] == []


def test_a_share_needs_no_days_and_says_no_reviews(tmp_path):
    budget = Split(tmp_path, manifest(time="rows")).budget(alert_budget=0.002)
    assert (str(budget), budget.short) == ("0.2 % of the transactions", "0.2 %")


def test_both_units_at_once_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"alert_budget \(0.01\) and reviews_per_day \(50\)"):
        Split(tmp_path, manifest()).budget(0.01, 50)
    with pytest.raises(Refused, match="same budget in two units"):
        jobs(ROOT, Settings(parameters={"alert_budget": "0.01", "reviews_per_day": "50"}))


def values(settings, stage):
    [job] = [job for job in jobs(ROOT, settings) if job.stage.short == stage]
    return job.parameters["alert_budget"], job.parameters["reviews_per_day"]


def test_a_budget_in_one_unit_replaces_that_of_the_run_before_in_the_other():
    before = Settings(parameters={"alert_budget": "0.01", "seed": "3"})
    now = before.overlaid(Settings(parameters={"reviews_per_day": "80"}))
    assert now.parameters == {"seed": "3", "reviews_per_day": "80"}
    assert values(now, "comparison") == (0.0, 80)
    resolved = Settings(
        parameters={"09_comparison.alert_budget": 0.01, "09_comparison.reviews_per_day": 0}
    )
    later = resolved.overlaid(Settings(parameters={"comparison.reviews_per_day": "80"}))
    assert values(later, "comparison") == (0.0, 80)
    assert values(later, "production") == (0.0, 0)


def test_no_notebook_that_fits_takes_a_budget():
    fits = [stage for stage in STAGES if any("run/models/" in place for place in stage.writes)]
    assert len(fits) >= 6
    asked = Settings(parameters={"reviews_per_day": "80"})
    for job in jobs(ROOT, asked):
        if job.stage in fits:
            assert not {"alert_budget", "reviews_per_day"} & job.accepts, job.name
            assert "split.budget()" in notebook(ROOT, job.stage).read_text(encoding="utf-8")


@given(st.floats(1e-4, 0.2), st.one_of(st.none(), st.floats(10, 1e6)))
def test_a_ladder_ascends_around_the_budget_that_decides(share, per_day):
    budget = Budget(share, per_day)
    found = ladder(budget)
    assert len(found) <= 8
    assert budget in found
    shares = [each.share for each in found]
    assert shares == sorted(set(shares))
    assert max(shares) <= max(0.5, share)


def test_a_ladder_has_eight_round_steps():
    assert [each.short for each in ladder(Budget(285 / 142_403, 142_403))] == [
        *("50 a day", "100 a day", "200 a day", "285 a day"),
        *("500 a day", "1,000 a day", "2,000 a day", "5,000 a day"),
    ]


# ten transactions, a second each; the three frauds score 9, 8 and 3
RAW = np.arange(10, dtype=float)
Y = np.isin(RAW, (9, 8, 3)).astype(int)
AMOUNT = np.where(Y == 1, np.where(RAW == 3, 80.0, 10.0), 5.0)
ONE = np.ones(10)


def outcomes(y=Y, amount=AMOUNT, weight=ONE):
    return Outcomes(y=y, weight=weight, time_s=RAW, amount=amount)


def found_at(threshold, data):
    [row] = budget_table.figures(data, RAW, [threshold], budget_table.Resampling(1.0, 200))
    return {name: figure["value"] for name, figure in row.items()}


def test_figures_of_a_threshold_by_hand():
    assert found_at(6, outcomes()) == pytest.approx(
        {
            "alert_rate": 0.4,
            "precision": 0.5,
            "recall": 2 / 3,
            "amount_recall": 0.2,
            "false_alarms_per_fraud": 1.0,
        }
    )
    unlabelled = np.where(RAW == 7, -1, Y)
    assert found_at(6, outcomes(unlabelled))["precision"] == pytest.approx(2 / 3)
    nothing = found_at(99, outcomes(amount=None))
    assert (nothing["alert_rate"], nothing["recall"]) == (0.0, 0.0)
    assert nothing["precision"] is nothing["amount_recall"] is None


def test_thresholds_of_validation_are_held_on_another_period():
    budgets = [Budget(0.2), Budget(0.4)]
    levels = budget_table.thresholds(RAW, ONE, budgets)
    assert levels == [8.0, 6.0]
    later = budget_table.figures(outcomes(), RAW + 2, levels, budget_table.Resampling(1.0, 0))
    assert [row["alert_rate"]["value"] for row in later] == pytest.approx([0.4, 0.6])


def many(seed=0, n=4_000):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.05).astype(int)
    raw = rng.normal(size=n) + 2 * y
    amount = rng.exponential(50, n)
    return Outcomes(y=y, weight=ONE.repeat(n // 10), time_s=np.arange(n) * 60.0, amount=amount), raw


def test_more_reviews_find_more_and_intervals_hold_their_value():
    data, raw = many()
    levels = budget_table.thresholds(raw, data.weight, ladder(Budget(0.02)))
    rows = budget_table.figures(data, raw, levels, budget_table.Resampling(600.0, 300))
    for metric in ("alert_rate", "recall", "amount_recall"):
        shares = [row[metric]["value"] for row in rows]
        assert shares == sorted(shares)
    for row in rows:
        for figure in row.values():
            assert figure["low"] <= figure["value"] <= figure["high"]
    again = budget_table.figures(data, raw, levels, budget_table.Resampling(600.0, 300))
    assert again == rows


def test_with_few_frauds_intervals_are_exact_binomial():
    [row] = budget_table.figures(outcomes(), RAW, [6.0], budget_table.Resampling(1.0, 200))
    assert row["precision"]["low"] == pytest.approx(0.0676, abs=1e-3)  # two of four
    assert row["recall"]["high"] == pytest.approx(0.9916, abs=1e-3)  # two of three
    assert row["amount_recall"]["low"] is None


@pytest.fixture
def rows():
    """The table of eight budgets of a made-up champion, as metrics.json has it."""
    data, raw = many()
    deciding = Budget(0.02, 1_000)
    asked = ladder(deciding)
    levels = budget_table.thresholds(raw, data.weight, asked)
    found = budget_table.figures(data, raw, levels, budget_table.Resampling(600.0, 100))
    periods = {"validation": found, "untouched": found}
    calibration = Calibration.fit(raw, data.weight)
    return budget_table.as_json(asked, levels, calibration, periods, deciding)


def test_the_table_for_people_has_both_units_and_marks_the_budget_that_decides(rows):
    table = tables.reviewing(rows, "untouched")
    assert len(table) == 8
    assert [name for name in table.index if "*" in name] == ["20 a day *"]
    assert table.loc["20 a day *", "of all"] == "2 %"
    assert table.loc["20 a day *", "alerts"].startswith("20 [")
    assert json.dumps(rows, allow_nan=False)


def page(tmp_path, **more):
    folder = tmp_path / "20260101-000000-shop"
    folder.mkdir(exist_ok=True)
    period = {"n": 10, "n_frauds": 1, "weight": 10.0, "start": 0, "end": 1}
    splits = {name: period for name in ("reference", "validation", "untouched")}
    metrics = {"dataset": "shop", "splits": splits, "seed": 0, "champion": None} | more
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return pages.write(folder).read_text()


def test_the_slider_is_the_one_script_that_the_policy_allows(tmp_path, rows):
    text = page(tmp_path, by_budget=rows)
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)">', text)[1]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    # without the script nothing of the slider is shown, and the table is whole
    assert re.search(r'id="budgets" hidden>', text)
    shown = re.findall(r'<th scope="row">([\d,]+ a day)', text)
    assert shown == 2 * [tables.budget_of(row).short for row in rows]
    assert text.count('class="said" hidden') == 8


def test_a_page_without_a_table_of_budgets_has_no_script(tmp_path):
    text = page(tmp_path)
    assert "<script" not in text
    assert "script-src" not in text
    assert "default-src 'none'" in text


def test_a_champion_that_loses_to_a_naive_rule_on_untouched_is_said():
    def of(value):
        return {"average_precision": {"value": value, "low": None, "high": None}}

    figures = {"random": of(0.01), "max_abs_z": of(0.3), "amount": of(0.4), "tails": of(0.2)}
    [said] = comparison.beaten_later(figures, "tails")
    assert "loses to the naive rule amount (0.400) and max_abs_z (0.300)" in said
    assert "0.200" in said
    assert comparison.beaten_later(figures | {"tails": of(0.5)}, "tails") == []
    assert comparison.beaten_later({}, "tails") == []


def test_the_leader_is_the_candidate_that_is_the_champion():
    own, new, unknown = ({"average_precision": {"value": value}} for value in (0.3, 0.5, None))
    keep = Verdict(None, [], "keep")
    figures = {"tails": new, "forest": own, comparison.PRESENT: own}
    assert comparison.leader(figures, keep) == "forest"
    assert comparison.leader({"tails": new, comparison.PRESENT: own}, keep) == comparison.PRESENT
    assert comparison.leader({"tails": new}, keep) is None
    unjudged = {"random": unknown, "forest": unknown, comparison.PRESENT: unknown}
    assert comparison.leader(unjudged, keep) == comparison.PRESENT


def test_since_the_last_run_names_ten_changes_the_champion_first(tmp_path):
    def run(name, champion, shift):
        value = {"value": 0.5 + shift, "low": None, "high": None}
        entry = {"validation": {"average_precision": value, "recall_at_budget": value}}
        models = {model: entry for model in ("forest", "tails", "mixture", "trees", "labels", "z")}
        found = {"dataset": "shop", "splits": {}, "seed": shift, "models": models}
        found["champion"] = {"model": champion, "version": champion}
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(found))
        return tmp_path / name, found

    run("20260101-000000-shop", "tails", 0.0)
    folder, metrics = run("20260102-000000-shop", "mixture", 0.25)
    since = differences.since_previous(folder, metrics)
    shown = [what for what, _, _ in since["figures"]]
    assert shown[:2] == ["champion", "champion's version"]
    assert shown[2].startswith("Mixture, ")
    assert len(shown) + len(since["parameters"]) == differences.MOST
    assert since["n_more"] == 5


def test_words_are_listed_as_in_a_sentence():
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]


def quietly(rows):
    """The same rows, of a threshold that fires nothing on untouched."""
    data, raw = many()
    levels = [raw.max() + 1] * len(rows)
    found = budget_table.figures(data, raw, levels, budget_table.Resampling(600.0, 100))
    return [row | {"untouched": figures} for row, figures in zip(rows, found, strict=True)]


def test_the_headline_is_of_the_threshold_and_not_of_the_ranking(rows):
    [decides] = [row for row in rows if row["decides"]]
    ranking = {"value": 0.987, "low": None, "high": None}
    entry = dict.fromkeys(("average_precision", "recall_at_budget"), ranking)
    metrics = {
        "champion": {"model": "tails", "threshold": decides["threshold"]},
        "models": {"tails": {"validation": entry, "untouched": entry}},
        "alert_budget": 0.02,
        "transactions_per_day": 1_000,
        "by_budget": rows,
    }
    of, figures = threshold_figures.of_run(metrics)
    found = {shown.name: shown.figure["value"] for shown in figures}
    assert of == "What the threshold finds on the untouched period"
    assert found["average precision"] == 0.987
    assert found["frauds found"] == decides["untouched"]["recall"]["value"] != 0.987
    other = metrics | {"champion": {"model": "tails", "threshold": 0.123}}
    of, figures = threshold_figures.of_run(other)
    assert of == "The top of the ranking on the untouched period"
    assert "recall at 20 a day" in [shown.name for shown in figures]


def test_a_threshold_that_fires_too_little_or_too_much_is_said(rows):
    [decides] = [row for row in rows if row["decides"]]
    budget = Budget(0.02, 1_000)
    assert budget_table.off_budget(decides, budget) == []
    [silent] = [row for row in quietly(rows) if row["decides"]]
    [said] = budget_table.off_budget(silent, budget)
    assert "fires no alert, of 20 a day that people can review" in said
    few = silent | {"untouched": {"alert_rate": {"value": 0.009}}}
    assert "fires 9 alerts a day, of 20 a day" in budget_table.off_budget(few, budget)[0]
    assert budget_table.off_budget({}, budget) == []
    many = silent | {"untouched": {"alert_rate": {"value": 0.05}}}
    [said] = budget_table.off_budget(many, budget)
    assert "fires 50 alerts a day, of 20 a day that people can review: scores have risen" in said


def test_no_interval_is_falsely_certain(rows):
    figures = quietly(rows)[0]["untouched"]
    assert figures["recall"]["low"] == 0.0 < figures["recall"]["high"]
    assert figures["alert_rate"]["low"] == 0.0 < figures["alert_rate"]["high"]
    assert figures["amount_recall"]["high"] is None
    data, _ = many()
    [sure] = budget_table.figures(
        data, np.where(data.y == 1, 9.0, 0.0), [9.0], budget_table.Resampling(600.0, 100)
    )
    assert sure["precision"]["value"] == sure["precision"]["high"] == 1.0
    assert 0.5 < sure["precision"]["low"] < 1.0
    assert sure["false_alarms_per_fraud"]["high"] > 0
