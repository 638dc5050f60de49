"""One run of the pipeline: its folder, its notebooks executed in parallel, in the order that the plan has."""

import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from lib.pipeline.runs import Run
from lib.pipeline.settings import resolved
from lib.pipeline.state import State, put_back
from lib.runner import Execution

POLL_S = 0.2
PARENT = "PIPELINE_MLFLOW_RUN"  # variable in which notebooks find the id of the run's MLflow run


class Pipeline:
    """A run of what a plan has to do.

    The newest run is gone on with if the same was asked for then and nothing that has finished in it is replaced;
    otherwise there is a new one.

    Parameters
    ----------
    plan : Plan
    asked : Settings
    """

    def __init__(self, plan, asked):
        self.plan, self.tasks, self.data = plan, plan.tasks, plan.data
        newest = plan.runs[0] if plan.runs else None
        self.is_resumed = bool(newest and newest.asked == asked and self._fits(newest))
        self.run = newest if self.is_resumed else Run.create(plan.reports, self.data.dataset.name, asked)
        self.places = plan.places(self.run)
        settings = resolved(asked, [task.job for task in self.tasks], self.data.argument, self.data.raw)
        settings.write(self.run.folder / "run.yaml")
        self.run.note(status="running")
        self._adopt([task for task in self.tasks if task.is_whole])

    def _fits(self, run):
        replaced = (State(self.plan.places(run), task.job).record for task in self.tasks if task.is_open)
        return run.info["status"] != "done" or not any(replaced)

    def _adopt(self, tasks):
        """Take over what is up to date, from whichever run it is in."""
        for task in tasks:
            here = State(self.places, task.job)
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
        environment = dict(os.environ)  # MLflow, in its thread, changes the process's own for moments
        running = {}
        with ThreadPoolExecutor(n_parallel) as pool:
            try:
                while True:
                    for task in self._next(n_parallel - len(running), logbook):
                        self._clear(task)
                        if "registry" in task.job.stage.reads:
                            environment[PARENT] = logbook.parent_id
                        execution = self._execution(task, environment, timeout, inherit)
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
                        logbook.stage(task, self.places)
            except BaseException:
                for task, execution in running.values():
                    execution.kill("interrupted")
                    task.status, task.why = "failed", "interrupted"
                raise
            finally:
                for task in self.tasks:
                    task.status = "not run" if task.is_open else task.status

    def _next(self, n, logbook):
        """At most `n` tasks whose turn has come, those first that took longest the last time."""
        for task in self.tasks:
            if task.status == "waiting" and all(t.is_whole for t in task.before):
                self.plan.decide(task)
                if task.is_whole:
                    self._adopt([task])
                    logbook.stage(task, self.places)
        return sorted((t for t in self.tasks if t.status == "to run"), key=lambda t: -t.expected_s)[:n]

    def _clear(self, task):
        """Remove what an earlier attempt has left, and put the task's inputs back as they were written."""
        task.status, task.state = "running", State(self.places, task.job)
        task.state.clear()
        put_back([t.state for t in task.before])

    def _execution(self, task, environment, timeout, inherit):
        job, archive = task.job, self.run.folder / "notebooks" / task.name
        threads = job.parameters.get("threads", 1)
        parameters = self.parameters(job)
        return Execution(job.notebook, archive, parameters, self.plan.root, environment, threads, timeout, inherit)

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
        served = self.plan.root / "serve" / "model"
        is_lacking = "serve/model" in job.stage.reads and not (served / "manifest.json").is_file()  # no champion yet
        defaults = {"registered_name": self.data.registered_name, "bundle_dir": "" if is_lacking else str(served)}
        ours |= {name: value for name, value in defaults.items() if not job.parameters.get(name)}
        return job.parameters | {name: value for name, value in ours.items() if name in job.accepts}

    def _end(self, task, outcome):
        figures = {"seconds": round(outcome.seconds, 1), "peak_mb": round(outcome.peak_mb)}
        task.status, task.why, task.record = "failed", outcome.message, figures
        if outcome.message:
            return
        task.made["registry"] |= self.plan.registry(task, "writes")
        try:
            task.record = task.state.keep(task.made, **figures)
            task.status = "done"
        except OSError as error:
            task.why = f"what it wrote could not be kept: {error}"
