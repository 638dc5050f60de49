"""What a job was made from and what it wrote: enough to say whether it is up to date, and if not, why.

A run's folder keeps, for every finished job, `.state/<job>/state.json` and hard links to the files that it wrote into the
run. A file that a later stage amends (the comparison adds calibration to the candidates) can so be put back as it was.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lib.stages import load_cells

VERSIONED = ("torch",)  # installed apart from the lock


@dataclass(frozen=True)
class Places:
    """Where the places of the stage table are, for one run."""

    root: Path
    run: Path
    splits: Path

    def path(self, key):
        """The file or folder of a key such as `run/models/autoencoder`, `splits/splits.json` or `serve/model`."""
        head, _, tail = key.partition("/")
        return {"run": self.run, "splits": self.splits}.get(head, self.root / head) / tail

    def files(self, pattern):
        """{key: Path} of all files that match the pattern, or lie in a folder that does; hidden ones left out."""
        head, _, tail = pattern.partition("/")
        base = self.path(head)
        tops = base.glob(tail) if tail else [base]
        found = (f for top in tops for f in ([top] if top.is_file() else top.rglob("*")))
        found = ((f.relative_to(base), f) for f in found if f.is_file())
        return {f"{head}/{r.as_posix()}": f for r, f in found if not any(p.startswith(".") for p in r.parts)}


def digest(path):
    """Hex sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def imported_files(sources, root):
    """The project's files that Python sources import, directly or not -> sorted list of Path."""
    root, found, queue = Path(root), set(), [*sources]
    while queue:
        for module in _imports(queue.pop()):
            for file in (root / f"{module}.py", root / module / "__init__.py"):
                if file.is_file() and file not in found:
                    found.add(file)
                    queue.append(file.read_text(encoding="utf-8"))
    return sorted(found)


def _imports(source):
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()  # a cell that is no Python fails when it is executed
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    whole = {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}
    return {name.replace(".", "/") for name in whole}


@cache
def locked_versions(root):
    """What decides the installed versions: the lock's hash, Python, and what is installed apart from the lock."""
    lock = Path(root) / "requirements.txt"
    versions = {"python": platform.python_version(), "requirements.txt": digest(lock) if lock.is_file() else None}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def made_from(job, root, inputs, registry=None):
    """Everything that a job's outputs depend on, as plain data -> {"notebook", "files", "parameters", …}."""
    cells = load_cells(job.notebook)
    sources = [source for kind, source, _ in cells if kind == "code"]
    files = imported_files(sources, root)
    return {
        "notebook": {job.notebook.name: hashlib.sha256(json.dumps(cells).encode()).hexdigest()},
        "files": {f.relative_to(root).as_posix(): digest(f) for f in files},
        "parameters": job.parameters,
        "inputs": inputs,
        "registry": {"champion": registry},
        "versions": locked_versions(root),
    }


def reasons(old, new):
    """What differs between two of them, in words: `parameter latent: 8 → 16`, `lib/metrics.py changed`."""
    said = []
    for part, after in new.items():
        before = old.get(part, {})
        for key in sorted({*before, *after}):
            if before.get(key) == after.get(key):
                continue
            if part in ("notebook", "files", "inputs"):
                change = "is new" if key not in before else "is gone" if key not in after else "changed"
                said.append(f"{key} {change}")
            else:
                what = {"parameters": f"parameter {key}", "registry": f"the registry's {key}"}.get(part, key)
                said.append(f"{what}: {_short(before.get(key))} → {_short(after.get(key))}")
    return said


def _short(value):
    return str(value)[:12] if isinstance(value, str) and len(value) == 64 else value


class State:
    """What is on record of one job in one run's folder."""

    def __init__(self, places, name):
        self.places, self.name = places, name
        self.folder = places.run / ".state" / name
        self.file = self.folder / "state.json"

    def read(self):
        """The record as a dict; None if the job has not finished here."""
        try:
            return json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, record):
        """Put the record in place of what was there, whole."""
        partial = self.file.with_suffix(".part")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.file)

    def record(self, job, made, **figures):
        """Note that a job has finished: what it was made from and the files that are there now -> the record."""
        outputs = {}
        for pattern in job.outputs:
            for key, path in self.places.files(pattern).items():
                outputs[key] = _stamp(path)
                if key.startswith("run/"):
                    link(path, self.folder / key)
        record = {"made_from": made, "outputs": outputs, "run": self.places.run.name, **figures}
        self.write(record)
        return record

    def missing(self, record):
        """The first output that is not as recorded; empty if all are whole."""
        for key, stamp in record["outputs"].items():
            path = self.folder / key if key.startswith("run/") else self.places.path(key)
            if not _matches(path, stamp):
                return key
        return ""

    def restore(self, record):
        """Put every file of the run's folder back as this job wrote it."""
        for key, stamp in record["outputs"].items():
            if key.startswith("run/") and not _matches(self.places.path(key), stamp):
                link(self.folder / key, self.places.path(key))

    def clear(self):
        """Forget the job and remove what it wrote into the run's folder."""
        record = self.read()
        self.file.unlink(missing_ok=True)
        for key in (record or {"outputs": ()})["outputs"]:
            if key.startswith("run/"):
                self.places.path(key).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def adopt(self, other):
        """Take over a finished job from another run's folder -> its record."""
        record = other.read()
        self.clear()
        for key in record["outputs"]:
            if key.startswith("run/"):
                link(other.folder / key, self.folder / key)
        self.write(record)
        self.restore(record)
        return record


def link(source, target):
    """A hard link in place of `target`, whole; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copy2(source, partial)
    if partial.samefile(target) if target.exists() else False:
        partial.unlink()
    else:
        partial.replace(target)


def _stamp(path):
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, digest(path)]


def _matches(path, stamp):
    """Whether a file is as recorded; its content is read only if its time differs."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return stat.st_size == stamp[0] and (stat.st_mtime_ns == stamp[1] or digest(path) == stamp[2])
