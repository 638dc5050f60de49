"""Somebody's own table, whole pipeline: datetimes as text, string ids, missing values, a folder of
Parquet.
"""

import json
import subprocess
import sys

import numpy as np
import online
import pandas as pd
import pytest
import yaml

from lib import bundle

FEATURES = ["total", "items", "minutes", "is_new", "always_one", "risk", "distance"]
ALL_BUT_ONE = [
    "03_isolation_forest",
    "04_autoencoder",
    "05_gaussian_mixture",
    "06_nearest_neighbours",
    "08_empirical_tails",
]
QUICK = [
    "gaussian_mixture.members 2",
    "train_on genuine",
    "n_resamples 100",
]


def shop(n=4_000, seed=0):
    """A shop's payments: skewed, binary, constant and missing values; frauds are far away and in a
    hurry.
    """
    rng = np.random.default_rng(seed)
    fraud = np.zeros(n, dtype=int)
    fraud[rng.choice(n, 80, replace=False)] = 1
    frame = pd.DataFrame(
        {
            "total": rng.lognormal(3, 1, n).round(2) * (1 + fraud),
            "items": rng.poisson(2, n) + 1,
            "minutes": rng.gamma(2, 10, n) / (1 + 8 * fraud),
            "is_new": rng.random(n) < 0.2 + 0.5 * fraud,
            "always_one": 1,
            "risk": rng.beta(2, 8, n) + 0.3 * fraud,
            "distance": rng.exponential(5, n) * (1 + 10 * fraud),
            "paid_at": pd.Timestamp("2024-03-01")
            + pd.to_timedelta(np.sort(rng.uniform(0, 30 * 86_400, n)).round(), "s"),
            "order_id": [f"order-{i:05d}" for i in rng.permutation(n)],
            "note": "kept out",
            "fraud": fraud,
        }
    )
    frame.loc[rng.choice(n, 50, replace=False), "minutes"] = np.nan
    frame["paid_at"] = frame["paid_at"].dt.strftime("%Y-%m-%d %H:%M:%S")
    return frame.sample(frac=1, random_state=seed)  # not in time order


@pytest.fixture
def table(project):
    """(project's folder, environment) with a described folder of Parquet files in it."""
    folder, environment = project
    (folder / "shop").mkdir()
    frame = shop()
    for i, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[part].to_parquet(folder / "shop" / f"part-{i}.parquet", index=False)
    description = {
        "name": "shop",
        "time": "paid_at",
        "label": "fraud",
        "amount": "total",
        "features": FEATURES,
    }
    description |= {"ids": ["order_id"], "missing": "median", "raw": {"path": "shop"}}
    (folder / "shop.yaml").write_text(yaml.safe_dump(description))
    return folder, environment


def leave_out(folder, *stages):
    """Take notebooks of a project away: others do the same with the table."""
    for stage in stages:
        (folder / "notebooks" / f"{stage}.ipynb").unlink()


