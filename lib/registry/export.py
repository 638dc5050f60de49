"""From the registry to the server: provenance, scoring time, examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import bundle
from lib.bundle import recent
from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.bundle.manifest import HISTORY
from lib.bundle.raw import RawTable
from lib.data import raw_rows, splits
from lib.data.splits import Split
from lib.detectors.isolation_forest import IsolationForest
from lib.registry import candidates, challengers, serving, tracking
from lib.registry.mlflow_store import Champion, git_commit


def provenance(present: Champion) -> dict[str, Any]:
    """Return where and when an exported bundle comes from; never part of its hash."""
    return {
        "registered_name": present.name,
        "mlflow_run_id": present.run_id,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
    }


def obstacle(present: Champion | None, features: Sequence[str], name: str) -> str:
    """Return why the champion of `name` is not exported, a sentence; empty where it is.

    features : the names that this dataset has now, in order

    A champion that stays although its features are others, or its files are gone, is a normal end:
    what is served goes on being served.
    """
    if present is None:
        return f"{name} has no champion."
    if present.lost:
        return present.lost
    theirs = present.manifest["features"]
    ours = list(features)
    if theirs == ours:
        return ""
    gone = [feature for feature in theirs if feature not in ours]
    new = [feature for feature in ours if feature not in theirs]
    odd = gone + new
    why = f"differ in {', '.join(odd[:5])}" if odd else "have another order"
    return (
        f"{name} version {present.version} is not exported: its features and those of the "
        f"description {why}."
    )


def held_back(
    bundle_dir: Path,
    registered_name: str,
    dataset: str,
    *,
    replace: bool = False,
) -> str:
    """Return why a bundle is left where it is, a sentence; empty where it may be replaced.

    A bundle of another registered name is another model for other transactions: a server would
    answer with it to whoever asks for the first. One whose name cannot be read serves nobody.
    """
    place = f"{bundle_dir.parent.name}/{bundle_dir.name}"
    there, _ = serving.exported(bundle_dir)
    name = there.name if there else serving.stated_name(bundle_dir)
    if replace or name in ("", registered_name):
        return ""
    what = f"{name}, damaged"
    if there:
        what = f"{there} for {there.dataset}, which goes on being served"
    command = f"--only 10_export --dataset {dataset} --replace"
    return f"{place} holds {what}; {command} puts {registered_name} in its place."


def recent_transactions(split: Split, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the file that a bundle with histories brings along, {name: bytes}; else nothing.

    It holds what windows can reach of the transactions up to the end of validation: the untouched
    period is what comes afterwards. Without an id nothing could be remembered, and nothing is kept.
    """
    if not manifest.get("recipe"):
        return {}
    raw = RawTable(manifest)
    if not raw.has_histories or raw.id is None:
        return {}
    periods = [split.frame(period) for period in ("reference", "validation")]
    past = pd.concat(periods, ignore_index=True)
    return {HISTORY: recent.pack(raw_rows.recent(split.dataset, past, raw))}


def speed(
    exported: bundle.Bundle,
    folder: Path,
    n_rows: int = 100_000,
    repeats: int = 200,
) -> dict[str, float]:
    """Return scoring times on the kept rows.

    {"one_row_ms" (median), "hundred_rows_ms" (median), "rows_per_s" (in bulk)}
    """
    with np.load(Path(folder) / "parity.npz") as kept:
        # other rows in every call: a cache would flatter
        X = np.resize(kept["X"], (n_rows, kept["X"].shape[1]))

    def median_ms(rows):
        times = []
        for i in range(repeats):
            start = time.perf_counter()
            exported.raw_score(X[i * rows : (i + 1) * rows])
            times.append(time.perf_counter() - start)
        return float(np.median(times) * 1e3)

    start = time.perf_counter()
    exported.raw_score(X)
    in_bulk = n_rows / (time.perf_counter() - start)
    return {
        "one_row_ms": median_ms(1),
        "hundred_rows_ms": median_ms(100),
        "rows_per_s": round(in_bulk),
    }


def register_forest(
    run_dir: Path,
    dataset: str,
    registered_name: str,
    *,
    card: Callable[[dict], str],
    seed: int = 0,
) -> str:
    """Give a registered name its first champion, an isolation forest; return its version.

    The export can then be tried on its own.
    """
    split = splits.open_split(splits.ensure(dataset, seed=seed))
    regime = candidates.regimes("both", split)[0]
    fitted = candidates.fit(IsolationForest(seed=seed), split, regime)
    name = candidates.variant("isolation_forest", regime)
    folder = candidates.write(run_dir, name, fitted, split)
    data = split.arrays("validation")
    alert_budget = split.dataset.alert_budget
    raw = bundle.load(folder).raw_score(data.X)
    threshold = threshold_for_budget(raw, data.weight, alert_budget)
    challengers.calibrate(
        folder,
        Calibration.fit(raw, data.weight),
        challengers.Threshold(threshold, "alert_budget", alert_budget),
        name=registered_name,
        card=card,
    )
    return tracking.register(folder, registered_name, ["first of its name, registered by hand"])
