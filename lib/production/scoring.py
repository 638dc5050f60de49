"""Score a table of new transactions, explain its alerts, and say whether the model is still good.

`python -m lib.production.scoring FILE` writes scores, alerts with reasons, and a verdict, chunk by
chunk in flat memory; labels are read where there are any. Where features are histories, the whole
table is looked at behind the transactions that the bundle brings along.
With `--engine` several processes or machines score the parts of a table of any size, see
`lib.production.scoring_by_parts`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from lib import bundle
from lib.bundle import Bundle, recent
from lib.bundle.by_row import MICROSECONDS
from lib.data import datasets, features, raw_rows, reading, splits, times
from lib.data.columns import SCORE, free_name
from lib.data.datasets import ROOT, Arrays, Dataset
from lib.engine import executors, scored, storage, top
from lib.engine.samples import Sample
from lib.engine.top import Top
from lib.errors import BundleError, DataError
from lib.evaluation import intervals
from lib.files import whole, write_json, write_text
from lib.production import alerts, scoring_by_parts
from lib.production.scored_weeks import Place, publish, shown_rate
from lib.production.scoring_by_parts import drift_report
from lib.production.verdict import ACT, counted
from lib.production.week import Promise, Week

CHUNK_ROWS = 100_000
SAMPLE_ROWS = scoring_by_parts.SAMPLE_ROWS
N_ALERTS = scoring_by_parts.N_ALERTS
GAP = 100  # mean distances between transactions, which nobody would call a gap
N_NAMED = 12  # columns that the command's last lines name


@dataclass(frozen=True)
class Known:
    """What a table of scores is held against.

    Parameters
    ----------
    window : reference and validation, which drift is held against; None: it is not looked for
    promise : what validation says of it
    """

    window: Arrays | None
    promise: Promise


@dataclass(frozen=True)
class Scores:
    """What is known of a scored table.

    Parameters
    ----------
    report : as `drift.json` has it
    alerts : the highest score first, see `lib.production.alerts.explained`
    """

    report: dict[str, Any]
    alerts: Sequence[dict[str, Any]]


def score_table(
    dataset: Dataset,
    path: Path | str,
    model: Bundle,
    folder: Path | str,
    known: Known | None = None,
    *,
    n_alerts: int = N_ALERTS,
) -> Scores:
    """Write an anomaly score and an alert for every row of a table, and what they are worth.

    Parameters
    ----------
    path : CSV, CSV.gz, Parquet or a folder of them, in any order of time; labels are read where all
        files have their column
    folder : gets `scores.parquet` (position, time, identifiers, anomaly_score, alert), `alerts.csv`
        and `drift.json`, each whole or not at all; an identifier that is called like one of the
        other columns gets `id.` in front
    known : what to compare with; None: nothing but what the bundle says itself
    n_alerts : alerts that are explained, those with the highest scores

    Raises
    ------
    DataError
        For a column, a row or a cell that the description does not allow, or a table without rows.
    """
    start = time.perf_counter()
    folder = Path(folder)
    known = known or Known(None, Promise.of_manifest(model))
    sample = Sample(SAMPLE_ROWS)
    week = Week(known.promise)
    tops: list[Top] = []
    writer = None
    with whole(folder / "scores.parquet") as partial:
        try:
            for frame in _derived(dataset, Path(path), model):
                data = dataset.arrays(frame)
                found = scored.score(model, data.X, week.n)
                table = scored.table(dataset, frame, week.n, found)
                if writer is None:
                    writer = pq.ParquetWriter(partial, table.schema)
                writer.write_table(table)
                tops = [
                    top.join([*tops, top.of_rows(dataset, frame, data.X, week.n, found, n_alerts)])
                ]
                sample.add(data, found.score)
                week.add(data, found.score, found.alert)
        finally:
            if writer is not None:
                writer.close()
    drift = None
    if known.window is not None:
        data, score = sample.rows()
        block_s = known.promise.block_s
        drift = drift_report(dataset, model, known.window, data, score, block_s)
    explained = alerts.explained(dataset, model, tops[0])
    write_text(folder / "alerts.csv", alerts.as_csv(dataset, explained))
    report = {
        "n": week.n,
        "weight": week.weight,
        "alert_rate": week.alert_rate,
        "model": model.manifest["model"],
        "drift": drift,
        "version": model.version,
        "n_alerts": tops[0].n,
        "start_s": week.start_s,
        "end_s": week.end_s,
        **week.report(drift, free_name(SCORE, dataset.features)),
        "seconds": time.perf_counter() - start,
    }
    write_json(folder / "drift.json", report)
    return Scores(report, explained)


def _derived(dataset: Dataset, path: Path, model: Bundle) -> Iterator[pd.DataFrame]:
    """Yield the rows of a table, in the files' order, with the features of the recipe.

    Without histories that is chunk by chunk. With them it is the whole table at once, behind the
    transactions that the bundle brings along.
    """
    recipe = dataset.recipe
    encoders = model.manifest.get("recipe", {}).get("encoders", {})
    if recipe is None or not recipe.histories:
        frames: Iterable[pd.DataFrame] = _chunks(dataset, path)
        frames = (features.derive(dataset, frame) for frame in frames)
    else:
        frames = [_with_histories(dataset, path, model)]
    for frame in frames:
        yield features.encode(dataset, frame, encoders)


def _with_histories(dataset: Dataset, path: Path, model: Bundle) -> pd.DataFrame:
    """Return a whole table, in the files' order, with features that look back at earlier rows."""
    labelled = _has_label(dataset, path)
    chunks = datasets.iter_transactions(dataset, path, CHUNK_ROWS, labelled=labelled)
    table = pd.concat(list(chunks))
    joined = table
    if model.history is not None:
        known = recent.unpack(model.history)
        past = raw_rows.as_frame(dataset, known, table)
        is_new = ~past[dataset.ids[0]].isin(table[dataset.ids[0]])
        joined = pd.concat([past[is_new], table], ignore_index=True)
        said = _on_gap(dataset, known, table)
        if said:
            print(said)
    n_before = len(joined) - len(table)
    order = np.argsort(times.ticks(joined[dataset.time_column]), kind="stable")
    derived = features.derive(dataset, joined.iloc[order].reset_index(drop=True))
    place = np.empty(len(joined), np.int64)
    place[order] = np.arange(len(joined))
    return derived.iloc[place[n_before:]].reset_index(drop=True)


