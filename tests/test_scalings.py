"""Rules for logging columns: the density without labels, and the figures with them."""

import numpy as np
import pandas as pd
import pytest

from lib.data.datasets import Arrays
from lib.detectors.robust_covariance import RobustDistance
from lib.detectors.scaling import LOGS
from lib.evaluation import scalings
from lib.reporting import tables


def rows(X, y=None):
    n = len(X)
    y = np.zeros(n) if y is None else y
    return Arrays(np.float32(X), y, np.ones(n), np.arange(n, dtype=float), np.ones(n))


def density(X, log="skewed"):
    return scalings.held_out(RobustDistance(trim=0, log=log).fit(X), rows(X))


def test_the_density_is_that_of_a_gaussian_in_the_units_of_the_columns(monkeypatch):
    monkeypatch.setattr(scalings, "TRIM", 0.0)
    X = np.random.default_rng(0).normal(3, 2, (5_000, 2)).astype(np.float32)
    by_hand = -2 * np.log(2 * np.sqrt(2 * np.pi * np.e))
    assert density(X) == pytest.approx(by_hand, abs=0.05)
    assert density(10 * X) == pytest.approx(density(X) - 2 * np.log(10), abs=1e-3)


def test_the_density_of_a_column_with_a_long_tail_rises_when_it_is_logged():
    X = np.random.default_rng(0).lognormal(0, 1.5, (5_000, 1)).astype(np.float32)
    assert density(X, "skewed") > density(X, "never") + 0.5


def test_a_column_without_values_has_no_part_in_the_density():
    X = np.random.default_rng(0).normal(size=(2_000, 2)).astype(np.float32)
    X[:, 1] = np.nan
    assert np.isfinite(density(X))


def test_frauds_far_from_everything_are_found_whatever_is_logged():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3_000, 3))
    y = np.arange(3_000) % 300 == 0
    X[y] += 30
    reference, validation = rows(X[~y][:2_000]), rows(X, y.astype(float))
    found = scalings.compare(reference, validation)
    assert [row["log"] for row in found] == list(LOGS)
    for row in found:
        assert row["robust_covariance"] == row["nearest_neighbours"] == pytest.approx(1)
    assert found == scalings.compare(reference, validation)


def test_the_best_mean_rank_comes_first():
    values = pd.DataFrame(
        {"mean rank": [0.2, 0.8], "cards": [0.5, 0.6]}, ["autoencoder", "gaussian_mixture"]
    )
    shown = tables.by_table(values, values.rank(ascending=False))
    assert shown.to_numpy().tolist() == [
        ["1.00", "0.800 (1)", "0.600 (1)"],
        ["2.00", "0.200 (2)", "0.500 (2)"],
    ]
    assert list(shown.index) == ["Gaussian mixture", "Autoencoder"]
