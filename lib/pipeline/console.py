"""What a run shows: a line when a notebook starts and one when it ends, and a summary."""

import sys
import time
from textwrap import shorten

from lib.files import read_json
from lib.words import champion_entry

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

    def started(self, task):
        self.n_started += 1
        self.say(f"{time.strftime('%H:%M:%S')}  [{self.n_started}/{self.n}] {task.name}: {shorten(task.why, 90)}")

    def ended(self, task):
        figures = f"{task.record['seconds']:.0f} s, {task.record['peak_mb']:,} MB"
        said = f"\n          {task.why}" if task.why else ""
        self.say(f"{time.strftime('%H:%M:%S')}        {task.name}: {task.status} after {figures}{said}")

    def tick(self, executions):
        """Cells done and seconds of every notebook that is running: a line rewritten, or one now and then."""
        parts = "   ".join(f"{e.name} {e.n_done}/{self.n_cells[e.name]} cells, {e.seconds:.0f} s" for e in executions)
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
    lines = ["  ".join(pad(c, w) for pad, c, w in zip(sides, row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _text(cell):
    return "" if cell is None else cell if isinstance(cell, str) else f"{cell:,}"


def summary(run, tasks, status, remarks=()):
    """What a run came to, as plain data for scripts; `remarks` are sentences that must not be overlooked."""
    metrics = read_json(run.folder / "metrics.json") or {}
    champion = metrics.get("champion")
    figures = metrics.get("models", {}).get(champion_entry(metrics), {}).get("validation", {})
    return {
        "run": run.name,
        "folder": str(run.folder),
        "dataset": run.info["dataset"],
        "source": metrics.get("source"),
        "status": status,
        "stages": [
            {"stage": t.name, "status": t.status, "why": t.why} | {key: t.record.get(key) for key in FIGURES}
            for t in tasks
        ],
        "verdict": (metrics.get("verdict", {}).get("reasons") or [""])[-1],
        "champion": champion and champion | {"validation": {name: figures[name] for name in SHOWN if name in figures}},
        "no_interval": (metrics.get("intervals") or {}).get("no_interval", ""),
        "remarks": [*metrics.get("remarks", []), *remarks],
    }


def told(summary):
    """The summary for people."""
    rows = [(s["stage"], s["status"], s["seconds"], s["peak_mb"]) for s in summary["stages"]]
    lines = [table(["stage", "status", "seconds", "peak MB"], rows), ""]
    lines += [f"{s['stage']} failed: {s['why']}" for s in summary["stages"] if s["status"] == "failed"]
    if champion := summary["champion"]:
        lines.append(f"Champion: {champion['model']}, {champion['name']} version {champion['version']}. On validation:")
        why, figures = summary["no_interval"], champion["validation"]
        known = {name: figure for name, figure in figures.items() if figure["value"] is not None}
        lines += [f"  {name:<25}{_interval(figure, why)}" for name, figure in known.items()]
        lines += [f"  nobody has judged it: {why or 'no fraud is known'}"] if figures and not known else []
        lines += [] if champion["validation"] else [f"  not comparable: {summary['verdict']}"]
    elif summary["status"] == "done":
        lines.append(f"No champion: {summary['verdict']}." if summary["verdict"] else "No champion.")
    folder = f"reports/{summary['run']}"
    lines += ["", f"Report      {folder}/index.html", f"Notebooks   {folder}/notebooks/"]
    return "\n".join([*lines, "Tracking    make mlflow", "Server      make serve", *summary["remarks"]])


def _interval(figure, why=""):
    """`0.636 (0.390 to 0.815)`; without an interval why there is none."""
    reason = f": {why}" if why else ""
    if figure["low"] is None:
        return f"{figure['value']:.3f} (no interval{reason})"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
