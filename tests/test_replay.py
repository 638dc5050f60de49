import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import bundles
import httpx
import msgspec
import numpy as np
import pandas as pd
import pytest

from lib import bundle
from lib.production import replay
from lib.production.replay import Traffic


class Counting(BaseHTTPRequestHandler):
    """A server in the test's process: scores a row by its first value, after as many failures as
    `failures` says.
    """

    protocol_version = "HTTP/1.1"
    failures, refuse, bodies = 0, None, []

    def do_POST(self):
        rows = msgspec.json.decode(self.rfile.read(int(self.headers["content-length"])))["features"]
        status, answer = (
            200,
            {"predictions": [0] * len(rows), "anomaly_scores": [r[0] for r in rows]},
        )
        if type(self).failures > 0:
            type(self).failures -= 1
            status = 503
        elif type(self).refuse in [r[0] for r in rows]:
            status = 422
        type(self).bodies.append(len(rows))
        body = msgspec.json.encode(answer | {"model_version": "1"})
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def counting():
    handler = type("Handler", (Counting,), {"failures": 0, "refuse": None, "bodies": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        handler.client = staticmethod(
            lambda **options: httpx.Client(base_url=url, trust_env=False, **options)
        )
        yield handler
        server.shutdown()


def rows(n):
    return np.arange(2 * n, dtype=np.float32).reshape(n, 2)


def test_every_row_has_one_line_in_order(counting):
    log = replay.replay(counting, rows(250), first=1_000, traffic=Traffic(rows_per_request=100))
    assert log["position"].tolist() == list(range(1_000, 1_250))
    assert log["anomaly_score"].tolist() == [2.0 * i for i in range(250)]
    assert sorted(counting.bodies) == [50, 100, 100]
    none = {"n_lost": 0, "n_duplicated": 0, "n_refused": 0, "n_retries": 0}
    assert replay.count(log, 250) == {"n_lines": 250} | none


def test_a_request_that_gets_no_answer_is_sent_again(counting):
    counting.failures = 3
    log = replay.replay(counting, rows(100), traffic=Traffic(rows_per_request=10, connections=1))
    assert replay.count(log, 100) == {
        "n_lines": 100,
        "n_lost": 0,
        "n_duplicated": 0,
        "n_refused": 0,
        "n_retries": 3,
    }
    assert log["n_tries"].max() == 4


def test_a_refused_row_stands_alone_in_the_log(counting):
    counting.refuse = 26.0
    log = replay.replay(counting, rows(40), traffic=Traffic(rows_per_request=40))
    assert log.index[log["status"] == 422].tolist() == [13]
    assert np.isnan(log["anomaly_score"][13])
    assert log["alert"][13] == 0
    assert replay.count(log, 40)["n_refused"] == 1
    assert replay.count(log, 40)["n_lost"] == 0


def test_nobody_there_is_told_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(replay, "PATIENCE_S", 0.1)
    server = replay.Server(tmp_path, tmp_path / "log")
    with pytest.raises(replay.ReplayError, match="to the request from row 0 on"):
        replay.replay(server, rows(3))


def test_real_time_is_kept(counting):
    time_s = np.repeat([0.0, 10.0, 20.0], 5)
    traffic = Traffic(rows_per_request=5, speed=50.0)
    log = replay.replay(counting, rows(15), time_s=time_s, traffic=traffic)
    assert 0.4 <= log.attrs["seconds"] < 5


def test_count_sees_what_is_lost_and_doubled():
    log = pd.DataFrame(
        {"position": [5, 6, 6, 8], "request": [5, 5, 5, 8], "n_tries": [1, 1, 1, 3], "status": 200}
    )
    counted = replay.count(log, 4)
    assert (counted["n_lost"], counted["n_duplicated"], counted["n_retries"]) == (1, 1, 2)


def test_reloads_and_a_kill_lose_nothing(tmp_path):
    bundles.write(tmp_path / "bundle")
    X = bundles.rows(3_000)

    def power_cut():
        server.kill()
        server.launch()

    with replay.Server(tmp_path / "bundle", tmp_path / "log") as server:
        acts = {500: server.reload, 1_000: server.reload, 1_500: server.reload, 2_000: power_cut}
        time_s = np.linspace(0, 2, len(X))
        traffic = Traffic(rows_per_request=20, speed=1.0)
        log = replay.replay(server, X, time_s=time_s, traffic=traffic, at=acts)
    counted = replay.count(log, len(X))
    assert (counted["n_lines"], counted["n_lost"], counted["n_duplicated"]) == (3_000, 0, 0)
    assert counted["n_retries"] > 0
    assert (log["anomaly_score"] == bundle.load(tmp_path / "bundle").anomaly_score(X)).all()


def test_a_server_without_bundle_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(replay, "PATIENCE_S", 4.0)
    with (
        pytest.raises(replay.ReplayError, match="did not become ready"),
        replay.Server(tmp_path, tmp_path / "log"),
    ):
        pass
