"""How far a run over the parts of a table is: a line on the terminal, or now and then in a log."""

from __future__ import annotations

import sys
import time

LOG_EVERY_S = 30.0
DRAW_EVERY_S = 0.5


class Meter:
    """Counts parts and rows.

    Parameters
    ----------
    what : is done to them: "scored"
    n_parts, n_rows : that there are
    """

    def __init__(self, what: str, n_parts: int, n_rows: int) -> None:
        self.what = what
        self.n_parts = n_parts
        self.n_rows = n_rows
        self.done = 0
        self.rows = 0
        self.worked = 0  # rows that no earlier run had done
        self.start = time.perf_counter()
        self.is_terminal = sys.stderr.isatty()
        self.last = self.start

    def add(self, rows: int, is_new: bool = True) -> None:
        """Count a part."""
        self.done += 1
        self.rows += rows
        if is_new:
            self.worked += rows
        now = time.perf_counter()
        every = DRAW_EVERY_S if self.is_terminal else LOG_EVERY_S
        if now - self.last >= every:
            self.last = now
            self._say()

    @property
    def rows_a_second(self) -> float:
        """Rows that are done in a second."""
        return self.worked / max(time.perf_counter() - self.start, 1e-9)

    def line(self) -> str:
        """Return how far it is, as people read it."""
        said = (
            f"{self.what} {self.done:,} of {self.n_parts:,} parts, {self.rows:,} of "
            f"{self.n_rows:,} rows"
        )
        if not self.worked:
            return said
        left_s = (self.n_rows - self.rows) / self.rows_a_second
        return f"{said}; {self.rows_a_second:,.0f} rows/s, {duration(left_s)} left"

    def _say(self) -> None:
        end = "\033[K\r" if self.is_terminal else "\n"
        print(self.line(), end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the terminal's line."""
        if self.is_terminal:
            print("\033[K", end="\r", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return seconds as people read them: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
