"""The alerts with the highest scores, of chunks and parts of a table in any order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.data.datasets import Dataset

if TYPE_CHECKING:
    from lib.engine.scored import Scored


@dataclass(frozen=True)
class Top:
    """At most `size` alerts with what people need to know of them.

    Parameters
    ----------
    size : alerts that are kept
    n : alerts that have come by
    position : (k,) int64, of the row in the table
    raw, score : (k,) float64, raw and anomaly score
    X : (k, d) float32, the features
    frame : DataFrame of k rows: time, identifiers, text of categories, amount and label, as far as
        there are any, under the user's own names
    """

    size: int
    n: int
    position: np.ndarray
    raw: np.ndarray
    score: np.ndarray
    X: np.ndarray
    frame: pd.DataFrame

    def largest(self) -> Top:
        """Return the `size` alerts with the highest raw score, the highest first.

        Of alerts with one score the first in the table comes first.
        """
        order = np.lexsort([self.position, -self.raw])[: self.size]
        return Top(
            size=self.size,
            n=self.n,
            position=self.position[order],
            raw=self.raw[order],
            score=self.score[order],
            X=self.X[order],
            frame=self.frame.iloc[order],
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return it as arrays of numbers and bytes; `from_arrays` is the inverse."""
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        return {
            "counts": np.array([self.size, self.n]),
            "position": self.position,
            "raw": self.raw,
            "score": self.score,
            "X": self.X,
            "frame": np.frombuffer(stream.getvalue(), np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Top:
        """Return what `to_arrays` has made arrays of."""
        size, n = arrays["counts"].tolist()
        table = pa.ipc.open_stream(pa.py_buffer(arrays["frame"].tobytes())).read_all()
        numbers = {name: arrays[name] for name in ("position", "raw", "score", "X")}
        return cls(size=size, n=n, frame=table.to_pandas(), **numbers)


def shown(dataset: Dataset) -> list[str]:
    """Return the columns of a derived frame that say what a transaction is, each once."""
    named = [dataset.time_column, *dataset.kept, *dataset.text_of.values()]
    named += [column for column in (dataset.amount, dataset.label) if column is not None]
    return list(dict.fromkeys(named))


def of_rows(
    dataset: Dataset,
    frame: pd.DataFrame,
    X: np.ndarray,
    first: int,
    scored: Scored,
    size: int,
) -> Top:
    """Return the top alerts of a derived frame's rows.

    Parameters
    ----------
    X : (n, d) float32, their features
    first : rows of the table before them
    """
    rows = np.flatnonzero(scored.alert)
    columns = [column for column in shown(dataset) if column in frame.columns]
    found = Top(
        size=size,
        n=len(rows),
        position=first + rows.astype(np.int64),
        raw=scored.raw[rows],
        score=scored.score[rows],
        X=X[rows],
        frame=frame[columns].iloc[rows],
    )
    return found.largest()


def join(parts: Iterable[Top]) -> Top:
    """Return the top alerts of several parts; ValueError without any."""
    parts = list(parts)
    if not parts:
        raise ValueError("there is no part to take alerts of")
    # a frame without rows has lost the kinds of its columns
    frames = [part.frame for part in parts if len(part.frame)] or [parts[0].frame]
    joined = Top(
        size=parts[0].size,
        n=sum(part.n for part in parts),
        position=np.concatenate([part.position for part in parts]),
        raw=np.concatenate([part.raw for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        X=np.concatenate([part.X for part in parts]),
        frame=pd.concat(frames, ignore_index=True),
    )
    return joined.largest()
