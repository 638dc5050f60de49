import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import bundles
import pytest
from server import MODULE, ROOT, UVICORN, running

from serve.settings import Settings, SettingsError

ROW = {"features": [[0.25] * 28 + [149.62]]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bundles.write(tmp_path_factory.mktemp("served"), "autoencoder", hashed_names=True)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A forest; ten thousand rows keep it busy for a tenth of a second."""
    return bundles.write(tmp_path_factory.mktemp("slow"), "forest", hashed_names=True)


class Callers:
    """Threads that post without a pause; `wrong` holds every answer that was not wanted."""

    def __init__(self, server, n, body=ROW, wanted=(200,), path="/predict"):
        self.answers, self.wrong, self.ended = [], [], threading.Event()
        content = json.dumps(body).encode()

        def post():
            connection = server.connect()
            while not self.ended.is_set():
                start = time.perf_counter()
                method = "POST" if path == "/predict" else "GET"
                status, answer, _ = server.call(method, path, content, connection)
                self.answers.append((status, time.perf_counter() - start, answer))
                if status not in wanted:
                    self.wrong.append((status, answer))

        def watched():
            try:
                post()
            except Exception as error:  # shown by the test, which would not see it otherwise
                self.wrong.append(repr(error))

        self.threads = [threading.Thread(target=watched) for _ in range(n)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def until(condition, timeout_s=15):
    """Wait for the condition to hold and return what it gives."""
    end = time.perf_counter() + timeout_s
    while time.perf_counter() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to hold in time")


def test_uvicorn_serves_it_and_starts_small_and_fast(folder, tmp_path):
    with running(folder, tmp_path / "log", UVICORN) as server:
        assert server.call("POST", "/predict", ROW)[0] == 200
        assert server.memory_mb() < 150
        assert server.ready_s < 10, "1.5 s on a quiet machine; benchmarks/serve.py measures it"
        assert server.stop() in (0, -signal.SIGTERM)
    lines = server.lines()
    assert [line["path"] for line in lines if line["logger"] == "serve.request"] == ["/predict"]


def test_nothing_heavy_is_imported():
    names = (
        "torch mlflow pandas sklearn scipy matplotlib onnx papermill pyarrow pickle5 cloudpickle"
    )
    code = f"import sys, serve.app; print([n for n in '{names}'.split() if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FRAUD_PORT", "eighty", "a number is needed"),
        ("FRAUD_POLL_S", "nan", "must be within"),
        ("FRAUD_LOG_LEVEL", "loud", "choose one of debug"),
        ("FRAUD_BUNDLE", " ", "is empty"),
        ("FRAUD_HOST", " ", "is empty"),
        ("FRAUD_KEEP_ALIVE_S", "0", "must be within"),
        ("FRAUD_PORT", "tcp://10.0.0.1:8000", "Kubernetes"),
    ],
)
def test_a_wrong_setting_is_a_sentence(name, value, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        Settings.from_environment({name: value})


@pytest.mark.parametrize("command", [MODULE, UVICORN[:-2]], ids=["module", "uvicorn"])
def test_a_wrong_setting_stops_the_server_without_a_trace(command):
    environ = {**os.environ, "FRAUD_WORKERS": "two"}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "serve: FRAUD_WORKERS is 'two'; a number is needed.\n"


def test_help_lists_every_setting():
    done = subprocess.run([*MODULE, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"FRAUD_BUNDLE", "FRAUD_API_KEY", "FRAUD_WORKERS"} <= set(
        re.findall(r"FRAUD_\w+", done.stdout)
    )


def test_bundles_are_replaced_under_load_without_losing_a_request(tmp_path):
    folder = bundles.write(tmp_path / "bundle", hashed_names=True, version="1")
    with running(folder, tmp_path / "log", poll_s=0.1) as server, Callers(server, 4) as callers:
        for version in ("2", "3", "4"):
            bundles.write(folder, seed=int(version), hashed_names=True, version=version)
            until(lambda v=version: server.call("GET", "/model")[1]["version"] == v)
        manifest = (folder / "manifest.json").read_bytes()
        (folder / "manifest.json").write_bytes(
            manifest.replace(b'"schema_version": 1', b'"schema_version": 9')
        )
        refused = until(lambda: server.call("GET", "/health/ready")[1]["refused"])
        time.sleep(0.3)
        assert "newer" in refused
        assert server.call("POST", "/predict", ROW)[1]["model_version"] == "4"
        (folder / "manifest.json").write_bytes(manifest)
        until(lambda: server.call("GET", "/health/ready")[1]["refused"] is None)
    assert callers.wrong == []
    assert {answer["model_version"] for _, _, answer in callers.answers} == {"1", "2", "3", "4"}
    events = [line["message"] for line in server.lines() if line["logger"] == "serve.model"]
    assert events.count("bundle refused") == 1


def test_a_server_without_bundle_becomes_ready_when_one_is_exported(folder, tmp_path):
    with running(tmp_path / "bundle", tmp_path / "log", wait=503, poll_s=0.1) as server:
        assert server.call("POST", "/predict", ROW)[0] == 503
        shutil.copytree(folder, tmp_path / "bundle")
        until(lambda: server.call("GET", "/health/ready")[0] == 200)
        assert server.call("POST", "/predict", ROW)[0] == 200


def test_workers_share_port_metrics_reloads_and_signals(tmp_path):
    folder = bundles.write(tmp_path / "bundle", hashed_names=True, version="1")
    with running(folder, tmp_path / "log", workers=2, poll_s=3_600) as server:

        def children():
            ids = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(server.process.pid)],
                capture_output=True,
                text=True,
            )
            return {int(pid) for pid in ids.stdout.split()}

        def serving():
            found = re.search(
                r'^fraud_model_info{.*version="(\d)"} ([1-9]\S*)$',
                server.call("GET", "/metrics")[1],
                re.M,
            )
            return found and (found[1], float(found[2]))

        until(lambda: serving() == ("1", 2.0))
        for _ in range(40):
            assert server.call("POST", "/predict", ROW)[0] == 200
        counted = re.search(r"^fraud_rows_total (\S+)$", server.call("GET", "/metrics")[1], re.M)
        assert float(counted[1]) == 40.0

        bundles.write(folder, seed=2, hashed_names=True, version="2")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: serving() == ("2", 2.0))

        victim = min(children())
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in children() and serving() == ("2", 2.0))
        counted = re.search(r"^fraud_rows_total (\S+)$", server.call("GET", "/metrics")[1], re.M)
        assert float(counted[1]) == 40.0, "a dead worker's counts stay"
        last = children()
        assert server.stop() == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in last)


@pytest.mark.parametrize("what", ["another name", "broken"])
def test_a_worker_that_is_started_again_answers_as_the_others_do(tmp_path, what):
    """What the running workers have refused is not taken up by one that comes later."""
    folder = bundles.write(tmp_path / "bundle", hashed_names=True, version="1")
    with running(folder, tmp_path / "log", workers=2, poll_s=0.1) as server:

        def children():
            command = ["ps", "-o", "pid=", "--ppid", str(server.process.pid)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return {int(pid) for pid in done.stdout.split()}

        def gauge():
            found = re.findall(
                r"^fraud_model_info{(.*)} ([1-9]\S*)$", server.call("GET", "/metrics")[1], re.M
            )
            return [(re.search('name="(.*?)"', labels)[1], float(n)) for labels, n in found]

        until(lambda: gauge() == [("fraud-detector", 2.0)])
        bundles.write(folder, seed=2, hashed_names=True, version="2")
        until(
            lambda: (
                {server.call("POST", "/predict", ROW)[1]["model_version"] for _ in range(10)}
                == {"2"}
            )
        )
        if what == "broken":
            (folder / "manifest.json").write_text("{}")
        else:
            bundles.write(
                folder, seed=3, hashed_names=True, version="9", name="fraud-detector-simulated"
            )
        until(lambda: server.call("GET", "/health/ready")[1]["refused"])
        victim = min(children())
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in children() and gauge() == [("fraud-detector", 2.0)])
        answers = [server.call("POST", "/predict", ROW) for _ in range(40)]
        assert {(status, headers["x-model"]) for status, _, headers in answers} == {
            (200, "fraud-detector/2")
        }
        bundles.write(folder, seed=4, hashed_names=True, version="3")
        until(
            lambda: (
                {server.call("POST", "/predict", ROW)[1]["model_version"] for _ in range(10)}
                == {"3"}
            )
        )
        assert server.stop() == 0


def test_termination_answers_what_is_in_flight(slow, tmp_path):
    body = json.dumps({"features": bundles.rows(10_000).tolist()}).encode()
    with running(slow, tmp_path / "log") as server:
        answers = []
        caller = threading.Thread(
            target=lambda: answers.append(server.call("POST", "/predict", body))
        )
        caller.start()
        time.sleep(0.15)
        server.process.send_signal(signal.SIGTERM)
        caller.join()
        assert server.process.wait(20) == 0
    status, answer, _ = answers[0]
    assert (status, len(answer["anomaly_scores"])) == (200, 10_000)


def test_overload_is_told_at_once_and_health_still_answers(slow, tmp_path):
    body = {"features": bundles.rows(4_000).tolist()}
    with (
        running(slow, tmp_path / "log", max_large=2) as server,
        Callers(server, 12, body, (200, 503)) as callers,
    ):
        with Callers(server, 1, path="/health/live") as health:
            time.sleep(1)
        refused = [entry for entry in list(callers.answers) if entry[0] == 503]
        _, _, headers = until(
            lambda: (found := server.call("POST", "/predict", body))[0] == 503 and found
        )
    assert callers.wrong == health.wrong == []
    assert refused[0][2]["error"]["code"] == "overloaded"
    assert headers["retry-after"] == "1"
    times = sorted(seconds for _, seconds, _ in health.answers)
    assert times[len(times) // 2] < 0.5
    assert any(status == 200 for status, _, _ in callers.answers)


def test_a_large_request_does_not_block_the_small_ones(slow, tmp_path):
    large = {"features": bundles.rows(10_000).tolist()}
    with running(slow, tmp_path / "log") as server, Callers(server, 1, large) as blockers:
        until(lambda: blockers.answers)
        with Callers(server, 1) as small:
            time.sleep(1)
    assert blockers.wrong == small.wrong == []
    small_s = sorted(seconds for _, seconds, _ in small.answers)[len(small.answers) // 2]
    large_s = min(seconds for _, seconds, _ in blockers.answers)
    assert small_s < large_s / 4


def test_every_line_of_the_log_is_json(folder, tmp_path):
    with running(folder, tmp_path / "log", workers=2) as server:
        assert server.call("POST", "/predict", ROW)[0] == 200
        assert server.stop() == 0
    lines = server.log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    assert {line["message"] for line in server.lines() if "message" in line} >= {"bundle loaded"}


def test_a_body_that_does_not_arrive_is_given_up(folder, tmp_path):
    with running(folder, tmp_path / "log", body_timeout_s=0.2) as server:
        connection = server.connect()
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "5000")
        connection.endheaders(b'{"features"')
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (408, "timeout")
        cut = server.connect()
        cut.putrequest("POST", "/predict")
        cut.putheader("Content-Type", "application/json")
        cut.putheader("Content-Length", "5000")
        cut.endheaders(b'{"features"')
        cut.close()
        until(lambda: any(line.get("code") == "incomplete_body" for line in server.lines()))
        assert server.call("POST", "/predict", ROW)[0] == 200


def test_bodies_together_are_bounded(folder, tmp_path):
    with running(folder, tmp_path / "log", max_body_mb=1, max_buffered_mb=2) as server:
        held = []
        for i in itertools.count():
            connection = server.connect()
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", "900000")
            connection.endheaders(b"{")
            held.append(connection)
            time.sleep(0.1)
            if server.call("POST", "/predict", b" " * 900_000)[0] == 503:
                break
            assert i < 3
        assert server.call("POST", "/predict", ROW)[0] == 200
        for connection in held:
            connection.close()
        until(lambda: server.call("POST", "/predict", b" " * 900_000)[0] == 400)
