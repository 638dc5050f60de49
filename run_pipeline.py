"""Execute the notebooks, strictly, in parallel, resumably.

Exit codes: 0 done (or nothing to do), 1 a notebook failed or was interrupted, 2 refused before
anything ran.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lib.data.datasets import load_description
from lib.engine import executors
from lib.errors import PipelineError, Refused
from lib.files import read_json
from lib.pipeline import workers
from lib.pipeline.console import progress, summary, table, told
from lib.pipeline.logbook import Logbook, champion_version
from lib.pipeline.parameters import read_parameters
from lib.pipeline.pipeline_execution import PipelineExecution
from lib.pipeline.plan import Plan, Task
from lib.pipeline.preflight import DEFAULT, prepare, registered_name
from lib.pipeline.runs import Run, locked
from lib.pipeline.settings import ONCE, Settings, jobs
from lib.pipeline.stages import Stage, choose, find, notebook, present, read_cells
from lib.registry import serving
from lib.registry.serving import Now

ROOT = Path(__file__).resolve().parent


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; `--help` lists every notebook's parameters."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=parameters_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    data = parser.add_argument_group("data and parameters")
    data.add_argument(
        "--dataset",
        default="",
        help="a name in data/ or the path of a description (default: creditcard, else simulated)",
    )
    data.add_argument("--raw", default="", metavar="FILE", help="the raw file or folder")
    data.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("[STAGE.]NAME", "VALUE"),
        help="set a parameter (repeatable)",
    )
    data.add_argument(
        "--sweep",
        nargs="+",
        action="append",
        default=[],
        metavar=("STAGE.NAME", "VALUE"),
        help="fit one candidate for each value (repeatable)",
    )
    data.add_argument(
        "--config",
        metavar="FILE",
        help="read all of these from a file such as reports/<run>/run.yaml",
    )
    data.add_argument(
        "--accept",
        action="store_true",
        help="promote even if the champion cannot be compared fairly",
    )
    data.add_argument(
        "--replace",
        action="store_true",
        help="export over a bundle of another registered name",
    )

    stages = parser.add_argument_group("stages")
    stages.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STAGE",
        help="run only this stage, reusing the latest run's outputs (repeatable)",
    )
    stages.add_argument(
        "--from",
        dest="first",
        metavar="STAGE",
        help="run this stage and all later ones, reusing the latest run's outputs",
    )
    stages.add_argument("--until", dest="last", metavar="STAGE", help="run no later stage")
    stages.add_argument(
        "--force",
        nargs="?",
        const="all",
        action="append",
        default=[],
        metavar="STAGE",
        help="run this stage, or all of them, even if up to date (repeatable)",
    )

    execution = parser.add_argument_group("execution")
    execution.add_argument(
        "--jobs",
        type=positive,
        default=os.cpu_count(),
        metavar="N",
        help="notebooks at a time on this machine (default: the number of cores)",
    )
    execution.add_argument(
        "--engine",
        default="",
        metavar="ADDRESS",
        help="execute notebooks that fit on the workers of a Dask scheduler, tcp://… or tls://…",
    )
    execution.add_argument(
        "--timeout",
        type=float,
        default=0.0,
        metavar="S",
        help="stop a notebook after S seconds (default: never)",
    )
    execution.add_argument(
        "--wait", action="store_true", help="wait for another pipeline in this folder to end"
    )
    execution.add_argument("--json", action="store_true", help="print the summary as JSON")

    instead = parser.add_argument_group("instead of running")
    instead.add_argument(
        "--dry-run", action="store_true", help="say which stages would run, and why"
    )
    instead.add_argument(
        "--list", action="store_true", help="list the stages, what they read and write"
    )
    instead.add_argument(
        "--rollback",
        action="store_true",
        help="make the previous champion of --dataset (or of the latest run) the champion again",
    )
    instead.add_argument(
        "--why", default="", metavar="TEXT", help="the reason of a --rollback (default: the time)"
    )
    return parser.parse_args(argv)


def parameters_help() -> str:
    """Return the parameters of all notebooks, from their parameters cells."""
    lines = ["parameters:"]
    for stage in present(ROOT):
        lines.append(f"\n  {stage.name}")
        for parameter in read_parameters(notebook(ROOT, stage)).values():
            name = f"{parameter.name}: {parameter.kind} = {parameter.default!r}"
            lines.append(f"    {name:<44}  {parameter.comment}")
    return "\n".join(lines).replace("%", "%%")  # argparse fills in what follows a percent sign


def asked_for(args: argparse.Namespace, chosen: Sequence[Stage]) -> Settings:
    """Return the settings of the command line.

    Raises Refused for a parameter of a stage that is not among the chosen ones, or of none.
    """
    for key, _ in args.p:
        if "." in key and find(key.rpartition(".")[0], present(ROOT)) not in chosen:
            names = ", ".join(stage.name for stage in chosen)
            raise Refused(f"-p {key}: that stage is not among the chosen ones: {names}.")
    parameters = dict(args.p)
    if args.accept:
        parameters["09_comparison.accept"] = True
    if args.replace:
        parameters["10_export.replace"] = True
    sweep = {key: values for key, *values in args.sweep}
    asked = Settings(args.dataset, args.raw, parameters, sweep)
    jobs(ROOT, asked, chosen)  # refuses what only other notebooks have
    return asked


def reused_run(args: argparse.Namespace) -> Run | None:
    """Return the run whose outputs and settings `--only` or `--from` take: the latest."""
    if args.config or not (args.only or args.first):
        return None
    for run in Run.all(ROOT / "reports"):
        if args.dataset in ("", run.info["dataset"], run.asked.dataset):
            return run
    return None


def laid_over(asked: Settings, reused: Run) -> Settings:
    """Return the command line's settings over those of the run that is reused.

    What a person accepted once is not accepted again. A dataset may be named as the run names it.
    """
    before = reused.asked
    kept = {key: v for key, v in before.parameters.items() if key not in ONCE}
    if asked.dataset == reused.info["dataset"]:
        asked = replace(asked, dataset="")
    return replace(before, parameters=kept).overlaid(asked)


def planned(
    args: argparse.Namespace, asked: Settings, stages: Sequence[Stage], chosen: Sequence[Stage]
) -> Plan:
    """Find, check and split the data, and decide what to run."""
    found = jobs(ROOT, asked)
    split = next((job.parameters for job in found if job.stage.short == "split"), {})
    shares = {n: split[n] for n in ("reference", "validation", "n_batches") if n in split}
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


def run(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Plan and execute; return the exit code."""
    refuse_other_engines(args.engine)
    stages = present(ROOT)
    chosen = choose(stages, args.only, args.first, args.last)
    asked = asked_for(args, chosen)
    reused = reused_run(args)
    if args.config:
        asked = Settings.read(args.config).overlaid(asked)
    elif reused is not None:
        asked = laid_over(asked, reused)
        say(f"Reusing settings and outputs of reports/{reused.name} ({reused.info['status']}).")
    if args.dry_run:
        return dry_run(args, planned(args, asked, stages, chosen), say)
    with locked(ROOT, args.wait, say) as lock:
        workers.end_lost(ROOT, say)
        plan = planned(args, asked, stages, chosen)
        remarks = told_fallback(plan, say)
        finished = plan.unchanged()
        if finished is None:
            with connected(args.engine, plan) as cluster:
                pipeline = PipelineExecution(plan, asked, engine=args.engine, workers=cluster)
                result, now = execute(args, pipeline, remarks=remarks, lock=lock)
            result["engine"] = args.engine
        else:
            say(f"Nothing has changed since reports/{finished.name}.")
            now = served_now(plan.data.registered_name)
            result = summary(finished, plan.tasks, "done", now=now, remarks=remarks)
            if finished.info.get("serving_as_of") != now.fixed():  # promoted or withdrawn since
                write_page(finished, result, "done", now)
    print(json.dumps(result, indent=1) if args.json else told(result, now))
    return 0 if result["status"].startswith("done") else 1


