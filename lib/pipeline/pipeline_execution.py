"""One run of the pipeline: its notebooks executed in parallel, in the order of the plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from lib.files import read_json
from lib.pipeline.console import Progress
from lib.pipeline.logbook import Logbook
from lib.pipeline.notebook_execution import NotebookExecution, Outcome
from lib.pipeline.plan import Plan, Task
from lib.pipeline.runs import Run
from lib.pipeline.settings import Job, Settings, resolved
from lib.pipeline.state import State, put_back
from lib.pipeline.workers import Dispatched, Workers
from lib.registry import mlflow_store

POLL_S = 0.2
PARENT = "PIPELINE_MLFLOW_RUN"  # variable in which notebooks find the id of the run's MLflow run
TRACKING = "MLFLOW_TRACKING_URI"

Execution = NotebookExecution | Dispatched


@dataclass
class Running:
    """The notebooks that are being executed."""

    futures: dict[Future, tuple[Task, Execution]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.futures)

    @property
    def n_away(self) -> int:
        """How many of them are on workers."""
        return sum(isinstance(execution, Dispatched) for execution in self.executions)

    @property
    def executions(self) -> list[Execution]:
        """What is being executed, in the order of its start."""
        return [execution for _, execution in self.futures.values()]

    def ended(self, timeout_s: float) -> list[tuple[Task, Outcome]]:
        """Wait for at most this long; return the tasks that have ended, with how they did."""
        done, _ = wait(self.futures, timeout_s, FIRST_COMPLETED)
        found = []
        for future in done:
            task, _ = self.futures.pop(future)
            found.append((task, future.result()))
        return found


class PipelineExecution:
    """A run of what a plan has to do.

    The newest run is resumed if the same was asked for then and nothing that has finished in it is
    replaced; otherwise there is a new one.

    Parameters
    ----------
    engine : address of a Dask scheduler, for notebooks that compute there by themselves; no part of
        what was asked for, as results are the same
    workers : those that execute the notebooks that run anywhere; None: they run here, too
    """

    def __init__(
        self, plan: Plan, asked: Settings, *, engine: str = "", workers: Workers | None = None
    ):
        self.plan = plan
        self.engine = engine
        self.workers = workers
        self.tasks = plan.tasks
        self.data = plan.data
        newest = plan.runs[0] if plan.runs else None
        self.is_resumed = newest is not None and newest.asked == asked and self._fits(newest)
        if self.is_resumed:
            self.run = newest
        else:
            self.run = Run.create(plan.reports, self.data.dataset.name, asked)
        self.places = plan.places(self.run)
        jobs = [task.job for task in self.tasks]
        settings = resolved(asked, jobs, self.data.argument, self.data.raw)
        settings.write(self.run.folder / "run.yaml")
        self.run.note(
            status="running",
            source=self.data.source,
            raw_file=str(self.data.file or ""),
        )
        self._adopt([task for task in self.tasks if task.is_whole])

    def _fits(self, run: Run) -> bool:
        """Return whether `run` can be resumed: not done, or nothing of it would be replaced."""
        if run.info["status"] != "done":
            return True
        places = self.plan.places(run)
        return not any(State(places, task.job).record for task in self.tasks if task.is_open)

    def _adopt(self, tasks: Sequence[Task]) -> None:
        """Take over what is up to date, from whichever run it is in."""
        for task in tasks:
            here = State(self.places, task.job)
            if task.state.folder != here.folder:
                task.record = here.adopt(task.state)
            task.state = here
        put_back([task.state for task in tasks])

    def execute(
        self,
        show: Progress,
        logbook: Logbook,
        *,
        n_parallel: int = 1,
        timeout_s: float = 0.0,
        inherit: Sequence[int] = (),
    ) -> None:
        """Execute what is to run; what does not depend on a failure goes on.

        Parameters
        ----------
        n_parallel : notebooks at once on this machine
        timeout_s : limit for one notebook, 0 for none
        inherit : file descriptors that kernels keep open
        """
        # MLflow, in its thread, changes the process's own for moments
        environment = dict(os.environ)
        running = Running()
        with ThreadPoolExecutor(len(self.tasks)) as pool:
            try:
                while True:
                    for task in self._next(n_parallel, running, logbook):
                        self._clear(task)
                        if "registry" in task.job.stage.reads:
                            environment[PARENT] = logbook.parent_id
                        execution = self._execution(task, environment, timeout_s, inherit)
                        running.futures[pool.submit(execution.run)] = (task, execution)
                        show.started(task)
                    if not running:
                        break
                    self._watch(running, show, logbook)
            except BaseException:
                for task, execution in running.futures.values():
                    execution.kill("interrupted")
                    task.status = "failed"
                    task.why = "interrupted"
                raise
            finally:
                for task in self.tasks:
                    if task.is_open:
                        task.status = "not run"

    def _watch(self, running: Running, show: Progress, logbook: Logbook) -> None:
        """Look after the notebooks that are running for a moment; record those that have ended."""
        ended = running.ended(POLL_S)
        for execution in running.executions:
            execution.watch()
        show.tick(running.executions)
        for task, outcome in ended:
            self._end(task, outcome)
            show.ended(task)
            logbook.stage(task, self.places)

    def _next(self, n_parallel: int, running: Running, logbook: Logbook) -> list[Task]:
        """Return tasks that can start now, those first that took longest last time."""
        ready = sorted(self._ready(logbook), key=lambda task: -task.expected_s)
        here = [task for task in ready if not self._is_away(task)]
        away = [task for task in ready if self._is_away(task)]
        n_here = n_parallel - (len(running) - running.n_away)
        n_away = self.workers.capacity() - running.n_away if away and self.workers else 0
        return here[: max(0, n_here)] + away[: max(0, n_away)]

    def _is_away(self, task: Task) -> bool:
        return self.workers is not None and task.job.stage.runs_anywhere

    def _ready(self, logbook: Logbook) -> list[Task]:
        """Return the tasks whose turn has come."""
        for task in self.tasks:
            is_its_turn = all(before.is_whole for before in task.before)
            if task.status != "waiting" or not is_its_turn:
                continue
            self.plan.decide(task)
            if task.is_whole:
                self._adopt([task])
                logbook.stage(task, self.places)
        return [task for task in self.tasks if task.status == "to run"]

    def _clear(self, task: Task) -> None:
        """Remove what an earlier attempt has left, and put the task's inputs back as written."""
        task.status = "running"
        task.state = State(self.places, task.job)
        task.state.clear()
        put_back([before.state for before in task.before])

    def _execution(
        self, task: Task, environment: dict[str, str], timeout_s: float, inherit: Sequence[int]
    ) -> Execution:
        is_away = self._is_away(task)
        execution = NotebookExecution(
            task.job.notebook,
            archive=self.run.folder / "notebooks" / task.name,
            parameters=self.parameters(task.job),
            root=self.plan.root,
            environment=travelling(environment) if is_away else environment,
            threads=task.job.parameters.get("threads", 1),
            timeout_s=timeout_s,
            inherit=() if is_away else inherit,
            neighbours=self._neighbours(task),
        )
        if self.workers is not None and is_away:
            return self.workers.dispatched(execution, task.state)
        return execution

    def _neighbours(self, task: Task) -> tuple[str, str]:
        """Return the names of the notebooks before and after a task's, empty where none is."""
        names = [other.name for other in self.tasks if other.status != "not run"]
        place = names.index(task.name)
        before = names[place - 1] if place else ""
        after = names[place + 1] if place + 1 < len(names) else ""
        return before, after

    def parameters(self, job: Job) -> dict[str, Any]:
        """Return all parameters of a job's notebook: its own, and those that the pipeline sets."""
        served = self.plan.root / "serve" / "model"
        withheld = self.run.folder / "bundle"  # the champion where serve/model holds another name's
        if "serve/model" in job.stage.reads and (withheld / "manifest.json").is_file():
            served = withheld
        has_bundle = (served / "manifest.json").is_file()
        is_lacking = "serve/model" in job.stage.reads and not has_bundle  # no champion yet
        ours = {
            "dataset": self.data.argument,
            "raw": self.data.raw,
            "split_dir": str(self.data.split_dir),
            "run_dir": str(self.run.folder),
            "track": False,
            "candidate": job.candidate,
            "engine": self.engine,
            "stage": job.stage.name,
        }
        unless_given = {
            "registered_name": self.data.registered_name,
            "bundle_dir": "" if is_lacking else str(served),
        }
        for name, value in unless_given.items():
            if not job.parameters.get(name):
                ours[name] = value
        accepted = {name: value for name, value in ours.items() if name in job.accepts}
        return job.parameters | accepted

    def _withheld(self, task: Task) -> list[str]:
        """Return the places that a stage has left as they were, by its own metrics.json."""
        said = read_json(self.places.path(f"run/stages/{task.name}/metrics.json"), {})
        return said.get("withheld", [])

    def _end(self, task: Task, outcome: Outcome) -> None:
        """Put on record how a task has ended."""
        figures: dict[str, Any] = {"seconds": round(outcome.seconds, 1)}
        figures["peak_mb"] = round(outcome.peak_mb)
        if outcome.place:
            figures["worker"] = outcome.place
        task.status = "failed"
        task.why = outcome.message
        task.record = figures
        if outcome.message:
            return
        task.made["registry"] = self.plan.registry(task)  # as the task itself has left it
        try:
            task.record = task.state.keep(task.made, without=self._withheld(task), **figures)
            task.status = "done"
        except OSError as error:
            task.why = f"what it wrote could not be kept: {error}"


def travelling(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables that go to workers, which have their own for the rest.

    Without what an address says before its host: credentials do not pass through a scheduler.
    """
    found = {name: environment[name] for name in (TRACKING, PARENT) if environment.get(name)}
    if TRACKING in found:
        found[TRACKING] = mlflow_store.shown(found[TRACKING])
    return found
