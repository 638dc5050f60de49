"""The graph builder, the scaling in ONNX, and trees that branch exactly as scikit-learn's."""

import numpy as np
import onnxruntime
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier

from lib.detectors.onnx_graph import Graph
from lib.detectors.onnx_trees import (
    average_path_length,
    boosted_trees,
    forest_trees,
    isolation_trees,
    round_down,
)
from lib.detectors.scaling import CLIP, Scaler


def run(graph, X):
    return onnxruntime.InferenceSession(graph).run(None, {"features": X})[0]


def test_thresholds_are_rounded_towards_minus_infinity():
    exact = np.array([0.1, -0.1, 1.0, 16777217.0, 1e300, -1e300])
    rounded = round_down(exact)
    assert rounded.dtype == np.float32
    assert np.all(rounded.astype(np.float64) <= exact)
    assert rounded[2] == 1.0
    assert rounded[3] == 16777216.0
    assert rounded[4] == np.finfo(np.float32).max
    for x in (
        np.nextafter(rounded[:4], np.float32(-np.inf)),
        rounded[:4],
        np.nextafter(rounded[:4], np.float32(np.inf)),
    ):
        np.testing.assert_array_equal(x.astype(np.float64) <= exact[:4], x <= rounded[:4])


def test_average_path_length_of_small_samples():
    np.testing.assert_allclose(average_path_length([1, 2]), [0, 1])
    assert average_path_length(256) == pytest.approx(10.24, abs=0.01)  # Liu, Ting and Zhou


def test_equal_calls_give_equal_bytes_and_share_constants():
    def build():
        graph = Graph(2)
        doubled = graph.add("Mul", "features", 2.0)
        return graph.finish(
            graph.add("ReduceMax", graph.add("Mul", doubled, 2.0), axes=[1], keepdims=0)
        )

    assert build() == build()
    np.testing.assert_array_equal(run(build(), np.float32([[1, 2], [5, 3]])), [8, 20])


def test_a_stump_by_hand():
    stump = {
        "left": [1, -1, -1],
        "right": [2, -1, -1],
        "feature": [1, -2, -2],
        "threshold": [0.5, 0, 0],
    }
    stump["value"] = [0, -1, 3]
    graph = Graph(2)
    model = graph.finish(graph.flat(graph.tree_sum([stump, stump])))
    np.testing.assert_array_equal(run(model, np.float32([[9, 0.5], [9, 0.6]])), [-2, 6])


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e7])
def test_trees_branch_as_scikit_learn_does(scale):
    """The graph of a tree whose leaves hold their own number says which leaf a row reached."""
    rng = np.random.default_rng(0)
    X = (rng.integers(-30, 30, size=(5_000, 4)) / 7 * scale).astype(
        np.float32
    )  # values that thresholds fall on
    forest = IsolationForest(n_estimators=25, random_state=0).fit(X)
    trees = isolation_trees(forest)
    for tree, estimator in zip(trees, forest.estimators_, strict=True):
        numbered = {**tree, "value": np.arange(len(tree["left"]))}
        graph = Graph(4)
        leaf = run(graph.finish(graph.flat(graph.tree_sum([numbered]))), X)
        np.testing.assert_array_equal(leaf, estimator.apply(X))
    graph = Graph(4)
    length = run(graph.finish(graph.flat(graph.tree_sum(trees))), X)
    score = 2 ** (-length / (25 * average_path_length(256)))
    np.testing.assert_allclose(score, -forest.score_samples(X), atol=1e-6)


def test_boosted_trees_add_up_to_the_log_odds():
    rng = np.random.default_rng(1)
    X = (rng.integers(-30, 30, size=(5_000, 4)) / 7).astype(np.float32)
    y = (X[:, 0] + rng.normal(size=5_000) > 3).astype(int)
    model = HistGradientBoostingClassifier(max_iter=30, early_stopping=False, random_state=0).fit(
        X, y
    )
    graph = Graph(4)
    total = run(graph.finish(graph.flat(graph.tree_sum(boosted_trees(model)))), X)
    np.testing.assert_allclose(
        total + model._baseline_prediction.item(), model.decision_function(X), atol=1e-4
    )


def test_the_trees_of_a_forest_add_up_to_the_probability():
    rng = np.random.default_rng(1)
    X = (rng.integers(-30, 30, size=(5_000, 4)) / 7).astype(np.float32)
    y = (X[:, 0] + rng.normal(size=5_000) > 3).astype(int)
    weight = rng.choice([1.0, 5.0], 5_000)
    model = RandomForestClassifier(20, min_samples_leaf=3, random_state=0)
    model.fit(X, y, sample_weight=weight)
    graph = Graph(4)
    total = run(graph.finish(graph.flat(graph.tree_sum(forest_trees(model)))), X)
    np.testing.assert_allclose(total, model.predict_proba(X)[:, 1], atol=1e-6)


def test_scaling_in_the_graph_equals_scaling_in_numpy():
    rng = np.random.default_rng(2)
    X = np.column_stack(
        [
            rng.normal(1e5, 3, 4_000),
            rng.lognormal(0, 2, 4_000),
            -rng.lognormal(0, 2, 4_000),
            np.ones(4_000),
        ]
    )
    X = X.astype(np.float32)
    X[::7, 0] = np.nan
    scaler = Scaler().fit(X)
    assert scaler.logged_.tolist() == [False, True, True, False]
    graph = Graph(4)
    model = graph.finish(graph.scaled(scaler), "contributions")
    np.testing.assert_allclose(run(model, X), scaler.transform(X), atol=2e-5)
    far = np.float32([[1e30, -1e30, 1e30, 2]])
    np.testing.assert_allclose(run(model, far)[0, 0], CLIP)
    np.testing.assert_allclose(run(model, far), scaler.transform(far), rtol=1e-5)
