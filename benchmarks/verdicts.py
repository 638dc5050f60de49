"""How often the weekly verdict is wrong: simulated weeks without drift and with, over seeds.

For each seed a detector is fitted on reference and gets its threshold from validation; the week is
the untouched period of the same table, simulated without drift (any verdict but "as expected" is a
false alarm) and with the known drift. Each week is judged with its labels and without.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import bundle
from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.data import datasets
from lib.data.cuts import cut
from lib.data.simulation import simulate
from lib.detectors.registry import make
from lib.production import scoring_by_parts
from lib.production.verdict import LEVELS, judge
from lib.production.week import Promise, Week
from lib.reporting.names import label


def fitted(dataset, data, model, budget):
    """Return a bundle, fitted on reference and calibrated on validation."""
    reference, validation = data["reference"], data["validation"]
    detector = make(model)
    detector.fit(reference.training("genuine").X)
    low, median, high = np.quantile(reference.X, [0.01, 0.5, 0.99], axis=0)
    manifest = {
        "model": model,
        "features": list(dataset.features),
        "files": {},
        "reference": {"low": low.tolist(), "median": median.tolist(), "high": high.tolist()},
    }
    graphs = {"model.onnx": detector.to_onnx()}
    raw = bundle.Bundle(manifest, graphs).raw_score(validation.X)
    calibration = Calibration.fit(raw, validation.weight)
    threshold = calibration.apply(threshold_for_budget(raw, validation.weight, budget))
    manifest["calibration"] = calibration.to_dict()
    manifest["threshold"] = {"anomaly_score": float(threshold)}
    return bundle.Bundle(manifest, graphs)


def verdict(dataset, served, promise, data, labelled):
    """Return the verdict on the untouched period."""
    week = data["untouched"]
    if not labelled:
        week = week._replace(y=np.full_like(week.y, -1))
    score = served.anomaly_score(week.X)
    seen = Week(promise)
    seen.add(week, score, (score >= served.threshold).astype(np.int8))
    drift = scoring_by_parts.drift_report(dataset, served, data["known"], week, score)
    return judge(seen.evidence(seen.worth(), drift, drift["columns"][-1]["name"]))


def periods(dataset, rows, seed, drifting):
    """Return {period: Arrays} of a simulated table."""
    frame = simulate(rows, seed, drift=drifting)
    arrays, parts = dataset.arrays(frame), cut(dataset, frame, 0.5, 0.2, 10)
    found = {name: arrays.take(parts[name]) for name in ("reference", "validation")}
    begin = min(part.start for name, part in parts.items() if name.startswith("batch_"))
    known = arrays.take(slice(0, begin))
    return found | {"known": known, "untouched": arrays.take(slice(begin, len(frame)))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000, help="transactions of a table")
    parser.add_argument("--seeds", type=int, default=20, help="tables with drift, and without")
    parser.add_argument("--model", default="robust_covariance", help="a detector")
    parser.add_argument("--budget", type=float, default=0.002, help="alert budget")
    parser.add_argument("--verbose", action="store_true", help="say why, each time")
    options = parser.parse_args()
    dataset = datasets.load_description("simulated")
    counts = {}
    for seed in range(options.seeds):
        for drifting in (False, True):
            data = periods(dataset, options.rows, seed, drifting)
            served = fitted(dataset, data, options.model, options.budget)
            promise = Promise.of_validation(served, data["validation"])
            for labelled in (False, True):
                found = verdict(dataset, served, promise, data, labelled)
                counts.setdefault((drifting, labelled), Counter())[found.word] += 1
                if options.verbose:
                    print(seed, drifting, labelled, found.word, "|", *found.reasons)
    print(f"{label(options.model)}, {options.seeds} tables of {options.rows:,} rows")
    for (drifting, labelled), counter in counts.items():
        what = ("with" if drifting else "without") + " drift, "
        what += "with labels" if labelled else "no labels"
        print(f"{what:28}", *(f"{word} {counter[word]:3}" for word in LEVELS), sep="   ")


if __name__ == "__main__":
    main()
