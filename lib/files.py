"""Files that are written whole or not at all; JSON, hashes, links and locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place if the block succeeds.

    A reader sees the old file or the new one, never a part, also after a power cut: the content is
    on the disk before it gets its name. The temporary name keeps the suffix, which some writers go
    by.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write `content` to `path`, whole or not at all; return the path."""
    with whole(path) as partial:
        partial.write_bytes(content)
    return Path(path)


def write_text(path: Path | str, text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all; return the path."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, content: Any) -> Path:
    """Write `content` as JSON, whole or not at all; return the path.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path | str, default: Any = None) -> Any:
    """Return the content of a JSON file, or `default` where there is no file or no whole one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default


def sha256(path: Path | str) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """Put a hard link to `source` in place of `target`; a copy where there are no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".part-{os.getpid()}-{target.name}")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copy2(source, partial)
    partial.replace(target)
    partial.unlink(missing_ok=True)  # renaming a link onto its own file leaves both names


@contextlib.contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Hold the lock file `path`; wait while another process holds it.

    The system releases it when the process dies, whichever way.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
