"""Uniform samples of the rows of a table, which do not depend on how the table is cut into parts.

Every row draws a lot, a number that follows from a seed and the row's position alone; the rows with
the smallest lots are the sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lib.data.datasets import Arrays


def lots(seed: int, first: int, n: int) -> np.ndarray:
    """Return the lots (n,) float64 in [0, 1) of the rows from position `first` on.

    They are those that `numpy.random.default_rng(seed)` draws one after the other.
    """
    bits = np.random.PCG64(seed)
    bits.advance(first)
    return np.random.Generator(bits).random(n)


@dataclass(frozen=True)
class Drawn:
    """Rows with their lots: lot (n,) of [0, 1), data and score (n,)."""

    lot: np.ndarray
    data: Arrays
    score: np.ndarray

    def take(self, rows: np.ndarray) -> Drawn:
        """Return some of them: a boolean mask (n,) or positions."""
        return Drawn(self.lot[rows], self.data.take(rows), self.score[rows])


def join(parts: Sequence[Drawn]) -> Drawn:
    """Return the rows of several parts one behind the other."""
    fields = []
    for values in zip(*(part.data for part in parts), strict=True):
        fields.append(None if values[0] is None else np.concatenate(values))
    return Drawn(
        lot=np.concatenate([part.lot for part in parts]),
        data=Arrays(*fields),
        score=np.concatenate([part.score for part in parts]),
    )


def limit(size: int, rows: int) -> float:
    """Return a number under which the `size` smallest lots of `rows` rows lie.

    More lots lie under it, by six standard deviations of their number: that they are too few
    happens once in a thousand million tables.
    """
    return (size + 6 * np.sqrt(size) + 10) / rows


def smallest(parts: Iterable[Drawn], size: int) -> Drawn:
    """Return the `size` rows with the smallest lots, in their order; all if there are no more."""
    joined = join(list(parts))
    if len(joined.lot) <= size:
        return joined
    above = np.partition(joined.lot, size)[size]
    return joined.take(joined.lot < above)


class Sample:
    """At most `size` of all rows that come by, each with the same chance, in their order."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self.n = 0  # rows that have come by
        self.parts: list[Drawn] = []
        self.limit = 1.0  # lots from here on have lost already

    def add(self, data: Arrays, score: np.ndarray) -> None:
        """Look at a chunk: Arrays and its scores (n,)."""
        lot = lots(self.seed, self.n, len(score))
        self.n += len(score)
        part = Drawn(lot, data, score)
        self.parts.append(part.take(np.flatnonzero(lot < self.limit)))
        # to draw takes a copy of all: not for every chunk
        if sum(len(part.lot) for part in self.parts) > 2 * self.size:
            self._draw()

    def _draw(self) -> None:
        """Keep the rows with the smallest lots; only smaller ones can join them later."""
        kept = smallest(self.parts, self.size)
        if len(kept.lot) == self.size:
            self.limit = np.nextafter(kept.lot.max(), 1.0)
        self.parts = [kept]

    def rows(self) -> tuple[Arrays, np.ndarray]:
        """Return the sample: Arrays and scores (n,)."""
        self._draw()
        return self.parts[0].data, self.parts[0].score
