"""What identifies raw transactions: the bytes of their files, and the values of their rows.

The hash of a file is remembered, and the file read for it again only if it has changed: if its
size, its time of change or the time at which its entry on the disk changed are not what they were.
The last of these moves also where a file is replaced and given its old time back.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib import files
from lib.data import reading
from lib.data.times import seconds

if TYPE_CHECKING:
    from lib.data.datasets import Dataset

MEMORY = ".known_files"  # {path: [bytes, mtime_ns, ctime_ns, sha256]}
SETTLED_NS = 100_000_000  # a later write within one tick of the clock would leave both times alone


def of_rows(dataset: Dataset, frame: pd.DataFrame) -> str:
    """Return the hex SHA-256 of what identifies raw rows, in any file format.

    Over time_s (float64), amount in cents (int64) and label (int8), as far as there are such
    columns, little endian, column after column; weights take no part.

    Parameters
    ----------
    frame : checked, its rows in the file's order
    """
    time_s = seconds(frame[dataset.time_column])
    parts = [time_s.astype("<f8")]
    if dataset.amount is not None:
        amount = frame[dataset.amount].to_numpy(np.float64)
        cents = np.rint(np.nan_to_num(amount) * 100)
        parts.append(cents.astype("<i8"))
    if dataset.label is not None:
        label = frame[dataset.label].to_numpy(np.int8)
        parts.append(label)
    content = b"".join(part.tobytes() for part in parts)
    return hashlib.sha256(content).hexdigest()


def of_bytes(path: Path, memory: Path) -> str:
    """Return the hex SHA-256 of a file's bytes; of a folder, over its files' names and hashes.

    Parameters
    ----------
    memory : the folder in which `MEMORY` is kept
    """
    if path.is_file():
        return _remembered(path, memory / MEMORY)
    whole = hashlib.sha256()
    for part in reading.parts(path):
        name = part.relative_to(path).as_posix()
        digest = _remembered(part, memory / MEMORY)
        whole.update(f"{name}\n{digest}\n".encode())
    return whole.hexdigest()


def _remembered(path: Path, memory: Path) -> str:
    key = str(path.resolve())
    stamp = _stamp(path)
    known = files.read_json(memory, {})
    *seen, digest = known.get(key, [None])
    if seen == stamp:
        return digest
    digest = files.sha256(path)
    is_settled = time.time_ns() - max(stamp[1:]) > SETTLED_NS
    if is_settled and _stamp(path) == stamp:
        # another process may do the same: what it loses of the memory is read once more
        known = files.read_json(memory, {})
        known[key] = [*stamp, digest]
        files.write_json(memory, known)
    return digest


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
