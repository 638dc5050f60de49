"""Broken input for the server and the bundle loader, for as long as you like: `python
benchmarks/fuzz.py --seconds 60`.

Three ways: hypothesis makes bodies and damaged bundles and a slow judge checks what comes back;
atheris, where it is installed, looks for bodies that reach new code; schemathesis asks a running
server everything that its OpenAPI document allows, and what it forbids. Exit status 1 if one of
them fails.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bundles
import fuzzing
from hypothesis import HealthCheck, given, settings
from server import ROOT, running

# schemathesis tries the limits, and takes long for ten thousand
SMALL = {"max_rows": 100, "max_explained_rows": 100}
COVERAGE = """
import sys
import atheris
with atheris.instrument_imports(include=["serve", "msgspec"]):
    import fuzzing
atheris.Setup(sys.argv, fuzzing.check_body)
atheris.Fuzz()
"""


def hypothesis(name, strategy, check, seconds):
    """Run `check` on examples until the time is over; the number of them."""
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:

        @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
        @given(strategy)
        def examples(value):
            nonlocal count
            count += 1
            check(value)

        examples()
    print(f"hypothesis, {name}: {count:,} examples")
    return True


def atheris(seconds, folder):
    """Coverage-guided bodies; True if none failed."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: left out (pip install atheris)")
        return True
    for i, body in enumerate(
        [
            b'{"features": [[1, -2.5, 1e3], [0, 0, 0]]}',
            b'{"features": [{"V1": 1, "V2": 2, "Amount": 3}]}',
        ]
    ):
        (folder / f"seed-{i}").write_bytes(body)
    command = [
        sys.executable,
        "-c",
        COVERAGE,
        f"-max_total_time={seconds}",
        "-max_len=512",
        "-verbosity=0",
        str(folder),
    ]
    environ = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, cwd=folder, env=environ, check=False)
    print(f"atheris: {'no failure' if done.returncode == 0 else 'FAILED'} in {seconds} s")
    return done.returncode == 0


def schemathesis(seconds, folder, key):
    """Requests that fit and break the OpenAPI document; True if every answer is one that it
    promises.
    """
    with running(
        bundles.write(folder / "bundle"), folder / "server.log", api_key=key, **SMALL
    ) as server:
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        command = [
            sys.executable,
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
            "run",
            url,
        ]
        options = [
            "--checks",
            "all",
            "--max-time",
            str(seconds),
            "--header",
            f"X-API-Key: {key or 'none'}",
            "--no-color",
        ]
        done = subprocess.run(
            [*command, *options], cwd=folder, capture_output=True, text=True, check=False
        )
        failures = [line for line in server.lines() if line.get("status") == 500]
    if done.returncode or failures:
        print(done.stdout, done.stderr, *failures, sep="\n")
    print(
        f"schemathesis{', with a key' if key else ''}: "
        f"{'FAILED' if done.returncode or failures else 'no failure'}"
    )
    return not done.returncode and not failures


def main():
    """Run all of them, a fifth of the time each; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120)
    each = max(parser.parse_args().seconds // 5, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        whole = bundles.write(folder / "whole", features=list(fuzzing.NAMES))
        good = [
            hypothesis("bodies", fuzzing.bodies(), fuzzing.check_body, each),
            hypothesis(
                "bundles",
                fuzzing.damages(),
                lambda d: fuzzing.check_bundle(whole, folder / "damaged", d),
                each,
            ),
            atheris(each, folder / "corpus"),
            schemathesis(each, folder, ""),
            schemathesis(each, folder, "s3cret"),
        ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
