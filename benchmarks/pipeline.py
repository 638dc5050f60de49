"""Time and memory of the pipeline, from the raw rows to the exported bundle (01 to 10).

goals    the default run, the full table's size, and with --raw the real transactions: seconds,
peak, compute, overhead ways     the same computation as a plain script, as a loop of papermill
commands, by the runner with one job, and as is growth   30,000 to 1,000,000 rows, with a figure
(reports/growth.png); a power above 1 is worse than linear

Each run has a copy of the project of its own, without data, runs or registry, so nothing is
skipped.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.pipeline.console import table
from lib.pipeline.parameters import read_parameters
from lib.pipeline.stages import choose, notebook, present, read_cells

ROOT = Path(__file__).resolve().parents[1]
FULL = 284_807
LAST = "10_export"
GROWTH = (30_000, 100_000, 300_000, 1_000_000)
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def fresh(parent):
    """A copy of the project without anything that a run has left -> its folder."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "model")
    for name in ("lib", "notebooks", "serve"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for path in [*ROOT.glob("data/*.yaml"), ROOT / "requirements.txt", ROOT / "run_pipeline.py"]:
        (folder / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / path.relative_to(ROOT))
    return folder


def measured(command, folder):
    """Run a command in a project's folder -> (seconds, peak memory of all its processes together in
    MB, its output).
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")
    }
    start, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        environment |= THREADS | {"PYTHONPATH": str(folder)}
        process = psutil.Popen(
            [str(c) for c in command], cwd=folder, env=environment, stdout=out, stderr=err
        )
        while process.poll() is None:
            peak = max(peak, sum(map(_memory, [process, *process.children(recursive=True)])))
            time.sleep(0.1)
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{out.read()}\n{err.read()}")
        return seconds, peak / 2**20, out.read()


def _memory(process):
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0  # it has just ended


def by_runner(folder, *arguments):
    """Run the pipeline -> (seconds, peak in MB, summary)."""
    command = [sys.executable, "run_pipeline.py", "--until", LAST, "--json", *arguments]
    seconds, peak, out = measured(command, folder)
    return seconds, peak, json.loads(out)


def computing(run):
    """Seconds that a run's cells took, but for those that only import: fits, scores, figures."""
    total = 0.0
    for path in sorted(Path(run).glob("notebooks/*.ipynb")):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        working = [c for c in cells if not "".join(c["source"]).startswith(("import ", "from "))]
        total += sum(c["metadata"].get("papermill", {}).get("duration") or 0 for c in working)
    return total


def goals(parent, raw, **_):
    """Seconds and memory of the runs that people start, against what was promised."""
    runs = {
        "simulated, as it is": (["--dataset", "simulated"], 180, None),
        "simulated, 284,807 rows": (["--dataset", "simulated", "-p", "rows", str(FULL)], 600, 3072),
    }
    if raw:
        runs["real transactions"] = (
            ["--dataset", "creditcard", "--raw", str(Path(raw).resolve())],
            360,
            None,
        )
    rows = []
    for name, (arguments, limit_s, limit_mb) in runs.items():
        folder = fresh(parent)
        seconds, peak, summary = by_runner(folder, *arguments)
        computed = computing(summary["folder"])
        busy = sum(stage["seconds"] for stage in summary["stages"])
        again, _, _ = by_runner(folder, *arguments)
        limit = f"{limit_s} s" + (f", {limit_mb:,} MB" if limit_mb else "")
        rows.append(
            (
                name,
                round(seconds),
                limit,
                round(peak),
                round(computed),
                round(busy - computed),
                round(again, 1),
            )
        )
        shutil.rmtree(folder)
    print(
        table(
            ["run", "seconds", "at most", "peak MB", "computing s", "overhead s", "again s"], rows
        )
    )
    print(
        "Computing and overhead (kernels, imports, HTML) are sums over notebooks, some of which "
        "run at the same time."
    )


def given(folder, stage, rows, **more):
    """The parameters that a stage needs outside the runner."""
    run = folder / "reports" / "run"
    values = {
        "dataset": "simulated",
        "rows": rows,
        "run_dir": str(run),
        "registered_name": "fraud-detector-simulated",
    }
    values |= {"bundle_dir": str(folder / "serve" / "model")} | more
    return {
        name: value
        for name, value in values.items()
        if name in read_parameters(notebook(ROOT, stage))
    }


def plain_script(folder, rows):
    """Write all notebooks' code as one program -> its path. Logging is left out but for the
    registry.
    """
    lines = ["import matplotlib, runpy", "matplotlib.use('Agg')"]
    for stage in choose(present(ROOT), last=LAST):
        code = []
        for kind, source, tags in read_cells(notebook(ROOT, stage)):
            code += [source] if kind == "code" else []
            if "parameters" in tags:
                code += [
                    f"{name} = {value!r}"
                    for name, value in given(folder, stage, rows, track=False).items()
                ]
        (folder / f"{stage.name}.py").write_text("\n\n".join(code))
        lines.append(f"runpy.run_path({str(folder / stage.name) + '.py'!r})")
    (folder / "plain.py").write_text("\n".join(lines))
    return folder / "plain.py"


def papermill_loop(folder, rows):
    """Write the papermill commands, one after the other, as a shell script -> its path."""
    lines = ["set -e"]
    for stage in choose(present(ROOT), last=LAST):
        options = " ".join(
            f"-p {name} {value}" for name, value in given(folder, stage, rows).items()
        )
        source, target = (
            folder / "notebooks" / f"{stage.name}.ipynb",
            folder / f"{stage.name}.out.ipynb",
        )
        lines.append(f"{sys.executable} -m papermill --no-progress-bar {source} {target} {options}")
    (folder / "loop.sh").write_text("\n".join(lines))
    return folder / "loop.sh"


def ways(parent, rows, **_):
    """The same computation in four ways."""
    arguments = ["--dataset", "simulated", "-p", "rows", str(rows)]
    taken = {}
    for way in ("a plain script", "a loop of papermill", "the runner, one job", "the runner"):
        folder = fresh(parent)
        if way == "a plain script":
            seconds, peak, _ = measured([sys.executable, plain_script(folder, rows)], folder)
        elif way == "a loop of papermill":
            seconds, peak, _ = measured(["sh", papermill_loop(folder, rows)], folder)
        else:
            seconds, peak, _ = by_runner(
                folder, *arguments, *(["--jobs", "1"] if "one" in way else [])
            )
        taken[way] = seconds, peak
        shutil.rmtree(folder)
    runner = taken["the runner"][0]
    print(f"{rows:,} simulated rows, {os.cpu_count()} cores")
    print(
        table(
            ["way", "seconds", "peak MB"],
            [(way, round(s), round(mb)) for way, (s, mb) in taken.items()],
        )
    )
    print(
        f"The runner takes {runner / taken['a plain script'][0]:.2f} of the script's time (at "
        "most 1.3),"
    )
    print(
        f"and is {taken['a loop of papermill'][0] / runner:.2f} times as fast as the loop (at "
        "least 1.5)."
    )


def growth(parent, sizes, **_):
    """Time and memory of every stage as the table grows; `power`: p of rows^p between the two
    largest tables.
    """
    summaries = {}
    for rows in sizes:
        folder = fresh(parent)
        seconds, peak, summary = by_runner(
            folder, "--dataset", "simulated", "-p", "rows", str(rows)
        )
        summaries[rows] = {"all": (seconds, peak)}
        summaries[rows] |= {s["stage"]: (s["seconds"], s["peak_mb"]) for s in summary["stages"]}
        shutil.rmtree(folder)
    header = ["stage", *(f"{rows:,}" for rows in sizes)]
    for i, unit in enumerate(("seconds", "peak MB")):
        rows = []
        for name in summaries[sizes[0]]:
            values = [summaries[n][name][i] for n in sizes]
            power = (
                np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2])
                if len(sizes) > 1
                else np.nan
            )
            rows.append((name, *map(round, values), f"{power:.2f}"))
        print(unit, table([*header, "power"], rows), "", sep="\n")
    (ROOT / "reports").mkdir(exist_ok=True)
    draw(summaries, ROOT / "reports" / "growth.png")


