"""POST /predict with raw transactions, POST /labels, and the command beside them."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import online
import pytest
from online import Prepared, shop, table
from server import running
from starlette.testclient import TestClient

from lib import bundle
from lib.bundle.manifest import HISTORY
from lib.data import raw_rows
from serve.app import create_app
from serve.history import __main__ as command
from serve.history import open_store
from serve.settings import Settings

JSON = {"content-type": "application/json"}
N_BEFORE = 90  # transactions that the bundle knows


@pytest.fixture(scope="module")
def prepared():
    return Prepared(shop(), table())


@pytest.fixture(scope="module")
def folder(prepared, tmp_path_factory):
    return prepared.write(tmp_path_factory.mktemp("served"), N_BEFORE)


@pytest.fixture
def client(folder, tmp_path):
    with serving(folder, tmp_path) as client:
        yield client


def serving(folder, place, **settings):
    settings = {"bundle": folder, "history": str(place)} | settings
    return TestClient(create_app(Settings(**settings)), raise_server_exceptions=False)


def post(client, body, path="/predict"):
    return client.post(path, content=json.dumps(body), headers=JSON)


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    return error


def labels_of(prepared, rows):
    known = prepared.labels()
    ids = [row["nr"] for row in rows if row["nr"] in known]
    return [{"transaction": identity, "fraud": known[identity]} for identity in ids]


def expected(prepared, folder):
    """The scores of the table's features, row by row: rounding depends on how many there are."""
    model = bundle.load(folder)
    return np.concatenate([model.anomaly_score(row[None]) for row in prepared.X.astype(np.float32)])


@pytest.mark.parametrize("per_request", [1, 17])
def test_raw_transactions_score_as_the_table_does(client, prepared, folder, per_request):
    found = []
    for start in range(N_BEFORE, 200, per_request):
        part = prepared.rows[start : start + per_request]
        answer = post(client, {"transactions": part})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model"] == "fraud-detector-shop/1"
        body = answer.json()
        assert list(body) == [
            "predictions",
            "anomaly_scores",
            "model_version",
            "inference_time_ms",
        ]
        found += body["anomaly_scores"]
        # no window knows a label before five seconds have passed
        labels = labels_of(prepared, part)
        if labels:
            answer = post(client, {"labels": labels}, "/labels")
            assert answer.json() == {"labelled": len(labels), "unknown": []}
    if per_request == 1:
        assert found == expected(prepared, folder)[N_BEFORE:].tolist()
    else:
        # within a request labels come late for some
        alike = np.isclose(found, expected(prepared, folder)[N_BEFORE:], rtol=1e-5)
        assert alike.mean() > 0.3


def test_features_stay_as_they_are(client, prepared, folder):
    X = np.nan_to_num(prepared.X[:3])
    answer = post(client, {"features": X.tolist()}).json()
    scores = bundle.load(folder).anomaly_score(X.astype(np.float32))
    assert answer["anomaly_scores"] == scores.tolist()


def test_only_scoring_leaves_no_trace(client, prepared):
    row = prepared.rows[N_BEFORE] | {"nr": "other"}
    body = json.dumps({"transactions": [row]})
    first, second, kept = (
        client.post(f"/predict{query}", content=body, headers=JSON).json()["anomaly_scores"]
        for query in ("?remember=false", "?remember=0", "")
    )
    assert first == second == kept
    later = prepared.rows[N_BEFORE] | {"nr": "later", "t": row["t"] + 0.5}
    after = post(client, {"transactions": [later]}).json()["anomaly_scores"]
    unknown = post(client, {"labels": [{"transaction": "other", "fraud": 0}]}, "/labels").json()
    assert unknown == {"labelled": 1, "unknown": []}
    assert len(after) == 1


