"""Run the pipeline on every description of a folder and print a line for each: outcome, seconds,
the deciding sentence.

Usage: python benchmarks/cases.py FOLDER [--until STAGE] [--only NAME]

Each case runs in a copy of the project's tracked files of its own, with small settings, so that it
disturbs nothing. Exit status 1 if a case failed, or printed a traceback.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "autoencoder.epochs": "2",
    "autoencoder.members": "1",
    "gaussian_mixture.members": "1",
    "gaussian_mixture.n_components": "2",
    "comparison.n_resamples": "100",
}
OUTCOMES = {0: "done", 1: "FAILED", 2: "refused"}


def main() -> int:
    """Run the cases; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="holds the descriptions (YAML)")
    parser.add_argument("--until", default="11_production", help="the last stage to run")
    parser.add_argument("--only", default="", help="only descriptions whose name contains this")
    args = parser.parse_args()
    n_failed = 0
    for description in sorted(args.folder.glob("*.yaml")):
        if args.only in description.stem:
            outcome, seconds, sentence = run(description.resolve(), args.until)
            n_failed += outcome == OUTCOMES[1]
            print(f"{description.stem:24} {outcome:8} {seconds:5.0f} s  {sentence}", flush=True)
    return 1 if n_failed else 0


def run(description: Path, until: str) -> tuple[str, float, str]:
    """Run one case; return its outcome, the seconds it took and the sentence that says why."""
    with tempfile.TemporaryDirectory(prefix="case-") as folder:
        project = copied(Path(folder) / "project")
        command = [sys.executable, "run_pipeline.py", "--dataset", str(description), "--json"]
        command += ["--until", until]
        for name, value in SMALL.items():
            command += ["-p", name, value]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(project)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
    outcome = OUTCOMES.get(done.returncode, OUTCOMES[1])
    if "Traceback" in done.stdout + done.stderr:
        outcome = OUTCOMES[1]
    return outcome, seconds, decisive(done)


def copied(target: Path) -> Path:
    """Copy the project's tracked files, as they are now."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


def decisive(done: subprocess.CompletedProcess) -> str:
    """Return the sentence that a reader would look for: refusal, failed stage, or verdict."""
    try:
        summary = json.loads(done.stdout)
    except ValueError:
        return last_line(done.stderr or done.stdout)
    failed = [f"{s['stage']}: {s['why']}" for s in summary["stages"] if s["status"] == "failed"]
    said = failed[:1] or [summary.get("verdict") or "", *summary.get("remarks", [])]
    return " ".join(" ".join(said).split())[:300]


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
