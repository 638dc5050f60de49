"""Score a table of new transactions, and compare it with the window that the model knows.

`python -m lib.production.scoring FILE` writes `scores.parquet` and `drift.json`, chunk by chunk in
flat memory; no labels are needed. Where features are histories, the whole table is looked at behind
the transactions that the bundle brings along, and labels are read where a feature counts frauds.
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
from lib.data.datasets import ROOT, Arrays, Dataset
from lib.engine import executors, scored, storage
from lib.engine.samples import Sample
from lib.errors import BundleError, DataError
from lib.evaluation import intervals
from lib.files import whole, write_json
from lib.production import scoring_by_parts
from lib.production.scoring_by_parts import drift_report

CHUNK_ROWS = 100_000
SAMPLE_ROWS = scoring_by_parts.SAMPLE_ROWS
GAP = 100  # mean distances between transactions, which nobody would call a gap
N_NAMED = 12  # columns that the command's last lines name


@dataclass
class _Sums:
    """What adds up over chunks."""

    n: int = 0
    weight: float = 0.0
    alerts: float = 0.0  # weight of them


def score_table(
    dataset: Dataset,
    path: Path | str,
    model: Bundle,
    folder: Path | str,
    reference: Arrays | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write an anomaly score and an alert for every row of a table.

    Parameters
    ----------
    path : CSV, CSV.gz, Parquet or a folder of them, in any order of time
    folder : gets `scores.parquet` (position, time, identifiers, anomaly_score, alert), whole or not
        at all; an identifier that is called like one of the other columns gets `id.` in front
    reference : Arrays to compare with; None: no drift is looked for
    seed : of the sample that is compared

    Returns
    -------
    dict
        The report, also kept as `drift.json`.

    Raises
    ------
    DataError
        For a column, a row or a cell that the description does not allow, or a table without rows.
    """
    start = time.perf_counter()
    folder = Path(folder)
    sample = Sample(SAMPLE_ROWS, seed)
    sums = _Sums()
    writer = None
    with whole(folder / "scores.parquet") as partial:
        try:
            for frame in _derived(dataset, Path(path), model):
                data = dataset.arrays(frame)
                found = scored.score(model, data.X, sums.n)
                table = scored.table(dataset, frame, sums.n, found)
                if writer is None:
                    writer = pq.ParquetWriter(partial, table.schema)
                writer.write_table(table)
                sample.add(data, found.score)
                sums.n += len(frame)
                sums.weight += data.weight.sum()
                sums.alerts += data.weight @ found.alert
        finally:
            if writer is not None:
                writer.close()
    report = {
        "n": sums.n,
        "weight": float(sums.weight),
        "alert_rate": float(sums.alerts / sums.weight),
        "model": model.manifest["model"],
        "drift": None,
        "version": model.version,
        "seconds": time.perf_counter() - start,
    }
    if reference is not None:
        data, score = sample.rows()
        report["drift"] = drift_report(dataset, model, reference, data, score)
    write_json(folder / "drift.json", report)
    return report


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
    labelled = dataset.recipe.knows_labels and _has_label(dataset, path)
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
    files = reading.parts(path)
    return all(dataset.label in reading.columns_of(file, dataset.format) for file in files)


def _chunks(dataset: Dataset, path: Path) -> Iterator[pd.DataFrame]:
    """Go through a table; the next chunk is read while the caller scores this one."""
    chunks = datasets.iter_transactions(dataset, path, rows_per_chunk=CHUNK_ROWS)
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(next, chunks, None)
        frame = waiting.result()
        while frame is not None:
            waiting = ahead.submit(next, chunks, None)
            yield frame
            frame = waiting.result()


def known_window(dataset: Dataset, model: Bundle) -> Arrays | None:
    """Return the reference period that the model was fitted on; None if its split is gone."""
    for manifest in sorted((ROOT / "data" / dataset.name).glob("*/splits.json")):
        folder = manifest.parent
        # the fingerprint first: to open a split may take a download
        if splits.Split(folder, {}).fingerprint == model.manifest["fit"].get("split"):
            return splits.open_split(folder).arrays("reference")
    return None


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
        "--engine",
        default="",
        help="score part by part: local:4 for four processes, tcp://host:8786 or tls://host:8786 "
        "for a Dask scheduler",
    )
    parser.add_argument(
        "--labels",
        action="store_true",
        help="read labels, too, and say how good the scores are (with --engine)",
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
    """Run the command; return its exit code: 0, or 2 where the table or the bundle is at fault."""
    args = _parser().parse_args(argv)
    try:
        _refuse_options(args)
        model = bundle.load(args.bundle)
        dataset = _description(model, args)
        reference = known_window(dataset, model)
        if args.engine:
            report = _by_parts(dataset, args, reference)
        else:
            report = score_table(dataset, args.file, model, args.out, reference)
    except (DataError, BundleError) as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{report['n']:,} transactions in {report['seconds']:.1f} s; {report['alert_rate']:.2%} "
        "of them are alerts"
    )
    if dataset.recipe is not None and dataset.recipe.histories and model.history is None:
        print("The bundle brings no history along: windows begin with the first row of the file.")
    for line in scoring_by_parts.lines(report):
        print(line)
    _tell_drift(report["drift"])
    written = "scores/, drift.json" if args.engine else "scores.parquet, drift.json"
    print(f"{args.out}: {written}")
    return 0


def _refuse_options(args: argparse.Namespace) -> None:
    """Raise DataError for options that only an engine knows."""
    if args.engine:
        return
    if args.labels:
        raise DataError("--labels cannot be used without --engine, such as --engine local:2")
    for place in (args.file, str(args.out)):
        if storage.is_remote(place):
            raise DataError(f"{storage.shown(place)}: needs --engine, such as --engine local:2")


def _by_parts(
    dataset: Dataset, args: argparse.Namespace, reference: Arrays | None
) -> dict[str, Any]:
    """Score with an engine; return the report."""
    run = scoring_by_parts.Run(
        dataset=dataset,
        address=args.file,
        bundle=Path(args.bundle),
        out=str(args.out),
        labelled=args.labels,
    )
    with executors.opened(args.engine) as pool:
        return scoring_by_parts.score(run, pool, reference)


def _tell_drift(found: dict[str, Any] | None) -> None:
    if found is None:
        print("The window that the model was fitted on is missing: no drift was looked for.")
        return
    flagged = [column for column in found["columns"] if column["flagged"]]
    flagged.sort(key=lambda column: -(column["psi"] or 0))
    names = [column["name"] for column in flagged[:N_NAMED]]
    print(f"drift: {', '.join(names) or 'none'}")
    if found["note"]:
        print(found["note"])


if __name__ == "__main__":
    sys.exit(main())
