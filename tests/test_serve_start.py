"""The server's start in the world: others' variables, addresses, folders, proxies, idle clients."""

import errno
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import time

import bundles
import pytest
from server import MODULE, ROOT, UVICORN, free_port, running

from serve import healthcheck, sockets
from serve.settings import Settings, SettingsError, unknown

ROW = {"features": [[0.25] * 28 + [149.62]]}
LINKS = {
    "FRAUD_DETECTOR_SERVICE_HOST": "10.0.0.1",
    "FRAUD_DETECTOR_SERVICE_PORT": "8000",
    "FRAUD_DETECTOR_SERVICE_PORT_HTTP": "8000",
    "FRAUD_DETECTOR_PORT": "tcp://10.0.0.1:8000",
    "FRAUD_DETECTOR_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "FRAUD_DETECTOR_PORT_8000_TCP_PROTO": "tcp",
    "FRAUD_DETECTOR_PORT_8000_TCP_PORT": "8000",
    "FRAUD_DETECTOR_PORT_8000_TCP_ADDR": "10.0.0.1",
    "FRAUD_2_PORT_53_UDP": "udp://10.0.0.9:53",
    "FRAUD_2_PORT_53_UDP_ADDR": "fd00::1",
    "FRAUD_SERVICE_HOST": "10.0.0.2",
    "FRAUD_PORT_9000_TCP": "tcp://10.0.0.2:9000",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bundles.write(tmp_path_factory.mktemp("served"), hashed_names=True)


def start(command=MODULE, timeout_s=60, **variables):
    """Start a server that is expected to end by itself -> (exit status, stdout, stderr)."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
    options = {"capture_output": True, "text": True, "timeout": timeout_s, "check": False}
    done = subprocess.run(command, cwd=ROOT, env=environ | variables, **options)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def check(port, host="127.0.0.1", **variables):
    """Run the health check as a container does -> (exit status, what it says)."""
    given = {"FRAUD_PORT": str(port), "FRAUD_HOST": host} | variables
    status, out, err = start([sys.executable, "-m", "serve.healthcheck"], **given)
    assert err == ""
    return status, out


# variables


@pytest.mark.parametrize("name", LINKS)
def test_a_service_link_is_passed_over_silently(name):
    ((level, _),) = unknown({name: LINKS[name]}).values()
    assert level == logging.DEBUG
    assert Settings.from_environment({name: LINKS[name]}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("FRAUD_WORKER", "2", "FRAUD_WORKERS"),
        ("FRAUD_API_KEYS", "s3cret", "FRAUD_API_KEY"),
        ("FRAUD_MAX_ROW", "5", "FRAUD_MAX_ROWS"),
        ("FRAUD_X_PORT", "8000", "FRAUD_PORT"),
        ("FRAUD_X_SERVICE_HOST", "a.name", "FRAUD_"),
        ("FRAUD_", "", "FRAUD_"),
    ],
)
def test_an_unknown_variable_is_a_warning_that_names_the_nearest(name, value, nearest):
    ((level, sentence),) = unknown({name: value}).values()
    assert level == logging.WARNING
    assert name in sentence
    assert f"did you mean {nearest}" in sentence
    assert not value or value not in sentence.replace(name, "")
    assert Settings.from_environment({name: value}) == Settings()


@pytest.mark.parametrize(("workers", "command"), [(1, MODULE), (2, MODULE), (1, UVICORN)])
def test_a_pod_beside_a_service_of_our_name_starts_and_warns_once(
    folder, tmp_path, workers, command
):
    names = {name.removeprefix("FRAUD_").lower(): value for name, value in LINKS.items()}
    with running(folder, tmp_path / "log", command, workers=workers, worker="2", **names) as server:
        assert server.call("POST", "/predict", ROW)[0] == 200
        assert server.stop() in (0, -15)
    (line,) = [line for line in server.lines() if "not a setting" in line.get("message", "")]
    assert line["level"] == "warning"
    assert "FRAUD_WORKERS" in line["message"]
    assert "DETECTOR" not in server.log.read_text()


def test_a_service_link_in_place_of_the_port_is_explained():
    status, _, err = start(FRAUD_PORT="tcp://10.0.0.1:8000")
    assert status == 2
    assert err.count("\n") == 1
    for word in ("FRAUD_PORT", "Kubernetes", "'fraud'", "enableServiceLinks"):
        assert word in err


# addresses


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::", "localhost"])
def test_a_taken_port_is_one_sentence(folder, workers, host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {"FRAUD_HOST": host, "FRAUD_PORT": port, "FRAUD_WORKERS": workers}
        status, _, err = start(FRAUD_BUNDLE=str(folder), **given)
    assert status in (1, 2)
    assert err.count("\n") == 1
    assert f"Port {port}" in err
    assert "FRAUD_PORT" in err


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    "host", ["no-such.invalid", "203.0.113.7", "2001:db8::7", "x" * 70, "a..b"]
)
def test_an_unknown_host_is_one_sentence(folder, workers, host):
    given = {"FRAUD_HOST": host, "FRAUD_PORT": "0", "FRAUD_WORKERS": workers}
    status, _, err = start(FRAUD_BUNDLE=str(folder), **given)
    assert status in (1, 2)
    assert err.count("\n") == 1
    assert f"FRAUD_HOST is '{host}'" in err


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, ["port 80", "1024", "FRAUD_PORT"]),
        (errno.EPERM, ["port 80", "FRAUD_PORT"]),
        (errno.EAFNOSUPPORT, ["IPv6"]),
        (errno.EADDRNOTAVAIL, ["not an address of this machine"]),
        (errno.ENFILE, ["cannot listen", os.strerror(errno.ENFILE)]),
    ],
)
def test_what_the_system_refuses_is_a_sentence(monkeypatch, number, words):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(SettingsError) as refused:
        sockets.listen("127.0.0.1", 80)
    for word in words:
        assert word in str(refused.value)


def test_a_name_with_an_address_that_is_absent_listens_on_the_others(monkeypatch):
    bind = socket.socket.bind

    def without_ipv6(self, address):
        if self.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "absent")
        bind(self, address)

    monkeypatch.setattr(socket.socket, "bind", without_ipv6)
    addresses = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    monkeypatch.setattr(sockets, "_addresses", lambda *_: addresses)
    (opened,) = sockets.listen("a-name", 0)
    with opened:
        assert opened.family == socket.AF_INET
        assert sockets.shown(opened) == f"http://127.0.0.1:{opened.getsockname()[1]}"


def test_all_addresses_of_a_name_get_one_port(monkeypatch):
    addresses = [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0))]
    monkeypatch.setattr(sockets, "_addresses", lambda *_: addresses)
    opened = sockets.listen("a-name", 0)
    assert len({each.getsockname()[1] for each in opened}) == 1
    assert sockets.shown(opened[1]).startswith("http://[::1]:")
    for each in opened:
        each.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_two_colons_serve_both_families_and_the_health_check_finds_them(folder, tmp_path, workers):
    with running(folder, tmp_path / "log", host="::", workers=workers) as server:
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(host, server.port, timeout=10)
            connection.request("GET", "/health/ready")
            assert connection.getresponse().status == 200
            connection.close()
        for host in ("::", "0::0", "0.0.0.0", "127.0.0.1", "::1", "[::1]", "localhost"):
            assert check(server.port, host) == (0, "")


def test_the_health_check_of_two_colons_finds_either_family(folder, tmp_path):
    # the helper asks 127.0.0.1, so that the second server is asked by the health check alone
    with running(folder, tmp_path / "log", host="0.0.0.0") as server:
        assert check(server.port, "::")[0] == 0
        status, said = check(server.port, "::1")
        assert status == 1
        assert "::1" in said


# health check


def test_the_health_check_uses_no_proxy(folder, tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as proxy,
        running(folder, tmp_path / "log") as server,
    ):
        proxy.settimeout(0.1)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy")
        proxies = dict.fromkeys(names, url) | {"no_proxy": "", "NO_PROXY": ""}
        assert check(server.port, **proxies) == (0, "")
        with pytest.raises(TimeoutError):
            proxy.accept()


def test_the_health_check_says_why_a_server_is_not_ready(tmp_path):
    with running(tmp_path / "absent", tmp_path / "log", wait=503) as server:
        status, said = check(server.port)
    assert status == 1
    assert "There is no bundle" in said
    assert check(free_port())[0] == 1


@pytest.mark.parametrize(
    ("port", "host", "word"),
    [
        ("0", "127.0.0.1", "FRAUD_PORT is 0"),
        ("tcp://10.0.0.1:80", "127.0.0.1", "Kubernetes"),
        ("1", "a..b", "a..b"),
    ],
)
def test_the_health_check_explains_what_it_cannot_ask(port, host, word):
    status, said = check(port, host)
    assert status == 1
    assert said.count("\n") == 1
    assert word in said


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", b""]
)
def test_another_program_on_the_port_is_not_ready(answer):
    with socket.create_server(("127.0.0.1", 0)) as other:
        pid = os.fork()
        if pid == 0:
            connection, _ = other.accept()
            connection.recv(1000)
            connection.sendall(answer)
            connection.close()
            os._exit(0)
        said = healthcheck.ask("127.0.0.1", other.getsockname()[1], 2)
        os.waitpid(pid, 0)
    assert said.startswith("port ")


# idle connections and metrics


def idle_s(server, limit_s):
    """How long the server keeps a connection open after an answer, up to the limit."""
    connection = server.connect()
    assert server.call("GET", "/health/live", connection=connection)[0] == 200
    begin = time.perf_counter()
    connection.sock.settimeout(limit_s)
    try:
        assert connection.sock.recv(1) == b""
    except TimeoutError:
        return limit_s
    finally:
        connection.close()
    return time.perf_counter() - begin


def test_idle_connections_outlive_the_usual_proxy(folder, tmp_path):
    assert Settings().keep_alive_s == 75
    with running(folder, tmp_path / "log") as server:
        assert idle_s(server, 7) == 7, "uvicorn's own default is 5 s"
    with running(folder, tmp_path / "log", keep_alive_s=1) as server:
        assert 0.5 < idle_s(server, 5) < 4


@pytest.mark.parametrize("command", [MODULE, UVICORN], ids=["module", "uvicorn"])
def test_the_folder_of_metrics_is_made(folder, tmp_path, monkeypatch, command):
    metrics = tmp_path / "a" / "b"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(metrics))
    with running(folder, tmp_path / "log", command) as server:
        assert server.call("POST", "/predict", ROW)[0] == 200
        assert "fraud_rows_total 1.0" in server.call("GET", "/metrics")[1]
    assert list(metrics.glob("*.db"))


def test_an_empty_name_of_that_folder_means_none(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    before = set(ROOT.glob("*.db"))
    with running(folder, tmp_path / "log") as server:
        assert server.call("POST", "/predict", ROW)[0] == 200
        assert "fraud_rows_total 1.0" in server.call("GET", "/metrics")[1]
    assert set(ROOT.glob("*.db")) == before


@pytest.mark.parametrize("command", [MODULE, UVICORN[:-2]], ids=["module", "uvicorn"])
def test_a_folder_of_metrics_that_cannot_be_written_is_a_sentence(folder, tmp_path, command):
    (tmp_path / "file").write_text("")
    given = {"FRAUD_BUNDLE": str(folder), "FRAUD_PORT": "0"}
    metrics = str(tmp_path / "file" / "x")
    status, _, err = start(command, **given, PROMETHEUS_MULTIPROC_DIR=metrics)
    assert status == 2
    assert err.count("\n") == 1
    assert "PROMETHEUS_MULTIPROC_DIR" in err


def test_workers_without_a_place_for_their_folder_are_a_sentence(monkeypatch, capsys, tmp_path):
    from serve import __main__ as serve

    def refuse(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory")

    monkeypatch.setattr(serve.tempfile, "mkdtemp", refuse)
    assert serve.several(Settings(workers=2), []) == 1
    assert "temporary" in capsys.readouterr().err


def test_head_leaves_nothing_behind_on_its_connection(folder, tmp_path):
    """A body after HEAD would be taken for the next answer."""
    with running(folder, tmp_path / "log") as server:
        connection = server.connect()
        for path in ("/health/live", "/health/ready", "/docs", "/", "/nothing"):
            _, body, headers = server.call("HEAD", path, connection=connection)
            assert not body
            assert int(headers["content-length"]) > 0 or path == "/"
            assert server.call("GET", "/health/live", connection=connection)[1] == {
                "status": "live"
            }
        connection.close()


def test_the_log_says_where_the_server_listens(folder, tmp_path):
    with running(folder, tmp_path / "log") as server:
        pass
    said = [json.loads(line)["message"] for line in server.log.read_text().splitlines()]
    assert f"listening on http://127.0.0.1:{server.port}" in said
