"""What a run tells MLflow, from the files of stages that have ended.

In a thread of its own: nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lib.files import read_json
from lib.pipeline.runs import Run
from lib.pipeline.stages import header, read_cells, within
from lib.registry import mlflow_store
from lib.registry.serving import Now
from lib.reporting import names, run_descriptions

if TYPE_CHECKING:
    from lib.pipeline.plan import Task
    from lib.pipeline.state import Places

STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}  # ours and MLflow's


def champion_version(name: str) -> str | None:
    """Return the version that the registry's alias points to; "unknown" without an answer."""
    try:
        return mlflow_store.champion_version(name)
    except mlflow_store.TrackingError:  # no SQLite store: ask MLflow, whose import takes seconds
        from lib.registry import tracking
    try:
        champion = tracking.serving(name)  # no files: its version will do
    except mlflow_store.TrackingError:
        return "unknown"
    return champion.version if champion else None


class Logbook:
    """The MLflow run of one pipeline run, with a child for each notebook.

    Once MLflow has failed, `error` says how and the rest is left out: the run's folder has it all.

    Parameters
    ----------
    run : remembers the id of its MLflow run
    tags : such as dataset and source
    """

    def __init__(self, run: Run, tags: dict[str, str]):
        self.run = run
        self.tags = tags
        self.error = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logbook")
        self._parent = self._thread.submit(self._attempt, self._start)

    @property
    def parent_id(self) -> str:
        """The id of the MLflow run; waits until it has been started. Empty if it could not be."""
        return self._parent.result() or ""

    def stage(self, task: Task, places: Places) -> None:
        """Log a task that has ended, or was taken over from an earlier run."""
        self._thread.submit(self._attempt, self._stage, task, places)

    def finish(self, status: str, metrics: dict[str, Any], now: Now | None = None) -> str:
        """End the MLflow run, wait until everything is logged, and return `error`.

        Parameters
        ----------
        metrics : the run's metrics.json; MLflow gets the champion's figures
        """
        self._thread.submit(self._attempt, self._finish, status, metrics, now)
        self._thread.shutdown()
        return self.error

    def _attempt(self, function: Callable, *args: Any) -> Any:
        if self.error:
            return None
        try:
            return function(*args)
        except Exception as error:  # whatever it is, a run is not lost by it
            is_sentence = isinstance(error, mlflow_store.TrackingError)
            what = str(error) if is_sentence else f"{type(error).__name__}: {error}"
            self.error = f"What could not be logged is in reports/{self.run.name}: {what}"
        return None

    def _start(self) -> str:
        from lib.registry import tracking  # imports MLflow, which takes seconds

        description = run_descriptions.pipeline(self.run.name, {})
        parent_id = tracking.start_pipeline(
            self.run.name, self.tags, description, self.run.info.get("mlflow_run", "")
        )
        self.run.note(mlflow_run=parent_id)
        return parent_id

    def _stage(self, task: Task, places: Places) -> None:
        from lib.registry import tracking

        outputs = [key for key in task.record.get("outputs", ()) if key.startswith("run/")]
        manifests = [key for key in outputs if key.endswith("/manifest.json")]
        models = [key for key in manifests if within(key, "run/models")]
        figures = [key for key in outputs if within(key, "run/figures")]
        cards = [key for key in outputs if key.endswith("_card.md")]
        tags = dict(self.tags)
        reused = task.record.get("run", self.run.name) != self.run.name
        if reused:
            tags["reused_from"] = task.record["run"]
        # the comparison may add to the others by now
        folders = [task.state.kept(key).parent for key in models]
        labels = {}
        for folder in folders:
            names.introduce({folder.name: read_json(folder / "manifest.json", {})})
            labels[folder] = names.label(folder.name)
        stage = task.job.stage
        run_id = tracking.log_stage(
            self._parent.result(),
            task.name,
            params=task.job.parameters,
            metrics=places.path(f"run/stages/{task.name}/metrics.json"),
            figures=[places.path(key) for key in figures if key.endswith(".png")],
            notebooks=places.files(f"run/notebooks/{task.name}.*").values(),
            cards=[places.path(key) for key in cards if key.count("/") == 1],
            candidates=labels,
            tags=tags,
            description=run_descriptions.stage(
                stage.name, header(read_cells(task.job.notebook)), task.why
            ),
            status="FINISHED" if task.is_whole else "FAILED",
            seconds=task.record.get("seconds", 0.0),
            is_new=not reused,
        )
        if task.is_whole:
            task.state.note(task.record | {"mlflow_run": run_id})

    def _finish(self, status: str, metrics: dict[str, Any], now: Now | None) -> None:
        from lib.registry import tracking

        tracking.finish_pipeline(
            self._parent.result(),
            STATUS[status],
            metrics.get("models", {}).get(names.champion_entry(metrics)),
            description=run_descriptions.pipeline(self.run.name, metrics, now),
        )
