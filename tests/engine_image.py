"""Build Dockerfile.engine, start a scheduler and two workers as compose.engine.yaml does, and let
them execute a notebook: `python tests/engine_image.py [--stand-in]`.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import yaml
from image import ROOT, docker, stand_in
from pipelines import SMALL, Project
from server import free_port

IMAGE = "fraud-engine:test"
FITS = "03_isolation_forest"
HARDENED = ("--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=4g")
SERVICES = yaml.safe_load((ROOT / "compose.engine.yaml").read_text())["services"]


def with_this_torch(folder):
    """A base with the wheel of torch that this machine's pip finds beside its index, if any: the
    image has to have the same build -> the base's name.
    """
    base = "stand-in-with-certificates"
    found = [
        wheel
        for place in os.environ.get("PIP_FIND_LINKS", "").split()
        for wheel in Path(place).glob("torch-*.whl")
    ]
    if not found:
        return base
    folder.mkdir()
    lines = [f"FROM {base}", "ENV PIP_FIND_LINKS=/wheels"]
    for wheel in found:
        shutil.copy(wheel, folder)
        lines.append(f"COPY {wheel.name} /wheels/")
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    docker("build", "-t", "stand-in-with-torch", str(folder))
    return "stand-in-with-torch"


def build(folder, words):
    """Build the image from what its context holds."""
    folder.mkdir()
    for name in ("Dockerfile.engine", ".dockerignore", "requirements-engine.txt"):
        shutil.copy(ROOT / name, folder)
    docker("build", "-t", IMAGE, "-f", str(folder / "Dockerfile.engine"), *words, str(folder))


@contextlib.contextmanager
def cluster(project):
    """A scheduler and two workers with compose's commands, on this machine's network -> address."""
    port = free_port()
    user = f"--user={os.getuid()}:{os.getgid()}"
    words = ["run", "-d", *HARDENED, "--network=host", user, "-v", f"{project}:{project}", IMAGE]
    containers = []
    try:
        for name in ("scheduler", "worker", "worker"):
            command = [
                word.replace("scheduler:8786", f"127.0.0.1:{port}")
                .replace("--host=0.0.0.0", "--host=127.0.0.1")
                .replace("--port=8786", f"--port={port}")
                for word in SERVICES[name]["command"]
            ]
            containers.append(docker(*words, *command).stdout.strip())
        yield f"tcp://127.0.0.1:{port}"
    finally:
        for container in containers:
            docker("rm", "-f", container, check=False)


def wait_for_workers(address):
    """Wait until both workers are there."""
    from distributed import Client

    with Client(address, timeout=120, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)


def main():
    """Exit status 0 if a worker in a container has executed the notebook."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stand-in", action="store_true", help="see image.py")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="engine-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        words = stack.enter_context(stand_in(folder)) if options.stand_in else []
        if options.stand_in:
            words = [word for word in words if "PYTHON_IMAGE" not in word]
            words.append(f"--build-arg=PYTHON_IMAGE={with_this_torch(folder / 'torch')}")
        start = time.perf_counter()
        build(folder / "context", words)
        size = json.loads(docker("image", "inspect", IMAGE).stdout)[0]["Size"] / 1e6
        print(f"image {size:,.0f} MB, built in {time.perf_counter() - start:.0f} s")
        project = Project.create(folder / "project")
        with cluster(project.folder) as address:
            wait_for_workers(address)
            said = project.command(*SMALL, "--until", FITS, "--engine", address)
        print(said)
        state = project.runs[-1] / ".state" / FITS / "state.json"
        assert json.loads(state.read_text())["worker"].startswith("tcp://"), said
        if options.stand_in:
            docker("image", "rm", "-f", IMAGE, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
