"""What a run shows: a line when a notebook starts and one when it ends, and a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

from lib.evaluation.figures import cell
from lib.files import read_json
from lib.registry import mlflow_store
from lib.registry.serving import Now
from lib.reporting import run_descriptions, threshold_figures
from lib.reporting.names import (
    NOT_EXPORTED,
    budget_of,
    champion_entry,
    headline,
    introduce,
    label,
    period_shown,
    plain,
    served_facts,
    served_remarks,
    served_title,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

    from lib.pipeline.pipeline_execution import Execution
    from lib.pipeline.plan import Task
    from lib.pipeline.runs import Run

PULSE_S = 20  # between the lines that tell how far notebooks are, where there is no terminal
BUDGET = ("alert_budget", "reviews_per_day", "transactions_per_day")
SHOWN = ("average_precision", "recall_at_budget", "precision_at_budget", "amount_recall_at_budget")


class Progress:
    """Lines for people: when a notebook starts, when it ends, and now and then how far it is.

    Parameters
    ----------
    n : notebooks to execute
    n_cells : code cells of each job
    stream : where the lines go; None for stderr
    """

    def __init__(
        self,
        n: int = 0,
        n_cells: dict[str, int] | None = None,
        stream: TextIO | None = None,
    ):
        self.n = n
        self.n_cells = n_cells or {}
        self.stream = stream or sys.stderr
        self.n_started = 0
        self._place_of: dict[str, str] = {}
        self._said_at = time.monotonic()

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._said_at = time.monotonic()
        self._write(text)

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def started(self, task: Task) -> None:
        """Say that a notebook starts, and why."""
        self.n_started += 1
        place = f"[{self.n_started}/{self.n}]"
        self.say(f"{_clock()}  {place} {task.name}: {shorten(task.why, 90)}")

    def ended(self, task: Task) -> None:
        """Say how a notebook has ended, and what it took."""
        seconds = task.record["seconds"]
        peak_mb = task.record["peak_mb"]
        self.say(
            f"{_clock()}        {task.name}: {task.status} after {seconds:.0f} s, {peak_mb:,} MB"
        )
        if task.why:
            self.say(f"          {task.why}")

    def tick(self, executions: Sequence[Execution]) -> None:
        """Say how far the notebooks that are running are, unless something was said just now."""
        self._say_places(executions)
        silent_s = time.monotonic() - self._said_at
        if not executions or silent_s <= PULSE_S:
            return
        parts = [self._how_far(execution) for execution in executions]
        text = "   ".join(parts)
        self.say(f"{_clock()}        … {text}")

    def _say_places(self, executions: Sequence[Execution]) -> None:
        """Say on which worker a notebook is, and when another one has taken it."""
        for execution in executions:
            before = self._place_of.get(execution.name, "")
            if execution.place != before:
                again = f"{before} is lost; again " if before else ""
                self.say(f"{_clock()}        {execution.name}: {again}on {execution.place}")
                self._place_of[execution.name] = execution.place

    def _how_far(self, execution: Execution) -> str:
        cells = f"{execution.n_done}/{self.n_cells[execution.name]} cells"
        return f"{execution.name} {cells}, {execution.seconds:.0f} s"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing is left to be tidied up."""


