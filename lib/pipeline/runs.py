"""The folders of runs, `reports/<YYYYMMDD-HHMMSS-dataset>`, and the lock: one pipeline at a time
writes there.
"""

import contextlib
import fcntl
import os
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from lib.errors import Refused
from lib.files import read_json, write_json
from lib.pipeline.settings import Settings

PATIENCE_S = 15  # kernels of a killed run hold its lock for the second or two that they outlive it


class Run:
    """A run's folder; `info` is what its `run.json` says: dataset, what was asked for, status,
    MLflow's run.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.info = read_json(self.folder / "run.json") or {}

    @property
    def name(self) -> str:
        """The folder's name, `<YYYYMMDD-HHMMSS-dataset>`."""
        return self.folder.name

    @property
    def asked(self):
        """The settings that the run was started with."""
        return Settings(**self.info.get("asked", {}))

    def note(self, **changes):
        """Change entries of `run.json`, whole."""
        self.info |= changes
        write_json(self.folder / "run.json", self.info)

    @classmethod
    def all(cls, reports, dataset=""):
        """The runs in a folder, the newest first; only those of one dataset if it is named."""
        folders = {
            path.parent for path in Path(reports).glob("*/run.json") if not path.parent.is_symlink()
        }
        runs = [cls(folder) for folder in sorted(folders, reverse=True)]
        return [run for run in runs if dataset in ("", run.info.get("dataset"))]

    @classmethod
    def create(cls, reports, dataset, asked):
        """A new run's folder."""
        while (folder := Path(reports) / time.strftime(f"%Y%m%d-%H%M%S-{dataset}")).exists():
            time.sleep(0.1)
        folder.mkdir(parents=True)
        run = cls(folder)
        run.note(dataset=dataset, asked=asdict(asked), status="running")
        return run

    def publish(self):
        """Let `reports/latest` point to this run, which has ended: until then people look at the
        one before.
        """
        link = self.folder.parent / ".latest"
        link.unlink(missing_ok=True)
        link.symlink_to(self.name)
        link.replace(self.folder.parent / "latest")


@contextlib.contextmanager
def locked(root, wait, say):
    """Hold the project's lock -> its file descriptor, for kernels to inherit; Refused if another
    pipeline has it.

    The system releases the lock when the last process that holds it has died, whichever way.
    """
    folder = Path(root) / ".pipeline"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a+") as file:
        start, said = time.monotonic(), False
        while not _lock(file):
            file.seek(0)
            holder = int(file.read() or 0)
            if not wait and (psutil.pid_exists(holder) or time.monotonic() - start > PATIENCE_S):
                raise Refused(
                    f"Another pipeline (process {holder}) is running in this folder; --wait waits "
                    "for it."
                )
            if not said:
                say(f"Waiting for the pipeline of process {holder} to end.")
                said = True
            time.sleep(0.5)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
