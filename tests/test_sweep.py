"""A sweep through the real notebooks, in a folder whose name has what paths and URIs give a meaning
to.
"""

import contextlib
import json
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import copy_project
from pipelines import Project

from lib.bundle import bundle_hash

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("sweep")]  # they share one run
SWEPT = {
    "03_isolation_forest": ("n_trees", 5, 10),
    "04_autoencoder": ("code", 3),
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
OTHERS = ["01_eda", "06_nearest_neighbours", "07_robust_covariance", "08_empirical_tails"]
VARIANTS = [
    f"{stage}@{name}={value}" for stage, (name, *values) in SWEPT.items() for value in values
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A project after a sweep over two values of a parameter of each model, and the export ->
    Project.
    """
    home = tmp_path_factory.mktemp("home")
    project = Project(*copy_project(home / "50%20 #1? [x] {y}"))
    for name in OTHERS:
        (project.folder / "notebooks" / f"{name}.ipynb").unlink()
    arguments = [part for name, value in QUICK.items() for part in ("-p", name, value)]
    for stage, (name, *values) in SWEPT.items():
        arguments += ["--sweep", f"{stage}.{name}", *values]
    project.command("--dataset", "simulated", "--until", "10_export", *arguments)
    return project


def rows(project, query):
    with contextlib.closing(sqlite3.connect(project.folder / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_places_of_its_own_in_reports(swept, variant):
    run, candidate = swept.runs[-1], variant.partition("_")[2]
    figures = {
        path.name.removeprefix(variant) for path in (run / "figures").glob(f"{variant}-*.png")
    }
    assert "-scores.png" in figures
    assert len(figures) == 2
    metrics = json.loads((run / "stages" / variant / "metrics.json").read_text())
    assert [name for name in metrics if "@" in name] == [candidate]
    assert (run / "models" / candidate / "model.onnx").is_file()
    assert candidate in json.loads((run / "metrics.json").read_text())["models"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_figures_metrics_and_a_model_in_mlflow(swept, variant):
    candidate = variant.partition("_")[2]
    [uri] = [
        uri for name, uri in rows(swept, "SELECT name, artifact_uri FROM runs") if name == variant
    ]
    figures = list(Path(unquote(urlsplit(uri).path), "figures").glob(f"{variant}-*.png"))
    assert len(figures) == 2
    query = (
        "SELECT l.name, m.key FROM metrics m JOIN logged_models l ON l.source_run_id = m.run_uuid"
    )
    assert (candidate, "validation/average_precision") in rows(swept, query)


def test_nothing_is_left_in_a_place_that_variants_would_share(swept):
    run = swept.runs[-1]
    for stage in SWEPT:
        assert list((run / "figures").glob(f"{stage}-*")) == []
        assert not (run / "stages" / stage).exists()


def test_the_champion_comes_back_from_the_registry_of_such_a_folder(swept):
    metrics = json.loads((swept.runs[-1] / "metrics.json").read_text())
    model = swept.runs[-1] / "models" / metrics["champion"]["model"]
    assert bundle_hash(swept.folder / "serve" / "model") == bundle_hash(model)
    # MLflow has made none beside
    assert [path.name for path in swept.folder.parent.iterdir()] == [swept.folder.name]


@pytest.mark.parametrize(
    ("edited", "stages"),
    [
        ("lib/detectors/expectation_maximisation.py", {"05_gaussian_mixture"}),
        ("lib/detectors/denoising_network.py", {"04_autoencoder"}),
        ("lib/detectors/isolation_forest.py", {"03_isolation_forest"}),
        ("lib/evaluation/gate.py", {"09_comparison"}),
        ("notebooks/04_autoencoder.ipynb", {"04_autoencoder"}),
    ],
)
def test_an_edit_runs_again_what_depends_on_it(swept, edited, stages):
    path = swept.folder / edited
    before = path.read_text()
    if path.suffix == ".ipynb":
        path.write_text(before.replace("import Autoencoder", "import Autoencoder  # edited"))
    else:
        path.write_text(before + "\n# edited\n")
    config = swept.folder / "reports" / "latest" / "run.yaml"
    process = swept.start("--config", config, "--until", "10_export", "--dry-run", "--json")
    out, err = process.communicate()
    path.write_text(before)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert {
        entry["stage"].partition("@")[0] for entry in found if entry["status"] == "to run"
    } == stages
    assert all(
        Path(edited).name in entry["why"] or edited in entry["why"]
        for entry in found
        if entry["status"] == "to run"
    )
    fits = {
        entry["stage"] for entry in found if entry["stage"].partition("@")[0] in set(SWEPT) - stages
    }
    assert {entry["stage"] for entry in found if entry["status"] == "up to date"} >= fits
