"""What other libraries' fitted detectors compute, in numpy and as nodes of an ONNX graph.

Scores are float64 inside the graph, but for trees and networks, so that a score far from zero
keeps the digits that order it. Most are written by hand: converters give slower graphs, and none
knows PyOD. For the rest of scikit-learn skl2onnx is asked, for networks torch's exporter.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import skew

from lib.detectors.onnx_graph import OPSETS, Graph
from lib.detectors.onnx_trees import average_path_length, isolation_trees

LIBRARIES = ("sklearn.", "pyod.")
NETWORK = "network_"  # the attribute that holds a detector's torch.nn.Module
N_EXAMPLES = 2  # rows that an exporter traces a network with


def name(estimator: Any) -> str:
    """Return an estimator's class as people import it: `sklearn.svm.OneClassSVM`.

    Private modules are left out.
    """
    kind = type(estimator)
    public = [part for part in kind.__module__.split(".") if not part.startswith("_")]
    return ".".join([*public, kind.__name__])


def check(estimator: Any) -> None:
    """Refuse an estimator, fitted or not, of which no graph can be made.

    Raises
    ------
    ValueError
        The message lists those that have one.
    """
    called = name(estimator)
    if called in TRANSLATED or called in CONVERTED or not called.startswith(LIBRARIES):
        _check_settings(estimator, called)
        return
    possible = ", ".join(sorted([*TRANSLATED, *CONVERTED]))
    raise ValueError(
        f"{called} cannot become an ONNX graph, and so cannot be served. Those that can: "
        f"{possible}; and a class of your own whose {NETWORK} is a torch.nn.Module from features "
        "to scores."
    )


def _check_settings(estimator, called):
    """Refuse settings that the graph of a detector does not know."""
    parameters = estimator.get_params(deep=False)
    for key, known in SETTINGS.get(called, {}).items():
        if parameters[key] not in known:
            options = ", ".join(map(repr, known))
            raise ValueError(
                f"{called} with {key}={parameters[key]!r} has no graph; choose one of {options}."
            )


def score(estimator: Any, inputs: NDArray) -> NDArray:
    """Return the scores of a fitted estimator, higher = more anomalous, float64 (n,).

    Parameters
    ----------
    estimator : object
    inputs : ndarray of shape (n, d), float64
    """
    if hasattr(estimator, NETWORK):
        return _network_score(getattr(estimator, NETWORK), inputs)
    inner = _inner(estimator)
    if name(inner) == "pyod.models.ecod.ECOD":
        return _ecod_score(inner, inputs)
    if name(inner).startswith("pyod."):
        return np.asarray(inner.decision_function(inputs), dtype=np.float64)
    # scikit-learn's scores are higher for ordinary rows
    return -np.asarray(inner.score_samples(inputs), dtype=np.float64)


def _inner(estimator):
    """Return the scikit-learn detector inside one of PyOD that adds no more than the sign."""
    inner = getattr(estimator, "detector_", None)
    return inner if inner is not None and name(inner) in TRANSLATED else estimator


def add_score(graph: Graph, estimator: Any, inputs: str) -> str:
    """Add the score of a fitted estimator to a graph and return its name, float32 [n].

    Parameters
    ----------
    graph : Graph
    estimator : object
    inputs : str
        Name of what it was fitted on, float32 [n, d].
    """
    if hasattr(estimator, NETWORK):
        return _network(graph, getattr(estimator, NETWORK), inputs)
    inner = _inner(estimator)
    translate = TRANSLATED.get(name(inner), _converted)
    return translate(graph, inner, inputs)


def _isolation_forest(graph, forest, inputs):
    trees = []
    for tree, features in zip(isolation_trees(forest), forest.estimators_features_, strict=True):
        # a tree numbers the features that it was given
        trees.append({**tree, "feature": np.asarray(features)[np.maximum(tree["feature"], 0)]})
    length = graph.tree_sum(trees, inputs)
    total = len(trees) * average_path_length(forest.max_samples_)
    exponent = graph.add("Mul", length, -np.log(2) / total)
    return graph.flat(graph.add("Exp", exponent))


def _one_class_svm(graph, svm, inputs):
    rows = np.asarray(svm.support_vectors_, dtype=np.float64)
    z = graph.double(inputs)
    if svm.kernel == "rbf":
        square = _squares(graph, z, rows)
        kernel = graph.add("Exp", graph.add("Mul", square, graph.exact(-svm._gamma)))
    else:
        product = graph.add("MatMul", z, graph.exact(rows.T))
        kernel = _of_product(graph, svm, product)
    total = graph.add("MatMul", kernel, graph.exact(-svm.dual_coef_.ravel()))
    return graph.single(total)


def _of_product(graph, svm, product):
    """Add the kernels of a product of rows: linear, polynomial, sigmoid."""
    if svm.kernel == "linear":
        return product
    product = graph.add("Mul", product, graph.exact(svm._gamma))
    product = graph.add("Add", product, graph.exact(svm.coef0))
    if svm.kernel == "poly":
        return graph.add("Pow", product, graph.exact(svm.degree))
    return graph.add("Tanh", product)


def _local_outlier_factor(graph, lof, inputs):
    """Add the factor of Breunig et al., *LOF*, SIGMOD 2000, with scikit-learn's 1e-10."""
    distance, places = _nearest(graph, inputs, lof._fit_X, lof.n_neighbors_)
    reach = graph.add("Gather", graph.exact(lof._distances_fit_X_[:, lof.n_neighbors_ - 1]), places)
    reach = graph.add("Max", distance, reach)
    mean = graph.add("ReduceMean", reach, axes=[1], keepdims=1)
    mean = graph.add("Add", mean, graph.exact(1e-10))
    density = graph.add("Gather", graph.exact(lof._lrd), places)
    ratio = graph.add("Mul", density, mean)
    return graph.single(graph.add("ReduceMean", ratio, axes=[1], keepdims=0))


