"""Execute the notebooks, strictly, in parallel, resumably.

Exit codes: 0 done (or nothing to do), 1 a notebook failed or was interrupted, 2 refused before
anything ran.
"""

import argparse
import json
import logging
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from lib.data.datasets import load_description
from lib.errors import PipelineError, Refused
from lib.files import read_json
from lib.pipeline.console import Progress, summary, table, told
from lib.pipeline.logbook import Logbook, champion_version
from lib.pipeline.parameters import read_parameters
from lib.pipeline.pipeline_execution import Pipeline
from lib.pipeline.plan import Plan
from lib.pipeline.preflight import DEFAULT, prepare, registered_name
from lib.pipeline.runs import Run, locked
from lib.pipeline.settings import Settings, jobs
from lib.pipeline.stages import choose, find, notebook, present, read_cells
from lib.registry import serving

ROOT = Path(__file__).resolve().parent


def positive(text):
    """A whole number from 1 on."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def arguments(argv):
    """The command line; `--help` lists every notebook's parameters."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=parameters_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    titles = ("data and parameters", "stages", "execution", "instead")
    data, stages, way, other = (parser.add_argument_group(title).add_argument for title in titles)
    many = {"action": "append", "default": []}
    data(
        "--dataset",
        default="",
        help="name in data/, or path of a description (default: creditcard, else simulated)",
    )
    data("--raw", default="", metavar="FILE", help="the raw file or folder")
    data("-p", nargs=2, **many, metavar=("[STAGE.]NAME", "VALUE"), help="set a parameter")
    data(
        "--sweep",
        nargs="+",
        **many,
        metavar=("STAGE.NAME", "VALUE"),
        help="a candidate for each value",
    )
    data(
        "--config", metavar="FILE", help="all of these from a file, such as reports/<run>/run.yaml"
    )
    data(
        "--accept",
        action="store_true",
        help="promote though the champion cannot be compared fairly",
    )
    data("--replace", action="store_true", help="export over a bundle of another registered name")
    stages(
        "--only",
        **many,
        metavar="STAGE",
        help="this one, on what the newest run has; again for more",
    )
    stages(
        "--from",
        dest="first",
        metavar="STAGE",
        help="this one and all after it, on what the newest run has",
    )
    stages("--until", dest="last", metavar="STAGE", help="none after this one")
    stages(
        "--force",
        nargs="?",
        const="all",
        **many,
        metavar="STAGE",
        help="this one, or all, even if up to date",
    )
    way(
        "--jobs",
        type=positive,
        default=os.cpu_count(),
        metavar="N",
        help="notebooks at once (default: cores)",
    )
    way(
        "--timeout",
        type=float,
        default=0.0,
        metavar="S",
        help="limit for one notebook (default: none)",
    )
    way("--wait", action="store_true", help="wait for another pipeline in this folder to end")
    way("--json", action="store_true", help="print the summary as JSON")
    other(
        "--dry-run", action="store_true", help="say for every stage whether it would run, and why"
    )
    other("--list", action="store_true", help="the stages, what they read and write")
    other(
        "--rollback",
        action="store_true",
        help="swap champion and previous, of --dataset or the newest run's",
    )
    other("--why", default="", metavar="TEXT", help="with --rollback: why (default: the time)")
    return parser.parse_args(argv)


def parameters_help():
    """The parameters of all notebooks, from their parameters cells."""
    lines = ["parameters:"]
    for stage in present(ROOT):
        lines.append(f"\n  {stage.name}")
        for p in read_parameters(notebook(ROOT, stage)).values():
            lines.append(
                f"    {f'{p.name}: {p.kind} = {p.default!r}':<44}  {p.comment}".replace("%", "%%")
            )
    return "\n".join(lines)


def asked_for(args, stages, chosen):
    """The settings of the command line, laid over those of the file, or of the run that a part is
    to be run of.
    """
    for key, _ in args.p:
        if "." in key and find(key.rpartition(".")[0], stages) not in chosen:
            raise Refused(
                f"-p {key}: that stage is not among the chosen ones: "
                f"{', '.join(s.name for s in chosen)}."
            )
    parameters = dict(args.p) | ({"06_comparison.accept": True} if args.accept else {})
    parameters |= {"07_export.replace": True} if args.replace else {}
    asked = Settings(
        args.dataset, args.raw, parameters, {key: values for key, *values in args.sweep}
    )
    jobs(ROOT, asked, chosen)  # refuses what only other notebooks have
    if args.config:
        return Settings.read(args.config).overlaid(asked)
    runs = Run.all(ROOT / "reports") if args.only or args.first else []
    same = [run for run in runs if args.dataset in ("", run.info["dataset"], run.asked.dataset)]
    return same[0].asked.overlaid(asked) if same else asked


def planned(args, asked, stages, chosen):
    """Find, check and split the data, and decide what to run -> Plan."""
    found = jobs(ROOT, asked)
    split = next((job.parameters for job in found if job.stage.short == "split"), {})
    shares = {
        name: split[name] for name in ("reference", "validation", "n_batches") if name in split
    }
    force = [name if name == "all" else find(name, stages).name for name in args.force]
    data = prepare(
        asked.dataset,
        asked.raw,
        rows=split.get("rows", 0),
        seed=split.get("seed", 0),
        shares=shares,
        write=not args.dry_run,
        root=ROOT,
    )
    return Plan(ROOT, data, found, chosen=chosen, force=force, champion=champion_version)


