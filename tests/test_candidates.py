"""Candidates: what is written is what was fitted; calibration leaves the graph alone; exports prove
parity.
"""

import re
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from sklearn.svm import OneClassSVM

from lib import bundle
from lib.bundle.calibration import Calibration
from lib.data import splits
from lib.data.budgets import Budget
from lib.data.datasets import load_description, prepare
from lib.detectors import baselines, registry
from lib.detectors.few_labels import known_labels
from lib.detectors.wrapped import Wrapped
from lib.errors import DataError
from lib.evaluation import comparison, costs, gate, metrics, thresholds
from lib.registry import candidates, challengers, export
from lib.registry.mlflow_store import Champion
from lib.reporting import cards, names, plots, tables


@pytest.fixture(scope="module")
def split(simulated, tmp_path_factory):
    dataset = load_description("simulated")
    frame = prepare(dataset, simulated.copy(), "simulated")
    folder = tmp_path_factory.mktemp("data") / "split"
    return splits.make(dataset, frame, folder, source="simulated", raw_sha256=None)


@pytest.fixture(scope="module")
def fitted(split):
    return candidates.fit(registry.make("isolation_forest", n_trees=30, seed=3), split)


@pytest.fixture
def folder(tmp_path, split, fitted):
    return candidates.write(tmp_path, "isolation_forest", fitted, split)


def test_regimes_and_names_of_variants():
    assert candidates.regimes("both") == ("genuine", "all")
    assert candidates.variant("autoencoder", "genuine") == "autoencoder"
    assert candidates.variant("autoencoder@code=4", "all") == "autoencoder@code=4,train_on=all"
    second = candidates.variant("robust_covariance", "all", isolated=0.15)
    assert second == "robust_covariance@train_on=all,isolated=0.15"
    with pytest.raises(DataError, match="'none'"):
        candidates.regimes("none")


def test_fit_leaves_known_frauds_out_unless_all_are_wanted(split, fitted):
    reference = split.arrays("reference")
    assert len(fitted.training.X) == (reference.y == 0).sum()
    everything = candidates.fit(registry.make("isolation_forest", n_trees=2), split, "all").training
    assert len(everything.X) == len(reference.X)


def test_manifest_says_what_was_fitted_and_the_graph_scores_alike(split, fitted, folder):
    manifest, X = bundle.verify(folder), split.arrays("validation").X
    assert manifest["fit"]["labels_seen"] == "known frauds of reference removed from the fit"
    assert manifest["fit"]["parameters"]["n_trees"] == 30
    assert manifest["reference"]["low"] < manifest["reference"]["high"]
    trained_at = datetime.fromisoformat(manifest["provenance"]["trained_at"])
    assert 0 <= (datetime.now(UTC) - trained_at).total_seconds() < 3_600
    np.testing.assert_allclose(
        bundle.load(folder).raw_score(X), fitted.detector.raw_score(X), rtol=1e-5
    )


SHOWN = {"label": "One-class SVM", "colour": "#CC00CC", "about": "How far from a boundary."}


def test_a_detector_of_ones_own_is_called_as_its_notebook_says(split, tmp_path, monkeypatch):
    monkeypatch.setattr(names, "_OWN", {})
    detector = Wrapped(OneClassSVM(nu=0.05), max_rows=300)
    fits = {"all": candidates.fit(detector, split, "all")}
    made = candidates.write_all(tmp_path, "svm", fits, split, shown=candidates.Shown(**SHOWN))
    name = "svm@train_on=all"
    assert made[name].manifest["shown"] == SHOWN
    assert made[name].manifest["fit"]["parameters"]["estimator__nu"] == 0.05
    assert candidates.parity(made[name], tmp_path / "models" / name)["swapped"] == 0
    assert challengers.ensure(tmp_path, split, make=False) == {name: tmp_path / "models" / name}
    assert names.label(name) == "Svm (no labels)"
    card = cards.model(made[name].manifest)
    assert card.startswith("# One-class SVM (no labels), a detector")
    assert "How far from a boundary. It learns what is ordinary" in card
    assert plots.colour(name) == "#CC00CC"
    assert names.plain("svm@train_on=all is above svm") == (
        "One-class SVM (no labels) is above One-class SVM"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"label": ""}, "label is ''"),
        ({"label": "a|b"}, "label is 'a|b'; expected up to 40"),
        ({"colour": "green"}, "colour is 'green'; expected six digits"),
        ({"about": "<b>"}, "about is '<b>'"),
    ],
    ids=["empty", "table", "colour", "markup"],
)
def test_what_cannot_be_shown_is_a_sentence(changed, said):
    with pytest.raises(DataError, match=re.escape(said)):
        candidates.Shown(**SHOWN | changed)


