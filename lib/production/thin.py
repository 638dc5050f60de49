"""Thin a table of any size to one that the notebooks can fit on, with weights.

`python -m lib.production.thin FOLDER --dataset shop.yaml --rows 300000 --out data/raw/shop.parquet`
keeps all frauds up to a cap and a sample of the other rows. A row's weight says how many rows it
stands for; the weights of each period and class add up to what the whole table has. With `--bundle`
the validation and untouched periods are half drawn by the score of a model: rows that score high
are kept more often, and the weights of each range of scores add up, too, so that figures on them
vary far less from one sample to the next.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lib.bundle.bundle import Bundle
from lib.bundle.manifest import read as read_bundle
from lib.data import checks, datasets, thin_record
from lib.data.datasets import Dataset
from lib.engine import executors, parts, scored, storage, thinned
from lib.engine.meter import Meter
from lib.engine.thinned import CountTask, KeepJob, KeepTask, Kept, Model, Paces
from lib.engine.time_histogram import CLASSES, PERIODS, TimeHistogram
from lib.errors import BundleError, DataError

ROWS = 300_000
FRAUD_SHARE = 1 / 3  # of the rows: frauds beyond are thinned, too
MODELS_BYTES = 256 << 20  # that a scheduler holds at a time
FEW = 10  # rows in a stratum of score, whose weights are not adjusted to it
DIGITS = 12  # of totals; the order in which parts are added up changes the last bits of floats
GENUINE, FRAUD, UNLABELLED = range(3)  # places in CLASSES


@dataclass(frozen=True)
class Run:
    """What is thinned, and where to.

    Parameters
    ----------
    address : a Parquet file or a folder of them, a path or s3:// and the like
    out : file that is written; `thin.json` gets its name, with `.thin.json` for its suffix
    rows : that are kept, about
    bundle : folder of a model by whose score rows are drawn; None: evenly
    seed : of the draw
    part_rows : of a part, about
    """

    dataset: Dataset
    address: str
    out: str
    rows: int = ROWS
    bundle: Path | None = None
    seed: int = 0
    part_rows: int = parts.PART_ROWS

    @property
    def record(self) -> str:
        """The file that says what was done."""
        head, mark, query = self.out.partition("?")
        return f"{head.removesuffix('.parquet')}.thin.json{mark}{query}"


def thin(run: Run, pool: Executor) -> dict[str, Any]:
    """Write a thinned table and return the record of it, also kept as `thin.json`.

    Parameters
    ----------
    pool : see `lib.engine.executors.opened`

    Raises
    ------
    DataError
        For a row that the description does not allow, a description without `weight` and a table
        that cannot be thinned; nothing is written then.
    """
    start = time.perf_counter()
    with storage.explained(run.out):
        _refuse(run)
    table = parts.of_table(run.address, run.part_rows)
    histogram = _count(run, pool, table)
    cuts = histogram.cuts()
    rows, weight = histogram.totals(cuts)
    weight = _rounded(weight)
    model = None if run.bundle is None else _model(run)
    job = KeepJob(run.dataset.to_dict(), _paces(run, cuts, rows, weight), run.seed, model)
    kept = _keep(run, pool, table, job)
    found = _Sample.of(kept, weight)
    record = {
        "of": table.rows,
        "rows": len(found.weight),
        "seed": run.seed,
        "source": storage.shown(run.address),
        "cuts_s": {"validation": cuts[0], "untouched": cuts[1]},
        "cut_width_s": 2.0**histogram.power,
        "totals": found.totals(rows, weight),
        "drawn_by": None if model is None else model.model_hash,
    }
    table = found.with_record(run.dataset.weight, record)
    record["seconds"] = time.perf_counter() - start
    with storage.explained(run.out):
        _write(run, table, record)
    return record


def _refuse(run: Run) -> None:
    """Raise DataError for what cannot be thinned."""
    dataset = run.dataset
    if dataset.weight is None:
        raise DataError(
            f"{dataset.name}: the description has no `weight`; add the line `weight: weight`, so "
            "that each row of the thinned table counts for those that it stands for"
        )
    if dataset.recipe is not None and dataset.recipe.histories:
        raise DataError(
            f"{dataset.name}: feature {dataset.recipe.histories[0].name!r} looks back at earlier "
            "rows, which a thinned table lacks; a table with histories cannot be thinned"
        )
    if run.rows < 1:
        raise DataError(f"--rows is {run.rows}; it is 1 or more")
    if storage.is_within(run.out, run.address):
        raise DataError(
            f"{storage.shown(run.out)}: lies in the folder that is thinned; name another --out"
        )
    if storage.exists(run.out) and not _is_thinned(run.out):
        raise DataError(
            f"{storage.shown(run.out)}: is there already and is no thinned table; name another "
            "--out"
        )


def _is_thinned(address: str) -> bool:
    try:
        with storage.parquet(address) as opened:
            return thin_record.KEY in (opened.metadata.metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _count(run: Run, pool: Executor, table: parts.Table) -> TimeHistogram:
    """Count rows and weight over time; parts are added up in the table's order."""
    meter = Meter("counted", len(table.parts), table.rows)
    total: TimeHistogram | None = None
    time_is: dict[bool, str] = {}
    waiting: dict[int, TimeHistogram] = {}
    number = 0
    tasks = (CountTask(run.dataset.to_dict(), part) for part in table.parts)
    try:
        for part in executors.completed(pool, thinned.count_part, tasks):
            time_is.setdefault(part.time_is_number, part.where)
            checks.refuse_two_times(run.dataset, time_is)
            meter.add(part.n)
            waiting[part.number] = part.histogram
            while number in waiting:
                next_one = waiting.pop(number)
                total = next_one if total is None else total + next_one
                number += 1
    finally:
        meter.close()
    return total


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return numbers with `DIGITS` digits, which do not depend on the order of sums."""
    rounded = [float(f"{value:.{DIGITS}g}") for value in values.ravel()]
    return np.array(rounded).reshape(values.shape)


def _paces(run: Run, cuts: tuple[float, float], rows: np.ndarray, weight: np.ndarray) -> Paces:
    """Return how many rows are kept, by rows and weight (3, 3) of periods and classes."""
    even = np.full(weight.shape, np.inf)
    by_score = np.zeros(len(PERIODS))
    floor = 1.0
    n_frauds = rows[:, FRAUD].sum()
    most = run.rows * FRAUD_SHARE
    if rows.sum() <= run.rows:  # all of them
        return Paces(cuts, even, by_score, floor)
    if n_frauds > most:
        even[:, FRAUD] = most / weight[:, FRAUD].sum()
    others = weight[:, [GENUINE, UNLABELLED]].sum()
    pace = (run.rows - min(n_frauds, most)) / others
    even[:, [GENUINE, UNLABELLED]] = pace
    if run.bundle is not None:
        even[1:, [GENUINE, UNLABELLED]] = pace / 2
        floor, by_score[1:] = _by_score(pace / 2)
    return Paces(cuts, even, by_score, floor)


def _by_score(share_kept: float) -> tuple[float, float]:
    """Return the floor of `Paces` and its `by_score`.

    A row is kept with chance c / s, where s is the share of transactions that score as high, but
    not below a floor at which the chance is 1, so that c is the floor. s is uniform in (0, 1) as
    far as the score is calibrated, and c (1 + log(1 / c)) of the rows are kept, which is solved for
    c by halving.
    """
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        kept = middle * (1 - np.log(middle))
        low, high = (middle, high) if kept < share_kept else (low, middle)
    return high, high


def _model(run: Run) -> Model:
    """Return the model by whose score rows are drawn; refuse one of another table."""
    manifest, graphs = read_bundle(run.bundle)
    model = Bundle(manifest, graphs, where=str(run.bundle))
    if model.calibration is None:
        raise BundleError(f"{run.bundle} has no calibration yet; 09_comparison adds it.")
    if list(model.features) != list(run.dataset.features):
        raise DataError(
            f"the bundle in {run.bundle} has other features than {run.dataset.name}; name --dataset"
        )
    return Model(model.hash, scored.packed_model(manifest, graphs[scored.MODEL]))


def _keep(run: Run, pool: Executor, table: parts.Table, job: KeepJob) -> list[Kept]:
    """Have every cell of all parts checked; return the rows that are kept, in the table's order."""
    ahead = executors.AHEAD
    if job.model is not None:  # it travels with every task: the file that is made is not shared
        ahead = int(np.clip(MODELS_BYTES / len(job.model.content), 16, ahead))
    meter = Meter("thinned", len(table.parts), table.rows)
    kept = []
    tasks = (KeepTask(job, part) for part in table.parts)
    try:
        for part in executors.completed(pool, thinned.keep_part, tasks, ahead):
            meter.add(part.n)
            kept.append(part)
    finally:
        meter.close()
    return sorted(kept, key=lambda part: part.number)


