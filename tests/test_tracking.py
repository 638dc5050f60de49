"""Tracking: runs, the registry's aliases, files that stay as they are, folders that move, servers
that are down.
"""

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from conftest import ROOT
from mlflow.utils.validation import _validate_metric_name
from onnx import TensorProto, helper
from sqlalchemy.engine import make_url

from lib import bundle
from lib.errors import TrackingError
from lib.notebook import Notebook
from lib.registry import compared, descriptions, mlflow_pages, mlflow_store, tracking, turns
from lib.registry.mlflow_store import flatten

NAME = "fraud-detector-test"


def candidate(folder, name="autoencoder", shift=0.0):
    """A candidate's folder: the sum of three features, plus `shift`."""
    nodes = [
        helper.make_node("ReduceSum", ["features", "axis"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "shift"], ["raw_score"]),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("shift", TensorProto.FLOAT, [1], [shift]),
    ]
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])
    raw_score = helper.make_tensor_value_info("raw_score", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "graph", [features], [raw_score], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    # Bytes that no serialiser would write in this order: the producer's name first, then the model.
    exact = b"\x12\x04test" + model.SerializeToString()
    manifest = {
        "model": name,
        "dataset": {"name": "test", "source": "custom"},
        "features": ["a", "b", "c"],
        "fit": {
            "train_on": "genuine",
            "n": 5,
            "seed": 0,
            "split": "0123456789abcdef" * 4,
            "parameters": {"latent": 8},
        },
        "reference": {"low": [0, 0, 0], "median": [1, 2, 3], "high": [9, 9, 9]},
        "metrics": {"validation": {"average_precision": {"value": 0.4, "low": 0.3, "high": None}}},
    }
    bundle.write(folder, {"model.onnx": exact}, manifest)
    np.savez_compressed(
        folder / "parity.npz", X=np.eye(3, dtype=np.float32), raw_score=np.ones(3) + shift
    )
    return folder


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """The folder of a store with tables and nothing in it, made once; its name has a space and an
    umlaut.
    """
    folder = tmp_path_factory.mktemp("store") / "Projekt für alle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        tracking.start_pipeline("first")
    return folder


@pytest.fixture
def home(empty, tmp_path, monkeypatch):
    """A store of the test's own, with a folder of its own."""
    folder = tmp_path / "the project"
    shutil.copytree(empty, folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.delenv(tracking.PARENT, raising=False)
    return folder


def client():
    return tracking._client()[0]


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_flatten_by_hand():
    figure = {"value": 0.5, "low": 0.25, "high": None}
    nested = {
        "autoencoder@train_on=all": {"validation": {"recall_at_budget_0.005": figure}},
        "n": 3,
        "name": "x",
    }
    assert flatten(nested) == {
        "autoencoder_train_on_all/validation/recall_at_budget_0.005": 0.5,
        "autoencoder_train_on_all/validation/recall_at_budget_0.005_low": 0.25,
        "n": 3.0,
    }
    assert flatten({"a": float("nan"), "b": [1, 2], "value": 1.0}) == {"value": 1.0}


def test_flatten_keeps_a_number_for_each_of_a_users_names():
    awkward = [
        "value",
        "low",
        "high",
        "a/b",
        "a_b",
        "A_b",
        "a.b",
        "",
        ".",
        "..",
        "x\ny",
        "é",
        "$x$",
        "'q'",
        "w" * 300,
    ]
    figures = {
        name: {"value": float(i), "low": None, "high": None} for i, name in enumerate(awkward)
    }
    flat = flatten(
        {"separation": figures, "drift": dict.fromkeys(("value", "low", "high"), figures["value"])}
    )
    assert sorted(flat.values()) == sorted([*map(float, range(len(awkward))), 0.0, 0.0, 0.0])
    assert len({name.lower() for name in flat}) == len(flat)
    assert flat["separation/value"] == 0.0
    for name in flat:
        _validate_metric_name(name)


def test_store_is_the_project_unless_the_environment_names_another(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert mlflow_store.tracking_uri() == f"sqlite:///{ROOT}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert mlflow_store.tracking_uri() == "http://localhost:5000"


@pytest.mark.parametrize(
    "name", ["plain", "a b", "50%20", "100%", "what?", "#1", "über {x}", "a%3Fb?c=d#e%"]
)
def test_a_folder_may_have_any_name(tmp_path, name):
    path = tmp_path / name / "mlflow.db"
    uri = mlflow_store.sqlite_uri(path)
    assert mlflow_store.database(uri) == path
    assert mlflow_store.database(f"{uri}?timeout=5") == path
    assert Path(make_url(uri).database) == path  # as MLflow's library reads it
    assert (
        Path(url2pathname(urlsplit(mlflow_store.artifacts(path)).path))
        == path.parent / "mlartifacts"
    )


def test_stage_is_a_child_of_the_pipeline_with_all_that_it_left(home, tmp_path):
    figure, page = tmp_path / "04_autoencoder-scores.png", tmp_path / "04_autoencoder.html"
    figure.write_bytes(b"png")
    page.write_text("<html>")
    card = tmp_path / "model_card.md"
    card.write_text("# Model card")
    metrics = tmp_path / "metrics.json"
    metrics.write_text('{"n": 1}')
    parent = tracking.start_pipeline("20260101-000000-test", {"dataset": "test"}, "# The run")
    run_id = tracking.log_stage(
        parent,
        "04_autoencoder",
        params={"latent": 8, "train_on": "genuine"},
        metrics=metrics,
        figures=[figure],
        notebooks=[page],
        candidates={candidate(tmp_path / "c"): "Autoencoder"},
        tags={"dataset": "test", "source": "custom"},
        description="what it does",
        status="FAILED",
        cards=[card],
        seconds=60.0,
    )
    tracking.finish_pipeline(parent, metrics=entry(0.4), description="what it decided")
    run = client().get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("04_autoencoder", "FAILED")
    assert run.info.end_time - run.info.start_time == 60_000
    assert run.data.params == {"latent": "8", "train_on": "genuine"}
    assert run.data.metrics == {}  # MLflow's table would have a column for each
    assert [f.path for f in client().list_artifacts(run_id) if not f.is_dir] == ["metrics.json"]
    expected = {
        "mlflow.parentRunId": parent,
        "kind": "notebook",
        "stage": "04_autoencoder",
        "dataset": "test",
        "source": "custom",
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.note.content"] == "what it does"
    assert run.data.tags.get("mlflow.source.git.commit", "") == (mlflow_store.git_commit() or "")
    assert [f.path for f in client().list_artifacts(run_id, "figures")] == [
        "figures/04_autoencoder-scores.png"
    ]
    assert [f.path for f in client().list_artifacts(run_id, "notebook")] == [
        "notebook/04_autoencoder.html"
    ]
    assert [f.path for f in client().list_artifacts(run_id, "cards")] == ["cards/model_card.md"]
    assert run.data.tags["mlflow.source.name"] == "notebooks/04_autoencoder.ipynb"
    assert client().get_run(parent).data.metrics == {"validation/average_precision": 0.4}
    assert client().get_run(parent).data.tags["mlflow.note.content"] == "what it decided"
    assert client().get_run(parent).info.status == "FINISHED"
    assert str(home) in run.info.artifact_uri.replace("%20", " ")


def entry(value, *, low=None):
    """What a candidate's metrics.json holds, as far as it is compared by it."""
    return {"validation": {"average_precision": {"value": value, "low": low, "high": None}}}


def test_more_parameters_than_one_request_takes(home):
    run_id = tracking.log_stage("", "09_comparison", params={f"p{i}": i for i in range(150)})
    assert len(client().get_run(run_id).data.params) == 150


def candidates_of(parent):
    """The runs of a parent's candidates -> {name: run}."""
    ours = f"tags.kind = 'candidate' AND tags.`mlflow.parentRunId` = '{parent}'"
    runs = client().search_runs([tracking._client()[1]], ours)
    assert len({run.data.tags["candidate"] for run in runs}) == len(runs)
    return {run.data.tags["candidate"]: run for run in runs}


def test_a_candidate_has_one_run_which_comes_to_know_more(home, tmp_path):
    folder = candidate(tmp_path / "c", "autoencoder@train_on=all")
    parent = tracking.start_pipeline("run")
    first = tracking.log_candidate(parent, folder, "Autoencoder (no labels)", tags={"x": "y"})
    figures = {
        "average_precision": {"value": 0.123456, "low": 0.1, "high": 0.2},
        "roc_auc": {"value": 0.9, "low": None, "high": None},
        "amount_recall_at_budget": {"value": None, "low": None, "high": None},
    }
    later = {"validation": figures, "untouched": figures, "score_us": 1.5, "bytes": 77}
    (folder / "metrics.json").write_text(json.dumps(later))
    assert tracking.log_candidate(parent, folder) == first
    run = candidates_of(parent)["autoencoder@train_on=all"]
    assert (run.info.run_name, run.info.status) == ("Autoencoder (no labels)", "FINISHED")
    both = ("validation", "untouched")
    expected = {f"{period}/average_precision": 0.1235 for period in both}
    expected |= {f"{period}/average_precision_low": 0.1 for period in both}
    expected |= {f"{period}/average_precision_high": 0.2 for period in both}
    assert run.data.metrics == expected | {"score_us": 1.5, "bytes": 77}
    assert set(expected) | {"bytes"} <= {
        *compared.COLUMNS,
        *(f"{name}_{bound}" for name in compared.COLUMNS for bound in ("low", "high")),
    }
    assert run.data.params == {"latent": "8"}
    said = {"family": "autoencoder", "train_on": "genuine", "seed": "0", "x": "y"}
    assert said.items() <= run.data.tags.items()
    [used] = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.source_type) == ("test", "custom")
    assert used.dataset.digest == "0123456789abcdef" * 2 + "0123"
    [model] = client().search_logged_models([tracking._client()[1]])
    assert (model.source_run_id, model.status.name) == (first, "READY")


def test_a_candidate_of_an_earlier_run_is_compared_without_its_model(home, tmp_path):
    folder = candidate(tmp_path / "c", "forest")
    parents = [tracking.start_pipeline(name) for name in ("first", "second")]
    runs = [tracking.log_candidate(p, folder, is_new=p == parents[0]) for p in parents]
    assert runs[0] != runs[1]
    models = client().search_logged_models([tracking._client()[1]])
    assert [model.source_run_id for model in models] == [runs[0]]
    assert candidates_of(parents[1])["forest"].data.metrics["validation/average_precision"] == 0.4


def test_mlflows_pages_open_on_the_candidates_of_the_last_run_that_compared_any(home):
    parents = [tracking.start_pipeline(name) for name in ("first", "failed")]
    tracking.finish_pipeline(parents[0], metrics=entry(0.5))
    tracking.finish_pipeline(parents[1], "FAILED", metrics=None)
    experiment = client().get_experiment(tracking._client()[1])
    view = json.loads(experiment.tags[compared.VIEW_TAG])
    assert parents[0] in view["searchFilter"]
    assert client().search_runs([experiment.experiment_id], view["searchFilter"]) == []
    assert len(experiment.tags[compared.VIEW_TAG]) < 5000  # MLflow takes no longer one
    link = compared.link(5001, mlflow_store.experiment_id())
    assert f"//localhost:5001/#/experiments/{experiment.experiment_id}/runs?" in link


def test_a_taken_port_is_a_sentence(home, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert mlflow_pages.main(["--port", str(port)]) == 1
    assert f"Port {port} cannot be listened on" in capsys.readouterr().err
    assert mlflow_pages.main(["--port", "70000"]) == 1
    assert "PORT=70000" in capsys.readouterr().err


def test_without_a_store_there_are_no_pages_and_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mlflow_store, "ROOT", tmp_path)
    assert mlflow_pages.main(["--port", str(free_port())]) == 1
    assert "make pipeline" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_is_resumed_if_its_run_is_still_there(home):
    first = tracking.start_pipeline("run")
    tracking.finish_pipeline(first, "FAILED")
    assert tracking.start_pipeline("run", parent_id=first) == first
    assert client().get_run(first).info.status == "RUNNING"
    client().delete_run(first)
    assert tracking.start_pipeline("run", parent_id=first) != first
    assert tracking.start_pipeline("run", parent_id="0" * 32) != "0" * 32


def test_by_hand(home, tmp_path):
    candidate(tmp_path / "models" / "forest", "forest")
    notebook = Notebook("03_isolation_forest", tmp_path)
    notebook.finish({"n": 1}, "test", "custom", ["forest"])
    [run] = client().search_runs([tracking._client()[1]], "tags.kind = 'notebook'")
    assert (run.info.run_name, run.data.tags["dataset"]) == ("03_isolation_forest", "test")
    assert [f.path for f in client().list_artifacts(run.info.run_id)] == ["metrics.json"]
    assert [r.info.run_name for r in candidates_of(run.info.run_id).values()] == ["Forest"]
    assert [m.name for m in client().search_logged_models([tracking._client()[1]])] == ["forest"]


def test_model_is_an_onnx_model_with_signature_and_example_and_no_pickle(home, tmp_path):
    import mlflow

    folder = candidate(tmp_path / "c", "autoencoder@train_on=all")
    tracking.log_candidate(tracking.start_pipeline("run"), folder)
    [found] = client().search_logged_models([tracking._client()[1]])
    model_id = found.model_id
    model = mlflow.pyfunc.load_model(f"models:/{model_id}")
    rows = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
    assert model.predict(rows)["raw_score"].tolist() == [6, 15]
    assert model.metadata.signature.inputs.to_dict()[0]["tensor-spec"] == {
        "dtype": "float32",
        "shape": (-1, 3),
    }
    assert model.input_example["features"].tolist() == [[1, 2, 3]]
    logged = client().get_logged_model(model_id)
    assert logged.name == "autoencoder@train_on=all"
    assert logged.params["train_on"] == "genuine"
    assert {m.key: m.value for m in logged.metrics}["validation/average_precision"] == 0.4
    files = [path for path in (home / "mlartifacts").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {"", ".onnx", ".json", ".npz", ".yaml", ".txt", ".md"}


def test_champion_previous_and_rollback(home, tmp_path):
    first, second, third = (candidate(tmp_path / str(i), f"model {i}", i) for i in range(3))
    assert tracking.champion(NAME) is None
    assert mlflow_store.champion_version(NAME) is None
    with pytest.raises(TrackingError, match=f"{NAME} has no previous champion"):
        tracking.rollback(NAME)
    assert tracking.register(first, NAME, ["there was no champion before it"]) == "1"
    with pytest.raises(TrackingError, match=f"{NAME} has no previous champion"):
        tracking.rollback(NAME)
    assert (
        tracking.register(second, NAME, ["it beats the naive rules", "it does not lose"], "better")
        == "2"
    )
    assert tracking.register(third, NAME) == "3"
    assert (
        mlflow_store.champion_version(NAME),
        mlflow_store.champion_version(NAME, "previous"),
    ) == ("3", "2")
    assert tracking.rollback(NAME) == "2"
    assert (
        mlflow_store.champion_version(NAME),
        mlflow_store.champion_version(NAME, "previous"),
    ) == ("2", "3")
    now = tracking.champion(NAME)
    assert (now.version, now.name, now.manifest["model"]) == ("2", NAME, "model 1")
    assert sha256(now.folder / "model.onnx") == sha256(second / "model.onnx")
    assert tracking.rollback(NAME) == "3"
    assert "higher = more anomalous" in client().get_registered_model(NAME).description
    version = client().get_model_version(NAME, "2")
    assert version.description == "better"
    assert (
        client()
        .get_model_version(NAME, "1")
        .description.endswith("\n- there was no champion before it")
    )
    assert version.tags["model"] == "model 1"
    assert client().get_run(now.run_id).info.status == "FINISHED"


def since(version):
    return client().get_model_version(NAME, version).tags["champion_since"]


def test_a_model_that_the_registry_has_makes_no_new_version(home, tmp_path, monkeypatch):
    folders = [candidate(tmp_path / str(i), f"model {i}", i) for i in range(3)]
    times = iter("abcdefgh")
    monkeypatch.setattr(tracking, "_now", lambda: next(times))
    assert [tracking.register(folder, NAME) for folder in folders] == ["1", "2", "3"]
    assert tracking.register(folders[0], NAME, ["it is better"]) == "1"
    assert (
        mlflow_store.champion_version(NAME),
        mlflow_store.champion_version(NAME, "previous"),
    ) == ("1", "3")
    assert client().get_model_version(NAME, "1").description.endswith("- it is better")
    assert "model 0" in tracking.champion(NAME).manifest["model"]
    assert (since("1"), since("2"), since("3")) == ("d", "b", "c")
    assert tracking.register(folders[0], NAME) == "1"  # it is the champion already
    assert (mlflow_store.champion_version(NAME, "previous"), since("1")) == ("3", "d")


def test_a_version_without_a_hash_is_recognised_by_its_files(home, tmp_path):
    first, second = (candidate(tmp_path / str(i), shift=i) for i in range(2))
    tracking.register(first, NAME)
    tracking.register(second, NAME)
    for version in "12":
        client().delete_model_version_tag(NAME, version, "bundle_hash")
    assert tracking.register(first, NAME) == "1"
    assert client().get_model_version(NAME, "1").tags["bundle_hash"] == bundle.bundle_hash(first)


def test_the_registry_says_what_is_served_and_since_when(home, tmp_path):
    assert (mlflow_store.champion(NAME), tracking.serving(NAME)) == (None, None)
    folder, other = candidate(tmp_path / "c"), candidate(tmp_path / "d", shift=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    threshold = {"anomaly_score": 0.998, "alert_budget": 0.002}
    bundle.write(
        folder,
        {"model.onnx": (folder / "model.onnx").read_bytes()},
        manifest | {"threshold": threshold},
    )
    tracking.register(other, NAME)
    tracking.register(folder, NAME)
    for found in (mlflow_store.champion(NAME), tracking.serving(NAME)):
        assert (found.version, found.model) == ("2", "autoencoder")
        assert (found.threshold, found.alert_budget) == (0.998, 0.002)
        assert found.bundle_hash == bundle.bundle_hash(folder)
        assert abs((datetime.now(UTC) - datetime.fromisoformat(found.since)).total_seconds()) < 60
        assert (found.withdrawn, found.withdrawn_at) == ("", "")
    before = mlflow_store.champion(NAME, "previous")
    assert (before.version, before.threshold, before.alert_budget) == ("1", None, None)
    assert tracking.serving(NAME, "previous") == before


def test_a_rollback_withdraws_the_version_that_it_leaves(home, tmp_path):
    first, second = (candidate(tmp_path / str(i), shift=i) for i in range(2))
    tracking.register(first, NAME)
    tracking.register(second, NAME)
    assert tracking.withdrawn(NAME) == {}
    tracking.rollback(NAME, "too many alerts")
    assert tracking.withdrawn(NAME) == {
        bundle.bundle_hash(second): "version 2 was withdrawn: too many alerts"
    }
    assert tracking.withdrawn_versions(NAME) == mlflow_store.withdrawn(NAME)
    left = mlflow_store.champion(NAME, "previous")
    assert (left.version, left.withdrawn) == ("2", "too many alerts")
    assert datetime.fromisoformat(left.withdrawn_at) <= datetime.fromisoformat(
        mlflow_store.champion(NAME).since
    )
    tracking.rollback(NAME)  # forth again: whoever comes back is not withdrawn any more
    assert list(tracking.withdrawn(NAME)) == [bundle.bundle_hash(first)]
    assert str(datetime.now(UTC).year) in mlflow_store.champion(NAME, "previous").withdrawn
    tracking.register(first, NAME)
    assert (tracking.withdrawn(NAME), mlflow_store.champion(NAME).withdrawn_at) == ({}, "")


def test_a_champion_whose_files_are_gone_says_so_and_can_be_replaced(home, tmp_path):
    folder = candidate(tmp_path / "c")
    tracking.register(folder, NAME)
    shutil.rmtree(home / "mlartifacts")
    lost = tracking.champion(NAME)
    assert lost.folder is None
    assert "version 1, are gone" in lost.lost
    assert (lost.version, lost.manifest["model"]) == ("1", "autoencoder")
    # the same model once more: the old version has no files
    assert tracking.register(folder, NAME) == "2"
    assert (tracking.champion(NAME).lost, mlflow_store.champion_version(NAME, "previous")) == (
        "",
        "1",
    )
    with pytest.raises(TrackingError, match=r"version 1, are gone.*nothing to go back to"):
        tracking.rollback(NAME)
    assert (mlflow_store.champion_version(NAME), tracking.withdrawn(NAME)) == ("2", {})


def test_a_champion_whose_files_were_changed_says_so(home, tmp_path):
    tracking.register(candidate(tmp_path / "c"), NAME)
    (graph,) = (home / "mlartifacts").rglob("model.onnx")
    graph.write_bytes(graph.read_bytes() + b"x")
    assert "damaged" in tracking.champion(NAME).lost
    client().delete_model_version_tag(NAME, "1", "bundle_hash")
    assert tracking.register(candidate(tmp_path / "d"), NAME) == "2"


def test_a_decision_is_refused_if_another_model_has_become_champion_since(home, tmp_path):
    first, second, third = (candidate(tmp_path / str(i), f"model {i}", i) for i in range(3))
    assert tracking.register(first, NAME, instead_of=None) == "1"
    with pytest.raises(
        TrackingError, match=r"compared with no champion, and version 1 is the champion.*again"
    ):
        tracking.register(second, NAME, instead_of=None)
    assert [v.version for v in tracking._versions(client(), NAME)] == ["1"]
    assert tracking.register(second, NAME, instead_of="1") == "2"
    with pytest.raises(TrackingError, match="compared with version 1, and version 2 is"):
        tracking.register(third, NAME, instead_of="1")
    # the same model, found by somebody else at the same time, is no change
    assert tracking.register(second, NAME, instead_of="1") == "2"
    client().delete_registered_model_alias(NAME, "champion")
    with pytest.raises(TrackingError, match="compared with version 2, and there is none"):
        tracking.register(third, NAME, instead_of="2")


def test_registered_at_once_each_is_champion_after_the_other(home, tmp_path):
    folders = [candidate(tmp_path / str(i), f"model {i}", i) for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        versions = list(pool.map(lambda folder: tracking.register(folder, NAME), folders))
    assert sorted(versions) == ["1", "2", "3"]
    assert tracking._aliases(client(), NAME) == {"champion": "3", "previous": "2"}
    assert [model.name for model in client().search_registered_models()] == [NAME]


@pytest.mark.parametrize("host", [socket.gethostname(), "elsewhere"])
def test_a_turn_whose_holder_has_died_ends(home, tmp_path, monkeypatch, host):
    dead = subprocess.Popen(["true"])
    dead.wait()
    if host == "elsewhere":
        monkeypatch.setattr(turns, "WAIT_S", 0.3)
    client().create_registered_model(f"{NAME}.changing", {"holder": f"{host} {dead.pid} abc"})
    start = time.monotonic()
    assert tracking.register(candidate(tmp_path / "c"), NAME) == "1"
    assert time.monotonic() - start < 20
    assert [model.name for model in client().search_registered_models()] == [NAME]


def test_a_turn_that_does_not_come_is_a_sentence(home, tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "GIVE_UP_S", 0.3)
    client().create_registered_model(f"{NAME}.changing")  # somebody's model, who knows whose
    with pytest.raises(TrackingError, match=f"delete the registered model {NAME}.changing"):
        tracking.rollback(NAME)
    assert len(client().search_registered_models()) == 1


def test_a_turn_that_was_taken_without_an_answer_is_ours(home):
    client().create_registered_model(f"{NAME}.changing", {"holder": "here 1 abc"})
    turns._take(client(), f"{NAME}.changing", "here 1 abc")


def test_a_turn_that_ends_while_mlflow_looks_at_it_is_taken(home, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import RESOURCE_DOES_NOT_EXIST, MlflowException

    create = MlflowClient.create_registered_model
    refusals = iter([MlflowException("it has gone", RESOURCE_DOES_NOT_EXIST)])

    def refused_once(self, *words):
        for refusal in refusals:
            raise refusal
        return create(self, *words)

    monkeypatch.setattr(MlflowClient, "create_registered_model", refused_once)
    with turns.turn(client(), NAME):
        assert len(client().search_registered_models()) == 1
    assert client().search_registered_models() == []


def test_what_was_being_logged_when_a_process_died_is_ended(home, tmp_path):
    parent = tracking.start_pipeline("run")
    child = tracking._start("03_isolation_forest", {}, parent_id=parent)
    other = tracking._start("03_isolation_forest", {}, parent_id=tracking.start_pipeline("b"))
    whole = tracking._log_model(child, candidate(tmp_path / "c"))
    experiment = tracking._client()[1]
    cut_off = [
        client().create_logged_model(experiment, "forest", run).model_id for run in (parent, child)
    ]
    assert tracking.start_pipeline("run", parent_id=parent) == parent
    status = {run: client().get_run(run).info.status for run in (parent, child, other)}
    assert status == {parent: "RUNNING", child: "KILLED", other: "RUNNING"}
    models = [client().get_logged_model(model).status.name for model in (*cut_off, whole)]
    assert models == ["FAILED", "FAILED", "READY"]


def test_two_projects_may_make_the_experiment_at_the_same_time(tmp_path, monkeypatch):
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    first = tracking._client()[1]
    tracking._connect.cache_clear()
    there = mlflow.MlflowClient.get_experiment_by_name
    answers = iter([lambda *_: None])  # as it was when we asked
    monkeypatch.setattr(
        mlflow.MlflowClient,
        "get_experiment_by_name",
        lambda self, name: next(answers, there)(self, name),
    )
    assert tracking._client()[1] == first


def test_reasons_are_cut_to_what_a_database_takes(home, tmp_path):
    tracking.register(candidate(tmp_path / "c"), NAME, ["because " * 1000])
    assert len(client().get_model_version(NAME, "1").description) == descriptions.LIMIT


def test_the_registry_may_be_another_store(home, empty, tmp_path, monkeypatch):
    shutil.copytree(empty, tmp_path / "registry")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/registry/mlflow.db")
    tracking.register(candidate(tmp_path / "c"), NAME)
    assert (mlflow_store.champion_version(NAME), tracking.champion(NAME).version) == ("1", "1")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    assert mlflow_store.champion_version(NAME) is None


def test_a_registry_that_does_not_answer_is_found_out_at_once(home, monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://me:secret@127.0.0.1:{port}")
    start = time.monotonic()
    with pytest.raises(
        TrackingError, match=f"127.0.0.1:{port}.* does not answer .*MLFLOW_REGISTRY_URI"
    ) as caught:
        tracking.champion(NAME)
    assert time.monotonic() - start < 10
    assert "secret" not in str(caught.value)


def test_the_champions_card_describes_the_registered_model_after_a_rollback_too(home, tmp_path):
    folders = [candidate(tmp_path / str(i), f"model {i}", i) for i in range(2)]
    for i, folder in enumerate(folders):
        (folder / "model_card.md").write_text(f"# Card {i}\n\n## Limits\n\nnone\n" + 5000 * "x")
        tracking.register(folder, NAME)
    described = client().get_registered_model(NAME).description
    assert "## The champion: Card 1" in described
    assert "### Limits" in described
    assert len(described) == descriptions.LIMIT
    tracking.rollback(NAME)
    assert "Card 0" in client().get_registered_model(NAME).description


def test_registered_within_a_pipeline_it_belongs_to_the_pipelines_run(home, tmp_path, monkeypatch):
    parent = tracking.start_pipeline("run")
    monkeypatch.setenv(tracking.PARENT, parent)
    tracking.register(candidate(tmp_path / "c"), NAME)
    assert tracking.champion(NAME).run_id == parent
    assert client().get_run(parent).info.status == "RUNNING"


def test_files_come_back_as_they_went(home, tmp_path):
    folder = candidate(tmp_path / "c")
    tracking.register(folder, NAME)
    target = tmp_path / "out" / "bundle"
    assert tracking.fetch(NAME, "champion", target) == "1"
    assert {p.name: sha256(p) for p in folder.iterdir()}.items() <= {
        p.name: sha256(p) for p in target.iterdir()
    }.items()
    assert bundle.verify(target)["model"] == "autoencoder"
    assert tracking.champion(NAME).manifest == json.loads((folder / "manifest.json").read_text())


def test_what_cannot_be_fetched_leaves_the_folder_alone(home, tmp_path):
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")
    assert tracking.fetch(NAME, "champion", target) is None
    tracking.register(candidate(tmp_path / "c"), NAME)
    assert tracking.fetch(NAME, "previous", target) is None
    shutil.rmtree(home / "mlartifacts")
    with pytest.raises(TrackingError, match=rf"The files of {NAME}, version 1, are gone"):
        tracking.fetch(NAME, "champion", target)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".fetch")] == []
    assert (target / "old").read_text() == "old"
    tracking.register(candidate(tmp_path / "c"), NAME)
    tracking.fetch(NAME, "champion", target)
    assert not (target / "old").exists()


def test_moved_folder_keeps_registry_runs_and_export(home, tmp_path, monkeypatch):
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"png")
    run_id = tracking.log_stage("", "01_eda", figures=[figure])
    folder = candidate(tmp_path / "c")
    tracking.register(folder, NAME)
    moved = tmp_path / "elsewhere" / "100 % moved? 50%20 #1"
    moved.parent.mkdir()
    shutil.move(home, moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store.sqlite_uri(moved / "mlflow.db"))
    assert sha256(tracking.champion(NAME).folder / "model.onnx") == sha256(folder / "model.onnx")
    assert Path(client().download_artifacts(run_id, "figures/figure.png")).read_bytes() == b"png"
    tracking.register(candidate(tmp_path / "other", shift=1), NAME)
    assert tracking.champion(NAME).version == "2"
    assert not home.exists(), "nothing is written to the old place"
    assert list(moved.parent.iterdir()) == [moved], (
        "nor to one that is called as the URI is written"
    )
    with sqlite3.connect(moved / "mlflow.db") as connection:
        for table, column in mlflow_store.PATHS:
            rows = connection.execute(
                f"SELECT {column} FROM {table} WHERE {column} LIKE '%mlartifacts%'"
            ).fetchall()
            assert rows
            assert all(
                row[0].startswith(mlflow_store.artifacts(moved / "mlflow.db")) for row in rows
            )


def test_a_copied_folder_uses_its_own_files(home, tmp_path, monkeypatch):
    tracking.register(candidate(tmp_path / "c"), NAME)
    shutil.copytree(home, tmp_path / "copy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/copy/mlflow.db")
    shutil.rmtree(home)
    assert tracking.champion(NAME).version == "1"


def test_without_a_store_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/mlflow.db")
    mlflow_store.relocate()
    assert mlflow_store.champion_version(NAME) is None
    assert list(tmp_path.iterdir()) == []


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "uri", ["http://me:secret@127.0.0.1:{port}", "postgresql://me:secret@127.0.0.1:{port}/mlflow"]
)
def test_a_server_that_is_not_there(uri, monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(port=port))
    start = time.monotonic()
    with pytest.raises(
        TrackingError, match=f"127.0.0.1:{port}.* does not answer .*unset MLFLOW_TRACKING_URI"
    ) as caught:
        tracking.champion(NAME)
    assert time.monotonic() - start < 10
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["sqlite:////proc/nowhere/mlflow.db", "sqlite:///{file}", "nonsense://x", "file:///{file}"],
)
def test_a_store_that_cannot_be_one(uri, tmp_path, monkeypatch):
    (tmp_path / "text").write_text("no database, but long enough to have the header of one" * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(file=tmp_path / "text"))
    with pytest.raises(TrackingError, match=r"^MLflow at .*"):
        tracking.start_pipeline("run")


def test_a_refusal_is_a_sentence(home):
    with pytest.raises(TrackingError, match=r"^MLflow at .* failed in finish_pipeline: .*"):
        tracking.finish_pipeline("0" * 32)


def test_quiet_from_the_first_run_on_and_the_environment_stays(tmp_path):
    """A new store, in a process of its own: no log lines, no links, no URI left for the
    children.
    """
    program = f"""
import os, sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from lib.registry import tracking
assert "mlflow" not in sys.modules
tracking.mlflow_store.ROOT = Path({str(tmp_path)!r})
parent = tracking.start_pipeline("run")
tracking.register({str(candidate(tmp_path / "c"))!r}, "quiet")
tracking.finish_pipeline(parent)
assert "MLFLOW_TRACKING_URI" not in os.environ
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {
        "PYTHONPATH": str(ROOT)
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "mlartifacts", "mlflow.db"]


@pytest.mark.check
def test_through_a_server(empty, tmp_path, monkeypatch):
    """Runs, files, registry and export over HTTP; the client never sees the server's folders."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = [
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--workers",
        "1",
    ]
    command += [
        "--artifacts-destination",
        str(tmp_path / "files"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    shutil.copy(empty / "mlflow.db", tmp_path / "server.db")
    # its one experiment belongs to a local store
    with sqlite3.connect(tmp_path / "server.db") as connection:
        connection.execute(
            "UPDATE experiments SET name = 'other' WHERE name = ?", [mlflow_store.EXPERIMENT]
        )
    server = subprocess.Popen([sys.executable, *command], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.5)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        folder = candidate(tmp_path / "c")
        parent = tracking.start_pipeline("run")
        assert tracking.start_pipeline("run", parent_id=parent) == parent
        tracking.log_stage(parent, "03_isolation_forest", candidates={folder: "Forest"})
        assert tracking.champion(NAME) is None
        tracking.register(folder, NAME, ["first"])
        tracking.register(candidate(tmp_path / "d", shift=1), NAME, ["second"])
        assert tracking.rollback(NAME) == "1"
        assert sha256(tracking.champion(NAME).folder / "model.onnx") == sha256(
            folder / "model.onnx"
        )
    finally:
        server.terminate()
        server.wait(timeout=60)