def test_the_same_id_twice_counts_once(client, prepared, folder):
    row = prepared.rows[N_BEFORE]
    answers = [post(client, {"transactions": [row, row]}).json() for _ in range(2)]
    scores = [score for answer in answers for score in answer["anomaly_scores"]]
    assert scores == pytest.approx([expected(prepared, folder)[N_BEFORE]] * 4, rel=1e-5)


def test_a_transaction_without_an_id_is_only_scored_on_request(client, prepared):
    row = {name: value for name, value in prepared.rows[0].items() if name != "nr"}
    error = refused(post(client, {"transactions": [row]}), 422, "missing_id")
    assert error["row"] == 0
    assert "remember=false" in error["message"]
    body = json.dumps({"transactions": [row]})
    answer = client.post("/predict?remember=false", content=body, headers=JSON)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"eur": "12"}, "wrong_value", "eur"),
        ({"eur": -3}, "wrong_value", "eur"),
        ({"t": "2024-01-01"}, "wrong_value", "t"),
        ({"card": {}}, "wrong_value", "card"),
        ({"lat": None}, None, None),
        ({"colour": "blue"}, None, None),
        ({"card": None}, None, None),
        ({"kind": "never seen"}, None, None),
    ],
)
def test_a_wrong_cell_is_named_with_row_and_column(client, prepared, change, code, field):
    good, odd = prepared.rows[0], prepared.rows[1] | change
    answer = post(client, {"transactions": [good, odd]})
    if code is None:
        assert answer.status_code == 200
        return
    error = refused(answer, 422, code)
    assert (error["row"], error["field"]) == (1, field)
    # nothing of a refused request is kept
    unknown = post(client, {"labels": [{"transaction": "T0", "fraud": 0}]}, "/labels").json()
    assert unknown["unknown"] == [] or unknown["unknown"] == ["T0"]


def test_a_missing_column_is_named(client, prepared):
    row = {name: value for name, value in prepared.rows[0].items() if name != "merchant"}
    error = refused(post(client, {"transactions": [row]}), 422, "missing_column")
    assert error["field"] == "merchant"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"transactions": []}', 422, "empty"),
        ('{"transactions": {}}', 422, "wrong_type"),
        ('{"transactions": [3]}', 422, "wrong_type"),
        ('{"transactions": [{"t": 1, "t": 2}]}', 422, "repeated_name"),
        ('{"transactions": [{}], "features": []}', 422, "unknown_key"),
        ('{"transactions": [{"t": NaN}]}', 400, "invalid_json"),
        ('{"transactions": [', 400, "invalid_json"),
        ('{"transactions": [' + "[" * 100_000, 400, "invalid_json"),
    ],
)
def test_a_wrong_body_is_refused(client, body, status, code):
    refused(client.post("/predict", content=body, headers=JSON), status, code)


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ([], "empty"),
        ([{"transaction": "T0"}], "missing_key"),
        ([{"fraud": 1}], "missing_key"),
        ([{"transaction": "T0", "fraud": "perhaps"}], "wrong_value"),
        ([{"transaction": "T0", "fraud": 1, "why": "x"}], "unknown_key"),
        ([{"transaction": "", "fraud": 1}], "missing_id"),
        ([{"transaction": [], "fraud": 1}], "wrong_value"),
    ],
)
def test_a_wrong_label_is_refused(client, labels, code):
    refused(post(client, {"labels": labels}, "/labels"), 422, code)


def test_labels_under_the_columns_own_names(client, prepared):
    answer = post(client, {"labels": [{"nr": "T0", "fraud": "yes"}]}, "/labels")
    assert answer.status_code == 200