def test_calibration_leaves_the_graph_as_it_is_and_meets_the_budget(split, folder):
    validation, before = split.arrays("validation"), (folder / "model.onnx").read_bytes()
    raw = bundle.load(folder).raw_score(validation.X)
    threshold = thresholds.pick_threshold(raw, validation, thresholds.Rule(alert_budget=0.01))
    challengers.calibrate(
        folder,
        Calibration.fit(raw, validation.weight),
        challengers.Threshold(threshold, "alert_budget", 0.01),
        name="name",
        card=cards.model,
    )
    alerts, scores = bundle.load(folder).predict(validation.X)
    assert (folder / "model.onnx").read_bytes() == before
    assert 0 < validation.weight[alerts == 1].sum() / validation.weight.sum() <= 0.01
    assert (np.argsort(scores, kind="stable") == np.argsort(raw, kind="stable")).all()


def test_same_fit_gives_the_same_hash_whatever_its_provenance(tmp_path, split, fitted, folder):
    again = candidates.fit(registry.make("isolation_forest", n_trees=30, seed=3), split)
    slow = replace(again, seconds=123.0)
    other = candidates.write(tmp_path / "other", "isolation_forest", slow, split)
    assert bundle.bundle_hash(folder) == bundle.bundle_hash(other)


def test_candidates_of_another_split_are_not_taken(tmp_path, split, folder):
    assert list(challengers.ensure(tmp_path, split)) == ["isolation_forest"]
    manifest = (folder / "manifest.json").read_text()
    shutil.copytree(folder, folder.parent / "autoencoder")
    (folder.parent / "autoencoder" / "manifest.json").write_text(
        manifest.replace(split.fingerprint, "0" * 64)
    )
    assert list(challengers.ensure(tmp_path, split)) == ["isolation_forest"]


def test_parity_holds_for_the_estimator_and_refuses_another_model(tmp_path, split, folder):
    assert candidates.parity(bundle.load(folder), folder)["swapped"] == 0
    other = candidates.fit(registry.make("isolation_forest", n_trees=30, seed=4), split)
    stranger = candidates.write(tmp_path / "stranger", "isolation_forest", other, split)
    with pytest.raises(bundle.BundleError, match="differs from its estimator"):
        candidates.parity(bundle.load(stranger), folder)


def test_champion_of_other_features_cannot_be_scored(split, folder, capsys):
    class Present:
        version, folder, lost = "4", None, ""

    Present.folder = folder
    X = split.arrays("validation").X
    assert set(comparison.score_champion(Present, X, split.dataset.features)) == {
        comparison.PRESENT
    }
    assert comparison.score_champion(Present, X[:, :2], ["a", "b"]) == {}
    assert "version 4" in capsys.readouterr().out


def without(split, monkeypatch, *, labels=slice(0, 0), feature=None):
    """The split as if these rows of its periods had no label, or reference no value of a
    feature.
    """
    real = type(split).arrays

    def arrays(self, period):
        data = real(self, period)
        y = data.y.copy()
        y[labels] = -1
        X = data.X.copy()
        if feature is not None and period == "reference":
            X[:, split.dataset.features.index(feature)] = np.nan
        return data._replace(X=X, y=y)

    monkeypatch.setattr(type(split), "arrays", arrays)
    return split


def test_without_labels_only_the_regime_all_is_fitted_and_a_line_says_so(
    split, monkeypatch, capsys, tmp_path
):
    assert candidates.regimes("both", split) == ("genuine", "all")
    without(split, monkeypatch, labels=slice(None))
    assert candidates.regimes("both", split) == ("all",)
    assert "all" in capsys.readouterr().out
    fitted = candidates.fit(registry.make("isolation_forest", n_trees=2), split, "all")
    folder = candidates.write(tmp_path, "isolation_forest@train_on=all", fitted, split)
    unlabelled = metrics.Outcomes(np.array([-1]), weight=[1.0], time_s=[0.0])
    unjudged = metrics.evaluate(unlabelled, {"m": [0.0]})["m"]
    raw = fitted.detector.raw_score(fitted.training.X)
    challengers.calibrate(
        folder,
        Calibration.fit(raw, fitted.training.weight),
        challengers.Threshold(raw.max(), "alert_budget", 0.002),
        name="name",
        metrics=unjudged,
        card=cards.model,
    )
    card = (folder / "model_card.md").read_text()
    assert "nobody has judged" in card
    assert "| figure |" not in card


