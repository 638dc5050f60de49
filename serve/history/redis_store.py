"""The history in Redis or Valkey, for several hosts.

Everything is written so that it can be written twice: a row is a hash whose fields are set once,
and an entity's transactions are a set sorted by time. Scripts run in the server: no transaction is
half there, and hundreds of rows come back as one answer. Numbers travel as text, which is exact.
Their keys are made as they go, so that this is not for Redis Cluster.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lib.bundle.raw import Lookup, RawTable, Transaction
from lib.bundle.recent import Recent
from lib.bundle.windows import NEVER, Past
from serve.history import N_AHEAD, SLICE, Status, StoreError, prunable

if TYPE_CHECKING:
    from redis import Redis

TIMEOUT_S = 2.0
KEEP = """
local n_new = 0
for _, row in ipairs(cjson.decode(ARGV[1])) do
  n_new = n_new + redis.call('ZADD', KEYS[1], 'NX', row.t, row.id)
  for name, cell in pairs(row.cells) do redis.call('HSETNX', row.key, name, cell) end
  for _, key in ipairs(row.entities) do redis.call('ZADD', key, 'NX', row.t, row.id) end
end
return n_new
"""
# of each lookup: the cells of what it covers, and the latest instant before the present one
LOOK_UP = """
local found = {}
for i, key in ipairs(KEYS) do
  local asked = cjson.decode(ARGV[i])
  local rows = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. asked.begin, asked.last)) do
    if id ~= asked.id then
      rows[#rows + 1] = redis.call('HMGET', asked.prefix .. id, unpack(asked.fields))
    end
  end
  local latest = false
  if asked.before then
    local pairs = redis.call(
      'ZREVRANGEBYSCORE', key, '(' .. asked.before, '-inf', 'WITHSCORES', 'LIMIT', 0, 2)
    for j = #pairs - 1, 1, -2 do
      if pairs[j] ~= asked.id then latest = pairs[j + 1] end
    end
  end
  found[i] = {rows, latest}
end
return cjson.encode(found)
"""
# of a transaction that is there: a label must not make one of an id alone
LABEL = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if ARGV[1] == '' then redis.call('HDEL', KEYS[1], 'fraud')
else redis.call('HSET', KEYS[1], 'fraud', ARGV[1]) end
return 1
"""


class RedisStore:
    """See `serve.history.Store`.

    Parameters
    ----------
    url : redis://, rediss:// (TLS) or unix://, with name and password where they are asked for
    dataset : whose transactions they are; all keys begin with it
    """

    def __init__(self, url: str, dataset: str) -> None:
        self.keys = _Keys(dataset)
        self.url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
        # a password is not repeated
        self.where = f"{url.partition('://')[0]}://{url.rpartition('@')[2].rpartition('://')[2]}"
        self._client: Redis | None = None
        self._raw: RawTable | None = None

    def prepare(self, raw: RawTable) -> None:
        """Make room for the entities of a recipe: what is there becomes found by them, too."""
        self._raw = raw
        with self._open() as client:
            for entity, *_ in raw.by_entity:
                if not client.sismember(self.keys.entities, entity):
                    self._index(client, entity)
                    client.sadd(self.keys.entities, entity)

    def _index(self, client: Redis, entity: str) -> None:
        """Sort what is there by an entity that no recipe has asked for before."""
        for found in _sliced(client.zscan_iter(self.keys.all, count=SLICE)):
            values = self._each(client, (identity for identity, _ in found), [_text(entity)])
            with client.pipeline() as pipeline:
                for (identity, t), (value,) in zip(found, values, strict=True):
                    if value is not None:
                        pipeline.zadd(self.keys.of(entity, value), {identity: t}, nx=True)
                pipeline.execute()

    @contextlib.contextmanager
    def _open(self) -> Iterator[Redis]:
        """Yield the client; whatever Redis complains of becomes a StoreError."""
        import redis  # only here: a server with SQLite does without it

        try:
            if self._client is None:
                self._client = redis.Redis.from_url(
                    self.url,
                    decode_responses=True,
                    socket_timeout=TIMEOUT_S,
                    socket_connect_timeout=TIMEOUT_S,
                )
            yield self._client
        except (redis.RedisError, OSError, ValueError) as error:
            raise StoreError(f"The history in {self.where} cannot be used ({error}).") from error

    def load(self, recent: Recent, name: str) -> int:
        """Remember many transactions, and return how many are new."""
        numbers = {column: values.tolist() for column, values in recent.numbers.items()}
        texts = recent.texts
        times, frauds = recent.t.tolist(), recent.fraud.tolist()
        n_new = 0
        with self._open() as client:
            for places in _sliced(range(len(recent))):
                transactions = [
                    Transaction(
                        recent.ids[i],
                        times[i],
                        {column: values[i] for column, values in numbers.items()},
                        {column: words[i] for column, words in texts.items()},
                    )
                    for i in places
                ]
                n_new += self._keep(client, transactions, [frauds[i] for i in places])
            client.sadd(self.keys.loaded, name)
        return n_new

    def has_loaded(self, name: str) -> bool:
        """Return whether `load` has been through with this name."""
        with self._open() as client:
            return bool(client.sismember(self.keys.loaded, name))

    def remember(self, transactions: Sequence[Transaction]) -> int:
        """Keep transactions and return how many are new: an id that is there counts once."""
        with self._open() as client:
            return self._keep(client, transactions, itertools.repeat(math.nan))

    def _keep(
        self, client: Redis, transactions: Sequence[Transaction], frauds: Iterable[float]
    ) -> int:
        """Write transactions and their labels, NaN where not known; return how many are new."""
        entities = [entity for entity, *_ in self._raw.by_entity]
        rows = []
        for transaction, fraud in zip(transactions, frauds, strict=False):
            values = [(entity, transaction.texts.get(entity)) for entity in entities]
            row = {
                "id": transaction.id,
                "t": str(transaction.t),
                "key": self.keys.row(transaction.id),
                "cells": _cells(transaction, fraud),
                "entities": [self.keys.of(entity, value) for entity, value in values if value],
            }
            rows.append(row)
        return client.eval(KEEP, 1, self.keys.all, json.dumps(rows, ensure_ascii=False))

    def past(self, lookups: Sequence[Lookup]) -> list[Past]:
        """Return the earlier transactions that each lookup asks for."""
        if not lookups:
            return []
        keys = [self.keys.of(lookup.entity, lookup.value) for lookup in lookups]
        asked = [json.dumps(self._asked(lookup), ensure_ascii=False) for lookup in lookups]
        with self._open() as client:
            found = json.loads(client.eval(LOOK_UP, len(keys), *keys, *asked))
        return [_past(lookup, *answer) for lookup, answer in zip(lookups, found, strict=True)]

    def _asked(self, lookup: Lookup) -> dict[str, Any]:
        """Return a lookup as the script takes it."""
        return {
            "id": lookup.id,
            "begin": str(lookup.begin),
            "last": str(lookup.end),
            "before": lookup.before is not None and str(lookup.before),
            "prefix": self.keys.row(""),
            "fields": _fields(lookup),
        }

    def _each(self, client: Redis, ids: Iterable[str], fields: Sequence[str]) -> list[list]:
        """Return some fields of each row, in one round trip."""
        with client.pipeline(transaction=False) as pipeline:
            for identity in ids:
                pipeline.hmget(self.keys.row(identity), fields)
            return pipeline.execute()

    def label(self, labels: Mapping[str, int | None]) -> list[str]:
        """Set labels by id, and return the ids that are unknown."""
        with self._open() as client, client.pipeline(transaction=True) as pipeline:
            for identity, fraud in labels.items():
                pipeline.eval(LABEL, 1, self.keys.row(identity), "" if fraud is None else fraud)
            is_there = pipeline.execute()
        return [identity for identity, found in zip(labels, is_there, strict=True) if not found]

    def prune(self, raw: RawTable, limit: int) -> int:
        """Drop at most `limit` transactions that no window of a recipe can reach any more."""
        with self._open() as client:
            newest: list[Any] = client.zrange(
                self.keys.all, 0, N_AHEAD - 1, desc=True, withscores=True
            )
            before = prunable(raw.oldest, (int(t) for _, t in newest))
            if before is None:
                return 0
            old: list[Any] = client.zrange(
                self.keys.all, "-inf", before, byscore=True, withscores=True
            )
            n_dropped = 0
            for found in _sliced(old):
                n_dropped += self._drop(client, raw, found[: limit - n_dropped])
                if n_dropped >= limit:
                    break
            return n_dropped

    def _drop(self, client: Redis, raw: RawTable, old: Sequence[tuple[str, float]]) -> int:
        """Drop those of these transactions that are no entity's latest one, where that counts."""
        entities = sorted(map(str, client.smembers(self.keys.entities)))
        fields = [_text(entity) for entity in entities]
        keys = []
        for row in self._each(client, (identity for identity, _ in old), fields):
            values = zip(entities, row, strict=True)
            keys.append({entity: self.keys.of(entity, value) for entity, value in values if value})
        with client.pipeline(transaction=False) as pipeline:
            for (_, t), of_row in zip(old, keys, strict=True):
                for entity in raw.latest_of:
                    pipeline.zcount(of_row.get(entity, ""), f"({t:.0f}", "+inf")
            later = iter(pipeline.execute())
        n_dropped = 0
        with client.pipeline(transaction=True) as pipeline:
            for (identity, _), of_row in zip(old, keys, strict=True):
                is_past = [next(later) > 0 or entity not in of_row for entity in raw.latest_of]
                if not all(is_past):
                    continue
                n_dropped += 1
                pipeline.delete(self.keys.row(identity))
                for key in of_row.values():
                    pipeline.zrem(key, identity)
                pipeline.zrem(self.keys.all, identity)
            pipeline.execute()
        return n_dropped

    def status(self) -> Status:
        """Return what the store holds; labels are counted one by one."""
        with self._open() as client:
            n = client.zcard(self.keys.all)
            first = client.zrange(self.keys.all, 0, 0, withscores=True)
            last = client.zrange(self.keys.all, -1, -1, withscores=True)
            n_labelled = 0
            for found in _sliced(client.zscan_iter(self.keys.all, count=SLICE)):
                labels = self._each(client, (identity for identity, _ in found), ["fraud"])
                n_labelled += sum(label is not None for (label,) in labels)
        if not n:
            return Status(0, 0, None, None)
        return Status(n, n_labelled, int(first[0][1]), int(last[0][1]))

    def close(self) -> None:
        """Let go of connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


class _Keys:
    """Names of what a data set keeps.

    Attributes
    ----------
    all : ids by time
    entities : columns by which transactions can be looked up
    loaded : names that `load` has been through with
    """

    def __init__(self, dataset: str) -> None:
        self.prefix = f"fraud:{quote(dataset, safe='')}:"
        self.all = f"{self.prefix}all"
        self.entities = f"{self.prefix}entities"
        self.loaded = f"{self.prefix}loaded"

    def row(self, identity: str) -> str:
        """Return the name of a transaction's hash."""
        return f"{self.prefix}row:{identity}"

    def of(self, entity: str, value: str) -> str:
        """Return the name of an entity's transactions by time."""
        return f"{self.prefix}of:{len(entity)}:{entity}:{value}"


def _text(column: str) -> str:
    return f"text:{column}"


def _number(column: str) -> str:
    return f"number:{column}"


def _cells(transaction: Transaction, fraud: float) -> dict[str, str]:
    """Return what a row keeps: text by field; what is missing is not there."""
    cells = {"t": str(transaction.t)}
    for column, number in transaction.numbers.items():
        if not math.isnan(number):
            cells[_number(column)] = repr(float(number))
    for column, text in transaction.texts.items():
        if text is not None:
            cells[_text(column)] = text
    if not math.isnan(fraud):
        cells["fraud"] = str(int(fraud))
    return cells


def _fields(lookup: Lookup) -> list[str]:
    """Return the fields of a row that a lookup asks for; first what tells whose row it is."""
    needs = lookup.needs
    numbers = [_number(column) for column in needs.numbers]
    texts = [_text(column) for column in needs.texts]
    return [_text(lookup.entity), "t", *numbers, *texts, "fraud"]


def _past(lookup: Lookup, rows: Sequence | dict, latest: str | bool) -> Past:
    """Return what a lookup found: rows of the cells of `_fields`, False where one is missing."""
    needs = lookup.needs
    # an empty list is an object in Lua; an id that came again with another entity's name is listed
    # there, but is not its
    kept = [cells[1:] for cells in rows if cells[0] == lookup.value]
    columns = list(zip(*kept, strict=True)) or [()] * (len(needs.numbers) + len(needs.texts) + 2)
    n = 1 + len(needs.numbers)
    return Past(
        [int(t) for t in columns[0]],
        {name: _floats(column) for name, column in zip(needs.numbers, columns[1:n], strict=True)},
        {
            name: [text or None for text in column]
            for name, column in zip(needs.texts, columns[n:-1], strict=True)
        },
        [int(label) if label else None for label in columns[-1]],
        int(latest) if latest else NEVER,
    )


def _floats(cells: Sequence[str]) -> list[float | None]:
    return [float(cell) if cell else None for cell in cells]


def _sliced(values: Iterable) -> Iterator[list]:
    """Yield lists of at most `SLICE` values."""
    rest = iter(values)
    while part := list(itertools.islice(rest, SLICE)):
        yield part
