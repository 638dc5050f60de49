"""Fetch a raw file: whole or not at all, going on where an earlier try stopped."""

from __future__ import annotations

import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from lib.errors import DataError, RawFileMissing
from lib.files import locked

CHUNK_BYTES = 1 << 20


def fetch(
    url: str, target: Path, verify: Callable[[Path], None], progress: Callable | None = None
) -> None:
    """Fetch `url` to `target`, whole or not at all; what an earlier call has fetched is not fetched
    again.

    `verify` is called with the complete `target`.part before it takes its name, and raises
    DataError. `progress` is called with (bytes done, bytes in all or None); default: a bar, or
    lines without a terminal. Raises RawFileMissing with the reason; the part stays for the next
    call, unless its content is wrong.
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


def _transfer(url, part, have, progress):
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


def progress_on(stream, what: str) -> Callable:
    """A progress callback: one rewritten line on a terminal, else a plain line for each tenth."""
    said = -1

    def show(done, total):
        nonlocal said
        share = done / total if total else 0.0
        size = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if total else f"{done / 1e6:,.0f} MB"
        if stream.isatty():
            bar = "#" * int(30 * share)
            stream.write(f"\r{what} [{bar:<30}] {size}" + ("\n" if done == total else ""))
        elif (step := int(10 * share) if total else done // 10_000_000) > said:
            said = step
            stream.write(f"{what}: {size}\n")
        stream.flush()

    return show