def _adjusted(
    weight: np.ndarray, place: np.ndarray, totals: np.ndarray, least: int = 1
) -> np.ndarray:
    """Return weights (n,) that add up to `totals` (k,) where at least so many have a place (n,).

    Strata of score whose weights are exact take away most of what a draw adds to figures that rank
    by such a score (post-stratification; Holt and Smith 1979).
    """
    sums = np.bincount(place, weight, minlength=len(totals))
    is_enough = np.bincount(place, minlength=len(totals)) >= least
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(is_enough & (sums > 0), totals / sums, 1.0)
    return weight * factor[place]


@dataclass(frozen=True)
class _Sample:
    """The n rows that are kept of all parts, with their weight, period and class, (n,) each."""

    table: pa.Table
    weight: np.ndarray
    period: np.ndarray
    kind: np.ndarray

    @classmethod
    def of(cls, kept: list[Kept], weight: np.ndarray) -> _Sample:
        """Join them, and make their weights add up to `weight` (3, 3) of periods and classes."""
        tables = [part.table for part in kept if part.table is not None]
        if not tables:
            raise DataError("no row was kept; raise --rows")
        own = np.concatenate([part.weight for part in kept])
        cell = np.concatenate([part.cell for part in kept])
        own = _adjusted(own, cell, _rounded(np.sum([part.totals for part in kept], axis=0)), FEW)
        cell //= thinned.STRATA
        own = _adjusted(own, cell, weight.ravel())
        period, kind = np.divmod(cell, len(CLASSES))
        return cls(thinned.one_table(tables), own, period, kind)

    def with_record(self, column: str, record: dict[str, Any]) -> pa.Table:
        """Return the rows with their weight in `column`, and the record for the footer.

        The same draw gives the same bytes. What pandas once said of an index does not hold any
        more, and goes.
        """
        table = self.table.combine_chunks().append_column(column, pa.array(self.weight))
        return table.replace_schema_metadata({thin_record.KEY: json.dumps(record).encode()})

    def totals(self, rows: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
        """Return rows and weight of periods and classes, and how many rows were kept."""
        cell = self.period * len(CLASSES) + self.kind
        n_kept = np.bincount(cell, minlength=weight.size).reshape(weight.shape)
        found: dict[str, Any] = {}
        for i, period in enumerate(PERIODS):
            found[period] = {}
            for j, kind in enumerate(CLASSES):
                if rows[i, j]:
                    found[period][kind] = {
                        "rows": int(rows[i, j]),
                        "weight": float(weight[i, j]),
                        "kept": int(n_kept[i, j]),
                    }
        return found


def _write(run: Run, table: pa.Table, record: dict[str, Any]) -> None:
    """Write the table and, beside it, the record."""
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, write_page_checksum=True)
    storage.write(run.out, stream.getvalue())
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    storage.write(run.record, text.encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib.production.thin", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("table", help="Parquet, or a folder of it: a path, s3://, gs://, abfs://")
    parser.add_argument("--dataset", required=True, help="the table's description")
    parser.add_argument("--out", required=True, help="Parquet file to write")
    parser.add_argument(
        "--rows", type=int, default=ROWS, help=f"to keep, about (default: {ROWS:,})"
    )
    parser.add_argument(
        "--engine",
        default="",
        help="local:4 for four processes, tcp://host:8786 or tls://host:8786 for a Dask scheduler "
        "(default: this process)",
    )
    parser.add_argument(
        "--bundle", default="", help="draw validation and untouched half by this model's score"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, or 2 where the table or the bundle is at fault."""
    args = _parser().parse_args(argv)
    try:
        run = Run(
            dataset=datasets.load_description(args.dataset),
            address=args.table,
            out=args.out,
            rows=args.rows,
            bundle=Path(args.bundle) if args.bundle else None,
            seed=args.seed,
        )
        with executors.opened(args.engine) as pool:
            record = thin(run, pool)
    except (DataError, BundleError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{thin_record.sentence(record)} in {record['seconds']:.1f} s")
    for period, classes in record["totals"].items():
        said = [f"{c['kept']:,} of {c['rows']:,} {kind}" for kind, c in classes.items()]
        print(f"{period}: {', '.join(said)}")
    print(f"{run.out}, {run.record}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
