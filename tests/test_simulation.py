"""Simulated transactions: the outline of the real ones, drift only where it is written down, no
model favoured.
"""

import hashlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from lib.data import simulation
from lib.data.datasets import load_description
from lib.data.simulation import COLUMNS, DRIFTS, FEATURES, KINDS, fraud_kinds, simulate
from lib.detectors.supervised_trees import SupervisedTrees
from lib.errors import DataError

ROWS = 20_000


@pytest.fixture(scope="module")
def frame():
    return simulate(ROWS, seed=3)


@pytest.fixture(scope="module")
def still():
    return simulate(ROWS, seed=3, drift=False)


def digest(frame):
    return hashlib.sha256(pd.util.hash_pandas_object(frame).to_numpy().tobytes()).hexdigest()


def test_columns_are_those_of_the_description(frame):
    dataset = load_description("simulated")
    assert tuple(frame.columns) == COLUMNS == ("Time", *FEATURES, "Amount", "Class")
    assert dataset.features == (*FEATURES, "Amount")
    assert {dataset.time, dataset.label, dataset.amount} == {"Time", "Class", "Amount"}


def test_values_look_like_a_published_file(frame):
    assert frame.Time.is_monotonic_increasing
    assert frame.Time.between(0, 2 * 86_400 - 1).all()
    assert (frame.Time == frame.Time.round()).all()
    assert (frame.Amount == frame.Amount.round(2)).all()
    assert (frame.Amount >= 0).all()
    assert (frame[list(FEATURES)] == frame[list(FEATURES)].round(6)).all().all()


def test_same_seed_same_bytes_other_seed_other_bytes(frame):
    assert digest(simulate(ROWS, seed=3)) == digest(frame)
    assert digest(simulate(ROWS, seed=4)) != digest(frame)


def test_transactions_an_hour_follow_the_real_ones(frame):
    found = np.bincount((frame.Time // 3600).astype(int), minlength=48)
    expected = ROWS * simulation.HOURLY / simulation.HOURLY.sum()
    assert stats.chisquare(found, expected).pvalue > 1e-6


def test_genuine_amounts_follow_the_real_quantiles(frame):
    amount = frame.Amount[frame.Class == 0]
    for p, euro in ((0.25, 5.65), (0.5, 22.0), (0.75, 77.05), (0.9, 202.72), (0.95, 364.41)):
        assert amount.quantile(p) == pytest.approx(euro, rel=0.1)
    assert (amount == 1).mean() == pytest.approx(0.045, abs=0.01)


def test_features_have_the_real_scale_heavy_tails_and_correlation(still):
    X = still.loc[still.Class == 0, list(FEATURES)]
    assert np.median(np.abs(X.std() / simulation.SCALE - 1)) < 0.1
    assert stats.kurtosis(X).min() > 0.5
    assert np.median(stats.kurtosis(X)) > 4
    assert np.median(np.abs(stats.skew(X))) > 0.5
    assert np.abs(X.corr("spearman").to_numpy()[np.triu_indices(28, 1)]).mean() > 0.1


@pytest.mark.parametrize(
    ("rows", "frauds"), [(2_000, 60), (20_000, 60), (60_000, 104), (284_807, 493)]
)
def test_prevalence_is_the_real_one_above_a_floor(rows, frauds):
    kinds = fraud_kinds(rows, seed=1)
    assert len(kinds) == frauds
    assert kinds.index.is_monotonic_increasing
    assert kinds.index.is_unique
    assert kinds.index[-1] < rows


def test_every_fraud_has_its_kind_and_every_period_its_frauds(frame):
    kinds = fraud_kinds(ROWS, seed=3)
    assert (np.flatnonzero(frame.Class) == kinds.index).all()
    assert set(kinds) == set(KINDS)
    validation = (kinds.index >= 0.5 * ROWS) & (kinds.index < 0.7 * ROWS)
    assert 10 <= validation.sum() <= 14
    assert frame.Amount[kinds.index[kinds == "testing"]].max() <= 5


def test_some_kinds_begin_later():
    kinds = fraud_kinds(200_000, seed=0)
    first = kinds.index.to_series().groupby(kinds.to_numpy()).min() / 200_000
    assert first["loud"] < 0.05
    assert first["takeover"] == pytest.approx(0.4, abs=0.05)
    assert first["relay"] == pytest.approx(0.82, abs=0.02)  # batch 5 of ten in the last 30 %
    assert "relay" not in set(fraud_kinds(200_000, seed=0, drift=False))


def test_drift_is_where_it_is_written_down_and_nowhere_else(frame, still):
    genuine = (frame.Class == 0) & (still.Class == 0)
    for feature in FEATURES:
        changed = np.flatnonzero(genuine & (frame[feature] != still[feature]))
        starts = [
            drift.first_batch
            for drift in DRIFTS
            if drift.what != "fraud" and feature in drift.features
        ]
        assert bool(len(changed)) == bool(starts)
        if starts:
            assert changed[0] == pytest.approx(ROWS * (0.7 + 0.03 * (starts[0] - 1)), abs=50)


@pytest.mark.parametrize("drift", [drift for drift in DRIFTS if drift.what == "shift"])
def test_shift_has_the_strength_and_share_written_down(frame, still, drift):
    after = slice(int(ROWS * drift.begins) + 1, None)
    column = FEATURES.index(drift.features[0])
    moved = (frame[FEATURES[column]] - still[FEATURES[column]])[after] / simulation.SCALE[column]
    moved = moved[(frame.Class == 0) & (still.Class == 0)]
    assert (moved != 0).mean() == pytest.approx(drift.share, abs=0.03)
    assert moved[moved != 0].median() == pytest.approx(drift.strength, abs=1e-3)


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="rows is 500"):
        simulate(500)


@threadpool_limits.wrap(limits=1)  # spinning threads are slow on a busy machine
@pytest.mark.parametrize("seed", [0, 1])
def test_every_model_beats_chance_and_none_is_perfect(seed):
    frame = simulate(ROWS, seed=seed)
    X, y = frame[[*FEATURES, "Amount"]].to_numpy(), frame.Class.to_numpy()
    X[:, -1] = np.log1p(X[:, -1])
    fit, check = slice(0, 10_000), slice(10_000, 14_000)
    genuine = X[fit][y[fit] == 0]
    Z = np.arcsinh((X - genuine.mean(0)) / genuine.std(0))
    train = Z[fit][y[fit] == 0]
    pca = PCA(10).fit(train)
    trees = SupervisedTrees(n_trees=60, forest_trees=60).fit(X[fit], y[fit])
    scores = {
        "max_abs_z": np.abs((X - genuine.mean(0)) / genuine.std(0))[check].max(1),
        "forest": -IsolationForest(n_estimators=60, random_state=0)
        .fit(train)
        .score_samples(Z[check]),
        "residual": ((Z - pca.inverse_transform(pca.transform(Z)))[check] ** 2).sum(1),
        "mixture": -GaussianMixture(4, max_iter=20, random_state=0)
        .fit(train)
        .score_samples(Z[check]),
        "trees": trees.raw_score(X[check]),
    }
    found = {name: average_precision_score(y[check], score) for name, score in scores.items()}
    assert min(found.values()) > 3 * y[check].mean()  # a random ranking reaches the prevalence
    assert max(found.values()) < 0.95
    assert max(found, key=found.get) != "max_abs_z"
