"""The weekly check: what alerts were worth, the verdict, and the page of all weeks."""

import json
import re
from urllib.parse import unquote

import bundles
import numpy as np
import pytest
import yaml

from lib.data import cuts, simulation
from lib.data.datasets import Arrays, load_description
from lib.evaluation.at_threshold import Tally
from lib.production import scored_weeks, scoring
from lib.production.verdict import ACT, AS_EXPECTED, LEVELS, WATCH, Evidence, judge
from lib.production.week import Promise, Week
from lib.reporting import weeks


def figure(value, low, high):
    return {"value": value, "low": low, "high": high}


GOOD = figure(0.8, 0.7, 0.9)
PROMISED = {"precision": GOOD, "recall": GOOD}
NOBODY = figure(None, None, None)


def evidence(**changes):
    usual = {
        "alert_rate": 0.002,
        "alert_low": 0.001,
        "alert_high": 0.003,
        "expected_rate": 0.002,
        "n": 10_000,
        "n_alerts": 20,
        "promised": PROMISED,
        "drifted": (),
        "n_features": 29,
    }
    return Evidence(**usual | changes)


CASES = {
    "nothing has changed": ({}, AS_EXPECTED, "20 alerts among 10,000"),
    "labels as promised": ({"realised": PROMISED}, AS_EXPECTED, "Recall is 0.80"),
    "recall clearly below": (
        {"realised": {"recall": figure(0.5, 0.4, 0.6), "precision": GOOD}},
        ACT,
        "Recall is 0.50 .*clearly below",
    ),
    "precision clearly below": (
        {"realised": {"recall": GOOD, "precision": figure(0.3, 0.2, 0.45)}},
        ACT,
        "Precision .*clearly below",
    ),
    "recall probably below": (
        {"realised": {"recall": figure(0.55, 0.42, 0.67)}},
        WATCH,
        "Recall .*probably below",
    ),
    "surely below, yet by little": (
        {
            "realised": {"recall": figure(0.78, 0.778, 0.782)},
            "promised": {"recall": figure(0.8, 0.799, 0.801)},
        },
        WATCH,
        "Recall",
    ),
    "too few frauds to tell": ({"realised": {"recall": figure(0.6, 0.1, 0.95)}}, AS_EXPECTED, ""),
    "better than promised": (
        {"realised": {"recall": figure(0.99, 0.95, 1.0), "precision": figure(1.0, 0.95, 1.0)}},
        AS_EXPECTED,
        "",
    ),
    "no promise to hold it against": (
        {"realised": {"recall": figure(0.1, 0.05, 0.2)}, "promised": {}},
        AS_EXPECTED,
        "nobody knows what to expect",
    ),
    "no fraud in the week": (
        {"realised": {"recall": NOBODY, "precision": NOBODY}},
        AS_EXPECTED,
        "",
    ),
    "a little above the band": ({"alert_rate": 0.0035}, WATCH, "more than chance"),
    "a little below the band": (
        {"alert_rate": 0.0012, "alert_low": 0.0015},
        WATCH,
        "fewer than chance",
    ),
    "far above the band": ({"alert_rate": 0.0045}, ACT, "far more"),
    "far below the band": ({"alert_rate": 0.0002}, ACT, "far fewer"),
    "twice as many, yet within the band": (
        {"alert_rate": 0.0045, "alert_high": 0.006},
        AS_EXPECTED,
        "",
    ),
    "the score has drifted": (
        {"score_drifted": True, "drifted": ["V1", "V2"]},
        WATCH,
        r"score has drifted, and so have 2 of 29 features \(V1, V2\)",
    ),
    "features have drifted, the score has not": ({"drifted": ["V1"]}, AS_EXPECTED, ""),
    "the score has drifted, labels are as promised": (
        {"score_drifted": True, "realised": PROMISED},
        AS_EXPECTED,
        "",
    ),
    "the score has drifted, and only precision is known": (
        {"score_drifted": True, "realised": {"precision": GOOD}},
        WATCH,
        "",
    ),
    "estimated precision below": (
        {"estimated_precision": figure(0.4, 0.3, 0.5)},
        WATCH,
        "estimated at 0.40",
    ),
    "an estimate counts for nothing beside labels": (
        {"estimated_precision": figure(0.4, 0.3, 0.5), "realised": PROMISED},
        AS_EXPECTED,
        "",
    ),
    "nobody has looked for drift": ({"drifted": None}, AS_EXPECTED, ""),
    "all labels are known, and recall is probably below": (
        {"realised": {"recall": figure(0.55, 0.42, 0.67)}, "is_labelled": True},
        WATCH,
        "Recall",
    ),
    "no alert, and the band begins at 0": (
        {"alert_rate": 0.0, "n_alerts": 0, "alert_low": 0.0},
        AS_EXPECTED,
        "No transaction reaches the threshold; .*more reviews would lower it",
    ),
    "no alert at all": (
        {"alert_rate": 0.0, "n_alerts": 0},
        ACT,
        "No transaction reaches the threshold",
    ),
    "a table that the model knows": (
        {"n_known": 4_000},
        AS_EXPECTED,
        "4,000 of 10,000 transactions are of the time that the model was fitted on",
    ),
    "worst first": (
        {"alert_rate": 0.0035, "realised": {"recall": figure(0.1, 0.0, 0.2)}},
        ACT,
        "Recall",
    ),
}


