"""Simulated card transactions: what the pipeline runs on where the real file cannot be had.

From the real card data come the columns, transactions an hour, amounts by class and the scale of
each feature. The rest is made up: four customer populations, in shares that change over the day,
load on common heavy-tailed factors (a t copula); curvature, spiky noise and a warp that skews and
lengthens tails leave no population Gaussian, no surface flat and no boundary parallel to an axis,
so that no family of models meets its own assumptions. One fixed seed makes this world; `seed` draws
the transactions. Frauds are genuine transactions, altered by kind (`KINDS`). In the last 30 % of
the rows, ten equal batches, known features drift and a new kind of fraud appears: `DRIFTS`, written
down so that drift detection can be scored. Drift apart, nothing about genuine transactions depends
on time but by the hour of the day.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.errors import DataError

FEATURES = tuple(f"V{i}" for i in range(1, 29))
COLUMNS = ("Time", *FEATURES, "Amount", "Class")
UNTOUCHED, N_BATCHES = 0.7, 10  # share of rows before the untouched period; its batches
# a floor below 35,000 rows: a validation of 20 % still holds about 12 frauds
PREVALENCE, MIN_FRAUDS = 0.00173, 60
BLOCK = 65_536  # rows generated at a time: memory stays flat

# fmt: off
# Credit Card Fraud Detection (ULB and Worldline), all 284,807 rows: transactions in each hour of
# the two days
HOURLY = np.array([
    3963, 2217, 1576, 1821, 1082, 1681, 1831, 3368, 5179, 7878, 8288, 8517, 7732, 7585, 8029,
    7836, 7786, 7882, 8607, 7994, 8980, 9895, 8977, 6082, 3732, 2003, 1752, 1671, 1127, 1309,
    2270, 3875, 5097, 7960, 8310, 8339, 7688, 7780, 8541, 8625, 8667, 8284, 8432, 7655, 7776,
    7808, 6464, 4856,
])
# the same rows: mean normal score of the amount by hour of the day (nights are cheap, mornings
# dear)
AMOUNT_BY_HOUR = np.array([
    -.24, -.05, -.21, -.08, 0, -.22, -.2, -.22, .06, .14, .17, .15, .13, .09, .08, .09, .08, .04,
    -.07, -.06, -.08, -.11, -.16, -.18,
])
# the same rows: quantiles of the amount, (probability, euro); equal neighbours are a price point
GENUINE_AMOUNT = np.array([
    (0, 0), (.006, 0), (.01, .12), (.02, .76), (.03, .77), (.04, .89), (.05, .92), (.06, 1),
    (.1, 1), (.13, 1.78), (.15, 1.98), (.16, 1.98), (.2, 3.58), (.25, 5.65), (.3, 8.92),
    (.35, 10), (.4, 13.03), (.5, 22), (.6, 37), (.7, 59.78), (.8, 100), (.9, 202.74),
    (.95, 364.43), (.98, 690), (.99, 1017), (.995, 1457), (.999, 3000), (.9999, 6511),
    (1, 25691.16),
])
FRAUD_AMOUNT = np.array([
    (0, 0), (.055, 0), (.08, .76), (.13, .77), (.14, 1), (.37, 1), (.4, 2), (.45, 5), (.5, 9.29),
    (.55, 19.95), (.6, 40), (.7, 99.99), (.75, 105.89), (.8, 153.46), (.9, 346.94), (.95, 648),
    (1, 2125.87),
])
# standard deviation of V1 ... V28 over the genuine transactions of the first half
SCALE = np.array([
    1.7, 1.54, 1.15, 1.35, 1.25, 1.29, 1.08, 1.16, 1.14, 1.01, 1.06, 1.17, 1.09, .91, .94, .83,
    .77, .81, .8, .72, .72, .64, .55, .6, .44, .5, .38, .3,
])
# fmt: on


@dataclass(frozen=True)
class Drift:
    """One injected change: `what` happens to `features` from `first_batch` (1, 2, ...) of the
    untouched period on.

    'shift' adds `strength` standard deviations and 'spread' multiplies the distance from the centre
    by `strength`, for `share` of all transactions; 'fraud' turns `share` of the frauds into the
    kind 'relay', moved by `strength`.
    """

    what: str
    features: tuple[str, ...]
    first_batch: int
    strength: float
    share: float = 1.0

    @property
    def begins(self) -> float:
        """Share of the rows before it."""
        return UNTOUCHED + (1 - UNTOUCHED) * (self.first_batch - 1) / N_BATCHES


NEW_FRAUD = Drift("fraud", ("V6", "V13", "V24"), first_batch=5, strength=2.5, share=0.6)
DRIFTS = (
    Drift("shift", ("V15", "V22"), first_batch=3, strength=0.45),
    # a new sort of terminal
    Drift("shift", ("V3", "V9", "V18", "V21"), first_batch=4, strength=3.0, share=0.15),
    NEW_FRAUD,
    Drift("spread", ("V8", "V26"), first_batch=7, strength=1.6),
)


class Kind(NamedTuple):
    """A kind of fraud: its share of the frauds, the share of rows before it begins, its range of
    amount quantiles.
    """

    share: float
    begins: float
    amounts: tuple[float, float]


KINDS = {
    "loud": Kind(0.32, 0.0, (0.1, 1.0)),  # single features far out
    # half of the features fit another customer: usual values, odd together
    "mismatch": Kind(0.26, 0.0, (0.3, 1.0)),
    # bursts of four tiny amounts within minutes, nearly identical
    "testing": Kind(0.20, 0.0, (0.0, 0.42)),
    "quiet": Kind(0.10, 0.0, (0.4, 1.0)),  # all but genuine
    # neighbouring features pulled against each other; few in reference
    "takeover": Kind(0.12, 0.4, (0.5, 1.0)),
    "relay": Kind(0.0, 1.0, (0.6, 1.0)),  # large amounts; only by DRIFTS
}


@lru_cache(maxsize=1)
def _world() -> dict[str, np.ndarray]:
    """Return what all simulations share: populations, loadings, curvature, warps and what each kind
    of fraud does.
    """
    rng = np.random.default_rng(2013)
    P, D, K = 4, len(FEATURES), 5  # populations, features, factors
    w = {
        "shares": np.array([0.45, 0.27, 0.18, 0.10]),
        "peak_h": np.array([13.0, 20.0, 10.0, 2.0]),
        "mean": 0.7 * rng.standard_normal((P, D)),
        # two for each feature
        "factor": rng.permuted(np.tile(np.arange(K), (D, 1)), axis=1)[:, :2],
        "loading": rng.normal(0, 0.75, (P, D, 2)),
        "bend": rng.integers(0, K, D),
        "curvature": rng.normal(0, 0.5, (P, D)) * (rng.random((1, D)) < 0.8),
        "noise": rng.uniform(0.3, 0.6, D),
        "spike": rng.uniform(0.0, 0.5, D) * (rng.random(D) < 0.6),
        "skew": rng.normal(0, 0.25, D),
        "tail": rng.uniform(1.0, 1.35, D),
        "direction": rng.choice([-1.0, 1.0], D),
        "testing": rng.normal(0, 2.0, D),
        "loud": rng.normal(0, 2.7, D) * (rng.random(D) < 0.75),
    }
    w["centre"], p = w["shares"] @ w["mean"], w["shares"][:, None]
    variance = (
        (w["mean"] - w["centre"]) ** 2 + 1.2 * (w["loading"] ** 2).sum(2) + 2 * w["curvature"] ** 2
    )
    w["width"] = np.sqrt(
        (p * variance).sum(0) + w["noise"] ** 2 * (1 + 6 * w["spike"] + 15 * w["spike"] ** 2)
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    warped = np.sinh(w["tail"][:, None] * (np.arcsinh(nodes) + w["skew"][:, None]))
    w["warped_mean"] = (warped * weights).sum(1) / weights.sum()
    w["warped_sd"] = np.sqrt((warped**2 * weights).sum(1) / weights.sum() - w["warped_mean"] ** 2)
    return w


def fraud_kinds(rows: int = 60_000, seed: int = 0, *, drift: bool = True) -> pd.Series:
    """Return the kind (see `KINDS`) of every fraud in ``simulate(rows, seed, drift=drift)``,
    indexed by its row.
    """
    rng = np.random.default_rng([seed, 1])
    m = min(max(round(PREVALENCE * rows), MIN_FRAUDS), rows // 20)
    # stratified: no long stretch is without frauds
    place = (np.arange(m) + rng.uniform(0.1, 0.9, m)) / m
    # golden steps: kinds keep their shares in any stretch
    lot = (np.arange(m) / 1.618033988749895 + rng.random()) % 1
    share = np.array([[kind.share * (p >= kind.begins) for kind in KINDS.values()] for p in place])
    share /= share.sum(1, keepdims=True)
    kinds = np.array(list(KINDS))
    new = drift * NEW_FRAUD.share * (place >= NEW_FRAUD.begins)[:, None]
    share = share * (1 - new) + new * (kinds == "relay")
    kinds = kinds[(lot[:, None] >= share.cumsum(1)[:, :-1]).sum(1)]
    at = (place * rows).astype(np.int64)
    tests = np.flatnonzero(kinds == "testing")
    for burst in (tests[i : i + 4] for i in range(0, len(tests), 4)):
        at[burst] = at[burst[0]] + np.sort(rng.integers(0, max(rows // 2000, 2), len(burst)))
    order, step = np.argsort(at, kind="stable"), np.arange(m)
    at = np.maximum.accumulate(at[order] - step) + step  # one fraud a row
    return pd.Series(kinds[order], index=np.minimum(at, rows - m + step), name="kind")


def _populations(rng: np.random.Generator, hour: np.ndarray) -> np.ndarray:
    """Population 0 ... 3 of each transaction (n,), by its hour of the day (n,)."""
    w = _world()
    share = np.cumsum(
        w["shares"] * (1 + 0.5 * np.cos((hour[:, None] - w["peak_h"]) * (2 * np.pi / 24))), axis=1
    )
    return (rng.random(len(hour))[:, None] * share[:, -1:] > share[:, :-1]).sum(1)


def _features(rng: np.random.Generator, population: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Fill X (28, n) with genuine transactions at unit scale; return the factor (n,) that amounts
    follow.

    The warp is the sinh-arcsinh transformation (Jones and Pewsey, Biometrika 2009), standardised
    for a normal x.
    """
    w, n = _world(), len(population)
    # one divisor a row: extremes come together
    z = rng.standard_normal((5, n)) * np.sqrt(12 / rng.chisquare(12, n))
    # no matrix product: its last bits depend on the number of threads
    for j in range(len(FEATURES)):
        a, b = w["factor"][j]
        x = (w["mean"][:, j] - w["centre"][j])[population]
        x += w["loading"][:, j, 0][population] * z[a] + w["loading"][:, j, 1][population] * z[b]
        x += w["curvature"][:, j][population] * (np.minimum(z[w["bend"][j]] ** 2, 9) - 1)
        e = rng.standard_normal(n)
        x += w["noise"][j] * e * (1 + w["spike"][j] * e**2)
        warped = np.sinh(w["tail"][j] * (np.arcsinh(x / w["width"][j]) + w["skew"][j]))
        X[j] = (warped - w["warped_mean"][j]) / w["warped_sd"][j]
    return z[0] / np.sqrt(1.2)


