"""Let one process at a time change the champion of a registered name, on whatever store.

MLflow has no transaction around reading an alias, making a version and moving the alias. What every
store does have is a name that only one can create: while a champion changes there is an empty
registered model `<name>.changing`, and whoever comes second waits until it has gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil

from lib.errors import TrackingError

WAIT_S = 120.0  # who has held its turn for this long, seen from outside, has died
GIVE_UP_S = 600.0
POLL_S = 0.2


@contextlib.contextmanager
def turn(client: Any, name: str) -> Iterator[None]:
    """Wait until nobody else changes the champion of `name`, and keep others from it meanwhile.

    A process of this machine that has died is recognised at once, one of another machine after
    `WAIT_S`.

    Raises
    ------
    TrackingError
        It was always somebody else's turn, for `GIVE_UP_S`.
    """
    mark = f"{name}.changing"
    holder = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
    _take(client, mark, holder)
    try:
        yield
    finally:
        _remove(client, mark, holder)


def _take(client, mark, holder):
    first_seen = {"": time.monotonic()}
    while not _created(client, mark, holder):
        if time.monotonic() - first_seen[""] > GIVE_UP_S:
            raise TrackingError(
                f"Others have been changing the champion for {GIVE_UP_S:.0f} s; if nobody is, "
                f"delete the registered model {mark} on MLflow's pages."
            )
        other = _holder(client, mark)
        # MLflow repeats a request whose answer was lost: the mark is then ours already
        if other == holder:
            return
        seen_s = time.monotonic() - first_seen.setdefault(other, time.monotonic())
        if other and (_has_died(other) or seen_s > WAIT_S):
            _remove(client, mark, other)
        else:
            time.sleep(POLL_S)


def _created(client, mark, holder):
    about = "The champion is being changed; this disappears by itself."
    try:
        client.create_registered_model(mark, {"holder": holder}, about)
    except Exception as error:
        # DOES_NOT_EXIST: it existed, and had gone when MLflow looked at what it collided with
        if _code(error) not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
        return False
    return True


def _holder(client, mark):
    """Return whose turn it is; empty where it has ended."""
    found = client.search_registered_models(f"name = '{mark}'")
    return found[0].tags.get("holder", "") if found else ""


def _has_died(holder):
    host, pid, _ = holder.split(" ")
    return host == socket.gethostname() and not psutil.pid_exists(int(pid))


def _remove(client, mark, holder):
    """End a turn, unless somebody else has the next one already."""
    if _holder(client, mark) != holder:
        return
    try:
        client.delete_registered_model(mark)
    except Exception as error:
        if _code(error) != "RESOURCE_DOES_NOT_EXIST":
            raise


def _code(error):
    """Return the code of MLflow's own errors; empty for any other."""
    return getattr(error, "error_code", "")
