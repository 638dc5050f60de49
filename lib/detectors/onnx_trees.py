"""Fitted tree ensembles as plain arrays, and those arrays as one ONNX node.

A tree is a dict of arrays of one length, one entry per node: ``left`` and ``right`` (positions of
the children, -1 at a leaf), ``feature``, ``threshold`` (float64; a row goes left if
x <= threshold) and ``value`` (read at leaves).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier

Tree = Mapping[str, np.ndarray]


def isolation_trees(forest: IsolationForest) -> list[Tree]:
    """Return the trees of a fitted scikit-learn isolation forest.

    The value of a leaf is the path length of a row that ends there: the leaf's depth plus the
    expected depth of a tree grown from the rows that it holds.
    """
    return [_isolation_tree(each.tree_) for each in forest.estimators_]


def boosted_trees(model: HistGradientBoostingClassifier) -> list[Tree]:
    """Return the trees of a fitted binary booster that has no categorical columns."""
    # scikit-learn keeps its trees in private attributes and offers no public way to read them.
    return [_boosted_tree(predictor.nodes) for (predictor,) in model._predictors]


def forest_trees(model: RandomForestClassifier) -> list[Tree]:
    """Return the trees of a fitted binary forest; their sum is the probability of class 1."""
    return [_share_tree(each.tree_, model.n_estimators) for each in model.estimators_]


def _share_tree(tree, n_trees):
    return {
        "left": tree.children_left,
        "right": tree.children_right,
        "feature": tree.feature,
        "threshold": tree.threshold,
        # a leaf holds the share of either class among its weight
        "value": tree.value[:, 0, 1] / n_trees,
    }


def _isolation_tree(tree):
    left = tree.children_left
    right = tree.children_right
    depth = np.zeros(tree.node_count)
    level = 0
    nodes = np.array([0])
    while len(nodes):
        depth[nodes] = level
        parents = nodes[left[nodes] >= 0]
        nodes = np.concatenate([left[parents], right[parents]])
        level += 1
    return {
        "left": left,
        "right": right,
        "feature": tree.feature,
        "threshold": tree.threshold,
        "value": depth + average_path_length(tree.n_node_samples),
    }


def _boosted_tree(nodes):
    # scikit-learn marks a leaf by its flag and leaves 0 as its children: the root's position
    leaf = nodes["is_leaf"].astype(bool)
    left = nodes["left"].astype(np.int64)
    right = nodes["right"].astype(np.int64)
    left[leaf] = -1
    right[leaf] = -1
    return {
        "left": left,
        "right": right,
        "feature": nodes["feature_idx"],
        "threshold": nodes["num_threshold"],
        "value": nodes["value"],
    }


def average_path_length(n: ArrayLike) -> NDArray:
    """Return c(n) float64, the mean path length of an unsuccessful search in a tree of n rows.

    Equation 1 of Liu, Ting and Zhou, *Isolation forest*, ICDM 2008, with c(1) = 0 and c(2) = 1;
    the harmonic number H(i) is taken as log(i) + Euler's constant, as scikit-learn does.
    """
    n = np.asarray(n, dtype=np.float64)
    # np.where below evaluates the formula for every n: keep it defined where it isn't used
    at_least_3 = np.maximum(n, 3)
    at_least_1 = np.maximum(n, 1)
    harmonic = np.log(at_least_3 - 1) + np.euler_gamma
    mean = 2 * harmonic - 2 * (n - 1) / at_least_1
    mean = np.where(n == 2, 1.0, mean)
    return np.where(n <= 1, 0.0, mean)


def round_down(threshold: ArrayLike) -> NDArray:
    """Return the largest float32 that is not above the threshold (float64).

    For float32 x, ``x <= threshold`` and ``x <= round_down(threshold)`` are the same, so a graph
    branches as scikit-learn does.
    """
    threshold = np.asarray(threshold, dtype=np.float64)
    with np.errstate(over="ignore"):  # a threshold beyond float32 becomes inf and is lowered below
        rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    lowest = np.float32(-np.inf)
    below = np.nextafter(rounded, lowest)
    return np.where(above, below, rounded)


def ensemble_attributes(trees: Sequence[Tree]) -> dict[str, Any]:
    """Return the attributes of one TreeEnsembleRegressor that adds up the leaves of all trees."""
    sizes = [len(tree["left"]) for tree in trees]
    numbers = np.arange(len(trees))
    tree_id = np.repeat(numbers, sizes)
    node_id = np.concatenate([np.arange(size) for size in sizes])
    left = _joined(trees, "left")
    right = _joined(trees, "right")
    feature = _joined(trees, "feature")
    value = _joined(trees, "value").astype(np.float32)
    threshold = round_down(_joined(trees, "threshold"))
    leaf = left < 0
    return {
        "n_targets": 1,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": tree_id.tolist(),
        "nodes_nodeids": node_id.tolist(),
        "nodes_modes": [b"LEAF" if each else b"BRANCH_LEQ" for each in leaf],
        # the format asks for a number in every field of a leaf as well; nothing reads it
        "nodes_featureids": np.where(leaf, 0, feature).tolist(),
        "nodes_values": np.where(leaf, np.float32(0), threshold).tolist(),
        "nodes_truenodeids": np.where(leaf, 0, left).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, right).tolist(),
        "target_treeids": tree_id[leaf].tolist(),
        "target_nodeids": node_id[leaf].tolist(),
        "target_ids": np.zeros(leaf.sum(), dtype=int).tolist(),
        "target_weights": value[leaf].tolist(),
    }


def _joined(trees, key):
    parts = [np.asarray(tree[key]) for tree in trees]
    return np.concatenate(parts)
