"""Detectors of other libraries behind the contract: sign, rows, graph, and what is refused."""

import json

import numba
import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM
from test_detectors import make_rows, run

from lib.detectors import wrapped_graphs
from lib.detectors.onnx_graph import Graph
from lib.detectors.wrapped import Wrapped, _drawn, from_description

OF_SCIKIT_LEARN = {
    "forest": IsolationForest(n_estimators=20),
    "forest of some columns": IsolationForest(n_estimators=20, max_features=0.5),
    "one-class svm": OneClassSVM(nu=0.05),
    "its polynomial": OneClassSVM(nu=0.05, kernel="poly", degree=2),
    "its line": OneClassSVM(nu=0.05, kernel="linear"),
    "its sigmoid": OneClassSVM(nu=0.05, kernel="sigmoid"),
    "lof": LocalOutlierFactor(novelty=True),
    "ellipse": EllipticEnvelope(support_fraction=0.9),
}
POINTS_UP = {"forest", "one-class svm", "lof", "ellipse"}  # on rows with few strange ones
CONVERTED = {"mixture": GaussianMixture(3), "line": SGDOneClassSVM()}


def of_pyod():
    """Detectors of PyOD -> {name: unfitted}; what it compiles takes longer than what we compute."""
    numba.config.DISABLE_JIT = True
    from pyod.models.ecod import ECOD
    from pyod.models.hbos import HBOS
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.lof import LOF
    from pyod.models.ocsvm import OCSVM
    from pyod.models.pca import PCA

    return {
        "ecod": ECOD(),
        "hbos": HBOS(),
        "hbos of chosen bins": HBOS(n_bins="auto"),
        "iforest": IForest(n_estimators=20),
        "knn": KNN(),
        "knn, middle": KNN(method="median", n_neighbors=4),
        "knn, mean": KNN(method="mean"),
        "lof": LOF(novelty=True),
        "ocsvm": OCSVM(nu=0.05),
        "pca": PCA(weighted=False),  # one of the columns is a constant
    }


class Network(BaseEstimator):
    """A network of a user's own: the distance from the mean, as a torch module."""

    def fit(self, X, y=None):
        import torch

        class Distance(torch.nn.Module):
            def __init__(self, mean):
                super().__init__()
                self.mean = torch.nn.Parameter(torch.tensor(mean, dtype=torch.float32))

            def forward(self, x):
                return torch.relu(x - self.mean).sum(1) + torch.relu(self.mean - x).sum(1)

        self.network_ = Distance(X.mean(axis=0))
        return self


@pytest.fixture(scope="module")
def rows():
    return make_rows(1_000, seed=0)


def fitted(estimator, rows, **options):
    ordinary = rows.y == 0
    detector = Wrapped(estimator, **{"max_rows": 400, **options})
    return detector.fit(rows.X[ordinary], weight=rows.weight[ordinary])


def check_graph(detector, strictness=1e-6):
    later = make_rows(1_500, seed=1).X
    later[0] = np.nan
    score = detector.raw_score(later)
    assert score.dtype == np.float64
    scale = np.maximum(np.abs(score), np.ptp(score))
    graph = detector.to_onnx()
    np.testing.assert_array_less(np.abs(run(graph, later) - score) / scale, strictness)
    np.testing.assert_allclose(run(graph, later[5:6]), score[5:6], rtol=1e-5)
    np.testing.assert_allclose(detector.raw_score(later[5:6]), score[5:6], rtol=1e-9)


def check_direction(detector, rows):
    """Most strange rows are among the highest tenth; turned round, they would be in the lowest."""
    score = detector.raw_score(rows.X)
    assert np.mean(score[rows.y == 1] > np.quantile(score[rows.y == 0], 0.9)) > 0.5


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("name", OF_SCIKIT_LEARN)
def test_scikit_learns_detectors_score_upwards_and_their_graphs_as_they_do(name, scaled, rows):
    detector = fitted(OF_SCIKIT_LEARN[name], rows, scaled=scaled)
    check_graph(detector)
    if scaled and name in POINTS_UP:
        check_direction(detector, rows)


