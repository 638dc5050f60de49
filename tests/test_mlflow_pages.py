"""MLflow's own pages in headless Chromium: what a fresh browser shows of a run's candidates."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest
from browser import Visitor, chromium
from conftest import ROOT
from test_tracking import NAME, candidate, free_port

from lib.registry import compared, mlflow_store, tracking

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("browser")]
START_S = 180  # of MLflow's server on a busy machine
SHOWN_MS = 90_000
FIGURES = {"Isolation forest": 0.4321, "Autoencoder": 0.7654}


def figure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


@pytest.fixture(scope="module")
def links(tmp_path_factory):
    """Where MLflow's pages are, as `make mlflow` prints it, for a run with two candidates."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv(tracking.PARENT, raising=False)
        patch.setattr(mlflow_store, "ROOT", folder)
        parent = tracking.start_pipeline("20260101-000000-test")
        for i, (label, value) in enumerate(FIGURES.items()):
            name = label.lower().replace(" ", "_")
            made = candidate(folder / name, name, shift=i)
            periods = {
                period: {
                    metric: figure(value - 0.01 * k - 0.02 * j)
                    for k, metric in enumerate(compared.METRICS)
                }
                for j, period in enumerate(compared.PERIODS)
            }
            entry = periods | {"score_us": 10.0**i, "bytes": 1000 + i}
            (made / "metrics.json").write_text(json.dumps(entry))
            tracking.log_candidate(parent, made, label)
        tracking.register(made, NAME)
        tracking.finish_pipeline(parent, metrics=entry)
    with served(folder) as found:
        yield found


@contextlib.contextmanager
def served(folder):
    port = free_port()
    program = (
        "import pathlib, sys; from lib.registry import mlflow_pages as pages;"
        "pages.ROOT = pages.mlflow_store.ROOT = pathlib.Path(sys.argv[1]);"
        "pages.main(sys.argv[2:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    )
    try:
        printed = [process.stdout.readline() for _ in range(3)]
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert time.monotonic() < deadline, "MLflow did not start"
            time.sleep(0.5)
        yield [line.partition(": ")[2].strip() for line in printed]
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def page():
    """A browser that has never been here, large enough for a table."""
    with chromium() as browser:
        visitor = Visitor(browser)
        visitor.page.set_viewport_size({"width": 1600, "height": 1000})
        visitor.page.set_default_timeout(SHOWN_MS)
        yield visitor
        visitor.close()


def middle(locator):
    """The height of what is shown, on the page."""
    locator.wait_for()
    box = locator.bounding_box()
    return box["y"] + box["height"] / 2


def test_the_table_shows_forest_and_autoencoder_and_their_figures(links, page):
    page.page.goto(links[0])
    rows = []
    for label, value in FIGURES.items():
        named = middle(page.page.get_by_role("link", name=label, exact=True))
        assert middle(page.page.get_by_text(str(value), exact=True)) == pytest.approx(named, abs=6)
        rows.append(named)
    assert rows[0] > rows[1], "the best on validation comes first"
    for name in compared.COLUMNS[:3]:
        assert page.page.get_by_text(name, exact=True).is_visible()
    assert page.page.get_by_text("matching runs").inner_text().split()[0] == str(len(FIGURES))
    page.shoot("mlflow-table", whole=False)


def test_the_charts_begin_with_parallel_coordinates(links, page):
    page.page.goto(links[1])
    page.page.wait_for_selector(".parcoords .dimension")
    assert page.page.locator(".parcoords .dimension").count() == len(compared.AXES)
    page.page.get_by_text("Parallel Coordinates").wait_for()
    for label in FIGURES:
        assert page.page.get_by_text(label, exact=True).count() >= 1
    page.shoot("mlflow-charts", whole=False)


def test_the_registered_model_has_its_champion(links, page):
    page.page.goto(links[2])
    page.page.get_by_text("champion").first.wait_for()
    page.page.get_by_text(NAME).first.wait_for()
    page.shoot("mlflow-registered", whole=False)
