"""`python -m serve`: one worker here, or several that share the sockets, restarted when they die.

SIGTERM and SIGINT drain all workers, SIGHUP makes all look at the bundle. The workers are started
afresh, not forked, and talk to nobody: what they share is the sockets and a folder with their
metrics and a copy of the bundle that they serve.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from serve import logs, sockets
from serve.settings import (
    METRICS_FOLDER,
    SPARE_FOLDER,
    Settings,
    SettingsError,
    make_metrics_folder,
    unknown,
)

log = logging.getLogger("serve")

PR_SET_PDEATHSIG = 1  # of prctl(2)
STARTUP_FAILURE = 3  # uvicorn's exit status for an application that can never work


def main() -> int:
    """Serve until a signal comes, and return the exit status."""
    # how `several` calls its children: with the numbers of the sockets
    is_worker = sys.argv[1:2] == ["--worker"]
    if sys.argv[1:] and not is_worker:
        print(f"python -m serve takes its settings from the environment:\n\n{Settings.describe()}")
        return 0 if sys.argv[1:] in (["--help"], ["-h"]) else 2
    try:
        settings = Settings.from_environment(os.environ)
        if settings.workers == 1 or is_worker:
            make_metrics_folder(os.environ)
    except SettingsError as error:
        return _refused(error, 2)
    logs.configure(settings.log_level)
    if is_worker:
        _end_with_parent()
        return one(settings, [sockets.inherited(int(number)) for number in sys.argv[2].split(",")])
    try:
        opened = sockets.listen(settings.host, settings.port)
    except SettingsError as error:
        return _refused(error, 1)
    for each in opened:
        log.info("listening on %s", sockets.shown(each))
    return one(settings, opened) if settings.workers == 1 else several(settings, opened)


def one(settings: Settings, opened: list[socket.socket]) -> int:
    """Serve in this process on open sockets, and return the exit status."""
    logs.buffer_stdout()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the application listens to it
    # there is nothing to drain yet, and an exception would end up in whatever is being imported
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # late: a typo in the settings is told at once, and the parent of workers stays small
    import uvicorn

    from serve.protocol import WholeAnswers

    config = uvicorn.Config(
        "serve.app:app",
        backlog=sockets.BACKLOG,
        http=WholeAnswers,
        workers=1,  # whatever WEB_CONCURRENCY says: FRAUD_WORKERS decides
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,  # ours, from the first line on
        log_level=settings.log_level,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
    )
    config.load_app()
    # uvicorn raises the signal again when all is drained
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=opened)
    return 0 if server.started else STARTUP_FAILURE


# Why not uvicorn's own workers (supervisors.Multiprocess, tried at 0.54)? It starts dead ones again
# as well, but answers SIGHUP with new workers instead of passing it on: two seconds and every open
# connection for what takes 30 ms here, and SIGTERM waits until it is over. While workers drain, its
# sockets stay open: callers connect, and nobody answers. A worker silent for five seconds is ended
# by force, and the exit status is 0 even if none could start. Metrics of the dead are no reason:
# serve/telemetry.py sees to them either way.
def several(settings: Settings, opened: list[socket.socket]) -> int:
    """Keep workers alive on shared sockets until a signal comes, and return the exit status."""
    # /dev/shm can be written to even in a read-only container
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    try:
        shared = tempfile.mkdtemp(prefix="fraud-metrics-", dir=memory)
    except OSError as error:
        reason = f"no temporary folder can be made: {error.strerror or error}"
        return _refused(f"FRAUD_WORKERS is {settings.workers}, and {reason}.", 1)
    ignored = unknown(os.environ)
    for level, sentence in ignored.values():
        log.log(level, sentence)
    environ = {name: value for name, value in os.environ.items() if name not in ignored}
    environ |= {METRICS_FOLDER: shared, SPARE_FOLDER: tempfile.mkdtemp(prefix="spare-", dir=shared)}
    numbers = [each.fileno() for each in opened]
    for each in opened:
        each.set_inheritable(True)
    command = [sys.executable, "-m", "serve", "--worker", ",".join(map(str, numbers))]

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, env=environ, pass_fds=numbers)

    try:
        return _watch(start, settings.workers, opened)
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def _end_with_parent() -> None:
    """Let Linux ask this worker to end if its parent is killed: nobody else would.

    It would hold the port against the server that is started next.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch(
    start: Callable[[], subprocess.Popen], n_workers: int, opened: list[socket.socket]
) -> int:
    """Keep `n_workers` alive until a signal comes, end them, and return the exit status."""
    stop: list[int] = []
    workers: list[subprocess.Popen] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stop.append(number))
    signal.signal(signal.SIGHUP, lambda number, _: _send(workers, signal.SIGHUP))
    workers += [start() for _ in range(n_workers)]
    while not stop:
        time.sleep(0.2)
        _restart(workers, start, stop)
    for each in opened:
        each.close()
    _send(workers, signal.SIGTERM)
    for worker in workers:
        worker.wait()
    return 1 if STARTUP_FAILURE in stop else 0


def _restart(
    workers: list[subprocess.Popen], start: Callable[[], subprocess.Popen], stop: list[int]
) -> None:
    """Start each worker again that has died; one that can never work is a reason to stop."""
    for i, worker in enumerate(workers):
        status = worker.poll()
        if status == STARTUP_FAILURE:
            stop.append(STARTUP_FAILURE)
        elif status is not None and not stop:
            log.error("worker %d ended with %d; starting another", worker.pid, status)
            time.sleep(0.5)  # one that always dies must not spin
            workers[i] = start()


def _refused(reason: object, status: int) -> int:
    print(f"serve: {reason}", file=sys.stderr)
    return status


def _send(workers: list[subprocess.Popen], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
