import hashlib
import html
import json
import re
from base64 import b64encode
from types import SimpleNamespace

import bundles
import numpy as np
import pytest
from starlette.testclient import TestClient

from lib import bundle
from serve import telemetry
from serve.app import create_app
from serve.settings import Settings

JSON = {"content-type": "application/json"}
ROW = [0.25] * 28 + [149.62]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bundles.write(tmp_path_factory.mktemp("served"), "autoencoder")


@pytest.fixture(scope="module")
def client(folder):
    with TestClient(create_app(Settings(bundle=folder)), raise_server_exceptions=False) as client:
        yield client


def serving(folder, **settings):
    return TestClient(
        create_app(Settings(bundle=folder, **settings)), raise_server_exceptions=False
    )


def post(client, body, headers=JSON, **options):
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return client.post("/predict", content=content, headers=headers, **options)


def named(row=ROW, **changes):
    return dict(zip(bundles.FEATURES, row, strict=True)) | changes


def test_answers_lists_in_request_order_as_the_bundle_scores_them(client, folder):
    model, X = bundle.load(folder), bundles.rows(300)
    answer = post(client, {"features": X.tolist()}).json()
    predictions, scores = model.predict(X)
    assert list(answer) == ["predictions", "anomaly_scores", "model_version", "inference_time_ms"]
    assert answer["predictions"] == predictions.tolist()
    assert answer["anomaly_scores"] == scores.tolist()
    assert answer["model_version"] == "3"
    assert answer["inference_time_ms"] > 0
    assert 0 < sum(predictions) < 300


def test_rows_with_names_score_as_lists_whatever_their_order(client):
    backwards = dict(reversed(named().items()))
    answer = post(client, {"features": [backwards, ROW, named()]}).json()
    assert len(set(answer["anomaly_scores"])) == 1


def test_version_is_baked_in_only_if_the_bundle_has_none(tmp_path):
    with serving(bundles.write(tmp_path, version=None)) as client:
        assert post(client, {"features": [ROW]}).json()["model_version"] == "baked-in"


@pytest.mark.parametrize("kind", bundles.KINDS)
def test_explanations_are_the_bundles_own(kind, tmp_path):
    X = bundles.rows(40)
    with serving(bundles.write(tmp_path, kind)) as client:
        answer = post(client, {"features": X.tolist()}, params={"explain": "true"}).json()
    assert answer["explanations"] == bundle.load(tmp_path).explain(X)
    assert {len(entries) for entries in answer["explanations"]} <= {1, 2, 3}


