"""Scorecard of drift detection on simulated transactions: delays and false alarms over seeds, with
drift and without.

The reference window is the first half of the rows, the batches are the ten of the untouched period;
the largest |z| is watched as a score. Looser rates than the one in use say more of the calibration
than the few false alarms at it.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.data import datasets
from lib.data.cuts import cut
from lib.data.simulation import DRIFTS, simulate
from lib.production import drift, drift_statistics

RATES = (0.001, 0.01, 0.05)
SCORE = "largest |z|"


def replay(dataset, rows, seed, drifting):
    """Verdicts on the ten batches, and the seconds that one took on average."""
    frame = simulate(rows, seed, drift=drifting)
    data, parts = dataset.arrays(frame), cut(dataset, frame, 0.5, 0.2, 10)
    reference = data.take(parts["reference"])
    score = np.abs((data.X - reference.X.mean(0)) / reference.X.std(0)).max(axis=1)
    X = np.c_[data.X, score]
    monitor = drift.Monitor(
        X[parts["reference"]], reference.weight, reference.time_s, (*dataset.features, SCORE)
    )
    verdicts, start = [], time.perf_counter()
    for part in (part for name, part in parts.items() if name.startswith("batch_")):
        previous = verdicts[-1] if verdicts else None
        verdicts.append(monitor.check(X[part], data.weight[part], data.time_s[part], previous))
    return verdicts, (time.perf_counter() - start) / len(verdicts)


def delay(verdicts, what, feature):
    """Batches from the first with this drift to the first that flags it (one number a replay); NaN
    if none does.
    """
    flagged = [feature in v.flagged for v in verdicts[what.first_batch - 1 :]]
    return flagged.index(True) if any(flagged) else np.nan


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000, help="transactions of a replay")
    parser.add_argument("--seeds", type=int, default=20, help="replays with drift, and without")
    options = parser.parse_args()
    dataset = datasets.load_description("simulated")
    print(f"{options.seeds} replays of ten batches each, {options.rows:,} transactions")

    drifting = [replay(dataset, options.rows, seed, True) for seed in range(options.seeds)]
    seconds = np.mean([s for _, s in drifting])
    print(
        f"\n{1000 * seconds:.0f} ms a batch\n\nwith drift: replays that flag it after 0, 1, more "
        "batches, or never"
    )
    for what in DRIFTS:
        for feature in what.features if what.what != "fraud" else ():
            delays = np.array([delay(verdicts, what, feature) for verdicts, _ in drifting])
            n = [
                np.sum(delays == 0),
                np.sum(delays == 1),
                np.sum(delays > 1),
                np.isnan(delays).sum(),
            ]
            print(
                f"  {feature:4} {what.what:6} from batch {what.first_batch}: {n[0]:3} {n[1]:3} "
                f"{n[2]:3} {n[3]:3}"
            )
    first = {f: what.first_batch for what in DRIFTS if what.what != "fraud" for f in what.features}
    false = [
        f
        for verdicts, _ in drifting
        for i, v in enumerate(verdicts, 1)
        for f in v.flagged
        if i < first.get(f, 11)
    ]
    print(
        f"  flags without a drift: {len(false)} {sorted(set(false))} ({SCORE} follows the features)"
    )

    still = [
        v for seed in range(options.seeds) for v in replay(dataset, options.rows, seed, False)[0]
    ]
    p_values = [[c.p_value for c in v.columns] for v in still]
    print(
        f"\nwithout drift: {len(still)} batches, "
        f"{sum(v.level == drift.PERSISTENT for v in still)} persistent"
    )
    sizes = np.median([(v.reference_size, v.current_size) for v in still], axis=0)
    print(
        f"  {np.mean([bool(v.matched_by) for v in still]):.0%} matched; {sizes[0]:,.0f} "
        "effective reference rows"
    )
    for rate in RATES:
        n = sum(drift_statistics.discoveries(p, rate).any() for p in p_values)
        print(f"  at a rate of {rate:5}: {n} false alarms, {n / len(still):.2%} of the batches")


if __name__ == "__main__":
    main()
