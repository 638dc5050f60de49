"""Fetch a raw file: whole or not at all, going on where an earlier try stopped."""

from __future__ import annotations

import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from lib.errors import DataError, RawFileMissing
from lib.files import locked

CHUNK_BYTES = 1 << 20
Progress = Callable[[int, int | None], None]  # (bytes done, bytes in all or None)
BROKEN = (OSError, http.client.HTTPException)


def fetch(
    url: str, target: Path, verify: Callable[[Path], None], progress: Progress | None = None
) -> None:
    """Fetch `url` to `target`, whole or not at all, going on where an earlier call stopped.

    Parameters
    ----------
    verify : called with the complete `target`.part before it takes its name; raises DataError
    progress : None: a bar, or lines without a terminal

    Raises
    ------
    RawFileMissing
        With the reason; the part stays for the next call, unless its content is wrong.
    """
    part = target.with_name(target.name + ".part")
    progress = progress or progress_on(sys.stderr, f"downloading {target.name}")
    try:
        with locked(target.parent / ".lock"):
            while not target.exists():  # another process may have fetched it while this one waited
                before = _size(part)
                try:
                    _transfer(url, part, before, progress)
                except BROKEN:
                    if _size(part) <= before:
                        raise
                    continue  # the connection broke, but it brought something: go on from there
                try:
                    verify(part)
                except DataError:
                    part.unlink()
                    raise
                os.replace(part, target)
    except (*BROKEN, DataError) as error:
        inner = getattr(error, "reason", None)  # without urllib's wrapping
        why = getattr(inner, "strerror", None) or error
        raise RawFileMissing(f"{url} could not be downloaded ({why})") from error


def _size(part: Path) -> int:
    """Return how many bytes are there."""
    return part.stat().st_size if part.exists() else 0


def _transfer(url: str, part: Path, have: int, progress: Progress) -> None:
    """Fetch what lies beyond the first `have` bytes."""
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing lies beyond what we have
            raise
        there = error.headers.get("Content-Range", "")
        if not there.endswith(f"/{have}"):
            _transfer(url, part, 0, progress)
        return
    with answer:
        sent = answer.headers.get("Content-Range", "")
        is_rest = have > 0 and sent.startswith(f"bytes {have}-")
        done = have if is_rest else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        mode = "ab" if is_rest else "wb"
        with part.open(mode) as file:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes")


def progress_on(stream: TextIO, what: str) -> Progress:
    """Return a progress callback: a bar on a terminal, else a plain line for each tenth."""
    return _bar(stream, what) if stream.isatty() else _lines(stream, what)


def _bar(stream: TextIO, what: str) -> Progress:
    from tqdm import tqdm  # here: few runs download anything

    bar = tqdm(desc=what, unit="B", unit_scale=True, file=stream)

    def show(done: int, total: int | None) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def _lines(stream: TextIO, what: str) -> Progress:
    said = -1  # the last tenth, or the last 10 MB of an unknown size

    def show(done: int, total: int | None) -> None:
        nonlocal said
        step = 10 * done // total if total else done // 10_000_000
        if step <= said:
            return
        said = step
        of_all = f" of {total / 1e6:,.0f}" if total else ""
        stream.write(f"{what}: {done / 1e6:,.0f}{of_all} MB\n")
        stream.flush()

    return show