def _on_gap(dataset: Dataset, known: recent.Recent, table: pd.DataFrame) -> str:
    """Return what the windows of a table miss before its first row; empty where that is nothing."""
    t = features.instants(dataset, table[dataset.time_column])
    gap_s = (int(t.min()) - int(known.t.max())) / MICROSECONDS
    usual_s = np.ptp(known.t) / MICROSECONDS / max(len(known), 1)
    if gap_s <= GAP * usual_s:
        return ""
    return (
        f"The transactions that the bundle brings along end {intervals.duration(gap_s)} before the "
        "first row of the file: windows lack what came in between, and scores may be far off. "
        "Score a file that holds all transactions since then."
    )


def _has_label(dataset: Dataset, path: Path) -> bool:
    """Return whether all files of a table have the label's column."""
    if dataset.label is None:
        return False
    files = reading.parts(path)
    return all(dataset.label in reading.columns_of(file, dataset.format) for file in files)


def _chunks(dataset: Dataset, path: Path) -> Iterator[pd.DataFrame]:
    """Go through a table; the next chunk is read while the caller scores this one."""
    labelled = _has_label(dataset, path)
    chunks = datasets.iter_transactions(dataset, path, CHUNK_ROWS, labelled=labelled)
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(next, chunks, None)
        frame = waiting.result()
        while frame is not None:
            waiting = ahead.submit(next, chunks, None)
            yield frame
            frame = waiting.result()


def known_of(dataset: Dataset, model: Bundle) -> Known:
    """Return what a model was fitted on and promised; what the bundle says if its split is gone."""
    for manifest in sorted((ROOT / "data" / dataset.name).glob("*/splits.json")):
        folder = manifest.parent
        # the fingerprint first: to open a split may take a download
        if splits.Split(folder, {}).fingerprint == model.manifest["fit"].get("split"):
            split = splits.open_split(folder)
            promise = Promise.of_validation(model, split.arrays("validation"))
            return Known(split.arrays(*scoring_by_parts.WINDOW), promise)
    return Known(None, Promise.of_manifest(model))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib.production.scoring", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "file",
        help="CSV, CSV.gz, Parquet, or a folder of such files; with --engine also s3://, gs://, "
        "abfs:// or hdfs://",
    )
    parser.add_argument(
        "--bundle",
        default=ROOT / "serve" / "model",
        help="the exported bundle (default: serve/model)",
    )
    parser.add_argument(
        "--dataset", default="", help="the table's description (default: the bundle's dataset)"
    )
    parser.add_argument(
        "--out", default=ROOT / "reports" / "current", help="folder (default: reports/current)"
    )
    parser.add_argument(
        "--alerts",
        type=int,
        default=N_ALERTS,
        metavar="N",
        help=f"alerts to explain, those with the highest scores (default: {N_ALERTS:,})",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 3 if the verdict is to act; to watch is 0",
    )
    parser.add_argument(
        "--history",
        default=ROOT / "reports" / "scoring",
        help="folder of all tables scored so far, which the page beside it shows; '' keeps nothing "
        "(default: reports/scoring)",
    )
    parser.add_argument(
        "--engine",
        default="",
        help="score part by part: local:4 for four processes, tcp://host:8786 or tls://host:8786 "
        "for a Dask scheduler",
    )
    parser.add_argument(
        "--labels",
        action="store_true",
        help="with --engine: read labels, too, and say how good the scores are; without, labels "
        "are read where they are",
    )
    return parser


