"""The autoencoder: hand-made rows whose strangeness is known, robustness, one graph, one answer."""

import numpy as np
import onnxruntime
import pytest
import torch

from lib.detectors import registry
from lib.detectors.autoencoder import Autoencoder, compute_threads, pick_device
from lib.detectors.denoising_network import Config, row_loss, train, trimmed_mean
from lib.detectors.robust_covariance import RobustCovariance

QUICK = {"members": 2, "epochs": 4}


def curve(n, seed=0):
    """Rows (n, 7) around a curve: six columns follow from the first, the last is skewed."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, size=n)
    columns = [t, t**2, np.sin(2 * t), -t, np.abs(t), t**3 / 3]
    X = np.stack(columns, axis=1) + 0.1 * rng.normal(size=(n, 6))
    return np.column_stack([X, rng.lognormal(3, 1.5, n)]).astype(np.float32)


def answer(graph, X):
    """Output of ONNX bytes for rows X."""
    session = onnxruntime.InferenceSession(graph)
    return session.run(None, {"features": X})[0]


@pytest.fixture(scope="module")
def fitted():
    return Autoencoder(epochs=15).fit(curve(4_000), validation=(curve(1_000, 1), None))


def test_a_broken_relation_scores_higher_than_any_ordinary_row(fitted):
    strange = curve(200, 2)
    strange[:, 3] = strange[:, 0]  # each value is ordinary, their relation is not
    far = np.abs(strange[:, 0]) > 1
    ordinary = fitted.raw_score(curve(5_000, 3))
    assert np.median(fitted.raw_score(strange)[far]) > np.quantile(ordinary, 0.999)


def test_score_of_an_ordinary_row_is_about_the_number_of_columns(fitted):
    assert 0.5 * 7 < np.median(fitted.raw_score(curve(2_000, 3))) < 2 * 7


def test_score_grows_with_an_extreme_value(fitted):
    X = np.repeat(curve(1, 4), 5, axis=0)
    X[:, 2] = [0, 10, 100, 1_000, 1e6]
    assert (np.diff(fitted.raw_score(X)) > 0).all()


def test_graph_answers_as_the_estimator_does(fitted):
    X = curve(3_000, 5)
    X[::7, 2] = np.nan
    X[0] = 1e9
    np.testing.assert_allclose(
        answer(fitted.to_onnx(), X), fitted.raw_score(X), rtol=2e-4, atol=1e-3
    )


def test_contributions_add_up_and_name_the_broken_column(fitted):
    X = curve(3_000, 5)
    contributions = answer(fitted.explain_onnx(), X)
    assert contributions.shape == X.shape
    np.testing.assert_allclose(
        contributions.sum(axis=1), answer(fitted.to_onnx(), X), rtol=1e-3, atol=1e-3
    )
    X[:, 4] += 20
    assert (answer(fitted.explain_onnx(), X).argmax(axis=1) == 4).mean() > 0.95


def test_one_row_and_a_thousand_give_the_same_score(fitted):
    X = curve(1_000, 6)
    graph = fitted.to_onnx()
    one_by_one = np.concatenate([answer(graph, X[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(one_by_one, answer(graph, X)[:20], rtol=1e-4)


def test_same_seed_gives_the_same_bytes_and_another_seed_others():
    X, weight = curve(1_500), np.linspace(0.5, 2, 1_500)
    fits = [
        Autoencoder(**QUICK, seed=seed).fit(X, weight=weight, validation=(X[:300], weight[:300]))
        for seed in (3, 3, 4)
    ]
    graphs = [each.to_onnx() for each in fits]
    assert graphs[0] == graphs[1]
    assert graphs[0] != graphs[2]
    np.testing.assert_array_equal(fits[0].raw_score(X), fits[1].raw_score(X))


def test_frauds_left_in_the_fit_hide_nothing():
    X = curve(6_000)
    frauds = curve(60, 7)
    frauds[:, :2] += 6
    clean, dirty = (Autoencoder(epochs=10).fit(rows) for rows in (X, np.concatenate([X, frauds])))
    held_out = curve(2_000, 8)
    for detector in (clean, dirty):
        assert np.quantile(detector.raw_score(frauds), 0.1) > np.quantile(
            detector.raw_score(held_out), 0.99
        )


def test_rows_of_weight_zero_do_not_count():
    X = curve(3_000)
    strange = curve(1_000, 9) + 50
    rows = np.concatenate([X, strange])
    weight = np.repeat([1.0, 0.0], [3_000, 1_000])
    fitted = Autoencoder(**QUICK).fit(rows, weight=weight, validation=(X, None))
    assert fitted.raw_score(strange).min() > np.quantile(fitted.raw_score(X), 0.999)


@pytest.mark.parametrize("d", [2, 7, 100])
def test_awkward_columns_stay_finite(d):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1_200, d)).astype(np.float32)
    X[:, 0] = 4.2  # constant
    X[:, 1] = rng.random(1_200) < 0.004  # a rare flag
    if d > 2:
        X[:, 2] = rng.random(1_200) < 0.3
        X[:, 3] = np.exp(4 * X[:, 3])
        X[:, 4] = X[:, 5]  # a duplicate
        X[::50, 6] = np.nan
    fitted = Autoencoder(**QUICK).fit(X)
    scores = fitted.raw_score(X)
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    np.testing.assert_allclose(answer(fitted.to_onnx(), X), scores, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("share", [0.005, 0.03, 0.08])
def test_a_rare_flag_does_not_drown_the_rest(share):
    X = np.column_stack([curve(4_000), np.random.default_rng(0).random(4_000) < share]).astype(
        np.float32
    )
    fitted = Autoencoder(epochs=10).fit(X)
    flagged, strange = X[X[:, -1] == 1], X[:100].copy()
    strange[:, 4] += 30
    assert np.median(fitted.raw_score(flagged)) < 0.1 * np.median(fitted.raw_score(strange))


def test_history_has_an_entry_for_each_epoch_and_member(fitted):
    for part in ("train", "validation"):
        assert fitted.history_[part].shape == (15, 3)
        assert (fitted.history_[part][-1] < fitted.history_[part][0]).all()


def test_each_member_is_kept_at_its_lowest_validation_loss():
    x = np.random.default_rng(0).normal(size=(2_000, 5)).astype(np.float32)
    config = Config(
        members=2, epochs=12, learning_rate=0.5, noise=0.0
    )  # too fast: the loss jumps about
    network, history = train(x, np.ones(2_000), x, config)
    with torch.inference_mode():
        loss = trimmed_mean(
            row_loss(network(torch.from_numpy(x).expand(2, -1, -1)), torch.from_numpy(x)),
            config.trim,
        )
    np.testing.assert_allclose(loss.numpy(), history["validation"].min(axis=0), rtol=1e-5)


def test_training_stops_when_the_validation_loss_no_longer_falls():
    x = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    _, history = train(
        x, np.ones(600), x, Config(members=1, epochs=200, patience=1, learning_rate=0.5)
    )
    assert len(history["train"]) < 200


def test_loss_of_a_row_is_log_one_plus_mean_square():
    restored, given = torch.zeros(1, 2, 2), torch.tensor([[[0.0, 0.0], [1.0, 3.0]]])
    np.testing.assert_allclose(row_loss(restored, given).numpy(), [[0.0, np.log(6.0)]], rtol=1e-6)


def test_trimmed_mean_leaves_out_the_highest():
    assert trimmed_mean(torch.tensor([[5.0, 1.0, 3.0, 1_000.0]]), 0.25).item() == 3.0


def test_robust_covariance_forgets_outliers_and_keeps_the_rest():
    rng = np.random.default_rng(0)
    Z = rng.multivariate_normal([1, -2], [[2, 1], [1, 3]], size=20_000)
    Z[:200] = 40
    robust = RobustCovariance(0.02).fit(Z)
    np.testing.assert_allclose(robust.mean_, [1, -2], atol=0.06)
    np.testing.assert_allclose(np.linalg.inv(robust.precision_), [[2, 1], [1, 3]], atol=0.25)
    assert not robust.kept_[:200].any()
    np.testing.assert_allclose(robust.terms(Z).sum(axis=1), robust.squared_distance(Z))


def test_robust_covariance_without_trim_is_the_covariance():
    Z = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]])
    robust = RobustCovariance(0).fit(Z)
    np.testing.assert_allclose(robust.squared_distance(Z), 1 / 1.001 + 4 / 4.001)


def test_trim_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"trim is 0\.5"):
        RobustCovariance(0.5).fit(np.zeros((4, 2)))


@pytest.mark.parametrize(("max_rows", "seen"), [(500, 500), (3_000, 3_000)])
def test_rows_are_capped(monkeypatch, max_rows, seen):
    """`seen` rows are trained on, but for the tenth that is held out and the 2 % trimmed."""
    trained_on = []

    def watched(x, *arguments):
        trained_on.append(len(x))
        return train(x, *arguments)

    monkeypatch.setattr("lib.detectors.autoencoder.train", watched)
    Autoencoder(**QUICK, max_rows=max_rows).fit(curve(3_000))
    assert trained_on == [pytest.approx(0.9 * (1 - Config.trim) * seen, abs=0.01 * seen)]


def test_device_is_checked_before_training():
    with pytest.raises(ValueError, match="device is 'gpu'"):
        Autoencoder(device="gpu").fit(curve(100))


@pytest.mark.parametrize(("available", "picked"), [(True, "cuda"), (False, "cpu")])
def test_the_automatic_device_is_the_gpu_where_there_is_one(monkeypatch, available, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert pick_device("auto") == picked
    assert pick_device("cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no such GPU"):
        pick_device("cuda")


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_threads_are_put_back(three_threads):
    with compute_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 3


def test_threads_are_put_back_after_an_error(three_threads):
    with pytest.raises(RuntimeError, match="in between"), compute_threads(2):
        raise RuntimeError("in between")
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("n", [1, 2])
def test_a_fit_computes_with_its_threads(monkeypatch, three_threads, n):
    used = []

    def watched(*arguments):
        used.append(torch.get_num_threads())
        return train(*arguments)

    monkeypatch.setattr("lib.detectors.autoencoder.train", watched)
    Autoencoder(members=1, epochs=1, threads=n).fit(curve(600))
    assert used == [n]


def test_wrong_width_is_refused(fitted):
    with pytest.raises(ValueError, match="7 columns"):
        fitted.raw_score(np.zeros((3, 5), dtype=np.float32))


def test_it_is_made_by_name_and_cloned():
    made = registry.make("autoencoder", members=1).__sklearn_clone__()
    assert type(made) is Autoencoder
    assert made.members == 1