def _elliptic_envelope(graph, envelope, inputs):
    z = graph.double(inputs)
    residual = graph.add("Sub", z, graph.exact(envelope.location_))
    weighted = graph.add("MatMul", residual, graph.exact(envelope.precision_))
    return graph.single(graph.sum_columns(graph.add("Mul", residual, weighted)))


def _nearest_neighbours(graph, knn, inputs):
    distance, _ = _nearest(graph, inputs, knn.neigh_._fit_X, knn.n_neighbors)
    if knn.method == "mean":
        return graph.single(graph.add("ReduceMean", distance, axes=[1], keepdims=0))
    k = knn.n_neighbors
    middle = [k - 1] if knn.method == "largest" else sorted({(k - 1) // 2, k // 2})
    kept = graph.add("Gather", distance, graph.constant(middle, np.int64), axis=1)
    return graph.single(graph.add("ReduceMean", kept, axes=[1], keepdims=0))


def _principal_components(graph, pca, inputs):
    """Add the distances from eigenvectors, each over its share of the variance, as PyOD does."""
    z = graph.double(inputs)
    if pca.standardization:
        z = graph.add("Sub", z, graph.exact(pca.scaler_.mean_))
        z = graph.add("Div", z, graph.exact(pca.scaler_.scale_))
    square = _squares(graph, z, pca.selected_components_)
    distance = graph.add("Sqrt", square)
    weighted = graph.add("Div", distance, graph.exact(pca.selected_w_components_))
    return graph.single(graph.sum_columns(weighted))


def _squares(graph, z, rows):
    """Add squared distances [n, m] of z [n, d] from rows (m, d), float64."""
    # far from zero, the squares of the rows would hide the digits of their differences
    centre = np.mean(rows, axis=0, dtype=np.float64)
    rows = rows - centre
    z = graph.add("Sub", z, graph.exact(centre))
    own = graph.add("ReduceSumSquare", z, axes=[1], keepdims=1)
    product = graph.add("MatMul", z, graph.exact(-2 * rows.T))
    square = graph.add("Add", product, graph.exact(np.square(rows).sum(axis=1)))
    square = graph.add("Add", square, own)
    return graph.add("Max", square, graph.exact(0))  # rounding may take it below


def _nearest(graph, inputs, rows, k):
    """Add the distances from the k nearest of rows (m, d), float64 [n, k], and their places."""
    square = _squares(graph, graph.double(inputs), np.asarray(rows, dtype=np.float64))
    least, places = graph.smallest(square, k)
    return graph.add("Sqrt", least), places


def _histograms(graph, hbos, inputs):
    """Add the densities of each column's bins, as PyOD's HBOS looks them up.

    Beyond the outer bins there is `tol` of a bin's width that still belongs to them.
    """
    edges, density = hbos.bin_edges_, hbos.hist_
    if isinstance(edges, np.ndarray):  # with n_bins="auto" they are lists of columns
        edges, density = edges.T, density.T
    columns = [_bins(*column, hbos.alpha, hbos.tol) for column in zip(edges, density, strict=True)]
    count = graph.count_below(graph.double(inputs), [breaks for breaks, _ in columns])
    sizes = [len(scores) for _, scores in columns]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    places = graph.add("Add", count, graph.constant(starts[None, :], np.int64))
    table = graph.exact(np.concatenate([scores for _, scores in columns]))
    return graph.single(graph.sum_columns(graph.add("Gather", table, places)))


def _bins(edges, density, alpha, tol):
    """Return where a column's score changes (k,), and the scores in between (k + 1,)."""
    ordinary = np.log2(density + alpha)
    low = edges[0] - tol * (edges[1] - edges[0])
    high = edges[-1] + tol * (edges[-1] - edges[-2])
    # a value on the lower bound is inside, and only what lies below a value is counted
    below = np.nextafter(low, -np.inf)
    breaks = np.concatenate([[below], edges[1:-1], [high]])
    outside = ordinary.min()
    return breaks, -np.concatenate([[outside], ordinary, [outside]])


def _ecod_score(ecod, inputs):
    """Score each row as ECOD would score it alone.

    PyOD's own puts all rows of a call together with those of the fit, so that a score depends on
    what else is scored with it: nothing that can be served.
    """
    fitted = np.sort(ecod.X_train, axis=0)
    n = len(fitted)
    signs = _signs(fitted)
    total = np.zeros(len(inputs))
    for x, column, sign in zip(inputs.T, fitted.T, signs, strict=True):
        at_most = np.searchsorted(column, x, side="right")
        at_least = n - np.searchsorted(column, x, side="left")
        left, right = (-np.log((count + 1) / (n + 1)) for count in (at_most, at_least))
        # by its skewness a column counts with one of its tails, which is never above the farther
        # one, and a symmetric column with both
        total += left + right if sign == 0 else np.maximum(left, right)
    return total


def _signs(rows):
    """Return the sign of each column's skewness (d,), 0 of a constant column as in PyOD."""
    varies = np.ptp(rows, axis=0) > 0
    signs = np.zeros(rows.shape[1])
    signs[varies] = np.sign(skew(rows[:, varies], axis=0))
    return signs


def _ecod(graph, ecod, inputs):
    fitted = np.sort(np.asarray(ecod.X_train, dtype=np.float64), axis=0)
    n = len(fitted)
    z = graph.double(inputs)
    tail = graph.exact(-np.log((np.arange(n + 1) + 1) / (n + 1)))
    left = graph.add("Gather", tail, graph.count_below(z, list(fitted.T), equal=True))
    below = graph.count_below(z, list(fitted.T))
    right = graph.add("Gather", tail, graph.add("Sub", graph.constant(n, np.int64), below))
    farther = graph.add("Max", left, right)
    signs = _signs(fitted)
    is_symmetric = graph.constant(signs[None, :] == 0, bool)
    chosen = graph.add("Where", is_symmetric, graph.add("Add", left, right), farther)
    return graph.single(graph.sum_columns(chosen))


def _converted(graph, estimator, inputs):
    """Add what skl2onnx makes of one of scikit-learn's other detectors."""
    import skl2onnx

    d = estimator.n_features_in_
    asked = {id(estimator): {"score_samples": True}} if _is_mixture(estimator) else None
    model = skl2onnx.to_onnx(
        estimator,
        np.zeros((1, d), dtype=np.float32),
        target_opset=dict(OPSETS),
        options=asked,
    )
    wanted = "score_samples" if _is_mixture(estimator) else "scores"
    found = graph.include(model.SerializeToString(), inputs, wanted)
    ordinary = graph.flat(found)
    if not _is_mixture(estimator):  # its converter gives the decision function
        ordinary = graph.add("Add", ordinary, float(np.ravel(estimator.offset_)[0]))
    return graph.add("Neg", ordinary)


def _is_mixture(estimator):
    return name(estimator).startswith("sklearn.mixture.")


def _network_score(network, inputs):
    import torch

    network.eval()
    with torch.inference_mode():
        found = network(torch.from_numpy(inputs.astype(np.float32)))
    return found.reshape(-1).double().numpy()


def _network(graph, network, inputs):
    """Add a network as torch exports it."""
    import io

    import torch

    network.eval()
    d = graph.n_features
    target = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(N_EXAMPLES, d),),
        target,
        input_names=["inputs"],
        output_names=["score"],
        dynamic_axes={"inputs": {0: "n"}, "score": {0: "n"}},
        opset_version=dict(OPSETS)[""],
        dynamo=False,
    )
    return graph.flat(graph.include(target.getvalue(), inputs))


