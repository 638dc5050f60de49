"""Transactions sent in time order to the real server over HTTP, and the prediction log that this
leaves.

The log has exactly one line a transaction, whatever the server goes through meanwhile: a request
that gets no answer is sent again, and its lines are written when the answer has come.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.data.datasets import ROOT
from lib.files import whole

PATIENCE_S = 60.0  # how long a request is sent again, and how long a server may take to start
COLUMNS = (
    "position",
    "request",
    "anomaly_score",
    "alert",
    "model_version",
    "latency_ms",
    "n_tries",
    "status",
)
REFUSED = range(400, 500)  # statuses that another attempt would not change …
BUSY = (408, 429)  # … but for these


class ReplayError(RuntimeError):
    """The server does not start, does not answer, or refuses everything; the message is a
    sentence.
    """


def _die_with_parent():
    """Let Linux end the server with the thread that started it; elsewhere a killed notebook leaves
    it running.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    """`python -m serve` on a free port of this machine, for the time of a `with` block.

    Parameters
    ----------
    folder : the bundle to serve
    log : file for what the server says
    settings : more of its settings (see serve/settings.py), such as workers=2
    """

    def __init__(self, folder, log, **settings):
        self.folder, self.log, self.process = Path(folder), Path(log), None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.key = f"http://127.0.0.1:{port}", secrets.token_hex(16)
        ours = {
            "bundle": self.folder,
            "port": port,
            "api_key": self.key,
            "log_level": "warning",
        } | settings
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
        path = os.pathsep.join([str(ROOT), *filter(None, [plain.get("PYTHONPATH")])])
        self.environment = (
            plain | {"PYTHONPATH": path} | {f"FRAUD_{k.upper()}": str(v) for k, v in ours.items()}
        )

    def __enter__(self):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def client(self, **options):
        """An httpx.Client that keeps its connections and ignores proxies."""
        return httpx.Client(
            base_url=self.url, headers={"X-API-Key": self.key}, trust_env=False, **options
        )

    def launch(self):
        """Start the process and return at once; it appends to the log."""
        with self.log.open("a") as log:
            command = [sys.executable, "-m", "serve"]
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )

    def start(self):
        """Start, and return when a verified bundle answers; ReplayError with the server's last line
        if none does.
        """
        self.launch()
        end = time.monotonic() + PATIENCE_S
        with self.client(timeout=5) as client:
            while time.monotonic() < end and self.process.poll() is None:
                with contextlib.suppress(httpx.TransportError):  # it does not listen yet
                    if client.get("/health/ready").status_code == 200:
                        return
                time.sleep(0.05)
        self.kill()
        said = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise ReplayError(
            f"The server did not become ready with the bundle in {self.folder}; it said: {said[-1]}"
        )

    def kill(self):
        """End it as a power cut would: SIGKILL, nothing is drained."""
        self.process.kill()
        self.process.wait()

    def reload(self):
        """Let it look at the bundle's folder now -> the version that answers; ReplayError if it
        refuses the bundle.
        """
        with self.client(timeout=PATIENCE_S) as client:
            answer = client.post("/admin/reload")
        if answer.status_code != 200:
            raise ReplayError(f"The server kept its bundle: {answer.json()['error']['message']}")
        return answer.json()["model_version"]


