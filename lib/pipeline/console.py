"""What a run shows: a line when a notebook starts and one when it ends, and a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from lib.evaluation.figures import cell
from lib.files import read_json
from lib.registry.serving import Now
from lib.reporting.names import champion_entry, headline

if TYPE_CHECKING:
    from lib.pipeline.plan import Task
    from lib.pipeline.runs import Run

NOT_EXPORTED = "done, not exported"
FIGURES = ("seconds", "peak_mb")
PULSE_S = 20  # between the lines that tell how far notebooks are, where there is no terminal
SHOWN = ("average_precision", "recall_at_budget", "precision_at_budget", "amount_recall_at_budget")


class Progress:
    """Lines for people: on a terminal with a status line below that is rewritten, elsewhere plain.

    Parameters
    ----------
    n : int, notebooks to execute
    n_cells : dict, code cells of each job
    """

    def __init__(self, n=0, n_cells=None, stream=None):
        self.n, self.n_cells, self.stream = n, n_cells or {}, stream or sys.stderr
        self.n_started, self.is_live, self._told = 0, self.stream.isatty(), time.monotonic()

    def say(self, text):
        """Write a line that stays."""
        self._told = time.monotonic()
        self.stream.write(("\r\x1b[K" if self.is_live else "") + text + "\n")
        self.stream.flush()

    def started(self, task: Task) -> None:
        """Say that a notebook starts, and why."""
        self.n_started += 1
        self.say(
            f"{time.strftime('%H:%M:%S')}  [{self.n_started}/{self.n}] {task.name}: "
            f"{shorten(task.why, 90)}"
        )

    def ended(self, task: Task) -> None:
        """Say how a notebook has ended, and what it took."""
        figures = f"{task.record['seconds']:.0f} s, {task.record['peak_mb']:,} MB"
        said = f"\n          {task.why}" if task.why else ""
        self.say(
            f"{time.strftime('%H:%M:%S')}        {task.name}: {task.status} after {figures}{said}"
        )

    def tick(self, executions):
        """Cells done and seconds of every notebook that is running: a line rewritten, or one now
        and then.
        """
        parts = "   ".join(
            f"{e.name} {e.n_done}/{self.n_cells[e.name]} cells, {e.seconds:.0f} s"
            for e in executions
        )
        if self.is_live:
            self.stream.write("\r\x1b[K" + parts[:118])
            self.stream.flush()
        elif parts and time.monotonic() - self._told > PULSE_S:
            self.say(f"{time.strftime('%H:%M:%S')}        … {parts}")


def table(header, rows):
    """Aligned text; columns of numbers to the right."""
    cells = [header, *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    is_text = [any(isinstance(row[i], str) for row in rows) for i in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    sides = [str.ljust if text else str.rjust for text in is_text]
    lines = [
        "  ".join(pad(c, w) for pad, c, w in zip(sides, row, widths, strict=True)) for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def _text(cell):
    return "" if cell is None else cell if isinstance(cell, str) else f"{cell:,}"


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
    decided = metrics.get("champion")
    if decided:
        entry = metrics.get("models", {}).get(champion_entry(metrics), {})
        figures = entry.get("validation", {})
        shown = {name: figures[name] for name in SHOWN if name in figures}
        decided = decided | {"validation": shown}
    export = next((task for task in tasks if task.job.stage.short == "export"), None)
    withheld = ""
    if export is not None and export.is_whole:
        said = read_json(run.folder / "stages" / export.name / "metrics.json", {})
        withheld = said.get("not_exported") or ""
    return {
        "run": run.name,
        "folder": str(run.folder),
        "dataset": run.info["dataset"],
        "source": metrics.get("source"),
        "status": NOT_EXPORTED if status == "done" and withheld else status,
        "stages": [_stage(task) for task in tasks],
        "verdict": (metrics.get("verdict", {}).get("reasons") or [""])[-1],
        "champion": decided,  # what the run decided; "serving" is what has become of it
        "serving": now.to_dict(),
        "headline": headline(metrics, now) if metrics else "",
        "not_exported": withheld,
        "no_interval": (metrics.get("intervals") or {}).get("no_interval", ""),
        "remarks": [*metrics.get("remarks", []), *remarks],
    }


def _stage(task: Task) -> dict[str, Any]:
    figures = {key: task.record.get(key) for key in FIGURES}
    return {"stage": task.name, "status": task.status, "why": task.why} | figures


def told(summary: dict[str, Any], now: Now) -> str:
    """Return the summary for people."""
    rows = [(s["stage"], s["status"], s["seconds"], s["peak_mb"]) for s in summary["stages"]]
    lines = [table(["stage", "status", "seconds", "peak MB"], rows), ""]
    for stage in summary["stages"]:
        if stage["status"] == "failed":
            lines.append(f"{stage['stage']} failed: {stage['why']}")
    if summary["champion"]:
        lines += _decided(summary)
    elif summary["status"].startswith("done") and summary["verdict"]:
        lines.append(f"No champion: {summary['verdict']}.")
    elif summary["status"].startswith("done"):
        lines.append("No champion.")
    lines += ["", *now.sentences()]
    if summary["not_exported"]:
        lines.append(f"{NOT_EXPORTED.capitalize()}: {summary['not_exported']}")
    folder = f"reports/{summary['run']}"
    lines += ["", f"Report      {folder}/index.html", f"Notebooks   {folder}/notebooks/"]
    lines.append("Tracking    make mlflow")
    if now.bundle is not None:
        lines.append("Server      make serve")
    return "\n".join([*lines, *summary["remarks"]])


def _decided(summary: dict[str, Any]) -> list[str]:
    """Return the champion of this run with its figures."""
    champion, why = summary["champion"], summary["no_interval"]
    figures = champion["validation"]
    known = {name: figure for name, figure in figures.items() if figure["value"] is not None}
    lines = [summary["headline"], f"{champion['model']} on validation:"]
    lines += [f"  {name:<25}{_interval(figure, why)}" for name, figure in known.items()]
    if figures and not known:
        lines.append(f"  nobody has judged it: {why or 'no fraud is known'}")
    if not figures:
        lines.append(f"  not comparable: {summary['verdict']}")
    return lines


def _interval(figure, why=""):
    """`0.636 [0.390, 0.815]`; without an interval why there is none."""
    if figure["low"] is not None:
        return cell(figure)
    reason = f": {why}" if why else ""
    return f"{cell(figure)} (no interval{reason})"
