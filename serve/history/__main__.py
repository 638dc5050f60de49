"""`python -m serve.history load|status|prune`: look after the transactions that a server remembers.

The bundle is that of FRAUD_BUNDLE, the store that of FRAUD_HISTORY. A server loads the history of
its bundle by itself; `load FILE` brings later transactions of the table, before traffic begins.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from lib.bundle import load, recent
from lib.bundle.manifest import HISTORY
from lib.bundle.raw import EPOCH, MISSING_TEXT, NUMBER, CellError, RawTable, Transaction
from lib.bundle.recent import Recent
from lib.errors import BundleError
from serve.history import SLICE, Store, StoreError, open_store
from serve.settings import Settings, SettingsError

A_LINE = "one JSON object a line, or CSV with a header"
OTHERS = "python -m lib.data.raw_rows reads tables of other kinds"


class RefusedError(Exception):
    """Something cannot be done; the message is a sentence."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser("python -m serve.history", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    loading = commands.add_parser("load", help="load the bundle's own history, or a file")
    loading.add_argument("file", nargs="?", type=Path, help=f"{A_LINE}; - for standard input")
    commands.add_parser("status", help="say what the store holds")
    commands.add_parser("prune", help="drop transactions that no window can reach")
    given = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment(os.environ)
        bundle = load(settings.bundle)
        if not bundle.manifest.get("recipe"):
            raise RefusedError("The bundle was made without a recipe: nothing is remembered.")
        raw = RawTable(bundle.manifest)
        if not raw.has_histories:
            raise RefusedError("The bundle's recipe has no histories: nothing is remembered.")
        store = open_store(settings.history, str(bundle.manifest["dataset"]["name"]))
        store.prepare(raw)
        if given.command == "load" and given.file is not None:
            print(_load_file(store, raw, given.file))
        elif given.command == "load":
            print(_load_own(store, bundle.history, bundle.manifest["files"].get(HISTORY)))
        elif given.command == "prune":
            print(_prune(store, raw))
        print(_status(store, raw))
    except (RefusedError, SettingsError, BundleError, StoreError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _load_own(store: Store, content: bytes | None, name: str | None) -> str:
    if content is None:
        raise RefusedError("The bundle brings no history along; load a file instead.")
    if store.has_loaded(name):
        return "The bundle's history has been loaded before."
    n_new = store.load(recent.unpack(content), name)
    return f"{n_new:,} new transactions of the bundle's history."


def _load_file(store: Store, raw: RawTable, path: Path) -> str:
    """Load a file of raw transactions; a wrong row is refused before its part is written."""
    if raw.id is None:
        raise RefusedError("The description names no `ids`: what is there could not be told.")
    n = n_new = 0
    rows = _rows(raw, path)
    while part := list(itertools.islice(rows, SLICE)):
        n_new += store.load(_recent(raw, part, path, n), str(path))
        n += len(part)
    where = "standard input" if str(path) == "-" else path
    if not n:
        raise RefusedError(f"{where} holds no transactions; nothing was loaded.")
    return f"{n_new:,} new transactions of {n:,} in {where}; labels of those before are filled in."


def _recent(raw: RawTable, rows: list[dict[str, Any]], path: Path, first: int) -> Recent:
    """Return rows of a file, the first of which has the number `first`, as columns."""
    found: list[Transaction] = []
    labels = []
    for i, row in enumerate(rows, start=first):
        try:
            found.append(raw.read(row))
            label = raw.known_label(row.get(raw.label)) if raw.label else None
        except CellError as error:
            raise RefusedError(f"{path}, row {i + 1:,}, {error.column}: {error}.") from error
        if not found[-1].id:
            raise RefusedError(f"{path}, row {i + 1:,}: lacks {raw.id!r}, its id.")
        labels.append(math.nan if label is None else label)
    return Recent(
        [each.id for each in found],
        np.array([each.t for each in found], np.int64),
        np.array(labels, np.float64),
        {name: np.array([each.numbers[name] for each in found]) for name in raw.numbers},
        {name: [each.texts[name] for each in found] for name in raw.texts},
    )


def _rows(raw: RawTable, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as JSON has them."""
    opened: Callable = gzip.open if path.suffix == ".gz" else open
    try:
        if str(path) == "-":
            yield from _parsed(raw, sys.stdin)
            return
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield from _parsed(raw, file)
    except (OSError, ValueError, csv.Error) as error:
        reason = f"{path} cannot be read ({error}); it must be {A_LINE}. {OTHERS}."
        raise RefusedError(reason) from error


def _parsed(raw: RawTable, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of lines, which are all JSON or all CSV."""
    lines = iter(lines)
    first = next(lines, "")
    lines = itertools.chain([first], lines)
    if first.startswith("{"):
        yield from (json.loads(line) for line in lines if line.strip())
    else:
        yield from (_typed(raw, row) for row in csv.DictReader(lines))


def _typed(raw: RawTable, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of CSV, whose cells are text, with numbers where the columns are numbers."""
    typed = dict(row)
    numbers = raw.numbers if raw.has_dates else (*raw.numbers, *raw.time)
    for column in numbers:
        cell = row.get(column)
        if not isinstance(cell, str):
            continue
        word = cell.strip().lower()
        if word in MISSING_TEXT:
            typed[column] = None
        elif word in ("true", "false"):
            typed[column] = word == "true"
        elif NUMBER.fullmatch(word):
            typed[column] = float(word)
    return typed


def _prune(store: Store, raw: RawTable) -> str:
    n_dropped = 0
    while n := store.prune(raw, SLICE):
        n_dropped += n
    return f"{n_dropped:,} transactions dropped that no window can reach."


def _status(store: Store, raw: RawTable) -> str:
    found = store.status()
    if not found.n:
        return f"{store.where} holds no transactions."
    said = f"{store.where} holds {found.n:,} transactions, {found.n_labelled:,} with a label"
    if raw.has_dates:
        ends = (EPOCH + timedelta(microseconds=t) for t in (found.first, found.last))
        first, last = (end.astimezone(UTC).isoformat(sep=" ") for end in ends)
        return f"{said}, from {first} to {last}."
    return f"{said}, from {found.first / 1e6:g} s to {found.last / 1e6:g} s."


if __name__ == "__main__":
    sys.exit(main())