def replay(  # noqa: PLR0913 - a client's settings, by name
    server, X, *, time_s=None, first=0, rows_per_request=100, connections=4, speed=0.0, at=None
):
    """Send rows in order, a few requests in flight -> the prediction log, a line a row.

    Parameters
    ----------
    server : Server, or anything with its `client`
    X : (n, d) float32, NaN where missing; in time order
    time_s : (n,) float, needed for `speed` only
    first : position of the first row in the stream
    speed : multiple of real time; 0: as fast as it goes
    at : {number of rows answered: function}, each called once while requests go on, such as
        `server.reload`

    Returns
    -------
    DataFrame of n rows: position (int64), request (int64, position of its first row), anomaly_score
    (float64, NaN if refused), alert (int8), model_version (str), latency_ms (float64, of the
    request's last attempt), n_tries (int64), status (int64: 200, or why it was refused).
    `attrs["seconds"]` is the time that the whole replay took.

    Raises
    ------
    ReplayError
        If a request has had no answer for a minute.
    """
    starts, due = range(0, len(X), rows_per_request), sorted((at or {}).items())
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    begin, parts, n_answered = time.monotonic(), [], 0
    with (
        server.client(limits=limits, timeout=30) as client,
        ThreadPoolExecutor(connections) as pool,
    ):

        def send(start):
            if speed:
                time.sleep(
                    max(0.0, (time_s[start] - time_s[0]) / speed - (time.monotonic() - begin))
                )
            return _log(client, X[start : start + rows_per_request], first + start)

        futures = [pool.submit(send, start) for start in starts]
        try:
            for future in as_completed(futures):
                parts.append(future.result())
                n_answered += len(parts[-1])
                while due and n_answered >= due[0][0]:
                    due.pop(0)[1]()
        finally:
            for future in futures:
                future.cancel()
    log = pd.concat(parts, ignore_index=True).sort_values("position", ignore_index=True)
    log.attrs["seconds"] = time.monotonic() - begin
    return log


def _log(client, X, first):
    """The log lines of one request. One that is refused is halved until the rows at fault stand
    alone.
    """
    answer, n_tries = _post(client, msgspec.json.encode({"features": X.tolist()}), first)
    if answer.status_code != 200 and len(X) > 1:
        half = len(X) // 2
        return pd.concat([_log(client, X[:half], first), _log(client, X[half:], first + half)])
    lines = pd.DataFrame({"position": np.arange(first, first + len(X)), "request": first})
    if answer.status_code == 200:
        body = msgspec.json.decode(answer.content)
        scores, alerts, version = body["anomaly_scores"], body["predictions"], body["model_version"]
    else:
        scores, alerts, version = [np.nan], [0], ""
    return lines.assign(
        anomaly_score=np.asarray(scores, np.float64),
        alert=np.asarray(alerts, np.int8),
        model_version=version,
        latency_ms=answer.elapsed.total_seconds() * 1e3,
        n_tries=n_tries,
        status=answer.status_code,
    )


def _post(client, body, first):
    """Post until there is an answer that another attempt would not change -> (answer, number of
    attempts).
    """
    end, n_tries = time.monotonic() + PATIENCE_S, 0
    while True:
        n_tries += 1
        try:
            answer = client.post(
                "/predict", content=body, headers={"content-type": "application/json"}
            )
            if answer.status_code == 200 or (
                answer.status_code in REFUSED and answer.status_code not in BUSY
            ):
                return answer, n_tries
            reason = f"status {answer.status_code}"
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() > end:
            raise ReplayError(
                f"No answer for {PATIENCE_S:g} s to the request from row {first:,} on: {reason}."
            )
        time.sleep(min(0.02 * 2**n_tries, 1.0))


def count(log, n):
    """What became of n rows -> dict: `n_lines`, `n_lost`, `n_duplicated`, `n_refused`, `n_retries`
    (of requests).
    """
    lines = np.bincount(log["position"] - log["position"].min(), minlength=n)
    requests = log.drop_duplicates("request")
    return {
        "n_lines": len(log),
        "n_lost": int((lines == 0).sum()),
        "n_duplicated": int((lines > 1).sum()),
        "n_refused": int((log["status"] != 200).sum()),
        "n_retries": int((requests["n_tries"] - 1).sum()),
    }


def write(table, path):
    """Write a DataFrame or a pyarrow Table as Parquet, whole or not at all -> path."""
    table = (
        table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    )
    with whole(path) as partial:
        pq.write_table(table, partial)
    return Path(path)
