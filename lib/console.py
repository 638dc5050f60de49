"""What a run shows: one line a notebook while it goes on, a table at the end."""

import sys
import time


class Progress:
    """Lines for people: a status line that is rewritten on a terminal, plain lines elsewhere.

    Parameters
    ----------
    n : int, notebooks to execute or take over
    n_cells : dict, code cells of each job
    """

    def __init__(self, n, n_cells, stream=None):
        self.n, self.n_cells, self.stream = n, n_cells, stream or sys.stderr
        self.n_started, self.live, self.said = 0, self.stream.isatty(), 0.0

    def line(self, text):
        """Write a line that stays."""
        self.stream.write(("\r\x1b[K" if self.live else "") + text + "\n")
        self.stream.flush()

    def started(self, task):
        self.n_started += 1
        self.line(f"[{self.n_started}/{self.n}] {task.name}")

    def ended(self, task):
        figures = f"{task.record['seconds']:.1f} s, {task.record['peak_mb']:,.0f} MB"
        self.line(f"      {task.name}: {task.status} in {figures}" + (f"\n      {task.why}" if task.why else ""))

    def tick(self, executions):
        """Rewrite the status line: cells done and time of every notebook that is running."""
        if not self.live or time.monotonic() - self.said < 0.2:
            return
        self.said = time.monotonic()
        parts = [
            f"{e.archive.name} {e.n_done}/{self.n_cells.get(e.archive.name, 0)} cells {e.seconds:.0f} s"
            for e in executions
        ]
        self.stream.write("\r\x1b[K" + "   ".join(parts)[:118])
        self.stream.flush()


def table(rows, header):
    """Aligned text; numbers to the right."""
    cells = [header, *([_text(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [all(not isinstance(row[i], str) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)) for row in cells
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)


def _text(cell):
    return "" if cell is None else f"{cell:,.1f}" if isinstance(cell, float) else str(cell)
