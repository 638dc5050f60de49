"""`python -m serve`: one worker here, or several that share the socket, restarted when they die.

SIGTERM and SIGINT drain all workers, SIGHUP makes all look at the bundle. The workers are started afresh, not forked,
and talk to nobody: what they share is the socket and the folder of their metrics.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from serve.settings import Settings, SettingsError

STARTUP_FAILURE = 3  # uvicorn's exit status for an application or address that can never work


def main():
    """Serve until a signal comes; the exit status."""
    worker = sys.argv[1:2] == ["--worker"]  # how `several` calls its children, with the socket's number
    if sys.argv[1:] and not worker:
        print(f"python -m serve takes its settings from the environment:\n\n{Settings.describe()}")
        return 0 if sys.argv[1:] in (["--help"], ["-h"]) else 2
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    if worker:
        return one(settings, fd=int(sys.argv[2]))
    return one(settings) if settings.workers == 1 else several(settings)


def one(settings, fd=None):
    """Serve in this process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the application listens to it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when all is drained
    import uvicorn  # late: a typo in the settings is told at once, and the parent of workers stays small

    from serve import telemetry

    telemetry.configure_logging(settings.log_level)
    uvicorn.run(
        "serve.app:app",
        fd=fd,
        host=settings.host,
        port=settings.port,
        backlog=2048,
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,  # ours, from the first line on
        log_level=settings.log_level,
        timeout_graceful_shutdown=settings.drain_s,
    )
    return 0


def several(settings):
    """Start workers on one socket, start each that dies again, pass signals on; the exit status."""
    listening = socket.create_server((settings.host, settings.port), backlog=2048)
    listening.set_inheritable(True)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # writable even in a read-only container
    metrics = tempfile.mkdtemp(prefix="fraud-metrics-", dir=memory)
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": metrics}
    command = [sys.executable, "-m", "serve", "--worker", str(listening.fileno())]

    def start():
        return subprocess.Popen(command, env=environ, pass_fds=[listening.fileno()])

    stop, workers = [], []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stop.append(number))
    signal.signal(signal.SIGHUP, lambda number, _: _send(workers, signal.SIGHUP))
    workers += [start() for _ in range(settings.workers)]
    while not stop:
        time.sleep(0.2)
        for i, worker in enumerate(workers):
            if worker.poll() == STARTUP_FAILURE:
                stop.append(STARTUP_FAILURE)
            elif worker.poll() is not None and not stop:
                print(f"serve: worker {worker.pid} ended with {worker.returncode}; starting another", file=sys.stderr)
                time.sleep(0.5)  # one that always dies must not spin
                workers[i] = start()
    listening.close()
    _send(workers, signal.SIGTERM)
    for worker in workers:
        worker.wait()
    shutil.rmtree(metrics)
    return 1 if STARTUP_FAILURE in stop else 0


def _send(workers, number):
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
