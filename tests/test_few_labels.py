"""Few labels: none leaves the detector as it is, some turn it towards the known frauds."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from lib.detectors.few_labels import FewLabels, known_labels, logistic


@pytest.fixture(scope="module")
def rows():
    """Outliers in one direction; frauds, less far out, in another: the last 60 rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4_000, 5)).astype(np.float32)
    y = np.zeros(len(X), dtype=np.int8)
    y[-60:] = 1
    X[:80, 0] += 6
    X[-60:, 1] += 4
    return X, y


def quality(detector, rows):
    return average_precision_score(rows[1], detector.raw_score(rows[0]))


def test_without_a_label_it_ranks_as_its_detector(rows):
    X, y = rows
    model = FewLabels().fit(X, np.zeros_like(y))
    own = model.detector_.raw_score(X)
    assert model.n_known_ == 0
    np.testing.assert_array_equal(np.argsort(model.raw_score(X)), np.argsort(own))


def test_more_labels_find_more(rows):
    X, y = rows
    found = []
    for n in (0, 10, 60):
        known = np.zeros_like(y)
        known[len(y) - 60 : len(y) - 60 + n] = 1
        found.append(quality(FewLabels().fit(X, known), rows))
    assert found[0] + 0.05 < found[1] < found[2]


def test_a_fitted_detector_stays_as_it_is(rows):
    X, y = rows
    first = FewLabels().fit(X, y)
    again = FewLabels().fit(X, y, fitted=first.detector_)
    assert again.detector_ is first.detector_
    np.testing.assert_array_equal(again.raw_score(X), first.raw_score(X))


def test_an_infinite_shrinkage_is_the_detector(rows):
    X, y = rows
    np.testing.assert_array_equal(FewLabels(shrinkage=np.inf).fit(X, y).tilt_, 0)


def test_other_detectors_can_be_corrected(rows):
    corrected = FewLabels("isolation_forest").fit(*rows)
    assert quality(corrected, rows) > quality(corrected.detector_, rows) + 0.2


def test_sub_sampling_keeps_the_known_frauds_and_the_weight(rows, monkeypatch):
    X, y = rows
    seen = []

    def watched(design, known, weight, *prior):
        seen.append((len(design), known.sum(), weight[known].sum(), weight[~known].sum()))
        return logistic(design, known, weight, *prior)

    monkeypatch.setattr("lib.detectors.few_labels.logistic", watched)
    detector = FewLabels("robust_covariance", max_rows=2_000).fit(X, y)
    FewLabels("robust_covariance").fit(X, y, fitted=detector.detector_)
    capped, whole = seen
    assert capped == pytest.approx((2_060, 60, 60, 3_940))
    assert whole == pytest.approx((4_000, 60, 60, 3_940))


def test_logistic_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    F = np.column_stack([np.ones(500), rng.normal(size=(500, 3))])
    y, weight = rng.random(500) < expit(F @ [-1, 1, 0, 2]), rng.choice([1.0, 3.0], 500)
    found = logistic(F, y, weight, np.zeros(4), np.array([1e-6, 2.0, 2.0, 2.0]))
    reference = LogisticRegression(C=0.5, tol=1e-10).fit(F[:, 1:], y, weight)
    np.testing.assert_allclose(found, np.append(reference.intercept_, reference.coef_), atol=1e-3)


def test_labels_arrive_late_and_few():
    data = SimpleNamespace(
        y=np.array([1, 0, 1, 1, 0], dtype=np.int8), time_s=np.array([0.0, 10, 20, 30, 40])
    )
    assert known_labels(data).tolist() == [1, 0, 1, 1, 0]
    assert known_labels(data, label_delay_s=20).tolist() == [1, 0, 1, 0, 0]
    assert known_labels(data, label_delay_s=100).sum() == 0
    assert known_labels(data, 0).sum() == 0
    some = [known_labels(data, 2, seed=seed) for seed in range(20)]
    assert {each.sum() for each in some} == {2}
    assert len({tuple(each) for each in some}) == 3
