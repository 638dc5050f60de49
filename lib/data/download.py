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
                before = part.stat().st_size if part.exists() else 0
                try:
                    _transfer(url, part, before, progress)
                except (OSError, http.client.HTTPException):
                    if not part.exists() or part.stat().st_size <= before:
                        raise
                    continue  # the connection broke, but it brought something: go on from there
                try:
                    verify(part)
                except DataError:
                    part.unlink()
                    raise
                os.replace(part, target)
    except (OSError, http.client.HTTPException, DataError) as error:
        # without urllib's wrapping
        why = getattr(getattr(error, "reason", None), "strerror", None) or error
        raise RawFileMissing(f"{url} could not be downloaded ({why})") from error


def _transfer(url: str, part: Path, have: int, progress: Progress) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing lies beyond what we have
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return
        return _transfer(url, part, 0, progress)
    with answer:
        resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-") and have > 0
        done = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
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