def run(table, *arguments):
    folder, environment = table
    command = [sys.executable, "run_pipeline.py", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.check
def test_pipeline_takes_another_schema_from_table_to_bundle(table):
    folder, _ = table
    leave_out(folder, "01_eda", *(set(ALL_BUT_ONE) - {"05_gaussian_mixture"}))
    parameters = [word for parameter in QUICK for word in ("-p", *parameter.split())]
    done = run(table, "--dataset", "shop.yaml", "--until", "10_export", *parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((folder / "reports" / "latest" / "metrics.json").read_text())
    assert metrics["dataset"] == "shop"
    assert metrics["source"] == "custom"
    assert metrics["champion"]["name"] == "fraud-detector-shop"
    best = metrics["models"][metrics["champion"]["model"]]["validation"]["average_precision"][
        "value"
    ]
    assert best > metrics["models"]["max_abs_z"]["validation"]["average_precision"]["value"]
    period = metrics["splits"]["validation"]
    assert {"n", "n_frauds", "weight", "start", "end"} <= set(period)
    assert period["n_frauds"] > 0

    served = bundle.load(folder / "serve" / "model", features=FEATURES)
    assert served.version == "1"
    alerts, scores = served.predict(
        np.array([[5000, 1, 0.1, 1, 1, 0.9, 500], [20, 2, 15, 0, 1, 0.2, 3]], np.float32)
    )
    assert list(alerts) == [1, 0]
    assert scores[0] > scores[1]
    assert np.isfinite(
        served.raw_score(np.array([[20, 2, np.nan, 0, 1, 0.2, 3]], np.float32))
    ).all()


def test_bad_row_is_named_and_nothing_is_written(table):
    folder, _ = table
    path = folder / "shop" / "part-1.parquet"
    frame = pd.read_parquet(path)
    frame.loc[7, "fraud"] = 2
    frame.to_parquet(path, index=False)
    refused = run(table, "--dataset", "shop.yaml")
    assert refused.returncode == 2
    assert "part-1.parquet" in refused.stderr
    assert "fraud" in refused.stderr
    assert "2" in refused.stderr
    assert not (folder / "reports").exists()
    assert not list(folder.glob("data/shop/*/splits.json"))


def awkward(n=1_500, seed=1):
    """Columns with names of ours and of nobody's, hourly steps, a feature that is recorded from
    later on.
    """
    rng = np.random.default_rng(seed)
    fraud = (rng.random(n) < 0.05).astype(int)
    features = [
        "weight",
        "anomaly_score",
        "alert",
        "position",
        "$a_{$",
        "a/b",
        "a_b",
        "value",
        "low",
        "high",
        "X",
        "x",
    ]
    # frauds leave what features share: no single one gives them away
    shared = 2 * rng.normal(size=n)
    frame = pd.DataFrame(
        {name: shared + (0.3 + 1.2 * fraud) * rng.normal(size=n) for name in features}
    )
    frame["_later"] = np.where(np.arange(n) < 0.75 * n, np.nan, rng.normal(5, 1, n))
    frame["step"] = np.sort(rng.integers(0, 700, n))
    frame["status"], frame["Request"], frame["is"] = "declined", "r", fraud
    return frame, [*features, "_later"]


def test_pipeline_takes_raw_transactions_from_a_table_to_a_server(project):
    """Histories and categories: what the server derives in 11 is what the table has."""
    folder, environment = project
    leave_out(folder, *ALL_BUT_ONE)
    online.table(2_000).to_csv(folder / "raw.csv", index=False)
    plain = online.shop().to_dict() | {"raw": {"path": "raw.csv"}, "label": "fraud"}
    (folder / "raw.yaml").write_text(yaml.safe_dump(plain))
    parameters = ["-p", "train_on", "all", "-p", "n_resamples", "20", "-p", "label_delay_s", "4"]
    # no label of a request's own transactions may be needed within it
    parameters += ["-p", "rows_per_request", "2", "-p", "policies", "frozen"]
    done = run(project, "--dataset", "raw.yaml", *parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    latest = folder / "reports" / "latest"
    production = json.loads((latest / "stages" / "11_production" / "metrics.json").read_text())
    for policy in production["policies"].values():
        assert sum(step["n_unlike_table"] for step in policy["steps"]) == 0
        assert sum(step["n_lines"] for step in policy["steps"]) == 600
        assert sum(step["n_refused"] for step in policy["steps"]) == 0
    served = bundle.load(folder / "serve" / "model")
    assert served.history is not None
    later = online.table(40, seed=1).assign(nr=[f"L{i}" for i in range(40)])
    later.to_csv(folder / "later.csv", index=False)
    command = [sys.executable, "-m", "lib.production.scoring", "later.csv", "--dataset", "raw.yaml"]
    scored = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert scored.returncode == 0, scored.stderr
    assert "40 transactions" in scored.stdout


@pytest.mark.check
def test_pipeline_takes_any_names_and_a_feature_that_is_recorded_from_later_on(project):
    folder, _ = project
    leave_out(folder, "01_eda", *ALL_BUT_ONE)
    frame, features = awkward()
    frame.to_csv(folder / "awkward.csv", index=False)
    description = {
        "name": "awkward",
        "time": "step",
        "label": "is",
        "features": features,
        "missing": "median",
    }
    description |= {"ids": ["status", "Request"], "raw": {"path": "awkward.csv"}}
    (folder / "awkward.yaml").write_text(yaml.safe_dump(description))
    parameters = ["-p", "train_on", "genuine", "-p", "n_resamples", "100"]
    done = run(project, "--dataset", "awkward.yaml", *parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " - -" not in done.stdout

    latest = folder / "reports" / "latest"
    intervals = json.loads((latest / "metrics.json").read_text())["intervals"]
    assert intervals["block_s"] < 600, "hourly steps taken for seconds"
    assert intervals["no_interval"] == ""
    manifest = json.loads((folder / "serve" / "model" / "manifest.json").read_text())
    assert manifest["empty_features"] == ["_later"]
    production = json.loads((latest / "stages" / "11_production" / "metrics.json").read_text())
    steps = production["policies"]["frozen"]["steps"]
    assert sum(step["n_refused"] for step in steps) == 0
    assert not steps[0]["score_drifted"]
    assert any("_later" in step["drifted"] for step in steps)
    assert all(step["alert_rate"] < 0.2 for step in steps), (
        "values that nobody knew at the fit alert nobody"
    )
    log = pd.read_parquet(latest / "production" / "frozen" / "log" / "batch_01.parquet")
    assert set(log["status"]) == {200}
    assert set(log["id.status"]) == {"declined"}
    assert set(log["id.Request"]) == {"r"}


@pytest.mark.check
@pytest.mark.parametrize("label", ["none", "recent"])
def test_pipeline_takes_a_table_without_or_with_late_labels(project, label):
    """Without any label detectors learn from all rows and nobody judges; rows that lack theirs are
    left out.
    """
    folder, _ = project
    leave_out(folder, *ALL_BUT_ONE)
    frame, features = awkward(n=2_000)
    frame["is"] = frame["is"].astype(object)
    frame.loc[frame.index > 1_300, "is"] = ""  # a part of validation, and all that comes later
    frame.to_csv(folder / "late.csv", index=False)
    description = {"name": "late", "time": "step", "features": features, "missing": "median"}
    description |= {"raw": {"path": "late.csv"}} | ({"label": "is"} if label == "recent" else {})
    (folder / "late.yaml").write_text(yaml.safe_dump(description))
    until = ["--until", "10_export"] if label == "recent" else []
    done = run(project, "--dataset", "late.yaml", "-p", "n_resamples", "100", *until)
    assert done.returncode == 0, done.stdout + done.stderr
    latest = folder / "reports" / "latest"
    metrics = json.loads((latest / "metrics.json").read_text())
    models = {name for name in metrics["models"] if "train_on" in metrics["models"][name]}
    regimes = {metrics["models"][name]["train_on"] for name in models}
    figure = metrics["models"]["robust_covariance@train_on=all"]["validation"]["average_precision"][
        "value"
    ]
    period = metrics["splits"]["validation"]
    if label == "none":
        assert regimes == {"all"}
        assert figure is None
        assert period["n_frauds"] is None
        assert metrics["intervals"]["n_labelled"] == 0
        production = json.loads((latest / "stages" / "11_production" / "metrics.json").read_text())
        steps = production["policies"]["frozen"]["steps"]
        assert all(step["realised"]["n_labelled"] == 0 for step in steps)
        assert all(step["realised"]["recall"]["value"] is None for step in steps)
    else:
        assert regimes == {"genuine", "all", "labels"}
        assert figure > 0.1
        assert 0 < period["n_labelled"] < period["n"]
        assert metrics["intervals"]["n_labelled"] == period["n_labelled"]
