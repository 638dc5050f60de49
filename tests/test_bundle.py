import json
import shutil

import bundles
import numpy as np
import pytest

from lib import bundle
from lib.bundle.reasons import reasons
from lib.errors import BundleError


@pytest.fixture(scope="module", params=bundles.KINDS)
def folder(request, tmp_path_factory):
    return bundles.write(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A bundle to copy and break."""
    return bundles.write(
        tmp_path_factory.mktemp("small"), "autoencoder", features=["V1", "V2", "V3", "Amount"]
    )


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / "bundle")


def change(folder, **changes):
    """Rewrite manifest.json as a careless editor would, hashes of files untouched."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_scores_have_their_direction_range_and_shape(folder):
    model, X = bundle.load(folder), bundles.rows(200)
    predictions, scores = model.predict(X)
    assert predictions.shape == scores.shape == (200,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (predictions == (scores >= model.threshold)).all()
    raw = model.raw_score(X)
    assert (np.diff(scores[np.argsort(raw)]) >= 0).all()
    np.testing.assert_array_equal(model.anomaly_score(raw=raw), model.anomaly_score(X))


def test_one_row_scores_as_it_does_among_others(folder):
    model = bundle.load(folder)
    raw = model.raw_score(bundles.rows(500, seed=5)) * np.linspace(0.5, 2, 500)
    knots = model.calibration.raw_score
    raw = np.concatenate(
        [raw, knots, np.nextafter(knots, np.inf), np.nextafter(knots, -np.inf), [np.inf, -np.inf]]
    )
    one_by_one = [model.anomaly_score(raw=raw[i : i + 1])[0] for i in range(len(raw))]
    np.testing.assert_array_equal(one_by_one, model.anomaly_score(raw=raw))


def test_chunks_do_not_change_scores(folder, monkeypatch):
    model, X = bundle.load(folder), bundles.rows(100)
    whole = model.raw_score(X)
    monkeypatch.setattr("lib.bundle.bundle.CHUNK_ROWS", 33)
    np.testing.assert_allclose(model.raw_score(X), whole, rtol=1e-6)


def test_a_row_that_overflows_is_the_most_anomalous(folder):
    model = bundle.load(folder)
    X = np.full((1, 29), np.finfo(np.float32).max)
    assert np.isfinite(model.raw_score(X)).all()
    assert 0 <= model.anomaly_score(X)[0] <= 1
    assert all(0 <= entry["share"] <= 1 for entry in model.explain(X)[0])


@pytest.mark.parametrize("kind", ["autoencoder", "mixture"])
def test_explanation_names_the_feature_that_was_pulled_away_and_no_usual_one(kind, tmp_path):
    model = bundle.load(bundles.write(tmp_path, kind))
    X = model.reference["median"][None].copy()
    X[0, 4] = -60
    (entry,) = model.explain(X)[0]
    assert (entry["feature"], entry["value"], entry["direction"]) == ("V5", -60.0, "low")
    assert entry["genuine_range"] == pytest.approx(
        [model.reference[key][4] for key in ("low", "high")]
    )
    added = np.maximum(model.contributions(X)[0], 0)
    assert entry["share"] == pytest.approx(added[4] / added.sum(), abs=1e-4)


def test_where_no_value_is_unusual_the_combination_is_named(folder):
    model = bundle.load(folder)
    X = model.reference["median"][None]
    (entries,) = model.explain(X, top=2)
    assert [entry["direction"] for entry in entries] == ["within", "within"]
    largest = np.argsort(-model.contributions(X)[0])[:2]
    assert [entry["feature"] for entry in entries] == [model.features[j] for j in largest]


def test_reasons_are_unusual_values_that_raise_the_score():
    reference = {"low": np.zeros(4), "high": np.ones(4)}
    X = np.array([[2.0, 0.5, -1.0, 3.0], [0.2, 0.5, 1.0, 7.0], [0.5, np.nan, 0.5, 0.0]])
    # the last value of the second row is unusual, yet lowers the score: it is no reason
    contributions = np.array([[1.0, 6.0, 3.0, 0.01], [1.0, 3.0, 0.0, -5.0], [0.0, 2.0, 0.0, 2.0]])
    first, second, third = reasons(X, contributions, reference)
    assert [(r.column, r.direction) for r in first] == [(2, "low"), (0, "high")]
    assert first[0].share == pytest.approx(3 / 10.01)
    assert [(r.column, r.direction) for r in second][:2] == [(1, "within"), (0, "within")]
    assert 3 not in [r.column for r in second]
    assert [(r.column, r.direction) for r in third][:2] == [(1, "missing"), (3, "within")]


def test_replacement_by_the_median_explains_a_graph_without_terms(tmp_path):
    model = bundle.load(bundles.write(tmp_path, "forest"))
    X = bundles.rows(3)
    replaced = X.copy()
    replaced[:, 7] = model.reference["median"][7]
    by_hand = model.raw_score(X) - model.raw_score(replaced)
    np.testing.assert_allclose(model.contributions(X)[:, 7], by_hand, atol=1e-7)


def test_missing_value_is_explained_as_missing(small):
    entries = bundle.load(small).explain(np.array([[np.nan, 1, 1, 1]], np.float32), top=4)[0]
    assert {"feature": "V1", "value": None, "direction": "missing"}.items() <= entries[0].items()


def test_a_candidate_without_calibration_scores_raw(tmp_path):
    bundle.write(
        tmp_path,
        bundles.graphs("autoencoder"),
        {"model": "autoencoder", "features": bundles.FEATURES},
    )
    model = bundle.load(tmp_path)
    assert model.raw_score(bundles.rows(5)).shape == (5,)
    assert model.version is None
    with pytest.raises(BundleError, match="no calibration yet"):
        model.anomaly_score(bundles.rows(5))
    with pytest.raises(BundleError, match="no threshold yet"):
        model.predict(bundles.rows(5))
    with pytest.raises(BundleError, match="no reference medians"):
        model.explain(bundles.rows(5))


def test_hash_ignores_version_and_provenance_only(copy):
    before = bundle.bundle_hash(copy)
    change(copy, version="4", provenance={"run_id": "other"})
    assert bundle.bundle_hash(copy) == before == bundle.load(copy).hash
    manifest = bundle.verify(copy)
    assert bundle.bundle_hash(manifest, (copy / "model.onnx").read_bytes()) == before
    change(copy, threshold={"anomaly_score": 0.5})
    assert bundle.bundle_hash(copy) != before


def test_hash_depends_on_content_not_on_file_names(tmp_path):
    plain, hashed = bundles.write(tmp_path / "a"), bundles.write(tmp_path / "b", hashed_names=True)
    assert bundle.bundle_hash(plain) == bundle.bundle_hash(hashed)


def test_hashed_names_are_replaced_and_old_files_removed(tmp_path):
    for seed in (0, 1):
        bundles.write(tmp_path, seed=seed, hashed_names=True)
        files = bundle.verify(tmp_path)["files"]
        names = {
            f"model-{files['model.onnx'][:16]}.onnx",
            f"explain-{files['explain.onnx'][:16]}.onnx",
        }
        assert {path.name for path in tmp_path.iterdir()} == names | {"manifest.json"}


def test_an_interrupted_write_leaves_the_old_bundle(copy, monkeypatch):
    before = bundle.bundle_hash(copy)
    monkeypatch.setattr("lib.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        bundle.write(
            copy,
            bundles.graphs("forest", 4),
            bundles.manifest("forest", ["V1", "V2", "V3", "Amount"]),
        )
    assert bundle.bundle_hash(copy) == before


def test_every_changed_byte_is_refused(copy):
    for path in sorted(copy.glob("*.onnx")):
        content = path.read_bytes()
        for position in range(0, len(content), max(1, len(content) // 25)):
            path.write_bytes(
                content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
            )
            with pytest.raises(BundleError, match="was changed"):
                bundle.verify(copy)
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "explain.onnx"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        bundle.load(copy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": 2}, "newer than 1"),
        ({"schema_version": "1"}, "schema_version '1'"),
        ({"features": []}, "list of different names"),
        ({"features": ["V1", "V1", "V3", "Amount"]}, "list of different names"),
        ({"features": ["V1", "V2"], "reference": None}, "does not score one row"),
        ({"files": {}}, "no model.onnx"),
        ({"files": {"model.onnx": "abc"}}, "no sha256"),
        ({"files": {"model.onnx": "0" * 64, "../key": "0" * 64}}, "lists the file '../key'"),
        ({"missing": "mean"}, "expected 'refuse' or 'median'"),
        ({"reference": {"median": [0, 0, 0, 0]}}, "median, low and high"),
        ({"reference": {"median": [0], "low": [0], "high": [0]}}, "needs 4 numbers"),
        ({"threshold": {"anomaly_score": 1.5}}, "threshold 1.5"),
        ({"threshold": []}, "not an object"),
        ({"calibration": {"raw_score": [2, 1]}}, "calibration"),
        ({"version": 3}, "'version'"),
    ],
)
def test_a_bad_manifest_is_refused_in_a_sentence(copy, changes, says):
    change(copy, **changes)
    with pytest.raises(BundleError, match=says) as caught:
        bundle.load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"schema_version": NaN}', "[" * 100_000, "\ud800"]
)
def test_a_manifest_that_is_no_object_is_refused(copy, text):
    (copy / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BundleError, match="JSON"):
        bundle.load(copy)


def test_other_features_are_refused(copy):
    with pytest.raises(BundleError, match="another order"):
        bundle.load(copy, features=["V2", "V1", "V3", "Amount"])
    with pytest.raises(BundleError, match="differs in V9, V3"):
        bundle.load(copy, features=["V1", "V2", "V9", "Amount"])
    assert bundle.load(copy, features=["V1", "V2", "V3", "Amount"]).features == (
        "V1",
        "V2",
        "V3",
        "Amount",
    )


def test_a_graph_with_another_interface_is_refused(tmp_path):
    parts = bundles.graphs("autoencoder")
    bundle.write(tmp_path, {"model.onnx": parts["explain.onnx"]}, bundles.manifest())
    with pytest.raises(BundleError, match="output 'raw_score'"):
        bundle.load(tmp_path)
    bundle.write(tmp_path, {"model.onnx": b"no graph"}, bundles.manifest())
    with pytest.raises(BundleError, match="cannot be opened"):
        bundle.load(tmp_path)


def test_nothing_is_written_for_a_bad_manifest(tmp_path):
    with pytest.raises(BundleError, match="list of different names"):
        bundle.write(tmp_path / "new", bundles.graphs("forest"), {"features": "V1"})
    with pytest.raises(BundleError, match="cannot be written as JSON"):
        bundle.write(
            tmp_path / "new", bundles.graphs("forest"), bundles.manifest() | {"model": float("nan")}
        )
    assert not (tmp_path / "new").exists()


def test_wrong_width_is_a_sentence(small):
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(n, 4\)"):
        bundle.load(small).raw_score(np.zeros((2, 3)))
