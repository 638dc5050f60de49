"""A server of its own process for tests and benchmarks, on a free port of this machine."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def free_port():
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Server:
    """A running server.

    Attributes
    ----------
    port : int
    process : the one that was started; with several workers their parent
    ready_s : seconds from start until /health/ready answers with the status `wait`
    """

    def __init__(self, command, folder, log, wait=200, **settings):
        self.port = free_port()
        names = {"FRAUD_" + name.upper(): str(value) for name, value in settings.items()}
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")
        } | names
        environ |= {
            "FRAUD_BUNDLE": str(folder),
            "FRAUD_PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }
        command = [part.format(port=self.port) for part in command]
        self.log = Path(log)
        start = time.perf_counter()
        with open(log, "w") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=out, stderr=subprocess.STDOUT
            )
        self.ready_s = self._wait(start, wait)

    def _wait(self, start, wanted, timeout_s=60):
        while time.perf_counter() < start + timeout_s:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the server ended with {self.process.returncode}: "
                    f"{self.log.read_text()[-2000:]}"
                )
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.call("GET", "/health/ready")[0] == wanted:
                    return time.perf_counter() - start
            time.sleep(0.01)
        raise RuntimeError(
            f"the server was not ready after {timeout_s} s: {self.log.read_text()[-2000:]}"
        )

    def connect(self):
        """A kept-alive connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def call(self, method, path, body=None, connection=None, **headers):
        """One request -> (status, decoded JSON or text, headers)."""
        mine = connection or self.connect()
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        mine.request(method, path, content, {"Content-Type": "application/json"} | headers)
        answer = mine.getresponse()
        text = answer.read()
        if connection is None:
            mine.close()
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        decoded = json.loads(text) if is_json and method != "HEAD" else text.decode()
        return answer.status, decoded, answer.headers

    def memory_mb(self):
        """Resident memory of the process."""
        return (
            int(
                re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[
                    1
                ]
            )
            / 1024
        )

    def lines(self):
        """Its log, line by line, as far as it is JSON."""
        return [
            json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")
        ]

    def stop(self, number=signal.SIGTERM, timeout_s=60):
        """Send a signal and wait -> exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process.kill()


UVICORN = [sys.executable, "-m", "uvicorn", "serve.app:app", "--port", "{port}"]
MODULE = [sys.executable, "-m", "serve"]


@contextlib.contextmanager
def running(folder, log, command=MODULE, **settings):
    """A server that ends with the block."""
    server = Server(command, folder, log, **settings)
    try:
        yield server
    finally:
        server.stop()
