"""Heavy-tailed mixtures: densities by hand, EM on known populations, contamination, odd columns."""

import numpy as np
import onnxruntime
import pytest
from scipy.stats import multivariate_normal, multivariate_t, rankdata

from lib.detectors.expectation_maximisation import (
    EMSettings,
    Mixture,
    fit_mixture,
    held_out_density,
    spacing,
)
from lib.detectors.registry import make


def two_populations(n=4_000, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(
        rng.random((n, 1)) < 0.7,
        rng.normal([-4, 0], 1, (n, 2)),
        rng.normal([4, 1], [1, 0.5], (n, 2)),
    )


def settings(tail):
    """Of a fit to two columns that drops no component."""
    return EMSettings(least=np.full(2, 1e-6), tail=tail, min_share=0.0)


def mixture(tail):
    covariance = np.array([[2.0, 0.6], [0.6, 1.0]])
    root = np.linalg.inv(np.linalg.cholesky(covariance)).T
    return Mixture(np.log([1.0]), np.array([[1.0, -1.0]]), root[None], tail), covariance


def test_densities_are_those_of_scipy():
    z = np.random.default_rng(0).normal(size=(50, 2)) * 3
    gaussian, covariance = mixture(np.inf)
    np.testing.assert_allclose(
        gaussian.log_density(z), multivariate_normal([1, -1], covariance).logpdf(z)
    )
    heavy, _ = mixture(4.0)
    np.testing.assert_allclose(
        heavy.log_density(z), multivariate_t([1, -1], covariance, df=4).logpdf(z)
    )


@pytest.mark.parametrize("tail", [8.0, np.inf])
def test_em_finds_two_populations(tail):
    z = two_populations()
    found = fit_mixture(z, np.ones(len(z)), 2, settings(tail), np.random.default_rng(1))
    order = np.argsort(found.mean[:, 0])
    np.testing.assert_allclose(np.exp(found.log_weight[order]), [0.7, 0.3], atol=0.03)
    np.testing.assert_allclose(found.mean[order], [[-4, 0], [4, 1]], atol=0.15)


def test_a_weight_of_two_counts_as_two_rows():
    z = two_populations(500)
    weight = np.random.default_rng(0).integers(1, 3, 500)
    start = np.random.default_rng
    weighted = fit_mixture(z, weight, 1, settings(8.0), start(0))
    repeated = fit_mixture(
        np.repeat(z, weight, axis=0), np.ones(weight.sum()), 1, settings(8.0), start(0)
    )
    np.testing.assert_allclose(weighted.log_density(z), repeated.log_density(z), rtol=1e-6)


def test_small_components_are_dropped():
    z = two_populations()
    z[:20] = [0, 30]
    found = fit_mixture(
        z, np.ones(len(z)), 12, EMSettings(np.full(2, 1e-3), np.inf, 0.05), np.random.default_rng(0)
    )
    assert np.exp(found.log_weight).min() >= 0.04
    assert found.mean[:, 1].max() < 10


def test_held_out_density_sees_that_there_are_two():
    z = two_populations()
    found = held_out_density(z, np.ones(len(z)), (1, 2), settings(np.inf), np.random.default_rng(0))
    truth = np.log(
        0.7 * multivariate_normal([-4, 0]).pdf(z)
        + 0.3 * multivariate_normal([4, 1], [1, 0.25]).pdf(z)
    )
    assert found[1] + 0.5 < found[2] <= truth.mean() + 0.01


def test_the_number_of_components_is_chosen_unless_it_is_given():
    z = two_populations().astype(np.float32)
    chosen = make("gaussian_mixture", members=2, threads=2).fit(z)
    assert chosen.n_components_ == max(chosen.held_out_, key=chosen.held_out_.get) > 1
    given = make("gaussian_mixture", members=2, n_components=3).fit(z)
    assert (given.n_components_, given.held_out_) == (3, {})


def test_spacing_tells_counts_from_measurements():
    rng = np.random.default_rng(0)
    n = 5_000
    columns = [
        rng.normal(size=n),
        rng.poisson(3, n),
        rng.random(n) < 0.01,
        np.zeros(n),
        rng.integers(0, 9, n) * 2.5,
    ]
    np.testing.assert_allclose(
        spacing(np.column_stack(columns), np.ones(n)), [0, 1, 1, 0, 2.5], atol=1e-2
    )


def test_frauds_left_in_the_fit_cost_nothing():
    """0.5 % of the rows sit in one dense spot; without a label they must still come out on top."""
    z = two_populations(6_000).astype(np.float32)
    z[:30] = np.random.default_rng(3).normal([0, 7], 0.05, (30, 2))
    score = make("gaussian_mixture", members=4, n_components=5).fit(z).raw_score(z)
    assert np.median(rankdata(-score)[:30]) < 60


def test_members_average_to_the_score():
    z = two_populations(1_000).astype(np.float32)
    detector = make("gaussian_mixture", members=3, n_components=4).fit(z)
    alone = detector.member_raw_scores(z)
    assert alone.shape == (3, 1_000)
    np.testing.assert_allclose(alone.mean(axis=0), detector.raw_score(z))


def odd_columns(n, rng):
    """Columns a stranger's table may hold."""
    base = rng.lognormal(3, 2, n)
    return np.column_stack(
        [
            base,
            base,  # a duplicate
            np.zeros(n),
            rng.random(n) < 0.5,
            rng.random(n) < 1e-3,
            rng.poisson(0.2, n),
            np.where(rng.random(n) < 0.97, 0, rng.random(n)),  # a risk, zero for nearly everybody
            np.round(base, -2),
        ]
    ).astype(np.float32)


@pytest.mark.parametrize("tail", [8.0, np.inf])
def test_odd_columns_do_not_break_it(tail):
    X = odd_columns(8_000, np.random.default_rng(0))
    X[:500] = X[0]  # rows repeated
    detector = make("gaussian_mixture", members=3, tail=tail).fit(X)
    score = detector.raw_score(X)
    assert np.isfinite(score).all()
    assert np.std(score) > 0
    graph = onnxruntime.InferenceSession(detector.to_onnx()).run(None, {"features": X})[0]
    np.testing.assert_allclose(graph, score, rtol=1e-4, atol=2e-3)
    contributions = onnxruntime.InferenceSession(detector.explain_onnx()).run(
        None, {"features": X}
    )[0]
    assert np.isfinite(contributions).all()
    assert contributions.min() >= 0


def test_a_broken_relation_is_explained_by_its_columns():
    rng = np.random.default_rng(0)
    common = rng.normal(size=4_000)
    X = np.column_stack(
        [common, common + 0.1 * rng.normal(size=4_000), rng.normal(size=4_000)]
    ).astype(np.float32)
    detector = make("gaussian_mixture", members=2, n_components=2).fit(X)
    strange = np.float32([[1.5, -1.5, 0.0]])  # each value ordinary, the pair is not
    contributions = onnxruntime.InferenceSession(detector.explain_onnx()).run(
        None, {"features": strange}
    )[0][0]
    assert contributions[:2].min() > 10 * contributions[2]
