"""Build the production image and try it as the README runs it: `python tests/image.py`; standard
library only.

With --stand-in nothing but Debian's packages is needed (root, apt-get install docker.io
debootstrap): a Docker daemon of its own is started in a temporary folder, and Debian's Python
stands in for the base image that cannot be pulled. With --smoke an image that is there is started,
asked once and stopped, nothing more (`make image`).
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 320
HARDENED = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=256m",
    "--pids-limit=128",
]
HEAVY = "torch mlflow pandas sklearn scipy matplotlib papermill pyarrow pip"
ASK = """
import json, urllib.request as u
base = "http://127.0.0.1:%d"
get = lambda path: u.urlopen(base + path, timeout=10).read()
post = json.loads(get("/openapi.json"))["paths"]["/predict"]["post"]
example = post["requestBody"]["content"]["application/json"]["examples"]["list"]["value"]
kind = {"Content-Type": "application/json"}
request = u.Request(base + "/predict", json.dumps(example).encode(), kind)
answer = json.loads(u.urlopen(request, timeout=10).read())
print(json.dumps([json.loads(get("/health/ready")), answer]))
"""


def docker(*words, check=True, **options):
    """Run docker -> CompletedProcess with text."""
    done = subprocess.run(
        ["docker", *words], text=True, capture_output=True, check=False, **options
    )
    if check and done.returncode:
        sys.exit(
            f"docker {' '.join(words[:3])} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done


def context(folder, bundle):
    """Copy what the build needs; `bundle` replaces serve/model, None leaves it out."""
    shutil.copytree(
        ROOT / "serve", folder / "serve", ignore=shutil.ignore_patterns("__pycache__", "model")
    )
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile.prod", ".dockerignore", "requirements-serve.txt"):
        shutil.copy(ROOT / name, folder)
    if bundle:
        shutil.copytree(bundle, folder / "serve" / "model")
    return folder


def build(image, folder, options):
    """Build -> CompletedProcess, successful or not."""
    words = ["build", "-t", image, "-f", str(folder / "Dockerfile.prod"), *options, str(folder)]
    return docker(*words, check=False)


def wait(container, seconds=60):
    """Wait for Docker's own health check; seconds it took."""
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        state = json.loads(docker("inspect", container).stdout)[0]["State"]
        if state.get("Health", {}).get("Status") == "healthy":
            return time.perf_counter() - start
        if not state["Running"]:
            break
        time.sleep(0.2)
    sys.exit(f"The container did not become healthy: {docker('logs', container).stdout[-3000:]}")


@contextlib.contextmanager
def started(image, workers):
    """The image, hardened, with an idle port of this machine -> (container, port, seconds until it
    was healthy).
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    bridged = docker("network", "inspect", "bridge", check=False).returncode == 0
    network = ["-p", f"127.0.0.1:{port}:{port}"] if bridged else ["--network=host"]
    words = ["-e", f"FRAUD_PORT={port}", "-e", f"FRAUD_WORKERS={workers}"]
    container = docker("run", "-d", *HARDENED, *network, *words, image).stdout.strip()
    try:
        yield container, port, wait(container)
    finally:
        docker("rm", "-f", container, check=False)


def smoke(image, workers=1):
    """Wait until the container is healthy, let it score an example of its bundle, stop it; a line
    of what was seen.
    """
    with started(image, workers) as (container, port, healthy_s):
        ready, answer = json.loads(docker("exec", container, "python", "-c", ASK % port).stdout)
        assert ready["status"] == "ready", ready
        assert len(answer["predictions"]) == len(answer["anomaly_scores"]) == 1, answer
        assert docker("exec", container, "id", "-u").stdout.strip() == "10001", (
            "it runs as another user"
        )
        assert docker("exec", container, "touch", "/app/x", check=False).returncode != 0, (
            "the root is writable"
        )
        memory = docker(
            "stats", "--no-stream", "--format", "{{.MemUsage}}", container
        ).stdout.strip()
        docker("stop", "-t", "30", container)
        _stopped(container)
    return (
        f"{workers} worker(s): healthy after {healthy_s:.1f} s, memory {memory}, "
        f"answered {answer}, stopped with 0"
    )


def drain(image, workers):
    """SIGTERM while half a body has been sent from outside: the request is answered, then the
    container ends.
    """
    with started(image, workers) as (container, port, _):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=10) as answer:
            post = json.load(answer)["paths"]["/predict"]["post"]
        content = post["requestBody"]["content"]["application/json"]
        body = json.dumps(content["examples"]["list"]["value"]).encode()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:20])
        time.sleep(0.5)
        docker("kill", "--signal=TERM", container)
        time.sleep(1)
        connection.send(body[20:])
        answer = connection.getresponse()
        assert (answer.status, len(json.load(answer)["predictions"])) == (200, 1), answer.status
        docker("wait", container)
        _stopped(container)
    return f"{workers} worker(s): SIGTERM drained the request in flight"


def _stopped(container):
    code = json.loads(docker("inspect", container).stdout)[0]["State"]["ExitCode"]
    assert code == 0, (
        f"exit status {code} after SIGTERM: {docker('logs', container).stdout[-2000:]}"
    )


@contextlib.contextmanager
def stand_in(folder):
    """A daemon of our own and Debian's Python as its python:3.11-slim -> options for the build."""
    lacking = [name for name in ("docker", "dockerd", "debootstrap") if not shutil.which(name)]
    if lacking or os.getuid():
        sys.exit(
            f"No Docker daemon answers, and one cannot be started here, without "
            f"{' and '.join(lacking or ['root'])}: start Docker, or as root "
            "`apt-get install docker.io debootstrap`."
        )
    socket, data = folder / "docker.sock", folder / "data"
    words = [
        f"--data-root={data}",
        f"--exec-root={folder / 'exec'}",
        f"--host=unix://{socket}",
        f"--pidfile={folder / 'pid'}",
    ]
    words += ["--iptables=false", "--bridge=none", "--storage-driver=overlay2"]
    with open(folder / "dockerd.log", "w") as log:
        daemon = subprocess.Popen(["dockerd", *words], stdout=log, stderr=log)
    os.environ |= {"DOCKER_HOST": f"unix://{socket}", "DOCKER_BUILDKIT": "0"}
    try:
        for _ in range(150):
            if docker("info", check=False).returncode == 0:
                break
            time.sleep(0.2)
        else:
            sys.exit(f"dockerd did not start: {(folder / 'dockerd.log').read_text()[-2000:]}")
        _import_base(folder / "base")
        yield ["--network=host", "--build-arg=PYTHON_IMAGE=stand-in-with-certificates"]
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
        for line in Path("/proc/mounts").read_text().splitlines():
            if line.split()[1].startswith(str(folder)):
                subprocess.run(["umount", "-l", line.split()[1]], check=True)