def test_an_estimate_is_in_doubt_where_scores_are_not_what_they_were():
    def told(**changes):
        return " ".join(judge(evidence(estimated_precision=GOOD, **changes)).reasons)

    assert "estimated at" in told()
    assert "no longer mean" not in told()
    assert "no longer mean" in told(score_drifted=True, drifted=[])
    assert "no longer mean" in told(alert_rate=0.02)


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_of_cases_made_by_hand(case):
    changes, word, first = CASES[case]
    found = judge(evidence(**changes))
    assert found.word == word, found
    assert re.search(first, found.reasons[0]), found
    assert (found.next_step == "Nothing to do.") == (word == AS_EXPECTED)


def test_the_next_step_fits_what_is_known():
    below = {"realised": {"recall": figure(0.55, 0.42, 0.67)}}
    assert "when more labels are known" in judge(evidence(**below)).next_step
    assert "more labels" not in judge(evidence(**below, is_labelled=True)).next_step
    strict = judge(evidence(alert_rate=0.0, n_alerts=0))
    assert "--from comparison -p reviews_per_day N" in strict.next_step
    assert "reviews_per_day" not in judge(evidence(alert_rate=0.01)).next_step
    assert "0.2 % by weight" in judge(evidence(is_weighted=True)).reasons[0]


def test_fewer_frauds_found_never_make_the_verdict_milder():
    words = []
    for recall in np.linspace(0.9, 0.0, 19):
        bounds = figure(recall, max(recall - 0.1, 0), min(recall + 0.1, 1))
        words.append(LEVELS.index(judge(evidence(realised={"recall": bounds})).word))
    assert words == sorted(words)
    assert {words[0], words[-1]} == {0, 2}


def arrays(y, weight=None, amount=None, step_s=600.0):
    y = np.asarray(y, np.int8)
    n = len(y)
    weight = np.ones(n) if weight is None else np.asarray(weight, float)
    amount = np.full(n, 10.0) if amount is None else np.asarray(amount, float)
    return Arrays(np.zeros((n, 1), np.float32), y, weight, np.arange(n) * step_s, amount)


def test_what_alerts_are_worth_is_counted_by_hand():
    data = arrays([1, 1, 0, 0, 1, -1, 0, 0], [1, 2, 1, 3, 1, 9, 1, 1], [5, 10, 1, 1, 100, 50, 1, 1])
    alert = np.array([1, 1, 1, 0, 0, 1, 0, 0], np.int8)
    tally = Tally()
    for rows in (slice(0, 3), slice(3, 5), slice(5, 8)):
        tally.add(data.take(rows), alert[rows])
    found = tally.worth()
    assert (found.n_labelled, found.n_frauds, found.n_alerts) == (7, 3, 3)
    assert found.precision["value"] == pytest.approx(3 / 4)
    assert found.recall["value"] == pytest.approx(3 / 4)
    assert (found.money, found.money_caught) == (125.0, 25.0)
    assert found.amount_recall == {"value": 0.2, "low": None, "high": None}
    assert Tally().worth() is None


def test_none_of_ten_found_may_still_be_one_in_four():
    data = arrays(np.r_[np.ones(10), np.zeros(290)])
    tally = Tally()
    tally.add(data, np.r_[np.zeros(299), 1].astype(np.int8))
    recall = tally.worth().recall
    # resampled blocks alone would say 0 to 0
    assert recall["low"] == 0.0
    assert 0.25 < recall["high"] < 0.35


def test_labels_of_reviewed_alerts_say_nothing_of_what_was_missed():
    data = arrays(np.r_[[1, 0, 1, 0], np.full(96, -1)])
    tally = Tally()
    tally.add(data, np.r_[np.ones(4), np.zeros(96)].astype(np.int8))
    found = tally.worth()
    assert found.precision["value"] == 0.5
    assert (found.recall["value"], found.amount_recall["value"]) == (None, None)


