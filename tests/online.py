"""Raw transactions for tests: a table with every kind of history, a bundle, and stores."""

import json
import subprocess
import time

import bundles
import numpy as np
import pandas as pd
from server import free_port

from lib import bundle
from lib.bundle import recent
from lib.bundle.calibration import Calibration
from lib.bundle.manifest import HISTORY
from lib.bundle.raw import RawTable
from lib.data import features, raw_rows
from lib.data.datasets import Dataset, prepare

EVERY_HISTORY = [
    {"count": "card", "within": "10s"},
    {"count": "card", "within": "30s", "delay": "5s"},
    *({how: "eur", "of": "card", "within": "10s"} for how in ("mean", "sum", "max", "min", "std")),
    *(
        {how: "eur", "of": "merchant", "within": "20s", "delay": "5s"}
        for how in ("mean", "sum", "max", "min", "std")
    ),
    {"distinct": "merchant", "of": "card", "within": "10s"},
    {"distinct": "kind", "of": "merchant", "within": "20s", "delay": "5s"},
    {"since_last": "card"},
    {"fraud_rate": "merchant", "within": "40s", "delay": "5s"},
    {"fraud_count": "merchant", "within": "20s", "delay": "5s"},
]
BY_ROW = [
    {"category": "kind"},
    {"time": "hour_of_day"},
    {"distance_km": ["lat", "long", "to_lat", "to_long"]},
    {"ratio": ["eur", "eur_mean_card_10s"]},
]


def shop(derived=(*EVERY_HISTORY, *BY_ROW), **changes) -> Dataset:
    plain = {
        "name": "shop",
        "time": "t",
        "label": "fraud",
        "amount": "eur",
        "ids": ["nr"],
        "entities": ["card", "merchant"],
        "missing": "median",
        "features": ["eur", *derived],
    }
    return Dataset.from_dict(plain | changes)


def table(n=200, seed=0, step_s=2.0) -> pd.DataFrame:
    """n transactions of few cards and merchants, with ties, missing cells and labels."""
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.choice([0.0, 0.1, 0.9, step_s], n))
    words = np.array(["food", "fuel", "travel", None], object)
    frame = pd.DataFrame(
        {
            "nr": [f"T{i}" for i in range(n)],
            "t": t,
            "card": rng.choice(np.array(["a", "b", "c", None], object), n, p=[0.5, 0.3, 0.1, 0.1]),
            "merchant": rng.choice(["m", "n"], n),
            "kind": rng.choice(words, n),
            "eur": np.round(rng.lognormal(3, 1, n), 2),
            "fraud": np.where(rng.random(n) < 0.2, rng.integers(0, 2, n), 0).astype(object),
        }
    )
    for place in ("lat", "long", "to_lat", "to_long"):
        frame[place] = np.round(rng.uniform(-80, 80, n), 4)
    frame.loc[rng.random(n) < 0.1, "eur"] = np.nan
    frame.loc[rng.random(n) < 0.1, "fraud"] = None
    return frame


class Prepared:
    """A table offline, and what its bundle says of raw transactions.

    Attributes
    ----------
    frame : checked, derived and encoded; the first `n_reference` rows are reference
    raw : lib.bundle.raw.RawTable
    """

    def __init__(self, dataset, frame, n_reference=50):
        self.dataset = dataset
        frame = features.derive(dataset, prepare(dataset, frame, "memory"))
        encoders = features.encoders(dataset, frame.iloc[:n_reference])
        self.frame = features.encode(dataset, frame, encoders)
        kind = (
            "seconds" if pd.api.types.is_numeric_dtype(frame[dataset.time_column]) else "datetime"
        )
        self.manifest = {
            "recipe": raw_rows.described(dataset, {"time": kind, "encoders": encoders}),
            "features": list(dataset.features),
            "missing": dataset.missing,
            "dataset": {"name": dataset.name, "source": "custom"},
        }
        json.dumps(self.manifest, allow_nan=False)
        self.raw = RawTable(self.manifest)
        self.rows = raw_rows.as_json(dataset, self.frame, self.raw)

    @property
    def X(self):  # noqa: N802 - a matrix
        """The features of the table, (n, d) float64."""
        return self.frame[list(self.dataset.features)].to_numpy(np.float64)

    def recent(self, n):
        """What a bundle brings along after the first n rows."""
        return raw_rows.recent(self.dataset, self.frame.iloc[:n], self.raw)

    def labels(self):
        """The known labels, {id: label}, and their transactions' times in seconds."""
        y = self.frame[self.dataset.label].to_numpy()
        ids = self.frame[self.raw.id]
        return {identity: int(label) for identity, label in zip(ids, y, strict=True) if label >= 0}

    def write(self, folder, n_before, **changes):
        """A bundle for these features that knows the first `n_before` transactions."""
        d = len(self.dataset.features)
        X = np.nan_to_num(self.X.astype(np.float32))
        low, median, high = np.quantile(X, [0.01, 0.5, 0.99], axis=0).tolist()
        files = bundles.graphs("autoencoder", d)
        manifest = self.manifest | {
            "name": "fraud-detector-shop",
            "model": "autoencoder",
            "version": "1",
            "reference": {"low": low, "median": median, "high": high},
            "threshold": {"anomaly_score": 0.9},
        }
        bundle.write(folder, files, manifest)
        raw_score = bundle.load(folder).raw_score(X)
        manifest["calibration"] = Calibration.fit(raw_score, np.ones(len(X))).to_dict()
        if n_before:
            files[HISTORY] = recent.pack(self.recent(n_before))
        bundle.write(folder, files, manifest | changes, hashed_names=True)
        return folder


def agree(X, expected):
    """Assert features equal to 1e-9 relative, missing ones missing in both."""
    np.testing.assert_allclose(X, expected, rtol=1e-9, atol=0)


class Redis:
    """A real redis-server of its own, in memory, on a free port."""

    def __init__(self, folder):
        self.port = free_port()
        self.folder = folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = None
        self.start()

    def start(self):
        command = ["redis-server", "--port", str(self.port), "--save", "", "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "always"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        import redis

        for _ in range(200):
            try:
                return redis.Redis.from_url(self.url).ping()
            except redis.ConnectionError:
                time.sleep(0.05)
        raise RuntimeError("redis-server does not answer")

    def stop(self):
        self.process.kill()
        self.process.wait()
