"""Notebooks on the workers of a Dask cluster, in a project folder that all machines share.

Driver and workers meet at a *desk*, a folder in `reports`. The driver keeps a pulse there: a
worker that sees it stand still ends its kernel, so that nothing outlives a lost driver. A worker
puts down which attempt at a notebook is its own: one that was given up for lost, but lives, finds
another there and ends its kernel. Contents are compared, never times: clocks differ.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.engine import executors
from lib.errors import DataError
from lib.files import read_json, sha256
from lib.pipeline.notebook_execution import NotebookExecution, Outcome
from lib.pipeline.state import State

DESK = ".workers-"
LOCK = "requirements-engine.txt"  # what a worker has to have
PULSE_S = 0.5
LOOK_S = 0.2
PATIENCE_S = 30.0  # longer than a network file system shows what is no longer so
SETTLE_S = 2.0  # until the kernel of a worker that is lost has ended
STOP_S = 20.0  # for a worker to say that its kernel has ended
# why a kernel must not go on
INTERRUPTED = "interrupted"
GONE = "ended, as the pipeline that began it is gone,"
TAKEN = "ended, as another worker has taken it,"


@dataclass(frozen=True)
class Desk:
    """Where driver and workers meet; it is there as long as the driver is."""

    folder: Path

    @property
    def pulse(self) -> Path:
        """What the driver writes anew all the time."""
        return self.folder / "pulse"

    def claim(self, name: str) -> Path:
        """Which attempt at a notebook counts; removed: none."""
        return self.folder / f"{name}.claim"

    def report(self, attempt: str) -> Path:
        """How far an attempt is, until its kernel has ended."""
        return self.folder / f"{attempt}.json"


@dataclass(frozen=True)
class Project:
    """What a worker has to share with the driver.

    Parameters
    ----------
    root : the project's folder
    desk : in it
    sources : {file in it: SHA-256} of `lib`
    versions : {package: version} of what the driver has of the workers' lock, and of torch
    """

    root: Path
    desk: Desk
    sources: dict[str, str]
    versions: dict[str, str]

    @classmethod
    def here(cls, root: Path, desk: Desk) -> Project:
        """Return what this process has."""
        lock = root / LOCK
        pinned = re.findall(r"^([\w.-]+)==", lock.read_text() if lock.is_file() else "", re.M)
        found = executors.installed([*pinned, "torch"])
        versions = {name: version for name, version in found.items() if version != "missing"}
        return cls(root, desk, _hashes(root), versions)

    def refusal(self) -> str:
        """Return why notebooks cannot run in this process, the end of a sentence; else empty."""
        shared = "notebooks need one folder, shared by all machines, at the same path everywhere"
        if not self.root.is_dir():
            return f"does not see {self.root}: {shared}"
        if not (self.root / "lib").is_dir():
            return f"has no project at {self.root}: {shared}"
        if not self.desk.pulse.is_file():
            return f"has another folder at {self.root}: {shared}"
        theirs = _hashes(self.root)
        for file in sorted({*theirs, *self.sources}):
            if theirs.get(file) != self.sources.get(file):
                return f"sees another {file} than this machine; {shared}"
        trial = self.desk.folder / f"{uuid.uuid4().hex}.trial"
        try:
            trial.write_text("")
            trial.unlink()
        except OSError as error:
            return f"cannot write into {self.desk.folder.parent}: {error.strerror}"
        packages = self.versions.keys() - {"Python"}
        different = executors.difference(executors.installed(packages), self.versions)
        return f"has {different}" if different else ""


def _hashes(root: Path) -> dict[str, str]:
    files = executors.sources(root / "lib")
    return {path.relative_to(root).as_posix(): sha256(path) for path in files}


@dataclass(frozen=True)
class Errand:
    """A notebook to be executed on a worker.

    Parameters
    ----------
    execution : that has not begun
    project : where
    state : of the job in the run's folder
    """

    execution: NotebookExecution
    project: Project
    state: State

    @property
    def name(self) -> str:
        """The job's name."""
        return self.execution.name

    def left(self) -> dict[str, int]:
        """Return {file: bytes} of what the notebook has left, as this machine sees it."""
        found = {}
        for pattern in self.state.job.outputs:
            for key, path in self.state.places.files(pattern).items():
                with contextlib.suppress(FileNotFoundError):  # listed, and gone
                    found[key] = path.stat().st_size
        return found


