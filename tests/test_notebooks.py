import json
import re
import subprocess
import sys

import pytest
from closure import last_cell, unknown_imports
from conftest import ROOT

from lib.pipeline.stages import present

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
ON_DEMAND = {f"{stage.name}.ipynb" for stage in present(ROOT) if stage.on_demand}
# other tests run these in whole pipelines, so that here the long checks do
ELSEWHERE = {
    "01_eda.ipynb",
    "03_isolation_forest.ipynb",
    "04_autoencoder.ipynb",
    "05_gaussian_mixture.ipynb",
    "06_nearest_neighbours.ipynb",
    "07_robust_covariance.ipynb",
    "08_empirical_tails.ipynb",
    "10_export.ipynb",
    "09_comparison.ipynb",
    "11_production.ipynb",
}


@pytest.mark.parametrize(
    "rows", [pytest.param(None, marks=pytest.mark.check), 6_000], ids=["as it is", "few rows"]
)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.check if name in ON_DEMAND | ELSEWHERE else ())
        for name in NOTEBOOKS
    ],
)
def test_notebook_runs_alone_and_prints_what_it_has_stored(name, rows, project, tmp_path):
    """nbval runs every cell with the default parameters, but for the rows in most tests, and
    compares the cells marked NBVAL_CHECK_OUTPUT. What it imports on the way is what the pipeline
    takes it to depend on.
    """
    folder, environment = project
    path = folder / "notebooks" / name
    text = path.read_text()
    if rows is not None and "NBVAL_CHECK_OUTPUT" not in text:
        text = re.sub(r"rows: int = [\d_]+", f"rows: int = {rows}", text)
    book = json.loads(text)
    sources = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    book["cells"].append(last_cell(tmp_path / "loaded.json"))
    path.write_text(json.dumps(book))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # ours selects and configures other tests
    nbval = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout",
        "300",
    ]
    done = subprocess.run(
        [
            *nbval,
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--rootdir",
            tmp_path,
            path,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, re.sub(
        r"\x1b\[[\d;]*m", "", done.stdout[-6_000:] + done.stderr[-2_000:]
    )
    assert unknown_imports(folder, sources, tmp_path / "loaded.json") == set()


def test_there_are_notebooks():
    assert NOTEBOOKS