def test_own_words_of_labels_count_in_the_tables_own_column(tmp_path):
    label = {"column": "state", "fraud": ["0"], "genuine": ["1"]}
    frame = table().rename(columns={"fraud": "state"})
    reversed_words = Prepared(shop(label=label), frame)
    with serving(reversed_words.write(tmp_path / "served", 0), tmp_path) as client:
        post(client, {"transactions": reversed_words.rows[:2]})
        labels = [{"nr": "T0", "state": 0}, {"transaction": "T1", "fraud": 1}]
        answer = post(client, {"labels": labels}, "/labels").json()
        assert answer == {"labelled": 2, "unknown": []}
    store = open_store(str(tmp_path), "shop")
    store.prepare(reversed_words.raw)
    later = reversed_words.raw.read(reversed_words.rows[2] | {"t": 30.0, "merchant": "m"})
    both = [lookup for lookup in reversed_words.raw.lookups(later) if lookup.entity == "merchant"]
    frauds = [fraud for past in store.past(both) for fraud in past.fraud]
    assert set(frauds) <= {1}
    assert store.status().n_labelled == 2


def test_too_many_at_once_are_refused(folder, prepared, tmp_path):
    with serving(folder, tmp_path, max_rows=3) as client:
        refused(post(client, {"transactions": prepared.rows[:4]}), 413, "too_many_rows")
        labels = labels_of(prepared, prepared.rows)[:4]
        refused(post(client, {"labels": labels}, "/labels"), 413, "too_many_rows")


def test_a_large_request_is_answered_like_small_ones(folder, prepared, tmp_path):
    with serving(folder, tmp_path / "a", inline_kb=1, inline_rows=10) as large:
        together = post(large, {"transactions": prepared.rows[N_BEFORE:]}).json()
    with serving(folder, tmp_path / "b") as small:
        for row in prepared.rows[N_BEFORE:]:
            alone = post(small, {"transactions": [row]}).json()
    assert together["anomaly_scores"][-1] == pytest.approx(alone["anomaly_scores"][0], rel=1e-5)


def test_explanations_say_categories_in_the_words_of_the_table(tmp_path):
    by_row = Prepared(shop([{"category": "kind"}]), table())
    folder = by_row.write(tmp_path / "served", 0)
    row = by_row.rows[0] | {"kind": "toys", "eur": 1.0}
    with serving(folder, tmp_path) as client:
        answer = post(client, {"transactions": [row]}, "/predict?explain=true").json()
        plain = post(
            client, {"features": np.nan_to_num(by_row.X[:1]).tolist()}, "/predict?explain=true"
        ).json()
    by_feature = {entry["feature"]: entry for entry in answer["explanations"][0]}
    said = {"column": "kind", "value": "toys", "share_of_reference": 0}
    assert by_feature["kind"]["category"] == said
    assert [name for name, entry in by_feature.items() if "category" in entry] == ["kind"]
    assert all("category" not in entry for entry in plain["explanations"][0])


def test_a_store_that_is_down_refuses_raw_transactions_alone(folder, prepared, tmp_path):
    (tmp_path / "file").write_text("")
    with serving(folder, tmp_path / "file" / "below") as client:
        for path, body in (
            ("/predict", {"transactions": prepared.rows[:1]}),
            ("/labels", {"labels": [{"transaction": "T0", "fraud": 1}]}),
        ):
            answer = post(client, body, path)
            refused(answer, 503, "no_history")
            assert answer.headers["retry-after"] == "1"
        assert post(client, {"features": [[0.0] * prepared.X.shape[1]]}).status_code == 200
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert "FRAUD_HISTORY" in ready.json()["history"]
        (tmp_path / "file").unlink()  # mended while the server runs
        assert post(client, {"transactions": prepared.rows[:1]}).status_code == 200
        assert client.get("/health/ready").json()["history"] is None


def test_a_recipe_without_histories_needs_no_store(prepared, tmp_path):
    by_row = Prepared(shop([{"category": "kind"}], ids=[]), table())
    folder = by_row.write(tmp_path / "served", 0)
    (tmp_path / "file").write_text("")
    with serving(folder, tmp_path / "file" / "below") as client:
        answer = post(client, {"transactions": by_row.rows}).json()
        assert answer["anomaly_scores"] == pytest.approx(expected(by_row, folder), rel=1e-5)
        labels = {"labels": [{"transaction": "T0", "fraud": 1}]}
        refused(post(client, labels, "/labels"), 422, "no_history")