@dataclass(frozen=True)
class Done:
    """What comes back from a worker: how it ended, and `Errand.left` as the worker sees it."""

    outcome: Outcome
    left: dict[str, int]


def execute(errand: Errand) -> Done:
    """Execute a notebook in this process, a worker."""
    from distributed import get_worker

    place = get_worker().address
    refusal = errand.project.refusal()
    if refusal:  # it has joined since the driver asked
        return Done(Outcome(f"worker {place} {refusal}", 0.0, 0.0, 0, place), {})
    execution = errand.execution
    execution.environment = os.environ | execution.environment
    with Attempt(execution, errand.project.desk, place) as attempt:
        if attempt.is_another:
            time.sleep(SETTLE_S)
            errand.state.clear()
        outcome = execution.run()
    figures = (outcome.message, outcome.seconds, outcome.peak_mb, outcome.n_cells)
    return Done(Outcome(*figures, place), errand.left())


class Attempt:
    """A worker's attempt at a notebook: watched, reported to the driver, ended when it has to."""

    def __init__(self, execution: NotebookExecution, desk: Desk, place: str):
        self.execution = execution
        self.desk = desk
        self.place = place
        self.name = uuid.uuid4().hex
        self.is_another = False  # after one on a worker that is lost
        self._said: dict[str, Any] = {}
        self._beat = ""
        self._heard = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Attempt:
        claim = self.desk.claim(self.execution.name)
        with contextlib.suppress(OSError):  # the driver is gone: the first look ends it
            self.is_another = claim.is_file()
            claim.write_text(self.name)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Take the report away: the kernel has ended."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self.desk.report(self.name).unlink()

    def _watch(self) -> None:
        while not self._over.is_set():
            self.execution.watch()
            reason = self.reason_to_end()
            if reason:
                self.execution.kill(reason, is_archived=reason == INTERRUPTED)
            self._report()
            self._over.wait(LOOK_S)

    def reason_to_end(self) -> str:
        """Return why the kernel must not go on; empty while it may."""
        with contextlib.suppress(OSError):
            beat = self.desk.pulse.read_text()
            if beat != self._beat:
                self._beat, self._heard = beat, time.monotonic()
        if time.monotonic() - self._heard > PATIENCE_S:
            return GONE
        try:
            claim = self.desk.claim(self.execution.name).read_text()
        except FileNotFoundError:
            return INTERRUPTED if self.desk.pulse.is_file() else GONE
        except OSError:  # for a moment, of a network file system
            return ""
        return "" if claim in ("", self.name) else TAKEN

    def _report(self) -> None:
        said = {
            "place": self.place,
            "n_done": self.execution.n_done,
            "peak_mb": self.execution.peak_mb,
        }
        if said == self._said:
            return
        with contextlib.suppress(OSError):  # the driver is gone
            # in place, as the pulse is: and no folder is made anew where the driver removes it
            self.desk.report(self.name).write_text(json.dumps(said))
            self._said = said


class Dispatched:
    """A notebook that a worker executes; `run`, `watch` and `kill` as in `NotebookExecution`.

    Parameters
    ----------
    submit : function (errand) -> future of Dask, whose result is `Done`
    is_closed : whether there is nobody left who would tell the future
    """

    def __init__(
        self,
        errand: Errand,
        submit: Callable[[Errand], Any],
        is_closed: Callable[[], bool] = lambda: False,
    ):
        self.errand = errand
        self.name = errand.name
        self.place = ""
        self.n_done = 0
        self.peak_mb = 0.0
        self._submit = submit
        self._is_closed = is_closed
        self._start = time.monotonic()
        self._killed = ""

    @property
    def seconds(self) -> float:
        """Seconds since it was sent."""
        return time.monotonic() - self._start

    def run(self) -> Outcome:
        """Send it to a worker, and to another if that one is lost; return how it ended."""
        self._start = time.monotonic()
        try:
            future = self._submit(self.errand)
            done = self._awaited(future)
        except CancelledError:
            return self._failed(self._killed or "the scheduler is gone")
        except Exception as error:  # whatever it is, the other notebooks go on
            if type(error).__name__ == "KilledWorker":
                return self._failed("every worker that took it died, perhaps for want of memory")
            return self._failed(f"it could not be executed on a worker: {error}")
        if done.outcome.message or self._sees(done.left):
            return done.outcome
        return self._failed(
            f"worker {done.outcome.place} has written files that do not appear on this machine"
        )

    def _failed(self, message: str) -> Outcome:
        return Outcome(self._killed or message, self.seconds, self.peak_mb, self.n_done, self.place)

    def _awaited(self, future: Any) -> Done:
        """Return what a future comes to; give it up a while after the notebook was killed."""
        killed_at = None
        while not future.done():
            with contextlib.suppress(TimeoutError):
                return future.result(timeout=LOOK_S)
            if self._is_closed():
                raise CancelledError
            if not self._killed:
                continue
            killed_at = killed_at or time.monotonic()
            if not self.place or time.monotonic() - killed_at > STOP_S:
                future.cancel()
                raise CancelledError
        return future.result()

    def _sees(self, left: dict[str, int]) -> bool:
        """Wait until this machine sees what a worker has written, which may take a moment."""
        until = time.monotonic() + 2 * PATIENCE_S
        while self.errand.left() != left:
            if self._killed or time.monotonic() > until:
                return False
            time.sleep(LOOK_S)
        return True

    def watch(self) -> None:
        """Look up which worker has it, and how far it is."""
        desk = self.errand.project.desk
        with contextlib.suppress(OSError):
            said = read_json(desk.report(desk.claim(self.name).read_text()))
            if said is not None:
                self.place = said["place"]
                self.n_done = said["n_done"]
                self.peak_mb = said["peak_mb"]

    def kill(self, reason: str) -> None:
        """Let the worker end its kernel; the outcome's message begins with `reason`."""
        self._killed = reason
        self.errand.project.desk.claim(self.name).unlink(missing_ok=True)


