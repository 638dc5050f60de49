"""One notebook: executed by papermill with a kernel of its own, watched, and archived."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import psutil

START_TIMEOUT_S = 180  # a kernel on a busy machine
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
QUIET = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # the debugger's remark on frozen modules
# the place of the contents, which are known once the notebook is HTML, and a section's heading
CONTENTS = "<!-- contents -->"
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', re.DOTALL)
TEMPLATE = "notebook.html.j2"


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: `message` is empty if it ran through, else one sentence.

    `place` is the worker that executed it, empty for this machine.
    """

    message: str
    seconds: float
    peak_mb: float
    n_cells: int
    place: str = ""


@dataclass
class NotebookExecution:
    """A notebook being executed.

    `run` blocks until its end; `watch` is to be called by another thread meanwhile.

    Parameters
    ----------
    notebook : the file
    archive : path without suffix; `<archive>.ipynb` and `<archive>.html` appear there at the end,
        however it ends
    parameters : every one of them in the notebook's parameters cell
    root : the project's folder: the kernel's working directory and import path
    environment : the kernel's environment variables, to which import path and threads are added
    threads : compute threads of the kernel
    timeout_s : 0 for none
    inherit : file descriptors that stay open as long as the kernel lives
    neighbours : names of the notebooks before and after it in the run, whose pages its own links to
    """

    notebook: Path
    archive: Path
    parameters: dict[str, Any]
    root: Path
    environment: dict[str, str]
    threads: int = 1
    timeout_s: float = 0.0
    inherit: Sequence[int] = ()
    neighbours: tuple[str, str] = ("", "")
    kernel: psutil.Process | None = field(default=None, init=False)
    peak_mb: float = field(default=0.0, init=False)
    n_done: int = field(default=0, init=False)  # cells
    place: str = field(default="", init=False)  # this machine

    def __post_init__(self) -> None:
        self._start = time.monotonic()
        self._killed = ""  # why it was
        self._is_archived = True
        self._cell = "no cell"
        self._n_injected = 0

    @property
    def name(self) -> str:
        """The job's name, which the archive has."""
        return self.archive.name

    def _kernel_environment(self) -> dict[str, str]:
        environment = dict(self.environment)
        environment.pop("MLFLOW_RUN_ID", None)  # it would break nested runs
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(self.threads)))
        environment.update(QUIET)
        import_path = [str(self.root), self.environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, import_path))
        return environment

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._start

    def run(self) -> Outcome:
        """Execute and archive; return how it ended."""
        self._start = time.monotonic()
        partial = self.archive.with_name(f".{self.archive.name}.part.ipynb")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            message = self._execute(partial)
            # a partial file is there once it has come to its first cell
            if self._is_archived and partial.exists():
                archive(partial, self.archive, self.neighbours)
        except Exception as error:  # whatever it is, the other notebooks go on
            message = self._killed or f"{self.name} could not be executed and archived: {error}"
        return Outcome(message, self.seconds, self.peak_mb, self.n_done)

    def _execute(self, partial: Path) -> str:
        """Execute into the file `partial`; return what went wrong, empty if nothing did."""
        from nbclient.exceptions import DeadKernelError
        from papermill import PapermillExecutionError, execute_notebook

        from lib.pipeline import kernels  # imports Jupyter, which takes a second

        try:
            with kernels.socket_folder() as sockets:
                kernel = kernels.Kernel(
                    sockets,
                    self._kernel_environment(),
                    self.root,
                    inherit=self.inherit,
                    on_start=self._started,
                )
                execute_notebook(
                    verbatim(self.notebook),
                    verbatim(partial),
                    self.parameters,
                    kernel_name="python3",
                    engine_name=kernels.ENGINE,
                    kernel=kernel,
                    hooks={"on_cell_execute": self._begin, "on_cell_executed": self._end},
                    start_timeout=START_TIMEOUT_S,
                    progress_bar=False,
                )
        except PapermillExecutionError as error:
            return f"{self._cell} failed: {plain(error.ename)}: {plain(error.evalue)}"
        except DeadKernelError:
            reason = self._killed or "the kernel died"
            return f"{reason} in {self._cell}, at {self.peak_mb:,.0f} MB"
        except kernels.KernelFailed as error:
            return self._killed or f"its kernel could not be started: {error}"
        return ""

    def _started(self, pid: int) -> None:
        self.kernel = psutil.Process(pid)
        if self._killed:  # before there was a process
            self.kill(self._killed)

    def watch(self) -> None:
        """Note the memory of the kernel and its children; stop them when their time is over."""
        memory = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):  # it has just ended
                memory += process.memory_info().rss
        self.peak_mb = max(self.peak_mb, memory / 2**20)
        if self.timeout_s and self.seconds > self.timeout_s:
            self.kill(f"stopped after {self.timeout_s:g} s (--timeout)")

    def kill(self, reason: str, *, is_archived: bool = True) -> None:
        """End the kernel and its children at once; the outcome's message begins with `reason`.

        Parameters
        ----------
        is_archived : False where others may have executed it since, whose archive has to stay
        """
        self._killed = reason
        self._is_archived = self._is_archived and is_archived
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _processes(self) -> list[psutil.Process]:
        if self.kernel is None:
            return []
        with contextlib.suppress(psutil.Error):
            return [*self.kernel.children(recursive=True), self.kernel]
        return []

    def _begin(self, cell: Any, cell_index: int) -> None:
        self._n_injected += "injected-parameters" in cell.metadata.get("tags", [])
        first_line = next(iter(cell.source.strip().splitlines()), "")
        self._cell = f"cell {cell_index + 1 - self._n_injected} (`{first_line}`)"

    def _end(self, **_: object) -> None:
        self.n_done += 1


def verbatim(path: Path) -> str:
    """Return a path for papermill, which fills in what stands between braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def plain(text: str) -> str:
    """Return text without a terminal's colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text).strip()


def archive(partial: Path, target: Path, neighbours: tuple[str, str] = ("", "")) -> None:
    """Put the executed notebook under its name, and as HTML with its code folded away.

    Each appears whole. The page begins with its contents and links to its neighbours'.
    """
    import nbformat
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    # a folder would hide nbconvert's own
    template = (
        resources.files("lib.pipeline") / "templates" / TEMPLATE
    )  # on a worker, in an archive
    ours = DictLoader({TEMPLATE: template.read_text(encoding="utf-8")})
    exporter = HTMLExporter(template_file=TEMPLATE, extra_loaders=[ours])
    before, after = neighbours
    given = {"metadata": {"name": target.name}, "before": before, "after": after}
    html, _ = exporter.from_notebook_node(nbformat.read(partial, as_version=4), given)
    page = partial.with_suffix(".html")
    page.write_text(html.replace(CONTENTS, contents(html)), encoding="utf-8")
    page.replace(f"{target}.html")
    partial.replace(f"{target}.ipynb")


def contents(html: str) -> str:
    """Return links to the sections of a notebook's page, as HTML; empty where there are few."""
    links = [
        f'<a href="#{anchor}">{re.sub("<.*?>", "", text)}</a>'
        for anchor, text in HEADING.findall(html)
    ]
    return "\n".join(links) if len(links) > 1 else ""
