"""What a job's outputs depend on: notebook, imported code, parameters, inputs, versions."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lib.files import sha256
from lib.pipeline.settings import Job
from lib.pipeline.stages import read_cells

PARSING_TRIES = 10
# Imports that only a notebook run by hand reaches: the pipeline passes `track=False` and logs from
# the files itself, so that an edit of how MLflow is spoken to reruns no fit.
BY_HAND = {"lib/notebook.py": {"lib.registry.tracking"}}
# Imports whose effect is in the data: another simulator makes another split, which real data never
# see.
IN_THE_DATA = {"lib/data/splits.py": {"lib.data.simulators"}}

IPYTHON = ("%", "!", "?")  # what lines begin with that are not Python


def made_from(job: Job, root: Path, inputs: dict, registry: dict) -> dict[str, Any]:
    """Return everything that a job's outputs depend on, as plain data.

    Parameters
    ----------
    inputs : {place: hash} of what the job reads
    registry : what it reads of the registry
    """
    started: list[Path] = []
    for pattern in job.stage.starts:
        started += sorted(root.glob(pattern))
    programs = [path for path in started if path.suffix == ".py"]
    notebooks = [path for path in started if path.suffix == ".ipynb"]
    notebooks.insert(0, job.notebook)
    cells = {path.name: read_cells(path) for path in notebooks}
    sources = []
    for of_one in cells.values():
        sources += [cell.source for cell in of_one if cell.kind == "code"]
    files = sorted({*programs, *imported_files(sources, root, programs)})
    return {
        "notebook": {name: _hash(of_one) for name, of_one in cells.items()},
        "files": {path.relative_to(root).as_posix(): sha256(path) for path in files},
        "parameters": job.parameters,
        "inputs": inputs,
        "registry": registry,
        "versions": locked_versions(root),
    }


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def imported_files(sources: Iterable[str], root: Path, programs: Sequence[Path] = ()) -> list[Path]:
    """Return the project's files that sources import, directly or not, sorted.

    Import statements are followed wherever they stand. Imports by name (importlib) are not seen: a
    test forbids them in the project.

    Parameters
    ----------
    sources : code without a file of its own, such as the cells of notebooks
    root : the project's folder
    programs : files whose imports are followed; they are in the result only if something imports
        them
    """
    found: set[Path] = set()
    queue: list[tuple[str, Path | None]] = [(source, None) for source in sources]
    queue += [(program.read_text(encoding="utf-8"), program) for program in programs]
    while queue:
        source, importer = queue.pop()
        inside = importer.relative_to(root) if importer else None
        for file in _files(_imported_names(source, inside), root):
            if file in found:
                continue
            found.add(file)
            queue.append((file.read_text(encoding="utf-8"), file))
    return sorted(found)


def _imported_names(source: str, importer: Path | None) -> set[str]:
    """Return what may be modules in a source's imports: {"lib.evaluation.metrics", …}.

    `importer` is the source's file within the project, which relative imports start from.
    """
    names: set[str] = set()
    for node in _nodes(source):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, importer)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    if importer is not None:
        file = importer.as_posix()
        names -= BY_HAND.get(file, set())
        names -= IN_THE_DATA.get(file, set())
    return names


def _files(names: Iterable[str], root: Path) -> Iterator[Path]:
    """Yield the project's files that importing these names executes, those of packages too."""
    for name in names:
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            module = root.joinpath(*parts[:n])
            candidates = (module.with_name(f"{module.name}.py"), module / "__init__.py")
            for file in candidates:
                if file.is_file():
                    yield file


def _parsed(source: str) -> ast.Module:
    """Return a source's syntax tree.

    CPython before 3.13 counts the depth of its parser for all threads together (see python/cpython
    gh-106905): where another thread parses at the same moment, it may fail with a SystemError.
    """
    for _ in range(PARSING_TRIES):
        with contextlib.suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def _nodes(source: str) -> list[ast.AST]:
    """Return the syntax nodes of a source; lines that only IPython understands are passed over."""
    try:
        return list(ast.walk(_parsed(source)))
    except SyntaxError:
        lines = source.splitlines()
    python = [line for line in lines if not line.lstrip().startswith(IPYTHON)]
    try:
        return list(ast.walk(_parsed("\n".join(python))))
    except SyntaxError:
        return []  # a cell that is not Python fails when it is executed


def _base(node: ast.ImportFrom, importer: Path | None) -> str:
    """Return the module that a `from … import` starts from, also where it is relative."""
    if not node.level or importer is None:
        return node.module or ""
    folders = importer.parent.parts
    n_kept = len(folders) - node.level + 1
    parts = list(folders[:n_kept])
    if node.module:
        parts.append(node.module)
    return ".".join(parts)


@cache
def locked_versions(root: Path) -> dict[str, str | None]:
    """Return what decides the installed versions: Python, the lock's hash, and torch.

    Torch is installed apart from the lock, as its build depends on the machine.
    """
    lock = root / "requirements.txt"
    return {
        "python": platform.python_version(),
        "requirements.txt": sha256(lock) if lock.is_file() else None,
        "torch": _installed_version("torch"),
    }


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def reasons(old: dict, new: dict) -> list[str]:
    """Return what differs between two results of `made_from`, in words.

    Such as `parameter latent: 8 → 16`, `lib/evaluation/metrics.py changed`.
    """
    said = []
    for part, prefix in (
        ("parameters", "parameter "),
        ("registry", "registry, "),
        ("versions", ""),
    ):
        said += [prefix + change for change in _changed_values(old[part], new[part])]
    for part in ("notebook", "files", "inputs"):
        said += _changed_files(old[part], new[part])
    return said


def _changed_values(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return `latent: 8 → 16` for each value that differs."""
    said = []
    for key in sorted({*before, *after}):
        was = before.get(key, "none")
        is_now = after.get(key, "none")
        if was != is_now:
            said.append(f"{key}: {_short(before.get(key))} → {_short(after.get(key))}")
    return said


def _changed_files(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return `a.py, b.py changed` and the like for hashes that differ, are new or are gone."""
    both = [key for key in after if key in before]
    found = {
        "changed": [key for key in both if before[key] != after[key]],
        "new": [key for key in after if key not in before],
        "gone": [key for key in before if key not in after],
    }
    return [f"{_listed(keys)} {what}" for what, keys in found.items() if keys]


def _listed(keys: list[str], n: int = 4) -> str:
    listed = ", ".join(keys[:n])
    if len(keys) > n:
        listed += f" and {len(keys) - n} more"
    return listed


def _short(value: Any) -> Any:
    """Return the first characters of a hash; anything else as it is."""
    is_hash = isinstance(value, str) and len(value) == 64
    if is_hash:
        return value[:8]
    return value
