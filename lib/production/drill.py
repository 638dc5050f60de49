"""Promote, roll back and kill the server while a batch is being sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import bundle
from lib.bundle.manifest import read
from lib.production import replay
from lib.production.history import History
from lib.production.sandbox import calibrate, deploy
from lib.registry import tracking

NAME = "sandbox-drill"


def drill(
    history: History,
    start: Path,
    folder: Path,
    batch: str,
    alert_budget: float = 0.002,
    seconds: float = 4.0,
) -> dict[str, Any]:
    """Reload the server three times and kill it once (SIGKILL) while a batch is being sent.

    The registry promotes a second version (the same model, its threshold re-set), rolls back, and
    rolls forth again; each time the server takes up what the registry says.

    Returns
    -------
    dict
        `replay.count` of the log, with `versions`, in the order in which they answered, and
        `n_wrong`, lines whose score is not that of the version they name.
    """
    live = Path(folder) / "live"
    data = history.data.take(history.slices[batch])
    first, second = Path(folder) / "first", Path(folder) / "second"
    manifest, graphs = read(Path(start))
    for path in (first, second):
        bundle.write(path, graphs, manifest | {"name": NAME})
    calibrate(second, data, alert_budget, NAME)
    tracking.register(first, NAME, ["the drill's first"])
    deploy(NAME, live)
    tracking.register(second, NAME, ["the drill's second"])

    n = len(data.X)
    with replay.Server(live, Path(folder) / "server.log") as server:
        log = replay.replay(
            server,
            data.X,
            time_s=np.linspace(0, seconds, n),
            traffic=replay.Traffic(rows_per_request=20, speed=1.0),
            at=_acts(server, live, n),
        )
    version = log["model_version"]
    is_new = version != version.shift()
    return replay.count(log, n) | {
        "n_wrong": _n_wrong(log, {"1": first, "2": second}, data.X),
        "n_reloads": 3,
        "n_kills": 1,
        "versions": list(version[is_new]),
    }


def _acts(
    server: replay.Server,
    live: Path,
    n: int,
) -> dict:
    """Return what happens after how many of n answered rows."""

    def take_up():
        deploy(NAME, live)
        server.reload()

    def roll_back():
        tracking.rollback(NAME)
        take_up()

    def power_cut():
        server.kill()
        server.launch()

    return {
        n // 8: take_up,
        3 * n // 8: roll_back,
        # back from the rollback: it swaps the two
        5 * n // 8: roll_back,
        6 * n // 8: power_cut,
    }


def _n_wrong(
    log: pd.DataFrame,
    folders: dict[str, Path],
    X: np.ndarray,
) -> int:
    """Count the lines whose score is not that of the version that they name."""
    expected = {}
    for version, folder in folders.items():
        expected[version] = bundle.load(folder).anomaly_score(X)
    n_wrong = 0
    lines = zip(log["model_version"], log["anomaly_score"], strict=True)
    for i, (version, score) in enumerate(lines):
        if expected[version][i] != score:
            n_wrong += 1
    return n_wrong
