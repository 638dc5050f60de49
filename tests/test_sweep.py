"""A sweep through the real notebooks, in a folder whose name has what paths and URIs give a meaning to."""

import contextlib
import json
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import copy_project
from pipelines import Project

from lib.bundle import bundle_hash

SWEPT = {
    "03_isolation_forest": ("n_trees", 5, 10),
    "04_autoencoder": ("code", 3, 5),
    "05_gaussian_mixture": ("members", 1, 2),
}
QUICK = {
    "rows": 3000,
    "train_on": "genuine",
    "epochs": 1,
    "autoencoder.members": 1,
    "n_components": 2,
    "trims": "[]",
    "n_resamples": 20,
    "final_table": "false",
}
VARIANTS = [f"{stage}@{name}={value}" for stage, (name, *values) in SWEPT.items() for value in values]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A project after a sweep over two values of a parameter of each model, and the export -> Project."""
    home = tmp_path_factory.mktemp("home")
    project = Project(*copy_project(home / "50%20 #1? [x] {y}"))
    (project.folder / "notebooks" / "01_eda.ipynb").unlink()
    arguments = [part for name, value in QUICK.items() for part in ("-p", name, value)]
    for stage, (name, *values) in SWEPT.items():
        arguments += ["--sweep", f"{stage}.{name}", *values]
    project.command("--dataset", "simulated", "--until", "07_export", *arguments)
    return project


def rows(project, query):
    with contextlib.closing(sqlite3.connect(project.folder / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_places_of_its_own_in_reports(swept, variant):
    run, candidate = swept.runs[-1], variant.partition("_")[2]
    figures = {path.name.removeprefix(variant) for path in (run / "figures").glob(f"{variant}-*.png")}
    assert "-scores.png" in figures
    assert len(figures) == 2
    assert list(json.loads((run / "stages" / variant / "metrics.json").read_text())) == [candidate]
    assert (run / "models" / candidate / "model.onnx").is_file()
    assert candidate in json.loads((run / "metrics.json").read_text())["models"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_figures_metrics_and_a_model_in_mlflow(swept, variant):
    candidate = variant.partition("_")[2]
    [uri] = [uri for name, uri in rows(swept, "SELECT name, artifact_uri FROM runs") if name == variant]
    figures = list(Path(unquote(urlsplit(uri).path), "figures").glob(f"{variant}-*.png"))
    assert len(figures) == 2
    query = "SELECT r.name, m.key FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid"
    metrics = [key for name, key in rows(swept, query) if name == variant]
    assert f"{candidate.replace('@', '_').replace('=', '_')}/validation/average_precision" in metrics
    assert (candidate,) in rows(swept, "SELECT name FROM logged_models")


def test_nothing_is_left_in_a_place_that_variants_would_share(swept):
    run = swept.runs[-1]
    for stage in SWEPT:
        assert list((run / "figures").glob(f"{stage}-*")) == []
        assert not (run / "stages" / stage).exists()


def test_the_champion_comes_back_from_the_registry_of_such_a_folder(swept):
    metrics = json.loads((swept.runs[-1] / "metrics.json").read_text())
    model = swept.runs[-1] / "models" / metrics["champion"]["model"]
    assert bundle_hash(swept.folder / "serve" / "model") == bundle_hash(model)
    assert [path.name for path in swept.folder.parent.iterdir()] == [swept.folder.name]  # MLflow has made none beside
