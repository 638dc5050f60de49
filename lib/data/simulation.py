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

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from lib.errors import DataError

FEATURES = tuple(f"V{i}" for i in range(1, 29))
COLUMNS = ("Time", *FEATURES, "Amount", "Class")
MIN_ROWS = 2_000  # below, the periods hold too few frauds
UNTOUCHED = 0.7  # share of rows before the untouched period
N_BATCHES = 10  # of the untouched period
PREVALENCE = 0.00173
# a floor below 35,000 rows: a validation of 20 % still holds about 12 frauds
MIN_FRAUDS = 60
BLOCK = 65_536  # rows generated at a time: memory stays flat

# Credit Card Fraud Detection (ULB and Worldline), all 284,807 rows: transactions in each hour of
# the two days
# fmt: off
HOURLY = np.array([
    3963, 2217, 1576, 1821, 1082, 1681,
    1831, 3368, 5179, 7878, 8288, 8517,
    7732, 7585, 8029, 7836, 7786, 7882,
    8607, 7994, 8980, 9895, 8977, 6082,
    3732, 2003, 1752, 1671, 1127, 1309,
    2270, 3875, 5097, 7960, 8310, 8339,
    7688, 7780, 8541, 8625, 8667, 8284,
    8432, 7655, 7776, 7808, 6464, 4856,
])
# the same rows: mean normal score of the amount by hour of the day (nights are cheap, mornings
# dear)
AMOUNT_BY_HOUR = np.array([
    -0.24, -0.05, -0.21, -0.08,
    0, -0.22, -0.2, -0.22,
    0.06, 0.14, 0.17, 0.15,
    0.13, 0.09, 0.08, 0.09,
    0.08, 0.04, -0.07, -0.06,
    -0.08, -0.11, -0.16, -0.18,
])
# standard deviation of V1 ... V28 over the genuine transactions of the first half
SCALE = np.array([
    1.7, 1.54, 1.15, 1.35, 1.25, 1.29, 1.08,
    1.16, 1.14, 1.01, 1.06, 1.17, 1.09, 0.91,
    0.94, 0.83, 0.77, 0.81, 0.8, 0.72, 0.72,
    0.64, 0.55, 0.6, 0.44, 0.5, 0.38, 0.3,
])
# fmt: on
# the same rows as of `HOURLY`: quantiles of the amount, (probability, euro); equal neighbours are a
# price point
GENUINE_AMOUNT = np.array(
    [
        (0, 0),
        (0.006, 0),
        (0.01, 0.12),
        (0.02, 0.76),
        (0.03, 0.77),
        (0.04, 0.89),
        (0.05, 0.92),
        (0.06, 1),
        (0.1, 1),
        (0.13, 1.78),
        (0.15, 1.98),
        (0.16, 1.98),
        (0.2, 3.58),
        (0.25, 5.65),
        (0.3, 8.92),
        (0.35, 10),
        (0.4, 13.03),
        (0.5, 22),
        (0.6, 37),
        (0.7, 59.78),
        (0.8, 100),
        (0.9, 202.74),
        (0.95, 364.43),
        (0.98, 690),
        (0.99, 1017),
        (0.995, 1457),
        (0.999, 3000),
        (0.9999, 6511),
        (1, 25691.16),
    ]
)
FRAUD_AMOUNT = np.array(
    [
        (0, 0),
        (0.055, 0),
        (0.08, 0.76),
        (0.13, 0.77),
        (0.14, 1),
        (0.37, 1),
        (0.4, 2),
        (0.45, 5),
        (0.5, 9.29),
        (0.55, 19.95),
        (0.6, 40),
        (0.7, 99.99),
        (0.75, 105.89),
        (0.8, 153.46),
        (0.9, 346.94),
        (0.95, 648),
        (1, 2125.87),
    ]
)

