"""The command as a process of its own, with kernels: killed, interrupted, started twice."""

import json
import random
import signal
import time

import psutil
import pytest
from conftest import copy_project
from pipelines import SMALL, Project

from lib.bundle import bundle_hash

pytestmark = pytest.mark.xdist_group("resume")  # they share one undisturbed run
PAUSING = (*SMALL, "-p", "pause_s", "0.5")


@pytest.fixture(scope="session")
def unstarted(tmp_path_factory):
    """A small project before any run -> Project."""
    return Project.create(tmp_path_factory.mktemp("unstarted") / "project")


@pytest.fixture
def small(unstarted, tmp_path):
    """A small project before any run."""
    return unstarted.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def undisturbed(unstarted, tmp_path_factory):
    """A small project after a run that nobody disturbed, and how long that took (s)."""
    project, start = (
        unstarted.copy(tmp_path_factory.mktemp("undisturbed") / "project"),
        time.monotonic(),
    )
    project.command(*PAUSING)
    return project, time.monotonic() - start


def until_fitting(project, process):
    """Wait until a model notebook has begun to write."""
    while not list(project.folder.glob("reports/*/models/*/model.onnx")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_a_second_run_ends_at_once(undisturbed):
    project, seconds = undisturbed
    start = time.monotonic()
    said = project.command(*PAUSING)
    assert "Nothing has changed" in said
    assert time.monotonic() - start < max(5, seconds / 2)  # 5 s where nobody else is at work
    assert len(project.runs) == 1


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=pytest.mark.check if s >= 1 else ()) for s in range(20)]
)
def test_a_killed_run_is_resumed_to_the_same_result(small, undisturbed, seed):
    project, seconds = undisturbed
    process = small.start(*PAUSING)
    time.sleep(random.Random(seed).uniform(0.2, 1.0) * seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    small.command(*PAUSING)
    assert len(small.runs) == 1
    assert small.result() == project.result()
    assert len({entry["id"] for entry in small.logged("start")}) == 1


@pytest.mark.check
def test_the_real_notebooks_killed_twenty_times_come_to_the_same_result(tmp_path):
    asked = ("--dataset", "simulated", "-p", "rows", "6000", "--until", "export")
    quiet, killed = (Project(*copy_project(tmp_path / name)) for name in ("quiet", "killed"))
    start = time.monotonic()
    quiet.command(*asked)
    seconds, moments = time.monotonic() - start, random.Random(0)
    for _ in range(20):
        process = killed.start(*asked)
        time.sleep(moments.uniform(0.02, 0.3) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    killed.command(*asked)
    assert len(killed.runs) == 1
    metrics = [json.loads((p.runs[0] / "metrics.json").read_text()) for p in (quiet, killed)]
    for entry in (*metrics[0]["models"].values(), *metrics[1]["models"].values()):
        entry.pop("score_us", None)  # a time, and so never the same twice
    assert metrics[0]["models"] == metrics[1]["models"]
    assert metrics[0]["champion"] == metrics[1]["champion"]
    assert bundle_hash(quiet.folder / "serve" / "model") == bundle_hash(
        killed.folder / "serve" / "model"
    )


def test_an_interrupted_run_says_so_and_leaves_no_kernel(small):
    process = small.start(*SMALL, "-p", "pause_s", "100")
    until_fitting(small, process)
    kernels = [child.pid for child in psutil.Process(process.pid).children()]
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.endswith("Interrupted; the same command goes on where it stopped.\n")
    assert kernels
    assert not any(map(psutil.pid_exists, kernels))
    assert json.loads((small.runs[0] / "run.json").read_text())["status"] == "interrupted"
    assert small.logged("finish")[0]["status"] == "KILLED"


@pytest.mark.parametrize(
    "launcher", ["raise SystemExit(3)", "import time\ntime.sleep(600)"], ids=["dies", "is silent"]
)
def test_a_kernel_that_does_not_start_does_not_keep_the_command(small, launcher):
    runner = small.folder / "lib" / "pipeline" / "notebook_execution.py"
    runner.write_text(runner.read_text().replace("START_TIMEOUT_S = 180", "START_TIMEOUT_S = 2"))
    (small.folder / "ipykernel_launcher.py").write_text(launcher)
    process = small.start(*SMALL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.count("its kernel could not be started") >= 2  # the console, and the summary
    assert "Traceback" not in said
    (small.folder / "ipykernel_launcher.py").unlink()
    small.command(*SMALL, "--until", "02_split")  # nobody holds the lock


def test_a_long_temporary_folder_does_not_keep_notebooks_from_running(small, tmp_path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    small.environment = small.environment | {"TMPDIR": str(long)}
    small.command(*SMALL, "--until", "02_split")


def test_two_pipelines_do_not_interleave(small):
    process = small.start(*SMALL, "-p", "pause_s", "2")
    until_fitting(small, process)
    said = small.command(*SMALL, code=2)
    assert (
        f"Another pipeline (process {process.pid}) is running in this folder; --wait waits for it."
        in said
    )
    small.command(*SMALL, "--dry-run")  # only looks
    assert not (small.folder / "reports" / "latest").exists()  # until this first run has ended
    said = small.command(*SMALL, "-p", "pause_s", "2", "--wait")
    assert f"Waiting for the pipeline of process {process.pid} to end." in said
    assert "Nothing has changed" in said
    process.communicate()
    assert process.returncode == 0
