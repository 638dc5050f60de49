"""What operators see: JSON lines on stdout, metrics for Prometheus. Neither ever holds a feature's value."""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client import multiprocess as workers

SCORES = (0.1, 0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_EDGES = np.array(SCORES)
_unflushed = False  # whether request lines wait for `flush`
_second = [0, ""]  # the second that was formatted last
encode = msgspec.json.Encoder().encode

disable_created_metrics()  # a series of start times beside each counter
requests = Counter("fraud_requests", "Requests answered.", ["route", "status"])
latency = Histogram("fraud_request_seconds", "Time from a request's head to its answer.", ["route"], buckets=SECONDS)
rows = Counter("fraud_rows", "Transactions scored.")
alerts = Counter("fraud_alerts", "Transactions at or above the threshold.")
scores = Histogram("fraud_anomaly_score", "Anomaly scores of transactions.", buckets=SCORES)
reloads = Counter("fraud_bundle_loads", "Attempts to load a bundle.", ["result"])
served = Gauge(
    "fraud_model_info",
    "Workers that answer with this model.",
    ["name", "version", "bundle_hash"],
    multiprocess_mode="livesum",
)


def observe_scores(values, n_alerts):
    """Count the scores (n,) of one request; prometheus_client takes one at a time, which is slow for thousands."""
    n = len(values)
    rows.inc(n)
    if n_alerts:
        alerts.inc(n_alerts)
    if n == 1:
        scores.observe(float(values[0]))
        return
    scores._sum.inc(float(values.sum()))
    for bucket, count in enumerate(np.bincount(np.searchsorted(_EDGES, values), minlength=len(SCORES) + 1).tolist()):
        if count:
            scores._buckets[bucket].inc(count)


def render():
    """The metrics of all workers as Prometheus' text; a dead worker's counts stay, its gauges go."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return generate_latest(REGISTRY)
    for pid in {path.stem.rpartition("_")[2] for path in Path(folder).glob("gauge_live*.db")}:
        if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            workers.mark_process_dead(int(pid))
    registry = CollectorRegistry()
    workers.MultiProcessCollector(registry)
    return generate_latest(registry)


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the record's `data`, a dict."""

    def format(self, record):
        """The line of a record."""
        entry = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if data := getattr(record, "data", None):
            entry |= data
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return encode(entry).decode()


def utc(seconds):
    """Seconds since the epoch as 2026-01-02T03:04:05.678Z."""
    whole = int(seconds)
    if whole != _second[0]:
        _second[:] = whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{_second[1]}.{int(seconds % 1 * 1000):03d}Z"


def log_request(data):
    """Write a request's line, past the logging module, which takes as long as the whole request otherwise.

    Lines go out together, 50 ms later at most: a system call for each would cost more than scoring a row.
    """
    global _unflushed
    line = {"time": utc(time.time()), "level": "info", "logger": "serve.request", **data}
    sys.stdout.write(encode(line).decode() + "\n")
    if not _unflushed:
        _unflushed = True
        asyncio.get_running_loop().call_later(0.05, flush)


def flush():
    """Write what `log_request` has kept."""
    global _unflushed
    _unflushed = False
    sys.stdout.flush()


def configure_logging(level):
    """Send our log and uvicorn's to stdout as JSON lines; our line of a request replaces uvicorn's access log."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
