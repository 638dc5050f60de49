"""What /docs says of the served model, and the examples that it offers."""

import html
import json
import re
import time

import bundles
import numpy as np
import pytest
from starlette.testclient import TestClient

from lib import bundle
from serve import examples
from serve.app import create_app
from serve.settings import Settings

REAL = {"name": "creditcard", "source": "full"}


def serving(folder, **settings):
    return TestClient(create_app(Settings(bundle=folder, **settings)))


def shown(page):
    """The page as text, without script and style."""
    return html.unescape(re.sub(r"<(script|style)>.*?</\1>|<[^>]+>", " ", page, flags=re.S))


def offered(client):
    """{key: example} of POST /predict."""
    document = client.get("/openapi.json").json()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    return content["examples"]


def test_docs_name_model_version_data_set_and_threshold(tmp_path):
    folder = bundles.write(
        tmp_path, "forest", name="fraud-detector-shop", version="7", dataset=REAL
    )
    with serving(folder) as client:
        text = shown(client.get("/docs").text)
    for fact in (
        "fraud-detector-shop",
        "version 7",
        "forest",
        "creditcard",
        "at least 0.95",
        "5 % of all transactions",
    ):
        assert fact in text
    assert "imulated" not in text


def test_docs_say_loudly_that_transactions_were_simulated(tmp_path):
    with serving(bundles.write(tmp_path)) as client:
        assert '<p class="warning"><strong>Simulated' in client.get("/docs").text


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": None},
        {"dataset": {"name": "<b>x"}},
        {"dataset": "a text"},
        {"provenance": None},
        {"reference": None},
        {"model": None},
    ],
)
def test_docs_do_without_what_a_manifest_leaves_out(tmp_path, changes):
    with serving(bundles.write(tmp_path, **changes)) as client:
        page = client.get("/docs")
        assert page.status_code == 200
        assert "<b>x" not in page.text
        for example in offered(client).values():
            assert client.post("/predict", json=example["value"]).status_code == 200


def test_docs_without_a_bundle_say_so(tmp_path):
    with serving(tmp_path / "absent") as client:
        assert "No model is loaded" in client.get("/docs").text


def test_docs_follow_a_new_version_of_the_same_model(tmp_path):
    """The hash of a bundle leaves its version out."""
    folder = bundles.write(tmp_path, version="3")
    with serving(folder, api_key="k", poll_s=3_600) as client:
        assert "version 3" in shown(client.get("/docs").text)
        bundles.write(folder, version="4")
        assert client.post("/admin/reload", headers={"x-api-key": "k"}).status_code == 200
        text = shown(client.get("/docs").text)
    assert "version 4" in text
    assert "version 3" not in text


@pytest.mark.parametrize("kind", bundles.KINDS)
@pytest.mark.parametrize("d", [1, 3, 29])
def test_one_example_is_normal_and_one_alerts(tmp_path, kind, d):
    names = bundles.FEATURES[-d:]
    with serving(bundles.write(tmp_path, kind, features=names)) as client:
        found = offered(client)
        verdicts = {}
        for key, example in found.items():
            answer = client.post("/predict", json=example["value"]).json()
            verdicts[key] = answer["predictions"][0]
            if key != "names":
                assert f"{answer['anomaly_scores'][0]:.6g}" in example["summary"]
                assert ("no alert" in example["summary"]) == (answer["predictions"] == [0])
        assert verdicts["names"] == verdicts["list"]
    assert verdicts["list"] == 0
    # one row of this many features may not reach the threshold; then its text says so, as checked
    assert verdicts["anomalous"] == 1 or kind == "forest"


def test_the_anomalous_example_has_no_negative_amount(tmp_path):
    model = bundle.load(bundles.write(tmp_path, "autoencoder", features=["Amount"]))
    _, anomalous = examples.find(model)
    assert anomalous.values[0] >= 0


