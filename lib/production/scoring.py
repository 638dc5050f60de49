"""Score a table of new transactions, and compare it with the window that the model knows.

`python -m lib.production.scoring FILE` writes `scores.parquet` and `drift.json`, chunk by chunk in
flat memory; no labels are needed. Where features are histories, the whole table is looked at behind
the transactions that the bundle brings along, and labels are read where a feature counts frauds.
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
import pyarrow as pa
import pyarrow.parquet as pq

from lib import bundle
from lib.bundle import Bundle, recent
from lib.bundle.by_row import MICROSECONDS
from lib.data import datasets, features, raw_rows, reading, splits, times
from lib.data.columns import beside
from lib.data.datasets import ROOT, Arrays, Dataset
from lib.errors import BundleError, DataError
from lib.evaluation import intervals
from lib.files import whole, write_json
from lib.production import drift, drift_categories

CHUNK_ROWS = 100_000
COLUMNS = ("position", "anomaly_score", "alert")  # ours in scores.parquet
SAMPLE_ROWS = 100_000  # that the drift report looks at, drawn evenly from all
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
                alert, score = model.predict(data.X)
                table = _table(dataset, frame, sums.n, score, alert)
                if writer is None:
                    writer = pq.ParquetWriter(partial, table.schema)
                writer.write_table(table)
                sample.add(data, score)
                sums.n += len(frame)
                sums.weight += data.weight.sum()
                sums.alerts += data.weight @ alert
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
        report["drift"] = _drift(dataset, sample, model, reference)
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


def _table(
    dataset: Dataset,
    frame: pd.DataFrame,
    first: int,
    score: np.ndarray,
    alert: np.ndarray,
) -> pa.Table:
    """Return the scores of one chunk: our columns first and last, the user's in between.

    Theirs have their own names, unless one of ours is called like that.
    """
    named = beside(COLUMNS, (dataset.time_column, *dataset.kept), "time.")
    time_name = named[dataset.time_column]
    ids = beside(COLUMNS, (*dataset.kept, time_name))
    columns = {
        "position": np.arange(first, first + len(frame)),
        time_name: frame[dataset.time_column],
    }
    for column in dataset.kept:
        columns[ids[column]] = frame[column]
    columns["anomaly_score"] = score
    columns["alert"] = alert
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def _drift(
    dataset: Dataset,
    sample: Sample,
    model: Bundle,
    reference: Arrays,
) -> dict[str, Any]:
    """Return the verdict on the sample, as JSON has it."""
    options = drift.MonitorOptions(
        block_s=intervals.block_length(reference.time_s),
        clock=dataset.time is not None,
        categories=_categories(model),
    )
    known_score = model.anomaly_score(reference.X)
    known = drift.Reference(dataset.features, reference, known_score, options)
    data, score = sample.rows()
    known.compare(data.X, data.weight, data.time_s, score)
    return known.verdict.to_dict()


def _categories(model: Bundle) -> dict[str, drift_categories.Values]:
    """Return what the numbers of a bundle's categories stand for."""
    encoders = model.manifest.get("recipe", {}).get("encoders", {})
    return {name: drift_categories.of_encoder(encoder) for name, encoder in encoders.items()}


@dataclass(frozen=True)
class _Part:
    """Rows of a sample: lot (n,) of [0, 1), data and score (n,)."""

    lot: np.ndarray
    data: Arrays
    score: np.ndarray

    def take(self, rows: np.ndarray) -> _Part:
        return _Part(self.lot[rows], self.data.take(rows), self.score[rows])


class Sample:
    """At most `size` of all rows that come by, each with the same chance, in their order.

    Each row draws a lot; those with the smallest lots are the sample.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.rng = np.random.default_rng(seed)
        self.parts: list[_Part] = []
        self.limit = 1.0  # lots from here on have lost already

    def add(self, data: Arrays, score: np.ndarray) -> None:
        """Look at a chunk: Arrays and its scores (n,)."""
        lot = self.rng.random(len(score))
        part = _Part(lot, data, score)
        self.parts.append(part.take(np.flatnonzero(lot < self.limit)))
        # to draw takes a copy of all: not for every chunk
        if sum(len(part.lot) for part in self.parts) > 2 * self.size:
            self._draw()

    def _draw(self) -> None:
        """Keep the rows with the smallest lots; only smaller ones can join them later."""
        joined = _join(self.parts)
        if len(joined.lot) > self.size:
            self.limit = np.partition(joined.lot, self.size)[self.size]
        self.parts = [joined.take(joined.lot < self.limit)]

    def rows(self) -> tuple[Arrays, np.ndarray]:
        """Return the sample: Arrays and scores (n,)."""
        self._draw()
        return self.parts[0].data, self.parts[0].score


def _join(parts: Sequence[_Part]) -> _Part:
    fields = []
    for values in zip(*(part.data for part in parts), strict=True):
        fields.append(None if values[0] is None else np.concatenate(values))
    return _Part(
        lot=np.concatenate([part.lot for part in parts]),
        data=Arrays(*fields),
        score=np.concatenate([part.score for part in parts]),
    )


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
    parser.add_argument("file", help="CSV, CSV.gz, Parquet, or a folder of such files")
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
        model = bundle.load(args.bundle)
        dataset = _description(model, args)
        report = score_table(dataset, args.file, model, args.out, known_window(dataset, model))
    except (DataError, BundleError) as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{report['n']:,} transactions in {report['seconds']:.1f} s; {report['alert_rate']:.2%} "
        "of them are alerts"
    )
    if dataset.recipe is not None and dataset.recipe.histories and model.history is None:
        print("The bundle brings no history along: windows begin with the first row of the file.")
    _tell_drift(report["drift"])
    print(f"{args.out}: scores.parquet, drift.json")
    return 0


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