def _import_base(root):
    """Debian's Python as python:3.11-slim, and on top of it, for the build alone, this machine's
    certificates.
    """
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    mirror = subprocess.run(ask, text=True, capture_output=True, check=True).stdout.splitlines()[0]
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", root, mirror],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for path in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        path.unlink()
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    (root / "etc/apt/sources.list").write_text("")
    for leftover in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / leftover, ignore_errors=True)
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        docker("import", "-", "python:3.11-slim", stdin=tar.stdout)
    certificates = root.parent / "certificates"
    certificates.mkdir()
    source = os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(source, certificates / "ca.crt")
    lines = [
        "FROM python:3.11-slim",
        "COPY ca.crt /etc/ssl/pip-ca.crt",
        "ENV PIP_CERT=/etc/ssl/pip-ca.crt",
    ]
    (certificates / "Dockerfile").write_text("\n".join(lines) + "\n")
    docker("build", "-t", "stand-in-with-certificates", str(certificates))


def main():
    """Build, compare with the limits, run, stop; exit status 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="anomaly-detection:v1")
    parser.add_argument("--bundle", type=Path, default=ROOT / "serve" / "model")
    parser.add_argument(
        "--stand-in", action="store_true", help="start a Docker daemon and use Debian's Python"
    )
    parser.add_argument("--smoke", metavar="IMAGE", help="only try this image, as it is")
    options = parser.parse_args()
    if options.smoke:
        print(smoke(options.smoke))
        return 0
    if not (options.bundle / "manifest.json").exists():
        sys.exit(f"There is no bundle in {options.bundle}: export one first (make pipeline).")
    with tempfile.TemporaryDirectory(prefix="image-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        words = stack.enter_context(stand_in(folder)) if options.stand_in else []
        refused = build("without-bundle", context(folder / "empty", None), words)
        assert refused.returncode != 0, "the image was built without a bundle"
        assert "There is no bundle in serve/model" in refused.stdout + refused.stderr, (
            refused.stderr[-2000:]
        )
        built = build(options.image, context(folder / "whole", options.bundle), words)
        if built.returncode:
            sys.exit(f"The build failed:\n{built.stdout[-3000:]}{built.stderr[-3000:]}")
        size, base = (
            json.loads(docker("image", "inspect", each).stdout)[0]["Size"] / 1e6
            for each in (options.image, "python:3.11-slim")
        )
        print(f"image {size:.0f} MB, of which the base {base:.0f} MB")
        assert size < LIMIT_MB, f"the image has {size:.0f} MB, more than {LIMIT_MB}"
        look = (
            f"import importlib.util as u; print([n for n in '{HEAVY}'.split() if u.find_spec(n)])"
        )
        found = docker("run", "--rm", options.image, "python", "-c", look).stdout.strip()
        assert found == "[]", f"the image has {found}"
        for workers in (1, 2):
            print(smoke(options.image, workers))
            print(drain(options.image, workers))
        if options.stand_in:
            docker("image", "rm", "-f", options.image, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