def test_pyods_detectors_score_upwards_and_their_graphs_as_they_do(rows):
    for name, estimator in of_pyod().items():
        detector = fitted(estimator, rows)
        check_graph(detector)
        check_direction(detector, rows)
        assert from_description(detector.described()).described() == detector.described(), name


def test_what_skl2onnx_converts_scores_as_its_estimator(rows):
    for estimator in CONVERTED.values():
        check_graph(fitted(estimator, rows), strictness=1e-5)


def test_ecod_scores_a_row_as_it_would_alone(rows):
    detector = fitted(of_pyod()["ecod"], rows)
    inputs = detector._inputs(rows.X[:50])
    alone = [detector.estimator_.decision_function(row[None])[0] for row in inputs]
    np.testing.assert_allclose(detector.raw_score(rows.X[:50]), alone, rtol=1e-6)


def test_a_network_is_exported_by_torch(rows):
    detector = fitted(Network(), rows)
    check_graph(detector, strictness=1e-5)
    check_direction(detector, rows)


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (DBSCAN(), "sklearn.cluster.DBSCAN cannot become an ONNX graph.*sklearn.svm.OneClassSVM"),
        (LocalOutlierFactor(), "novelty=False has no graph; choose one of True"),
        (LocalOutlierFactor(novelty=True, metric="cosine"), "metric='cosine'"),
        (OneClassSVM(kernel="precomputed"), "kernel='precomputed'"),
    ],
    ids=lambda value: "",
)
def test_what_has_no_graph_is_refused_before_it_is_fitted(estimator, said, rows):
    with pytest.raises(ValueError, match=said):
        fitted(estimator, rows)


def test_scores_that_are_not_finite_are_refused(rows, monkeypatch):
    monkeypatch.setattr(wrapped_graphs, "score", lambda estimator, X: np.full(len(X), np.inf))
    with pytest.raises(ValueError, match="not a finite number"):
        fitted(OneClassSVM(), rows)


def test_rows_are_drawn_once_each_and_by_weight():
    weight = np.array([0.0, 1, 1, 1, 1000, 1000])
    rng = np.random.default_rng(0)
    assert _drawn(rng, weight, 9).tolist() == [1, 2, 3, 4, 5]
    drawn = [_drawn(rng, weight, 2).tolist() for _ in range(50)]
    assert drawn.count([4, 5]) > 40


def test_seed_and_threads_are_handed_on_and_nothing_that_was_chosen(rows):
    forest = fitted(IsolationForest(n_estimators=3), rows, seed=7).estimator_
    assert (forest.random_state, forest.n_jobs) == (7, 1)
    forest = fitted(IsolationForest(n_estimators=3, random_state=3), rows, seed=7).estimator_
    assert forest.random_state == 3


def test_a_description_makes_the_same_detector_again(rows):
    first = fitted(OneClassSVM(nu=0.1), rows, scaled=False)
    described = json.loads(json.dumps(first.described()))
    assert described["estimator"] == "sklearn.svm.OneClassSVM"
    again = from_description(described)
    ordinary = rows.y == 0
    again.fit(rows.X[ordinary], weight=rows.weight[ordinary])
    assert again.to_onnx() == first.to_onnx()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"estimator": "os.system"}, "os.system is not an estimator of scikit-learn or PyOD"),
        ({"estimator": "sklearn.svm.Nothing"}, "is not an estimator"),
        ({"estimator__gamma": "<Gamma>"}, "made with an object as its estimator__gamma"),
    ],
    ids=["elsewhere", "nothing", "object"],
)
def test_what_a_description_cannot_make_is_a_sentence(change, said):
    described = Wrapped(OneClassSVM()).described() | change
    with pytest.raises(ValueError, match=said):
        from_description(described)


def test_count_below_by_hand():
    graph = Graph(2)
    tables = [np.array([1.0, 2, 2, 5]), np.array([0.0])]
    z = graph.double("features")
    below, at_most = (graph.count_below(z, tables, equal=equal) for equal in (False, True))
    both = graph.add("Add", graph.single(below), graph.add("Mul", graph.single(at_most), 10.0))
    X = [[0, -1], [2, 0], [3, 1], [9, 2]]
    assert run(graph.finish(both, "contributions"), X).tolist() == [
        [0, 0],
        [31, 10],
        [33, 11],
        [44, 11],
    ]