def test_a_model_without_a_recipe_says_so(tmp_path):
    import bundles

    folder = bundles.write(tmp_path / "plain", "autoencoder")
    with serving(folder, tmp_path) as client:
        refused(post(client, {"transactions": [{"V1": 1}]}), 422, "no_recipe")


def test_a_recipe_that_cannot_be_followed_is_no_bundle(prepared, tmp_path):
    recipe = prepared.manifest["recipe"] | {"features": [{"count": "card"}]}
    folder = prepared.write(tmp_path / "served", 0, recipe=recipe)
    with serving(folder, tmp_path) as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert "recipe" in answer.json()["error"]["message"]


def test_another_recipe_while_running(prepared, tmp_path):
    """What was remembered under the first recipe counts under the second, once."""
    short = [{"count": "card", "within": "30s"}, {"count": "merchant", "within": "5s"}]
    first = Prepared(shop(short), table())
    folder = first.write(tmp_path / "served", N_BEFORE)
    again = [{"count": "merchant", "within": "30s"}, {"count": "card", "within": "20s"}]
    named = [feature | {"name": name} for feature, name in zip(again, ("a", "b"), strict=True)]
    first_named = [
        feature | {"name": name} for feature, name in zip(short, ("a", "b"), strict=True)
    ]
    first = Prepared(shop(first_named), table())
    folder = first.write(tmp_path / "served", N_BEFORE)
    second = Prepared(shop(named), table())
    with serving(folder, tmp_path / "histories", api_key="key") as client:
        client.headers["X-API-Key"] = "key"
        for row in first.rows[N_BEFORE:150]:
            assert post(client, {"transactions": [row]}).status_code == 200
        second.write(folder, N_BEFORE, version="2")
        assert client.post("/admin/reload").json()["model_version"] == "2"
        scores = [
            post(client, {"transactions": [row]}).json()["anomaly_scores"][0]
            for row in second.rows[150:]
        ]
    assert scores == expected(second, folder)[150:].tolist()


# --- several processes


