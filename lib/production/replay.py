"""Send transactions in time order to the real server over HTTP, and keep the prediction log.

The log has exactly one line a transaction, whatever the server goes through meanwhile: a request
that gets no answer is sent again, and its lines are written when the answer has come.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
LABELS_PER_REQUEST = 5_000
REFUSED = range(400, 500)  # statuses that another attempt would not change …
BUSY = (408, 429)  # … but for these


class ReplayError(RuntimeError):
    """The server does not start, does not answer, or refuses a bundle; the message says why."""


@dataclass(frozen=True)
class Traffic:
    """How requests are sent.

    Parameters
    ----------
    rows_per_request : transactions in a request
    connections : requests in flight at most
    speed : multiple of real time; 0: as fast as it goes
    """

    rows_per_request: int = 100
    connections: int = 4
    speed: float = 0.0


@dataclass(frozen=True)
class RawTransactions:
    """Raw transactions in time order, and the labels that arrive between them.

    Parameters
    ----------
    rows : n transactions as POST /predict takes them
    labels : late labels as POST /labels takes them, in the order of their arrival
    positions : (m,) int, ascending: of each label's transaction among the rows, below 0 of one that
        was sent before
    n_known : (n,) int, how many of the labels have arrived at the time of each transaction
    """

    rows: Sequence[dict]
    labels: Sequence[dict]
    positions: np.ndarray
    n_known: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def n_arrived(self, start: int, stop: int) -> int:
        """Return how many labels can be sent before the request [start, stop).

        Those that have arrived by its end, of transactions that have been sent.
        """
        n_there = int(np.searchsorted(self.positions, start))
        return min(int(self.n_known[stop - 1]), n_there)


Rows = np.ndarray | RawTransactions


def _die_with_parent() -> None:
    """Let Linux end the server with the thread that started it.

    Elsewhere a notebook that is killed leaves it running.
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

    def __init__(self, folder: Path | str, log: Path | str, **settings: Any) -> None:
        self.folder = Path(folder)
        self.log = Path(log)
        self.process: subprocess.Popen | None = None
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.key = secrets.token_hex(16)
        ours = {
            "bundle": self.folder,
            "port": port,
            "api_key": self.key,
            "log_level": "warning",
            "history": self.log.parent / "histories",
        }
        self.environment = _environment(ours | settings)

    def __enter__(self) -> Server:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def client(self, **options: Any) -> httpx.Client:
        """Return an httpx.Client that keeps its connections and ignores proxies."""
        return httpx.Client(
            base_url=self.url, headers={"X-API-Key": self.key}, trust_env=False, **options
        )

    def launch(self) -> None:
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

    def start(self) -> None:
        """Start, and return when a verified bundle answers.

        Raises ReplayError with the server's last line if none does.
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

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL, nothing is drained."""
        self.process.kill()
        self.process.wait()

    def reload(self) -> str:
        """Let it look at the bundle's folder now; return the version that answers.

        Raises ReplayError if it refuses the bundle.
        """
        with self.client(timeout=PATIENCE_S) as client:
            answer = client.post("/admin/reload")
        if answer.status_code != 200:
            raise ReplayError(f"The server kept its bundle: {answer.json()['error']['message']}")
        return answer.json()["model_version"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return this process's environment with the server's settings in place of all others."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
    path = str(ROOT)
    if plain.get("PYTHONPATH"):
        path += os.pathsep + plain["PYTHONPATH"]
    ours = {f"FRAUD_{name.upper()}": str(value) for name, value in settings.items()}
    return plain | {"PYTHONPATH": path} | ours


def replay(
    server: Server,
    rows: Rows,
    *,
    time_s: np.ndarray | None = None,
    first: int = 0,
    traffic: Traffic = Traffic(),
    at: Mapping[int, Callable[[], object]] | None = None,
) -> pd.DataFrame:
    """Send rows in order, a few requests in flight; return the prediction log, a line a row.

    Parameters
    ----------
    server : Server, or anything with its `client`
    rows : in time order: features (n, d) float32, NaN where missing, or n raw transactions, which
        are sent one request after the other, since each looks back at those before
    time_s : (n,) float, needed for `traffic.speed` only
    first : position of the first row in the stream
    at : {number of rows answered: function}, each called once while requests go on, such as
        `server.reload`

    Returns
    -------
    DataFrame of n rows: position (int64), request (int64, position of its first row), anomaly_score
    (float64, NaN if refused), alert (int8), model_version (str), latency_ms (float64, of the
    request's last attempt), n_tries (int64), status (int64: 200, or why it was refused).
    `attrs["seconds"]` is the time that the whole replay took, `attrs["n_labels"]` the number of
    labels of raw transactions that have been sent.

    Raises
    ------
    ReplayError
        If a request has had no answer for a minute.
    """
    n_connections = 1 if isinstance(rows, RawTransactions) else traffic.connections
    limits = httpx.Limits(max_connections=n_connections, max_keepalive_connections=n_connections)
    n_labels = 0  # late labels that have been sent; raw transactions go one request after the other
    begin = time.monotonic()
    with (
        server.client(limits=limits, timeout=30) as client,
        ThreadPoolExecutor(n_connections) as pool,
    ):

        def send(start: int) -> pd.DataFrame:
            nonlocal n_labels
            if traffic.speed:
                due_s = (time_s[start] - time_s[0]) / traffic.speed
                time.sleep(max(0.0, due_s - (time.monotonic() - begin)))
            stop = min(start + traffic.rows_per_request, len(rows))
            if isinstance(rows, RawTransactions):
                part = slice(start, stop)
                n_labels = _bring_labels(client, rows, n_labels, part, first)
            return _log(client, rows, slice(start, stop), first)

        starts = range(0, len(rows), traffic.rows_per_request)
        futures = [pool.submit(send, start) for start in starts]
        parts = _collect(futures, at or {})
    log = pd.concat(parts, ignore_index=True).sort_values("position", ignore_index=True)
    log.attrs["seconds"] = time.monotonic() - begin
    log.attrs["n_labels"] = n_labels
    return log


def _collect(futures: list[Future], at: Mapping[int, Callable[[], object]]) -> list[pd.DataFrame]:
    """Return the answers as they arrive, and call each function of `at` when it is due."""
    due = sorted(at.items())
    parts = []
    n_answered = 0
    try:
        for future in as_completed(futures):
            parts.append(future.result())
            n_answered += len(parts[-1])
            while due and n_answered >= due[0][0]:
                _, act = due.pop(0)
                act()
    finally:
        # after an error, what has not been sent need not be
        for future in futures:
            future.cancel()
    return parts


def _bring_labels(
    client: httpx.Client, rows: RawTransactions, n_sent: int, part: slice, offset: int
) -> int:
    """Send the labels that have arrived before a request; return how many have been sent by now."""
    n_arrived = rows.n_arrived(part.start, part.stop)
    for start in range(n_sent, n_arrived, LABELS_PER_REQUEST):
        labels = rows.labels[start : min(start + LABELS_PER_REQUEST, n_arrived)]
        body = msgspec.json.encode({"labels": labels})
        answer, _ = _post(client, "/labels", body, offset + part.start)
        if answer.status_code != 200:
            raise ReplayError(f"Late labels were refused: {answer.json()['error']['message']}")
    return max(n_sent, n_arrived)


def _log(client: httpx.Client, rows: Rows, part: slice, offset: int) -> pd.DataFrame:
    """Return the log lines of one request.

    One that is refused is halved until the rows at fault stand alone.
    """
    first, n = offset + part.start, part.stop - part.start
    answer, n_tries = _post(client, "/predict", _body(rows, part), first)
    is_scored = answer.status_code == 200
    if not is_scored and n > 1:
        middle = part.start + n // 2
        halves = [slice(part.start, middle), slice(middle, part.stop)]
        return pd.concat([_log(client, rows, half, offset) for half in halves])
    lines = pd.DataFrame({"position": np.arange(first, first + n), "request": first})
    scores, alerts, version = [np.nan], [0], ""
    if is_scored:
        body = msgspec.json.decode(answer.content)
        scores = body["anomaly_scores"]
        alerts = body["predictions"]
        version = body["model_version"]
    return lines.assign(
        anomaly_score=np.asarray(scores, np.float64),
        alert=np.asarray(alerts, np.int8),
        model_version=version,
        latency_ms=answer.elapsed.total_seconds() * 1e3,
        n_tries=n_tries,
        status=answer.status_code,
    )


def _body(rows: Rows, part: slice) -> bytes:
    """Return the body of a request for POST /predict."""
    if isinstance(rows, RawTransactions):
        return msgspec.json.encode({"transactions": rows.rows[part]})
    return msgspec.json.encode({"features": rows[part].tolist()})


def _post(
    client: httpx.Client,
    path: str,
    body: bytes,
    first: int,
) -> tuple[httpx.Response, int]:
    """Post until there is an answer that another attempt would not change -> it, and attempts."""
    end = time.monotonic() + PATIENCE_S
    headers = {"content-type": "application/json"}
    n_tries = 0
    while True:
        n_tries += 1
        try:
            answer = client.post(path, content=body, headers=headers)
            if _is_final(answer.status_code):
                return answer, n_tries
            reason = f"status {answer.status_code}"
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() > end:
            raise ReplayError(
                f"No answer for {PATIENCE_S:g} s to the request from row {first:,} on: {reason}."
            )
        # doubled each time, so that a server that starts is not flooded
        time.sleep(min(0.02 * 2**n_tries, 1.0))


def _is_final(status: int) -> bool:
    """Return whether another attempt would be answered in the same way."""
    if status == 200:
        return True
    return status in REFUSED and status not in BUSY


def count(log: pd.DataFrame, n: int) -> dict[str, int]:
    """Return what became of n rows, the first of which is the log's first.

    `n_lines`, `n_lost`, `n_duplicated`, `n_refused` and, of requests, `n_retries`.
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


def write(table: pd.DataFrame | pa.Table, path: Path) -> Path:
    """Write a table as Parquet, whole or not at all; return its path."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    with whole(path) as partial:
        pq.write_table(table, partial)
    return Path(path)
