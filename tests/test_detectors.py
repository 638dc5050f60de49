"""One contract for all detectors: direction, repeatability, weights, odd columns, one graph."""

from functools import partial
from inspect import Parameter, signature
from types import SimpleNamespace
from unittest import SkipTest

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from lib.detectors import baselines, registry
from lib.detectors.base import Detector
from lib.detectors.sampling import check_weight, draw, thin, weighted_quantile
from lib.detectors.scaling import Scaler, signed_log
from lib.detectors.supervised_trees import MAX_LEAVES, log_odds
from lib.pipeline.parameters import read_parameters

SMALL = {
    "isolation_forest": {"n_trees": 50},
    "autoencoder": {"members": 2, "epochs": 5},
    "gaussian_mixture": {"members": 2, "n_components": 3},
    "supervised_trees": {"n_trees": 20, "forest_trees": 20},
    "few_labels": {},
    "robust_covariance": {},
    "nearest_neighbours": {"sample_rows": 500},
    "empirical_tails": {},
    "fusion": {
        "of": {"robust_covariance": {}, "gaussian_mixture": {"members": 2, "n_components": 3}}
    },
}
# scikit-learn's checks that fail for a reason, which is no fault of a detector
NOT_APPLICABLE = {
    "check_array_api_input": "skips itself: arrays of other libraries are tried only on request",
}
TINY = {"autoencoder": {"members": 1, "epochs": 1}, "few_labels": {"detector": "robust_covariance"}}
USE_VALIDATION = {"autoencoder", "fusion"}  # for the best epoch, for the calibration
UNSUPERVISED = sorted(set(SMALL) - set(registry.SUPERVISED))
ANY = pytest.mark.parametrize("name", sorted(SMALL))
DETECTOR = pytest.mark.parametrize("name", UNSUPERVISED)


def test_the_contract_runs_over_all_detectors():
    assert set(SMALL) == set(registry.DETECTORS)


@pytest.fixture(scope="module")
def rows():
    """Ordinary rows with awkward columns, then 40 strange ones; y marks the latter."""
    return make_rows(3_000, seed=0)


def make_rows(n, seed):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 2))
    X = np.column_stack(
        [
            latent[:, 0],
            latent[:, 0] + 0.3 * latent[:, 1],
            rng.lognormal(3, 1.5, n),
            rng.poisson(2, n),
            rng.random(n) < 0.3,
            np.full(n, 7.0),
            rng.random(n) < 0.002,
            1e6 + 50 * latent[:, 1],
        ]
    )
    y = np.zeros(n, dtype=np.int8)
    y[-40:] = 1
    X[-40:, 0] += 4
    X[-40:, 1] -= 4
    return SimpleNamespace(X=X.astype(np.float32), y=y, weight=rng.choice([1.0, 5.0], n))


@pytest.fixture(scope="module")
def fitted(rows):
    """Detectors fitted once, by name, on the ordinary rows (those with labels: on all)."""
    return {name: fit(name, rows) for name in SMALL}


def fit(name, rows, **params):
    detector = registry.make(name, **SMALL[name], **params)
    if name in registry.SUPERVISED:
        return detector.fit(rows.X, rows.y, weight=rows.weight)
    ordinary = rows.y == 0
    return detector.fit(rows.X[ordinary], weight=rows.weight[ordinary])


def run(graph, X):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options)
    assert [each.name for each in session.get_inputs()] == ["features"]
    return session.run(None, {"features": np.asarray(X, dtype=np.float32)})[0]


@ANY
def test_strange_rows_score_higher(name, rows, fitted):
    score = fitted[name].raw_score(rows.X)
    assert score.shape == (len(rows.X),)
    assert score.dtype == np.float64
    assert np.isfinite(score).all()
    ordinary = np.quantile(score[rows.y == 0], 0.9)
    assert np.mean(score[rows.y == 1] > ordinary) > 0.9


@ANY
def test_the_graph_scores_as_the_estimator_does(name, fitted):
    X = make_rows(6_000, seed=1).X
    score, graph = fitted[name].raw_score(X), run(fitted[name].to_onnx(), X)
    assert graph.shape == score.shape
    assert graph.dtype == np.float32
    np.testing.assert_allclose(graph, score, rtol=1e-3, atol=1e-3)
    assert spearmanr(graph, score).statistic > 0.99999


