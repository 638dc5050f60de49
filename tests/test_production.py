import json
import os

import bundles
import numpy as np
import pandas as pd
import pytest
from sklearn.svm import OneClassSVM

from lib import bundle
from lib.data import simulation, splits
from lib.data.datasets import Arrays, load_description, prepare
from lib.detectors.isolation_forest import IsolationForest
from lib.detectors.wrapped import Wrapped
from lib.errors import DataError
from lib.evaluation import metrics
from lib.evaluation.gate import Verdict
from lib.production import challenger, deployment, monitoring, sandbox, scoring
from lib.production.challenger import Challenger
from lib.production.history import VALIDATING_FRAUDS, History
from lib.production.replayed_weeks import ReplayedWeeks
from lib.production.week import Promise
from lib.registry import candidates, mlflow_store, tracking
from lib.reporting import dashboard

N = 4_000


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    dataset = load_description("simulated")
    frame = prepare(dataset, simulation.simulate(N, seed=0), "simulated")
    folder = tmp_path_factory.mktemp("split") / "split"
    return splits.make(dataset, frame, folder, source="simulated", raw_sha256="", seed=0)


@pytest.fixture(scope="module")
def history(split):
    return History(split)


def arrays(n, y=None, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)).astype(np.float32)
    X[:, 1] += shift
    y = np.zeros(n, np.int8) if y is None else np.asarray(y, np.int8)
    return Arrays(X, y, np.ones(n), np.arange(n) * 120.0, np.full(n, 10.0))


def log(alert, score=None):
    alert = np.asarray(alert)
    score = np.linspace(0, 1, len(alert)) if score is None else np.asarray(score, float)
    return pd.DataFrame({"alert": alert, "anomaly_score": score})


def at_budget(budget):
    return metrics.Options(budgets=(), headline_budget=budget, n_resamples=0)


def test_the_alert_band_is_the_binomial_one():
    # mean 2: P(0) is 0.135, P(at most 5) 0.983
    low, high = monitoring.alert_band(0.002, np.ones(1_000))
    assert (low, high) == (0.0, 0.005)
    assert monitoring.alert_band(0.1, np.ones(10_000)) == pytest.approx((0.0942, 0.1059))


def test_labels_say_what_alerts_were_worth():
    data = arrays(10, y=[0, 0, 0, 0, 0, 0, 1, 0, 1, 1])
    told = monitoring.realise(log([0] * 8 + [1, 1]), data, at_budget(0.2))
    assert (told["n_frauds"], told["n_caught"], told["money"], told["money_caught"]) == (
        3,
        2,
        30,
        20,
    )
    assert told["recall"]["value"] == pytest.approx(2 / 3)
    assert told["recall_at_budget"]["value"] == pytest.approx(2 / 3)
    steps = [{"realised": told, "n_alerts": 2.0}] * 2
    assert monitoring.totals(steps)["money_caught_in_time"] == pytest.approx(40)


def test_reviewers_take_alerts_as_they_arrive_until_their_time_is_over():
    data = arrays(10, y=[0, 1, 1, 0, 0, 0, 0, 0, 0, 1])
    # two and a half reviews
    told = monitoring.realise(log([1, 1, 1, 0, 0, 0, 0, 0, 0, 1]), data, at_budget(0.25))
    assert (told["n_caught"], told["n_caught_in_time"], told["money_caught_in_time"]) == (
        3,
        1.5,
        15,
    )


def test_refused_rows_are_ranked_last():
    data = arrays(4, y=[1, 0, 0, 1])
    told = monitoring.realise(log([0, 0, 0, 1], [np.nan, 0.1, 0.2, 0.9]), data, at_budget(0.25))
    assert told["average_precision"]["value"] == pytest.approx((1 + 2 / 4) / 2)


def test_recall_is_estimated_from_scores_alone():
    score = np.repeat([0.1, 0.9], 100)
    # above 0.9 every second is fraud, below none
    y = np.r_[np.zeros(100), np.ones(50), np.zeros(50)]
    estimator = monitoring.Estimator(score, y, np.ones(200))
    assert estimator.recall(log([0, 1, 1, 0], [0.1, 0.9, 0.9, 0.9]), np.ones(4)) == pytest.approx(
        2 / 3
    )
    assert estimator.recall(log([0, 0], [0.1, 0.1]), np.ones(2)) is None


def test_a_new_kind_of_fraud_is_noticed_and_the_old_one_is_not():
    y = np.ones(60)
    frauds = monitoring.Frauds("abc", arrays(60, y))
    assert frauds.look(arrays(12, y[:12], seed=1)) == []
    assert frauds.look(arrays(12, y[:12], seed=1, shift=3.0)) == ["b"]
    assert frauds.look(arrays(3, y[:3], seed=1, shift=3.0)) == []  # too few to tell


