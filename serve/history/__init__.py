"""What happened before: the transactions that histories look back at, and where they are kept.

A store is one of two: a file (SQLite) for the workers of one host, or Redis for several hosts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from lib.bundle.raw import Lookup, RawTable, Transaction
from lib.bundle.recent import Recent
from lib.bundle.windows import Past
from serve.settings import STORES

# the newest transactions that do not say how late it is: one wrong clock must not drop all others
N_AHEAD = 100
SLICE = 1_000  # transactions that are loaded or dropped in one go


class StoreError(Exception):
    """The store cannot be reached or written to; the message is a sentence."""


@dataclasses.dataclass(frozen=True)
class Status:
    """What a store holds.

    Attributes
    ----------
    n, n_labelled : transactions, and those of them whose label is known
    first, last : their instants in microseconds; None without any
    """

    n: int
    n_labelled: int
    first: int | None
    last: int | None


class Store(Protocol):
    """Keeps raw transactions, each once by its id, for all workers of a server.

    Every method raises `StoreError` if the store is down; what has been remembered when a method
    returns outlives the process.
    """

    where: str

    def prepare(self, raw: RawTable) -> None:
        """Make room for the columns of a recipe; those of others stay."""

    def load(self, recent: Recent, name: str) -> int:
        """Remember many transactions, and return how many are new.

        Of one that is there, what is missing is filled in: columns, the label. `name` is noted, so
        that `has_loaded` knows it.
        """

    def has_loaded(self, name: str) -> bool:
        """Return whether `load` has been through with this name."""

    def remember(self, transactions: Sequence[Transaction]) -> int:
        """Keep transactions and return how many are new: an id that is there counts once."""

    def past(self, lookups: Sequence[Lookup]) -> list[Past]:
        """Return the earlier transactions that each lookup asks for."""

    def label(self, labels: Mapping[str, int | None]) -> list[str]:
        """Set labels by id: 1 = fraud, 0 = genuine, None = not known; return ids not there."""

    def prune(self, raw: RawTable, limit: int) -> int:
        """Drop at most `limit` transactions that no window of a recipe can reach any more.

        Return how many were dropped.
        """

    def status(self) -> Status:
        """Return what the store holds."""

    def close(self) -> None:
        """Let go of connections."""


def open_store(address: str, dataset: str) -> Store:
    """Return the store of a data set's transactions at an address; nothing is opened yet.

    Parameters
    ----------
    address : a folder or a file for SQLite, or a URL such as redis://host:6379/0
    dataset : its name; transactions of different ones are kept apart

    Raises ValueError for a URL of another kind.
    """
    scheme, _, rest = address.partition("://")
    if not rest:
        from serve.history.sqlite_store import SqliteStore

        path = Path(address)
        if not path.suffix or path.is_dir():
            path /= f"{quote(dataset, safe='')}.sqlite"
        return SqliteStore(path, dataset)
    if scheme in STORES:
        from serve.history.redis_store import RedisStore

        return RedisStore(address, dataset)
    raise ValueError(
        f"{scheme}:// is no kind of store; give a folder, a file, or a URL that begins with "
        "redis:// or rediss://"
    )


def prunable(horizon: int, newest: Iterable[int]) -> int | None:
    """Return before which instant transactions are out of reach; None if nothing is.

    Parameters
    ----------
    horizon : how far back windows look, in microseconds
    newest : instants of the newest transactions, the latest first
    """
    ahead = list(newest)
    if len(ahead) < N_AHEAD:
        return None
    return ahead[N_AHEAD - 1] - horizon
