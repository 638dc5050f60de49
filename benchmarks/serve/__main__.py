"""The server against others, in one run: `python benchmarks/serve` (needs wrk, a package of most
systems).

The reference is a FastAPI application with an `async def` handler, a pydantic body and a constant
answer. MLServer pins packages that ours do not go with, so it has an environment of its own:
.pipeline/mlserver, made by pip at the first run, or the one whose python --mlserver names.

All servers run side by side and are asked in turn, round after round; a ratio is taken within a
round and the median over the rounds is shown, because neighbours on a machine slow everyone down
for a while. CPU time per request moves less with the neighbours.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import contestants
from contestants import MODELS, ROOT
from server import MODULE, running

SIZES = (1, 100)
REFERENCE = "FastAPI, constant answer"
NEEDED = {  # ratio to the reference, at each of the sizes
    "isolation_forest": (0.9, 1.0),
    "isolation_forest_100x256": (0.9, 1.0),
}
NEEDED_OF_OTHERS = (0.9, 1.5)
AT_MOST = {
    "ready_s": 1.5,
    "memory_mb": 150,
    "memory_after_load_mb": 150,
    "one_row_p50_ms": 1,
    "one_row_p99_ms": 5,
}  # on a quiet machine


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python benchmarks/serve", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="length of one measurement")
    parser.add_argument(
        "--rounds", type=int, default=5, help="measurements of each server and size"
    )
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument(
        "--only",
        nargs="*",
        default=[""],
        metavar="PART",
        help="parts of the names of the servers to measure beside the reference",
    )
    parser.add_argument(
        "--mlserver",
        default="auto",
        help="python of an environment with mlserver and onnxruntime; auto: .pipeline/mlserver, "
        "made if absent; no: "
        "leave MLServer out",
    )
    parser.add_argument(
        "--models", nargs="*", choices=sorted(MODELS), default=sorted(MODELS), metavar="NAME"
    )
    parser.add_argument(
        "--bundle", type=Path, help="measure only this exported bundle, such as serve/model"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def wrk(server, body, seconds, connections, folder):
    """Ask for `seconds` -> requests a second, CPU µs a request, p50 and p99 in ms; RuntimeError
    unless all were 2xx.
    """
    (folder / "body.json").write_text(json.dumps(body))
    script = folder / "post.lua"
    script.write_text(
        f'local f = io.open("{folder}/body.json"); wrk.body = f:read("*a"); f:close()\n'
        'wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"\n'
    )
    url = f"http://127.0.0.1:{server.port}{server.path}"
    before = server.cpu_s()
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}",
        "--latency",
        "--timeout",
        "30s",
        "-s",
        str(script),
        url,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = server.cpu_s() - before
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"{server.name} {server.model} failed under load: {text}")
    n = int(re.search(r"(\d+) requests in", text)[1])
    per_s = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    return {
        "per_s": per_s,
        "cpu_us": used / max(n, 1) * 1e6,
        "p50_ms": _ms(text, "50%"),
        "p99_ms": _ms(text, "99%"),
    }


def _ms(text, which):
    value, unit = re.search(rf"{which}\s+([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def throughput(servers, rows, options, folder):
    """{(name, model): {size: median figures, with `ratio` to the reference}}."""
    taken = {}
    for turn in range(options.rounds):
        for size in SIZES:
            for server in servers:
                figures = wrk(
                    server, server.body(rows[:size]), options.seconds, options.connections, folder
                )
                taken.setdefault((server.name, server.model), {}).setdefault(size, []).append(
                    figures
                )
        print(f"round {turn + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    result = {}
    for who, sizes in taken.items():
        for size, rounds in sizes.items():
            base = taken[REFERENCE, ""][size]
            median = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            median["ratio"] = statistics.median(
                a["per_s"] / b["per_s"] for a, b in zip(rounds, base, strict=True)
            )
            median["cpu_ratio"] = statistics.median(
                b["cpu_us"] / a["cpu_us"] for a, b in zip(rounds, base, strict=True)
            )
            result.setdefault(who, {})[size] = median
    return result


def table(result):
    """Markdown."""
    head = "".join(
        f" {size} row{'s' * (size > 1)}: requests/s | × | CPU µs | p99 ms |" for size in SIZES
    )
    lines = [f"| server | model |{head}", "|---|---|" + "---:|" * 4 * len(SIZES)]
    for (name, model), sizes in result.items():
        cells = "".join(
            f" {f['per_s']:,.0f} | {f['ratio']:.2f} | {f['cpu_us']:,.0f} | {f['p99_ms']:.1f} |"
            for f in sizes.values()
        )
        lines.append(f"| {name} | {model.replace('_', ' ')} |{cells}")
    return "\n".join(lines)


def verdicts(result, alone):
    """A line for each figure that must be reached."""
    for model in alone:
        ratios = NEEDED.get(model, NEEDED_OF_OTHERS)
        for size, needed in (
            zip(SIZES, ratios, strict=True) if ("this project", model) in result else ()
        ):
            ratio = result["this project", model][size]["ratio"]
            yield _verdict(ratio, needed, f"{model}, {size} rows: {ratio:.2f} of the reference")
    for model in alone:
        rivals = [
            who
            for who in result
            if who[1] == model and who[0] in ("MLServer", "mlflow models serve")
        ]
        for size in SIZES if rivals and ("this project", model) in result else ():
            best = max(result[who][size]["ratio"] for who in rivals)
            ratio = result["this project", model][size]["ratio"] / best
            yield _verdict(
                ratio, 3, f"{model}, {size} rows: {ratio:.1f} × the better of MLServer and mlflow"
            )
    for model, figures in alone.items():
        for key, limit in AT_MOST.items():
            verdict = "ok " if figures[key] <= limit else "NOT"
            yield f"{verdict} {model}: {key} {figures[key]:.2f}, at most {limit}"


def _verdict(ratio, needed, sentence):
    return f"{'ok ' if ratio >= needed else 'NOT'} {sentence}, needed {needed}"


def alone(folder, models, rows, options):
    """Of our server by itself: start, memory, and latency on one kept-alive connection, for every
    model.
    """
    result = {}
    for model in models:
        starts = []
        for _ in range(3):
            with running(folder / model, folder / "alone.log", MODULE) as server:
                starts.append(server.ready_s)
                memory_mb = server.memory_mb()
        result[model] = {
            "ready_s": min(starts),
            "ready_median_s": statistics.median(starts),
            "memory_mb": memory_mb,
        }
        server = contestants.ours(folder, model).start(folder, rows)
        one = wrk(server, server.body(rows[:1]), options.seconds, 1, folder)
        wrk(server, server.body(rows[:100]), options.seconds, options.connections, folder)
        result[model] |= {"one_row_p50_ms": one["p50_ms"], "one_row_p99_ms": one["p99_ms"]}
        result[model]["memory_after_load_mb"] = server.memory_mb()
        server.stop()
    return result


def mlserver_python(choice):
    """The python to run MLServer with, None for none."""
    if choice != "auto":
        return None if choice == "no" else choice
    home = ROOT / ".pipeline" / "mlserver"
    python = home / "bin" / "python"
    if not (home / "bin" / "mlserver").exists():
        venv.create(home, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "mlserver", "onnxruntime"], check=True
        )
    return str(python)


def main():
    """Measure and print."""
    options = arguments()
    if not shutil.which("wrk"):
        sys.exit("benchmarks/serve needs wrk: install your system's package of that name.")
    folder = Path(tempfile.mkdtemp(prefix="serve-benchmark-"))
    started = []
    try:
        if options.bundle:
            models = [contestants.EXPORTED]
            rows = contestants.take(options.bundle, folder)
        else:
            models = options.models
            rows = contestants.fit(folder, models)
        for each in contestants.everyone(folder, models, mlserver_python(options.mlserver)):
            if each.name == REFERENCE or any(part in each.name for part in options.only):
                started.append(each.start(folder, rows))
        result = throughput(started, rows, options, folder)
    finally:
        for each in started:
            each.stop()
    ours_alone = alone(folder, models, rows, options)
    shutil.rmtree(folder)
    print(table(result), *verdicts(result, ours_alone), sep="\n")
    if options.json:
        flat = [
            {"server": name, "model": model, "rows": size, **figures}
            for (name, model), sizes in result.items()
            for size, figures in sizes.items()
        ]
        options.json.write_text(
            json.dumps({"throughput": flat, "alone": ours_alone}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
