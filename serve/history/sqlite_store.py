"""The history in a file: SQLite with a write-ahead log, for all workers of one host."""

from __future__ import annotations

import contextlib
import itertools
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lib.bundle.raw import Lookup, RawTable, Transaction
from lib.bundle.recent import Recent
from lib.bundle.windows import NEVER, Past
from serve.history import N_AHEAD, SLICE, Status, StoreError, prunable

BUSY_S = 5.0  # how long another process may hold the file
SCHEMA = """
CREATE TABLE IF NOT EXISTS transactions (
  key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, t INTEGER NOT NULL, fraud INTEGER
);
CREATE INDEX IF NOT EXISTS by_time ON transactions (t);
CREATE TABLE IF NOT EXISTS columns (
  place INTEGER PRIMARY KEY, kind TEXT, name TEXT, UNIQUE (kind, name)
);
CREATE TABLE IF NOT EXISTS loaded (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS dataset (name TEXT PRIMARY KEY);
"""
# a commit outlives the process at once; that of the last moment before a power cut may be lost,
# and the file stays whole
SETTINGS = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
CACHE_KB, LOADING_KB = 16_000, 128_000  # of the file's pages in memory, and while many are added


class SqliteStore:
    """See `serve.history.Store`.

    The user's columns are called c0, c1, … in the file, since SQLite takes `Amount` and `amount`
    for one; the table `columns` says which is which. One thread at a time may use a store.

    Parameters
    ----------
    path : the file, made with its folder if it is not there
    dataset : whose transactions they are; a file holds those of one
    """

    def __init__(self, path: Path, dataset: str) -> None:
        self.path, self.dataset = path, dataset
        self.where = str(path)
        self._connection: sqlite3.Connection | None = None
        self._columns: dict[tuple[str, str], str] = {}  # (kind, name) -> name in the file
        self._raw: RawTable | None = None

    def prepare(self, raw: RawTable) -> None:
        """Make room for the columns of a recipe; those of others stay."""
        self._raw = raw
        self.close()  # a new connection makes room
        with self._open():
            pass

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection; whatever SQLite complains of becomes a StoreError."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(
                f"The history in {self.path} cannot be used ({error}); name another place with "
                "FRAUD_HISTORY if this one is not to be written to."
            ) from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.executescript(f"{SETTINGS} PRAGMA cache_size = {-CACHE_KB}")
        with _transaction(connection):
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO dataset SELECT ? WHERE NOT EXISTS (SELECT 1 FROM dataset)",
                (self.dataset,),
            )
            (dataset,) = connection.execute("SELECT name FROM dataset").fetchone()
            if dataset != self.dataset:
                raise sqlite3.Error(f"it holds transactions of {dataset}, not of {self.dataset}")
            if self._raw is not None:
                self._add_columns(connection, self._raw)
        found = connection.execute("SELECT kind, name, place FROM columns")
        self._columns = {(kind, name): f"c{place}" for kind, name, place in found}
        return connection

    def _add_columns(self, connection: sqlite3.Connection, raw: RawTable) -> None:
        wanted = [("REAL", name) for name in raw.numbers] + [("TEXT", name) for name in raw.texts]
        there = {
            (kind, name): place
            for kind, name, place in connection.execute("SELECT kind, name, place FROM columns")
        }
        for kind, name in wanted:
            if (kind, name) in there:
                continue
            place = there[kind, name] = len(there)
            connection.execute("INSERT INTO columns VALUES (?, ?, ?)", (place, kind, name))
            connection.execute(f"ALTER TABLE transactions ADD COLUMN c{place} {kind}")
        for entity, needs, *_ in raw.by_entity:
            place = there["TEXT", entity]
            # with all that is asked for: the rows themselves, which lie anywhere, are not read
            asked = [f"c{there['REAL', name]}" for name in needs.numbers]
            asked += [f"c{there['TEXT', name]}" for name in needs.texts]
            asked += ["fraud"] if needs.labels else []
            name = "_".join(["by", f"c{place}", *asked])
            columns = ", ".join([f"c{place}", "t", *asked])
            connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON transactions ({columns})")

    def _places(self, numbers: Sequence[str], texts: Sequence[str]) -> list[str]:
        """Return what columns are called in the file."""
        of_numbers = [self._columns["REAL", name] for name in numbers]
        return of_numbers + [self._columns["TEXT", name] for name in texts]

    def load(self, recent: Recent, name: str) -> int:
        """Remember many transactions, and return how many are new."""
        numbers = [map(_no_nan, values.tolist()) for values in recent.numbers.values()]
        rows = zip(
            recent.ids,
            recent.t.tolist(),
            map(_no_nan, recent.fraud.tolist()),
            *numbers,
            *recent.texts.values(),
            strict=True,
        )
        with self._open() as connection:
            places = self._places(list(recent.numbers), list(recent.texts))
            filled = ", ".join(f"{c} = coalesce({c}, excluded.{c})" for c in ("fraud", *places))
            insert = _insert(places, f"DO UPDATE SET {filled}")
            n_before = _count(connection)
            connection.execute(f"PRAGMA cache_size = {-LOADING_KB}")
            # in parts: another worker need not wait for all of them
            while part := list(itertools.islice(rows, 100 * SLICE)):
                with _transaction(connection):
                    connection.executemany(insert, part)
            connection.execute("INSERT OR IGNORE INTO loaded VALUES (?)", (name,))
            connection.execute(f"PRAGMA cache_size = {-CACHE_KB}")
            return _count(connection) - n_before

    def has_loaded(self, name: str) -> bool:
        """Return whether `load` has been through with this name."""
        with self._open() as connection:
            found = connection.execute("SELECT 1 FROM loaded WHERE name = ?", (name,))
            return found.fetchone() is not None

    def remember(self, transactions: Sequence[Transaction]) -> int:
        """Keep transactions and return how many are new: an id that is there counts once."""
        numbers, texts = list(transactions[0].numbers), list(transactions[0].texts)
        rows = []
        for transaction in transactions:
            values = [_no_nan(transaction.numbers[name]) for name in numbers]
            words = [transaction.texts[name] for name in texts]
            rows.append((transaction.id, transaction.t, None, *values, *words))
        with self._open() as connection:
            insert = _insert(self._places(numbers, texts), "DO NOTHING")
            if len(rows) == 1:
                return connection.execute(insert, rows[0]).rowcount
            with _transaction(connection):
                return connection.executemany(insert, rows).rowcount

    def past(self, lookups: Sequence[Lookup]) -> list[Past]:
        """Return the earlier transactions that each lookup asks for."""
        with self._open() as connection:
            connection.execute("BEGIN")  # one look at the file for all of them
            keys = {lookup.id: self._key(connection, lookup.id) for lookup in lookups}
            found = [self._past(connection, lookup, keys[lookup.id]) for lookup in lookups]
            connection.execute("COMMIT")
            return found

    def _key(self, connection: sqlite3.Connection, identity: str) -> int:
        """Return the key of a transaction; 0 if it is not there."""
        found = connection.execute("SELECT key FROM transactions WHERE id = ?", (identity,))
        return (found.fetchone() or (0,))[0]

    def _past(self, connection: sqlite3.Connection, lookup: Lookup, key: int) -> Past:
        """Return what a lookup asks for, but for the transaction with a key."""
        entity = self._columns["TEXT", lookup.entity]
        numbers, texts, has_labels = lookup.needs.numbers, lookup.needs.texts, lookup.needs.labels
        wanted = ["t", *self._places(numbers, texts), *(["fraud"] if has_labels else [])]
        found = connection.execute(
            f"SELECT {', '.join(wanted)} FROM transactions "
            f"WHERE {entity} = ? AND t > ? AND t <= ? AND key <> ? ORDER BY t",
            (lookup.value, lookup.begin, lookup.end, key),
        ).fetchall()
        columns = list(zip(*found, strict=True)) if found else [()] * len(wanted)
        n = len(numbers)
        return Past(
            columns[0],
            dict(zip(numbers, columns[1 : 1 + n], strict=True)),
            dict(zip(texts, columns[1 + n : 1 + n + len(texts)], strict=True)),
            columns[-1] if has_labels else (),
            self._last_t(connection, entity, lookup, key),
        )

    def _last_t(self, connection: sqlite3.Connection, entity: str, lookup: Lookup, key: int) -> int:
        """Return the entity's latest instant before the present one; `NEVER` if there is none."""
        if lookup.before is None:
            return NEVER
        found = connection.execute(
            f"SELECT t FROM transactions WHERE {entity} = ? AND t < ? AND key <> ? "
            "ORDER BY t DESC LIMIT 1",
            (lookup.value, lookup.before, key),
        ).fetchone()
        return NEVER if found is None else found[0]

    def label(self, labels: Mapping[str, int | None]) -> list[str]:
        """Set labels by id, and return the ids that are unknown."""
        unknown = []
        with self._open() as connection, _transaction(connection):
            for identity, fraud in labels.items():
                found = connection.execute(
                    "UPDATE transactions SET fraud = ? WHERE id = ?", (fraud, identity)
                )
                if not found.rowcount:
                    unknown.append(identity)
        return unknown

    def prune(self, raw: RawTable, limit: int) -> int:
        """Drop at most `limit` transactions that no window of a recipe can reach any more."""
        with self._open() as connection:
            newest = connection.execute(
                "SELECT t FROM transactions ORDER BY t DESC LIMIT ?", (N_AHEAD,)
            )
            before = prunable(raw.oldest, (t for (t,) in newest))
            if before is None:
                return 0
            # an entity's latest transaction stays where the time since then is a feature
            conditions = ["t <= ?"]
            for entity in raw.latest_of:
                column = self._columns["TEXT", entity]
                later = f"new.{column} = old.{column} AND new.t > old.t"
                there_is = f"EXISTS (SELECT 1 FROM transactions AS new WHERE {later})"
                conditions.append(f"({column} IS NULL OR {there_is})")
            out_of_reach = connection.execute(
                "SELECT key FROM transactions AS old WHERE "
                f"{' AND '.join(conditions)} ORDER BY t LIMIT ?",
                (before, limit),
            ).fetchall()  # reading takes no lock; deleting is short
            with _transaction(connection):
                connection.executemany("DELETE FROM transactions WHERE key = ?", out_of_reach)
            return len(out_of_reach)

    def status(self) -> Status:
        """Return what the store holds."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT count(*), count(fraud), min(t), max(t) FROM transactions"
            )
            return Status(*found.fetchone())

    def close(self) -> None:
        """Let go of the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; the lock is taken at once, so that no one waits for a lock halfway."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _insert(places: Sequence[str], on_conflict: str) -> str:
    named = ["id", "t", "fraud", *places]
    marks = ", ".join("?" * len(named))
    return (
        f"INSERT INTO transactions ({', '.join(named)}) VALUES ({marks}) "
        f"ON CONFLICT (id) {on_conflict}"
    )


def _count(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT count(*) FROM transactions").fetchone()[0]


def _no_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
