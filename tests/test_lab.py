"""Every notebook in JupyterLab, run to its end by *Run all cells* in headless Chromium."""

import json
import re
import subprocess
import sys
import time

import pytest
from browser import Visitor, chromium
from conftest import copy_project

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("browser")]
NOTEBOOKS = (
    *("01_eda", "02_split", "03_isolation_forest", "04_autoencoder", "05_gaussian_mixture"),
    *("06_nearest_neighbours", "07_robust_covariance", "08_empirical_tails"),
    *("09_comparison", "10_export", "11_production"),
)
LIMIT_S = 300  # a notebook takes under a minute on a machine that has nothing else to do
START_S = 90


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(notebooks' folder, address) of a JupyterLab on a copy of the project."""
    home = tmp_path_factory.mktemp("lab")
    folder, environment = copy_project(home / "project")
    settings = home / "config" / "labconfig"
    settings.mkdir(parents=True)
    news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "page_config.json").write_text(json.dumps(news))
    environment |= {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
    }
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--port=0",
        "--IdentityProvider.token=check",
    ]
    log = home / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        end = time.monotonic() + START_S
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/lab", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield folder / "notebooks", found[0]
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def cells(path):
    """The code cells of a notebook's file, which is empty for the moment in which it is saved."""
    end = time.monotonic() + 5
    text = path.read_text()
    while not text and time.monotonic() < end:
        time.sleep(0.1)
        text = path.read_text()
    return [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]


def problems(path):
    """What cells of a notebook's file have failed with."""
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    return [
        "\n".join(output["traceback"]) for output in outputs if output["output_type"] == "error"
    ]


@pytest.fixture
def visitor(lab, browser):
    """A window of the browser; at the end the kernels that it has started are shut down."""
    visitor = Visitor(browser)
    yield visitor
    api, headers = lab[1].replace("/lab", "/api/sessions"), {"Authorization": "token check"}
    for session in visitor.page.request.get(api, headers=headers).json():
        visitor.page.request.delete(f"{api}/{session['id']}", headers=headers)
    visitor.close()


def run_to_end(page, path):
    """Run all cells, and save until the file has every cell's result, or an error."""
    page.wait_for_selector("#jp-main-statusbar :text('| Idle')", timeout=1000 * START_S)
    page.click(".lm-MenuBar-item:has-text('Run')")
    page.click("[data-command='runmenu:run-all']")
    end = time.monotonic() + LIMIT_S
    while not problems(path) and not all(cell["execution_count"] for cell in cells(path)):
        assert time.monotonic() < end, f"{path.name} has not come to its end after {LIMIT_S} s"
        page.wait_for_timeout(2000)
        page.keyboard.press("Control+s")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_to_its_end(lab, visitor, name):
    folder, address = lab
    visitor.page.goto(f"{address}/tree/notebooks/{name}.ipynb?token=check&reset")
    try:
        run_to_end(visitor.page, folder / f"{name}.ipynb")
    finally:
        visitor.shoot(name, whole=False)
    assert problems(folder / f"{name}.ipynb") == []
    assert visitor.outside == []