def test_unlabelled_rows_are_out_of_genuine_and_of_learning_and_inside_all(
    split, monkeypatch, tmp_path
):
    without(split, monkeypatch, labels=slice(0, 500))
    reference = split.arrays("reference")
    assert f"500 of {len(reference.y):,}" in " ".join(candidates.remarks(split))
    fitted = candidates.fit(registry.make("isolation_forest", n_trees=2), split)
    assert len(fitted.training.y) == (reference.y == 0).sum()
    folder = candidates.write(tmp_path, "isolation_forest", fitted, split)
    assert "500 unlabelled" in bundle.verify(folder)["fit"]["labels_seen"]
    everything = candidates.fit(registry.make("isolation_forest", n_trees=2), split, "all")
    assert len(everything.training.y) == len(reference.y)
    trees = registry.make("supervised_trees", n_trees=2, forest_trees=2)
    supervised = candidates.fit(trees, split, supervised=True).training
    assert len(supervised.y) == len(reference.y) - 500
    known = known_labels(reference)
    trees = registry.make("supervised_trees", n_trees=2, forest_trees=2)
    few = candidates.fit(trees, split, supervised=True, labels=known).training
    assert len(few.y) == len(reference.y) - 500


def test_an_empty_feature_is_named_and_has_a_range_of_numbers(split, monkeypatch, tmp_path):
    feature = split.dataset.features[2]
    without(split, monkeypatch, feature=feature)
    assert repr(feature) in " ".join(candidates.remarks(split))
    fitted = candidates.fit(registry.make("isolation_forest", n_trees=5), split)
    detector, training = fitted.detector, fitted.training
    folder = candidates.write(tmp_path, "isolation_forest", fitted, split)
    manifest = bundle.verify(folder)
    assert manifest["empty_features"] == [feature]
    assert [manifest["reference"][key][2] for key in ("low", "median", "high")] == [0, 0, 0]
    raw = detector.raw_score(training.X)
    challengers.calibrate(
        folder,
        Calibration.fit(raw, training.weight),
        challengers.Threshold(raw.max(), "alert_budget", 0.002),
        name="name",
        card=cards.model,
    )
    assert f"`{feature}`" in (folder / "model_card.md").read_text()
    assert "empty_features" not in bundle.verify(
        candidates.write(tmp_path, "whole", *whole(split, monkeypatch))
    )


def whole(split, monkeypatch):
    monkeypatch.undo()
    return candidates.fit(registry.make("isolation_forest", n_trees=2), split), split


def held(split, folder, present=None, data=None, **terms):
    """The gate's verdict on one candidate, by everything that the comparison notebook hands
    over.
    """
    data = data or split.arrays("validation")
    scores = baselines.naive_scores(data, split.arrays("reference"))
    scores["isolation_forest"] = bundle.load(folder).raw_score(data.X)
    scores |= comparison.score_champion(present, data.X, split.dataset.features)
    compared = metrics.compare(data, scores, metrics.Options(n_resamples=50))
    folders = {"isolation_forest": folder}
    return comparison.judge(folders, compared, data, present=present, terms=gate.Terms(**terms))


def test_the_gate_is_told_what_the_comparison_knows(split, folder):
    manifest = bundle.verify(folder)
    same = Champion("name", "4", "", manifest, folder)
    assert held(split, folder).promote == "isolation_forest"
    assert "identical" in held(split, folder, same).reasons[-1]
    lost = Champion("name", "4", "", {}, None, "The files of name, version 4, are gone.")
    assert held(split, folder, lost).action == "keep"
    assert held(split, folder, lost, accept=True).action == "promote"
    assert "prevalence" in held(split, folder, alert_budget=1e-4).remarks[-1]
    with pytest.raises(DataError, match="nominee is 'fusion'"):
        held(split, folder, nominee="fusion")


