"""Small projects to run pipelines in: fixture notebooks that take no time, a real split of few
rows, no MLflow.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import types

from conftest import ROOT, copy_project

import run_pipeline
from lib.pipeline.notebook_execution import Outcome
from lib.pipeline.stages import read_cells

FIXTURES = ROOT / "tests" / "fixtures"
NOTEBOOKS = {
    "01_eda": "draws_figures",
    "02_split": "splits",
    "03_isolation_forest": "fits_a_candidate",
    "04_autoencoder": "fits_a_candidate",
    "09_comparison": "compares_candidates",
    "10_export": "exports",
}
SMALL = ("--dataset", "simulated", "-p", "rows", "3000")


class Project:
    """A project's folder, and what can be seen of its runs from outside."""

    def __init__(self, folder, environment=None):
        self.folder, self.environment = folder, (environment or {}) | {"PYTHONPATH": str(folder)}

    @classmethod
    def create(cls, folder):
        """A copy of this project with fixture notebooks, and a log in place of MLflow."""
        project = cls(*copy_project(folder))
        shutil.rmtree(folder / "notebooks")
        (folder / "notebooks").mkdir()
        for stage, fixture in NOTEBOOKS.items():
            project.put(stage, fixture)
        shutil.copy(FIXTURES / "tracking.py", folder / "lib" / "registry" / "tracking.py")
        return project

    def copy(self, folder):
        """The same in another folder, with all that has been done so far."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return type(self)(folder, self.environment)

    def put(self, stage, fixture):
        """Let a fixture be a stage's notebook."""
        shutil.copy(FIXTURES / f"{fixture}.ipynb", self.folder / "notebooks" / f"{stage}.ipynb")

    @property
    def runs(self):
        """The runs' folders, the newest last."""
        return sorted(path.parent for path in self.folder.glob("reports/2*/run.json"))

    def result(self):
        """What a run is for: the figures of the newest, and the exported bundle."""
        bundle = {
            path.name: path.read_bytes() for path in (self.folder / "serve" / "model").iterdir()
        }
        return (self.folder / "reports" / "latest" / "metrics.json").read_text(), bundle

    def logged(self, what):
        """What would have been told to MLflow."""
        lines = (self.folder / "logged.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["what"] == what]

    def start(self, *arguments):
        """Start the command, as people do -> Popen."""
        command = [sys.executable, self.folder / "run_pipeline.py", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd="/", env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    def command(self, *arguments, code=0):
        """Run the command to its end, which has to be this exit code -> what it wrote to standard
        error.
        """
        process = self.start(*arguments)
        out, err = process.communicate(timeout=900)
        assert process.returncode == code, out + err
        return err


class Here:
    """The command line of a project in this process, its notebooks executed in this process,
    too.
    """

    def __init__(self, project, capsys, monkeypatch):
        self.project, self.capsys = project, capsys
        for module in ("run_pipeline", "lib.data.datasets", "lib.registry.mlflow_store"):
            monkeypatch.setattr(f"{module}.ROOT", project.folder)
        specification = importlib.util.spec_from_file_location(
            "lib.registry.tracking", FIXTURES / "tracking.py"
        )
        tracking = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(tracking)
        tracking.ROOT = project.folder
        monkeypatch.setitem(sys.modules, "lib.registry.tracking", tracking)
        monkeypatch.setattr("lib.registry.tracking", tracking, raising=False)
        monkeypatch.setattr("lib.pipeline.pipeline_execution.NotebookExecution", Instant)

    def __getattr__(self, name):
        return getattr(self.project, name)

    def run(self, *arguments, code=0):
        """-> (standard output, standard error); the exit code has to be this one."""
        found = run_pipeline.main([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        assert found == code, out + err
        return out, err

    def summary(self, *arguments, code=0):
        """Run with --json -> its summary, and {number of the stage: its status}."""
        summary = json.loads(self.run(*arguments, "--json", code=code)[0])
        return summary, {stage["stage"][:2]: stage["status"] for stage in summary["stages"]}

    def planned(self, *arguments):
        """What a dry run says -> {number of the stage: (status, why)}."""
        lines = self.run(*arguments, "--dry-run")[0].splitlines()
        start = lines[1].index(" --") + 1
        middle = lines[1].index(" --", start) + 1
        return {line[:2]: (line[start:middle].strip(), line[middle:].strip()) for line in lines[2:]}


class Instant:
    """Stands in for NotebookExecution: the cells run in this process, one after the other."""

    peak_mb = n_done = seconds = 0
    place = ""

    def __init__(self, notebook, archive, parameters, **_):
        self.notebook, self.archive, self.name, self.parameters = (
            notebook,
            archive,
            archive.name,
            parameters,
        )

    def run(self):
        message, space = "", types.SimpleNamespace(print=lambda *_: None)
        for number, (kind, source, tags) in enumerate(read_cells(self.notebook), start=1):
            try:
                exec(source if kind == "code" else "", vars(space))
            except Exception as error:
                message = f"cell {number} failed: {type(error).__name__}: {error}"
                break
            if "parameters" in tags:
                vars(space).update(self.parameters)
        self.archive.parent.mkdir(exist_ok=True)
        for suffix in (".ipynb", ".html"):
            self.archive.with_name(self.archive.name + suffix).write_text(message or "executed")
        return Outcome(message, 0.1, 50.0, 3)

    def watch(self):
        pass
