import dataclasses
import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import bundles
import pytest
import yaml
from conftest import ROOT
from team import COMPOSE, store_address

from serve.settings import PREFIX, Settings

DOCKERFILES = ["Dockerfile.prod", "Dockerfile.mlflow", "Dockerfile.engine"]
ENGINE = yaml.safe_load((ROOT / "compose.engine.yaml").read_text())
PODS = list(yaml.safe_load_all((ROOT / "kubernetes.engine.yaml").read_text()))


def instructions(name):
    """The instructions of a Dockerfile, each on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.M)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_needs_no_buildkit_and_no_root(name):
    lines = instructions(name)
    assert lines[0] == "ARG PYTHON_IMAGE=python:3.11-slim"
    assert {line for line in lines if line.startswith("FROM")} <= {
        "FROM ${PYTHON_IMAGE}",
        "FROM ${PYTHON_IMAGE} AS build",
    }
    assert [line for line in lines if "--mount" in line or "<<" in line] == []
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]


def test_image_holds_the_locked_packages_the_bundle_and_what_reads_it():
    text = "\n".join(instructions("Dockerfile.prod"))
    assert "--require-hashes" in text
    assert "requirements-serve.txt" in text
    assert "There is no bundle in serve/model" in text
    assert "HEALTHCHECK" in text
    assert "FRAUD_HOST=0.0.0.0" in text
    allowed = {
        line.removeprefix("!lib/").removesuffix(".py")
        for line in ignored()
        if line.startswith("!lib/")
    }
    needed = {"__init__", "bundle"}
    for path in (ROOT / "lib" / "bundle").glob("*.py"):
        needed |= set(re.findall(r"^from lib\.(\w+)[\w.]* import", path.read_text(), re.M))
    assert allowed == needed


def ignored():
    """The lines of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and line[0] != "#"]