class Pair:
    """A model that alerts if one feature is high and another low, and else says how many are
    odd.
    """

    features, reference, threshold = ("a", "b", "c", "d"), {}, 0.9

    def raw_score(self, X):
        both = (X[:, 1] > 3) & (X[:, 3] < -0.5) & (np.abs(X[:, [0, 2]]) < 0.5).all(axis=1)
        return both + 0.1 * (X[:, 1] > 3) + 0.1 * (X[:, 3] < -0.5) + 0.2 * (X[:, 0] > 0.5)

    def predict(self, X):
        scores = np.minimum(self.raw_score(X), 1.0)
        return (scores >= self.threshold).astype(np.int8), scores


def test_a_combination_that_alerts_is_found_feature_by_feature():
    _, anomalous = examples.find(Pair())
    assert anomalous.is_alert
    assert anomalous.values[1] > 3
    assert anomalous.values[3] < -0.5


def test_large_numbers_that_lie_close_together_are_told_apart():
    """1,700,000,123 to four digits would be more than a month away."""
    model = Pair()
    seconds = {"low": 1_700_000_000.0, "median": 1_700_000_500.0, "high": 1_700_001_000.0}
    model.reference = {key: np.array([value] * 4) for key, value in seconds.items()}
    normal, _ = examples.find(model)
    assert normal.values == [1_700_000_500.0] * 4


def test_examples_of_a_thousand_features_are_found_in_a_moment():
    model = Pair()
    model.features = tuple(f"f{i}" for i in range(1_000))
    begin = time.perf_counter()
    examples.find(model)
    assert time.perf_counter() - begin < 5


def test_an_example_that_cannot_alert_does_not_claim_to(tmp_path):
    folder = bundles.write(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["threshold"] = {"anomaly_score": 1.0, "rule": "max_f1"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with serving(folder) as client:
        example = offered(client)["anomalous"]
        alert = client.post("/predict", json=example["value"]).json()["predictions"][0]
        assert ("no alert" in example["summary"]) == (alert == 0)


def test_where_the_medians_are_reported_the_lowest_score_of_their_neighbours_is_shown(tmp_path):
    folder = bundles.write(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["threshold"] = {"anomaly_score": 0.0, "rule": "max_f1"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    normal, anomalous = examples.find(bundle.load(folder))
    assert normal.is_alert
    assert normal.verdict.startswith("alert")
    assert normal.score <= anomalous.score


def test_features_that_never_vary_are_moved_as_well(tmp_path):
    reference = {"low": [5.0] * 3, "median": [5.0] * 3, "high": [5.0] * 3}
    folder = bundles.write(tmp_path, features=["a", "b", "c"], reference=reference)
    _, anomalous = examples.find(bundle.load(folder))
    assert anomalous.is_alert
    assert anomalous.values != [5.0] * 3


def test_examples_of_the_largest_numbers_are_still_numbers(tmp_path):
    d = 3
    reference = {"low": [-3e38] * d, "median": [0.0] * d, "high": [3e38] * d}
    folder = bundles.write(tmp_path, features=["a", "b", "c"], reference=reference)
    for example in examples.find(bundle.load(folder)):
        assert np.isfinite(np.array(example.values, np.float32)).all()
        assert 0 <= example.score <= 1


def test_docs_say_the_budget_in_both_units(tmp_path):
    threshold = {"anomaly_score": 0.95, "rule": "alert_budget", "alert_budget": 0.05}
    folder = bundles.write(tmp_path, threshold=threshold | {"transactions_per_day": 1_000.0})
    with serving(folder) as client:
        assert "5 % of all transactions reach, 50 a day" in shown(client.get("/docs").text)


def test_docs_of_a_model_without_a_recipe_speak_of_nothing_that_it_lacks(tmp_path):
    with serving(bundles.write(tmp_path)) as client:
        page = client.get("/docs").text
    text = shown(page)
    assert "<code>features</code>" in page
    assert "`" not in text
    assert "remember" not in text
    assert "recipe" not in text
