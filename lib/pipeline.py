"""One run of the pipeline: decide for every job whether it is up to date, and execute the others in parallel."""

import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from lib.runner import Execution
from lib.runs import Run
from lib.settings import Job, resolved
from lib.stages import Refused, upstream, within
from lib.state import Places, State, digest, made_from, put_back, reasons

POLL_S = 0.2
PARENT = "PIPELINE_MLFLOW_RUN"  # variable in which notebooks find the id of the run's MLflow run


@dataclass
class Task:
    """A job within one run, from its plan to its end.

    `status` goes from "waiting" (for the tasks `before` it) over "to run" and "running" to "done" or "failed"; other
    ends are "up to date", "not run", and for a stage that was not chosen, "kept". `why` is the reason; `state` is on
    record in this run's folder, or in the one where the task was found to be up to date.
    """

    job: Job
    chosen: bool = True
    before: list = field(default_factory=list)
    status: str = "waiting"
    why: str = ""
    made: dict | None = None
    state: State | None = None
    record: dict = field(default_factory=dict)
    expected_s: float = 0.0

    @property
    def name(self):
        return self.job.name

    @property
    def is_whole(self):
        return self.status in ("done", "up to date", "kept")


class Pipeline:
    """Plans a run, opens its folder, executes it: call `plan`, `open` and `execute` in this order.

    Parameters
    ----------
    root : Path, the project's folder
    data : lib.preflight.Data
    jobs : list of Job, of all stages that are present
    chosen : stages to execute unless they are up to date; the last of them is the last of the run
    asked : Settings, by which an unfinished run is recognised as the same
    force : names of stages to execute even if they are up to date, or "all"
    champion : function (registered name) -> version that the registry's alias points to
    """

    def __init__(self, root, data, jobs, chosen, asked, force=(), champion=lambda name: None):
        self.root, self.data, self.asked = Path(root), data, asked
        self.force, self.champion = set(force), champion
        self.reports = self.root / "reports"
        self.runs = Run.all(self.reports, data.dataset.name)
        self.run, self.is_resumed = None, False
        last = max(i for i, job in enumerate(jobs) if job.stage in chosen)
        self.tasks = [Task(job, job.stage in chosen) for job in jobs[: last + 1]]
        for task in self.tasks:
            task.before = [t for t in self.tasks if t.job.stage in upstream(task.job.stage)]

    def places(self, run):
        """Where the files of a run are."""
        return Places(self.root, run.folder, self.data.split_dir)

    def plan(self):
        """Decide what to do -> list of Task. Refused if a chosen stage needs one that is neither chosen nor kept."""
        for task in self.tasks:
            if not task.chosen:
                self._keep(task)
            elif all(t.is_whole for t in task.before):
                self._decide(task)
            else:
                task.why = "after " + ", ".join(t.name for t in task.before if not t.is_whole)
        for task in self.tasks:
            if lacking := [t.name for t in task.before if task.chosen and t.status == "not run"]:
                raise Refused(
                    f"{task.name} needs what {lacking[0]} writes, and there is nothing yet; run that as well."
                )
        return self.tasks

    def unchanged(self):
        """The finished run in which all tasks are up to date, its files put back; None if there is something to do."""
        whole = [task.state for task in self.tasks if task.is_whole]
        run = next((r for r in self.runs if {r.folder} == {state.places.run for state in whole}), None)
        if not run or run.info["status"] != "done" or self._open_tasks():
            return None
        put_back(whole)
        return run

    def _open_tasks(self):
        return [t for t in self.tasks if t.status in ("waiting", "to run")]

    def _found(self, task):
        """The runs in which the task has finished, the newest first, as (State, record)."""
        states = (State(self.places(run), task.job) for run in self.runs)
        return ((state, record) for state in states if (record := state.record))

    def _keep(self, task):
        """Take what a stage that was not chosen has written the last time, whatever it was made from."""
        task.status, task.why = "not run", "not chosen"
        for state, record in self._found(task):
            if not state.damage(record):
                task.status, task.why, task.state, task.record = "kept", record["run"], state, record
                return

    def _decide(self, task):
        """Look for a run in which the task is up to date; else say what differs from the newest one."""
        task.status, task.why = "to run", "it has not run yet"
        if not self.data.is_split:
            return
        task.made = made_from(task.job, self.root, self._inputs(task), self._registry(task, "reads"))
        newest = None
        for state, record in self._found(task):
            differences = reasons(record["made_from"], task.made)
            if damaged := state.damage(record):
                differences.append(f"{damaged} is not as it was written")
            task.expected_s = task.expected_s or record["seconds"]
            newest = newest or differences
            if self.force & {"all", task.job.stage.name}:
                newest = ["forced"]
            elif not differences:
                task.status, task.why, task.state, task.record = "up to date", record["run"], state, record
                return
        task.why = "; ".join(newest or [task.why])

    def _inputs(self, task):
        """The hashes of what a task reads, as the tasks before it have recorded them."""
        places = [place for place in task.job.stage.reads if place not in ("raw", "registry")]
        outputs = {key: stamp[2] for t in task.before for key, stamp in t.record["outputs"].items()}
        read = {key: sha for key, sha in outputs.items() if any(within(key, place) for place in places)}
        return read | {"the data": digest(self.data.split_dir / "splits.json")}

    def _registry(self, task, kind):
        """The registry's state, for tasks that read it, or that write it."""
        name = task.job.parameters.get("registered_name") or self.data.registered_name
        return {"champion": self.champion(name)} if "registry" in getattr(task.job.stage, kind) else {}

    def open(self):
        """The run's folder -> Run: the newest if it was left unfinished and the same is asked, else a new one."""
        newest = self.runs[0] if self.runs else None
        self.is_resumed = bool(newest and newest.asked == self.asked and self._fits(newest))
        self.run = newest if self.is_resumed else Run.create(self.reports, self.data.dataset.name, self.asked)
        resolved(self.asked, [t.job for t in self.tasks], self.data.argument, self.data.raw).write(
            self.run.folder / "run.yaml"
        )
        self.run.note(status="running")
        self._adopt([task for task in self.tasks if task.is_whole])
        return self.run

    def _fits(self, run):
        replaced = (State(self.places(run), task.job).record for task in self._open_tasks())
        return run.info["status"] != "done" or not any(replaced)

    def _adopt(self, tasks):
        """Take over what is up to date, from whichever run it is in."""
        places = self.places(self.run)
        for task in tasks:
            here = State(places, task.job)
            if task.state.folder != here.folder:
                task.record = here.adopt(task.state)
            task.state = here
        put_back([task.state for task in tasks])

    def execute(self, show, logbook, n_parallel=1, timeout=0.0, inherit=()):
        """Execute what is to run; what does not depend on a failure goes on.

        Parameters
        ----------
        show : Progress; logbook : Logbook
        n_parallel : int, notebooks at once; timeout : float, s for one notebook, 0 for none
        inherit : file descriptors that kernels keep open
        """
        self._environment = dict(os.environ)  # MLflow, in its thread, changes the process's own for moments
        running = {}
        with ThreadPoolExecutor(n_parallel) as pool:
            try:
                while True:
                    for task in self._next(n_parallel - len(running)):
                        execution = self._prepare(task, logbook, timeout, inherit)
                        running[pool.submit(execution.run)] = task, execution
                        show.started(task)
                    if not running:
                        break
                    ended, _ = wait(running, POLL_S, FIRST_COMPLETED)
                    for _, execution in running.values():
                        execution.watch()
                    show.tick([execution for _, execution in running.values()])
                    for task, outcome in [(running.pop(future)[0], future.result()) for future in ended]:
                        self._end(task, outcome)
                        show.ended(task)
                        logbook.stage(task, self.places(self.run))
            except BaseException:
                for task, execution in running.values():
                    execution.kill("interrupted")
                    task.status, task.why = "failed", "interrupted"
                raise
            finally:
                for task in self._open_tasks():
                    task.status = "not run"

    def _next(self, n):
        """At most `n` tasks whose turn has come, those first that took longest the last time."""
        for task in self.tasks:
            if task.status == "waiting" and all(t.is_whole for t in task.before):
                self._decide(task)
                if task.is_whole:
                    self._adopt([task])
        return sorted((t for t in self.tasks if t.status == "to run"), key=lambda t: -t.expected_s)[:n]

    def _prepare(self, task, logbook, timeout, inherit):
        """Remove what an earlier attempt left, put the inputs back as they were written -> Execution."""
        task.status, task.state = "running", State(self.places(self.run), task.job)
        task.state.clear()
        put_back([t.state for t in task.before])
        environment = dict(self._environment)
        if "registry" in task.job.stage.reads:
            environment[PARENT] = logbook.parent_id
        archive, threads = self.run.folder / "notebooks" / task.name, task.job.parameters.get("threads", 1)
        parameters = self.parameters(task.job)
        return Execution(task.job.notebook, archive, parameters, self.root, environment, threads, timeout, inherit)

    def parameters(self, job):
        """All parameters of a job's notebook: its own, and those that the pipeline sets."""
        ours = {
            "dataset": self.data.argument,
            "raw": self.data.raw,
            "split_dir": str(self.data.split_dir),
            "run_dir": str(self.run.folder),
            "track": False,
            "candidate": job.candidate,
        }
        defaults = {"registered_name": self.data.registered_name, "bundle_dir": str(self.root / "serve" / "model")}
        ours |= {name: value for name, value in defaults.items() if not job.parameters.get(name)}
        return job.parameters | {name: value for name, value in ours.items() if name in job.accepts}

    def _end(self, task, outcome):
        figures = {"seconds": round(outcome.seconds, 1), "peak_mb": round(outcome.peak_mb)}
        task.status, task.why, task.record = "failed", outcome.message, figures
        if outcome.message:
            return
        task.made["registry"] |= self._registry(task, "writes")
        try:
            task.record = task.state.keep(task.made, **figures)
            task.status = "done"
        except OSError as error:
            task.why = f"what it wrote could not be kept: {error}"
