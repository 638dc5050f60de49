"""Every notebook run twice in one kernel, as people do who press *Run all* again, and what it has
imported then.
"""

import json

import pytest
from conftest import ROOT

from lib.pipeline.dependencies import BY_HAND, IN_THE_DATA, imported_files
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
# one notebook that fits a detector is run in every test, those of the same make in the long checks
ALIKE = {
    "03_isolation_forest",
    "04_autoencoder",
    "05_gaussian_mixture",
    "06_nearest_neighbours",
    "08_empirical_tails",
}
LOADED = """
import json, sys
from pathlib import Path
ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "lib"]
files = [getattr(module, "__file__", None) for module in ours]
Path("loaded.json").write_text(json.dumps([file for file in files if file]))
"""


def code(*lines):
    return {
        "cell_type": "code",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": list(lines),
    }


def write_twice(source, target, given):
    """Write a notebook whose code is that of `source`, twice, with these parameters -> its first
    copy's code.
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
        "cells": [*once, *once, code(LOADED)],
        "metadata": kernel,
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    target.write_text(json.dumps(content))
    return ["".join(cell["source"]) for cell in once]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(s, marks=pytest.mark.check if stage.on_demand or s in ALIKE else ())
        for s, stage in STAGES.items()
    ],
)
def test_a_notebook_runs_twice_in_one_kernel_and_imports_what_it_is_known_to(
    project, tmp_path, name
):
    folder, environment = project
    source = notebook(folder, STAGES[name])
    sources = write_twice(source, tmp_path / "twice.ipynb", SMALL[name])
    outcome = NotebookExecution(
        tmp_path / "twice.ipynb", tmp_path / "executed", {}, folder, environment
    ).run()
    assert outcome.message == ""
    assert outcome.n_cells == 2 * len(sources) + 1
    known = {*imported_files(sources, folder)}
    left_out = [
        module for each in (BY_HAND, IN_THE_DATA) for modules in each.values() for module in modules
    ]
    known |= {*imported_files([f"import {module}" for module in left_out], folder)}
    loaded = {folder / file for file in json.loads((folder / "loaded.json").read_text())}
    assert loaded - known == set()


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
    for of_regime in metrics["by_table"].values():
        assert set(of_regime) == {"robust_covariance", "empirical_tails"}
        for model in of_regime.values():
            ranks = {table: figure["rank"] for table, figure in model["tables"].items()}
            assert list(ranks) == ["creditcard", "simulated"]
            assert model["mean_rank"] == sum(ranks.values()) / 2
    assert {row["table"] for row in metrics["scaling"]} == {"creditcard", "simulated"}
