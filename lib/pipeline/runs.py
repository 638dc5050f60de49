"""The folders of runs, `reports/<YYYYMMDD-HHMMSS-dataset>`, and the lock on them all.

One pipeline at a time writes there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import psutil

from lib.errors import Refused
from lib.files import read_json, write_json
from lib.pipeline.settings import Settings

PATIENCE_S = 15  # kernels of a killed run hold its lock for the second or two that they outlive it


class Run:
    """A run's folder.

    `info` is what its `run.json` says: dataset, what was asked for, status, MLflow's run.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.info = read_json(self.folder / "run.json") or {}

    @property
    def name(self) -> str:
        """The folder's name, `<YYYYMMDD-HHMMSS-dataset>`."""
        return self.folder.name

    @property
    def asked(self) -> Settings:
        """The settings that the run was started with."""
        return Settings(**self.info.get("asked", {}))

    def note(self, **changes: Any) -> None:
        """Change entries of `run.json`, whole."""
        self.info |= changes
        write_json(self.folder / "run.json", self.info)

    @classmethod
    def all(cls, reports: Path | str, dataset: str = "") -> list[Run]:
        """Return the runs in a folder, the newest first; those of one dataset if it is named."""
        found = []
        for file in sorted(Path(reports).glob("*/run.json"), reverse=True):
            if file.parent.is_symlink():  # the latest, once more
                continue
            run = cls(file.parent)
            if dataset in ("", run.info.get("dataset")):
                found.append(run)
        return found

    @classmethod
    def create(cls, reports: Path | str, dataset: str, asked: Settings) -> Run:
        """Make a new run's folder, named after the second in which it starts."""
        folder = cls._folder_now(reports, dataset)
        while folder.exists():
            time.sleep(0.1)
            folder = cls._folder_now(reports, dataset)
        folder.mkdir(parents=True)
        run = cls(folder)
        run.note(dataset=dataset, asked=asdict(asked), status="running")
        return run

    @staticmethod
    def _folder_now(reports: Path | str, dataset: str) -> Path:
        return Path(reports) / f"{time.strftime('%Y%m%d-%H%M%S')}-{dataset}"

    def publish(self) -> None:
        """Let `reports/latest` point to this run, which has ended.

        Until then people look at the one before.
        """
        link = self.folder.parent / ".latest"
        link.unlink(missing_ok=True)
        link.symlink_to(self.name)
        link.replace(self.folder.parent / "latest")


@contextlib.contextmanager
def locked(root: Path, wait: bool, say: Callable[[str], None]) -> Iterator[int]:
    """Hold the project's lock and yield its file descriptor, for kernels to inherit.

    The system releases the lock when the last process that holds it has died, whichever way.

    Raises Refused where another pipeline has it and goes on having it, unless told to wait.
    """
    folder = Path(root) / ".pipeline"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a+") as file:
        start = time.monotonic()
        said = False
        while not _lock(file):
            file.seek(0)
            holder = int(file.read() or 0)
            is_patient = time.monotonic() - start <= PATIENCE_S
            if not wait and (psutil.pid_exists(holder) or not is_patient):
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


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