def test_the_interval_covers_what_is_true():
    rng = np.random.default_rng(0)
    n_covered = 0
    for _ in range(40):
        y = (rng.random(2_000) < 0.02).astype(np.int8)
        alert = np.where(y == 1, rng.random(2_000) < 0.7, rng.random(2_000) < 0.002)
        tally = Tally()
        tally.add(arrays(y, step_s=60.0), alert.astype(np.int8))
        recall = tally.worth().recall
        n_covered += recall["low"] <= 0.7 <= recall["high"]
    assert 37 <= n_covered <= 40


def test_an_alert_rate_is_expected_within_a_band_that_both_samples_make():
    exact = Promise(alert_rate=0.002)
    low, high = exact.band(1e6)
    assert (low, high) == pytest.approx((0.001886, 0.002116), abs=2e-6)
    of_few = Promise(alert_rate=0.002, n=10_000.0)
    assert of_few.band(1e6)[0] < low < high < of_few.band(1e6)[1]
    clustered = Promise(alert_rate=0.002, n=10_000.0, clustering=4.0)
    assert clustered.band(1e6)[1] > of_few.band(1e6)[1]
    assert exact.band(100)[0] == 0.0


def test_weeks_like_validation_are_seldom_called_anything_but_expected():
    """Scores of one distribution in validation and in 120 weeks: at most a few are watched."""
    rng = np.random.default_rng(3)
    words = []
    for _ in range(12):
        promise = _promise(rng)
        words += [_verdict(promise, rng, shift=0.0) for _ in range(10)]
    assert words.count(ACT) == 0
    assert words.count(WATCH) <= 9
    changed = [_verdict(promise, rng, shift=-1.5) for _ in range(10)]
    assert changed.count(AS_EXPECTED) <= 1


def _drawn(rng, n, shift=0.0):
    """n transactions, 1 % of them frauds, and their scores; `shift` moves those of frauds."""
    y = (rng.random(n) < 0.01).astype(np.int8)
    score = rng.normal(size=n) + y * (3.5 + shift)
    return arrays(y, step_s=10.0), score


def _promise(rng):
    data, score = _drawn(rng, 10_000)
    threshold = np.quantile(score, 0.99)
    data = data._replace(X=score[:, None])
    model = _Threshold(threshold)
    return Promise.of_validation(model, data), model


class _Threshold:
    """A model whose only feature is its score."""

    def __init__(self, threshold):
        self.manifest = {"fit": {"start_s": -10.0, "end_s": -1.0}}
        self.threshold = threshold

    def anomaly_score(self, X):
        return X[:, 0]


def _verdict(promised, rng, shift):
    promise, model = promised
    data, score = _drawn(rng, 10_000, shift)
    week = Week(promise)
    week.add(data, score, (score >= model.threshold).astype(np.int8))
    return judge(week.evidence(week.worth(), {"columns": []}, "score")).word