@ANY
def test_a_row_scores_the_same_alone_and_in_a_batch(name, rows, fitted):
    graph = fitted[name].to_onnx()
    alone = np.concatenate([run(graph, row[None]) for row in rows.X[:20]])
    np.testing.assert_allclose(alone, run(graph, rows.X)[:20], rtol=1e-5, atol=1e-6)


@ANY
def test_equal_seeds_give_equal_bytes(name, rows, fitted):
    again = fit(name, rows)
    np.testing.assert_array_equal(again.raw_score(rows.X), fitted[name].raw_score(rows.X))
    assert again.to_onnx() == fitted[name].to_onnx()


@pytest.mark.parametrize(
    "name", sorted(set(UNSUPERVISED) - {"robust_covariance", "empirical_tails"})
)  # determined by the rows
def test_another_seed_gives_another_fit(name, rows, fitted):
    assert np.any(fit(name, rows, seed=1).raw_score(rows.X) != fitted[name].raw_score(rows.X))


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"autoencoder", "fusion"}))
def test_threads_change_nothing(name, rows, fitted):
    assert fit(name, rows, threads=2).to_onnx() == fitted[name].to_onnx()


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"few_labels", "fusion"}))
def test_missing_values_count_as_the_median(name, rows, fitted):
    X = rows.X[:50].copy()
    X[:, 2] = np.nan
    by_hand = X.copy()
    by_hand[:, 2] = fitted[name].scaler_.median_[2]
    np.testing.assert_array_equal(fitted[name].raw_score(X), fitted[name].raw_score(by_hand))
    graph = fitted[name].to_onnx()
    np.testing.assert_array_equal(run(graph, X), run(graph, by_hand))


@pytest.mark.parametrize("name", ["few_labels", "fusion"])
def test_missing_values_are_each_parts_business(name, rows, fitted):
    X = rows.X[:50].copy()
    X[:, 2] = np.nan
    np.testing.assert_allclose(run(fitted[name].to_onnx(), X), fitted[name].raw_score(X), rtol=1e-4)


@ANY
def test_any_finite_row_gets_a_finite_score(name, rows, fitted):
    extreme = np.concatenate([np.eye(rows.X.shape[1]), -np.eye(rows.X.shape[1])]) * 3e38
    assert np.isfinite(fitted[name].raw_score(extreme)).all()
    assert np.isfinite(run(fitted[name].to_onnx(), extreme)).all()


@DETECTOR
def test_rows_without_weight_are_not_learned(name, rows):
    known = registry.make(name, **SMALL[name]).fit(
        rows.X, weight=np.where(rows.y == 1, 0.0, rows.weight)
    )
    score = known.raw_score(rows.X)
    assert np.median(score[rows.y == 1]) > np.quantile(score[rows.y == 0], 0.95)


@DETECTOR
def test_validation_rows_count_where_they_are_used_and_nowhere_else(name, rows, fitted):
    ordinary = rows.y == 0
    later = (rows.X[-500:], rows.weight[-500:])
    detector = registry.make(name, **SMALL[name])
    detector.fit(rows.X[ordinary], weight=rows.weight[ordinary], validation=later)
    same = np.array_equal(detector.raw_score(rows.X), fitted[name].raw_score(rows.X))
    assert same == (name not in USE_VALIDATION)


@DETECTOR
def test_few_rows_are_enough(name, rows):
    detector = registry.make(name, **SMALL[name]).fit(rows.X[:60])
    assert np.isfinite(detector.raw_score(rows.X)).all()


@ANY
def test_explanations_name_the_strange_columns(name, rows, fitted):
    graph = fitted[name].explain_onnx()
    if graph is None:
        assert name in ("isolation_forest", "supervised_trees")
        return
    contributions = run(graph, rows.X)
    assert contributions.shape == rows.X.shape
    assert np.isfinite(contributions).all()
    largest = np.argmax(contributions[rows.y == 1], axis=1)
    assert np.mean(np.isin(largest, [0, 1])) > 0.8


@ANY
def test_wrong_columns_are_refused(name, rows, fitted):
    with pytest.raises(ValueError, match="8 columns"):
        fitted[name].raw_score(rows.X[:, :5])


@ANY
def test_parameters_survive_a_clone(name):
    detector = registry.make(name, seed=3, **SMALL[name])
    assert clone(detector).get_params() == detector.get_params()