def test_explain_may_be_said_in_words_that_mean_the_same(client):
    for query, present in [
        ("explain=1", True),
        ("explain=True", True),
        ("explain=false", False),
        ("", False),
    ]:
        answer = client.post(f"/predict?{query}", json={"features": [ROW]}).json()
        assert ("explanations" in answer) == present
    for query, code in [
        ("explain=maybe", "wrong_type"),
        ("explian=true", "unknown_parameter"),
        ("x", "unknown_parameter"),
    ]:
        refused = client.post(f"/predict?{query}", json={"features": [ROW]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, code)


def text(*values):
    return '{"features": [[' + ", ".join(values) + "]]}"


BROKEN = {
    "too few": (
        {"features": [ROW, ROW[1:]]},
        422,
        "wrong_length",
        1,
        None,
        "Row 1 has 28 features, expected 29.",
    ),
    "too many": (
        {"features": [[*ROW, 1]]},
        422,
        "wrong_length",
        0,
        None,
        "Row 0 has 30 features, expected 29.",
    ),
    "all short": ({"features": [[1.0], [2.0]]}, 422, "wrong_length", 0, None, "has 1 features"),
    "empty row": ({"features": [[]]}, 422, "wrong_length", 0, None, "has 0 features"),
    "text": (
        {"features": [ROW, ["1", *ROW[1:]]]},
        422,
        "not_a_number",
        1,
        "V1",
        "expected a number, got a string",
    ),
    "null": (
        {"features": [[*ROW[:-1], None]]},
        422,
        "missing_value",
        0,
        "Amount",
        "needs every value",
    ),
    "nested": ({"features": [[[1.0], *ROW[1:]]]}, 422, "not_a_number", 0, "V1", "got a list"),
    "true row": ({"features": [True]}, 422, "wrong_type", 0, None, "not true or false"),
    "number row": (
        {"features": [1]},
        422,
        "wrong_type",
        0,
        None,
        "must be a list of numbers or an object",
    ),
    "flat": (
        {"features": ROW},
        422,
        "wrong_type",
        0,
        None,
        "must be a list of numbers or an object",
    ),
    "NaN": (text("NaN"), 400, "invalid_json", None, None, "NaN and Infinity are no JSON numbers"),
    "Infinity": (
        text("-Infinity"),
        400,
        "invalid_json",
        None,
        None,
        "NaN and Infinity are no JSON numbers",
    ),
    "beyond float64": (text("1e999"), 422, "out_of_range", 0, "V1", "beyond"),
    "huge integer": (text("9" * 5_000), 422, "out_of_range", 0, "V1", "beyond"),
    "beyond float32": (
        {"features": [ROW, [*ROW[:-1], -1e39]]},
        422,
        "out_of_range",
        1,
        "Amount",
        "float32",
    ),
    "unknown name": (
        {"features": [named(V29=1)]},
        422,
        "unknown_feature",
        0,
        "V29",
        "GET /model lists",
    ),
    "missing name": (
        {"features": [{"V1": 1}]},
        422,
        "missing_feature",
        0,
        "V2",
        "lacks 'V2' and 27 more",
    ),
    "name twice": (
        '{"features": [{"V1": 1, "V1": 2}]}',
        422,
        "repeated_name",
        None,
        "V1",
        "appears twice",
    ),
    "key twice": (
        '{"features": [[1]], "features": [[1]]}',
        422,
        "repeated_name",
        None,
        "features",
        "appears twice",
    ),
    "named text": ({"features": [named(V7="x")]}, 422, "not_a_number", 0, "V7", "got a string"),
    "named null": (
        {"features": [named(V7=None)]},
        422,
        "missing_value",
        0,
        "V7",
        "needs every value",
    ),
    "named huge": ({"features": [named(V7=1e39)]}, 422, "out_of_range", 0, "V7", "float32"),
    "empty list": ({"features": []}, 422, "empty", None, "features", "at least one row"),
    "no list": (
        {"features": {"V1": 1}},
        422,
        "wrong_type",
        None,
        "features",
        "must be a list of rows",
    ),
    "extra key": (
        {"features": [ROW], "threshold": 1},
        422,
        "unknown_key",
        None,
        "threshold",
        "send only 'features'",
    ),
    "no features": ({}, 422, "missing_key", None, "features", "lacks 'features'"),
    "a list": ([ROW], 422, "wrong_type", None, None, "must be an object"),
    "nothing": (b"", 400, "invalid_json", None, None, "is empty"),
    "cut off": (b'{"features": [[1, 2', 400, "invalid_json", None, None, "truncated"),
    "two bodies": (b'{"features": [[1]]} {}', 400, "invalid_json", None, None, "trailing"),
    "not UTF-8": (b'{"features": [{"V\xff": 1}]}', 400, "invalid_json", None, None, "UTF-8"),
    "byte order mark": (
        b'\xef\xbb\xbf{"features": [[1]]}',
        400,
        "invalid_json",
        None,
        None,
        "not JSON",
    ),
    "half a surrogate": (
        b'{"features": [{"\\ud800": 1}]}',
        400,
        "invalid_json",
        None,
        None,
        "not JSON",
    ),
    "deep": (b"[" * 100_000, 422, "wrong_type", None, None, "must be an object"),
    "deep inside": (b'{"features": ' + b"[" * 100_000, 422, "not_a_number", 0, "V1", "got a list"),
    "deep elsewhere": (b'{"x": ' + b'{"a":' * 100_000, 422, "unknown_key", None, "x", "send only"),
    "too many rows": (
        {"features": [[0] * 29] * 10_001},
        413,
        "too_many_rows",
        None,
        None,
        "10000 rows",
    ),
    "many values": (
        b'{"features": [[' + b"0," * 400_000 + b"0]]}",
        413,
        "too_many_rows",
        None,
        None,
        "10000 rows",
    ),
    "too large": (b" " * 10_000_001, 413, "too_large", None, None, "10 MB"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_wrong_input_gets_a_sentence_in_one_shape(client, case):
    body, status, code, row, field, says = BROKEN[case]
    answer = post(client, body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert set(answer.json()["error"]) == {"code", "message", "row", "field"}
    error = SimpleNamespace(**answer.json()["error"])
    assert (error.code, error.row, error.field) == (code, row, field), error.message
    assert says in error.message
    assert error.message.endswith(".")
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "missing"),
        ({"content-type": "text/plain"}, "text/plain"),
        ({"content-type": "application/x-www-form-urlencoded"}, "Content-Type: application/json"),
        ({"content-type": "application/json; charset=latin-1"}, "latin-1"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "gzip"),
    ],
)
def test_wrong_type_is_415(client, headers, says):
    answer = post(client, b"{}", headers=headers)
    assert answer.status_code == 415
    assert says in answer.json()["error"]["message"]


def test_type_may_name_its_charset(client):
    assert (
        post(
            client, {"features": [ROW]}, {"content-type": "Application/JSON; charset=UTF-8"}
        ).status_code
        == 200
    )


def test_a_body_in_chunks_is_taken_and_its_size_watched(client):
    content = json.dumps({"features": [ROW]}).encode()
    answer = client.post("/predict", content=iter([content[:9], content[9:]]), headers=JSON)
    assert answer.status_code == 200
    refused = client.post("/predict", content=iter([b" " * 1_000_000] * 11), headers=JSON)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")


def test_wrong_address_and_method_have_the_same_shape(client):
    missing, method = client.get("/nothing"), client.get("/predict")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "POST"
    assert client.post("/predict/", content=b"{}").status_code == 404
    assert client.post("/admin/reload").status_code == 404


def test_null_is_a_value_where_the_model_fills_in(tmp_path):
    with serving(bundles.write(tmp_path, "forest", missing="median")) as client:
        assert post(client, {"features": [[None, *ROW[1:]], named(V1=None)]}).status_code == 200
        answer = post(client, {"features": [[None] * 29]}, params={"explain": "true"}).json()
        assert {entry["direction"] for entry in answer["explanations"][0]} == {"missing"}
        assert (
            post(client, {"features": [["", *ROW[1:]]]}).json()["error"]["code"] == "not_a_number"
        )
        assert (
            post(client, {"features": [{"V1": None}]}).json()["error"]["code"] == "missing_feature"
        )


def test_rows_at_the_edge_of_float32_get_a_score(client):
    extreme = [3.4e38, -3.4e38] * 14 + [1e-45]
    answer = post(
        client, {"features": [extreme, [0] * 29, [-0.0] * 29]}, params={"explain": "true"}
    )
    assert answer.status_code == 200
    assert all(0 <= score <= 1 for score in answer.json()["anomaly_scores"])
    assert len(answer.json()["explanations"]) == 3


def test_limits_are_settings(folder):
    limits = {"max_rows": 5, "max_body_mb": 0.002, "max_explained_rows": 2}
    with serving(folder, **limits) as client:
        assert post(client, {"features": [[0] * 29] * 5}).status_code == 200
        assert "5 rows" in post(client, {"features": [[0] * 29] * 6}).json()["error"]["message"]
        assert (
            "0.002 MB"
            in post(client, {"features": [[0.123456789012] * 29] * 5}).json()["error"]["message"]
        )
        refused = post(client, {"features": [[0] * 29] * 3}, params={"explain": "true"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_many_rows")


def test_large_requests_score_on_threads_as_small_ones_do(folder):
    X = bundles.rows(600)
    answers = []
    for settings in (
        {},
        {"inline_rows": 0},
        {"inline_kb": 0},
        {"inline_rows": 10_000, "inline_kb": 10_000},
    ):
        with serving(folder, **settings) as client:
            answers.append(post(client, {"features": X.tolist()}).json()["anomaly_scores"])
    assert answers[1:] == answers[:1] * 3


def test_model_card_names_data_and_figures(client, folder):
    card, manifest = client.get("/model").json(), bundle.verify(folder)
    assert card["dataset"] == {"name": "simulated", "source": "simulated"}
    assert (card["name"], card["version"], card["features"]) == (
        "fraud-detector",
        "3",
        bundles.FEATURES,
    )
    assert card["bundle_hash"] == bundle.bundle_hash(folder)
    for key in ("threshold", "metrics", "files", "fit"):
        assert card[key] == manifest[key]
    assert card["trained_at"].startswith("2026-01-02T03:04")
    assert card["exported_at"].startswith("2026-01-02T03:05")


def test_health_says_live_always_and_ready_with_a_bundle(client, tmp_path):
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json()["model_version"] == "3"
    with serving(tmp_path / "absent") as empty:
        assert empty.get("/health/live").status_code == 200
        for answer in (
            empty.get("/health/ready"),
            post(empty, {"features": [ROW]}),
            empty.get("/model"),
        ):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "not_ready"
            assert "There is no bundle" in answer.json()["error"]["message"]
        assert empty.get("/openapi.json").status_code == 200


def test_a_candidate_without_threshold_is_not_served(tmp_path):
    bundle.write(tmp_path, bundles.graphs("forest"), bundles.manifest("forest"))
    with serving(tmp_path) as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert "export it first" in answer.json()["error"]["message"]


def metric(client, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def test_metrics_count_requests_rows_alerts_and_scores(client, folder):
    ok, wrong = (
        f'fraud_requests_total{{route="/predict",status="{status}"}}' for status in (200, 422)
    )
    names = (
        ok,
        wrong,
        "fraud_rows_total",
        "fraud_alerts_total",
        "fraud_anomaly_score_count",
        "fraud_anomaly_score_sum",
    )
    before = [metric(client, name) for name in names]
    X = bundles.rows(100)
    answer = post(client, {"features": X.tolist()}).json()
    post(client, {"features": [ROW]})
    post(client, {"features": [[]]})
    after = [metric(client, name) for name in names]
    alerts = sum(answer["predictions"])
    assert np.subtract(after, before)[:5].tolist() == [2, 1, 101, alerts, 101]
    labels = f'bundle_hash="{bundle.bundle_hash(folder)[:16]}",name="fraud-detector",version="3"'
    assert metric(client, f"fraud_model_info{{{labels}}}") >= 1
    assert metric(client, 'fraud_request_seconds_count{route="/predict"}') >= 3


def test_scores_of_many_rows_are_counted_as_one_by_one(monkeypatch):
    def buckets():
        (family,) = telemetry.scores.collect()
        return np.array([sample.value for sample in family.samples])

    values = np.array([0.0, 0.1, 0.1000001, 0.5, 0.998, 0.9999, 0.99995, 1.0])
    start = buckets()
    telemetry.observe_scores(values, 0)
    together = buckets()
    for value in values:
        telemetry.observe_scores(np.array([value]), 0)
    np.testing.assert_allclose(together - start, buckets() - together, atol=1e-9)


def test_openapi_examples_work_as_they_stand(client):
    document = client.get("/openapi.json").json()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        assert post(client, example["value"]).status_code == 200
    rows = content["schema"]["properties"]["features"]["items"]["anyOf"]
    assert rows[0]["maxItems"] == 29
    assert rows[1]["required"] == bundles.FEATURES
    assert document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]


def test_docs_show_every_route_and_need_nobody_elses_files(client):
    answer = client.get("/docs")
    assert (
        re.findall(
            r"https?://|//\w|\bsrc=|@import|url\(|<link(?! rel=\"icon\" href=\"data:)", answer.text
        )
        == []
    )
    for path in client.get("/openapi.json").json()["paths"]:
        assert f'data-path="{path}"' in answer.text
    examples = re.findall(r'class="example" value="([^"]+)"', answer.text)
    assert [post(client, html.unescape(example)).status_code for example in examples] == [200] * 3
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.S)
        assert b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_a_feature_name_cannot_write_into_the_page(tmp_path):
    with serving(bundles.write(tmp_path, features=["<script>alert(1)</script>", 'a"b'])) as client:
        assert "<script>alert" not in client.get("/docs").text


def test_every_answer_has_security_headers_and_a_request_id(client):
    for answer in (
        client.get("/health/live"),
        post(client, b"["),
        client.get("/nothing"),
        client.get("/docs"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", answer.headers["x-request-id"])
        assert "access-control-allow-origin" not in answer.headers
    assert (
        client.get("/health/live", headers={"x-request-id": "abc.1"}).headers["x-request-id"]
        == "abc.1"
    )
    forged = client.get("/health/live", headers={"x-request-id": 'a"b c'}).headers["x-request-id"]
    assert '"' not in forged


def test_cors_is_a_setting(folder):
    with serving(folder, cors_origins="https://desk.example") as client:
        ours, theirs = (
            {"origin": origin} for origin in ("https://desk.example", "https://other.example")
        )
        assert (
            post(client, {"features": [ROW]}, JSON | ours).headers["access-control-allow-origin"]
            == ours["origin"]
        )
        assert (
            "access-control-allow-origin"
            not in post(client, {"features": [ROW]}, JSON | theirs).headers
        )
        exposed = post(client, {"features": [ROW]}, JSON | ours).headers[
            "access-control-expose-headers"
        ]
        assert "X-Model" in exposed.split(", ")


def test_api_key_guards_everything_but_health_and_documentation(folder):
    with serving(folder, api_key="s3cret") as client:
        for path in ("/", "/health/live", "/health/ready", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        for path in ("/model", "/metrics"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        for key in (
            {},
            {"x-api-key": "S3cret"},
            {"authorization": "Bearer x"},
            {"x-api-key": "ключ".encode()},
        ):
            assert post(client, {"features": [ROW]}, JSON | key).status_code == 401
        for key in ({"x-api-key": "s3cret"}, {"authorization": "bearer s3cret"}):
            assert post(client, {"features": [ROW]}, JSON | key).status_code == 200
        assert "security" in client.get("/openapi.json").json()["paths"]["/predict"]["post"]


def test_reload_with_a_key_takes_up_a_new_bundle_and_refuses_a_broken_one(tmp_path):
    folder = bundles.write(tmp_path, seed=0, hashed_names=True)
    headers = {"x-api-key": "k"}
    with serving(folder, api_key="k", poll_s=3_600) as client:
        first = client.get("/model", headers=headers).json()["bundle_hash"]
        assert client.post("/admin/reload", headers=headers).json()["reloaded"] is False
        bundles.write(folder, seed=1, hashed_names=True, version="4")
        second = client.post("/admin/reload", headers=headers).json()
        assert (second["reloaded"], second["model_version"]) == (True, "4")
        assert second["bundle_hash"] != first
        (model,) = folder.glob("model-*.onnx")
        model.write_bytes(model.read_bytes()[:-1] + b"x")
        refused = client.post("/admin/reload", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "bundle_refused")
        assert "was changed" in refused.json()["error"]["message"]
        assert post(client, {"features": [ROW]}, JSON | headers).json()["model_version"] == "4"
        assert "was changed" in client.get("/health/ready").json()["refused"]


def test_a_bundle_with_other_features_is_not_taken_up(tmp_path):
    folder = bundles.write(tmp_path)
    with serving(folder, api_key="k", poll_s=3_600) as client:
        bundles.write(folder, features=["V1", "Amount"])
        refused = client.post("/admin/reload", headers={"x-api-key": "k"})
        assert refused.status_code == 409
        assert "feature list" in refused.json()["error"]["message"]


def test_every_answer_of_predict_says_which_model_answered(client):
    for body, status in (({"features": [ROW]}, 200), ({"features": [[]]}, 422), (b"", 400)):
        answer = post(client, body)
        assert (answer.status_code, answer.headers["x-model"]) == (status, "fraud-detector/3")
    for path in ("/model", "/health/ready"):
        assert client.get(path).headers["x-model"] == "fraud-detector/3"
    assert "x-model" not in client.get("/health/live").headers


@pytest.mark.parametrize(
    ("name", "version", "header"),
    [
        ("fraud-detector-shop", "12", "fraud-detector-shop/12"),
        ("shop.v2_eu", None, "shop.v2_eu/baked-in"),
        ("Überweisung/日本", "1", "%C3%9Cberweisung%2F%E6%97%A5%E6%9C%AC/1"),
        ("a b\r\nX-Evil: 1", "1", "a%20b%0D%0AX-Evil%3A%201/1"),
        ("100 %", "2/3", "100%20%25/2%2F3"),
    ],
)
def test_a_name_of_any_characters_fits_into_the_header(tmp_path, name, version, header):
    with serving(bundles.write(tmp_path, name=name, version=version)) as client:
        answer = post(client, {"features": [ROW]})
        assert (answer.status_code, answer.headers["x-model"]) == (200, header)
        assert "x-evil" not in answer.headers
        assert client.get("/model").json()["name"] == name


@pytest.mark.parametrize("changes", [{"name": "\ud800"}, {"provenance": "yesterday"}])
def test_a_manifest_that_no_answer_can_show_is_refused(tmp_path, changes):
    folder = bundles.write(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with serving(folder) as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert "manifest" in answer.json()["error"]["message"]


def test_a_server_without_bundle_names_no_model(tmp_path):
    with serving(tmp_path / "absent") as client:
        assert "x-model" not in post(client, {"features": [ROW]}).headers


@pytest.mark.parametrize("other", ["fraud-detector-simulated", None])
def test_a_bundle_of_another_registered_name_is_not_taken_up(tmp_path, capfd, other):
    folder, headers = bundles.write(tmp_path, hashed_names=True), {"x-api-key": "k"}
    with serving(folder, api_key="k", poll_s=3_600) as client:

        def refused():
            text = client.get("/metrics", headers=headers).text
            return float(re.search(r'loads_total{result="refused"} (\S+)', text)[1])

        client.post("/admin/reload", headers=headers)
        before = post(client, {"features": [ROW]}, JSON | headers)
        capfd.readouterr()
        bundles.write(folder, seed=1, hashed_names=True, name=other)
        answer = client.post("/admin/reload", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "bundle_refused")
        assert "fraud-detector" in answer.json()["error"]["message"]
        assert "restart" in client.get("/health/ready").json()["refused"]
        after = post(client, {"features": [ROW]}, JSON | headers)
        assert after.json()["anomaly_scores"] == before.json()["anomaly_scores"]
        assert after.headers["x-model"] == before.headers["x-model"] == "fraud-detector/3"
        assert refused() >= 1
        (line,) = [line for line in capfd.readouterr().out.splitlines() if "bundle refused" in line]
        assert json.loads(line)["result"] == "version 3 goes on"
        bundles.write(folder, seed=2, hashed_names=True, version="4")
        assert client.post("/admin/reload", headers=headers).json()["model_version"] == "4"
        assert client.get("/health/ready").json()["refused"] is None


def test_true_and_false_are_one_and_zero_in_every_shape(tmp_path, folder):
    row, numbers = [True, False, *ROW[2:]], [1, 0, *ROW[2:]]
    median = bundles.write(tmp_path, missing="median")
    for served in (folder, median):
        with serving(served) as client:
            scores = post(client, {"features": [numbers, named(numbers)]}).json()["anomaly_scores"]
            assert post(client, {"features": [row, named(row)]}).json()["anomaly_scores"] == scores
            # long enough for simdjson
            many, same = ({"features": [each] * 100} for each in (row, numbers))
            expected = post(client, same).json()["anomaly_scores"]
            assert post(client, many).json()["anomaly_scores"] == expected
    with serving(median) as client:
        with_null = post(client, {"features": [[True, None, *ROW[2:]]]}).json()["anomaly_scores"]
        assert (
            with_null == post(client, {"features": [[1, None, *ROW[2:]]]}).json()["anomaly_scores"]
        )


@pytest.mark.parametrize(
    "path", ["/", "/health/live", "/health/ready", "/docs", "/openapi.json", "/model", "/metrics"]
)
def test_head_answers_as_get_without_a_body(client, path):
    got, head = (client.request(method, path, follow_redirects=False) for method in ("GET", "HEAD"))
    assert head.status_code == got.status_code < 400
    assert head.content == b""
    assert head.headers.get("content-type") == got.headers.get("content-type")


def test_head_of_what_is_not_there_is_refused_as_get(client, tmp_path):
    assert client.head("/nothing").status_code == 404
    assert client.head("/predict").status_code == 405
    assert client.post("/model").headers["allow"] == "GET, HEAD"
    with serving(tmp_path / "absent") as empty:
        assert empty.head("/health/ready").status_code == 503


def test_the_root_leads_to_the_documentation(client):
    answer = client.get("/", follow_redirects=False)
    assert answer.status_code in (307, 308)
    assert client.get("/").url.path == "/docs"


def test_log_has_id_rows_time_and_status_but_no_values(folder, capfd):
    with serving(folder) as client:
        post(client, {"features": [[12345.678] * 29]}, JSON | {"x-request-id": "mine"})
        post(client, {"features": [[98765.432]]})
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    good, bad = (line for line in lines if line["logger"] == "serve.request")
    assert (good["request_id"], good["rows"], good["status"]) == ("mine", 1, 200)
    assert good["milliseconds"] > 0
    assert (bad["status"], bad["code"]) == (422, "wrong_length")
    assert not re.search(r"12345|98765", json.dumps(lines))


def test_an_unforeseen_error_is_a_500_without_its_trace(folder, capfd, monkeypatch):
    app = create_app(Settings(bundle=folder))
    monkeypatch.setattr(app, "predict", None)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = post(client, {"features": [ROW]})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "NoneType" not in answer.text
    assert "NoneType" in capfd.readouterr().out
