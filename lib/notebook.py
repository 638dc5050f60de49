"""What every notebook needs: its run's folder, its figures, its metrics, and errors that read like
sentences.
"""

import os
import time
from pathlib import Path

from IPython import get_ipython

from lib.data.datasets import ROOT
from lib.errors import BundleError, DataError, TrackingError
from lib.files import write_json
from lib.reporting import plots

OURS = (DataError, BundleError, TrackingError)  # their messages are sentences
BY_HAND = ROOT / "reports" / "by-hand"


class Notebook:
    """One notebook's place in a run.

    Parameters
    ----------
    stage : str, such as "04_autoencoder"
    run_dir : str, the run's folder; empty when run by hand: `reports/by-hand`
    track : bool, whether the last cell logs to MLflow; the runner passes False and logs from the
        files itself
    candidate : str, such as "autoencoder@latent=4" in a sweep, whose stages have places of their
        own
    """

    def __init__(self, stage, run_dir="", track=True, candidate=""):
        self.stage, self.track = stage + "".join(candidate.partition("@")[1:]), track
        self.run_dir = Path(run_dir) if run_dir else BY_HAND
        self.folder = self.run_dir / "stages" / self.stage
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start_s = time.time()
        _say_errors_in_a_sentence()

    def save(self, fig, name):
        """Write the figure as PNG and SVG into the run's `figures` -> path of the PNG."""
        return plots.save(fig, self.run_dir / "figures", f"{self.stage}-{name}")

    def finish(self, metrics, dataset="", source="", candidates=()):
        """Write the stage's `metrics.json`; when run by hand, log it, its figures and candidates to
        MLflow too.

        candidates : names of folders in the run's `models`
        """
        write_json(self.folder / "metrics.json", metrics)
        if self.track:
            from lib.registry import tracking  # imports MLflow, which takes seconds

            tracking.log_stage(
                os.environ.get(tracking.PARENT, ""),
                self.stage,
                metrics=metrics,
                figures=sorted((self.run_dir / "figures").glob(f"{self.stage}-*.png")),
                candidates=[self.run_dir / "models" / name for name in candidates],
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
