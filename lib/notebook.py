"""What every notebook needs: its run's folder, figures, metrics, and errors that are sentences."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython import get_ipython

from lib.data.datasets import ROOT
from lib.errors import BundleError, DataError, TrackingError
from lib.files import write_json
from lib.reporting import plots
from lib.reporting.names import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS = (DataError, BundleError, TrackingError)  # their messages are sentences
BY_HAND = ROOT / "reports" / "by-hand"


class Notebook:
    """One notebook's place in a run.

    Parameters
    ----------
    stage : such as "04_autoencoder"
    run_dir : the run's folder; empty when run by hand: `reports/by-hand`
    track : whether the last cell logs to MLflow; the runner passes False and logs from the files
        itself
    candidate : such as "autoencoder@latent=4" in a sweep, whose stages have places of their own
    """

    def __init__(self, stage: str, run_dir: str = "", track: bool = True, candidate: str = ""):
        _, at, swept = candidate.partition("@")
        self.stage = stage + at + swept
        self.track = track
        self.run_dir = Path(run_dir) if run_dir else BY_HAND
        self.folder = self.run_dir / "stages" / self.stage
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start_s = time.time()
        _say_errors_in_a_sentence()

    def save(self, fig: Figure, name: str) -> Path:
        """Write the figure as PNG and SVG into the run's `figures`; return the path of the PNG."""
        return plots.save(fig, self.run_dir / "figures", f"{self.stage}-{name}")

    def finish(
        self,
        metrics: dict[str, Any],
        dataset: str = "",
        source: str = "",
        candidates: Sequence[str] = (),
    ) -> None:
        """Write the stage's `metrics.json`.

        When run by hand, log it, its figures and candidates to MLflow, too.

        Parameters
        ----------
        candidates : names of folders in the run's `models`
        """
        write_json(self.folder / "metrics.json", metrics)
        if self.track:
            from lib.registry import tracking  # imports MLflow, which takes seconds

            tracking.log_stage(
                os.environ.get(tracking.PARENT, ""),
                self.stage,
                metrics=self.folder / "metrics.json",
                figures=sorted((self.run_dir / "figures").glob(f"{self.stage}-*.png")),
                candidates={self.run_dir / "models" / name: label(name) for name in candidates},
                tags={"dataset": dataset, "source": source},
                description=f"`notebooks/{self.stage}.ipynb`, run by hand",
                seconds=time.time() - self._start_s,
            )


def _say_errors_in_a_sentence():
    """In a kernel, show our own errors as their message; the cell still counts as failed."""
    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc(OURS, _show)


def _show(shell, kind, error, *_args, **_more):
    lines = [f"{kind.__name__}: {error}"]
    shell._showtraceback(kind, error, lines)  # without it the cell fails in silence
    return lines