Translator = Callable[[Graph, Any, str], str]
TRANSLATED: dict[str, Translator] = {
    "sklearn.ensemble.IsolationForest": _isolation_forest,
    "sklearn.svm.OneClassSVM": _one_class_svm,
    "sklearn.neighbors.LocalOutlierFactor": _local_outlier_factor,
    "sklearn.covariance.EllipticEnvelope": _elliptic_envelope,
    "pyod.models.iforest.IForest": _isolation_forest,
    "pyod.models.ocsvm.OCSVM": _one_class_svm,
    "pyod.models.lof.LOF": _local_outlier_factor,
    "pyod.models.knn.KNN": _nearest_neighbours,
    "pyod.models.pca.PCA": _principal_components,
    "pyod.models.hbos.HBOS": _histograms,
    "pyod.models.ecod.ECOD": _ecod,
}
CONVERTED = (  # by skl2onnx
    "sklearn.linear_model.SGDOneClassSVM",
    "sklearn.mixture.GaussianMixture",
    "sklearn.mixture.BayesianGaussianMixture",
)
_EUCLID = {"metric": ("minkowski", "euclidean", "l2"), "p": (2, 2.0), "metric_params": (None,)}
_KERNELS = {"kernel": ("rbf", "linear", "poly", "sigmoid")}
SETTINGS: dict[str, dict[str, tuple]] = {  # those of which there is a graph, where there are others
    "sklearn.svm.OneClassSVM": _KERNELS,
    "pyod.models.ocsvm.OCSVM": _KERNELS,
    "sklearn.neighbors.LocalOutlierFactor": {"novelty": (True,), **_EUCLID},
    "pyod.models.lof.LOF": {"novelty": (True,), **_EUCLID},
    "pyod.models.knn.KNN": {"method": ("largest", "mean", "median"), **_EUCLID},
}