def told_fallback(plan: Plan, say: Callable[[str], None]) -> list[str]:
    """Say at the start that simulated transactions stand in; return what the end has to repeat."""
    if not plan.data.fallback:
        return []
    why = plan.data.fallback.removeprefix(f"{DEFAULT}: ").rstrip(".")
    remark = f"SIMULATED TRANSACTIONS stand in for real ones. {why[:1].upper()}{why[1:]}."
    say(remark)
    return [remark]


def dry_run(args: argparse.Namespace, plan: Plan, say: Callable[[str], None]) -> int:
    """Print for every stage whether it would run, and why; return the exit code."""
    told_fallback(plan, say)
    found = [{"stage": t.name, "status": t.status, "why": t.why} for t in plan.tasks]
    if args.engine:
        for row, task in zip(found, plan.tasks, strict=True):
            row["where"] = args.engine if task.is_open and uses_workers(task) else ""
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print(table(list(found[0]), [list(row.values()) for row in found]))
    return 0


def refuse_other_engines(address: str) -> None:
    """Raise Refused for an `--engine` that cannot execute notebooks."""
    if address.startswith(executors.LOCAL):
        n = address.removeprefix(executors.LOCAL)
        raise Refused(
            f"--engine {address} is for tables; notebooks run in processes of this machine anyway, "
            f"--jobs {n or 'N'} at a time."
        )
    if address and not address.startswith(executors.CLUSTER):
        raise Refused(
            f"--engine is {address!r}; expected a Dask scheduler such as tcp://10.0.0.1:8786."
        )