def _description(model: Bundle, args: argparse.Namespace) -> Dataset:
    """Return the description of the table; DataError if it is missing or not the bundle's."""
    name = model.manifest["dataset"]["name"]
    if not args.dataset and not (ROOT / "data" / f"{name}.yaml").is_file():
        raise DataError(
            f"the description of {name!r}, which the bundle is for, is not in data/; name it "
            "by --dataset"
        )
    dataset = datasets.load_description(args.dataset or name)
    if list(dataset.features) != list(model.features):
        raise DataError(
            f"the bundle in {args.bundle} has other features than {dataset.name}; name --dataset"
        )
    return dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    0, or 2 where the table or the bundle is at fault, or, with `--check`, 3 where it is time to
    act.
    """
    args = _parser().parse_args(argv)
    try:
        _refuse_options(args)
        model = bundle.load(args.bundle)
        dataset = _description(model, args)
        known = known_of(dataset, model)
        if args.engine:
            report = _by_parts(dataset, args, known)
            written = "scores/, alerts.csv, alerts.html, drift.json"
        else:
            found = score_table(dataset, args.file, model, args.out, known, n_alerts=args.alerts)
            report = found.report
            pages = publish(dataset, model, _place(args), report, found.alerts)
            written = "scores.parquet, alerts.csv, alerts.html, drift.json"
    except (DataError, BundleError) as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{report['n']:,} transactions in {report['seconds']:.1f} s; "
        f"{counted(report['n_alerts'])}, {shown_rate(report)}"
    )
    if dataset.recipe is not None and dataset.recipe.histories and model.history is None:
        print("The bundle brings no history along: windows begin with the first row of the file.")
    for line in scoring_by_parts.lines(report):
        print(line)
    _tell_drift(report["drift"])
    print(f"{args.out}: {written}")
    if args.engine:
        return 0
    for page in pages:
        print(page)
    verdict = report["verdict"]
    print(f"\nIs it still good? {verdict['word']}")
    for reason in verdict["reasons"]:
        print(f"  {reason}")
    print(f"  Next: {verdict['next_step']}")
    return 3 if args.check and verdict["word"] == ACT else 0


def _place(args: argparse.Namespace) -> Place:
    """Return where the table lies, and where what is found goes."""
    history = Path(args.history) if str(args.history) else None
    return Place(Path(args.file), Path(args.out), history)


def _refuse_options(args: argparse.Namespace) -> None:
    """Raise DataError for options that only an engine knows."""
    if args.alerts < 1:
        raise DataError(f"--alerts is {args.alerts}; expected a number of alerts above 0")
    if args.engine:
        if args.check:
            raise DataError("--check needs the verdict, which a run with --engine does not give")
        return
    if args.labels:
        raise DataError("--labels is for --engine; without it labels are read where they are")
    for place in (args.file, str(args.out)):
        if storage.is_remote(place):
            raise DataError(f"{storage.shown(place)}: needs --engine, such as --engine local:2")


def _by_parts(dataset: Dataset, args: argparse.Namespace, known: Known) -> dict[str, Any]:
    """Score with an engine; return the report."""
    run = scoring_by_parts.Run(
        dataset=dataset,
        address=args.file,
        bundle=Path(args.bundle),
        out=str(args.out),
        labelled=args.labels,
        n_alerts=args.alerts,
    )
    with executors.opened(args.engine) as pool:
        return scoring_by_parts.score(run, pool, known.window, known.promise.block_s)


def _tell_drift(found: dict[str, Any] | None) -> None:
    if found is None:
        print("Reference and validation are missing: no drift was looked for.")
        return
    flagged = [column for column in found["columns"] if column["flagged"]]
    flagged.sort(key=lambda column: -(column["psi"] or 0))
    names = [column["name"] for column in flagged[:N_NAMED]]
    print(f"drift against {' and '.join(scoring_by_parts.WINDOW)}: {', '.join(names) or 'none'}")
    if found["note"]:
        print(found["note"])


if __name__ == "__main__":
    sys.exit(main())