class Workers:
    """The workers of a cluster, all of which see the project's folder."""

    def __init__(self, client: Any, project: Project):
        self.client = client
        self.project = project

    def capacity(self) -> int:
        """Return how many notebooks the workers can execute at a time.

        One where the scheduler is gone: who is sent there is told.
        """
        if self.client.status != "running":  # asked, it would not answer for a while
            return 1
        try:
            return sum(self.client.nthreads().values())
        except (OSError, TimeoutError):
            return 1

    def dispatched(self, execution: NotebookExecution, state: State) -> Dispatched:
        """Return a notebook that a worker will execute; `state` is its job's in the run."""
        return Dispatched(
            Errand(execution, self.project, state), self._submit, lambda: self._is_closed
        )

    @property
    def _is_closed(self) -> bool:
        """Whether the client has looked for its scheduler long enough."""
        return self.client.status in ("closing", "closed")

    def _submit(self, errand: Errand) -> Any:
        if self._is_closed:
            raise CancelledError
        key = f"{errand.name}-{uuid.uuid4().hex}"
        return self.client.submit(execute, errand, key=key, pure=False)


@contextlib.contextmanager
def opened(address: str, root: Path) -> Iterator[Workers]:
    """Yield the workers of a Dask scheduler, for notebooks of a project.

    Raises
    ------
    DataError
        No scheduler answers, or a worker does not see the project's folder, or has other versions.
    """
    desk = Desk(root / "reports" / f"{DESK}{uuid.uuid4().hex[:12]}")
    with executors.connected(address) as client, _beating(desk):
        project = Project.here(root, desk)
        for worker, refusal in sorted(client.run(project.refusal).items()):
            if refusal:
                raise DataError(f"worker {worker} {refusal}")
        yield Workers(client, project)


@contextlib.contextmanager
def _beating(desk: Desk) -> Iterator[None]:
    """Keep a desk, and a pulse on it."""
    over = threading.Event()

    def beat() -> None:
        for n in itertools.count():
            # in place: under a new file of the same name a network file system may show the old one
            with contextlib.suppress(OSError):
                desk.pulse.write_text(str(n))
            if over.wait(PULSE_S):
                return

    desk.folder.mkdir(parents=True)
    desk.pulse.write_text("")
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shutil.rmtree(desk.folder, ignore_errors=True)


def end_lost(root: Path, say: Callable[[str], None]) -> None:
    """End what workers still execute for a pipeline in this folder that is gone."""
    for folder in (root / "reports").glob(f"{DESK}*"):
        for claim in folder.glob("*.claim"):
            claim.unlink(missing_ok=True)
        until = time.monotonic() + PATIENCE_S
        said = False
        while list(folder.glob("*.json")) and time.monotonic() < until:
            if not said:
                say("Waiting for workers to end the notebooks of a pipeline that is gone.")
                said = True
            time.sleep(LOOK_S)
        shutil.rmtree(folder, ignore_errors=True)
