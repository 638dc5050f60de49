"""Small bundles for tests, built in milliseconds: one graph of each shape that the real detectors
export.
"""

import numpy as np

from lib import bundle
from lib.bundle.calibration import Calibration
from lib.detectors.onnx_graph import Graph

KINDS = ("forest", "autoencoder", "mixture")
FEATURES = [f"V{i}" for i in range(1, 29)] + ["Amount"]


def rows(n, d=29, seed=0):
    """Transactions: standard normal columns and an amount; (n, d) float32, every tenth one pulled
    far out.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X[::10] *= 6
    X[:, -1] = rng.exponential(80, n)
    return X.astype(np.float32)


def graphs(kind, d=29, seed=0):
    """{"model.onnx": bytes, …} of a forest (100 trees), an autoencoder or an eight-fold mixture of
    four components.
    """
    rng = np.random.default_rng(seed)
    build, explain = Graph(d), Graph(d)
    if kind == "forest":
        total = build.tree_sum([_tree(rng, d) for _ in range(100)])
        share = build.add("Pow", 2.0, build.add("Mul", total, -1 / (100 * 8.0)))
        return {"model.onnx": build.finish(build.flat(share))}
    if kind == "autoencoder":
        weights = [rng.normal(size=shape, scale=0.2) for shape in ((d, 16), (16, 8), (8, d))]
        return {
            "model.onnx": build.finish(_mean(build, _squares(build, weights))),
            "explain.onnx": explain.finish(_squares(explain, weights), "contributions"),
        }
    folds = [(rng.normal(size=(4, d)), rng.normal(size=(4, d, d), scale=0.2)) for _ in range(8)]
    lows = [
        build.add("Unsqueeze", _nearest(build, *fold), build.constant([1], np.int64))
        for fold in folds
    ]
    z = explain.add("Mul", "features", explain.constant(np.full(d, 0.1)))
    return {
        "model.onnx": build.finish(_mean(build, build.add("Concat", *lows, axis=1))),
        "explain.onnx": explain.finish(explain.add("Mul", z, z), "contributions"),
    }


def _mean(build, values):
    return build.add("ReduceMean", values, axes=[1], keepdims=0)


def _squares(build, weights):
    z = build.add("Mul", "features", build.constant(np.full(weights[0].shape[0], 0.1)))
    hidden = z
    for i, weight in enumerate(weights):
        hidden = build.add("MatMul", hidden, weight)
        hidden = build.add("Relu", hidden) if i < 2 else hidden
    error = build.add("Sub", hidden, z)
    return build.add("Mul", error, error)


def _nearest(build, means, factors):
    """Smallest Mahalanobis-like distance to a component, [n]."""
    distances = []
    for mean, factor in zip(means, factors, strict=True):
        y = build.add("MatMul", build.add("Sub", "features", mean[None]), factor)
        distances.append(
            build.add(
                "ReduceSum", build.add("Mul", y, y), build.constant([1], np.int64), keepdims=1
            )
        )
    return build.add("ReduceMin", build.add("Concat", *distances, axis=1), axes=[1], keepdims=0)


def _tree(rng, d, depth=8):
    """A full binary tree in breadth-first order; values at leaves are path lengths."""
    n_inner = 2**depth - 1
    n = 2 * n_inner + 1
    inner = np.arange(n) < n_inner
    return {
        "left": np.where(inner, 2 * np.arange(n) + 1, -1),
        "right": np.where(inner, 2 * np.arange(n) + 2, -1),
        "feature": rng.integers(0, d, n),
        "threshold": rng.normal(size=n, scale=2),
        "value": rng.uniform(4, 12, n),
    }


def manifest(kind="autoencoder", features=FEATURES, **changes):
    """A whole manifest; keyword arguments replace or add keys, None takes a key out."""
    d = len(features)
    reference = rows(500, d)
    low, median, high = (
        np.quantile(reference, [0.01, 0.5, 0.99], axis=0).astype(np.float32).tolist()
    )
    whole = {
        "model": kind,
        "name": "fraud-detector",
        "dataset": {"name": "simulated", "source": "simulated"},
        "features": list(features),
        "amount": features[-1],
        "missing": "refuse",
        "fit": {
            "train_on": "genuine",
            "n": 500,
            "weight": 500.0,
            "start_s": 0.0,
            "end_s": 86_400.0,
            "seed": 0,
        },
        "reference": {"low": low, "median": median, "high": high},
        "metrics": {"validation": {"average_precision": {"value": 0.8, "low": 0.7, "high": 0.9}}},
        "version": "3",
        "provenance": {
            "trained_at": "2026-01-02T03:04:05+00:00",
            "exported_at": "2026-01-02T03:05:00+00:00",
        },
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def write(
    folder,
    kind="autoencoder",
    *,
    features=FEATURES,
    seed=0,
    hashed_names=False,
    budget=0.05,
    **changes,
):
    """Write a calibrated bundle and return `folder`."""
    parts = graphs(kind, len(features), seed)
    start = manifest(kind, features, **changes)
    raw = bundle.Bundle({"files": {}, **start}, parts).raw_score(rows(2_000, len(features), seed=1))
    calibration = Calibration.fit(raw, np.ones(len(raw)))
    threshold = {"anomaly_score": 1 - budget, "rule": "alert_budget", "alert_budget": budget}
    bundle.write(
        folder,
        parts,
        {"calibration": calibration.to_dict(), "threshold": threshold} | start,
        hashed_names,
    )
    return folder
