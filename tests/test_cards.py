"""Model card and data card: what they say, that a model card never changes by itself, that it
travels in the bundle.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from lib import bundle
from lib.bundle.calibration import Calibration
from lib.bundle.manifest import read
from lib.data import splits
from lib.data.datasets import Dataset
from lib.detectors import registry
from lib.pipeline.stages import header
from lib.registry import candidates, challengers, descriptions
from lib.reporting import cards, names, run_descriptions


@pytest.fixture(scope="module")
def split():
    return splits.open_split(splits.ensure("simulated", rows=4_000, seed=7))


def test_the_data_card_says_what_the_words_of_a_label_mean():
    label = {"column": "status", "fraud": ["chargeback"], "genuine": ["ok", "paid"]}
    shop = Dataset.from_dict({"name": "shop", "time": "at", "features": ["x"], "label": label})
    assert cards._label(shop) == "`status`: fraud is chargeback; genuine is ok, paid"


@pytest.fixture
def folder(tmp_path, split):
    """A candidate that has been calibrated, with figures at two budgets."""
    fitted = candidates.fit(registry.make("isolation_forest", n_trees=10), split)
    folder = candidates.write(tmp_path, "isolation_forest", replace(fitted, seconds=12.25), split)
    raw, figure = (
        fitted.detector.raw_score(split.arrays("validation").X),
        {"value": 0.8123, "low": 0.7, "high": 0.9},
    )
    figures = {name: figure for name in names.HEADLINE} | {"recall_at_budget_0.01": figure}
    challengers.calibrate(
        folder,
        Calibration.fit(raw, np.ones(len(raw))),
        challengers.Threshold(np.sort(raw)[-9], "alert_budget", 0.002),
        name="detector",
        metrics=figures,
        card=cards.model,
    )
    return folder


def test_model_card_says_what_the_model_is_for_and_how_good(folder):
    text = (folder / "model_card.md").read_text()
    assert "must not block a payment" in text
    assert names.SIMULATED in text
    assert "labels of fraud seen: known frauds of reference removed from the fit" in text
    assert "| recall at 0.01 | 0.812 [0.700, 0.900] |" in text
    assert "### On untouched" not in text
    assert bundle.verify(folder)["files"]["model.onnx"] in text
    assert len(text) < descriptions.LIMIT


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({}, "from 5 s to 86,400 s"),
        ({"time": "datetime"}, "from 1970-01-01 00:00:05 to 1970-01-02 00:00:00"),
        ({"time": "rows"}, "from row 5 to row 86,400"),
    ],
)
def test_model_card_tells_the_time_as_the_table_does(folder, kind, said):
    manifest = bundle.verify(folder)
    assert "time" not in manifest["fit"]
    fit = manifest["fit"] | {"start_s": 5.0, "end_s": 86_400.0} | kind
    assert said in cards.model(manifest | {"fit": fit})


def test_a_candidate_of_a_table_with_dates_knows_that(tmp_path):
    dated = splits.open_split(splits.ensure("payments", rows=2_000, seed=7))
    fitted = candidates.fit(registry.make("isolation_forest", n_trees=10), dated)
    folder = candidates.write(tmp_path, "isolation_forest", fitted, dated)
    assert bundle.verify(folder)["fit"]["time"] == "datetime"


def test_model_card_has_no_time_and_no_run_in_it(folder):
    manifest = bundle.verify(folder)
    later = manifest | {
        "version": "7",
        "provenance": {"fit_s": 99.0, "trained_at": "2031-01-01", "mlflow_run_id": "x"},
    }
    assert cards.model(later) == (folder / "model_card.md").read_text()


def test_model_card_travels_under_its_hash_and_a_changed_one_is_refused(tmp_path, folder):
    manifest, graphs = read(folder)
    out = tmp_path / "bundle"
    bundle.write(out, graphs, manifest | {"version": "1"}, hashed_names=True)
    (card,) = out.glob("model_card-*.md")
    assert card.read_bytes() == (folder / "model_card.md").read_bytes()
    assert bundle.bundle_hash(out) == bundle.bundle_hash(folder)
    assert candidates.parity(bundle.load(out), folder)["swapped"] == 0
    graphs[cards.MODEL_CARD] = b"# Another card\n"
    bundle.write(out, graphs, manifest, hashed_names=True)
    assert len(list(out.glob("model_card-*.md"))) == 1
    next(out.glob("model_card-*.md")).write_text("# It may block payments\n")
    with pytest.raises(bundle.BundleError, match=r"model_card-.* was changed"):
        bundle.load(out)


def test_data_card_names_source_periods_and_hashes(split):
    text = cards.data(split)
    assert text.startswith("# Data card of `simulated`\n\n> **Simulated transactions")
    assert f"splits.json `{split.fingerprint}`" in text
    for period, entry in split.manifest["periods"].items():
        assert f"| {period} |" in text
        assert f"| {entry['n']:,} | {entry['n_frauds']} |" in text


def test_reasons_read_like_sentences():
    reason = "autoencoder has the best average_precision of 2 candidates: 0.8"
    assert (
        names.plain(reason, {"autoencoder"})
        == "Autoencoder has the best average precision of 2 candidates: 0.8"
    )
    assert (
        names.plain("it beats the naive rules amount, max_abs_z")
        == "It beats the naive rules amount alone, largest |z|"
    )
    both = {"gaussian_mixture", "gaussian_mixture@train_on=all"}
    assert (
        names.plain("it beats gaussian_mixture@train_on=all", both)
        == "It beats Gaussian mixture (no labels)"
    )
    nobody_listed = "robust_covariance@train_on=all,isolated=0.15, max_abs_z; fusion@log=never."
    assert names.plain(f"it beats {nobody_listed}") == (
        "It beats Robust covariance (no labels, 15 % isolated), largest |z|; Fusion (no logarithm)."
    )


def test_a_stage_is_described_by_its_first_cell():
    first = "# Title\n\n- *Question*: what is\n  it?\n- *Reads*: nothing.\n"
    first += "- *Writes*: `a`,\n  `b`.\n- *Runtime*: seconds."
    text = run_descriptions.stage("01_eda", header([("markdown", first, [])]), "it has not run yet")
    assert text.splitlines()[0] == "`notebooks/01_eda.ipynb`"
    assert "- *Question*: what is it?" in text
    assert "- *Writes*: `a`, `b`." in text
    assert text.endswith("- *Executed because*: it has not run yet")


def test_a_run_is_described_by_what_it_decided():
    figures = {"validation": {"average_precision": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    champion = {"model": "max_abs_z", "name": "fraud-detector", "version": "2"}
    metrics = {
        "source": "simulated",
        "models": {"max_abs_z": figures},
        "champion": champion,
        "verdict": {"action": "promote", "reasons": ["max_abs_z wins"]},
    }
    text = run_descriptions.pipeline("20260101-000000-x", json.loads(json.dumps(metrics)))
    assert "largest |z| was promoted to champion, fraud-detector version 2." in text
    assert "| largest \\|z\\| | none | 0.500 [0.400, 0.600] | – |" in text
    assert run_descriptions.pipeline("20260101-000000-x", {}).startswith(
        "Everything is in `reports/20260101-000000-x`"
    )
