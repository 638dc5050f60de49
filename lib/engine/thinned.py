"""Count and thin one part of a table: pure functions from row groups to a summary, or to few rows.

Every row is kept with a chance of its own, by which its weight is divided, so that sums of weight
over kept rows estimate those over all rows. The lot that decides is a function of a seed and the
row's position: the rows that are kept do not depend on parts or workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from lib.bundle.bundle import Bundle
from lib.data import checks
from lib.data.datasets import UNLABELLED, Dataset
from lib.data.times import seconds
from lib.engine import parts, samples, scored
from lib.engine.parts import Part, Rows
from lib.engine.time_histogram import CLASSES, PERIODS, TimeHistogram, class_of, period_of
from lib.errors import DataError

FRAUD = 1  # place in time_histogram.CLASSES
STRATA_PER_OCTAVE = 4  # halving the share of transactions that score as high takes four strata
STRATA = 20 * STRATA_PER_OCTAVE  # down to a millionth of the transactions


@dataclass(frozen=True)
class CountTask:
    """A part of which rows and weight are counted; `dataset` as `Dataset.to_dict` has it."""

    dataset: dict[str, Any]
    part: Part

    def __str__(self) -> str:
        return str(self.part)


@dataclass(frozen=True)
class Counted:
    """What a part holds; `time_is_number` and `where` as in `lib.engine.scored.Found`."""

    number: int
    n: int
    histogram: TimeHistogram
    time_is_number: bool
    where: str


def count_part(task: CountTask) -> Counted:
    """Count a part: only time, weight and label are read."""
    dataset = Dataset.from_dict(task.dataset)
    dataset = replace(dataset, features=(), amount=None, ids=(), recipe=None)
    histogram = None
    n = 0
    time_is: dict[bool, str] = {}
    for rows in parts.rows_of(dataset, task.part, labelled=True):
        time_is.setdefault(checks.time_is_number(dataset, rows.frame), rows.where)
        checks.refuse_two_times(dataset, time_is)
        time_s, y, weight = _counted(dataset, rows)
        found = TimeHistogram.of(time_s, y, weight)
        histogram = found if histogram is None else histogram + found
        n += len(y)
    ((is_number, where),) = time_is.items()
    return Counted(task.part.number, n, histogram, is_number, where)


def _counted(dataset: Dataset, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return time (s), label and weight of rows, (n,) each."""
    frame = rows.frame
    n = len(frame)
    y = np.full(n, UNLABELLED, np.int8)
    if dataset.label is not None:
        y = frame[dataset.label].to_numpy(np.int8)
    weight = frame[dataset.weight].to_numpy(np.float64)
    return seconds(frame[dataset.time_column]), y, weight


@dataclass(frozen=True)
class Paces:
    """How many rows are kept.

    Parameters
    ----------
    cuts : when validation and untouched begin (s)
    even : chance of a row of weight 1, (periods, classes); infinite where all are kept
    by_score : of genuine and unlabelled rows of each period (3,): what is added to the chance of a
        row of weight 1, times the share of transactions that score as high; 0: drawn evenly
    floor : the least such share; rows beyond have its chance
    """

    cuts: tuple[float, float]
    even: np.ndarray
    by_score: np.ndarray
    floor: float

    def chance(
        self, period: np.ndarray, kind: np.ndarray, weight: np.ndarray, score: np.ndarray | None
    ) -> np.ndarray:
        """Return the chance (n,) of rows by period, class and weight, and anomaly score; (n,) each.

        Rows without weight stand for nothing and have none.
        """
        pace = self.even[period, kind]
        if score is not None:
            share = np.maximum(1.0 - score, self.floor)
            pace = pace + np.where(kind == FRAUD, 0.0, self.by_score[period] / share)
        with np.errstate(invalid="ignore"):  # 0 * inf
            chance = np.minimum(weight * pace, 1.0)
        return np.where(weight > 0, chance, 0.0)


@dataclass(frozen=True)
class Model:
    """A bundle as it travels with a task, see `scored.packed_model`; its hash tells which it is."""

    model_hash: str
    content: bytes = field(compare=False, repr=False)


@lru_cache(maxsize=1)
def _opened(model: Model) -> Bundle:
    """Return a bundle, opened once in each process."""
    return scored.unpacked_model(model.content, model.model_hash, "the bundle")


