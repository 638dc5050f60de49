"""Metrics for Prometheus; none ever holds a feature's value."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from serve.settings import METRICS_FOLDER, SettingsError, make_metrics_folder

# prometheus_client decides by this variable, and opens its files, as soon as a metric is made
if not os.environ.get(METRICS_FOLDER, "").strip():
    os.environ.pop(METRICS_FOLDER, None)
try:
    make_metrics_folder(os.environ)
except SettingsError as error:
    print(f"serve: {error}", file=sys.stderr)
    raise SystemExit(2) from error

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

disable_created_metrics()  # a series of start times beside each counter
requests = Counter("fraud_requests", "Requests answered.", ["route", "status"])
latency = Histogram(
    "fraud_request_seconds", "Time from a request's head to its answer.", ["route"], buckets=SECONDS
)
rows = Counter("fraud_rows", "Transactions scored.")
alerts = Counter("fraud_alerts", "Transactions at or above the threshold.")
scores = Histogram("fraud_anomaly_score", "Anomaly scores of transactions.", buckets=SCORES)
reloads = Counter("fraud_bundle_loads", "Attempts to load a bundle.", ["result"])
remembered = Counter("fraud_transactions_remembered", "Raw transactions kept, each once.")
labels = Counter("fraud_labels", "Late labels of transactions that are kept.")
lookup = Histogram(
    "fraud_history_seconds", "Time to look up histories and derive features.", buckets=SECONDS
)
served = Gauge(
    "fraud_model_info",
    "Workers that answer with this model.",
    ["name", "version", "bundle_hash"],
    multiprocess_mode="livesum",
)


def observe_scores(values: np.ndarray, n_alerts: int) -> None:
    """Count the scores (n,) of one request.

    prometheus_client takes one at a time, which is slow for thousands.
    """
    n = len(values)
    rows.inc(n)
    if n_alerts:
        alerts.inc(n_alerts)
    if n == 1:
        scores.observe(float(values[0]))
        return
    scores._sum.inc(float(values.sum()))
    for bucket, count in enumerate(
        np.bincount(np.searchsorted(_EDGES, values), minlength=len(SCORES) + 1).tolist()
    ):
        if count:
            scores._buckets[bucket].inc(count)


def render() -> bytes:
    """Return the metrics of all workers as Prometheus' text.

    A dead worker's counts stay, its gauges go.
    """
    folder = os.environ.get(METRICS_FOLDER)
    if not folder:
        return generate_latest(REGISTRY)
    for pid in {path.stem.rpartition("_")[2] for path in Path(folder).glob("gauge_live*.db")}:
        if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            workers.mark_process_dead(int(pid))
    registry = CollectorRegistry()
    workers.MultiProcessCollector(registry)
    return generate_latest(registry)
