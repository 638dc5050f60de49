"""Notebooks on the workers of a cluster: tiny ones, and what becomes of them if one is lost."""

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from distributed import Client
from pipelines import FIXTURES, SMALL, Here, Instant, Project

from lib.engine import executors
from lib.errors import DataError
from lib.files import read_json
from lib.pipeline import pipeline_execution, stages, workers
from lib.pipeline.notebook_execution import NotebookExecution, Outcome
from lib.pipeline.settings import Job
from lib.pipeline.state import Places, State

pytest_plugins = ["by_parts"]
pytestmark = pytest.mark.xdist_group("engine")  # the cluster's
FITS = "03_isolation_forest"


@pytest.fixture
def small(tmp_path):
    """A project of two notebooks, neither of which takes time."""
    project = Project.create(tmp_path / "project")
    for path in (project.folder / "notebooks").glob("*.ipynb"):
        if path.stem not in ("02_split", FITS):
            path.unlink()
    return project


@pytest.fixture
def here(small, capsys, monkeypatch):
    """Its command line in this process: what runs on workers has a kernel, the rest has none."""
    found = Here(small, capsys, monkeypatch)

    def kernel_or_not(notebook, **options):
        kind = NotebookExecution if notebook.stem == FITS else Instant
        return kind(notebook, **options)

    monkeypatch.setattr("lib.pipeline.pipeline_execution.NotebookExecution", kernel_or_not)
    return found


@pytest.fixture
def desk(tmp_path):
    """A desk with a pulse."""
    found = workers.Desk(tmp_path / "reports" / ".workers-test")
    found.folder.mkdir(parents=True)
    found.pulse.write_text("0")
    return found


def dispatched(desk, fixture, submit, root=ROOT):
    """A fixture notebook that waits to be sent."""
    stage = stages.Stage(fixture, ("splits",), ("run/models",))
    notebook = FIXTURES / f"{fixture}.ipynb"
    run = desk.folder.parent / "run"
    state = State(Places(root, run, run), Job(stage, notebook, {}, frozenset()))
    execution = NotebookExecution(notebook, run / "notebooks" / fixture, {}, root, {})
    project = workers.Project.here(root, desk)
    return workers.Dispatched(workers.Errand(execution, project, state), submit)


def until(look, seconds=60):
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_notebook_of_a_worker_that_is_killed_is_executed_again(small, here, cluster):
    arguments = (*SMALL, "-p", "pause_s", "0.8", "--until", FITS)
    killed = []
    with Client(cluster.address, set_as_default=False) as client:
        pids = client.run(os.getpid)

    def kill():
        until(lambda: list(small.folder.glob("reports/*/models/*/model.onnx")))
        (report,) = small.folder.glob("reports/.workers-*/*.json")
        place = until(lambda: read_json(report))["place"]  # it may just be written
        os.kill(pids[place], signal.SIGKILL)
        killed.append(place)

    thread = threading.Thread(target=kill)
    thread.start()
    out, err = here.run(*arguments, "--engine", cluster.address, "--json")
    thread.join()
    summary = json.loads(out)
    assert summary["engine"] == cluster.address
    stage = next(stage for stage in summary["stages"] if stage["stage"] == FITS)
    assert stage["status"] == "done"
    assert stage["worker"] not in ("", *killed)
    assert f"{FITS}: on {killed[0]}" in err
    assert f"{FITS}: {killed[0]} is lost; again on {stage['worker']}" in err
    (run,) = small.runs
    record = json.loads((run / ".state" / FITS / "state.json").read_text())
    (graph,) = run.glob("models/*/model.onnx")
    assert record["outputs"]["run/models/isolation_forest/model.onnx"][0] == graph.stat().st_size
    assert len(graph.read_text()) == 64_000
    assert (run / "notebooks" / f"{FITS}.html").is_file()
    assert list(small.folder.glob("reports/.workers-*")) == []
    # an engine is no reason to run again
    assert {status for status, _ in here.planned(*arguments).values()} == {"up to date"}


def test_a_notebook_on_a_worker_is_interrupted(cluster, desk):
    with executors.connected(cluster.address) as client:
        sent = dispatched(desk, "sleeps", lambda errand: client.submit(workers.execute, errand))
        found = []
        thread = threading.Thread(target=lambda: found.append(sent.run()))
        thread.start()
        until(lambda: sent.watch() or sent.n_done == 2)
        sent.kill("interrupted")
        thread.join(30)
    assert found[0].message.startswith("interrupted")
    assert found[0].place == sent.place
    until(lambda: not list(desk.folder.glob("*.json")))  # the kernel has ended


