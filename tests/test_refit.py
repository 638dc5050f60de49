"""A refit: the registered configuration, fitted on reference and validation, says what it is."""

import numpy as np
import pytest

from lib import bundle
from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.data import splits
from lib.data.datasets import load_description, prepare
from lib.detectors import registry
from lib.registry import candidates, challengers, export, refit, serving
from lib.reporting import cards

BUDGET = 0.01


@pytest.fixture(scope="module")
def split(simulated, tmp_path_factory):
    dataset = load_description("simulated")
    frame = prepare(dataset, simulated.copy(), "simulated")
    folder = tmp_path_factory.mktemp("data") / "split"
    return splits.make(dataset, frame, folder, source="simulated", raw_sha256=None)


def registered(split, run_dir, model="isolation_forest", rule="alert_budget", **parameters):
    """A calibrated candidate, as the registry would keep it."""
    fitted = candidates.fit(registry.make(model, seed=3, **parameters), split)
    folder = candidates.write(run_dir, model, fitted, split)
    data = split.arrays("validation")
    raw = bundle.load(folder).raw_score(data.X)
    threshold = threshold_for_budget(raw, data.weight, BUDGET)
    challengers.calibrate(
        folder,
        Calibration.fit(raw, data.weight),
        challengers.Threshold(threshold, rule, BUDGET),
        name="fraud-detector-test",
        card=cards.model,
    )
    return folder


@pytest.fixture(scope="module")
def both(split, tmp_path_factory):
    """The folders of a registered forest and of its refit."""
    run_dir = tmp_path_factory.mktemp("run")
    before = registered(split, run_dir, n_trees=30)
    return before, refit.refit(before, split, run_dir, card=cards.model)


def test_a_refit_has_seen_both_periods_and_says_so(split, both):
    before, after = map(bundle.verify, both)
    reference, validation = split.arrays("reference"), split.arrays("validation")
    n_genuine = (reference.y == 0).sum() + (validation.y == 0).sum()
    assert after["fit"]["n"] == n_genuine > before["fit"]["n"]
    assert after["fit"]["end_s"] == validation.time_s[-1]
    assert after["fit"]["parameters"] == before["fit"]["parameters"]
    assert after["fit"]["seed"] == before["fit"]["seed"] == 3
    assert "of reference and validation" in after["fit"]["labels_seen"]
    assert after["refit"] == {"of": bundle.bundle_hash(both[0]), "periods": refit.PERIODS}
    assert bundle.bundle_hash(both[1]) != bundle.bundle_hash(both[0])
    assert after["model"] == before["model"]
    card = (both[1] / "model_card.md").read_text(encoding="utf-8")
    assert "of reference and validation" in card
    assert "A refit" in card
    assert "A refit" not in (both[0] / "model_card.md").read_text(encoding="utf-8")
    served, _ = serving.exported(both[1])
    assert served.refit == refit.PERIODS
    now = serving.Now("2026-01-01T00:00:00+00:00", "name", None, served)
    assert "fitted anew on reference and validation" in " ".join(now.sentences())


def test_a_refit_keeps_parity_and_is_repeatable(split, both, tmp_path):
    assert candidates.parity(bundle.load(both[1]), both[1])["swapped"] == 0
    again = refit.refit(both[0], split, tmp_path, card=cards.model)
    assert bundle.bundle_hash(again) == bundle.bundle_hash(both[1])


def test_the_threshold_comes_from_scores_that_were_not_fitted_on(split, tmp_path):
    """Nearest neighbours are at distance 0 from what they know: in-sample scores would mislead."""
    before = registered(split, tmp_path, "nearest_neighbours")
    after = refit.refit(before, split, tmp_path, card=cards.model)
    manifest = bundle.verify(after)
    reference, validation = split.arrays("reference"), split.arrays("validation")
    unseen = refit._unseen_scores(manifest, reference, validation, 1)
    assert np.mean(unseen >= manifest["threshold"]["raw_score"]) == pytest.approx(BUDGET, abs=0.001)
    in_sample, _ = bundle.load(after).predict(validation.X)
    assert in_sample.mean() < 0.7 * BUDGET
    figures = manifest["metrics"]["validation"]
    assert 0 < figures["average_precision"]["value"] < 1


def test_other_rules_carry_their_alert_rate_over(split, tmp_path):
    before = registered(split, tmp_path, n_trees=30, rule="max_f1")
    validation = split.arrays("validation")
    assert refit._alerted(bundle.load(before), validation) == pytest.approx(BUDGET, abs=0.001)
    after = bundle.verify(refit.refit(before, split, tmp_path, card=cards.model))
    assert after["threshold"]["rule"] == "max_f1"
    assert after["threshold"]["anomaly_score"] == pytest.approx(1 - BUDGET, abs=0.003)


def test_what_cannot_be_refitted_is_named():
    assert refit.obstacle({"model": "gaussian_mixture@train_on=all"}) == ""
    assert "fusion is exported as it was compared" in refit.obstacle({"model": "fusion"})


def test_joined_arrays_keep_order_and_what_is_not_there(split):
    reference, validation = split.arrays("reference"), split.arrays("validation")
    joined = refit._joined(reference._replace(amount=None), validation._replace(amount=None))
    assert joined.amount is None
    assert (np.diff(joined.time_s) >= 0).all()
    assert len(joined.y) == len(reference.y) + len(validation.y)