def test_the_build_context_holds_what_is_copied_and_no_more():
    lines = ignored()
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line[0] == "!"]
    copied = [
        source
        for name in DOCKERFILES
        for line in instructions(name)
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert set(copied) == {"lib" if name.startswith("lib/") else name for name in allowed}
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert any(fnmatch.fnmatch("serve/__pycache__", line) for line in lines)
    # what a server remembers of people's payments must not get into an image
    (remembered,) = (f for f in dataclasses.fields(Settings) if f.name == "history")
    assert Path(remembered.default).relative_to(ROOT).as_posix() in lines


def test_compose_starts_server_mlflow_and_postgres():
    services = COMPOSE["services"]
    assert set(services) == {"server", "mlflow", "postgres"}
    for name, dockerfile in (("server", "Dockerfile.prod"), ("mlflow", "Dockerfile.mlflow")):
        assert services[name]["build"] == {"context": ".", "dockerfile": dockerfile}
    assert services["mlflow"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert {service["restart"] for service in services.values()} == {"unless-stopped"}
    used = {
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
    }
    assert {name for name in used if "/" not in name} == set(COMPOSE["volumes"])
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_names_settings_that_exist_and_has_no_password():
    server, mlflow, postgres = (
        COMPOSE["services"][name] for name in ("server", "mlflow", "postgres")
    )
    Settings.from_environment(
        {name: "1" for name in server["environment"] if name.startswith(PREFIX)}
    )
    assert server["read_only"]
    assert server["cap_drop"] == ["ALL"]
    secrets = [
        server["environment"]["FRAUD_API_KEY"],
        mlflow["environment"]["PGPASSWORD"],
        postgres["environment"]["POSTGRES_PASSWORD"],
    ]
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", secret) for secret in secrets)
    address = store_address()
    assert (address.username, address.password) == (postgres["environment"]["POSTGRES_USER"], None)
    assert address.database == postgres["environment"]["POSTGRES_DB"]
    assert address.host in COMPOSE["services"]


def test_mlflows_address_names_a_driver_that_its_image_installs():
    assert "+" in store_address().drivername, (
        "which driver postgresql:// means depends on the version of SQLAlchemy; name one"
    )
    driver = store_address().get_driver_name()
    lock = (ROOT / "requirements-mlflow.txt").read_text()
    assert {driver, f"{driver}-binary"} <= set(re.findall(r"^([\w.-]+)==", lock, re.M)), (
        f"the address names the driver {driver}, which requirements-mlflow.txt does not install"
    )
    installs = [line for line in instructions("Dockerfile.mlflow") if "pip install" in line]
    assert [line.split("pip install")[1].split() for line in installs] == [
        ["--no-cache-dir", "--require-hashes", "-r", "/build/requirements-mlflow.txt"]
    ]
    assert "COPY requirements-mlflow.txt /build/" in instructions("Dockerfile.mlflow")


def test_the_engines_image_holds_what_the_pipeline_needs_as_locked():
    text = "\n".join(instructions("Dockerfile.engine"))
    assert "--require-hashes -r /build/requirements-engine.txt" in text
    assert "ARG TORCH=" + declared_torch() in text
    assert "COPY requirements-engine.txt /build/" in text


def declared_torch():
    """The line of pyproject.toml that names torch and its version."""
    return re.search(r'"(torch==[^"]+)"', (ROOT / "pyproject.toml").read_text())[1]


def options(command):
    """The words of a Dask command that are no address, without `--host`."""
    return {word for word in command if "://" not in word and not word.startswith("--host")}


def test_compose_starts_a_scheduler_and_two_workers_for_this_machine_alone():
    scheduler, worker = ENGINE["services"]["scheduler"], ENGINE["services"]["worker"]
    assert worker["deploy"] == {"replicas": 2}
    assert "--nthreads=1" in worker["command"]  # one notebook, one part at a time
    (port,) = scheduler["ports"]
    assert port == "127.0.0.1:8786:8786"
    assert "ports" not in worker
    assert worker["command"][2] == "tcp://scheduler:8786"
    (volume,) = worker["volumes"]
    assert re.fullmatch(r"\$\{PWD:\?[^}]+\}:\$\{PWD\}", volume)  # at the same path
    assert worker["depends_on"] == {"scheduler": {"condition": "service_healthy"}}
    assert scheduler["healthcheck"]
    for service in (scheduler, worker):
        assert service["build"]["dockerfile"] == "Dockerfile.engine"
        assert service["cap_drop"] == ["ALL"]
    assert mib(worker["mem_limit"]) >= mib(limit_of(worker["command"])) + 1024  # and a kernel


def limit_of(command):
    """What Dask lets a worker have, such as 2GiB."""
    (found,) = [word for word in command if word.startswith("--memory-limit=")]
    return found.removeprefix("--memory-limit=")


def mib(text):
    """Mebibytes of `4g`, `2GiB` or `2Gi`."""
    return int(re.match(r"\d+", text)[0]) * 1024


def test_kubernetes_starts_what_compose_starts():
    service, scheduler, worker = PODS
    assert [pod["kind"] for pod in PODS] == ["Service", "Deployment", "Deployment"]
    assert service["spec"]["selector"] == scheduler["spec"]["selector"]["matchLabels"]
    for pod, name in ((scheduler, "scheduler"), (worker, "worker")):
        template = pod["spec"]["template"]
        assert template["metadata"]["labels"] == pod["spec"]["selector"]["matchLabels"]
        (container,) = template["spec"]["containers"]
        composed = ENGINE["services"][name]
        assert container["image"] == composed["image"]
        assert options(container["command"]) == options(composed["command"])
        assert mib(container["resources"]["limits"]["memory"]) == mib(composed["mem_limit"])
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    host = service["metadata"]["name"]
    assert f"tcp://{host}:{service['spec']['ports'][0]['port']}" in container["command"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in worker["spec"]["template"]["spec"]["volumes"]} == mounted


@pytest.mark.check
def test_compose_itself_takes_the_engines_file():
    command = [*compose_command(), "--file", str(ROOT / "compose.engine.yaml"), "config"]
    environment = os.environ | {"PWD": "/home/me/project"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert "/home/me/project" in str(services["worker"]["volumes"])


@pytest.mark.check
def test_the_engines_image_runs_a_notebook_of_the_pipeline():
    daemon = subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    words = [] if daemon else ["--stand-in"]
    command = [sys.executable, str(ROOT / "tests" / "engine_image.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def compose_command():
    """How compose is called here: as Docker's plugin, or by itself."""
    words = ["docker", "compose", "version"]
    plugin = subprocess.run(words, capture_output=True, check=False).returncode == 0
    return ["docker", "compose"] if plugin else ["docker-compose"]


@pytest.mark.check
def test_compose_itself_takes_the_file():
    command = [
        *compose_command(),
        "--file",
        str(ROOT / "compose.yaml"),
        "config",
    ]
    secrets = {"FRAUD_API_KEY": "k", "POSTGRES_PASSWORD": "p", "FRAUD_WORKERS": "2"}
    bare = {name: value for name, value in os.environ.items() if name not in secrets}
    done = subprocess.run(command, env=bare | secrets, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert {"FRAUD_API_KEY": "k", "FRAUD_WORKERS": "2"}.items() <= services["server"][
        "environment"
    ].items()
    for missing in ("FRAUD_API_KEY", "POSTGRES_PASSWORD"):
        some = bare | {name: value for name, value in secrets.items() if name != missing}
        refused = subprocess.run(command, env=some, capture_output=True, text=True, check=False)
        assert refused.returncode != 0, f"{missing} may be left out"
        assert missing in refused.stderr


@pytest.mark.check
def test_the_image_is_built_answers_and_drains(tmp_path):
    bundle = bundles.write(tmp_path / "bundle", hashed_names=True)
    daemon = subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    words = [
        "--image",
        "anomaly-detection:test",
        "--bundle",
        str(bundle),
        *([] if daemon else ["--stand-in"]),
    ]
    command = [sys.executable, str(ROOT / "tests" / "image.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
