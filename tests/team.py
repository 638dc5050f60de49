"""What compose.yaml starts for a team, without containers: PostgreSQL in a temporary folder, and
MLflow's server on it from an environment with the packages of its image.
"""

import contextlib
import http.client
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from conftest import ROOT
from server import free_port
from sqlalchemy.engine import make_url

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
PASSWORD = "p@ss/w#rd %41:? ü"  # whatever would mean something in an address
STORE = "--backend-store-uri"


def mlflow_options():
    """The options of compose.yaml's MLflow server: {option: value}, such as {"--port": "5000"}."""
    words = COMPOSE["services"]["mlflow"]["command"]
    assert words[:2] == ["mlflow", "server"]
    return dict(word.split("=", 1) for word in words[2:])


def store_address():
    """Where compose.yaml's MLflow server keeps runs and registry, as SQLAlchemy reads it."""
    return make_url(mlflow_options()[STORE])


def _program(name):
    """Where one of PostgreSQL's programs is; Debian keeps them out of PATH."""
    found = shutil.which(name) or max(
        map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=""
    )
    assert found, f"PostgreSQL is missing ({name}): apt-get install postgresql"
    return found


def _unprivileged():
    """As whom PostgreSQL runs, for subprocess: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        raise AssertionError(
            "PostgreSQL does not run as root, and there is no user postgres: apt-get install "
            "postgresql makes one"
        ) from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class Database:
    """A PostgreSQL cluster of its own on a free port of 127.0.0.1, with compose.yaml's user."""

    def __init__(self):
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="team-postgres-"))
        self.account = _unprivileged()
        user = COMPOSE["services"]["postgres"]["environment"]["POSTGRES_USER"]
        password = self.folder / "password"
        password.write_text(PASSWORD)
        for path in (self.folder, password):
            if self.account:
                os.chown(path, self.account["user"], self.account["group"])
        self._run(
            "initdb",
            *("--username", user, "--pwfile", password, "--auth", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self._run("pg_ctl", "start", "-w", "-l", self.folder / "log", "-o", options)
        name = COMPOSE["services"]["postgres"]["environment"]["POSTGRES_DB"]
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", user, name)

    def _run(self, program, *words):
        environment = os.environ | {"PGDATA": str(self.folder / "data"), "PGPASSWORD": PASSWORD}
        done = subprocess.run(
            [_program(program), *map(str, words)],
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self.account,
        )
        assert done.returncode == 0, f"{program} failed: {done.stdout[-2000:]}"

    def stop(self):
        """Stop the cluster and remove its folder."""
        try:
            self._run("pg_ctl", "stop", "-w", "-m", "fast")
        finally:
            shutil.rmtree(self.folder)


def install(folder):
    """Make an environment with what requirements-mlflow.txt locks -> its folder.

    Of what the project's own environment has it can take nothing: the lock has to be enough.
    """
    for words in (
        ["venv", "--quiet", "--no-project", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
        + ["--compile-bytecode", "--require-hashes", "-r", str(ROOT / "requirements-mlflow.txt")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "uv", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"requirements-mlflow.txt cannot be installed: {done.stderr}"
    return folder


class MlflowServer:
    """The server of compose.yaml with its options, but for ports and folders.

    Attributes
    ----------
    uri : for MLFLOW_TRACKING_URI
    """

    def __init__(self, environment, database, folder):
        self.program = environment / "bin" / "mlflow"
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None
        address = store_address().set(host="127.0.0.1", port=database.port)
        self.options = mlflow_options() | {
            "--host": "127.0.0.1",
            "--port": str(self.port),
            STORE: address.render_as_string(hide_password=False),
            "--artifacts-destination": str(folder / "artifacts"),
        }

    def start(self):
        """Start it, and wait until it answers as compose.yaml's health check wants."""
        words = [f"{option}={value}" for option, value in self.options.items()]
        # nothing else of our environment: a container has no more
        environment = {
            "PATH": f"{self.program.parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PGPASSWORD": PASSWORD,
        }
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [self.program, "server", *words],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 240
        while not self._is_healthy():
            said = (self.folder / "log").read_text()[-3000:]
            assert self.process.poll() is None, f"MLflow's server ended: {said}"
            assert time.monotonic() < deadline, f"MLflow's server did not start: {said}"
            time.sleep(0.2)

    def _is_healthy(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def kill(self, number=signal.SIGKILL):
        """Kill it and its workers at once, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait(timeout=60)
