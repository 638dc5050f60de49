"""What a run has to do: which jobs are up to date, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.errors import Refused
from lib.files import sha256
from lib.pipeline.dependencies import made_from, reasons
from lib.pipeline.preflight import Data
from lib.pipeline.runs import Run
from lib.pipeline.settings import ONCE, Job
from lib.pipeline.stages import Stage, upstream, within
from lib.pipeline.state import Places, State, put_back
from lib.registry import serving


@dataclass
class Task:
    """A job within one run, from its plan to its end.

    `status` goes from "waiting" (for the tasks `before` it) over "to run" and "running" to "done"
    or "failed"; other ends are "up to date", "not run", and for a stage that was not chosen,
    "kept". `why` is the reason; `state` is on record in this run's folder, or in the one where the
    task was found to be up to date.
    """

    job: Job
    chosen: bool = True
    before: list[Task] = field(default_factory=list)
    status: str = "waiting"
    why: str = ""
    made: dict | None = None
    state: State | None = None
    record: dict[str, Any] = field(default_factory=dict)
    expected_s: float = 0.0

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.name

    @property
    def is_whole(self) -> bool:
        """Whether its outputs are there."""
        return self.status in ("done", "up to date", "kept")

    @property
    def is_open(self) -> bool:
        """Whether it has still to be run, as far as is known."""
        return self.status in ("waiting", "to run")

    def reuse(self, status: str, state: State, record: dict[str, Any]) -> None:
        """Take the outputs that are on record in an earlier run."""
        self.status = status
        self.why = record["run"]
        self.state = state
        self.record = record


def _without_permissions(task: Task, made: dict[str, Any]) -> dict[str, Any]:
    """Return what a task was made from as if no person's word had been given for that run."""
    parameters = dict(made["parameters"])
    for name in ONCE:
        stage, _, parameter = name.partition(".")
        if stage == task.job.stage.name and parameter in parameters:
            parameters[parameter] = False
    return made | {"parameters": parameters}


class Plan:
    """The tasks of a run, decided as far as can be before anything has run.

    Parameters
    ----------
    root : the project's folder
    data : see `lib.pipeline.preflight`
    jobs : of all stages that are present
    chosen : stages to execute unless they are up to date; the last of them is the last of the run
    force : names of stages to execute even if they are up to date, or "all"
    champion : function (registered name) -> version that the registry's alias points to

    Raises
    ------
    Refused
        A chosen stage needs what another writes, which is neither chosen nor there from an earlier
        run.
    """

    def __init__(
        self,
        root: Path,
        data: Data,
        jobs: Sequence[Job],
        *,
        chosen: Sequence[Stage],
        force: Iterable[str] = (),
        champion: Callable[[str], str | None] = lambda name: None,
    ):
        self.root = Path(root)
        self.data = data
        self.force = set(force)
        self.champion = champion
        self.reports = self.root / "reports"
        self.runs = Run.all(self.reports, data.dataset.name)
        last = max(i for i, job in enumerate(jobs) if job.stage in chosen)
        self.tasks = []
        for job in jobs[: last + 1]:
            is_chosen = job.stage in chosen
            self.tasks.append(Task(job, is_chosen, expected_s=job.stage.usual_s))
        for task in self.tasks:
            self._begin(task)

    def _begin(self, task: Task) -> None:
        """Link a task to those before it, and decide it if they are whole."""
        present = list(dict.fromkeys(other.job.stage for other in self.tasks))
        stages = upstream(task.job.stage, present)
        task.before = [other for other in self.tasks if other.job.stage in stages]
        if not task.chosen:
            self._keep(task)
            return
        lacking = [other.name for other in task.before if other.status == "not run"]
        if lacking:
            raise Refused(
                f"{task.name} needs what {lacking[0]} writes, which has not run on this data yet; "
                f"run that first (--only {lacking[0].partition('@')[0]}), or leave out --from and "
                "--only, which runs whatever is missing."
            )
        waiting = [other.name for other in task.before if not other.is_whole]
        if waiting:
            task.why = "after " + ", ".join(waiting)
        else:
            self.decide(task)

    def places(self, run: Run) -> Places:
        """Return where the files of a run are."""
        return Places(self.root, run.folder, self.data.split_dir)

    def decide(self, task: Task) -> None:
        """Look for a run in which the task is up to date; else say what differs from the newest."""
        task.status = "to run"
        task.why = "it has not run yet"
        if not self.data.is_split:
            return
        inputs = self._inputs(task)
        registry = self.registry(task)
        task.made = made_from(task.job, self.root, inputs, registry)
        is_forced = bool(self.force & {"all", task.job.stage.name})
        is_newest = True
        for state, record in self._found(task):
            differences = self._differences(task, state, record)
            if not differences and not is_forced:
                task.reuse("up to date", state, record)
                return
            if is_newest:
                task.why = "forced" if is_forced else "; ".join(differences)
                task.expected_s = record["seconds"]
                is_newest = False

    def _differences(self, task: Task, state: State, record: dict[str, Any]) -> list[str]:
        """Return why what is on record would not do, in words; empty if it does."""
        found = reasons(_without_permissions(task, record["made_from"]), task.made)
        damaged = state.damage(record)
        if damaged:
            found.append(f"{damaged} is not as it was written")
        return found

    def registry(self, task: Task) -> dict[str, str | None]:
        """Return what is registered and served now, for tasks that read the registry."""
        stage = task.job.stage
        if "registry" not in stage.reads:
            return {}
        name = task.job.parameters.get("registered_name") or self.data.registered_name
        found = {"champion": self.champion(name)}
        if "serve/model" in stage.writes:  # who is in the way of an export
            there, _ = serving.exported(self.root / "serve" / "model")
            found["serve/model"] = there.name if there and there.name != name else ""
        return found

    def unchanged(self) -> Run | None:
        """Return the finished run in which all tasks are up to date, its files put back.

        None if there is something to do, or the tasks are up to date in several runs.
        """
        if any(task.is_open for task in self.tasks):
            return None
        whole = []
        folders = set()
        for task in self.tasks:
            if task.is_whole:
                whole.append(task.state)
                folders.add(task.state.places.run)
        for run in self.runs:
            if {run.folder} == folders and run.info["status"] == "done":
                put_back(whole)
                return run
        return None

    def _keep(self, task: Task) -> None:
        """Take what a stage that was not chosen last wrote of this split, by whatever code."""
        task.status = "not run"
        task.why = "not chosen"
        split = sha256(self.data.split_dir / "splits.json") if self.data.is_split else None
        for state, record in self._found(task):
            is_same = split is None or record["made_from"]["inputs"]["the data"] == split
            if is_same and not state.damage(record):
                task.reuse("kept", state, record)
                return

    def _found(self, task: Task) -> Iterator[tuple[State, dict[str, Any]]]:
        """Yield the runs in which the task has finished, the newest first."""
        for run in self.runs:
            state = State(self.places(run), task.job)
            record = state.record
            if record:
                yield state, record

    def _inputs(self, task: Task) -> dict[str, str]:
        """Return the hashes of what a task reads, as the tasks before it have recorded them."""
        without_files = ("raw", "registry")
        places = [place for place in task.job.stage.reads if place not in without_files]
        read = {}
        for other in task.before:
            for key, stamp in other.record["outputs"].items():
                _, _, digest = stamp
                if any(within(key, place) for place in places):
                    read[key] = digest
        read["the data"] = sha256(self.data.split_dir / "splits.json")
        return read