def test_unknown_detectors_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'svm'; there are autoencoder, .*isolation_forest"):
        registry.make("svm")


@ANY
def test_every_detector_is_fitted_by_the_same_call(name):
    parameters = dict(signature(registry.DETECTORS[name]().fit).parameters)
    parameters.pop("fitted", None)  # of those that build on other detectors
    shared = signature(Detector.fit).parameters
    assert list(parameters) == list(shared) == ["self", "X", "y", "weight", "validation"]
    for each in ("weight", "validation"):
        assert parameters[each].kind is Parameter.KEYWORD_ONLY
    assert all(parameters[each].default is None for each in ("y", "weight", "validation"))


@DETECTOR
def test_labels_change_nothing_where_none_are_needed(name, rows, fitted):
    ordinary = rows.y == 0
    labels = np.random.default_rng(0).integers(0, 2, ordinary.sum())
    detector = registry.make(name, **SMALL[name])
    detector.fit(rows.X[ordinary], labels, weight=rows.weight[ordinary])
    np.testing.assert_array_equal(detector.raw_score(rows.X), fitted[name].raw_score(rows.X))


def scikit_learns_checks():
    """One parameter for each detector and check; the estimator of each check is a fresh clone."""
    for name, params in {**SMALL, **TINY}.items():
        for estimator, check in estimator_checks_generator(registry.make(name, **params)):
            title = check.func.__name__
            yield pytest.param(title, partial(check, estimator), id=f"{name}-{title}")


@pytest.mark.filterwarnings("ignore")  # the checks provoke warnings on purpose
@pytest.mark.parametrize(("title", "check"), list(scikit_learns_checks()))
def test_scikit_learns_estimator_checks_pass(title, check, monkeypatch):
    monkeypatch.delenv("SCIPY_ARRAY_API", raising=False)
    if title not in NOT_APPLICABLE:
        check()
        return
    with pytest.raises((SkipTest, AssertionError)):  # one that passes by now must leave the list
        check()


