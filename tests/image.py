"""Build the production image and try it as the README runs it: `python tests/image.py` (`make image`).

With --stand-in nothing but Debian's packages is needed (root, apt-get install docker.io debootstrap): a Docker daemon
of its own is started in a temporary folder, and Debian's Python stands in for the base image that cannot be pulled.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 320
HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=256m", "--pids-limit=128"]
HEAVY = "torch mlflow pandas sklearn scipy matplotlib papermill pyarrow pip"
ASK = """
import json, urllib.request as u
base = "http://127.0.0.1:%d"
get = lambda path: u.urlopen(base + path, timeout=10).read()
post = json.loads(get("/openapi.json"))["paths"]["/predict"]["post"]
example = post["requestBody"]["content"]["application/json"]["examples"]["list"]["value"]
request = u.Request(base + "/predict", json.dumps(example).encode(), {"Content-Type": "application/json"})
print(json.dumps([json.loads(get("/health/ready")), json.loads(u.urlopen(request, timeout=10).read())]))
"""


def docker(*words, check=True, **options):
    """Run docker -> CompletedProcess with text."""
    done = subprocess.run(["docker", *words], text=True, capture_output=True, check=False, **options)
    if check and done.returncode:
        sys.exit(f"docker {' '.join(words[:3])} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done


def context(folder, bundle):
    """Copy what the build needs; `bundle` replaces serve/model, None leaves it out."""
    shutil.copytree(ROOT / "serve", folder / "serve", ignore=shutil.ignore_patterns("__pycache__", "model"))
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


def smoke(image, host_network, workers):
    """Run the image hardened, ask it, stop it."""
    port = 18_000 + os.getpid() % 10_000
    network = ["--network=host"] if host_network else ["-p", f"127.0.0.1:{port}:{port}"]
    words = ["-e", f"FRAUD_PORT={port}", "-e", f"FRAUD_WORKERS={workers}"]
    container = docker("run", "-d", *HARDENED, *network, *words, image).stdout.strip()
    try:
        healthy_s = wait(container)
        ready, answer = json.loads(docker("exec", container, "python", "-c", ASK % port).stdout)
        assert ready["status"] == "ready", ready
        assert len(answer["predictions"]) == len(answer["anomaly_scores"]) == 1, answer
        assert docker("exec", container, "id", "-u").stdout.strip() == "10001"
        assert docker("exec", container, "touch", "/app/x", check=False).returncode != 0, "the root is writable"
        memory = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).stdout.strip()
        docker("stop", "-t", "30", container)
        code = json.loads(docker("inspect", container).stdout)[0]["State"]["ExitCode"]
        assert code == 0, f"exit status {code} after SIGTERM"
        print(
            f"{workers} worker(s): healthy after {healthy_s:.1f} s, memory {memory}, answered {answer}, stopped with 0"
        )
    finally:
        docker("rm", "-f", container, check=False)


@contextlib.contextmanager
def stand_in(folder):
    """A daemon of our own and Debian's Python as its python:3.11-slim -> options for the build."""
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
    """Debian's Python as python:3.11-slim, and on top of it, for the build alone, this machine's certificates."""
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    mirror = subprocess.run(ask, text=True, capture_output=True, check=True).stdout.splitlines()[0]
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", root, mirror], check=True, stdout=subprocess.DEVNULL
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
    lines = ["FROM python:3.11-slim", "COPY ca.crt /etc/ssl/pip-ca.crt", "ENV PIP_CERT=/etc/ssl/pip-ca.crt"]
    (certificates / "Dockerfile").write_text("\n".join(lines) + "\n")
    docker("build", "-t", "stand-in-with-certificates", str(certificates))


def main():
    """Build, compare with the limits, run, stop; exit status 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="anomaly-detection:v1")
    parser.add_argument("--bundle", type=Path, default=ROOT / "serve" / "model")
    parser.add_argument("--stand-in", action="store_true", help="start a Docker daemon and use Debian's Python")
    options = parser.parse_args()
    if not (options.bundle / "manifest.json").exists():
        sys.exit(f"There is no bundle in {options.bundle}: export one first (make pipeline).")
    with tempfile.TemporaryDirectory(prefix="image-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        words = stack.enter_context(stand_in(folder)) if options.stand_in else []
        refused = build("without-bundle", context(folder / "empty", None), words)
        assert refused.returncode != 0, "the image was built without a bundle"
        assert "There is no bundle in serve/model" in refused.stdout + refused.stderr, refused.stderr[-2000:]
        built = build(options.image, context(folder / "whole", options.bundle), words)
        if built.returncode:
            sys.exit(f"The build failed:\n{built.stdout[-3000:]}{built.stderr[-3000:]}")
        size, base = (
            json.loads(docker("image", "inspect", each).stdout)[0]["Size"] / 1e6
            for each in (options.image, "python:3.11-slim")
        )
        print(f"image {size:.0f} MB, of which the base {base:.0f} MB")
        assert size < LIMIT_MB, f"the image has {size:.0f} MB, more than {LIMIT_MB}"
        look = f"import importlib.util as u; print([n for n in '{HEAVY}'.split() if u.find_spec(n)])"
        found = docker("run", "--rm", options.image, "python", "-c", look).stdout.strip()
        assert found == "[]", f"the image has {found}"
        for workers in (1, 2):
            smoke(options.image, options.stand_in, workers)
        if options.stand_in:
            docker("image", "rm", "-f", options.image, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