def run(args, say):
    """Plan and execute -> exit code."""
    stages = present(ROOT)
    chosen = choose(stages, args.only, args.first, args.last)
    asked = asked_for(args, stages, chosen)
    with nullcontext() if args.dry_run else locked(ROOT, args.wait, say) as lock:
        plan = planned(args, asked, stages, chosen)
        remarks = (
            [f"SIMULATED TRANSACTIONS stand in for real ones: {plan.data.fallback}"]
            if plan.data.fallback
            else []
        )
        for remark in remarks:
            say(remark)
        if args.dry_run:
            found = [{"stage": t.name, "status": t.status, "why": t.why} for t in plan.tasks]
            print(
                json.dumps(found, indent=1)
                if args.json
                else table(list(found[0]), [[*f.values()] for f in found])
            )
            return 0
        if finished := plan.unchanged():
            say(f"Nothing has changed since reports/{finished.name}.")
            now = serving.now(plan.data.registered_name, ROOT / "serve" / "model")
            result = summary(finished, plan.tasks, "done", now=now, remarks=remarks)
            if finished.info.get("serving_as_of") != now.fixed():
                write_page(finished, result, "done", now)  # something was served or withdrawn since
        else:
            result, now = execute(args, plan, asked, remarks, lock)
    print(json.dumps(result, indent=1) if args.json else told(result, now))
    return 0 if result["status"].startswith("done") else 1


def execute(args, plan, asked, remarks, lock):
    """Execute what is to run, log it, write the run's page -> its summary."""
    pipeline, tasks = Pipeline(plan, asked), plan.tasks
    current = pipeline.run
    n_cells = {
        t.name: sum(kind == "code" for kind, *_ in read_cells(t.job.notebook)) + 1 for t in tasks
    }
    progress = Progress(sum(not t.is_whole for t in tasks), n_cells)
    progress.say(f"{'Resuming' if pipeline.is_resumed else 'Starting'} reports/{current.name}")
    logbook = Logbook(current, {"dataset": plan.data.dataset.name, "source": plan.data.source})
    for task in tasks:
        if task.is_whole and "mlflow_run" not in task.record:
            logbook.stage(task, pipeline.places)
    status = "interrupted"
    try:
        pipeline.execute(
            progress, logbook, n_parallel=args.jobs, timeout_s=args.timeout, inherit=(lock,)
        )
        status = "done" if all(t.is_whole or not t.chosen for t in tasks) else "failed"
    finally:
        metrics = read_json(current.folder / "metrics.json") or {}
        if error := logbook.finish(status, metrics):
            status, remarks = "failed", [*remarks, error]
        if status == "interrupted":
            current.note(status=status)
    now = serving.now(plan.data.registered_name, ROOT / "serve" / "model")
    result = summary(current, tasks, status, now=now, remarks=remarks)
    write_page(current, result, status, now)
    current.publish()
    current.note(status=status)  # last: a run that is done has a page and is the latest
    return result, now


def write_page(current, result, status, now):
    """Write a run's page and the list of runs, with what is served now."""
    from lib.reporting import pages  # imports matplotlib, which kernels did not have to wait for

    current.note(stages=result["stages"], serving_as_of=now.fixed())
    pages.write(
        current.folder, result["stages"], result["status"] if status == "done" else status, now
    )


def rollback(args, say):
    """Make the previous champion of a dataset the champion again -> exit code."""
    from lib.registry import tracking

    runs = [run.info["dataset"] for run in Run.all(ROOT / "reports")]
    dataset = args.dataset or next(iter(runs), DEFAULT)
    dataset = dataset if dataset in runs else load_description(dataset).name
    name = registered_name(dataset)
    version = tracking.rollback(name, args.why)
    rewrite_pages(name)
    say(
        f"{name}: version {version} is the champion again and the version before is withdrawn: it "
        "is not promoted "
        "again without --accept. run_pipeline.py --only 07_export exports the champion."
    )
    return 0


def rewrite_pages(name):
    """Write the pages of a registered name's runs again, after what is served has changed."""
    from lib.reporting import pages

    now = serving.now(name, ROOT / "serve" / "model")
    for current in Run.all(ROOT / "reports"):
        decided = (read_json(current.folder / "metrics.json") or {}).get("champion") or {}
        if decided.get("name") == name and (current.folder / "index.html").is_file():
            current.note(serving_as_of=now.fixed())
            pages.write(current.folder, current.info.get("stages", []), current.info["status"], now)


def main(argv=None):
    """The command -> exit code."""
    say = Progress().say
    try:
        args = arguments(argv)
        if args.list:
            rows = [(s.name, ", ".join(s.reads), ", ".join(s.writes)) for s in present(ROOT)]
            print(table(["stage", "reads", "writes"], rows))
            return 0
        if args.why and not args.rollback:
            raise Refused("--why says why a champion is withdrawn; it goes with --rollback.")
        return rollback(args, say) if args.rollback else run(args, say)
    except PipelineError as error:
        say(str(error))
        return 2
    except OSError as error:
        say(f"{error.filename}: {error.strerror}." if error.filename else str(error))
        return 1
    except KeyboardInterrupt:
        say("Interrupted; the same command goes on where it stopped.")
        return 1


if __name__ == "__main__":
    # it repeats what we say in a sentence
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