def test_a_worker_with_another_project_is_refused(small, here, cluster, monkeypatch):
    seen = workers.Project.here

    def other(root, desk):
        return replace(seen(root, desk), sources={"lib/new.py": "0"})

    monkeypatch.setattr(workers.Project, "here", other)
    _, err = here.run(*SMALL, "--engine", cluster.address, code=2)
    assert "worker tcp://" in err
    assert "sees another lib/" in err
    assert small.runs == []


def test_what_a_worker_has_to_share(desk, tmp_path, monkeypatch):
    project = workers.Project.here(ROOT, desk)
    assert project.refusal() == ""
    assert {"lib/errors.py", "lib/pipeline/templates/notebook.html.j2"} <= set(project.sources)
    assert {"scikit-learn", "torch", "duckdb", "papermill", "dask"} <= set(project.versions)
    refusals = {
        "does not see": replace(project, root=tmp_path / "nowhere"),
        "has no project": replace(project, root=tmp_path),
        "has another folder": replace(project, desk=workers.Desk(tmp_path)),
        "sees another lib/errors.py": replace(
            project, sources=project.sources | {"lib/errors.py": "0"}
        ),
        "has duckdb": replace(project, versions=project.versions | {"duckdb": "0.1"}),
    }
    for said, other in refusals.items():
        assert other.refusal().startswith(said)

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", read_only)
    assert project.refusal() == f"cannot write into {desk.folder.parent}: Read-only file system"


def test_a_kernel_ends_with_its_driver_or_when_another_worker_has_its_notebook(desk, monkeypatch):
    execution = dispatched(desk, "sleeps", None).errand.execution
    attempt = workers.Attempt(execution, desk, "tcp://worker")
    claim = desk.claim("sleeps")
    claim.write_text(attempt.name)
    assert attempt.reason_to_end() == ""
    monkeypatch.setattr(workers, "PATIENCE_S", 0.05)
    time.sleep(0.1)
    assert "is gone" in attempt.reason_to_end()
    desk.pulse.write_text("1")
    assert attempt.reason_to_end() == ""
    claim.write_text("")  # is being written
    assert attempt.reason_to_end() == ""
    claim.write_text("another")
    assert "another worker" in attempt.reason_to_end()
    claim.unlink()
    assert attempt.reason_to_end() == "interrupted"
    desk.pulse.unlink()  # the driver, which had ended, has taken its desk away
    assert "is gone" in attempt.reason_to_end()


@pytest.mark.parametrize(("said", "is_archived"), [("", True), ("another", False)])
def test_an_attempt_that_is_given_up_leaves_the_archive_of_another(desk, said, is_archived):
    """Its worker stood still meanwhile, and another one has executed the notebook."""
    execution = dispatched(desk, "sleeps", None).errand.execution
    claim = desk.claim("sleeps")

    def execute(partial):
        shutil.copy(FIXTURES / "sleeps.ipynb", partial)
        until(lambda: list(desk.folder.glob("*.json")))
        claim.unlink()
        if said:
            claim.write_text(said)
        until(lambda: execution._killed)
        return execution._killed

    execution._execute = execute
    with workers.Attempt(execution, desk, "tcp://worker"):
        assert execution.run().message
    assert execution.archive.with_suffix(".ipynb").is_file() == is_archived
    assert list(desk.folder.glob("*.json")) == []


def test_an_attempt_makes_no_desk_anew(desk):
    attempt = workers.Attempt(dispatched(desk, "sleeps", None).errand.execution, desk, "tcp://w")
    shutil.rmtree(desk.folder)
    with attempt:
        until(lambda: attempt.execution._killed)
    assert "is gone" in attempt.execution._killed
    assert not desk.folder.exists()


def test_the_next_pipeline_ends_what_a_lost_one_has_left(desk, tmp_path, monkeypatch):
    claim, report = desk.claim("03"), desk.report("attempt")
    claim.write_text("attempt")
    report.write_text("{}")
    said = []

    def say(text):
        said.append(text)
        assert not claim.exists()
        report.unlink()  # as a worker does that has ended its kernel

    workers.end_lost(tmp_path, say)
    assert len(said) == 1
    assert not desk.folder.exists()
    desk.folder.mkdir()
    desk.report("on a machine that is lost, too").write_text("{}")
    monkeypatch.setattr(workers, "PATIENCE_S", 0.1)
    workers.end_lost(tmp_path, said.append)
    assert not desk.folder.exists()