def test_a_feature_that_is_recorded_only_since_is_no_new_kind_of_fraud():
    past, new = arrays(60, np.ones(60)), arrays(12, np.ones(12), seed=1)
    past.X[:, 2] = np.nan
    new.X[:, 2] += 5
    assert monitoring.Frauds("abc", past).look(new) == []


def test_without_labels_nothing_is_realised_and_nothing_estimated():
    data = arrays(10, y=np.full(10, -1))
    told = monitoring.realise(log([0] * 8 + [1, 1]), data, at_budget(0.2))
    assert (told["n_labelled"], told["n_frauds"], told["n_caught"], told["recall"]["value"]) == (
        0,
        0,
        0,
        None,
    )
    estimator = monitoring.Estimator(np.linspace(0, 1, 10), data.y, data.weight)
    assert estimator.recall(log([0, 1]), np.ones(2)) is None


def test_unlabelled_rows_are_in_no_figure_of_a_batch():
    known = arrays(10, y=[0, 0, 0, 0, 0, 0, 1, 0, 1, 1])
    more = arrays(12, y=[0, 0, 0, 0, 0, 0, 1, 0, 1, 1, -1, -1])
    scores = np.linspace(0, 1, 12)
    told = monitoring.realise(log([0] * 8 + [1] * 4, scores), more, at_budget(0.2))
    expected = monitoring.realise(log([0] * 8 + [1] * 2, scores[:10]), known, at_budget(0.2))
    for key in ("n_labelled", "n_frauds", "n_caught", "recall", "average_precision"):
        assert told[key] == expected[key]


def test_the_scorecard_counts_delays_and_false_alarms():
    drifts = [simulation.Drift("shift", ("a",), 2, 1.0), simulation.Drift("fraud", ("c",), 1, 1.0)]
    flags = [(["a", "b"], []), ([], []), (["a"], ["c"])]
    steps = [{"drifted": drifted, "fraud_drifted": new} for drifted, new in flags]
    card = monitoring.scorecard(steps, drifts)
    assert [d["noticed"] for d in card["noticed"]] == [3, 3]
    assert [d["delay"] for d in card["noticed"]] == [1, 2]
    assert card["n_false"] == 2  # b never moved, a had not moved yet


def test_labels_are_known_after_their_delay(history):
    time_s = history.data.time_s
    now = time_s[history.slices["batch_05"].stop - 1]
    known = history.n_known(now)
    assert time_s[known - 1] <= now - history.label_delay_s < time_s[known]
    assert history.n_known(time_s[history.n_past]) == history.n_past  # the past has its labels


def test_a_window_ends_where_labels_end(history):
    known = history.slices["batch_06"].stop
    fit, validation = history.window(known)
    assert fit.stop == validation.start
    assert validation.stop == known
    assert history.data.y[validation].sum() >= VALIDATING_FRAUDS
    assert fit.stop - fit.start == pytest.approx(N / 2, abs=2)


def test_a_written_window_is_a_split(history, tmp_path):
    parts = history.window(history.slices["batch_04"].stop)
    folder = history.write(tmp_path / "split", parts)
    made = splits.open_split(folder)
    np.testing.assert_array_equal(made.arrays("validation").X, history.data.X[parts[1]])


def test_a_retrained_model_is_the_one_that_its_notebook_would_make(history, tmp_path):
    made_with = {"n_trees": 9, "max_samples": 64}
    champion = {"model": "isolation_forest", "fit": {"train_on": "all", "parameters": made_with}}
    periods = history.window(history.slices["batch_06"].stop)
    made = challenger.retrain(champion, history, periods, tmp_path, seed=3)
    assert (made.fitted_on, made.validated_on) == tuple(periods)
    later = splits.open_split(tmp_path / "split")
    fitted = candidates.fit(IsolationForest(**made_with, seed=3), later, "all")
    expected = candidates.write(tmp_path / "by-hand", made.folder.name, fitted, later)
    assert bundle.bundle_hash(made.folder) == bundle.bundle_hash(expected)
    other = challenger.retrain(champion, history, periods, tmp_path / "other", seed=4)
    assert bundle.bundle_hash(other.folder) != bundle.bundle_hash(expected)


