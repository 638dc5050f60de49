"""Execute the notebooks in order, strictly, in parallel, resumably. Exit codes: 0 done, 1 a notebook failed, 2 refused."""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from lib.console import Progress, table
from lib.preflight import DataError, prepare
from lib.settings import Settings, jobs
from lib.stages import Refused, choose, convert, find, load_cells, present, read_parameters

ROOT = Path(__file__).resolve().parent


def arguments(argv):
    """The command line; `--help` lists every notebook's parameters."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=parameters_help(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="", help="name in data/ or path of a description (default: creditcard, else simulated)")
    add("--raw", default="", metavar="FILE", help="the raw file or folder")
    add("-p", nargs=2, action="append", default=[], metavar=("[STAGE.]NAME", "VALUE"), help="set a parameter")
    add(
        "--sweep", nargs="+", action="append", default=[], metavar=("STAGE.NAME", "VALUE"), help="one candidate a value"
    )
    add("--config", metavar="FILE", help="settings from a file, such as reports/<run>/run.yaml")
    add("--only", action="append", default=[], metavar="STAGE", help="only this stage (again for more)")
    add("--from", dest="first", metavar="STAGE", help="from this stage on; what earlier ones wrote is kept")
    add("--until", dest="last", metavar="STAGE", help="up to this stage")
    add("--accept", action="store_true", help="promote although the champion cannot be compared fairly")
    add("--jobs", type=int, default=os.cpu_count(), metavar="N", help="notebooks at once (default: cores)")
    add("--timeout", type=float, default=0.0, metavar="S", help="limit for one notebook (default: none)")
    add("--force", nargs="?", const="all", action="append", default=[], metavar="STAGE", help="even if up to date")
    add("--wait", action="store_true", help="wait for another pipeline in this folder to end")
    add("--dry-run", action="store_true", help="say what would run, and why")
    add("--list", action="store_true", help="the stages, what they read and write")
    add("--rollback", action="store_true", help="make the previous champion the champion again")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser.parse_args(argv)


def parameters_help():
    """The parameters of all notebooks, from their parameters cells."""
    lines = ["parameters (type, default, meaning):"]
    for stage in present(ROOT):
        lines.append(f"\n  {stage.name}")
        for p in read_parameters(ROOT / "notebooks" / f"{stage.name}.ipynb").values():
            lines.append(f"    {p.name + ': ' + p.kind:<26} {p.default!r:<12} {p.comment}".replace("%", "%%"))
    return "\n".join(lines)


@contextlib.contextmanager
def locked(wait, say):
    """Only one pipeline at a time in this folder; the system releases the lock of a process that has died."""
    (ROOT / ".pipeline").mkdir(exist_ok=True)
    with (ROOT / ".pipeline" / "lock").open("a+") as lock:
        patience = time.monotonic() + 15  # kernels of a killed run hold it, too, for the second that they outlive it
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "0"
                if not wait and (is_running(int(holder)) or time.monotonic() > patience):
                    raise Refused(f"Another pipeline (process {holder}) runs in {ROOT}; --wait waits for it.") from None
                say(f"waiting for the pipeline of process {holder}")
                time.sleep(1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def is_running(pid):
    """Whether there is a process with this id."""
    return pid > 0 and Path(f"/proc/{pid}").exists()


def settings_of(args, stages, chosen):
    """What the file and the command line ask for, the latter first; -> Settings."""
    settings = Settings.read(args.config) if args.config else Settings()
    parameters = settings.parameters | dict(args.p)
    if args.accept:
        parameters |= {"06_comparison.accept": True}
    sweep = settings.sweep | {key: values for key, *values in args.sweep}
    return Settings(args.dataset or settings.dataset, args.raw or settings.raw, parameters, sweep)


def main(argv=None):
    args = arguments(argv)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.list:
            rows = [(s.name, ", ".join(s.reads), ", ".join(s.writes)) for s in present(ROOT)]
            print(table(rows, ["stage", "reads", "writes"]))
            return 0
        return run(args)
    except (Refused, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 1


def run(args):
    from lib.pipeline import Pipeline, resolved

    stages = present(ROOT)
    chosen = choose(stages, args.only, args.first, args.last)
    settings = settings_of(args, stages, chosen)
    planned = jobs(ROOT, settings, chosen, {"rows": 0})
    split = next((job.parameters for job in planned if job.stage.short == "split"), {})
    say = lambda text: print(text, file=sys.stderr, flush=True)
    with locked(args.wait, say) as lock:
        shares = {k: split[k] for k in ("reference", "validation", "n_batches") if k in split}
        data = prepare(
            ROOT,
            settings.dataset,
            settings.raw,
            split.get("rows") or None,
            split.get("seed", 0),
            shares,
            not args.dry_run,
        )
        if data and data.fallback:
            say(f"SIMULATED TRANSACTIONS stand in for the real ones: {data.fallback}")
        force = [name if name == "all" else find(name, stages).name for name in args.force]
        pipeline = Pipeline(
            ROOT,
            planned,
            chosen,
            data,
            resolved(settings, planned, data) if data else settings,
            force,
            timeout=args.timeout,
        )
        tasks = pipeline.plan()
        if args.dry_run:
            print(table([(t.name, t.status, t.why) for t in tasks], ["stage", "would", "why"]))
            return 0
        if all(t.status == "up to date" for t in tasks if t.chosen):
            say(f"Nothing has changed since {pipeline.runs[0].folder.relative_to(ROOT)}.")
            return 0
        current = pipeline.open()
        n_cells = {t.name: sum(k == "code" for k, _, _ in load_cells(t.job.notebook)) + 1 for t in tasks}
        progress = Progress(sum(t.chosen and t.status != "up to date" for t in tasks), n_cells)
        progress.line(f"{'resumes' if pipeline.resumed else 'run'} {current.folder.relative_to(ROOT)}")
        pipeline.execute(max(1, args.jobs), progress, inherit=(lock,))
        done = all(t.whole for t in tasks if t.chosen)
        current.note(status="done" if done else "failed")
        print(
            table(
                [(t.name, t.status, (t.record or {}).get("seconds"), (t.record or {}).get("peak_mb")) for t in tasks],
                ["stage", "status", "seconds", "MB"],
            )
        )
        return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
