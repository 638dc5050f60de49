"""Simulated card transactions: what the pipeline runs on where the real file cannot be had.

The frame has the columns of the card data (Time, V1 ... V28, Amount, Class). What is taken from the real set is
its outline: transactions an hour, amounts by class and the scale of each feature. Everything else is made up. Four
customer populations, each with its own shares over the day, load on shared heavy-tailed factors; curvature and a
skewing, tail-lengthening warp leave no population Gaussian, no direction linear and no boundary parallel to an
axis, so that no family of models is given its own assumptions. Loadings are drawn once from a fixed seed
(the world); `seed` draws the transactions.

Frauds start as genuine transactions of their population and are then altered, by kind (see `KINDS`). In the last 30 %
of the rows, ten equal batches, known features drift and a new kind of fraud appears: `DRIFTS`, written down so
that drift detection can be scored.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

FEATURES = tuple(f"V{i}" for i in range(1, 29))
UNTOUCHED, N_BATCHES = 0.7, 10  # share of rows before the untouched period; its batches
PREVALENCE, MIN_FRAUDS = 0.00173, 60  # below 35,000 rows a floor: a validation of 20 % still sees about 12 frauds

# Credit Card Fraud Detection (ULB and Worldline), all 284,807 rows: transactions in each hour of the two days
HOURLY = np.array(
    [3963, 2217, 1576, 1821, 1082, 1681, 1831, 3368, 5179, 7878, 8288, 8517, 7732, 7585, 8029, 7836]
    + [7786, 7882, 8607, 7994, 8980, 9895, 8977, 6082, 3732, 2003, 1752, 1671, 1127, 1309, 2270, 3875]
    + [5097, 7960, 8310, 8339, 7688, 7780, 8541, 8625, 8667, 8284, 8432, 7655, 7776, 7808, 6464, 4856]
)
# the same rows: mean normal score of the amount in each hour of the day (nights are cheap, mornings dear)
AMOUNT_BY_HOUR = np.array(
    [-0.24, -0.05, -0.21, -0.08, 0.0, -0.22, -0.2, -0.22, 0.06, 0.14, 0.17, 0.15]
    + [0.13, 0.09, 0.08, 0.09, 0.08, 0.04, -0.07, -0.06, -0.08, -0.11, -0.16, -0.18]
)
# the same rows: quantiles of the amount in euro, (probability, amount); equal neighbours are a price point
GENUINE_AMOUNT = np.array(
    [(0, 0), (0.006, 0), (0.01, 0.12), (0.02, 0.76), (0.03, 0.77), (0.04, 0.89), (0.05, 0.92), (0.06, 1), (0.1, 1)]
    + [(0.13, 1.78), (0.15, 1.98), (0.16, 1.98), (0.2, 3.58), (0.25, 5.65), (0.3, 8.92), (0.35, 10), (0.4, 13.03)]
    + [(0.5, 22), (0.6, 37), (0.7, 59.78), (0.8, 100), (0.9, 202.74), (0.95, 364.43), (0.98, 690), (0.99, 1017)]
    + [(0.995, 1457), (0.999, 3000), (0.9999, 6511), (1, 25691.16)]
)
FRAUD_AMOUNT = np.array(
    [(0, 0), (0.055, 0), (0.08, 0.76), (0.13, 0.77), (0.14, 1), (0.37, 1), (0.4, 2), (0.45, 5), (0.5, 9.29)]
    + [(0.55, 19.95), (0.6, 40), (0.7, 99.99), (0.75, 105.89), (0.8, 153.46), (0.9, 346.94), (0.95, 648), (1, 2125.87)]
)
# standard deviation of V1 ... V28 over the genuine transactions of the first half
SCALE = np.array(
    [1.70, 1.54, 1.15, 1.35, 1.25, 1.29, 1.08, 1.16, 1.14, 1.01, 1.06, 1.17, 1.09, 0.91]
    + [0.94, 0.83, 0.77, 0.81, 0.80, 0.72, 0.72, 0.64, 0.55, 0.60, 0.44, 0.50, 0.38, 0.30]
)


@dataclass(frozen=True)
class Drift:
    """One injected change: `what` happens to `features` from `first_batch` (1-based) of the untouched period on.

    'shift' adds `strength` standard deviations, 'spread' multiplies the distance from zero by `strength`, both for
    `share` of all transactions. 'fraud' replaces `share` of the frauds by the kind 'relay'.
    """

    what: str
    features: tuple[str, ...]
    first_batch: int
    strength: float
    share: float = 1.0


DRIFTS = (
    Drift("shift", ("V15", "V22"), first_batch=3, strength=0.45),
    Drift("shift", ("V3", "V9", "V18"), first_batch=4, strength=3.0, share=0.15),  # a new sort of terminal
    Drift("fraud", ("V6", "V13", "V24"), first_batch=5, strength=2.5, share=0.6),
    Drift("spread", ("V8", "V26"), first_batch=7, strength=1.6),
)


@dataclass(frozen=True)
class Kind:
    """A kind of fraud: its share once it has begun, the share of rows before it does, the amounts it takes (quantiles)."""

    share: float
    begins: float
    amounts: tuple[float, float]


KINDS = {
    "loud": Kind(0.34, 0.0, (0.1, 1.0)),  # single features far out
    "mismatch": Kind(0.28, 0.0, (0.3, 1.0)),  # every value usual, the combination not
    "testing": Kind(0.16, 0.0, (0.0, 0.42)),  # bursts of tiny amounts, minutes apart, nearly identical
    "quiet": Kind(0.10, 0.0, (0.4, 1.0)),  # all but genuine
    "takeover": Kind(0.12, 0.4, (0.5, 1.0)),  # features pulled against their factors; hardly any in reference
    "relay": Kind(0.0, 1.0, (0.6, 1.0)),  # only by DRIFTS
}


@lru_cache(maxsize=1)
def _world() -> dict[str, np.ndarray]:
    """Loadings, means, curvature and warps of the four populations; the same in every simulation."""
    rng = np.random.default_rng(2013)
    P, D, K = 4, len(FEATURES), 8
    return {
        "shares": np.array([0.45, 0.27, 0.18, 0.10]),
        "peak_h": np.array([13.0, 20.0, 10.0, 2.0]),
        "mean": 0.7 * rng.standard_normal((P, D)),
        "factor": rng.integers(0, K, (D, 2)),  # the two factors a feature loads on, in every population
        "loading": rng.normal(0, 0.75, (P, D, 2)),
        "bend": rng.integers(0, K, D),
        "curvature": rng.normal(0, 0.35, (P, D)) * (rng.random((1, D)) < 0.6),
        "noise": rng.uniform(0.2, 0.6, D),
        "skew": rng.normal(0, 0.25, D),
        "tail": rng.uniform(1.0, 1.5, D),
        "direction": rng.choice([-1.0, 1.0], D),  # where loud frauds go
        "testing": rng.normal(0, 1.2, D),
    }


def _plan(rows: int, seed: int, drift: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are frauds, ascending (m,) int64, and their kinds (m,) str."""
    rng = np.random.default_rng([seed, 1])
    m = min(max(round(PREVALENCE * rows), MIN_FRAUDS), rows // 20)
    place = (np.arange(m) + rng.uniform(0.1, 0.9, m)) / m  # stratified: no period is left without
    names, kinds = list(KINDS), np.empty(m, dtype=object)
    queue = (np.arange(m) * 0.6180339887498949 + rng.random()) % 1.0  # low discrepancy: shares hold in every stretch
    for i in range(m):
        share = np.array([KINDS[k].share * (place[i] >= KINDS[k].begins) for k in names])
        share /= share.sum()
        for d in DRIFTS if drift else ():
            if d.what == "fraud" and place[i] >= _first(d.first_batch):
                share = np.where([k == "relay" for k in names], d.share, share * (1 - d.share))
        kinds[i] = names[int(np.searchsorted(np.cumsum(share), queue[i] * 0.999999, side="right"))]
    at = (place * rows).astype(np.int64)
    tests = np.flatnonzero(kinds == "testing")
    for burst in np.split(tests, range(4, len(tests), 4)):  # four attempts within about a thousandth of the rows
        if len(burst):
            at[burst] = at[burst[0]] + np.sort(rng.integers(0, max(rows // 2000, 2), len(burst)))
    order = np.argsort(at, kind="stable")
    at, kinds = at[order], kinds[order]
    at = np.maximum.accumulate(at - np.arange(m)) + np.arange(m)  # no two frauds on one row
    return np.minimum(at, rows - m + np.arange(m)), kinds


def _first(batch: int) -> float:
    return UNTOUCHED + (1 - UNTOUCHED) * (batch - 1) / N_BATCHES


def fraud_kinds(rows: int = 60_000, seed: int = 0, *, drift: bool = True) -> pd.Series:
    """Return the kind of every fraud in ``simulate(rows, seed, drift=drift)``, indexed by its row."""
    at, kinds = _plan(rows, seed, drift)
    return pd.Series(kinds.astype(str), index=at, name="kind")


def _populations(rng: np.random.Generator, hour: np.ndarray) -> np.ndarray:
    """Population of each transaction (n,), by the hour of the day (n,)."""
    w = _world()
    share = w["shares"] * (1 + 0.5 * np.cos((hour[:, None] - w["peak_h"]) * (2 * np.pi / 24)))
    share = np.cumsum(share, axis=1)
    return (rng.random(len(hour))[:, None] * share[:, -1:] > share[:, :-1]).sum(axis=1)


def _warp(x: np.ndarray, skew: float, tail: float) -> np.ndarray:
    """Sinh-arcsinh transformation (Jones and Pewsey, Biometrika 2009), standardised for a normal x."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    weights = weights / weights.sum()
    y = np.sinh(tail * (np.arcsinh(nodes) + skew))
    mean = (weights * y).sum()
    return (np.sinh(tail * (np.arcsinh(x) + skew)) - mean) / np.sqrt((weights * (y - mean) ** 2).sum())


def _features(rng: np.random.Generator, population: np.ndarray) -> np.ndarray:
    """Features (28, n) of genuine transactions, unit scale; sums are written out so that threads change no bit."""
    w, n = _world(), len(population)
    heavy = np.sqrt(7 / rng.chisquare(7, n))  # one divisor for all factors of a row: extremes come together
    z = rng.standard_normal((8, n)) * heavy
    X = np.empty((len(FEATURES), n))
    for j in range(len(FEATURES)):
        a, b = w["factor"][j]
        loading, bend = w["loading"][population, j], z[w["bend"][j]]
        x = w["mean"][population, j] + loading[:, 0] * z[a] + loading[:, 1] * z[b]
        x += w["curvature"][population, j] * (np.minimum(bend**2, 9) - 1)
        x += w["noise"][j] * rng.standard_normal(n)
        X[j] = _warp(x / 1.3, w["skew"][j], w["tail"][j])
    return X


def _alter(rng: np.random.Generator, X: np.ndarray, at: np.ndarray, kinds: np.ndarray) -> None:
    """Turn the genuine transactions in columns `at` of X (28, n) into frauds of their kinds, in place."""
    w, D = _world(), len(X)
    for kind in KINDS:
        rows = at[kinds == kind]
        m = len(rows)
        if kind == "loud":
            hit = rng.random((D, m)) < np.linspace(0.1, 0.4, D)[:, None][np.argsort(w["noise"])]
            X[:, rows] += hit * w["direction"][:, None] * rng.gamma(3.0, 1.1, (1, m)) * rng.uniform(0.5, 1.5, (D, m))
        elif kind == "mismatch":
            donor = rng.integers(0, X.shape[1], m)
            X[1::2, rows] = X[1::2, donor]
        elif kind == "testing":
            burst = np.arange(m) // 4
            centre = w["testing"][:, None] + rng.normal(0, 0.6, (D, m // 4 + 1))
            X[::3, rows] = centre[::3, burst] + rng.normal(0, 0.1, (len(range(0, D, 3)), m))
        elif kind == "quiet":
            X[:6, rows] += 0.5 * w["direction"][:6, None]
        elif kind == "takeover":
            X[4:16, rows] = 0.3 * X[4:16, rows] - 0.9 * X[5:17, rows] * w["direction"][4:16, None]
        elif kind == "relay":
            d = next(d for d in DRIFTS if d.what == "fraud")
            columns = [FEATURES.index(f) for f in d.features]
            X[np.ix_(columns, rows)] += d.strength * w["direction"][columns, None] * rng.uniform(0.6, 1.4, (1, m))


def _drift(rng: np.random.Generator, X: np.ndarray) -> None:
    """Apply the covariate drifts of `DRIFTS` to X (28, n), in place."""
    n = X.shape[1]
    for d in DRIFTS:
        if d.what == "fraud":
            continue
        rows = np.arange(int(n * _first(d.first_batch)), n)
        rows = rows[rng.random(len(rows)) < d.share]
        for column in map(FEATURES.index, d.features):
            X[column, rows] = X[column, rows] * d.strength if d.what == "spread" else X[column, rows] + d.strength


def _amounts(rng: np.random.Generator, normal: np.ndarray, hour: np.ndarray, at, kinds) -> np.ndarray:
    """Amounts in euro (n,): `normal` (n,) says who spends more, the tables say how much."""
    # normal cdf by its logistic approximation is off by 1 % at most, below what a table of 29 knots resolves
    x = np.clip(normal + AMOUNT_BY_HOUR[hour.astype(int)], -8, 8)
    p = 1 / (1 + np.exp(-(1.5976 * x + 0.07056 * x**3)))

    def quantile(table, p):
        return np.expm1(np.interp(p, table[:, 0], np.log1p(table[:, 1])))

    amount = quantile(GENUINE_AMOUNT, p)
    whole = (rng.random(len(amount)) < 0.25) & (amount > 5)
    amount[whole] = np.round(amount[whole])
    low, high = np.array([KINDS[k].amounts for k in kinds]).T
    amount[at] = quantile(FRAUD_AMOUNT, rng.uniform(low, high))
    return np.round(amount, 2)


def simulate(rows: int = 60_000, seed: int = 0, *, drift: bool = True) -> pd.DataFrame:
    """Simulate two days of card transactions in time order.

    Parameters
    ----------
    rows : number of transactions, at least 2,000.
    seed : draws the transactions; the same seed gives the same bytes on one platform.
    drift : False leaves out everything in `DRIFTS`.

    Returns
    -------
    DataFrame with Time (s, whole), V1 ... V28 (6 decimals), Amount (euro, cents) and Class (1 = fraud). About
    0.17 % are frauds, at least 60 in small sets; `fraud_kinds` tells which kind each is.

    Raises
    ------
    ValueError : fewer than 2,000 rows.
    """
    if rows < 2_000:
        raise ValueError(f"rows is {rows}, but a simulation needs at least 2,000 to hold ten batches with frauds")
    rng = np.random.default_rng([seed, 0])
    at, kinds = _plan(rows, seed, drift)
    edges = np.concatenate([[0.0], np.cumsum(HOURLY) / HOURLY.sum()])
    time_s = np.floor(np.interp(np.sort(rng.random(rows)), edges, 3600.0 * np.arange(49)))
    hour = time_s / 3600 % 24
    X = _features(rng, _populations(rng, hour))
    amount = _amounts(rng, 0.5 * np.clip(X[6], -4, 4) + 0.85 * rng.standard_normal(rows), hour, at, kinds)
    _alter(rng, X, at, kinds)
    if drift:
        _drift(np.random.default_rng([seed, 2]), X)
    X *= SCALE[:, None]
    np.round(X, 6, out=X)
    frame = pd.DataFrame(X.T, columns=list(FEATURES), copy=False)
    frame.insert(0, "Time", time_s)
    frame["Amount"] = amount
    frame["Class"] = np.isin(np.arange(rows), at).astype(np.int64)
    return frame