def draw(summaries, path):
    """Seconds and memory against rows, a line a stage; grey: what is in proportion to the rows."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    from lib.reporting import plots

    fig, axes = plots.figure(1, 2, width=12, height=4.4)
    sizes = list(summaries)
    names = sorted(summaries[sizes[-1]], key=lambda name: -summaries[sizes[-1]][name][0])
    for i, (ax, unit) in enumerate(zip(axes, ("seconds", "peak memory (MB)"), strict=True)):
        for number, name in enumerate(names):
            style = (
                {"color": plots.INK, "lw": 2.6}
                if name == "all"
                else {"color": f"C{number}", "lw": 1.3}
            )
            ax.plot(sizes, [summaries[rows][name][i] for rows in sizes], "o-", label=name, **style)
        first, last = (summaries[sizes[j]]["all"][i] for j in (0, -1))
        proportional = first * np.array(sizes) / sizes[0]
        shown = np.where(proportional <= 1.5 * last, proportional, np.nan)
        ax.plot(sizes, shown, ":", color=plots.SOFT, label="as rows")
        ax.set(xscale="log", yscale="log", xlabel="rows (log scale)", ylabel=f"{unit} (log scale)")
        ax.set_xticks(sizes, [f"{rows:,}" for rows in sizes])
        ax.xaxis.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.yaxis.minorticks_off()
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    fig.savefig(path, dpi=120)
    print(f"figure: {path.relative_to(ROOT)}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="*", default=["goals"], help="goals, ways, growth (default: goals)"
    )
    parser.add_argument("--raw", help="the real transactions")
    parser.add_argument("--rows", type=int, default=FULL, help="for ways (default: 284,807)")
    parser.add_argument("--sizes", type=int, nargs="+", default=GROWTH, help="for growth")
    args = parser.parse_args()
    unknown = set(args.what) - {"goals", "ways", "growth"}
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are goals, ways, growth")
    with tempfile.TemporaryDirectory() as parent:
        for what in args.what:
            {"goals": goals, "ways": ways, "growth": growth}[what](
                parent, raw=args.raw, rows=args.rows, sizes=args.sizes
            )


if __name__ == "__main__":
    main()
