"""One run of the pipeline: decide for every job whether it is up to date, execute the others in parallel, sum up."""

import json
import os
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from lib.runner import Execution
from lib.settings import Settings
from lib.stages import PIPELINE_OWNED, Refused, upstream
from lib.state import Places, State, digest, made_from, reasons

POLL_S = 0.2


@dataclass
class Task:
    """A job within one run, from its plan to its end.

    `status`: "waiting" (for the jobs before it), "to run", "up to date", "running", "done", "failed", "not run".
    `why` says what made it so; `found` is the State, in whichever run's folder, that is up to date.
    """

    job: object
    before: list = field(default_factory=list)
    status: str = "waiting"
    why: str = ""
    record: dict | None = None
    found: State | None = None
    made: dict | None = None
    chosen: bool = True

    @property
    def name(self):
        return self.job.name

    @property
    def whole(self):
        return self.status in ("up to date", "done")


class Run:
    """A run's folder, `reports/<YYYYMMDD-HHMMSS-dataset>`, and what its `run.json` says."""

    def __init__(self, folder):
        self.folder = Path(folder)

    @property
    def info(self):
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    def note(self, **changes):
        """Change entries of `run.json`, whole."""
        info = (self.info if (self.folder / "run.json").exists() else {}) | changes
        partial = self.folder / ".run.json.part"
        partial.write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.folder / "run.json")

    @property
    def settings(self):
        return Settings.read(self.folder / "run.yaml")

    @classmethod
    def all(cls, reports, dataset=""):
        """The runs in a folder, the newest first; of one dataset if it is named."""
        found = sorted((p.parent for p in Path(reports).glob("*/run.json") if not p.parent.is_symlink()), reverse=True)
        return [run for run in map(cls, found) if dataset in ("", run.info["dataset"])]

    @classmethod
    def create(cls, reports, dataset, settings):
        """A new folder, to which `reports/latest` then points."""
        while True:
            folder = Path(reports) / time.strftime(f"%Y%m%d-%H%M%S-{dataset}")
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                time.sleep(0.2)
        run = cls(folder)
        settings.write(folder / "run.yaml")
        run.note(dataset=dataset, status="running")
        link = Path(reports) / ".latest"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(Path(reports) / "latest")
        return run


