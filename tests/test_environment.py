import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from conftest import ROOT
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAVY = {
    "torch",
    "mlflow",
    "mlflow-skinny",
    "pandas",
    "scikit-learn",
    "scipy",
    "matplotlib",
    "papermill",
    "jupyterlab",
}


def lock(name):
    """The requirements of a lock, by name."""
    lines = re.findall(r"^([a-z0-9][^\\\n]+)", (ROOT / name).read_text(), re.M)
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def declared(*extras):
    """What pyproject.toml asks for: the server's packages and those of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    return [Requirement(line) for line in lines]


def version(requirement):
    return str(requirement.specifier).removeprefix("==")


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-serve.txt",
        "requirements-mlflow.txt",
        "requirements-engine.txt",
    ],
)
def test_lock_pins_one_version_with_hashes_and_names_no_host(name):
    text, requirements = (ROOT / name).read_text(), lock(name)
    assert (
        len(requirements)
        == len(re.findall(r"^[a-z0-9]", text, re.M))
        == len(re.findall(r"==\S+ .*\\$", text, re.M))
    )
    assert re.findall(r"^[a-z0-9].*\n(?!    --hash=sha256:)", text, re.M) == []
    assert "://" not in text
    assert "+cpu" not in text


def test_lock_leaves_torch_and_its_cuda_packages_to_a_step_of_their_own():
    builds = re.compile(r"torch|triton|cuda|nvidia")
    assert [name for name in lock("requirements.txt") if builds.match(name)] == []
    assert {"sympy", "networkx", "filelock", "fsspec", "jinja2"} <= lock("requirements.txt").keys()
    (torch,) = declared("torch")[-1:]
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    assert [entry["version"] for entry in uv["dependency-metadata"]] == [version(torch)]


def test_lock_answers_what_pyproject_asks():
    requirements = lock("requirements.txt")
    for wanted in declared("pipeline", "dev"):
        assert wanted.specifier.contains(version(requirements[canonicalize_name(wanted.name)])), (
            wanted
        )


def test_server_lock_is_the_small_part_of_the_lock():
    everything, server = lock("requirements.txt"), lock("requirements-serve.txt")
    assert {canonicalize_name(wanted.name) for wanted in declared()} <= server.keys()
    assert {
        name: version(pin)
        for name, pin in server.items()
        if version(pin) != version(everything[name])
    } == {}
    assert server.keys() & HEAVY == set()


def test_lock_of_the_teams_mlflow_is_its_group_in_the_versions_of_the_lock():
    everything, team = lock("requirements.txt"), lock("requirements-mlflow.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for wanted in map(Requirement, project["dependency-groups"]["mlflow-server"]):
        assert wanted.specifier.contains(version(team[canonicalize_name(wanted.name)])), wanted
    assert {
        name: version(pin)
        for name, pin in team.items()
        if name in everything and version(pin) != version(everything[name])
    } == {}
    assert "onnxruntime" not in team, "a server of MLflow scores nothing"


def test_lock_of_the_workers_is_the_lock_without_what_only_developers_need():
    everything, engine = lock("requirements.txt"), lock("requirements-engine.txt")
    needed = {canonicalize_name(wanted.name) for wanted in declared("pipeline", "cluster")}
    assert needed <= engine.keys()
    assert {"pytest", "ruff", "mypy"} & engine.keys() == set()
    assert {name: version(pin) for name, pin in engine.items()}.items() <= {
        name: version(pin) for name, pin in everything.items()
    }.items()


def test_conda_environment_is_the_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    python, pip, packages = conda["dependencies"]
    assert (python, pip, list(packages)) == ("python=3.11", "pip", ["pip"])
    *pins, project = packages["pip"]
    assert project == "--editable ."
    assert sorted(pins) == sorted(
        str(line) for line in [*declared("torch")[-1:], *map(_plain, lock("requirements.txt"))]
    )
    lines = (ROOT / "environment.yml").read_text().splitlines()
    assert [line for line in lines if not re.search(r"# \w+", line)] == []


def _plain(name):
    return re.search(
        rf"^{re.escape(name)}==[^\\\n]+", (ROOT / "requirements.txt").read_text(), re.M
    )[0].rstrip()


def test_installed_packages_are_the_locked_ones():
    wanted = {
        name: version(pin) for name, pin in lock("requirements.txt").items() if _applies(pin.marker)
    }
    # the Makefile takes it out again: it is optional and slow to import
    del wanted["rfc3987-syntax"]
    installed = {canonicalize_name(each.name): each.version for each in metadata.distributions()}
    differ = {
        name: (installed.get(name), pin)
        for name, pin in wanted.items()
        if installed.get(name) != pin
    }
    assert differ == {}, "(installed, locked): run `make setup`"
    assert installed["torch"].partition("+")[0] == version(declared("torch")[-1])


def _applies(marker: Marker | None):
    return marker is None or marker.evaluate()


def test_lib_and_serve_are_importable_from_anywhere(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import lib, serve, json; print(json.dumps([*lib.__path__, *serve.__path__]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(ROOT / "lib"), str(ROOT / "serve")]


STAND_IN = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"$FAILS"*) exit 1 ;;
esac
"""


@pytest.fixture
def set_up(tmp_path):
    """`make setup` in a folder of its own with a stand-in for Python -> (folder, function: exit
    code, commands).
    """
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def run(fails="nothing"):
        log.write_text("")
        environment = os.environ | {"LOG": str(log), "FAILS": fails}
        command = ["make", "setup", f"PYTHON={python}"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done.returncode, log.read_text()

    return tmp_path, run


def test_set_up_happens_once(set_up):
    _, run = set_up
    code, ran = run()
    assert code == 0
    assert "-m venv --clear .venv" in ran
    assert f"pip install --quiet {declared('torch')[-1]}" in ran
    assert run() == (0, "")


def test_interrupted_set_up_starts_over(set_up):
    _, run = set_up
    assert run(fails="torch==")[0] != 0
    assert "-m venv --clear .venv" in run()[1]


def test_new_lock_is_installed_into_what_is_there(set_up):
    folder, run = set_up
    run()
    os.utime(folder / ".venv" / "ready", (0, 0))
    code, ran = run()
    assert code == 0
    assert "--require-hashes" in ran
    assert "venv --clear" not in ran


def test_pip_alone_does_it_where_uv_cannot(set_up):
    code, ran = set_up[1](fails="uv")
    assert code == 0
    assert "-m pip install --quiet --require-hashes -r requirements.txt" in ran


def test_nothing_of_ours_is_ignored_by_git():
    ours = [
        "lib/data/datasets.py",
        "serve/app.py",
        "data/simulated.yaml",
        "notebooks/01_eda.ipynb",
        "Makefile",
    ]
    outputs = [
        "data/raw/creditcard.csv",
        "reports/a-run/metrics.json",
        "mlflow.db",
        "serve/model/model.onnx",
        ".venv/ready",
    ]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *ours, *outputs],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == outputs