@dataclass(frozen=True)
class KeepJob:
    """What is the same for all parts.

    Parameters
    ----------
    dataset : description of the table, as `Dataset.to_dict` has it
    paces : how many rows are kept
    seed : of the lots
    model : by whose score rows are drawn; None: evenly
    """

    dataset: dict[str, Any]
    paces: Paces
    seed: int
    model: Model | None = None


@dataclass(frozen=True)
class KeepTask:
    """A part of which some rows are kept."""

    job: KeepJob
    part: Part

    def __str__(self) -> str:
        return str(self.part)


@dataclass(frozen=True)
class Kept:
    """Rows of a part that are kept.

    Parameters
    ----------
    number, n : of the part; rows that it had
    table : n kept rows as the files have them, without a weight; None for none
    weight : (n,) own weight divided by the chance
    cell : (n,) places in the weights of periods, classes and strata, see `cells`
    totals : weight of all rows in each of these places
    """

    number: int
    n: int
    table: pa.Table | None
    weight: np.ndarray
    cell: np.ndarray
    totals: np.ndarray


def cells(period: np.ndarray, kind: np.ndarray, score: np.ndarray | None) -> np.ndarray:
    """Return the places (n,) of rows in an array of (periods, classes, STRATA), all in one.

    A stratum is a range of the share of transactions that score as high, by anomaly score (n,);
    without scores all rows are in the first.
    """
    stratum = np.zeros(len(period), np.int64)
    if score is not None:
        share = np.maximum(1.0 - score, 2.0 ** (-STRATA / STRATA_PER_OCTAVE))
        stratum = np.floor(-np.log2(share) * STRATA_PER_OCTAVE).astype(np.int64)
        stratum = np.clip(stratum, 0, STRATA - 1)
    return (period * len(CLASSES) + kind) * STRATA + stratum


def keep_part(task: KeepTask) -> Kept:
    """Check every cell of a part and keep some of its rows."""
    job = task.job
    dataset = Dataset.from_dict(job.dataset)
    model = None if job.model is None else _opened(job.model)
    batches = []
    columns = []
    totals = np.zeros(len(PERIODS) * len(CLASSES) * STRATA)
    n = 0
    for rows in parts.rows_of(dataset, task.part, labelled=True):
        n += len(rows.frame)
        batch, of_rows, found = _kept(dataset, job, rows, model)
        totals += found
        if batch.num_rows:
            batches.append(batch)
            columns.append(of_rows)
    if not batches:
        return Kept(task.part.number, n, None, np.empty(0), np.empty(0, np.int64), totals)
    weight, cell = (np.concatenate(values) for values in zip(*columns, strict=True))
    return Kept(task.part.number, n, one_table(batches), weight, cell, totals)


def _kept(
    dataset: Dataset, job: KeepJob, rows: Rows, model: Bundle | None
) -> tuple[pa.Table, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return the rows that are kept, their weight and cell, (n,) each, and `Kept.totals`."""
    time_s, y, weight = _counted(dataset, rows)
    period = period_of(time_s, job.paces.cuts)
    kind = class_of(y)
    score = None
    if model is not None:
        score = np.zeros(len(y))
        is_later = job.paces.by_score[period] > 0  # of reference nothing is drawn by score
        if is_later.any():
            frame = scored.derived(dataset, rows.frame, model)
            raw = scored.raw_score(model, dataset.arrays(frame).X, rows.first)
            score = model.anomaly_score(raw=raw)
    chance = job.paces.chance(period, kind, weight, score)
    cell = cells(period, kind, score)
    totals = np.bincount(cell, weight, minlength=len(PERIODS) * len(CLASSES) * STRATA)
    chosen = np.flatnonzero(samples.lots(job.seed, rows.first, len(chance)) < chance)
    table = pa.Table.from_batches([rows.stored]).take(pa.array(chosen))
    if dataset.weight in table.column_names:
        table = table.drop_columns([dataset.weight])
    return table, (weight[chosen] / chance[chosen], cell[chosen]), totals


def one_table(tables: list[pa.Table]) -> pa.Table:
    """Return tables one behind the other; DataError where a column's types cannot be reconciled."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        complaint = " ".join(str(error).split())[:200]
        raise DataError(
            f"the files of the table have columns of different types: {complaint}"
        ) from error
