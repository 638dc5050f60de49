"""Raw transactions of a request: decoded, looked up, made into features, remembered."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import numpy as np

from lib.bundle import recent
from lib.bundle.manifest import HISTORY
from lib.bundle.raw import CellError, RawTable, Transaction
from serve import telemetry
from serve.errors import RequestError
from serve.history import Store, StoreError, open_store
from serve.model import Served
from serve.rows import not_json, once

log = logging.getLogger("serve.history")

STARTS = re.compile(rb'\s*\{\s*"transactions"')  # a body with raw transactions
LABELS = {"transaction", "fraud"}  # keys of a label that every model takes
PRUNE_EVERY = 50  # transactions remembered; often, so that no request waits long for it
PART = 64  # transactions that are looked up before another request has its turn

Result = TypeVar("Result")


def decode(body: bytes, served: Served, max_rows: int) -> list[Transaction]:
    """Return the transactions of {"transactions": [{column: value, …}, …]}, each cell checked.

    Raises RequestError with row and column for what cannot be used.
    """
    if served.raw is None:
        raise RequestError(
            422,
            "no_recipe",
            "This model takes 'features' alone: it was made without a recipe for raw transactions.",
            field="transactions",
        )
    found = []
    for i, row in enumerate(_objects(body, "transactions", max_rows)):
        try:
            found.append(served.raw.read(row))
        except CellError as error:
            _refuse(i, error)
    return found


def decode_labels(body: bytes, served: Served, max_rows: int) -> dict[str, int | None]:
    """Return the labels of {"labels": [{"transaction": id, "fraud": 1}, …]}: {id: label}.

    The keys may be the columns' own names as well. Raises RequestError for what cannot be used.
    """
    raw = served.raw
    if raw is None or not raw.has_histories or raw.id is None:
        message = "This model remembers no transactions: its description has no histories or 'ids'."
        raise RequestError(422, "no_history", message)
    found = {}
    for i, row in enumerate(_objects(body, "labels", max_rows)):
        values = []
        for key, column in (("transaction", raw.id), ("fraud", raw.label)):
            name = next((name for name in (column, key) if name in row), None)
            if name is None:
                message = f"Row {i} lacks {key!r}; send {{'transaction': …, 'fraud': 1}}."
                raise RequestError(422, "missing_key", message, i, key)
            values.append((name, row[name]))
        unknown = [name for name in row if name not in LABELS | {raw.id, raw.label}]
        if unknown:
            message = f"Row {i} has the unknown key {unknown[0][:60]!r}."
            raise RequestError(422, "unknown_key", message, i, unknown[0][:60])
        try:
            (_, identity), (column, label) = values
            identity = raw.identity(identity)
            found[identity] = raw.known_label(label, column)
        except CellError as error:
            _refuse(i, error)
        if not identity:
            message = f"Row {i}, {raw.id}: is empty; a label needs its transaction's id."
            raise RequestError(422, "missing_id", message, i, raw.id)
    return found


def _refuse(i: int, error: CellError) -> NoReturn:
    code = "missing_column" if "missing" in str(error) else "wrong_value"
    message = f"Row {i}, {error.column}: {error}."
    raise RequestError(422, code, message, i, error.column[:60]) from error


def _objects(body: bytes, key: str, max_rows: int) -> list[dict[str, Any]]:
    """Return the objects of a body {key: [{…}, …]}; RequestError for anything else."""
    try:
        whole = json.loads(body, object_pairs_hook=once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise not_json(body, error) from error
    if not isinstance(whole, dict) or key not in whole:
        message = f"The body must be an object with {key!r}, a list of objects."
        raise RequestError(422, "missing_key", message, field=key)
    for name in whole:
        if name != key:
            message = f"The body has the unknown key {name[:60]!r}; send only {key!r}."
            raise RequestError(422, "unknown_key", message, field=name[:60])
    rows = whole[key]
    if not isinstance(rows, list):
        raise RequestError(422, "wrong_type", f"{key!r} must be a list of objects.", field=key)
    if not rows:
        message = f"{key!r} is an empty list; send at least one object."
        raise RequestError(422, "empty", message, field=key)
    if len(rows) > max_rows:
        message = f"{len(rows)} in one request; at most {max_rows} are taken: send fewer."
        raise RequestError(413, "too_many_rows", message)
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            message = f"Row {i} must be an object of columns and values."
            raise RequestError(422, "wrong_type", message, i)
    return rows


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


class Histories:
    """The store of the served model's transactions, on a thread of its own.

    A lookup waits for a disk or another host; the event loop goes on meanwhile, and requests are
    looked up in the order in which they came.

    Parameters
    ----------
    address : see `serve.history.open_store`
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._store: Store | None = None
        self._ready_for: str | None = None  # hash of the bundle whose columns the store has
        self._n_since_pruned = 0
        self.reason = ""  # why the store did not answer the last time; empty if it did

    async def features(
        self, served: Served, transactions: Sequence[Transaction], remember: bool
    ) -> np.ndarray:
        """Return the features (n, d) float32 of transactions, and keep these for later ones.

        Each counts as if it came at its own time: those of one request see each other where they
        are remembered.

        Raises
        ------
        RequestError
            503 if the store is down; 422 if a transaction that is to be remembered has no id.
        """
        if not served.raw.has_histories:
            return _matrix(served.raw, transactions, [{}] * len(transactions))
        if remember:
            _refuse_nameless(served.raw, transactions)
        first, *rest = (transactions[i : i + PART] for i in range(0, len(transactions), PART))
        kept = transactions if remember else []
        parts = [await self._on_thread(lambda: self._derive(served, first, kept))]
        for part in rest:
            parts.append(await self._on_thread(functools.partial(self._derive, served, part)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    async def label(self, served: Served, labels: dict[str, int | None]) -> list[str]:
        """Set labels by id, and return the ids that are unknown; RequestError as above."""

        def set_labels() -> list[str]:
            unknown = self._open(served).label(labels)
            telemetry.labels.inc(len(labels) - len(unknown))
            return unknown

        return await self._on_thread(set_labels)

    async def prepare(self, served: Served | None) -> None:
        """Open the store for a bundle and load the history that it brings along.

        A store that is down is said once, and tried again by each request.
        """
        if served is None or served.raw is None or not served.raw.has_histories:
            return
        try:
            await self._on_thread(lambda: self._open(served))
        except RequestError as error:
            log.error("no history", extra={"data": {"reason": error.message}})

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, work)
            self.reason = ""
            return result
        except StoreError as error:
            self._ready_for = None
            self.reason = str(error)
            again = [(b"retry-after", b"1")]
            raise RequestError(503, "no_history", str(error), headers=again) from error

    def _open(self, served: Served) -> Store:
        """Return the store, with the columns and the history of a bundle."""
        if self._store is None:
            dataset = served.bundle.manifest.get("dataset", {})
            self._store = open_store(self.address, str(dataset.get("name", served.name)))
        if self._ready_for != served.bundle.hash:
            self._store.prepare(served.raw)
            self._load(served)
            self._ready_for = served.bundle.hash
        return self._store

    def _load(self, served: Served) -> None:
        """Load the bundle's own history, once."""
        content = served.bundle.history
        if content is None:
            return
        name = served.bundle.manifest["files"][HISTORY]
        if not self._store.has_loaded(name):
            start = time.perf_counter()
            n_new = self._store.load(recent.unpack(content), name)
            seconds = round(time.perf_counter() - start, 3)
            data = {"transactions": n_new, "store": self._store.where, "seconds": seconds}
            log.info("history loaded", extra={"data": data})

    def _remember(self, served: Served, transactions: Sequence[Transaction]) -> None:
        store = self._open(served)
        n_new = store.remember(transactions)
        telemetry.remembered.inc(n_new)
        self._n_since_pruned += n_new
        if self._n_since_pruned >= PRUNE_EVERY:
            # twice as many as have come: the store does not grow, and catches up
            store.prune(served.raw, 2 * self._n_since_pruned)
            self._n_since_pruned = 0

    def _derive(
        self,
        served: Served,
        transactions: Sequence[Transaction],
        remembered: Sequence[Transaction] = (),
    ) -> np.ndarray:
        """Return the features (n, d) float32 of transactions; `remembered` are kept before."""
        start = time.perf_counter()
        if remembered:
            self._remember(served, remembered)
        asked = [served.raw.lookups(transaction) for transaction in transactions]
        flat = [lookup for lookups in asked for lookup in lookups]
        found = iter(self._open(served).past(flat))
        pasts = [{lookup.entity: next(found) for lookup in lookups} for lookups in asked]
        X = _matrix(served.raw, transactions, pasts)
        telemetry.lookup.observe(time.perf_counter() - start)
        return X

    def close(self) -> None:
        """End the thread and let go of the store."""
        self._pool.shutdown()
        if self._store is not None:
            self._store.close()


def _matrix(raw: RawTable, transactions: Sequence[Transaction], pasts: Sequence) -> np.ndarray:
    return raw.matrix(transactions, pasts).astype(np.float32)


def _refuse_nameless(raw: RawTable, transactions: Sequence[Transaction]) -> None:
    """Refuse to remember what could not be told from its repetition."""
    if raw.id is None:
        message = (
            "This model's description names no 'ids', so that a transaction that is sent twice "
            "would count twice; send ?remember=false to only score."
        )
        raise RequestError(422, "no_id", message)
    for i, transaction in enumerate(transactions):
        if not transaction.id:
            message = (
                f"Row {i} lacks {raw.id!r}, its id: sent twice, it would count twice. Send "
                "?remember=false to only score."
            )
            raise RequestError(422, "missing_id", message, i, raw.id)
