"""Fitted tree ensembles as plain arrays, and those arrays as one ONNX node.

A tree is a dict of arrays of one length: ``left`` and ``right`` (positions of the children, -1 at a leaf), ``feature``,
``threshold`` (float64; a row goes left if x <= threshold) and ``value`` (read at leaves).
"""

import numpy as np


def isolation_trees(forest):
    """Arrays of the trees of a fitted sklearn IsolationForest; a leaf holds its depth + c(its rows)."""
    return [_isolation_tree(each.tree_) for each in forest.estimators_]


def boosted_trees(model):
    """Arrays of the trees of a fitted binary HistGradientBoostingClassifier without categorical columns."""
    return [_boosted_tree(predictor.nodes) for (predictor,) in model._predictors]


def _isolation_tree(tree):
    left, right = tree.children_left, tree.children_right
    depth = np.zeros(tree.node_count)
    level, nodes = 0, np.array([0])
    while len(nodes):
        depth[nodes] = level
        parents = nodes[left[nodes] >= 0]
        level, nodes = level + 1, np.concatenate([left[parents], right[parents]])
    value = depth + average_path_length(tree.n_node_samples)
    return {"left": left, "right": right, "feature": tree.feature, "threshold": tree.threshold, "value": value}


def _boosted_tree(nodes):
    leaf = nodes["is_leaf"].astype(bool)
    left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
    return {
        "left": left,
        "right": right,
        "feature": nodes["feature_idx"],
        "threshold": nodes["num_threshold"],
        "value": nodes["value"],
    }


def average_path_length(n):
    """c(n) of Liu, Ting and Zhou: the mean path length of an unsuccessful search among n rows."""
    n = np.asarray(n, dtype=np.float64)
    c = 2 * (np.log(np.maximum(n, 3) - 1) + np.euler_gamma) - 2 * (n - 1) / np.maximum(n, 1)
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, c))


def round_down(threshold):
    """Largest float32 that is <= threshold (float64).

    For float32 x, ``x <= threshold`` and ``x <= round_down(threshold)`` are the same, so a graph branches as
    scikit-learn does.
    """
    threshold = np.asarray(threshold, dtype=np.float64)
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    return np.where(above, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float32)


def ensemble_attributes(trees):
    """Attributes of one TreeEnsembleRegressor that adds up the leaves of all trees."""
    sizes = [len(tree["left"]) for tree in trees]
    tree_id = np.repeat(np.arange(len(trees)), sizes)
    node_id = np.concatenate([np.arange(size) for size in sizes])
    left, right, feature, threshold, value = (
        np.concatenate([np.asarray(tree[key]) for tree in trees])
        for key in ("left", "right", "feature", "threshold", "value")
    )
    leaf = left < 0
    return {
        "n_targets": 1,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": tree_id.tolist(),
        "nodes_nodeids": node_id.tolist(),
        "nodes_modes": [b"LEAF" if each else b"BRANCH_LEQ" for each in leaf],
        "nodes_featureids": np.where(leaf, 0, feature).tolist(),
        "nodes_values": np.where(leaf, 0, round_down(threshold)).astype(np.float32).tolist(),
        "nodes_truenodeids": np.where(leaf, 0, left).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, right).tolist(),
        "target_treeids": tree_id[leaf].tolist(),
        "target_nodeids": node_id[leaf].tolist(),
        "target_ids": [0] * int(leaf.sum()),
        "target_weights": value[leaf].astype(np.float32).tolist(),
    }
