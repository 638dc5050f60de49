"""A detector of a user's own, from a copy of the template to the server that answers for it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from server import Server

pytestmark = pytest.mark.check
KEPT = ("02_split", "09_comparison", "10_export")
QUICK = ("rows 8000", "n_resamples 50", "svm.max_rows 1000")
CHANGES = {  # in the cells that are the user's to change
    "from sklearn.neighbors import LocalOutlierFactor": "from sklearn.svm import OneClassSVM",
    "estimator = LocalOutlierFactor(n_neighbors=n_neighbors, novelty=True)": (
        "estimator = OneClassSVM(nu=0.05)"
    ),
    'label=\\"Local outlier factor\\"': 'label=\\"One-class SVM\\"',
}


@pytest.fixture
def champion(project):
    """(project's folder, what its run has left) after a run with an own notebook."""
    folder, environment = project
    for path in (folder / "notebooks").glob("*.ipynb"):
        if path.stem not in KEPT:
            path.unlink()
    text = (folder / "notebooks" / "templates" / "detector.ipynb").read_text()
    for before, after in CHANGES.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    (folder / "notebooks" / "08b_svm.ipynb").write_text(text)
    words = [word for setting in QUICK for word in ("-p", *setting.split())]
    done = subprocess.run(
        [sys.executable, "run_pipeline.py", "--dataset", "simulated", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "One-class SVM" in done.stdout
    return folder, json.loads((folder / "reports" / "latest" / "metrics.json").read_text())


def test_a_one_class_svm_of_ones_own_becomes_champion_and_is_served(champion, tmp_path):
    folder, metrics = champion
    assert metrics["champion"]["model"].partition("@")[0] == "svm"
    assert metrics["models"]["svm"]["shown"]["label"] == "One-class SVM"
    page = (folder / "reports" / "latest" / "index.html").read_text()
    assert "One-class SVM" in page
    assert "#CC00CC" in page
    manifest = json.loads((folder / "serve" / "model" / "manifest.json").read_text())
    assert manifest["fit"]["parameters"]["estimator"] == "sklearn.svm.OneClassSVM"
    with np.load(
        folder / "reports" / "latest" / "models" / manifest["model"] / "parity.npz"
    ) as kept:
        X, raw_score = kept["X"][:50], kept["raw_score"][:50]
    server = Server([sys.executable, "-m", "serve"], folder / "serve" / "model", tmp_path / "log")
    try:
        status, answer, headers = server.call("POST", "/predict", {"features": X.tolist()})
    finally:
        server.stop()
    assert status == 200
    assert headers["X-Model"].startswith("fraud-detector-simulated")
    scores = np.array(answer["anomaly_scores"])
    # in the estimator's order the served scores rise
    assert (np.diff(scores[np.argsort(raw_score)]) >= -1e-6).all()
    assert np.ptp(scores) > 0.5