WORLD_SEED = 2013
POPULATION_SHARE = np.array([0.45, 0.27, 0.18, 0.10])  # of the customers
POPULATION_PEAK_H = np.array([13.0, 20.0, 10.0, 2.0])  # hour of the day at which it buys most
N_FACTORS = 5
# Degrees of freedom of the factors' tails. Their variance is df / (df - 2) = 1.2.
FACTOR_DF = 12
FACTOR_VARIANCE = 1.2
GOLDEN_RATIO = 1.618033988749895
BURST = 4  # amounts tried in one card test


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
        batches_before = self.first_batch - 1
        return UNTOUCHED + (1 - UNTOUCHED) * batches_before / N_BATCHES

    @property
    def columns(self) -> list[int]:
        """Positions of its features within V1 ... V28."""
        return [FEATURES.index(feature) for feature in self.features]


NEW_FRAUD = Drift(
    what="fraud",
    features=("V6", "V13", "V24"),
    first_batch=5,
    strength=2.5,
    share=0.6,
)
NEW_TERMINAL = Drift(
    what="shift",
    features=("V3", "V9", "V18", "V21"),
    first_batch=4,
    strength=3.0,
    share=0.15,
)
DRIFTS = (
    Drift("shift", ("V15", "V22"), first_batch=3, strength=0.45),
    NEW_TERMINAL,
    NEW_FRAUD,
    Drift("spread", ("V8", "V26"), first_batch=7, strength=1.6),
)