def _alter(rng: np.random.Generator, X: np.ndarray, at: np.ndarray, kinds: np.ndarray) -> None:
    """Turn the genuine transactions in columns `at` of X (28, n) into frauds of their kinds, in
    place.
    """
    w, D = _world(), len(X)
    turn = w["direction"][:, None]
    for kind in KINDS:
        rows = at[kinds == kind]
        m = len(rows)
        if kind == "loud":
            X[:, rows] += (
                w["loud"][:, None] * rng.uniform(0.4, 1.6, (D, m)) * (1 + rng.gamma(2.0, 0.5, m))
            )
        elif kind == "mismatch":
            X[1::2, rows] = X[1::2, rng.integers(0, X.shape[1], m)] + 1.2 * turn[1::2]
        elif kind == "testing":
            centre = w["testing"][:, None] + rng.normal(0, 0.3, (D, m // 4 + 1))
            X[::2, rows] = centre[::2, np.arange(m) // 4] + rng.normal(0, 0.1, (D // 2, m))
        elif kind == "quiet":
            X[:6, rows] += 0.5 * turn[:6]
        elif kind == "takeover":
            X[4:16, rows] = 0.3 * X[4:16, rows] - 0.9 * X[5:17, rows] * turn[4:16]
        elif kind == "relay":
            columns = [FEATURES.index(f) for f in NEW_FRAUD.features]
            X[np.ix_(columns, rows)] += (
                NEW_FRAUD.strength * turn[columns] * rng.uniform(0.6, 1.4, m)
            )


def _quantile(table, p):
    return np.expm1(np.interp(p, table[:, 0], np.log1p(table[:, 1])))


def _amounts(rng: np.random.Generator, normal: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """Amounts of genuine transactions, euro (n,): `normal` (n,) says who spends more, the table how
    much that is.
    """
    x = np.clip(normal + AMOUNT_BY_HOUR[hour.astype(int)], -8, 8)
    # normal cdf within 0.0002 (Page, Applied Statistics 1977)
    p = 1 / (1 + np.exp(-(1.5976 * x + 0.07056 * x**3)))
    amount = _quantile(GENUINE_AMOUNT, p)
    # a quarter of the real amounts are whole euros
    whole = (rng.random(len(amount)) < 0.25) & (amount > 5)
    return np.where(whole, np.round(amount), amount)


def simulate(rows: int = 60_000, seed: int = 0, *, drift: bool = True) -> pd.DataFrame:
    """Simulate two days of card transactions, in time order.

    Parameters
    ----------
    rows : int, number of transactions, at least 2,000
    seed : int, draws the transactions; the same seed gives the same bytes on one platform
    drift : bool; False leaves out all of `DRIFTS`

    Returns
    -------
    DataFrame with Time (whole s), V1 ... V28 (6 decimals), Amount (euro, cents), all float64, and
    Class (int64, 1 = fraud). 0.173 % are frauds, but at least 60 (5 % in the smallest sets);
    `fraud_kinds` names their kinds.

    Raises
    ------
    DataError if rows is below 2,000.
    """
    if rows < 2_000:
        raise DataError(
            f"rows is {rows}; a simulation needs at least 2,000 for its periods to hold frauds"
        )
    kinds = fraud_kinds(rows, seed, drift=drift)
    at = kinds.index.to_numpy()
    rng = np.random.default_rng([seed, 0])
    edges = np.concatenate([[0.0], np.cumsum(HOURLY) / HOURLY.sum()])
    time_s = np.floor(np.interp(np.sort(rng.random(rows)), edges, 3600.0 * np.arange(49)))
    hour, amount, X = time_s / 3600 % 24, np.empty(rows), np.empty((len(FEATURES), rows))
    for start in range(0, rows, BLOCK):
        part = slice(start, start + BLOCK)
        factor = _features(rng, _populations(rng, hour[part]), X[:, part])
        amount[part] = _amounts(
            rng, 0.5 * factor + 0.86 * rng.standard_normal(len(factor)), hour[part]
        )
    amount[at] = _quantile(
        FRAUD_AMOUNT, rng.uniform(*np.array([KINDS[kind].amounts for kind in kinds]).T)
    )
    _alter(rng, X, at, kinds.to_numpy())
    for d in DRIFTS if drift else ():
        if d.what != "fraud":
            drifting = np.flatnonzero(
                (np.arange(rows) >= rows * d.begins) & (rng.random(rows) < d.share)
            )
            columns = np.array([FEATURES.index(feature) for feature in d.features])
            cells = np.ix_(columns, drifting)
            X[cells] = X[cells] * d.strength if d.what == "spread" else X[cells] + d.strength
    X *= SCALE[:, None]
    frame = pd.DataFrame(np.round(X, 6, out=X).T, columns=list(FEATURES), copy=False)
    frame.insert(0, "Time", time_s)
    frame["Amount"] = np.round(amount, 2)
    frame["Class"] = np.isin(np.arange(rows), at).astype(np.int64)
    return frame