@contextlib.contextmanager
def connected(address: str, plan: Plan) -> Iterator[workers.Workers | None]:
    """Yield the workers at an address, if there is anything for them to do; else None."""
    for_workers = [task for task in plan.tasks if task.is_open and uses_workers(task)]
    if not address or not for_workers:
        yield None
        return
    with workers.opened(address, ROOT) as cluster:
        yield cluster


def uses_workers(task: Task) -> bool:
    """Return whether workers execute a task, or what it sends them."""
    return task.job.stage.runs_anywhere or "engine" in task.job.accepts


def execute(
    args: argparse.Namespace, pipeline: PipelineExecution, *, remarks: list[str], lock: int
) -> tuple[dict, Now]:
    """Execute what is to run, log it, write the page; return summary and what is served."""
    plan = pipeline.plan
    current, tasks = pipeline.run, plan.tasks
    show = progress(sum(not task.is_whole for task in tasks), count_cells(tasks))
    show.say(f"{'Resuming' if pipeline.is_resumed else 'Starting'} reports/{current.name}")
    logbook = Logbook(current, {"dataset": plan.data.dataset.name, "source": plan.data.source})
    for task in tasks:
        if task.is_whole and "mlflow_run" not in task.record:
            logbook.stage(task, pipeline.places)
    status = "interrupted"
    try:
        with show:
            pipeline.execute(
                show, logbook, n_parallel=args.jobs, timeout_s=args.timeout, inherit=(lock,)
            )
        status = "done" if all(t.is_whole or not t.chosen for t in tasks) else "failed"
    finally:
        now = served_now(plan.data.registered_name)
        metrics = read_json(current.folder / "metrics.json", {})
        error = logbook.finish(status, metrics, now)
        if error:
            status, remarks = "failed", [*remarks, error]
        if status == "interrupted":
            current.note(status=status)
    result = summary(current, tasks, status, now=now, remarks=remarks)
    write_page(current, result, status, now)
    current.publish()
    current.note(status=status)  # last: a run that is done has a page and is the latest
    return result, now


def count_cells(tasks: Sequence[Task]) -> dict[str, int]:
    """Return the code cells of each task's notebook, with the one that papermill injects."""
    counts = {}
    for task in tasks:
        kinds = [cell.kind for cell in read_cells(task.job.notebook)]
        counts[task.name] = kinds.count("code") + 1
    return counts


def served_now(name: str) -> Now:
    """Return what is served of a registered name, and from serve/model."""
    return serving.now(name, ROOT / "serve" / "model")


def write_page(current: Run, result: dict, status: str, now: Now) -> None:
    """Write a run's page and the list of runs, with what is served now."""
    from lib.reporting import pages  # imports matplotlib, which kernels did not have to wait for

    outcome = result["status"] if status == "done" else status
    current.note(stages=result["stages"], outcome=outcome, serving_as_of=now.fixed())
    pages.write(current.folder, result["stages"], outcome, now, look=served_now)


def rollback(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Make the previous champion of a dataset the champion again; return the exit code."""
    from lib.registry import tracking

    datasets = [run.info["dataset"] for run in Run.all(ROOT / "reports")]
    dataset = args.dataset or next(iter(datasets), DEFAULT)
    if dataset not in datasets:
        dataset = load_description(dataset).name
    name = registered_name(dataset)
    version = tracking.rollback(name, args.why)
    rewrite_pages(name)
    say(
        f"{name}: version {version} is the champion again. The version before is withdrawn and not "
        "promoted again without --accept. run_pipeline.py --only 10_export "
        f"--dataset {args.dataset or dataset} exports the champion."
    )
    return 0


def rewrite_pages(name: str) -> None:
    """Write the pages and MLflow descriptions of a registered name's runs anew.

    What is served has changed, and no page may say that it has not.
    """
    from lib.registry import tracking
    from lib.reporting import pages, run_descriptions

    now = served_now(name)
    for current in Run.all(ROOT / "reports"):
        metrics = read_json(current.folder / "metrics.json", {})
        decided = metrics.get("champion") or {}
        if decided.get("name") != name or not (current.folder / "index.html").is_file():
            continue
        outcome = current.info.get("outcome") or current.info["status"]
        current.note(serving_as_of=now.fixed())
        pages.write(current.folder, current.info.get("stages", []), outcome, now, look=served_now)
        if current.info.get("mlflow_run"):
            text = run_descriptions.pipeline(current.name, metrics, now)
            tracking.describe(current.info["mlflow_run"], text)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    say = progress().say
    try:
        args = arguments(argv)
        if args.list:
            rows = [(s.name, ", ".join(s.reads), ", ".join(s.writes)) for s in present(ROOT)]
            print(table(["stage", "reads", "writes"], rows))
            return 0
        if args.why and not args.rollback:
            raise Refused("--why gives the reason of a rollback; it needs --rollback.")
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
    # papermill repeats what we say in a sentence
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
