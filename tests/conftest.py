import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from lib.data import simulation

ROOT = Path(__file__).resolve().parents[1]
pytest.register_assert_rewrite("by_parts")  # before a test module imports it
# a machine that does other things as well is no fault of the code
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def simulated():
    """8,000 simulated transactions of the two days; make a copy before changing it."""
    return simulation.simulate(rows=8_000, seed=0)


@pytest.fixture
def project(tmp_path):
    """A copy of the project without data, runs or models, for what writes into its own folder ->
    (folder, environment).

    The environment makes `lib` the copy's, and `lib.data.datasets.ROOT` with it.
    """
    return copy_project(tmp_path / "project")


def copy_project(folder):
    """What the fixture `project` gives, in this folder."""
    for part in ("lib", "notebooks", "serve"):
        unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "model")
        shutil.copytree(ROOT / part, folder / part, ignore=unwanted)
    (folder / "data").mkdir()
    for path in [
        *ROOT.glob("data/*.yaml"),
        *ROOT.glob("requirements*.txt"),
        ROOT / "pyproject.toml",
    ]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    shutil.copy(ROOT / "run_pipeline.py", folder)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")
    }
    return folder, environment | {"PYTHONPATH": str(folder)}


def pytest_make_parametrize_id(val, argname):
    """Name a case by bytes without them: an archive holds the moment at which it was packed, and
    every process of a run has to find the same names.
    """
    return argname if isinstance(val, bytes) else None
