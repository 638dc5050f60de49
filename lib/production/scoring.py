"""Score a table of new transactions in chunks, with flat memory, and hold it against the window the
model knows.

`python -m lib.production.scoring FILE` writes `scores.parquet` and `drift.json`; no labels are
needed, and none are read.
"""

import argparse
import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lib import bundle
from lib.data import datasets, splits
from lib.data.columns import beside
from lib.data.datasets import ROOT, Arrays
from lib.errors import BundleError, DataError
from lib.evaluation import intervals
from lib.files import whole, write_json
from lib.production import drift

CHUNK_ROWS = 100_000
COLUMNS = ("position", "anomaly_score", "alert")  # ours in scores.parquet
SAMPLE_ROWS = 100_000  # that the drift report looks at, drawn evenly from all


def score_table(dataset, path, model, folder, reference=None, seed=0):
    """Write an anomaly score and an alert for every row of a table -> the report, also kept as
    `drift.json`.

    Parameters
    ----------
    dataset : datasets.Dataset; path : CSV, CSV.gz, Parquet or a folder of them, in any order of
        time
    model : bundle.Bundle
    folder : gets `scores.parquet` (position, time, identifiers, anomaly_score, alert), whole or not
        at all; an identifier that is called like one of the other columns gets `id.` in front
    reference : Arrays to compare with; None: no drift is looked for

    Raises
    ------
    DataError
        For a column, a row or a cell that the description does not allow, or a table without rows.
    """
    start, folder = time.perf_counter(), Path(folder)
    sample, weight, alerts, n, writer = Sample(SAMPLE_ROWS, seed), 0.0, 0.0, 0, None
    chunks = datasets.iter_transactions(dataset, Path(path), rows_per_chunk=CHUNK_ROWS)
    with whole(folder / "scores.parquet") as partial, ThreadPoolExecutor(1) as ahead:
        try:
            # the next chunk is read while this one is scored
            waiting = ahead.submit(next, chunks, None)
            while (frame := waiting.result()) is not None:
                waiting = ahead.submit(next, chunks, None)
                data = dataset.arrays(frame)
                alert, score = model.predict(data.X)
                table = _table(dataset, frame, n, score, alert)
                writer = writer or pq.ParquetWriter(partial, table.schema)
                writer.write_table(table)
                sample.add(data, score)
                n, weight, alerts = (
                    n + len(frame),
                    weight + data.weight.sum(),
                    alerts + data.weight @ alert,
                )
        finally:
            if writer is not None:
                writer.close()
    rate = float(alerts / weight)
    report = {
        "n": n,
        "weight": float(weight),
        "alert_rate": rate,
        "model": model.manifest["model"],
        "drift": None,
    }
    report |= {"version": model.version, "seconds": time.perf_counter() - start}
    if reference is not None:
        report["drift"] = _drift(dataset, sample, model, reference)
    write_json(folder / "drift.json", report)
    return report


def _table(dataset, frame, first, score, alert):
    """Ours first and last, the user's in between: their own names, unless one of ours is called
    like that.
    """
    time = beside(COLUMNS, (dataset.time_column, *dataset.ids), "time.")[dataset.time_column]
    ids = beside(COLUMNS, (*dataset.ids, time))
    columns = {"position": np.arange(first, first + len(frame)), time: frame[dataset.time_column]}
    columns |= {ids[column]: frame[column] for column in dataset.ids}
    columns |= {"anomaly_score": score, "alert": alert}
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def _drift(dataset, sample, model, reference):
    data, score = sample.rows()
    options = {
        "block_s": intervals.block_length(reference.time_s),
        "clock": dataset.time is not None,
    }
    known = drift.Reference(
        dataset.features, reference, model.anomaly_score(reference.X), **options
    )
    known.compare(data.X, data.weight, data.time_s, score)
    return known.verdict.to_dict()


class Sample:
    """At most `size` of all rows that come by, each with the same chance, in the order in which
    they came.
    """

    def __init__(self, size, seed=0):
        self.size, self.rng, self.parts, self.limit = size, np.random.default_rng(seed), [], 1.0

    def add(self, data, score):
        """Look at a chunk: Arrays and its scores (n,)."""
        lot = self.rng.random(len(score))
        chosen = np.flatnonzero(lot < self.limit)
        kept = data.take(chosen)
        self.parts.append((lot[chosen], kept, score[chosen]))
        if sum(len(part[0]) for part in self.parts) > 2 * self.size:
            self._draw()

    def _draw(self):
        """Keep the rows with the smallest lots; only smaller ones can join them later."""
        lots = np.concatenate([part[0] for part in self.parts])
        if len(lots) > self.size:
            self.limit = np.partition(lots, self.size)[self.size]
        under = lots < self.limit
        fields = zip(*(part[1] for part in self.parts), strict=True)
        data = Arrays(*(None if f[0] is None else np.concatenate(f)[under] for f in fields))
        self.parts = [(lots[under], data, np.concatenate([part[2] for part in self.parts])[under])]

    def rows(self):
        """The sample -> (Arrays, scores)."""
        self._draw()
        return self.parts[0][1:]


def known_window(dataset, model):
    """The reference period that the model was fitted on, where its split is still here -> Arrays,
    or None.
    """
    for folder in sorted((ROOT / "data" / dataset.name).glob("*/splits.json")):
        split = splits.Split(folder.parent, {})
        if split.fingerprint == model.manifest["fit"].get("split"):
            return splits.open_split(folder.parent).arrays("reference")
    return None


def main(argv=None):
    """The command -> exit code."""
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
    args = parser.parse_args(argv)
    try:
        model = bundle.load(args.bundle)
        name = model.manifest["dataset"]["name"]
        if not args.dataset and not (ROOT / "data" / f"{name}.yaml").is_file():
            raise DataError(
                f"the description of {name!r}, which the bundle is for, is not in data/; name it "
                "by --dataset"
            )
        dataset = datasets.load_description(args.dataset or name)
        if list(dataset.features) != list(model.features):
            raise DataError(
                f"the bundle in {args.bundle} has other features than {dataset.name}; name "
                "--dataset"
            )
        report = score_table(dataset, args.file, model, args.out, known_window(dataset, model))
    except (DataError, BundleError) as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{report['n']:,} transactions in {report['seconds']:.1f} s; {report['alert_rate']:.2%} "
        "of them are alerts"
    )
    found = report["drift"]
    if found is None:
        print(
            "The window that the model was fitted on is not here any more: no drift was looked for."
        )
    else:
        worst = sorted(
            (c for c in found["columns"] if c["flagged"]), key=lambda c: -(c["psi"] or 0)
        )
        print(f"drift: {', '.join(c['name'] for c in itertools.islice(worst, 12)) or 'none'}")
        print(found["note"]) if found["note"] else None
    print(f"{args.out}: scores.parquet, drift.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
