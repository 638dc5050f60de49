"""Trimming before a fit: a strange population is left out, everything else stays."""

import numpy as np
import pytest

from lib.detectors import registry
from lib.detectors.trimming import trimmed, valley


def rows(share, distance=6.0, n=6_000, seed=0):
    """Ordinary rows in four columns, and a share of others that lie apart; last the latter."""
    rng = np.random.default_rng(seed)
    n_apart = int(share * n)
    ordinary = rng.normal(size=(n - n_apart, 4))
    apart = rng.normal(loc=distance, scale=1.5, size=(n_apart, 4))
    return np.concatenate([ordinary, apart]).astype(np.float32), n - n_apart


@pytest.mark.parametrize("share", [0.04, 0.07, 0.12])
def test_a_population_that_lies_apart_is_left_out(share):
    X, n_ordinary = rows(share)
    kept, weight = trimmed(X, np.ones(len(X)))
    assert len(kept) == len(weight)
    assert len(kept) == pytest.approx(n_ordinary, rel=0.01)
    assert kept.mean(axis=0) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.01, 0.4])
def test_few_strange_rows_and_large_groups_stay(share):
    X, _ = rows(share)
    kept, weight = trimmed(X, np.ones(len(X)))
    np.testing.assert_array_equal(kept, X)
    np.testing.assert_array_equal(weight, 1)


AWKWARD = {
    "one column": lambda rng, n: rng.lognormal(0, 1.5, (n, 1)),
    "long tails": lambda rng, n: rng.standard_t(3, (n, 3)),
    "counts": lambda rng, n: rng.poisson(1.5, (n, 2)),
    "a flag": lambda rng, n: np.c_[rng.normal(size=(n, 3)), rng.random(n) < 0.05],
    "a flag twice": lambda rng, n: np.c_[
        rng.normal(size=(n, 4)), np.repeat(rng.random((n, 1)) < 0.05, 2, axis=1)
    ],
    "mostly zero": lambda rng, n: rng.lognormal(size=(n, 2)) * (rng.random((n, 2)) < 0.3),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", AWKWARD)
def test_rare_values_and_long_tails_are_no_population(shape, seed):
    X = AWKWARD[shape](np.random.default_rng(seed), 4_000).astype(np.float32)
    kept, _ = trimmed(X, np.ones(len(X)), seed=seed)
    assert len(kept) == len(X)


def test_weights_decide_how_large_a_population_is():
    """60 rows apart are 1 % of the rows; with 7 times the weight, they are 6 % of it."""
    X, n_ordinary = rows(0.01)
    weight = np.ones(len(X))
    assert len(trimmed(X, weight)[0]) == len(X)
    weight[n_ordinary:] = 7
    assert len(trimmed(X, weight)[0]) == pytest.approx(n_ordinary, rel=0.01)


def test_few_rows_hold_no_population():
    X, _ = rows(0.07, n=900)
    assert len(trimmed(X, np.ones(len(X)))[0]) == len(X)


def test_missing_values_are_no_matter():
    X, n_ordinary = rows(0.07)
    X[::7, 1] = np.nan
    kept, _ = trimmed(X, np.ones(len(X)))
    assert len(kept) == pytest.approx(n_ordinary, rel=0.02)


def test_threads_change_nothing():
    X, _ = rows(0.07)
    one, _ = trimmed(X, np.ones(len(X)), threads=1)
    two, _ = trimmed(X, np.ones(len(X)), threads=2)
    np.testing.assert_array_equal(one, two)


def test_a_valley_lies_before_a_second_peak():
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.normal(0.4, 0.03, 9_300), rng.normal(0.65, 0.03, 700)])
    assert valley(score) == pytest.approx(0.53, abs=0.05)
    assert valley(score[:9_300]) is None
    assert valley(np.full(100, 0.5)) is None


@pytest.mark.parametrize(
    "name",
    [
        "isolation_forest",
        "robust_covariance",
        "nearest_neighbours",
        "gaussian_mixture",
        "autoencoder",
    ],
)
def test_seven_per_cent_of_anomalies_in_the_fit_are_found_all_the_same(name):
    X, n_ordinary = rows(0.07, distance=4.0)
    quick = {"gaussian_mixture": {"members": 2}, "autoencoder": {"members": 1, "epochs": 5}}
    score = registry.make(name, **quick.get(name, {})).fit(X).raw_score(X)
    assert np.median(score[n_ordinary:]) > np.quantile(score[:n_ordinary], 0.99)


def test_a_share_that_is_asked_for_is_left_out_by_weight():
    X, n_ordinary = rows(0.01)
    weight = np.ones(len(X))
    kept, _ = trimmed(X, weight, share=0.1)
    assert len(kept) == pytest.approx(0.9 * len(X), rel=0.01)
    assert np.isin(X[n_ordinary:], kept).all(axis=1).sum() == 0, "the strangest go first"
    weight[:n_ordinary] = 10
    kept, kept_weight = trimmed(X, weight, share=0.1)
    assert kept_weight.sum() == pytest.approx(0.9 * weight.sum(), rel=0.02)


def test_a_share_is_below_one_half():
    X, _ = rows(0.0)
    with pytest.raises(ValueError, match="below 0"):
        trimmed(X, np.ones(len(X)), share=0.6)


def test_frauds_that_are_many_are_found_by_the_second_candidate():
    """A dense group of 6 % beside ordinary rows, too near for a valley: without labels, only a fit
    without the most isolated rows sees that they are far.
    """
    rng = np.random.default_rng(0)
    n, n_frauds = 6_000, 360
    X = rng.normal(size=(n, 3)).astype(np.float32)
    X[:n_frauds, 0] += 6
    found = {}
    for change in ({}, registry.alternative("robust_covariance", "all")):
        detector = registry.make("robust_covariance", trim=0.005, **change).fit(X)
        score = detector.raw_score(X)
        found[bool(change)] = np.mean(score[:n_frauds] > np.quantile(score[n_frauds:], 0.99))
    assert found[True] > found[False] + 0.1
