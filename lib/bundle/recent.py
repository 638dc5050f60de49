"""The history that a bundle brings along: recent raw transactions, for a server to begin with.

A file of columns, `history.npz`, without pickle: text is a list of its different words and, for
each transaction, which of them it is.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.bundle.manifest import HISTORY, read
from lib.errors import BundleError

# what numpy and zipfile raise for bytes that are no archive, or not this one
BROKEN = (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Recent:
    """Raw transactions (n), column by column, in any order.

    Attributes
    ----------
    ids : n texts, each once
    t : (n,) int64, microseconds, see `lib.bundle.raw.Transaction`
    fraud : (n,) float64, 1 = fraud, 0 = genuine, NaN = not known
    numbers : {column: (n,) float64, NaN where missing}
    texts : {column: n texts, None where missing}
    """

    ids: Sequence[str]
    t: np.ndarray
    fraud: np.ndarray
    numbers: Mapping[str, np.ndarray]
    texts: Mapping[str, Sequence[str | None]]

    def __len__(self) -> int:
        return len(self.t)


def pack(recent: Recent) -> bytes:
    """Return the bytes of a history's file; the same history gives the same bytes."""
    columns = {"numbers": list(recent.numbers), "texts": list(recent.texts)}
    arrays = {"t": recent.t, "fraud": recent.fraud, "columns": _as_bytes(columns)}
    arrays["ids"] = _as_bytes(list(recent.ids))
    for place, values in enumerate(recent.numbers.values()):
        arrays[f"number_{place}"] = values
    for place, words in enumerate(recent.texts.values()):
        codes = {word: code for code, word in enumerate(dict.fromkeys(words))}
        arrays[f"words_{place}"] = _as_bytes(list(codes))
        arrays[f"text_{place}"] = np.array([codes[word] for word in words], np.int32)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpack(content: bytes) -> Recent:
    """Return the history of a file's bytes; BundleError if they are none."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            columns = _from_bytes(arrays["columns"])
            numbers = {
                name: arrays[f"number_{place}"] for place, name in enumerate(columns["numbers"])
            }
            texts = {}
            for place, name in enumerate(columns["texts"]):
                words = _from_bytes(arrays[f"words_{place}"])
                texts[name] = [words[code] for code in arrays[f"text_{place}"].tolist()]
            ids = _from_bytes(arrays["ids"])
            return Recent(ids, arrays["t"], arrays["fraud"], numbers, texts)
    except BROKEN as error:
        raise BundleError(f"{HISTORY} is no history of transactions ({error}).") from error


def of_bundle(folder: Path | str) -> Recent | None:
    """Return the verified history in a bundle's folder; None if the bundle has none.

    Raises BundleError if the bundle is not whole.
    """
    _, files = read(Path(folder))
    content = files.get(HISTORY)
    return None if content is None else unpack(content)


def _as_bytes(plain: list | dict) -> np.ndarray:
    """Return JSON as bytes (n,) uint8."""
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _from_bytes(content: np.ndarray) -> Any:
    return json.loads(content.tobytes().decode("utf-8", "surrogatepass"))
