"""Every notebook run twice in one kernel, as people do who press *Run all* again, and what it has
imported then.
"""

import json

import pytest
from closure import code, last_cell, unknown_imports
from conftest import ROOT

from lib.pipeline.notebook_execution import NotebookExecution
from lib.pipeline.stages import notebook, present

STAGES = {stage.name: stage for stage in present(ROOT)}
SMALL = {  # by hand: no run_dir, no split_dir, logged to MLflow from the notebook
    "01_eda": {"rows": 3_000},
    "02_split": {"rows": 3_000},
    "03_isolation_forest": {"rows": 3_000},
    "04_autoencoder": {"rows": 3_000, "members": 1, "epochs": 1},
    "05_gaussian_mixture": {"rows": 3_000, "members": 1, "n_components": 2, "trims": [0.0, 0.02]},
    "06_nearest_neighbours": {"rows": 3_000},
    "07_robust_covariance": {"rows": 3_000},
    "08_empirical_tails": {"rows": 3_000},
    "09_comparison": {"rows": 3_000, "n_resamples": 20},
    "10_export": {},
    "11_production": {"rows": 4_000},
    "12_stability": {
        "rows": 3_000,
        "models": ["isolation_forest", "robust_covariance"],
        "n_seeds": 1,
    },
    "13_few_labels": {"rows": 3_000, "detector": "robust_covariance", "n_known": [5], "n_draws": 1},
}
ALWAYS = {"02_split"}  # run in every test, the others in the long checks


def write_twice(source, target, given, loaded):
    """Write a notebook whose code is that of `source`, twice, with these parameters; its last cell
    writes to `loaded` what has been imported -> the first copy's code.
    """
    book = json.loads(source.read_text())
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    once = []
    for cell in cells:
        lines = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", []):
            lines += "".join(f"\n{name} = {value!r}" for name, value in given.items())
        once.append(code(lines))
    kernel = {"kernelspec": book["metadata"]["kernelspec"]}
    content = {
        "cells": [*once, *once, last_cell(loaded)],
        "metadata": kernel,
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    target.write_text(json.dumps(content))
    return ["".join(cell["source"]) for cell in once]


@pytest.mark.parametrize(
    "name",
    [pytest.param(s, marks=() if s in ALWAYS else pytest.mark.check) for s in STAGES],
)
def test_a_notebook_runs_twice_in_one_kernel_and_imports_what_it_is_known_to(
    project, tmp_path, name
):
    folder, environment = project
    source = notebook(folder, STAGES[name])
    loaded = tmp_path / "loaded.json"
    sources = write_twice(source, tmp_path / "twice.ipynb", SMALL[name], loaded)
    outcome = NotebookExecution(
        tmp_path / "twice.ipynb", tmp_path / "executed", {}, folder, environment
    ).run()
    assert outcome.message == ""
    assert outcome.n_cells == 2 * len(sources) + 1
    assert unknown_imports(folder, sources, loaded) == set()


@pytest.mark.check
def test_stability_ranks_models_over_tables(project, simulated, tmp_path):
    folder, environment = project
    simulated[:4_000].to_csv(tmp_path / "cards.csv", index=False)
    parameters = {
        "dataset": "creditcard",
        "raw": str(tmp_path / "cards.csv"),
        "tables": ["simulated"],
        "rows": 3_000,
        "models": ["robust_covariance", "empirical_tails"],
        "fused": [],
        "n_seeds": 1,
        "run_dir": str(tmp_path / "run"),
        "track": False,
    }
    source = folder / "notebooks" / "12_stability.ipynb"
    outcome = NotebookExecution(
        source, tmp_path / "executed", parameters, folder, environment
    ).run()
    assert outcome.message == ""
    metrics = json.loads((tmp_path / "run/stages/12_stability/metrics.json").read_text())
    second = "robust_covariance@isolated=0.15"  # a candidate in the regime `all` only
    for regime, of_regime in metrics["by_table"].items():
        assert {*of_regime} - {second} == {"robust_covariance", "empirical_tails"}
        assert (second in of_regime) == (regime == "all")
        for model in of_regime.values():
            ranks = {table: figure["rank"] for table, figure in model["tables"].items()}
            assert list(ranks) == ["creditcard", "simulated"]
            assert model["mean_rank"] == sum(ranks.values()) / 2
    assert {row["table"] for row in metrics["scaling"]} == {"creditcard", "simulated"}
