"""What a job was made from and what it wrote: enough to say whether it is up to date, and if not, why.

A run's folder keeps, for every finished job, `.state/<job>/state.json` and hard links to the files that it wrote into
the run. What a later stage amends (the comparison adds calibration to the candidates) can so be put back as it was.
"""

import ast
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lib.pipeline.stages import read_cells

# Imports that only a notebook run by hand comes to: the pipeline passes `track=False` and logs from the files itself.
BY_HAND = {"lib/notebook.py": {"lib.tracking"}}
# Imports whose effect is in the data: another simulator makes another split, real data never come to it.
IN_THE_DATA = {"lib/splits.py": {"lib.simulation"}}


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
        found = [
            f for top in (base.glob(tail) if tail else [base]) for f in ([top] if top.is_file() else top.rglob("*"))
        ]
        keys = {f.relative_to(base): f for f in found if f.is_file()}
        return {f"{head}/{k.as_posix()}": f for k, f in keys.items() if not any(p.startswith(".") for p in k.parts)}


def write_json(path, content):
    """Write `content` as JSON, whole or not at all, and on the disk before this returns."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path):
    """The content of a JSON file; None if there is no whole one."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))


def digest(path):
    """Hex sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def imported_files(sources, root, programs=()):
    """Follow import statements, wherever they stand in a source -> sorted list of the project's files, as Path.

    Imports by name (importlib) are not seen: a test forbids them in the project.

    Parameters
    ----------
    sources : list of str, code without a place of its own, such as the cells of notebooks
    root : Path, the project's folder
    programs : list of Path, files whose imports are followed; they are not in the result unless they are imported
    """
    found = set()
    queue = [(source, None) for source in sources]
    queue += [(program.read_text(encoding="utf-8"), program) for program in programs]
    while queue:
        source, importer = queue.pop()
        inside = importer.relative_to(root) if importer else None
        for module in _imports(source, inside):
            for file in (root / f"{module}.py", root / module / "__init__.py"):
                if file not in found and file.is_file():
                    found.add(file)
                    queue.append((file.read_text(encoding="utf-8"), file))
    return sorted(found)


def _imports(source, importer):
    """Everything that may be a module in the import statements of a source -> {"lib", "lib/metrics", …}.

    importer : Path of the source's file within the project, which relative imports start from; None for cells
    """
    names = set()
    for node in _nodes(source):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, importer)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    if importer is not None:
        for left_out in (BY_HAND, IN_THE_DATA):
            names -= left_out.get(importer.as_posix(), set())
    parts = [name.split(".") for name in names]
    return {"/".join(p[:n]) for p in parts for n in range(1, len(p) + 1)}


def _nodes(source):
    """The syntax nodes of a source; lines that only IPython understands are passed over."""
    try:
        return list(ast.walk(ast.parse(source)))
    except SyntaxError:
        lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!", "?"))]
    try:
        return list(ast.walk(ast.parse("\n".join(lines))))
    except SyntaxError:
        return []  # a cell that is no Python fails when it is executed


def _base(node, importer):
    """The module that a `from … import` starts from: `lib.detectors` for `from . import base` in that package."""
    if not node.level or importer is None:
        return node.module or ""
    package = importer.parent.parts[: len(importer.parent.parts) - node.level + 1]
    return ".".join([*package, *filter(None, [node.module])])


@cache
def locked_versions(root):
    """What decides the installed versions: Python, the lock's hash, and torch, which is installed apart from it."""
    lock = root / "requirements.txt"
    torch = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        torch = importlib.metadata.version("torch")
    return {
        "python": platform.python_version(),
        "requirements.txt": digest(lock) if lock.is_file() else None,
        "torch": torch,
    }


def made_from(job, root, inputs, registry):
    """Everything that a job's outputs depend on, as plain data."""
    started = [path for pattern in job.stage.starts for path in sorted(root.glob(pattern))]
    programs = [path for path in started if path.suffix == ".py"]
    cells = {path.name: read_cells(path) for path in [job.notebook, *started] if path.suffix == ".ipynb"}
    sources = [source for of_one in cells.values() for kind, source, _ in of_one if kind == "code"]
    files = {*programs, *imported_files(sources, root, programs)}
    return {
        "notebook": {name: hashlib.sha256(json.dumps(found).encode()).hexdigest() for name, found in cells.items()},
        "files": {f.relative_to(root).as_posix(): digest(f) for f in sorted(files)},
        "parameters": job.parameters,
        "inputs": inputs,
        "registry": registry,
        "versions": locked_versions(root),
    }