def test_the_gate_is_told_costs_and_what_labels_would_bring(split, folder, monkeypatch):
    """A candidate that ranks as the labels do stands for one that has learnt from them."""
    data = split.arrays("validation")
    monkeypatch.setattr(comparison, "_candidate", partial(as_supervised, comparison._candidate))
    scores = {"isolation_forest": bundle.load(folder).raw_score(data.X), "trees": data.y * 1.0}
    scores["random"] = np.random.default_rng(0).random(len(data.y))
    compared = metrics.compare(data, scores, metrics.Options(n_resamples=50))
    folders = dict.fromkeys(("isolation_forest", "trees"), folder)
    measured = costs.measure(folders, data.X[:7])
    verdict = comparison.judge(folders, compared, data, costs=measured)
    assert verdict.chosen == "isolation_forest"
    assert "Labels would help: trees" in verdict.remarks[-1]
    allowed = gate.Terms(allow_supervised=True)
    verdict = comparison.judge(folders, compared, data, costs=measured, terms=allowed)
    assert verdict.chosen == "trees"
    learnt = Champion("name", "4", "", {**bundle.verify(folder), "supervised": True}, folder)
    remarks = comparison.judge(folders, compared, data, present=learnt).remarks
    assert not [remark for remark in remarks if "Labels" in remark]
    with pytest.raises(DataError, match="parsimony_margin"):
        comparison.judge(folders, compared, data, terms=gate.Terms(parsimony_margin=-1))


def as_supervised(make, name, *others):
    return replace(make(name, *others), supervised=name == "trees")


def test_the_cost_of_a_candidate_is_measured_and_kept(split, folder):
    data = split.arrays("validation")
    before = bundle.bundle_hash(folder)
    started = time.perf_counter()
    measured = costs.measure({"isolation_forest": folder}, data.X)
    assert time.perf_counter() - started < 3  # a tenth of that where nothing else runs
    cost = measured["isolation_forest"]
    assert cost.bytes == (folder / "model.onnx").stat().st_size
    assert 0 < cost.score_us < 1_000
    assert bundle.bundle_hash(folder) == before
    figures = {"isolation_forest": {"average_precision": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    results = comparison.Results(figures, costs=measured)
    decision = comparison.Decision(None, gate.Verdict(None, [], "none"), Budget(0.002))
    folders = {"isolation_forest": folder}
    kept = comparison.run_metrics("run", split, 0, folders, results, decision)
    entry = kept["models"]["isolation_forest"]
    assert (entry["score_us"], entry["bytes"]) == (cost.score_us, cost.bytes)
    table = tables.costs(measured, figures, "average_precision")
    assert table.loc["Isolation forest"].to_list() == [
        "0.500 [0.400, 0.600]",
        cost.time,
        cost.size,
    ]


@pytest.mark.parametrize(
    ("score_us", "size", "time_text", "size_text"),
    [
        (2.149, 310, "2.1", "310 bytes"),
        (38.4, 12_345, "38", "12 kB"),
        (0.25, 2.9e6, "0.25", "2.9 MB"),
    ],
)
def test_costs_are_told_with_two_digits(score_us, size, time_text, size_text):
    cost = costs.Cost(score_us, int(size))
    assert (cost.time, cost.size) == (time_text, size_text)


@pytest.mark.parametrize("label", [-1, 0])
def test_where_no_fraud_is_known_nobody_judges(split, folder, label):
    data = split.arrays("validation")
    verdict = held(split, folder, data=data._replace(y=np.full_like(data.y, label)))
    assert verdict.promote == "isolation_forest"
    assert "Nobody has judged" in verdict.remarks[0]


def test_a_champion_of_other_features_or_without_files_is_not_exported(split, folder):
    present, features = (
        Champion("name", "4", "", bundle.verify(folder), folder),
        split.dataset.features,
    )
    assert export.obstacle(present, features, "name") == ""
    assert features[0] in export.obstacle(present, features[1:], "name")
    assert "another order" in export.obstacle(present, features[::-1], "name")
    assert "no champion" in export.obstacle(None, features, "name")
    assert (
        export.obstacle(Champion("name", "4", "", {}, None, "Files are gone."), features, "name")
        == "Files are gone."
    )
