import bundles
import numpy as np
import pytest
from starlette.testclient import TestClient

from lib import bundle
from lib.bundle.calibration import Calibration
from lib.detectors import registry
from serve.app import create_app
from serve.settings import Settings

SMALL = {
    "isolation_forest": {"n_trees": 50, "max_samples": 256},
    "autoencoder": {"members": 2, "epochs": 2},
    "gaussian_mixture": {"members": 2, "n_components": 3},
    "few_labels": {"detector": "isolation_forest"},
    "supervised_trees": {"n_trees": 20, "forest_trees": 20},
}


def raw_of(calibration, anomaly):
    """The raw scores that a calibration has made these anomaly scores of."""
    q, p, s = calibration.raw_score, calibration.anomaly_score, calibration.tail_scale
    tail = q[-1] + s * ((1 - p[-1]) / (1 - anomaly) - 1)
    return np.where(anomaly > p[-1], tail, np.interp(anomaly, p, q))


@pytest.mark.parametrize("name", registry.DETECTORS)
def test_the_served_score_is_the_notebooks_score(simulated, tmp_path, name):
    X = simulated[bundles.FEATURES].to_numpy(np.float32)
    fitted, later = X[:4_000], X[-1_000:]
    weight = np.ones(len(fitted))
    detector = registry.make(name, **SMALL.get(name, {}))
    if name in registry.SUPERVISED:
        detector.fit(fitted, simulated["Class"].to_numpy()[: len(fitted)], weight=weight)
    else:
        detector.fit(fitted, weight=weight, validation=(fitted, weight))
    parts = {"model.onnx": detector.to_onnx()}
    if explain := detector.explain_onnx():
        parts["explain.onnx"] = explain
    start = bundles.manifest(name)
    bundle.write(tmp_path, parts, start)
    expected = bundle.load(tmp_path).raw_score(later)
    calibration = Calibration.fit(expected, np.ones(len(later)))
    threshold = {"anomaly_score": 0.99, "rule": "alert_budget", "alert_budget": 0.01}
    bundle.write(
        tmp_path, parts, start | {"calibration": calibration.to_dict(), "threshold": threshold}
    )

    with TestClient(create_app(Settings(bundle=tmp_path))) as client:
        answers = [
            client.post("/predict", json={"features": part.tolist()}).json()
            for part in np.split(later, 10)
        ]
        explained = client.post(
            "/predict?explain=true", json={"features": later[:5].tolist()}
        ).json()
    anomaly = np.concatenate([answer["anomaly_scores"] for answer in answers])
    np.testing.assert_allclose(
        raw_of(calibration, anomaly), expected, rtol=1e-6, atol=1e-6 * np.ptp(expected)
    )
    np.testing.assert_array_equal(
        np.argsort(anomaly, kind="stable"), np.argsort(expected, kind="stable")
    )
    alerts = sum(sum(answer["predictions"]) for answer in answers)
    assert alerts == (anomaly >= 0.99).sum()
    assert 5 < alerts <= 10, "rows that tie at the threshold are left out together"
    assert len(explained["explanations"]) == 5
    assert all(1 <= len(entries) <= 3 for entries in explained["explanations"])