class KilledWorker(Exception):  # noqa: N818 - Dask's
    """What Dask raises."""


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (CancelledError(), "the scheduler is gone"),
        (KilledWorker(), "for want of memory"),
        (TimeoutError(110, "Connection timed out"), "on a worker: [Errno 110] Connection timed"),
        (workers.Done(Outcome("", 1, 1, 1, "tcp://w"), {"run/models/x": 3}), "do not appear"),
        (workers.Done(Outcome("cell 3 failed", 1, 1, 1, "tcp://w"), {}), "cell 3 failed"),
        (workers.Done(Outcome("", 1, 1, 1, "tcp://w"), {}), ""),
    ],
)
def test_how_a_notebook_on_a_worker_ends(desk, monkeypatch, result, said):
    monkeypatch.setattr(workers, "PATIENCE_S", 0.1)
    future = Future()
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
    outcome = dispatched(desk, "sleeps", lambda _: future).run()
    assert said in outcome.message
    assert bool(said) == bool(outcome.message)


def test_credentials_do_not_travel():
    environment = {
        "MLFLOW_TRACKING_URI": "https://me:secret@mlflow.example:5000/x",
        "MLFLOW_TRACKING_PASSWORD": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "PIPELINE_MLFLOW_RUN": "abc",
    }
    assert pipeline_execution.travelling(environment) == {
        "MLFLOW_TRACKING_URI": "https://mlflow.example:5000/x",
        "PIPELINE_MLFLOW_RUN": "abc",
    }
    here = {"MLFLOW_TRACKING_URI": "sqlite:////project/mlflow.db"}
    assert pipeline_execution.travelling(here) == here


def test_what_needs_registry_served_model_or_raw_file_stays_at_home():
    anywhere = {stage.name[:2] for stage in stages.STAGES if stage.runs_anywhere}
    assert anywhere == {"03", "04", "05", "06", "07", "08", "13"}


def test_the_engine_is_planned_with_and_named(here):
    rows = json.loads(here.run(*SMALL, "--dry-run", "--json", "--engine", "tcp://host:1")[0])
    assert {row["stage"]: row["where"] for row in rows} == {"02_split": "", FITS: "tcp://host:1"}


@pytest.mark.parametrize(
    ("address", "said"), [("local:3", "--jobs 3"), ("host:8786", "tcp://10.0.0.1:8786")]
)
def test_another_engine_is_refused_for_notebooks(here, address, said):
    assert said in here.run(*SMALL, "--engine", address, code=2)[1]


@pytest.mark.parametrize("status", ["running", "connecting", "closed"])
def test_a_scheduler_that_is_gone_is_not_asked_and_who_is_sent_there_is_told(desk, status):
    class Gone:
        def nthreads(self):
            assert self.status == "running"  # until it is noticed
            raise OSError

        def submit(self, *_, **__):
            assert self.status != "closed"
            future = Future()
            future.set_exception(CancelledError())
            return future

    Gone.status = status
    gone = workers.Workers(Gone(), None)
    assert gone.capacity() == 1
    outcome = dispatched(desk, "sleeps", gone._submit).run()
    assert outcome.message == "the scheduler is gone"


def test_a_notebook_is_not_waited_for_where_nobody_would_tell(desk):
    sent = dispatched(desk, "sleeps", lambda _: Future())
    sent._is_closed = lambda: True  # the client, since
    assert sent.run().message == "the scheduler is gone"


def test_a_notebook_that_ends_as_patience_does_is_done(desk):
    class Late(Future):
        def result(self, timeout=None):
            if timeout is None:
                return super().result()
            self.set_result(workers.Done(Outcome("", 1, 1, 1, "tcp://w"), {}))
            raise TimeoutError

    assert dispatched(desk, "sleeps", lambda _: Late()).run().message == ""


def test_tls_without_a_certificate_is_refused(here):
    _, err = here.run(*SMALL, "--engine", "tls://127.0.0.1:9", code=2)
    assert "needs a certificate: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in err


def test_no_scheduler_no_run(here, monkeypatch):
    monkeypatch.setattr(executors, "CONNECT_S", 0.2)
    assert "no Dask scheduler" in here.run(*SMALL, "--engine", "tcp://127.0.0.1:9", code=2)[1]
    assert here.runs == []
    with pytest.raises(DataError), workers.opened("tcp://127.0.0.1:9", here.folder):
        pass
