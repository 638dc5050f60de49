"""What a job wrote, on record: enough to say whether it is whole, to reuse it and to put it back.

A run's folder keeps, for every finished job, `.state/<job>/state.json` and hard links to the files
that it wrote into the run. What a later stage amends (the comparison adds calibration to the
candidates) can so be put back as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.files import link, read_json, sha256, write_json
from lib.pipeline.settings import Job

Stamp = list[Any]  # [bytes, time of change in ns, sha256], as JSON has it


@dataclass(frozen=True)
class Places:
    """Where the places of the stage table are, for one run."""

    root: Path
    run: Path
    splits: Path

    def path(self, key: str) -> Path:
        """Return the file or folder of a place: `run/models/autoencoder`, `serve/model`."""
        head, _, tail = key.partition("/")
        bases = {"run": self.run, "splits": self.splits}
        return bases.get(head, self.root / head) / tail

    def files(self, pattern: str) -> dict[str, Path]:
        """Return {key: path} of the files that match a pattern, or lie in a folder that does.

        Hidden files and folders are left out: they are ours, or not finished.
        """
        head, _, tail = pattern.partition("/")
        base = self.path(head)
        tops = base.glob(tail) if tail else [base]
        found = {}
        for top in tops:
            files = [top] if top.is_file() else top.rglob("*")
            for file in files:
                inside = file.relative_to(base)
                is_hidden = any(part.startswith(".") for part in inside.parts)
                if file.is_file() and not is_hidden:
                    found[f"{head}/{inside.as_posix()}"] = file
        return found


class State:
    """What is on record of one job in one run's folder."""

    def __init__(self, places: Places, job: Job):
        self.places = places
        self.job = job
        self.folder = places.run / ".state" / job.name

    @property
    def record(self) -> dict[str, Any] | None:
        """What the job was made from, its outputs with their stamps, its run, seconds, and so on.

        None if it has not finished here.
        """
        return read_json(self.folder / "state.json")

    def keep(self, made: dict, *, without: Sequence[str] = (), **figures: Any) -> dict[str, Any]:
        """Note that the job has finished with the files that are there now; return the record.

        Parameters
        ----------
        made : what it was made from, see `lib.pipeline.dependencies.made_from`
        without : places that the job has left as they were
        figures : such as seconds and peak_mb
        """
        outputs = {}
        for pattern in self.job.outputs:
            if pattern in without:
                continue
            for key, path in self.places.files(pattern).items():
                outputs[key] = _stamp(path)
                if key.startswith("run/"):
                    link(path, self.folder / key)
        record = {
            "made_from": made,
            "outputs": outputs,
            "run": self.places.run.name,
            **figures,
        }
        return self.note(record)

    def note(self, record: dict[str, Any]) -> dict[str, Any]:
        """Put a record in place; return it."""
        write_json(self.folder / "state.json", record)
        return record

    def kept(self, key: str) -> Path:
        """Return where the job's own version of an output is."""
        return self.folder / key if key.startswith("run/") else self.places.path(key)

    def damage(self, record: dict[str, Any]) -> str | None:
        """Return the first output that is not as the job wrote it; None if all are whole."""
        for key, stamp in record["outputs"].items():
            if not _matches(self.kept(key), stamp):
                return key
        return None

    def clear(self) -> None:
        """Forget the job, and remove what it, finished or not, wrote into the run's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for pattern in self.job.outputs:
            if pattern.startswith("run/"):
                for path in self.places.files(pattern).values():
                    path.unlink()

    def adopt(self, other: State) -> dict[str, Any]:
        """Take over the finished job from another run's folder; return the record."""
        record = dict(other.record)
        record.pop("mlflow_run", None)  # that was the other run's
        self.clear()
        for key in record["outputs"]:
            if key.startswith("run/"):
                link(other.kept(key), self.kept(key))
        return self.note(record)


def put_back(states: Sequence[State]) -> None:
    """Make a run's folder what it was when these jobs had finished, in this order."""
    last = {}
    for state in states:
        for key, stamp in state.record["outputs"].items():
            last[key] = (state, stamp)
    for key, (state, stamp) in last.items():
        path = state.places.path(key)
        if key.startswith("run/") and not _matches(path, stamp):
            link(state.kept(key), path)


def _stamp(path: Path) -> Stamp:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is recorded as whole survives a power cut
        stat = os.fstat(file.fileno())
    return [stat.st_size, stat.st_mtime_ns, sha256(path)]


def _matches(path: Path, stamp: Stamp) -> bool:
    """Return whether a file is as recorded; its content is read only if its time differs."""
    size, time_ns, digest = stamp
    try:
        stat = path.stat()
    except OSError:
        return False
    if stat.st_size != size:
        return False
    if stat.st_mtime_ns == time_ns:
        return True
    return sha256(path) == digest
