"""Time of the comparison's figures and intervals: one validation period, and ten models on a larger
table.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.evaluation import metrics

CASES = {  # rows, frauds, models, seconds that the period lasts
    "validation of the public sample": (11_000, 100, 8, 34_560),
    "a fifth of the full table": (57_000, 75, 10, 34_560),
    "a large table": (340_000, 2_700, 10, 345_600),
    "a large table over a year": (340_000, 2_700, 10, 31_536_000),
}

for name, (n, n_frauds, n_models, duration_s) in CASES.items():
    rng = np.random.default_rng(0)
    y = np.zeros(n, dtype=np.int8)
    y[rng.choice(n, n_frauds, replace=False)] = 1
    time_s, weight = np.sort(rng.uniform(0, duration_s, n)), rng.choice([1.0, 4.0, 7.0], n)
    scores = {f"model {i}": rng.normal(size=n) + y * i / 2 for i in range(n_models)}
    start = time.perf_counter()
    outcomes = metrics.Outcomes(y, weight, time_s, rng.lognormal(3, 1, n))
    metrics.evaluate(outcomes, scores)
    seconds, peak = (
        time.perf_counter() - start,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    print(
        f"{name}: {n:,} rows, {n_frauds:,} frauds, {n_models} models: {seconds:.1f} s, peak "
        f"{peak:.0f} MB so far"
    )
