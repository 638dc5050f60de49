"""Measure what candidates cost to score: time and size, of the very graph that would be served."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib import bundle

N_ROWS = 100  # a batch, as a server gets it
N_ROUNDS = 3  # over all candidates in turn, so that a busy moment does not hit only one of them
ROUND_S = 0.04  # of one candidate in one round; a graph that takes longer runs once
EQUAL = 1.5  # times that differ by no more than this factor count as equal: timing is noisy


@dataclass(frozen=True)
class Cost:
    """What a model costs to score.

    score_us : time a row (µs), in batches of 100 rows on one thread; bytes : size of model.onnx
    """

    score_us: float
    bytes: int

    @property
    def time(self) -> str:
        """The time as people read it, two digits: `2.1`, `38`."""
        return _two_digits(self.score_us)

    @property
    def size(self) -> str:
        """The size as people read it: `310 bytes`, `12 kB`, `2.9 MB`."""
        for unit, name in ((1e6, "MB"), (1e3, "kB")):
            if self.bytes >= unit:
                return f"{_two_digits(self.bytes / unit)} {name}"
        return f"{self.bytes} bytes"


def _two_digits(value: float) -> str:
    """Write a positive number with two significant digits, and no exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def measure(folders: Mapping[str, Path], X: np.ndarray) -> dict[str, Cost]:
    """Return what each candidate costs to score: {name: Cost}; about 0.15 s each.

    The least time of several, which other processes can only lengthen.

    folders : {candidate: folder}; X : (n, d) float32, whose first rows are scored
    """
    # resize repeats rows where there are fewer
    batch = np.resize(X[:N_ROWS], (N_ROWS, X.shape[1]))
    scorers = {name: bundle.load(folder).raw_score for name, folder in folders.items()}
    least = dict.fromkeys(folders, np.inf)
    for _ in range(N_ROUNDS):
        for name, scorer in scorers.items():
            least[name] = min(least[name], _least_s(scorer, batch))
    costs = {}
    for name, folder in folders.items():
        size = (Path(folder) / "model.onnx").stat().st_size
        score_us = round(least[name] / N_ROWS * 1e6, 3)
        costs[name] = Cost(score_us, size)
    return costs


def _least_s(scorer: Callable, batch: np.ndarray) -> float:
    """Return the least seconds that scoring a batch (n, d) takes, in a round of ROUND_S."""
    least = np.inf
    end = time.perf_counter() + ROUND_S
    start = time.perf_counter()
    while start < end:
        scorer(batch)
        now = time.perf_counter()
        least = min(least, now - start)
        start = now
    return least