def children(pid):
    """The processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def stream(server, prepared, rows):
    """Send rows one after the other, each until it is answered, and labels behind; the scores."""
    scores = []
    for row in rows:
        for path, body in (
            ("/predict", {"transactions": [row]}),
            ("/labels", {"labels": labels_of(prepared, [row])}),
        ):
            if not body.get("labels", True):
                continue
            for _ in range(400):
                try:
                    status, answer, _ = server.call(
                        "POST", path, body, content_type=JSON["content-type"]
                    )
                except OSError:
                    status = 0
                if status == 200:
                    break
                threading.Event().wait(0.05)
            assert status == 200, answer
            if path == "/predict":
                scores += answer["anomaly_scores"]
    return scores


def test_two_workers_and_a_killed_one_lose_and_repeat_nothing(prepared, folder, tmp_path):
    settings = {"workers": 2, "history": tmp_path / "histories", "log_level": "warning"}
    with running(folder, tmp_path / "log", **settings) as server:
        scores = stream(server, prepared, prepared.rows[N_BEFORE:140])
        os.kill(children(server.process.pid)[0], signal.SIGKILL)
        scores += stream(server, prepared, prepared.rows[140:170])
    with running(folder, tmp_path / "log", **settings) as server:
        # sent again after the restart: what was answered counts once
        stream(server, prepared, prepared.rows[160:170])
        scores += stream(server, prepared, prepared.rows[170:])
    assert scores == expected(prepared, folder)[N_BEFORE:].tolist()


def test_workers_end_with_a_parent_that_is_killed(folder, tmp_path):
    """They would hold the port against the next server."""
    with running(folder, tmp_path / "log", workers=2, history=tmp_path / "h") as server:
        workers = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        for _ in range(200):
            if not any(Path(f"/proc/{worker}").exists() for worker in workers):
                return
            threading.Event().wait(0.05)
        raise AssertionError("a worker goes on without its parent")


# --- python -m serve.history


def run(monkeypatch, capsys, folder, place, *arguments):
    monkeypatch.setenv("FRAUD_BUNDLE", str(folder))
    monkeypatch.setenv("FRAUD_HISTORY", str(place))
    status = command.main(list(arguments))
    said = capsys.readouterr()
    return status, said.out + said.err


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_the_command_loads_tells_and_prunes(monkeypatch, capsys, prepared, folder, tmp_path, kind):
    def call(*arguments):
        return run(monkeypatch, capsys, folder, tmp_path / "histories", *arguments)

    assert "no transactions" in call("status")[1]
    status, said = call("load")
    assert status == 0
    assert "has been loaded before" in call("load")[1]
    file = tmp_path / f"later.{kind}"
    rows = prepared.frame.iloc[N_BEFORE:150]
    raw = [
        row | {"fraud": label}
        for row, label in zip(prepared.rows[N_BEFORE:150], rows["fraud"].tolist(), strict=True)
    ]
    for row in raw:
        row["fraud"] = None if row["fraud"] < 0 else row["fraud"]
    if kind == "csv":
        import pandas as pd

        pd.DataFrame(raw).to_csv(file, index=False)
    else:
        file.write_text("\n".join(map(json.dumps, raw)))
    status, said = call("load", str(file))
    assert status == 0, said
    assert "60 new transactions of 60" in said
    assert "labels of those before are filled in" in said
    assert "0 new transactions of 60" in call("load", str(file))[1]
    with serving(folder, tmp_path / "histories") as client:
        body = {"transactions": prepared.rows[150:151]}
        score = post(client, body).json()["anomaly_scores"][0]
    assert score == expected(prepared, folder)[150]
    status, said = call("prune")
    assert status == 0
    assert "transactions dropped" in said


def test_a_table_goes_from_its_file_into_a_store(monkeypatch, capsys, prepared, folder, tmp_path):
    file = tmp_path / "shop.csv"
    table().to_csv(file, index=False, sep=";", decimal=",")
    description = tmp_path / "shop.yaml"
    description.write_text(json.dumps(prepared.dataset.to_dict() | {"raw": {"path": "shop.csv"}}))
    assert raw_rows.main(["--dataset", str(description)]) == 0
    lines = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    status, said = run(monkeypatch, capsys, folder, tmp_path / "histories", "load", "-")
    assert status == 0, said
    assert "200 new transactions of 200" in said
    assert f"{len(prepared.labels())} with a label" in said
    assert raw_rows.main(["--dataset", str(tmp_path / "absent.yaml")]) == 2
    assert raw_rows.main(["--dataset", "simulated"]) == 2


def test_the_command_refuses_in_a_sentence(monkeypatch, capsys, prepared, folder, tmp_path):
    def call(*arguments, bundle=folder, place=tmp_path / "histories"):
        status, said = run(monkeypatch, capsys, bundle, place, *arguments)
        assert status == 2
        assert said.count("\n") == 1
        return said

    wrong = tmp_path / "wrong.csv"
    wrong.write_text("nr,t\nT1,yesterday\n")
    assert "row 1" in call("load", str(wrong))
    assert "cannot be read" in call("load", str(tmp_path / "absent.csv"))
    (tmp_path / "empty.csv").write_text("")
    assert "no transactions" in call("load", str(tmp_path / "empty.csv"))
    assert "no bundle" in call("status", bundle=tmp_path)
    (tmp_path / "file").write_text("")
    assert "FRAUD_HISTORY" in call("status", place=tmp_path / "file" / "below")
    by_row = Prepared(shop([{"category": "kind"}]), table(60))
    assert "no histories" in call("status", bundle=by_row.write(tmp_path / "by_row", 0))


def test_the_history_is_no_part_of_the_bundles_hash(prepared, tmp_path):
    with_history = bundle.load(prepared.write(tmp_path / "a", N_BEFORE))
    without = bundle.load(prepared.write(tmp_path / "b", 0))
    assert with_history.hash == without.hash
    assert HISTORY in with_history.manifest["files"]
    damaged = next((tmp_path / "a").glob("history-*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(bundle.BundleError, match="sha256"):
        bundle.load(tmp_path / "a")


@pytest.mark.check
def test_histories_in_redis_survive_a_lost_server(prepared, folder, tmp_path):
    store = online.Redis(tmp_path)
    try:
        settings = {"history": store.url, "log_level": "warning"}
        with (  # as if on two hosts
            running(folder, tmp_path / "one", **settings) as one,
            running(folder, tmp_path / "two", **settings) as two,
        ):
            scores = []
            for i, row in enumerate(prepared.rows[N_BEFORE:150]):
                scores += stream((one, two)[i % 2], prepared, [row])
            store.stop()
            status, answer, _ = one.call(
                "POST",
                "/predict",
                {"transactions": prepared.rows[:1]},
                content_type="application/json",
            )
            assert status == 503
            assert answer["error"]["code"] == "no_history"
            X = [[0.0] * prepared.X.shape[1]]
            assert (
                one.call("POST", "/predict", {"features": X}, content_type="application/json")[0]
                == 200
            )
            store.start()
            scores += stream(two, prepared, prepared.rows[150:])
        assert scores == expected(prepared, folder)[N_BEFORE:].tolist()
    finally:
        store.stop()


# --- what the API says of itself


def test_the_document_says_what_raw_transactions_are(client, prepared):
    document = client.get("/openapi.json").json()
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    item = body["schema"]["properties"]["transactions"]["items"]
    assert set(item["required"]) == {"nr", *prepared.raw.columns}
    assert body["examples"]["raw"]["value"]["transactions"][0].keys() == set(item["required"])
    parameters = {each["name"] for each in document["paths"]["/predict"]["post"]["parameters"]}
    assert parameters == {"explain", "remember"}
    for example in body["examples"].values():
        assert post(client, example["value"]).status_code == 200
    labels = document["paths"]["/labels"]["post"]["requestBody"]["content"]["application/json"]
    example = labels["examples"]["fraud"]["value"]
    assert post(client, example, "/labels").json() == {"labelled": 1, "unknown": []}
    page = client.get("/docs").text
    assert 'name="remember" checked' in page


def test_a_model_without_histories_has_no_labels_in_its_document(prepared, tmp_path):
    by_row = Prepared(shop([{"category": "kind"}]), table(60))
    with serving(by_row.write(tmp_path / "served", 0), tmp_path) as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert "/labels" not in paths
        assert "/predict" in paths


@pytest.mark.check
def test_the_api_keeps_what_its_document_says_of_raw_transactions(folder, tmp_path):
    # more rows than are taken at once are too large, which is as good a refusal as others
    (tmp_path / "schemathesis.toml").write_text(
        "[checks]\nnegative_data_rejection.expected-statuses = "
        '["400", "401", "404", "405", "413", "415", "422", "5xx"]\n'
    )
    limits = {"max_rows": 50, "max_explained_rows": 50}
    with running(folder, tmp_path / "log", history=tmp_path / "h", **limits) as server:
        call = "from schemathesis.cli import schemathesis; schemathesis()"
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        command = [sys.executable, "-c", call, "run", url, "--checks", "all", "--seed", "0"]
        command += ["--max-examples", "20", "--no-color", "--phases", "examples,coverage,fuzzing"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert [line for line in server.lines() if line.get("status") == 500] == []
    assert done.returncode == 0, done.stdout[-3000:]