# --- the command


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder with three weeks, a bundle and a description that it fits."""
    folder = tmp_path_factory.mktemp("weekly")
    dataset = load_description("simulated")
    (folder / "cards.yaml").write_text(yaml.safe_dump(dataset.to_dict() | {"name": "cards"}))
    frame = simulation.simulate(3_000, seed=1)
    for i, rows in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[rows].to_csv(folder / f"week{i}.csv", index=False)
    bundles.write(
        folder / "model",
        features=dataset.features,
        dataset={"name": "cards", "source": "simulated"},
        provenance={"registered_name": "fraud/detector", "mlflow_run_id": "none"},
    )
    return folder


def score(scene, file, *more, out="out"):
    history = scene / "reports" / "scoring"
    command = [str(scene / file), "--bundle", str(scene / "model"), "--out", str(scene / out)]
    where = ["--dataset", str(scene / "cards.yaml"), "--history", str(history)]
    return scoring.main([*command, *where, *more])


def test_weeks_add_up_and_the_same_week_replaces_its_record(scene, capsys):
    for file in ("week1.csv", "week0.csv", "week1.csv"):
        assert score(scene, file) == 0
    assert "Is it still good?" in capsys.readouterr().out
    history = scene / "reports" / "scoring"
    found = scored_weeks.records(history)
    assert [record["file"] for record in found] == ["week0.csv", "week1.csv"]
    assert found[0]["realised"]["n_labelled"] == found[0]["n"] == 1_000
    page = (scene / "reports" / "production.html").read_text()
    assert page.count("<h2") == 1
    for record in found:
        assert f'href="{record["page"]}"' in page
        # a name with a slash stays one folder
        assert (scene / "reports" / unquote(record["page"])).is_file()
    assert not list(history.rglob(".part*"))


def test_a_text_beside_a_dot_keeps_clear_of_lines():
    foot = 100.0
    for at in np.linspace(0.0, foot, 51):
        for line in (None, *np.linspace(0.0, foot, 51)):
            middle = at + weeks._text_below(at, foot, line) - weeks.MIDDLE
            assert all(abs(middle - place) >= weeks.CLEAR for place in (foot, line) if place)
            assert abs(middle - at) <= 3 * weeks.CLEAR


def test_seconds_are_days_and_times_of_day():
    assert cuts.day_and_time(115_487.0) == "day 2, 08:04"
    assert cuts.day_and_time(0.0) == "day 1, 00:00"
    assert cuts.day_and_time(1.7e9) == "1,700,000,000 s"


def test_another_threshold_is_another_record_of_the_week(scene, tmp_path):
    features = load_description("simulated").features
    dataset = {"name": "cards", "source": "simulated"}
    named = {"registered_name": "two"}
    history = tmp_path / "reports" / "scoring"
    for budget in (0.002, 0.01, 0.01):
        model = tmp_path / f"model-{budget}"
        bundles.write(model, features=features, provenance=named, dataset=dataset, budget=budget)
        more = ["--bundle", str(model), "--history", str(history)]
        score(scene, "week0.csv", *more, out="two")
    found = scored_weeks.records(history)
    assert len(found) == len({record["threshold"] for record in found}) == 2
    page = (tmp_path / "reports" / "production.html").read_text()
    assert "recall of the alerts, and what validation promised" in page
    for number in (1, 2):  # below the drawing, and in the table
        assert page.count(f'text-anchor="middle">{number}</text>') >= 1
        assert f'<span class="soft">{number}</span>' in page
    for record in found:
        assert f"threshold {record['threshold']:.6g}" in page


def test_a_table_that_the_model_knows_is_said_to_be_so():
    promise = Promise(alert_rate=0.01, known_s=(-100.0, 5_399.0))
    week = Week(promise)
    data, score = _drawn(np.random.default_rng(0), 1_000)
    week.add(data, score, (score > 3).astype(np.int8))
    report = week.report(None, "score")
    assert report["n_known"] == 540
    assert "540 of 1,000 transactions are of the time" in " ".join(report["verdict"]["reasons"])
    model = _Threshold(3.0)
    seen = Promise.of_validation(model, data._replace(X=score[:, None]))
    assert seen.known_s == (-10.0, data.time_s[-1])
    model.manifest["fit"]["time"] = "rows"
    assert Promise.of_validation(model, data._replace(X=score[:, None])).known_s is None


def test_check_exits_with_3_where_it_is_time_to_act_and_models_are_kept_apart(scene, capsys):
    features = load_description("simulated").features
    # a name that would lead out of the folder, and a threshold that promises fewer alerts
    other = {"registered_name": ".."}
    dataset = {"name": "cards", "source": "simulated"}
    bundles.write(
        scene / "other", features=features, provenance=other, dataset=dataset, budget=0.01
    )
    assert score(scene, "week2.csv", "--bundle", str(scene / "other"), "--check") == 3
    report = json.loads((scene / "out" / "drift.json").read_text())
    assert report["verdict"]["word"] == ACT
    said = capsys.readouterr().out
    assert "Is it still good? act" in said
    assert f"Next: {report['verdict']['next_step']}" in said
    assert score(scene, "week2.csv") == 0
    page = (scene / "reports" / "production.html").read_text()
    assert page.count("<h2") == 2
    history = scene / "reports" / "scoring"
    assert {path.name for path in history.iterdir()} == {".lock", "fraud%2Fdetector", "%2E%2E"}
    broken = history / "fraud%2Fdetector" / "cards" / "broken" / "record.json"
    broken.parent.mkdir()
    n = len(scored_weeks.records(history))
    for text in ('{"n": 3', '{"n": 3}'):
        broken.write_text(text)
        assert len(scored_weeks.records(history)) == n


@pytest.mark.parametrize(
    ("more", "expected"),
    [(["--alerts", "0"], "--alerts is 0"), (["--check", "--engine", "local:2"], "--check")],
)
def test_options_that_cannot_be_used_are_sentences(scene, capsys, more, expected):
    assert score(scene, "week0.csv", *more) == 2
    assert expected in capsys.readouterr().err
