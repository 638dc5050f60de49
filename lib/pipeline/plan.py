"""What a run has to do: which jobs are up to date, in which earlier run, and why the others are not."""

from dataclasses import dataclass, field
from pathlib import Path

from lib.pipeline.runs import Run
from lib.pipeline.settings import Job
from lib.pipeline.stages import Refused, upstream, within
from lib.pipeline.state import Places, State, digest, made_from, put_back, reasons


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

    @property
    def is_open(self):
        return self.status in ("waiting", "to run")


class Plan:
    """The tasks of a run, decided as far as can be before anything has run.

    Parameters
    ----------
    root : Path, the project's folder
    data : lib.pipeline.preflight.Data
    jobs : list of Job, of all stages that are present
    chosen : stages to execute unless they are up to date; the last of them is the last of the run
    force : names of stages to execute even if they are up to date, or "all"
    champion : function (registered name) -> version that the registry's alias points to

    Raises
    ------
    Refused
        A chosen stage needs what another writes, which is neither chosen nor there from an earlier run.
    """

    def __init__(self, root, data, jobs, chosen, force=(), champion=lambda name: None):
        self.root, self.data, self.force, self.champion = Path(root), data, set(force), champion
        self.reports = self.root / "reports"
        self.runs = Run.all(self.reports, data.dataset.name)
        last = max(i for i, job in enumerate(jobs) if job.stage in chosen)
        self.tasks = [Task(job, job.stage in chosen, expected_s=job.stage.usual_s) for job in jobs[: last + 1]]
        for task in self.tasks:
            stages = upstream(task.job.stage)
            task.before = [t for t in self.tasks if t.job.stage in stages]
            if not task.chosen:
                self._keep(task)
            elif all(t.is_whole for t in task.before):
                self.decide(task)
            else:
                task.why = "after " + ", ".join(t.name for t in task.before if not t.is_whole)
            for lacking in [t.name for t in task.before if task.chosen and t.status == "not run"]:
                raise Refused(
                    f"{task.name} needs what {lacking} writes, which has not run on this data yet; run that as well."
                )

    def places(self, run):
        """Where the files of a run are."""
        return Places(self.root, run.folder, self.data.split_dir)

    def decide(self, task):
        """Look for a run in which the task is up to date; else say what differs from the newest one."""
        task.status, task.why = "to run", "it has not run yet"
        if not self.data.is_split:
            return
        task.made = made_from(task.job, self.root, self._inputs(task), self.registry(task, "reads"))
        newest = None
        for state, record in self._found(task):
            differences = reasons(record["made_from"], task.made)
            if damaged := state.damage(record):
                differences.append(f"{damaged} is not as it was written")
            if newest is None:
                task.expected_s = record["seconds"]
            newest = newest or differences
            if self.force & {"all", task.job.stage.name}:
                newest = ["forced"]
            elif not differences:
                task.status, task.why, task.state, task.record = "up to date", record["run"], state, record
                return
        task.why = "; ".join(newest or [task.why])

    def registry(self, task, kind):
        """The registry's state, for tasks that have it among what they "reads" or "writes"."""
        name = task.job.parameters.get("registered_name") or self.data.registered_name
        return {"champion": self.champion(name)} if "registry" in getattr(task.job.stage, kind) else {}

    def unchanged(self):
        """The finished run in which all tasks are up to date, its files put back; None if there is something to do."""
        whole = [task.state for task in self.tasks if task.is_whole]
        run = next((r for r in self.runs if {r.folder} == {state.places.run for state in whole}), None)
        if not run or run.info["status"] != "done" or any(task.is_open for task in self.tasks):
            return None
        put_back(whole)
        return run

    def _keep(self, task):
        """Take what a stage that was not chosen has written the last time of this split, by whatever code."""
        task.status, task.why = "not run", "not chosen"
        split = self.data.is_split and digest(self.data.split_dir / "splits.json")
        for state, record in self._found(task):
            is_same = not split or record["made_from"]["inputs"]["the data"] == split
            if is_same and not state.damage(record):
                task.status, task.why, task.state, task.record = "kept", record["run"], state, record
                return

    def _found(self, task):
        """The runs in which the task has finished, the newest first, as (State, record)."""
        states = (State(self.places(run), task.job) for run in self.runs)
        return ((state, record) for state in states if (record := state.record))

    def _inputs(self, task):
        """The hashes of what a task reads, as the tasks before it have recorded them."""
        places = [place for place in task.job.stage.reads if place not in ("raw", "registry")]
        outputs = {key: stamp[2] for t in task.before for key, stamp in t.record["outputs"].items()}
        read = {key: sha for key, sha in outputs.items() if any(within(key, place) for place in places)}
        return read | {"the data": digest(self.data.split_dir / "splits.json")}