class Pipeline:
    """Plan and execute the jobs of a run.

    Parameters
    ----------
    root : Path, the project's folder
    jobs : list of Job, of all stages that are present
    chosen : stages to be executed if they are not up to date; what the others wrote is taken as it is
    data : lib.preflight.Data, or None in a dry run before there is a split
    settings : Settings, resolved
    force : names of stages to execute even if they are up to date
    champion : function () -> the version that the registry's alias points to
    timeout : float, s for one notebook; 0 for none
    """

    def __init__(self, root, jobs, chosen, data, settings, force=(), champion=lambda: None, timeout=0.0):
        self.root, self.data, self.settings, self.force = Path(root), data, settings, set(force)
        self.champion, self.timeout = champion, timeout
        self.reports = self.root / "reports"
        self.runs = Run.all(self.reports, data.dataset.name) if data else []
        self.run = None
        self.tasks = [Task(job, chosen=job.stage in chosen) for job in jobs]
        for task in self.tasks:
            stages = upstream(task.job.stage)
            task.before = [t for t in self.tasks if t.job.stage in stages]

    def places(self, folder):
        return Places(self.root, folder, self.data.split_dir)

    def plan(self):
        """Decide for every task; those behind one that has to run wait for it. Refused if a kept stage is missing."""
        last = max((i for i, t in enumerate(self.tasks) if t.chosen), default=-1)
        del self.tasks[last + 1 :]
        for task in self.tasks:
            if all(t.whole for t in task.before):
                self.decide(task)
            else:
                task.why = "after " + ", ".join(t.name for t in task.before if not t.whole)
            if not task.chosen and not task.whole:
                task.status, task.why = "not run", "not chosen"
        for task in self.tasks:
            lacking = [t.name for t in task.before if t.status == "not run"]
            if task.chosen and lacking:
                raise Refused(f"{task.name} needs what {lacking[0]} writes, and it has not run yet; choose it as well.")
        return self.tasks

    def decide(self, task):
        """Look for a run in which the task is up to date; else say what differs from the newest."""
        task.status, task.why = "to run", "has not run yet"
        if self.data is None:
            task.why = "the data are not split yet"
            return
        inputs = {"data": digest(self.data.split_dir / "splits.json")} | self._inputs(task)
        registry = self.champion() if "registry" in task.job.stage.reads else None
        task.made = made_from(task.job, self.root, inputs, registry)
        differences = []
        for run in self.runs:
            state = State(self.places(run.folder), task.name)
            record = state.read()
            if record is None:
                continue
            lacking = state.missing(record)
            why = reasons(record["made_from"], task.made) if task.chosen else []
            why += [f"{lacking} is not as it was written"] if lacking else []
            if not why:
                task.status, task.why, task.record, task.found = "up to date", f"as in {run.folder.name}", record, state
                break
            differences.append(why)
        else:
            if differences:
                task.why = "; ".join(differences[0])
        if task.chosen and self.force & {task.job.stage.name, "all"}:
            task.status, task.why = "to run", "forced"

    def _inputs(self, task):
        wanted = [place for place in task.job.stage.reads if place not in ("raw", "registry")]
        outputs = {key: stamp[2] for before in task.before for key, stamp in before.record["outputs"].items()}
        return {key: sha for key, sha in outputs.items() if any(key.startswith(place) for place in wanted)}

    def open(self):
        """The run's folder: the newest one if it was left unfinished with these settings, else a new one -> Run."""
        newest = self.runs[0] if self.runs else None
        self.resumed = bool(newest and newest.info["status"] != "done" and newest.settings == self.settings)
        self.run = newest if self.resumed else Run.create(self.reports, self.data.dataset.name, self.settings)
        self.run.note(status="running", pid=os.getpid())
        for task in self.tasks:
            if task.status == "up to date":
                self._adopt(task)
        return self.run

    def _adopt(self, task):
        state = State(self.places(self.run.folder), task.name)
        if task.found.folder == state.folder:
            state.restore(task.record)
        else:
            task.record = state.adopt(task.found)

    def parameters(self, job):
        """All parameters of a job's notebook: its own, and those that the pipeline sets."""
        ours = {
            "dataset": self.data.argument,
            "raw": self.data.raw,
            "split_dir": str(self.data.split_dir),
            "run_dir": str(self.run.folder),
            "track": False,
            "candidate": job.candidate,
            "registered_name": job.parameters.get("registered_name") or self.data.registered_name,
            "bundle_dir": job.parameters.get("bundle_dir") or str(self.root / "serve" / "model"),
            "rows": self.data.rows,
        }
        return job.parameters | {name: value for name, value in ours.items() if name in job.accepts}

    def execute(self, n_parallel, show, log=lambda task, run: None, inherit=()):
        """Execute what is to run, as many at once as asked; what does not depend on a failure goes on.

        Parameters
        ----------
        show : object with `started(task)`, `ended(task)` and `tick(executions)`
        log : function (task, run), called in this thread for each task that has ended
        inherit : file descriptors that kernels keep open
        """
        running = {}
        with ThreadPoolExecutor(n_parallel) as pool:
            try:
                while True:
                    for task in self._ready(n_parallel - len(running)):
                        execution = self._execution(task, inherit)
                        running[pool.submit(execution.run)] = task, execution
                        show.started(task)
                    if not running:
                        break
                    ended, _ = wait(running, POLL_S, FIRST_COMPLETED)
                    for _, execution in running.values():
                        execution.watch()
                    show.tick([execution for _, execution in running.values()])
                    for future in ended:
                        task, _ = running.pop(future)
                        self._end(task, future.result())
                        show.ended(task)
                        log(task, self.run)
            except BaseException:
                for task, execution in running.values():
                    execution.kill("interrupted")
                    task.status, task.why = "failed", "interrupted"
                raise
        for task in self.tasks:
            if task.status in ("waiting", "to run"):
                task.status = "not run"

    def _ready(self, n_free):
        """Tasks whose turn has come, at most `n_free`; on the way, those that prove up to date are taken over."""
        ready = []
        for task in self.tasks:
            if task.status == "waiting" and all(t.whole for t in task.before):
                self.decide(task)
                if task.status == "up to date":
                    self._adopt(task)
            if task.status == "to run" and len(ready) < n_free:
                ready.append(task)
        return ready

    def _execution(self, task, inherit):
        """Clear what an earlier attempt left, put the inputs back as they were written, and get ready."""
        State(self.places(self.run.folder), task.name).clear()
        for before in task.before:
            State(self.places(self.run.folder), before.name).restore(before.record)
        task.status = "running"
        archive = self.run.folder / "notebooks" / task.name
        parameters, threads = self.parameters(task.job), task.job.parameters.get("threads", 1)
        return Execution(task.job.notebook, archive, parameters, self.root, threads, self.timeout, inherit)

    def _end(self, task, outcome):
        if outcome.message:
            task.status, task.why = "failed", outcome.message
            task.record = {"seconds": outcome.seconds, "peak_mb": outcome.peak_mb}
            return
        if "registry" in task.job.stage.writes:
            task.made["registry"] = {"champion": self.champion()}
        state = State(self.places(self.run.folder), task.name)
        task.record = state.record(task.job, task.made, seconds=outcome.seconds, peak_mb=outcome.peak_mb)
        task.status = "done"


def resolved(settings, jobs, data):
    """The settings with every parameter of every job written out."""
    parameters = {
        f"{job.stage.name}.{name}": value
        for job in jobs
        for name, value in job.parameters.items()
        if name not in PIPELINE_OWNED and f"{job.stage.name}.{name}" not in settings.sweep
    }
    return Settings(data.argument, data.raw, parameters, settings.sweep)