def test_a_detector_of_another_library_is_retrained_from_what_its_manifest_says(history, tmp_path):
    detector = Wrapped(OneClassSVM(nu=0.1), max_rows=200)
    described = json.loads(json.dumps(detector.described()))
    shown = {"label": "One-class SVM", "colour": "#123456", "about": "A score."}
    champion = {
        "model": "svm@train_on=all",
        "fit": {"train_on": "all", "parameters": described},
        "shown": shown,
    }
    periods = history.window(history.slices["batch_06"].stop)
    made = challenger.retrain(champion, history, periods, tmp_path, seed=3)
    manifest = bundle.verify(made.folder)
    assert (manifest["model"], manifest["shown"]) == ("svm@train_on=all", shown)
    assert manifest["fit"]["parameters"] == described
    described["estimator"] = "sklearn.svm.Gone"
    with pytest.raises(DataError, match=r"svm cannot be retrained: sklearn.svm.Gone .* frozen"):
        challenger.retrain(champion, history, periods, tmp_path / "gone")


def test_a_model_that_cannot_be_retrained_is_named(history, tmp_path):
    champion = {"model": "few_labels", "fit": {"train_on": "labels", "parameters": {}}}
    periods = history.window(history.slices["batch_06"].stop)
    with pytest.raises(DataError, match=r"few_labels .*frozen and threshold"):
        challenger.retrain(champion, history, periods, tmp_path)


def test_a_misspelt_policy_is_refused():
    assert deployment.chosen("all") == list(deployment.POLICIES)
    with pytest.raises(DataError, match="did you mean 'threshold'"):
        deployment.chosen("frozen,treshold")