def test_rows_that_cannot_be_fitted_are_refused(rows):
    detector = registry.make("robust_covariance")
    for X, message in (
        (rows.X[0], "1D array"),
        (rows.X[:0], "0 sample"),
        (np.where(rows.X == 7, np.inf, rows.X), "infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.fit(X)


def test_known_frauds_alone_cannot_be_learned_from(rows):
    for name in registry.SUPERVISED:
        with pytest.raises(ValueError, match="one class"):
            registry.make(name, **SMALL[name]).fit(rows.X[:50], np.ones(50))


@pytest.mark.parametrize("name", registry.SUPERVISED)
@pytest.mark.parametrize(
    ("y", "message"), [(None, "requires y .* learns from labels"), ([0, 1], "one label a row")]
)
def test_labels_that_are_needed_are_asked_for(name, rows, y, message):
    with pytest.raises(ValueError, match=message):
        registry.make(name, **SMALL[name]).fit(rows.X, y)


def test_trees_need_both_classes(rows):
    with pytest.raises(ValueError, match="one class"):
        registry.make("supervised_trees").fit(rows.X, np.zeros(len(rows.X)))


def test_supervised_trees_are_the_mean_of_two_log_odds(rows, fitted):
    trees = fitted["supervised_trees"]
    share = trees.forest_.predict_proba(rows.X)[:, 1]
    boosted = trees.boosting_.decision_function(rows.X)
    by_hand = (boosted + np.log((share + 1e-3) / (1.001 - share))) / 2
    np.testing.assert_allclose(trees.raw_score(rows.X), by_hand)
    # trees that all agree
    np.testing.assert_allclose(
        log_odds(np.array([0.0, 0.5, 1.0])), [-6.90875, 0, 6.90875], atol=1e-4
    )


def test_a_forest_of_many_frauds_stays_small():
    """Labels that nothing explains make the largest trees."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8_000, 5)).astype(np.float32)
    y = (rng.random(8_000) < 0.5).astype(int)
    trees = registry.make("supervised_trees", n_trees=2, forest_trees=5, forest_rows=5_000)
    trees.fit(X, y)
    for each in trees.forest_.estimators_:
        assert each.tree_.n_leaves == MAX_LEAVES
        assert each.tree_.weighted_n_node_samples[0] == 5_000
    assert len(trees.to_onnx()) * 100 / 5 < 15e6


def test_naive_scores_by_hand():
    reference = SimpleNamespace(X=np.float32([[0, 0], [2, 5]]), weight=np.array([3.0, 1.0]))
    current = SimpleNamespace(X=np.float32([[0.5, 0], [3.5, 1]]), amount=np.array([4.0, 5.0]))
    scores = baselines.naive_scores(current, reference, seed=0)
    sd = np.sqrt([0.75, 0.75 * 6.25])  # weighted means are 0.5 and 1.25
    np.testing.assert_allclose(scores["max_abs_z"], [1.25 / sd[1], 3 / sd[0]])
    np.testing.assert_array_equal(scores["amount"], [4, 5])
    current.amount = None
    assert set(baselines.naive_scores(current, reference)) == {"random", "max_abs_z"}


def test_draw_follows_the_weights():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(draw(rng, np.ones(5), 5), np.arange(5))
    counts = np.bincount(draw(rng, np.array([1.0, 0.0, 2.5]), 7_000), minlength=3)
    np.testing.assert_allclose(counts, [2_000, 0, 5_000], atol=1)


def test_thinning_keeps_every_fraud_and_the_weight():
    y, weight = np.array([0, 1, 0, 0, 1, 0]), np.array([1.0, 2.0, 3.0, 0.0, 5.0, 4.0])
    rows, kept = thin(np.random.default_rng(0), y, weight, 2)
    assert len(set(rows)) == 4
    assert {1, 4} < set(rows)
    assert kept.sum() == weight.sum()
    assert list(rows) == sorted(rows)
    np.testing.assert_array_equal(kept[np.isin(rows, [1, 4])], [2, 5])
    np.testing.assert_array_equal(
        thin(np.random.default_rng(0), y, weight, 4), (np.arange(6), weight)
    )


def test_only_skewed_columns_are_logged(rows):
    scaler = Scaler().fit(rows.X, weight=rows.weight)
    assert scaler.logged_.tolist() == [False, False, True, False, False, False, False, False]
    z = scaler.transform(rows.X)
    np.testing.assert_allclose(np.average(z, axis=0, weights=rows.weight), 0, atol=1e-4)
    assert np.all(z[:, 5] == 0)
    assert np.abs(z[:, 6]).max() <= 10.1  # a rare flag is no 20 standard deviations
    assert skewness(z[:, 2], rows.weight) < skewness(rows.X[:, 2], rows.weight) - 0.2


def skewness(x, weight):
    low, median, high = weighted_quantile(x, weight, [0.01, 0.5, 0.99])
    return (high + low - 2 * median) / (high - low)


def test_a_logged_column_is_linear_up_to_its_median_and_logarithmic_beyond():
    x = np.random.default_rng(0).lognormal(3, 1.5, 5_000).astype(np.float32)
    scaler = Scaler().fit(x[:, None])
    edge, median = np.quantile(x, [0.01, 0.5])
    steps = edge + (median - edge) * np.array([[0], [0.5], [1], [10], [100], [1_000]])
    z = scaler.transform(steps)[:, 0]
    first, second, _, third, fourth = np.diff(z)
    assert second == pytest.approx(first, rel=0.4)
    assert fourth == pytest.approx(third, rel=0.1)


def test_a_column_with_half_its_mass_on_an_edge_keeps_its_distances():
    """A risk that is mostly 0: 0.3 and 0.8 are as different as 0.2 and 0.7."""
    rng = np.random.default_rng(0)
    risk = np.where(rng.random(5_000) < 0.7, 0, rng.beta(1, 8, 5_000)).astype(np.float32)
    scaler = Scaler().fit(risk[:, None])
    assert not scaler.logged_[0]
    z = scaler.transform(np.float32([[0.2], [0.7], [0.3], [0.8]]))[:, 0]
    assert z[1] - z[0] == pytest.approx(z[3] - z[2], rel=1e-4)


def test_a_scaler_logs_no_column_or_every_skewed_one_if_asked():
    rng = np.random.default_rng(0)
    risk = np.where(rng.random(5_000) < 0.7, 0, rng.beta(1, 8, 5_000))
    X = np.column_stack([rng.normal(size=5_000), rng.lognormal(3, 1.5, 5_000), risk])
    X = X.astype(np.float32)
    logged = {log: Scaler(log).fit(X).logged_.tolist() for log in ("never", "skewed", "always")}
    assert logged == {
        "never": [False, False, False],
        "skewed": [False, True, False],
        "always": [False, True, True],
    }
    unit = np.median(X[X[:, 2] > 0, 2])
    assert Scaler("always").fit(X).unit_[2] == pytest.approx(unit, rel=1e-3)
    with pytest.raises(ValueError, match="'sometimes'; give one of never"):
        Scaler("sometimes").fit(X)


def test_the_unit_of_a_column_does_not_matter(rows):
    euro, cent = (
        Scaler().fit(rows.X[:, [2]] * unit).transform(rows.X[:, [2]] * unit) for unit in (1, 100)
    )
    np.testing.assert_allclose(euro, cent, atol=1e-4)


def test_signed_log_is_odd_and_increasing():
    t = np.linspace(-50, 50, 101)
    np.testing.assert_allclose(signed_log(-t), -signed_log(t))
    assert np.all(np.diff(signed_log(t)) > 0)


@pytest.mark.parametrize(
    ("weight", "message"),
    [([1, 2], "one number a row"), ([1, -1, 1], "negative"), ([0, 0, 0], "only zeros")],
)
def test_bad_weights_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        check_weight(weight, 3)


def test_a_share_that_is_reached_but_for_rounding_is_reached():
    """Half of 24 rows are 12, though 12 times 0.1 add up to less than half of 24 times 0.1."""
    x, weight = np.arange(1.0, 25.0), np.full(24, 0.1)
    assert weighted_quantile(x, weight, 0.5) == 12


def test_weighted_quantile_by_hand():
    x, weight = np.array([30.0, 10.0, 20.0]), np.array([1.0, 1.0, 2.0])
    assert weighted_quantile(x, weight, [0.25, 0.26, 0.75, 0.76, 1.0]).tolist() == [
        10,
        20,
        20,
        30,
        30,
    ]


@ANY
def test_a_column_without_any_value_is_a_constant_now_and_later(name, rows):
    """A feature recorded from later on: what was fitted without it takes no notice of it."""
    empty = np.full((len(rows.X), 1), np.nan, np.float32)
    detector = fit(name, SimpleNamespace(X=np.c_[rows.X, empty], y=rows.y, weight=rows.weight))
    score = detector.raw_score(np.c_[rows.X, empty])
    assert np.isfinite(score).all()
    later = np.c_[rows.X, np.random.default_rng(0).normal(1e4, 1e3, (len(rows.X), 1))].astype(
        np.float32
    )
    later[0, -1] = np.finfo(np.float32).max
    np.testing.assert_array_equal(detector.raw_score(later), score)
    np.testing.assert_allclose(run(detector.to_onnx(), later), score, rtol=2e-4, atol=2e-4)


def test_a_naive_rule_leaves_out_a_column_without_any_value(rows):
    reference = SimpleNamespace(X=np.c_[rows.X, np.full(len(rows.X), np.nan)], weight=rows.weight)
    later = SimpleNamespace(X=np.c_[rows.X, np.full(len(rows.X), 1e6)], amount=None)
    known = SimpleNamespace(X=rows.X, weight=rows.weight)
    expected = baselines.naive_scores(SimpleNamespace(X=rows.X, amount=None), known)["max_abs_z"]
    np.testing.assert_array_equal(baselines.naive_scores(later, reference)["max_abs_z"], expected)


def test_a_notebook_fits_with_the_settings_of_each_regime():
    path = ROOT / "notebooks" / "06_nearest_neighbours.ipynb"
    given = {name: each.default for name, each in read_parameters(path).items()}
    in_all = registry.settings("nearest_neighbours", "all")
    assert in_all == {
        "samples": given["samples_all"],
        "sample_rows": given["sample_rows_all"],
        "trim": given["trim_all"],
    }
    assert registry.settings("nearest_neighbours", "genuine") == {}
    defaults = registry.make("nearest_neighbours").get_params()
    for name in ("samples", "sample_rows", "trim"):
        assert given[name] == defaults[name]
    for stem in ("05_gaussian_mixture", "07_robust_covariance"):
        given = read_parameters(ROOT / "notebooks" / f"{stem}.ipynb")
        model = stem.partition("_")[2]
        assert registry.settings(model, "all") == {"trim": given["trim_all"].default}
        assert registry.make(model).get_params()["trim"] == given["trim"].default
