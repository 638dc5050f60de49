"""Fusion: mean surprise by hand; finished candidates are built on as they are."""

import numpy as np
import onnxruntime
import pytest

from lib import bundle
from lib.bundle.calibration import Calibration
from lib.data import labels_seen, splits
from lib.detectors import registry
from lib.detectors.base import Detector
from lib.detectors.fusion import MEMBERS as FUSED
from lib.detectors.fusion import Fusion
from lib.detectors.onnx_graph import Graph
from lib.errors import DataError
from lib.registry import candidates, challengers
from lib.registry.fused_candidate import Exported, fuse


class Column(Detector):
    """Scores a row by one of its columns."""

    def __init__(self, column=0):
        self.column = column
        self.n_features_in_ = 2

    def _raw_score(self, X):
        return X[:, self.column].astype(np.float64)

    def graph_score(self, graph):
        return graph.flat(
            graph.add("Slice", "features", *(graph.constant([v], np.int64) for v in self.bounds))
        )

    @property
    def bounds(self):
        return self.column, self.column + 1, 1


def run(model, X):
    session = onnxruntime.InferenceSession(model)
    return session.run(None, {"features": np.asarray(X, np.float32)})[0]


def test_strangeness_is_minus_the_log_of_the_share_that_scores_as_high():
    raw = np.arange(1.0, 1001.0)
    calibration = Calibration.fit(raw, np.ones(1000))
    for score, share in ((1.0, 1.0), (501.0, 0.5), (991.0, 0.01), (1000.0, 0.001)):
        np.testing.assert_allclose(
            calibration.strangeness(np.array([score])), -np.log(share), rtol=0.02, atol=1e-12
        )
    far = np.array([-5.0, 0.5, 700.3, 1200.0, 1e6])
    np.testing.assert_allclose(
        calibration.strangeness(far), -np.log1p(-calibration.apply(far)), rtol=1e-9, atol=1e-12
    )


def test_the_graph_of_strangeness_is_the_same_curve_even_with_one_knot():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(500, 2)), [[1e4, 0], [-1e4, 0]]]).astype(np.float32)
    for known in (rng.lognormal(size=300), np.ones(5)):
        calibration = Calibration.fit(known, np.ones(len(known)))
        graph = Graph(2)
        model = graph.finish(graph.single(graph.surprise(Column().graph_score(graph), calibration)))
        np.testing.assert_allclose(
            run(model, X), calibration.strangeness(X[:, 0].astype(float)), rtol=1e-6
        )


def test_fusion_is_the_mean_strangeness_and_no_scale_matters():
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(2_000, 2)).astype(np.float32)
    detector = Fusion().fit(X, fitted=[Column(0), Column(1)])
    by_hand = np.mean(
        [Calibration.fit(x, np.ones(len(X))).strangeness(x) for x in X.T.astype(float)], axis=0
    )
    np.testing.assert_allclose(detector.raw_score(X), by_hand)
    np.testing.assert_allclose(run(detector.to_onnx(), X), by_hand, rtol=1e-6)
    scaled = X * np.float32([1024, 1])
    again = Fusion().fit(scaled, fitted=[Column(0), Column(1)])
    np.testing.assert_allclose(again.raw_score(scaled), by_hand)
    assert detector.explain_onnx() is None


def test_contributions_are_those_of_the_members_scaled_to_the_surprise_of_the_row():
    X = np.random.default_rng(0).normal(size=(1_000, 3)).astype(np.float32)
    X[:, 1] += X[:, 0]  # columns that co-vary: some terms of the robust distance are negative
    of = {"robust_covariance": {}, "gaussian_mixture": {"members": 2, "n_components": 2}}
    detector = Fusion(of).fit(X)
    by_hand = np.zeros(X.shape)
    signs = set()
    for member, calibration in zip(detector.members_, detector.calibrations_, strict=True):
        terms = run(member.explain_onnx(), X).astype(np.float64)
        signs.update(np.sign(terms).ravel())
        share = terms / np.abs(terms).sum(axis=1, keepdims=True)
        by_hand += share * calibration.strangeness(member.raw_score(X))[:, None] / 2
    assert {-1, 1} <= signs
    found = run(detector.explain_onnx(), X)
    np.testing.assert_allclose(found, by_hand, rtol=1e-3, atol=1e-4)


def test_contributions_add_up_to_the_score_where_no_member_has_negative_ones():
    X = np.random.default_rng(0).normal(size=(1_000, 3)).astype(np.float32)
    detector = Fusion({"gaussian_mixture": {"members": 2, "n_components": 2}}).fit(X)
    terms = run(detector.explain_onnx(), X)
    np.testing.assert_allclose(terms.sum(axis=1), detector.raw_score(X), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's candidates of the regime `genuine`: quick ones under the names that are fused."""
    folder = tmp_path_factory.mktemp("run")
    split = splits.open_split(splits.ensure("simulated", rows=3_000, seed=0))
    for name, params in ((FUSED[0], {}), (FUSED[1], {"trim": 0.1})):
        fitted = candidates.fit(registry.make("robust_covariance", **params), split)
        candidates.write(folder, name, fitted, split)
    return folder, split


def test_a_run_fuses_what_it_has(finished):
    folder, split = finished
    folders = challengers.ensure(folder, split, make=False)
    made = fuse(folder, split, folders, FUSED)
    assert list(made) == ["fusion"]
    manifest = bundle.verify(made["fusion"])
    assert list(manifest["fit"]["parameters"]["of"]) == list(FUSED)
    assert manifest["fit"]["labels_seen"] == labels_seen.in_full("genuine")
    X, served = split.arrays("validation").X, bundle.load(made["fusion"])
    members = [Exported(folders[name]) for name in FUSED]
    by_hand = Fusion().fit(X, weight=split.arrays("validation").weight, fitted=members).raw_score(X)
    np.testing.assert_allclose(served.raw_score(X), by_hand, rtol=1e-5)
    assert len(served.explain(X[:1])[0]) == 3
    assert fuse(folder, split, folders, []) == {}
    with pytest.raises(DataError, match="fused names 'autoencoder', but the candidates are"):
        fuse(folder, split, folders, ["autoencoder"])


def test_an_exported_candidate_scores_and_is_included_as_it_stands(finished):
    folder, split = finished
    each, X = Exported(folder / "models" / FUSED[0]), split.arrays("validation").X
    np.testing.assert_array_equal(
        each.raw_score(X), bundle.load(folder / "models" / FUSED[0]).raw_score(X)
    )
    np.testing.assert_array_equal(run(each.to_onnx(), X), each.raw_score(X).astype(np.float32))
    with pytest.raises(ValueError, match="no bundle"):
        Exported(folder / "models" / "absent")
    with pytest.raises(DataError):
        challengers.ensure(folder / "elsewhere", split, make=False)
