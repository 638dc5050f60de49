"""Requests that arrive together are scored together.

One run of the graph for all of them costs little more than for one.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np

from lib.bundle import Bundle

# predictions (n,) int8, anomaly scores (n,) float64, the batch's seconds
Scored = tuple[np.ndarray, np.ndarray, float]

MAX_ROWS = 512  # of one batch: the loop sees to other work between two


class Batches:
    """Collects what is decoded in one turn of the event loop, and scores it in the next.

    A single request waits for nobody; under load there is one run of the graph for as many requests
    as have come meanwhile, on warm caches.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Bundle, np.ndarray, asyncio.Future[Scored]]] = []

    async def score(self, bundle: Bundle, X: np.ndarray) -> Scored:
        """Return predictions (n,) int8, anomaly scores (n,) float64 and the batch's seconds.

        X is (n, d) float32.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._turn)
        self._waiting.append((bundle, X, future))
        return await future

    def _turn(self) -> None:
        """Score one batch, and leave to the next turn what is too much or for another bundle."""
        bundle, n, size = self._waiting[0][0], 0, 0
        for other, X, _ in self._waiting:
            if other is not bundle or (n and size + len(X) > MAX_ROWS):
                break
            n, size = n + 1, size + len(X)
        batch, self._waiting = self._waiting[:n], self._waiting[n:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        parts, futures = [X for _, X, _ in batch], [future for _, _, future in batch]
        start = time.perf_counter()
        try:
            predictions, scores = bundle.predict(parts[0] if n == 1 else np.concatenate(parts))
        except Exception as error:  # each of them answers for itself
            for future in futures:
                if not future.cancelled():
                    future.set_exception(error)
            return
        seconds, first = time.perf_counter() - start, 0
        for X, future in zip(parts, futures, strict=True):
            last = first + len(X)
            if not future.cancelled():
                future.set_result((predictions[first:last], scores[first:last], seconds))
            first = last