def test_the_sandbox_gives_the_store_back(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///theirs.db")
    monkeypatch.setenv(tracking.PARENT, "abc")
    with sandbox.store(tmp_path):
        first = mlflow_store.database(os.environ["MLFLOW_TRACKING_URI"])
        assert first.parent == tmp_path
        assert tracking.PARENT not in os.environ
    with sandbox.store(tmp_path):
        # nothing was written: a new one
        assert mlflow_store.database(os.environ["MLFLOW_TRACKING_URI"]) != first
        second = mlflow_store.database(os.environ["MLFLOW_TRACKING_URI"])
        second.touch()
    with sandbox.store(tmp_path):
        assert mlflow_store.database(os.environ["MLFLOW_TRACKING_URI"]) == second
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///theirs.db"
    assert os.environ[tracking.PARENT] == "abc"


def test_a_challenger_is_shadowed_promoted_and_watched(history, split, monkeypatch, tmp_path):
    """Only the fit of the model and the gate's verdict are stood in for."""

    def retrain(champion, history, parts, folder, seed, threads):
        made = bundles.write(
            folder / "made", "forest", features=split.dataset.features, seed=len(asked)
        )
        asked.append(parts)
        return Challenger(made, *parts, 1.5)

    def judge(challenger, *_, **options):
        return (
            Verdict("challenger", ["better"], "promote")
            if len(asked) == 1
            else Verdict(None, ["worse"], "keep")
        )

    asked = []
    monkeypatch.setattr(challenger, "retrain", retrain)
    monkeypatch.setattr(challenger, "judge", judge)
    monkeypatch.setattr(sandbox, "calibrate", lambda *_: None)
    start = bundles.write(tmp_path / "start", "forest", features=split.dataset.features, seed=9)
    options = deployment.Options(every=3, n_resamples=0)
    with sandbox.store(tmp_path):
        done = deployment.Deployment(
            "retrain_every", history, start, tmp_path / "policy", options
        ).run()
        assert tracking.champion(done.name).version == "2"
        assert tracking.rollback(done.name) == "1"
    assert [i for i, step in enumerate(done.steps, 1) if step["promoted"]] == [4]
    assert [step["model_version"].partition("-")[0] for step in done.steps] == ["1"] * 4 + ["2"] * 6
    assert len(asked) == 2
    assert len(done.shadows) == 2
    assert all(fit.stop <= history.slices["batch_06"].stop for fit, _ in asked)
    result = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    assert result["totals"]["fit_s"] == 3.0
    assert result["totals"]["n_frauds"] == history.data.y[history.n_past :].sum()
    assert sum(step["n_lines"] for step in result["steps"]) == len(history.data.y) - history.n_past
    fig = dashboard.dashboard(
        {"retrain_every": result}, done.drift(), "title", monitoring.injected(split)
    )
    assert len(fig.axes) == 4
    assert dashboard.by_batch(result).shape[0] == 10


def test_the_policy_refit_begins_with_a_model_that_knows_validation(
    history, split, monkeypatch, tmp_path
):
    promoted = []
    monkeypatch.setattr(
        deployment.Deployment, "_promote", lambda _, model, reasons: promoted.append(model)
    )
    start = sandbox.start_bundle(split, "", tmp_path / "start", seed=2)
    options = deployment.Options(n_resamples=0)
    deployment.Deployment("refit", history, start, tmp_path / "policy", options)
    [first] = promoted
    assert bundle.verify(first.folder)["refit"]["periods"] == "reference and validation"
    assert first.fitted_on == slice(0, history.n_past)
    assert first.validated_on == history.slices["validation"]
    assert dashboard.label("refit")
    assert set(dashboard.POLICY_COLOURS) == set(deployment.POLICIES)
    odd = bundles.write(tmp_path / "odd", "forest", features=split.dataset.features)
    with pytest.raises(DataError, match=r"exported as it was compared.* Leave the policy refit"):
        deployment.Deployment("refit", history, odd, tmp_path / "odd-policy", deployment.Options())


def test_a_drill_is_told_in_words():
    found = {"n_lines": 9, "n_wrong": 0, "n_kills": 1, "versions": ["1", "2"]}
    said = dashboard.drilled(found)
    assert not any(key.startswith("n_") for key in said)
    assert said["lines in the log"] == 9
    assert "1, 2" in said.values()


def test_a_stream_without_labels_is_watched_without_recall_and_money(split, tmp_path):
    history = History(split)
    history.data = history.data._replace(y=np.full(len(history.data.y), -1, np.int8))
    fit, validation = history.window(history.n_known(history.data.time_s[-1]))
    assert fit.stop - fit.start > 0
    assert validation.stop > validation.start
    start = bundles.write(tmp_path / "start", "forest", features=split.dataset.features, seed=9)
    with sandbox.store(tmp_path):
        policy = deployment.Deployment(
            "threshold", history, start, tmp_path / "policy", deployment.Options()
        ).run()
    result = json.loads(json.dumps(policy.to_dict(), allow_nan=False))
    assert not dashboard.judged(result)
    assert result["options"]["block_s"] == 600
    assert all(step["n_lines"] == step["n"] for step in result["steps"])
    fig = dashboard.dashboard({"threshold": result}, policy.drift(), "title")
    assert [ax.get_title(loc="left") for ax in fig.axes] == [
        "Alert rate",
        "Drift against the reference window",
    ]
    assert not {"recall", "money at budget", "frauds"} & {*dashboard.by_batch(result).columns}
    assert "their money" not in dashboard.by_policy({"threshold": result})

    # the same rows as a table that is scored: the same window, and the same is found
    model = bundle.load(start)
    split.frame("untouched").to_parquet(tmp_path / "untouched.parquet")
    promise = Promise.of_validation(model, split.arrays("validation"))
    known = scoring.Known(split.arrays("reference", "validation"), promise)
    found = scoring.score_table(
        split.dataset, tmp_path / "untouched.parquet", model, tmp_path / "out", known
    ).report["drift"]
    replayed = ReplayedWeeks(policy, model).drift(split.batches).to_dict()
    assert found.pop("window")["periods"] == ["reference", "validation"]
    assert found == replayed


def test_a_new_table_is_scored_in_chunks(split, monkeypatch, tmp_path):
    monkeypatch.setattr(scoring, "CHUNK_ROWS", 700)
    monkeypatch.setattr(scoring, "SAMPLE_ROWS", 900)
    model = bundle.load(bundles.write(tmp_path / "model", features=split.dataset.features))
    (tmp_path / "new").mkdir()
    frame = split.frame("untouched").drop(columns="Class")
    frame.to_parquet(tmp_path / "new" / "part.parquet")
    promise = Promise.of_validation(model, split.arrays("validation"))
    known = scoring.Known(split.arrays("reference", "validation"), promise)
    found = scoring.score_table(split.dataset, tmp_path / "new", model, tmp_path / "out", known)
    report = found.report
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores["position"].tolist() == list(range(len(frame)))
    np.testing.assert_array_equal(
        scores["anomaly_score"], model.anomaly_score(split.arrays("untouched").X)
    )
    assert report["alert_rate"] == pytest.approx(scores["alert"].mean())
    assert report["drift"]["n"] == 900
    assert not list((tmp_path / "out").glob(".*"))


def test_a_sample_takes_every_row_with_the_same_chance():
    firsts = []
    for seed in range(200):
        sample = scoring.Sample(10, seed)
        for i in range(20):
            sample.add(arrays(5)._replace(time_s=np.arange(5) + 5.0 * i), np.arange(5.0) + 5 * i)
        data, score = sample.rows()
        assert len(score) == 10
        assert (data.time_s == score).all()
        firsts.append((score < 50).mean())
    assert np.mean(firsts) == pytest.approx(0.5, abs=0.03)