@dataclass(frozen=True)
class World:
    """What all simulations share: P populations, K factors and D features, and how they meet."""

    mean: NDArray  # (P, D), of a population
    factor: NDArray  # (D, 2), the two factors that a feature loads on
    loading: NDArray  # (P, D, 2), how much
    bend: NDArray  # (D,), the factor whose square enters a feature
    curvature: NDArray  # (P, D), how much
    noise: NDArray  # (D,), scale of a feature's own noise
    spike: NDArray  # (D,), how far the noise's extremes stand out
    skew: NDArray  # (D,), of the warp
    tail: NDArray  # (D,), of the warp; above 1, tails get longer
    direction: NDArray  # (D,), the side, -1 or 1, to which frauds move a feature
    testing: NDArray  # (D,), what card tests look like
    loud: NDArray  # (D,), how far loud frauds stand out; 0 in some features

    @cached_property
    def centre(self) -> NDArray:
        """Mean of all populations together, (D,)."""
        return POPULATION_SHARE @ self.mean

    @cached_property
    def width(self) -> NDArray:
        """Standard deviation of a feature before the warp, about, (D,)."""
        between = (self.mean - self.centre) ** 2
        common = FACTOR_VARIANCE * (self.loading**2).sum(axis=2)
        curved = 2 * self.curvature**2  # a squared standard normal has variance 2
        by_population = between + common + curved
        share = POPULATION_SHARE[:, None]
        # variance of e (1 + spike e^2), from the moments 1, 3 and 15 of a standard normal e
        spiky = 1 + 6 * self.spike + 15 * self.spike**2
        own = self.noise**2 * spiky
        within = (share * by_population).sum(axis=0)
        return np.sqrt(within + own)

    @cached_property
    def warped_mean(self) -> NDArray:
        """Mean of a warped standard normal, (D,)."""
        return self._expected_power(1)

    @cached_property
    def warped_sd(self) -> NDArray:
        """Standard deviation of a warped standard normal, (D,)."""
        variance = self._expected_power(2) - self.warped_mean**2
        return np.sqrt(variance)

    def _expected_power(self, power):
        """Return E[warp(e)^power] for a standard normal e, (D,), by Gauss-Hermite quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(61)
        skew = self.skew[:, None]
        tail = self.tail[:, None]
        warped = _sinh_arcsinh(nodes, skew, tail)
        total = (warped**power * weights).sum(axis=1)
        return total / weights.sum()


@lru_cache(maxsize=1)
def _world() -> World:
    """Return the one world, drawn from a seed of its own."""
    rng = np.random.default_rng(WORLD_SEED)
    n_populations = len(POPULATION_SHARE)
    n_features = len(FEATURES)
    by_population = (n_populations, n_features)
    every_factor = np.tile(np.arange(N_FACTORS), (n_features, 1))
    # The order of these lines is part of the world: each takes the next numbers of the generator.
    return World(
        mean=0.7 * rng.standard_normal(by_population),
        factor=rng.permuted(every_factor, axis=1)[:, :2],
        loading=rng.normal(0, 0.75, (*by_population, 2)),
        bend=rng.integers(0, N_FACTORS, n_features),
        curvature=_some(rng, rng.normal(0, 0.5, by_population), share=0.8),
        noise=rng.uniform(0.3, 0.6, n_features),
        spike=_some(rng, rng.uniform(0.0, 0.5, n_features), share=0.6),
        skew=rng.normal(0, 0.25, n_features),
        tail=rng.uniform(1.0, 1.35, n_features),
        direction=rng.choice([-1.0, 1.0], n_features),
        testing=rng.normal(0, 2.0, n_features),
        loud=_some(rng, rng.normal(0, 2.7, n_features), share=0.75),
    )


def _some(rng, values, share):
    """Keep about `share` of the features of values (D,) or (P, D), put 0 in the others."""
    n_features = values.shape[-1]
    kept = rng.random(n_features) < share
    return np.where(kept, values, 0.0)


def _sinh_arcsinh(x, skew, tail):
    """Skew x and lengthen its tails (Jones and Pewsey, Biometrika 2009)."""
    skewed = np.arcsinh(x) + skew
    return np.sinh(tail * skewed)


# The kinds of fraud. Each function turns the genuine transactions in the columns `rows` of
# X (D, n), at unit scale, into frauds, in place.


def _loud(rng, X, rows):
    """Put single features far out."""
    n_features = len(X)
    m = len(rows)
    usual = _world().loud[:, None]
    by_feature = rng.uniform(0.4, 1.6, (n_features, m))
    # one size for all features of a fraud: its extremes come together
    size = 1 + rng.gamma(2.0, 0.5, m)
    X[:, rows] += usual * by_feature * size


def _mismatch(rng, X, rows):
    """Let half of the features fit another customer: usual values, odd together."""
    n = X.shape[1]
    half = slice(1, None, 2)
    others = rng.integers(0, n, len(rows))
    direction = _world().direction[half, None]
    # a step on top: otherwise this kind would not differ in any mean
    step = 1.2 * direction
    borrowed = X[half, others]
    X[half, rows] = borrowed + step


def _testing(rng, X, rows):
    """Make bursts nearly identical: a thief tries out whether the card still works."""
    n_features = len(X)
    m = len(rows)
    n_bursts = m // BURST + 1
    usual = _world().testing[:, None]
    centre = usual + rng.normal(0, 0.3, (n_features, n_bursts))
    burst = np.arange(m) // BURST
    # the other half of the features stays the card holder's
    half = slice(0, None, 2)
    within = rng.normal(0, 0.1, (n_features // 2, m))
    of_burst = centre[half, burst]
    X[half, rows] = of_burst + within


def _quiet(rng, X, rows):
    """Change next to nothing, so that no model can be perfect."""
    direction = _world().direction[:6, None]
    X[:6, rows] += 0.5 * direction


def _takeover(rng, X, rows):
    """Pull neighbouring features against each other."""
    pulled = slice(4, 16)
    right_of_them = slice(5, 17)
    direction = _world().direction[pulled, None]
    # Each one follows its right neighbour instead of itself: single values stay usual, and only
    # how they vary together tells.
    own = 0.3 * X[pulled, rows]
    neighbour = 0.9 * X[right_of_them, rows]
    X[pulled, rows] = own - neighbour * direction


def _relay(rng, X, rows):
    """Move the features of `NEW_FRAUD`, which no earlier fraud has moved in this way."""
    columns = NEW_FRAUD.columns
    direction = _world().direction[columns, None]
    by_fraud = rng.uniform(0.6, 1.4, len(rows))
    cells = np.ix_(columns, rows)
    X[cells] += NEW_FRAUD.strength * direction * by_fraud


@dataclass(frozen=True)
class Kind:
    """A kind of fraud.

    Attributes
    ----------
    share : float
        Of the frauds, before those that have not begun are left out.
    begins : float
        Share of the rows before it begins.
    amounts : tuple of two floats
        Its range of quantiles of the frauds' amounts.
    alter : callable
        Turns genuine transactions into frauds of this kind.
    """

    share: float
    begins: float
    amounts: tuple[float, float]
    alter: Callable[[Generator, NDArray, NDArray], None]


KINDS = {
    "loud": Kind(
        share=0.32,
        begins=0.0,
        amounts=(0.1, 1.0),
        alter=_loud,
    ),
    "mismatch": Kind(
        share=0.26,
        begins=0.0,
        amounts=(0.3, 1.0),
        alter=_mismatch,
    ),
    # tiny amounts within minutes
    "testing": Kind(
        share=0.20,
        begins=0.0,
        amounts=(0.0, 0.42),
        alter=_testing,
    ),
    "quiet": Kind(
        share=0.10,
        begins=0.0,
        amounts=(0.4, 1.0),
        alter=_quiet,
    ),
    # few in reference
    "takeover": Kind(
        share=0.12,
        begins=0.4,
        amounts=(0.5, 1.0),
        alter=_takeover,
    ),
    # large amounts; only by `DRIFTS`
    "relay": Kind(
        share=0.0,
        begins=1.0,
        amounts=(0.6, 1.0),
        alter=_relay,
    ),
}


def fraud_kinds(rows: int = 60_000, seed: int = 0, *, drift: bool = True) -> pd.Series:
    """Return the kind (see `KINDS`) of every fraud in ``simulate(rows, seed, drift=drift)``.

    Parameters
    ----------
    rows, seed, drift
        As in :func:`simulate`.

    Returns
    -------
    Series of str, indexed by the row of the fraud, ascending; one fraud a row.
    """
    rng = np.random.default_rng([seed, 1])
    m = _n_frauds(rows)
    # stratified: no long stretch is without frauds
    within_stratum = rng.uniform(0.1, 0.9, m)
    stratum = np.arange(m)
    place = (stratum + within_stratum) / m
    kinds = _draw_kinds(rng, place, drift)
    at = (place * rows).astype(np.int64)
    _gather_bursts(rng, at, kinds, rows)
    order = np.argsort(at, kind="stable")
    at = _one_a_row(at[order], rows)
    return pd.Series(kinds[order], index=at, name="kind")


def _n_frauds(rows):
    """Return how many of the rows are frauds."""
    wanted = round(PREVALENCE * rows)
    wanted = max(wanted, MIN_FRAUDS)
    return min(wanted, rows // 20)


def _draw_kinds(rng, place, drift):
    """Return the kind (m,) of each fraud, by the share of the rows before it, place (m,)."""
    names = np.array(list(KINDS))
    cumulative = _shares_of_kinds(place, drift).cumsum(axis=1)
    # golden steps: kinds keep their shares in any stretch
    steps = np.arange(len(place)) / GOLDEN_RATIO
    lot = (steps + rng.random()) % 1
    passed = lot[:, None] >= cumulative[:, :-1]
    chosen = passed.sum(axis=1)
    return names[chosen]


def _shares_of_kinds(place, drift):
    """Return the share of each kind (m, kinds) among the frauds at place (m,); rows add up to 1."""
    m = len(place)
    share = np.zeros((m, len(KINDS)))
    for column, kind in enumerate(KINDS.values()):
        begun = place >= kind.begins
        share[begun, column] = kind.share
    share /= share.sum(axis=1, keepdims=True)
    if drift:
        relay = list(KINDS).index("relay")
        begun = place >= NEW_FRAUD.begins
        share[begun] *= 1 - NEW_FRAUD.share
        share[begun, relay] += NEW_FRAUD.share
    return share


def _gather_bursts(rng, at, kinds, rows):
    """Move the card tests in at (m,) close to the first of their burst, in place."""
    longest = max(rows // 2000, 2)  # rows; about a minute and a half of the two days
    tests = np.flatnonzero(kinds == "testing")
    for start in range(0, len(tests), BURST):
        burst = tests[start : start + BURST]
        delay = rng.integers(0, longest, len(burst))
        delay.sort()
        first = at[burst[0]]
        at[burst] = first + delay


def _one_a_row(at, rows):
    """Return ascending rows (m,) without repetitions, each as near to at (m,) as that allows."""
    m = len(at)
    rank = np.arange(m)
    # strictly ascending numbers are those that do not fall once their rank is taken off
    spread = np.maximum.accumulate(at - rank)
    spread += rank
    last_free = rows - m + rank  # the later ones need a row each
    return np.minimum(spread, last_free)


def _times(rng, rows):
    """Return whole seconds (rows,), ascending, as busy as the real hours."""
    n_hours = len(HOURLY)
    share = np.cumsum(HOURLY) / HOURLY.sum()
    share_before = np.concatenate([[0.0], share])
    full_hour_s = 3600.0 * np.arange(n_hours + 1)
    drawn = np.sort(rng.random(rows))
    return np.floor(np.interp(drawn, share_before, full_hour_s))


def _populations(rng, hour):
    """Return the population 0 ... 3 of each transaction (n,), by its hour of the day (n,)."""
    since_peak = hour[:, None] - POPULATION_PEAK_H  # (n, P)
    angle = since_peak * (2 * np.pi / 24)
    activity = 1 + 0.5 * np.cos(angle)
    cumulative = np.cumsum(POPULATION_SHARE * activity, axis=1)
    total = cumulative[:, -1:]
    lot = rng.random((len(hour), 1)) * total
    passed = lot > cumulative[:, :-1]
    return passed.sum(axis=1)


def _features(rng, population, X):
    """Fill X (28, n) with genuine transactions at unit scale; return the factor (n,) that amounts
    follow.
    """
    world = _world()
    n = len(population)
    normal = rng.standard_normal((N_FACTORS, n))
    # one divisor a row: extremes come together
    chi_square = rng.chisquare(FACTOR_DF, n)
    divisor = np.sqrt(FACTOR_DF / chi_square)
    factors = normal * divisor
    for j in range(len(FEATURES)):
        x = _surface(j, population, factors)
        x += _spiky_noise(rng, j, n)
        x /= world.width[j]
        X[j] = _warp(j, x)
    return factors[0] / np.sqrt(FACTOR_VARIANCE)


def _warp(j, x):
    """Return feature j (n,) skewed and with longer tails; a standard normal x stays standard."""
    world = _world()
    skew = world.skew[j]
    tail = world.tail[j]
    warped = _sinh_arcsinh(x, skew, tail)
    centred = warped - world.warped_mean[j]
    return centred / world.warped_sd[j]


def _surface(j, population, factors):
    """Return feature j (n,) without its own noise, for population (n,) and factors (K, n)."""
    world = _world()
    mean = world.mean[:, j] - world.centre[j]
    loading = world.loading[:, j]
    curvature = world.curvature[:, j]
    first, second = world.factor[j]
    # no matrix product: its last bits depend on the number of threads
    on_first = loading[population, 0] * factors[first]
    on_second = loading[population, 1] * factors[second]
    # bounded: the square of a heavy tail would dwarf everything else
    bend = factors[world.bend[j]]
    square = np.minimum(bend**2, 9)
    curved = curvature[population] * (square - 1)
    linear = mean[population] + (on_first + on_second)
    return linear + curved


def _spiky_noise(rng, j, n):
    """Return the noise (n,) of feature j alone."""
    world = _world()
    e = rng.standard_normal(n)
    scale = world.noise[j]
    spike = 1 + world.spike[j] * e**2
    return scale * e * spike


def _alter(rng, X, at, kinds):
    """Turn the genuine transactions in columns `at` of X (28, n) into frauds of their kinds, in
    place.
    """
    for name, kind in KINDS.items():
        rows = at[kinds == name]
        kind.alter(rng, X, rows)


def _quantile(table, p):
    """Return amounts, euro (n,), at probabilities p (n,): straight lines in log(1 + euro)."""
    probability = table[:, 0]
    log_euro = np.log1p(table[:, 1])
    return np.expm1(np.interp(p, probability, log_euro))


def _genuine_amounts(rng, factor, hour):
    """Return amounts of genuine transactions, euro (n,).

    `factor` (n,), of unit variance, and chance say who spends more; `hour` (n,) shifts it, and the
    table says how much that is.
    """
    own = rng.standard_normal(len(factor))
    normal = 0.5 * factor + 0.86 * own  # about unit variance again
    whole_hour = hour.astype(int)
    x = normal + AMOUNT_BY_HOUR[whole_hour]
    x = np.clip(x, -8, 8)
    # normal cdf within 0.0002 (Page, Applied Statistics 1977)
    log_odds = 1.5976 * x + 0.07056 * x**3
    p = 1 / (1 + np.exp(-log_odds))
    amount = _quantile(GENUINE_AMOUNT, p)
    # a quarter of the real amounts are whole euros
    rounded = rng.random(len(amount)) < 0.25
    whole = rounded & (amount > 5)
    return np.where(whole, np.round(amount), amount)


def _fraud_amounts(rng, kinds):
    """Return amounts of frauds, euro (m,), from the range of quantiles of their kinds (m,)."""
    ranges = np.array([KINDS[kind].amounts for kind in kinds])  # (m, 2)
    low, high = ranges.T
    p = rng.uniform(low, high)
    return _quantile(FRAUD_AMOUNT, p)


def _drift(rng, X):
    """Inject the drift of genuine and fraudulent transactions into X (28, n), in place."""
    n = X.shape[1]
    row = np.arange(n)
    for drift in DRIFTS:
        if drift.what == "fraud":
            continue  # a kind of fraud, which is in the rows already
        begun = row >= n * drift.begins
        drawn = rng.random(n) < drift.share
        rows = np.flatnonzero(begun & drawn)
        cells = np.ix_(drift.columns, rows)
        if drift.what == "spread":
            X[cells] *= drift.strength
        else:
            X[cells] += drift.strength


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
    if rows < MIN_ROWS:
        raise DataError(
            f"rows is {rows}; a simulation needs at least {MIN_ROWS:,} for its periods to hold "
            "frauds"
        )
    frauds = fraud_kinds(rows, seed, drift=drift)
    at = frauds.index.to_numpy()
    kinds = frauds.to_numpy()
    # another stream than that of the kinds, which can be drawn without the transactions
    rng = np.random.default_rng([seed, 0])
    time_s = _times(rng, rows)
    hour = time_s / 3600 % 24
    amount = np.empty(rows)
    X = np.empty((len(FEATURES), rows))
    for start in range(0, rows, BLOCK):
        part = slice(start, start + BLOCK)
        hour_of_part = hour[part]
        population = _populations(rng, hour_of_part)
        factor = _features(rng, population, X[:, part])
        amount[part] = _genuine_amounts(rng, factor, hour_of_part)
    amount[at] = _fraud_amounts(rng, kinds)
    _alter(rng, X, at, kinds)
    if drift:
        _drift(rng, X)
    X *= SCALE[:, None]
    np.round(X, 6, out=X)
    is_fraud = np.zeros(rows, dtype=np.int64)
    is_fraud[at] = 1
    columns = list(FEATURES)
    frame = pd.DataFrame(X.T, columns=columns, copy=False)
    frame.insert(0, "Time", time_s)
    frame["Amount"] = np.round(amount, 2)
    frame["Class"] = is_fraud
    return frame
