"""Tables as a warehouse has them, and what the pipeline derives from them."""

import numpy as np
import pandas as pd

from lib.data import features, payments, splits
from lib.data.datasets import Dataset, load_description, prepare

SHOP = {
    "name": "shop",
    "time": "paid at",
    "label": {"column": "status", "fraud": ["chargeback"], "genuine": ["ok"], "unknown": ["?"]},
    "amount": "eur",
    "weight": "w",
    "ids": ["order"],
    "entities": ["card", "merchant"],
    "timezone": "Europe/Paris",
    "missing": "median",
    "negative_amount": "allow",
    "features": [
        "eur",
        "age",
        {"category": "kind"},
        {"category": "kind", "name": "kind again"},
        {"category": "merchant", "name": "merchant_rarity"},
        {"time": "hour_of_day"},
        {"time": "day_of_week"},
        {"time": "is_night"},
        {"time": "is_weekend"},
        {"distance_km": ["lat", "long", "shop_lat", "shop_long"]},
        *({"count": entity, "within": "1d"} for entity in ("card", "merchant")),
        {"count": "card", "within": "2h", "delay": "30min"},
        *({how: "eur", "of": "card", "within": "1d"} for how in ("mean", "sum", "max", "min")),
        {"std": "eur", "of": "card", "within": "1d"},
        *({how: "zero", "of": "card", "within": "7d"} for how in ("sum", "std")),
        *(
            {how: "eur", "of": "card", "within": "3d", "delay": "1h"}
            for how in ("mean", "sum", "max", "min", "std")
        ),
        {"distinct": "kind", "of": "card", "within": "12h"},
        {"distinct": "merchant", "of": "card", "within": "1d", "delay": "2h"},
        {"since_last": "card"},
        {"since_last": "merchant"},
        {"fraud_rate": "merchant", "within": "7d", "delay": "1d"},
        {"fraud_count": "card", "within": "7d", "delay": "1d"},
        {"ratio": ["eur", "eur_mean_card_1d"], "name": "jump"},
        {"difference": ["jump", "eur_std_card_1d"], "name": "more"},
        {"ratio": ["more", "hour_of_day"], "name": "by hour"},
        {"ratio": ["eur", "zero"]},
        "zero",
    ],
}


def shop(n=900, seed=0):
    """A table with all that a warehouse may hold: ties in time, clocks that change, missing and
    infinite values, blanks, labels in words, weights, columns with blanks and quotes in their names
    -> (description, rows as they came).
    """
    rng = np.random.default_rng(seed)
    day = pd.Timestamp("2024-03-29 20:00:00")  # clocks change in Paris two days later
    seconds = np.sort(rng.integers(0, 6 * 86_400, n // 3))  # three rows an instant on average
    when = day + pd.to_timedelta(rng.choice(seconds, n) * 1_000_003, unit="us")
    eur = np.round(rng.lognormal(3, 1.5, n), 2) * rng.choice([1, -1], n, p=[0.95, 0.05])
    eur[rng.random(n) < 0.02] = np.nan
    eur[:2] = np.inf, 1e39
    frame = pd.DataFrame(
        {
            "order": [f"T{i}" for i in range(n)],
            "paid at": when,
            "card": rng.choice([*(f" C{i:02d}" for i in range(12)), "-", None], n),
            "merchant": rng.choice([*(f"m'{i}" for i in range(40)), None], n),
            "kind": rng.choice(
                ["food", "fuel ", "toys", "NaN", None], n, p=[0.5, 0.3, 0.1, 0.05, 0.05]
            ),
            "eur": eur,
            "age": rng.integers(18, 90, n),
            "zero": rng.choice([0.0, 1e-300, 2.0], n),
            "lat": rng.uniform(45, 50, n),
            "long": rng.uniform(-5, 8, n),
            "shop_lat": rng.uniform(45, 50, n),
            "shop_long": rng.uniform(-5, 8, n),
            "w": rng.choice([0.5, 1.0, 4.0], n),
            "status": rng.choice(["ok", "Chargeback", "?", None], n, p=[0.8, 0.1, 0.05, 0.05]),
        }
    )
    frame.loc[3:6, ["shop_lat", "shop_long"]] = frame.loc[3:6, ["lat", "long"]].to_numpy()
    frame.loc[7:9, "lat"] = np.nan
    frame.loc[10:40, "zero"] = 3e38  # which models take; sums of two are beyond
    frame.loc[frame.index[-5:], "kind"] = "boats"  # perhaps unseen in reference
    return Dataset.from_dict(SHOP), frame


def simulated_payments():
    """Simulated payments -> (description, rows as they came)."""
    return load_description("payments"), payments.simulate(3_000, seed=0)


def by_the_pipeline(dataset, frame, reference=0.5, known=None):
    """The features that the pipeline derives, by the first of `ids`: a frame of float64.

    Parameters
    ----------
    known : encoders of categories; None: fitted on reference, as a split does
    """
    checked = prepare(dataset, frame, "memory")
    parts = splits.cuts.cut(dataset, checked, reference, 0.2, 2)
    derived = features.derive(dataset, checked)
    if known is None:
        known = features.encoders(dataset, derived.iloc[parts["reference"]])
    encoded = features.encode(dataset, derived, known)
    return by_id(dataset, encoded)


def by_id(dataset, frame):
    """Features of a frame in the order of its ids."""
    names = list(dataset.features)
    ordered = frame.set_index(dataset.ids[0])[names].sort_index()
    return ordered.astype(np.float64)


def assert_same(found, expected):
    """Two tables of features are the same to 1e-9."""
    assert list(found.index) == list(expected.index)
    for name in expected.columns:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
