"""Time, size and detection of every detector, printed.

    python benchmarks/detectors.py [--raw creditcard.csv] [--rows 284807] [--seeds 1] [--models
    NAME…] [--threads 2]

With ``--raw``, average precision on rolling cuts of time inside the first 70 % of the weight, both
regimes, beside trees with labels; the last 30 % is never read into a figure. Always: fit time,
peak memory, scoring time and size on simulated rows, half of which are fitted.
"""

import argparse
import os
import resource
import time

import numpy as np
import onnxruntime
import pandas as pd
from sklearn.metrics import average_precision_score

from lib.bundle.bundle import CHUNK_ROWS
from lib.data import simulation
from lib.data.datasets import load_description
from lib.detectors import registry

# reference and the validation after it, per cent of the weight
CUTS = ((25, 15), (35, 20), (50, 20))
LIMITS = {
    "fit_s": 120,
    "cpu_s": np.inf,
    "peak_mb": 2_048,
    "row_ms": 0.2,
    "100_rows_ms": np.inf,
    "100k_s": 5,
    "size_mb": 5,
}
FOREST_MB = 15  # trees are larger


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", help="the card data, with or without a weight column")
    parser.add_argument(
        "--rows", type=int, default=284_807, help="simulated rows; 0 leaves the timings out"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="*", default=sorted(registry.DETECTORS))
    options = parser.parse_args()
    if options.raw:
        detection(pd.read_csv(options.raw), options)
    if options.rows:
        costs(simulation.simulate(rows=options.rows, seed=0), options)


def arrays(frame):
    dataset = load_description("creditcard")
    frame = frame.sort_values(dataset.time, kind="stable")
    return dataset.arrays(frame if "weight" in frame else frame.assign(weight=1.0))


def detection(frame, options):
    """Average precision by cut, regime and seed."""
    data = arrays(frame)
    share = np.cumsum(data.weight) / data.weight.sum()
    print(f"average precision, {len(data.y):,} rows, {int(data.y.sum())} frauds")
    for reference, validation in CUTS:
        end_s = data.time_s[np.searchsorted(share, reference / 100)]  # one instant is never parted
        fitted = data.take(data.time_s < end_s)
        judged = data.take((data.time_s >= end_s) & (share <= (reference + validation) / 100))
        for name in options.models:
            labelled = name in registry.SUPERVISED
            for train_on in ("labels",) if labelled else ("genuine", "all"):
                rows = fitted if train_on != "genuine" else fitted.take(fitted.y == 0)
                found = []
                for seed in range(1 if name == "supervised_trees" else options.seeds):
                    detector = registry.make(name, seed=seed, threads=options.threads)
                    detector.fit(rows.X, rows.y if labelled else None, weight=rows.weight)
                    score = detector.raw_score(judged.X)
                    found.append(
                        average_precision_score(judged.y, score, sample_weight=judged.weight)
                    )
                each = " ".join(f"{value:.3f}" for value in found)
                print(
                    f"{reference}/{validation} {name:20} {train_on:8} {np.mean(found):.3f}   "
                    f"({each})",
                    flush=True,
                )


def costs(frame, options):
    """Seconds, megabytes and milliseconds on simulated rows; each model in a process of its own."""
    data = arrays(frame)
    half = data.take(np.arange(len(data.y) // 2))
    print(
        f"\nfitted on {len(half.y):,} simulated rows of {half.X.shape[1]} features, "
        f"{options.threads} threads"
    )
    print(f"{'model':20} " + " ".join(f"{column:>11}" for column in LIMITS))
    limits = " ".join(
        f"{limit:11g}" if np.isfinite(limit) else 11 * " " for limit in LIMITS.values()
    )
    print(f"{'at most':20} {limits}    (forests {FOREST_MB} MB; ! = above)")
    for name in options.models:
        child = os.fork()  # peak memory of this model alone
        if child == 0:
            cost(name, half, data, options)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(f"{name:20} ended with status {status}")


def cost(name, half, data, options):
    started, cpu_started = time.perf_counter(), time.process_time()
    detector = registry.make(name, threads=options.threads)
    if name in registry.SUPERVISED:
        detector.fit(half.X, half.y, weight=half.weight)
    else:
        genuine = half.take(half.y == 0)
        detector.fit(genuine.X, weight=genuine.weight)
    fit_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    graph = detector.to_onnx()
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, session_options)
    many = np.resize(data.X, (100_000, data.X.shape[1]))
    row, hundred, all_rows = (
        median_s(session, many[:n], repeats)
        for n, repeats in ((1, 2_000), (100, 200), (100_000, 2))
    )
    size_mb = (len(graph) + len(detector.explain_onnx() or b"")) / 1e6
    figures = (fit_s, cpu_s, peak_mb, row * 1e3, hundred * 1e3, all_rows, size_mb)
    limits = LIMITS | ({"size_mb": FOREST_MB} if name == "isolation_forest" else {})
    marked = (
        f"{figure:10.3f}{'!' if figure > limit else ' '}"
        for figure, limit in zip(figures, limits.values(), strict=True)
    )
    print(f"{name:20} " + " ".join(marked), flush=True)


def median_s(session, X, repeats):
    """Median seconds of scoring X, in pieces as lib.bundle does."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for start in range(0, len(X), CHUNK_ROWS):
            session.run(None, {"features": X[start : start + CHUNK_ROWS]})
        seconds.append(time.perf_counter() - started)
    return np.median(seconds[1:])


if __name__ == "__main__":
    main()
