"""The real notebooks on workers of their own, one of which is lost; a driver that is lost."""

import json
import signal
import time

import psutil
import pytest
from by_parts import Cluster
from conftest import copy_project
from pipelines import SMALL, Project

from lib.files import read_json
from lib.pipeline.workers import PATIENCE_S

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("engine")]
NOTEBOOKS = ("02_split", "03_isolation_forest", "05_gaussian_mixture", "09_comparison")
QUICK = {
    "rows": 3000,
    "train_on": "genuine",
    "n_trees": 20,
    "n_components": 2,
    "trims": "[]",
    "n_resamples": 20,
    "final_table": "false",
}
ARGUMENTS = [
    *("--dataset", "simulated", "--until", "09_comparison"),
    *(part for name, value in QUICK.items() for part in ("-p", name, value)),
    *("--sweep", "isolation_forest.n_trees", 20, 30),
]


@pytest.fixture
def cluster(tmp_path):
    """One that may be spoiled."""
    (tmp_path / "cluster").mkdir()
    started = Cluster(tmp_path / "cluster")
    yield started
    started.close()


def real(folder, keep=NOTEBOOKS):
    """A copy of the project with few of its notebooks."""
    project = Project(*copy_project(folder))
    for path in (folder / "notebooks").glob("*.ipynb"):
        if path.stem not in keep:
            path.unlink()
    return project


def kernels(project):
    """The kernels that work in a project's folder, whoever has started them."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):  # None of one that has just ended
        is_kernel = "ipykernel_launcher" in " ".join(process.info["cmdline"] or ())
        if is_kernel and process.info["cwd"] == str(project.folder):
            found.append(process)
    return found


def until(look, seconds=120):
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end
        time.sleep(0.1)


def lose(worker):
    """A worker's process, as a machine that is switched off: first who would start it again."""
    nanny = next(parent for parent in worker.parents() if "worker" in parent.cmdline())
    for process in (nanny, worker):
        process.kill()


def figures(project):
    """What a run came to, without what differs between two runs of the same."""
    metrics = json.loads((project.runs[-1] / "metrics.json").read_text())
    for model in metrics["models"].values():
        model.pop("score_us", None)  # was measured
    return {name: metrics[name] for name in ("models", "splits", "intervals", "reviews", "seed")}


def test_the_figures_are_those_of_one_machine_though_a_worker_is_lost(tmp_path, cluster):
    here, there = real(tmp_path / "here"), real(tmp_path / "there")
    here.command(*ARGUMENTS)
    process = there.start(*ARGUMENTS, "--engine", cluster.address)

    def working():
        if not list(there.folder.glob("reports/*/notebooks/.05_gaussian_mixture.part.ipynb")):
            return None
        (claim,) = there.folder.glob("reports/.workers-*/05_gaussian_mixture.claim")
        report = claim.with_name(f"{claim.read_text()}.json")
        return json.loads(report.read_text())["place"] if report.is_file() else None

    place = until(working)
    lose(worker_of(place))
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert f"05_gaussian_mixture: {place} is lost; again on tcp://" in err
    assert figures(there) == figures(here)
    # nor is an engine a reason to run again
    assert "Nothing has changed" in there.command(*ARGUMENTS)


def worker_of(place):
    """The process that listens at an address such as tcp://127.0.0.1:41233."""
    port = int(place.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return psutil.Process(connection.pid)
    raise AssertionError(f"nobody listens at {place}")


def sleeping(tmp_path, cluster):
    """A project and its pipeline, one of whose notebooks sleeps on a worker
    -> (project, the pipeline's process, kernels on workers).
    """
    project = Project.create(tmp_path / "project")
    project.put("03_isolation_forest", "sleeps")
    process = project.start(*SMALL, "--until", "04_autoencoder", "--engine", cluster.address)

    def asleep():
        for claim in project.folder.glob("reports/.workers-*/03_isolation_forest.claim"):
            report = read_json(claim.with_name(f"{claim.read_text()}.json"), {})
            return report.get("n_done", 0) >= 2
        return False

    until(asleep)
    found = kernels(project)
    assert found
    return project, process, found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_kernels_of_a_driver_that_is_gone_end_by_themselves(tmp_path, cluster, number):
    project, process, left = sleeping(tmp_path, cluster)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    if number == signal.SIGKILL:
        psutil.wait_procs(left, timeout=PATIENCE_S + 60)
    else:  # it has waited for them
        assert "Interrupted" in err
        (archive,) = project.folder.glob("reports/2*/notebooks/03_isolation_forest.ipynb")
        assert len(json.loads(archive.read_text())["cells"]) >= 3  # how far it came
        assert list(project.folder.glob("reports/.workers-*")) == []
    assert kernels(project) == []
    project.put("03_isolation_forest", "fits_a_candidate")
    project.command(*SMALL, "--until", "04_autoencoder", "--engine", cluster.address)
    assert list(project.folder.glob("reports/.workers-*")) == []


def test_a_pipeline_after_one_that_was_killed_waits_for_its_kernels(tmp_path, cluster):
    project, process, left = sleeping(tmp_path, cluster)
    process.kill()
    process.communicate(timeout=60)
    project.put("03_isolation_forest", "fits_a_candidate")
    process = project.start(*SMALL, "--until", "04_autoencoder")
    assert "Waiting for workers to end" in process.stderr.readline()
    start = time.monotonic()
    assert "Resuming" in process.stderr.readline()
    assert time.monotonic() - start < PATIENCE_S  # they were told so
    assert [kernel for kernel in left if kernel.is_running()] == []
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err


def test_a_scheduler_that_is_lost_costs_the_notebooks_that_it_had(tmp_path, cluster):
    """Those that are running, and those that wait for a worker; the rest goes on."""
    project = Project.create(tmp_path / "project")
    arguments = (*SMALL, "--until", "04_autoencoder", "--sweep", "autoencoder.latent", 4, 8, 16)
    engine = ("--engine", cluster.address)
    process = project.start(*arguments, "-p", "pause_s", 300, *engine)
    until(lambda: len(list(project.folder.glob("reports/2*/models/*/model.onnx"))) == 2)
    left = kernels(project)
    assert len(left) == 2
    cluster.processes[0].kill()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, out + err
    assert out.count("the scheduler is gone") == 4, out + err
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []
    assert list(project.folder.glob("reports/.workers-*")) == []
    project.command(*arguments)


def test_stability_is_the_same_on_workers(tmp_path, cluster):
    arguments = [
        *("--dataset", "simulated", "--only", "12_stability", "-p", "rows", 3000),
        *("-p", "stability.models", json.dumps(["robust_covariance", "empirical_tails"])),
        *("-p", "stability.n_seeds", 2, "-p", "stability.fused", "[]"),
    ]
    found = []
    for name, engine in (("here", ()), ("there", ("--engine", cluster.address))):
        project = real(tmp_path / name, ("02_split", "12_stability"))
        project.command("--dataset", "simulated", "--until", "02_split", "-p", "rows", 3000)
        project.command(*arguments, *engine)
        metrics = project.runs[-1] / "stages" / "12_stability" / "metrics.json"
        found.append(json.loads(metrics.read_text()))
    assert found[0] == found[1]