class Bars(Progress):
    """The same lines on a terminal, and below them a bar for each notebook that is running."""

    def __init__(
        self,
        n: int = 0,
        n_cells: dict[str, int] | None = None,
        stream: TextIO | None = None,
    ):
        super().__init__(n, n_cells, stream)
        from rich import progress  # here: who has no terminal does not wait for its import
        from rich.console import Console

        self._bars = progress.Progress(
            progress.TextColumn("  {task.description}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TextColumn("cells"),
            progress.TimeElapsedColumn(),
            console=Console(file=self.stream),
            transient=True,
        )
        self._bar_of: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Take the bars away, so that what is written next begins on a line of its own."""
        self._bars.stop()

    def _write(self, text: str) -> None:
        # as it is: brackets in a message are no markup
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tick(self, executions: Sequence[Execution]) -> None:
        """Show a bar for each notebook that is running, none for those that have ended."""
        self._say_places(executions)
        running = {execution.name: execution for execution in executions}
        for name in list(self._bar_of):
            if name not in running:
                bar = self._bar_of.pop(name)
                self._bars.remove_task(bar)
        for name, execution in running.items():
            if name not in self._bar_of:
                bar = self._bars.add_task(name, total=self.n_cells[name])
                self._bar_of[name] = bar
            self._bars.update(self._bar_of[name], completed=execution.n_done)


def progress(n: int = 0, n_cells: dict[str, int] | None = None) -> Progress:
    """Return what suits stderr: bars on a terminal, plain lines elsewhere."""
    kind = Bars if sys.stderr.isatty() else Progress
    return kind(n, n_cells)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return aligned text; columns of numbers to the right."""
    lines = [list(header), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    is_text = []
    for i in range(len(header)):
        is_text.append(any(isinstance(row[i], str) for row in rows))
    lines.insert(1, ["-" * width for width in widths])
    aligned = [_aligned(cells, widths, is_text) for cells in lines]
    return "\n".join(aligned)


def _aligned(cells: Sequence[str], widths: Sequence[int], is_text: Sequence[bool]) -> str:
    padded = []
    for text, width, left in zip(cells, widths, is_text, strict=True):
        padded.append(text.ljust(width) if left else text.rjust(width))
    return "  ".join(padded).rstrip()


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    return f"{cell:,}"


def summary(
    run: Run,
    tasks: Sequence[Task],
    status: str,
    *,
    now: Now,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a run came to, as plain data for scripts.

    Parameters
    ----------
    now : what is served at this moment, see `lib.registry.serving`
    remarks : sentences that must not be overlooked
    """
    metrics = read_json(run.folder / "metrics.json", {})
    introduce(metrics.get("models", {}))
    withheld = _withheld(run, tasks)
    is_exported = status != "done" or not withheld
    reasons = metrics.get("verdict", {}).get("reasons") or [""]
    intervals = metrics.get("intervals") or {}
    models = metrics.get("models", {})
    of_run = [plain(remark, models) for remark in metrics.get("remarks", [])]
    stages = [_stage(task) for task in tasks]
    return {
        "run": run.name,
        "folder": str(run.folder),
        "dataset": run.info["dataset"],
        "source": metrics.get("source"),
        "status": status if is_exported else NOT_EXPORTED,
        "stages": stages,
        "verdict": reasons[-1],
        "budget": {key: metrics.get(key) for key in BUDGET},
        "champion": _champion(metrics),  # what the run decided; "serving": what has become of it
        "serving": now.to_dict(),
        "headline": headline(metrics, now) if metrics else "",
        "not_exported": withheld,
        "no_interval": intervals.get("no_interval", ""),
        "remarks": [*of_run, *run_descriptions.not_compared(run.folder, stages), *remarks],
    }


def _champion(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Return the champion that a run decided on, with its figures.

    `period` names those that speak for it, as on the page.
    """
    decided = metrics.get("champion")
    if not decided:
        return None
    entry = metrics.get("models", {}).get(champion_entry(metrics), {})
    shown = {}
    for period in ("validation", "untouched"):
        figures = entry.get(period, {})
        shown[period] = {name: figures[name] for name in SHOWN if name in figures}
    of, figures = threshold_figures.of_run(metrics)
    told = [asdict(figure) for figure in figures]
    return decided | shown | {"period": period_shown(entry), "of": of, "figures_shown": told}


def _withheld(run: Run, tasks: Sequence[Task]) -> str:
    """Return why the export has left the served bundle as it was; empty where it has not."""
    export = next((task for task in tasks if task.job.stage.short == "export"), None)
    if export is None or not export.is_whole:
        return ""
    said = read_json(run.folder / "stages" / export.name / "metrics.json", {})
    return said.get("not_exported") or ""


def _stage(task: Task) -> dict[str, Any]:
    return {
        "stage": task.name,
        "status": task.status,
        "why": task.why,
        "seconds": task.record.get("seconds"),
        "peak_mb": task.record.get("peak_mb"),
        "worker": task.record.get("worker"),
    }


def told(summary: dict[str, Any], now: Now) -> str:
    """Return the summary for people."""
    columns = ("stage", "status", "seconds", "peak_mb")
    rows = [[stage[column] for column in columns] for stage in summary["stages"]]
    lines = [*_served(now)]
    if summary["not_exported"]:
        lines.append(f"{NOT_EXPORTED.capitalize()}: {summary['not_exported']}")
    lines += ["", *_decided(summary), ""]
    lines.append(table(["stage", "status", "seconds", "peak MB"], rows))
    for stage in summary["stages"]:
        if stage["status"] == "failed":
            lines.append(f"{stage['stage']} failed: {stage['why']}")
    folder = f"reports/{summary['run']}"
    lines += [
        "",
        f"Report      {folder}/index.html",
        f"Notebooks   {folder}/notebooks/",
        f"Tracking    {_tracking()}",
    ]
    if now.bundle is not None:
        lines.append(f"Server      make serve ({now.bundle.name})")
    return "\n".join([*lines, *summary["remarks"]])


def _tracking() -> str:
    """Return where MLflow's pages are: a team's server, or a command for the project's store."""
    uri = mlflow_store.tracking_uri()
    return mlflow_store.shown(uri) if urlsplit(uri).hostname else "make mlflow"


def _served(now: Now) -> Iterator[str]:
    """Yield what is served now, in the words of the page."""
    yield served_title(now)
    for name, text in served_facts(now).items():
        if name != "model":  # the title names it
            yield f"  {name:<34}{text}"
    yield from served_remarks(now)


def _decided(summary: dict[str, Any]) -> list[str]:
    """Return what the run has decided: its champion with figures, or why there is none."""
    if summary["champion"]:
        return _champion_told(summary)
    if not summary["status"].startswith("done"):
        return []
    verdict = summary["verdict"]
    if not verdict:
        return ["This run has compared nothing, and promoted none."]
    return [f"No champion. {plain(verdict)}."]


def _champion_told(summary: dict[str, Any]) -> list[str]:
    champion = summary["champion"]
    why = summary["no_interval"]
    budget = budget_of(summary["budget"])
    reviewed = f"; people review {budget}" if budget else ""
    of = champion["of"]
    told = f", {of[0].lower()}{of[1:]}" if of else " on validation"
    lines = [summary["headline"], f"{label(champion['model'])}{told}{reviewed}:"]
    for each in champion["figures_shown"]:
        shown = threshold_figures.Shown(**each)
        if shown.figure["value"] is not None:
            lines.append(f"  {shown.name:<34}{_interval(shown, why)}")
    if champion["validation"] and not of:
        lines.append(f"  nobody has judged it: {why or 'no fraud is known'}")
    if not champion["validation"]:
        lines.append(f"  not comparable: {plain(summary['verdict'])}")
    return lines


def _interval(shown: threshold_figures.Shown, why: str = "") -> str:
    """Return `0.64 [0.39, 0.82]`; without an interval why there is none."""
    text = cell(shown.figure, shown.digits, shown.kind)
    if shown.figure["low"] is not None:
        return text
    return f"{text} (no interval{f': {why}' if why else ''})"