def reasons(old, new):
    """What differs between two of them, in words: `parameter latent: 8 → 16`, `lib/metrics.py changed`."""
    said = []
    for part in ("parameters", "registry", "versions"):
        prefix = {"parameters": "parameter ", "registry": "registry, "}.get(part, "")
        before, after = old[part], new[part]
        different = [key for key in sorted({*before, *after}) if before.get(key, "none") != after.get(key, "none")]
        said += [f"{prefix}{key}: {_short(before.get(key))} → {_short(after.get(key))}" for key in different]
    for part in ("notebook", "files", "inputs"):
        before, after = old[part], new[part]
        kinds = {
            "changed": [key for key in after if key in before and before[key] != after[key]],
            "new": [key for key in after if key not in before],
            "gone": [key for key in before if key not in after],
        }
        said += [f"{_listed(keys)} {kind}" for kind, keys in kinds.items() if keys]
    return said


def _listed(keys, n=4):
    return ", ".join(keys[:n]) + (f" and {len(keys) - n} more" if len(keys) > n else "")


def _short(value):
    return value[:8] if isinstance(value, str) and len(value) == 64 else value


class State:
    """What is on record of one job in one run's folder."""

    def __init__(self, places, job):
        self.places, self.job = places, job
        self.folder = places.run / ".state" / job.name

    @property
    def record(self):
        """{"made_from", "outputs": {key: [bytes, time in ns, sha256]}, …}; None if the job has not finished here."""
        return read_json(self.folder / "state.json")

    def keep(self, made, **figures):
        """Note that the job has finished, made from this, with the files that are there now -> the record."""
        outputs = {}
        for pattern in self.job.outputs:
            for key, path in self.places.files(pattern).items():
                outputs[key] = _stamp(path)
                if key.startswith("run/"):
                    link(path, self.folder / key)
        return self.note({"made_from": made, "outputs": outputs, "run": self.places.run.name, **figures})

    def note(self, record):
        """Put a record in place -> the record."""
        write_json(self.folder / "state.json", record)
        return record

    def kept(self, key):
        """Where the job's own version of an output is."""
        return self.folder / key if key.startswith("run/") else self.places.path(key)

    def damage(self, record):
        """The first output that is not as the job wrote it; None if all are whole."""
        return next((key for key, stamp in record["outputs"].items() if not _matches(self.kept(key), stamp)), None)

    def clear(self):
        """Forget the job, and remove what it, finished or not, wrote into the run's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for pattern in self.job.outputs:
            if pattern.startswith("run/"):
                for path in self.places.files(pattern).values():
                    path.unlink()

    def adopt(self, other):
        """Take over the finished job from another run's folder -> the record."""
        record = {key: value for key, value in other.record.items() if key != "mlflow_run"}  # that was another run's
        self.clear()
        for key in record["outputs"]:
            if key.startswith("run/"):
                link(other.kept(key), self.kept(key))
        return self.note(record)


def put_back(states):
    """Make a run's folder what it was when these jobs had finished, in this order."""
    last = {}
    for state in states:
        last |= {key: (state, stamp) for key, stamp in state.record["outputs"].items()}
    for key, (state, stamp) in last.items():
        if key.startswith("run/") and not _matches(state.places.path(key), stamp):
            link(state.kept(key), state.places.path(key))


def link(source, target):
    """A hard link in place of `target`; a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copy2(source, partial)
    partial.replace(target)
    partial.unlink(missing_ok=True)  # it stays where both were links to one file


def _stamp(path):
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is recorded as whole survives a power cut
        stat = os.fstat(file.fileno())
    return [stat.st_size, stat.st_mtime_ns, digest(path)]


def _matches(path, stamp):
    """Whether a file is as recorded; its content is read only if its time differs."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return stat.st_size == stamp[0] and (stat.st_mtime_ns == stamp[1] or digest(path) == stamp[2])
