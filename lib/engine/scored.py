"""Score one part of a table: a pure function from row groups to one file of scores.

The file has one name and one content, which follow from the part, the bundle and the description:
whoever writes it twice writes the same. What was found beside the scores lies in the file's own
footer, so that a run that goes on where another stopped reads footers and no rows.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.bundle.bundle import Bundle
from lib.data import checks, features
from lib.data.columns import beside
from lib.data.datasets import Arrays, Dataset
from lib.engine import parts, samples, storage, top
from lib.engine.parts import Part, Rows
from lib.engine.samples import Drawn
from lib.engine.score_histogram import Histogram
from lib.engine.top import Top
from lib.errors import BundleError, DataError

COLUMNS = ("position", "anomaly_score", "alert")  # ours in a table of scores
LAYOUT = 3  # of what a footer holds; files of another layout are written anew
MODEL = "model.onnx"
ALIGNED = 64  # bytes that a processor adds up at once, at the most; after as many rows one begins


@dataclass(frozen=True)
class Job:
    """What is the same for all parts.

    Parameters
    ----------
    dataset : description of the table, as `Dataset.to_dict` has it
    out : folder that gets a file of scores for each part
    model : file with the bundle, see `packed_model`; `model_hash` is what it has to be
    labelled : whether labels are read
    seed : of the sample's lots
    limit : rows with smaller lots are sent along for the sample
    n_alerts : alerts that are sent along, those with the highest scores
    """

    dataset: dict[str, Any]
    out: str
    model: str
    model_hash: str
    labelled: bool
    seed: int
    limit: float
    n_alerts: int

    def key(self, part: Part) -> str:
        """Return what identifies the content of a part's file, wherever it is."""
        asked = (LAYOUT, replace(self, out="", model=""), part)
        return hashlib.sha256(repr(asked).encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """One part of a job."""

    job: Job
    part: Part

    def __str__(self) -> str:
        return str(self.part)


@dataclass(frozen=True)
class Found:
    """What one part says of its rows, besides their scores.

    Parameters
    ----------
    number : of the part
    n, weight, alerts : rows, their weight, weight of the alerts
    time_is_number : whether it is one, not a date; `where` is a file where that is so
    drawn : rows with lots below the job's limit
    histogram : of labelled rows; empty without labels
    top : its alerts with the highest scores
    seconds : that it took; 0 where an earlier run had made it
    """

    number: int
    n: int
    weight: float
    alerts: float
    time_is_number: bool
    where: str
    drawn: Drawn
    histogram: Histogram
    top: Top
    seconds: float = 0.0


@dataclass(frozen=True)
class Scored:
    """What a model says of n rows: raw and anomaly score (n,), alert (n,) 0 or 1."""

    raw: np.ndarray
    score: np.ndarray
    alert: np.ndarray


def raw_score(model: Bundle, X: np.ndarray, first: int) -> np.ndarray:
    """Return the raw scores (n,) of rows X (n, d), the same to the bit however a table is cut.

    Sums over a row are taken in an order that depends on where in a block of `ALIGNED` bytes the
    row begins, so that the last bits of a score depend on the rows before it. Here a row lies where
    it would lie in the whole table: as many rows are put before X as it takes.

    Parameters
    ----------
    first : rows of the table before them
    """
    n_before = first % ALIGNED
    if n_before:
        X = np.concatenate([np.repeat(X[:1], n_before, axis=0), X])
    return model.raw_score(X)[n_before:]


def score(model: Bundle, X: np.ndarray, first: int) -> Scored:
    """Return what a model says of rows X (n, d); BundleError without calibration or threshold.

    Parameters
    ----------
    first : rows of the table before them
    """
    if model.threshold is None:
        raise BundleError(f"{model.where} has no threshold yet; 09_comparison adds it.")
    raw = raw_score(model, X, first)
    anomaly_score = model.anomaly_score(raw=raw)
    alert = (anomaly_score >= model.threshold).astype(np.int8)
    return Scored(raw, anomaly_score, alert)


def packed_model(manifest: dict[str, Any], graph: bytes) -> bytes:
    """Return what a worker needs of a bundle, manifest and graph, in an archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("manifest.json", json.dumps(manifest))
        zipped.writestr(MODEL, graph)
    return archive.getvalue()


def unpacked_model(content: bytes, model_hash: str, where: str) -> Bundle:
    """Return what `packed_model` has packed; DataError if it is another bundle."""
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        manifest = json.loads(zipped.read("manifest.json"))
        graph = zipped.read(MODEL)
    is_whole = hashlib.sha256(graph).hexdigest() == manifest["files"][MODEL]
    model = Bundle(manifest, {MODEL: graph}, where=where)
    if not is_whole or model.hash != model_hash:
        raise DataError(f"{where}: is another bundle than the one that this run began with")
    return model


@lru_cache(maxsize=2)
def _open_model(address: str, model_hash: str) -> Bundle:
    """Return the bundle of a job, opened once in each process."""
    return unpacked_model(storage.read(address), model_hash, storage.shown(address))


def score_part(task: Task) -> Found:
    """Write the scores of a part, unless they are there, and return what was found in it.

    Raises DataError for a row that the description does not allow, OSError for files that cannot be
    read or written.
    """
    start = time.perf_counter()
    address = storage.join(task.job.out, task.part.name)
    key = task.job.key(task.part)
    there = kept(address, key)
    if there is not None:
        return there
    content, found = _scored(task, key)
    storage.write(address, content)
    return replace(found, seconds=time.perf_counter() - start)


def _scored(task: Task, key: str) -> tuple[pa.Buffer, Found]:
    """Return a part's file and what was found; the file is in memory until it is whole."""
    job = task.job
    dataset = Dataset.from_dict(job.dataset)
    model = _open_model(job.model, job.model_hash)
    sums = _Sums()
    tops: list[Top] = []
    stream = pa.BufferOutputStream()
    writer = None
    for rows in parts.rows_of(dataset, task.part, job.labelled):
        frame = derived(dataset, rows.frame, model)
        data = dataset.arrays(frame)
        scored = score(model, data.X, rows.first)
        scores = table(dataset, frame, rows.first, scored)
        if writer is None:
            writer = pq.ParquetWriter(
                stream,
                scores.schema,
                write_page_checksum=True,
                use_dictionary=_repeating(scores.schema),
            )
        writer.write_table(scores)
        sums.add(job, rows, data, scored)
        tops.append(top.of_rows(dataset, frame, data.X, rows.first, scored, job.n_alerts))
        sums.look_at_time(dataset, rows)
    found = sums.found(task.part.number, top.join(tops))
    writer.add_key_value_metadata({"key": key, "found": _packed(found)})
    writer.close()
    return stream.getvalue(), found


def _repeating(schema: pa.Schema) -> list[str]:
    """Return the columns whose values may repeat; to look for repeats in others costs time."""
    is_unique = (pa.types.is_floating, pa.types.is_temporal, pa.types.is_int64)
    return [field.name for field in schema if not any(is_(field.type) for is_ in is_unique)]


def derived(dataset: Dataset, frame: pd.DataFrame, model: Bundle) -> pd.DataFrame:
    """Return checked rows with the features that each row tells by itself."""
    encoders = model.manifest.get("recipe", {}).get("encoders", {})
    return features.encode(dataset, features.derive(dataset, frame), encoders)


def table(dataset: Dataset, frame: pd.DataFrame, first: int, scored: Scored) -> pa.Table:
    """Return the scores of rows from position `first` on, as they are written.

    Our columns are first and last, the user's in between under their own names, unless one of ours
    is called like that.
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
    columns["anomaly_score"] = scored.score
    columns["alert"] = scored.alert
    return pa.table({name: pa.array(values) for name, values in columns.items()})


class _Sums:
    """What adds up over the chunks of a part."""

    def __init__(self) -> None:
        self.n = 0
        self.weight = 0.0
        self.alerts = 0.0
        self.time_is: dict[bool, str] = {}
        self.drawn: list[Drawn] = []
        self.histogram = Histogram.empty()

    def look_at_time(self, dataset: Dataset, rows: Rows) -> None:
        """Refuse rows whose time is a date where it has been a number, or the other way round."""
        self.time_is.setdefault(checks.time_is_number(dataset, rows.frame), rows.where)
        checks.refuse_two_times(dataset, self.time_is)

    def add(self, job: Job, rows: Rows, data: Arrays, scored: Scored) -> None:
        """Take a chunk in."""
        self.n += len(data.y)
        self.weight += float(data.weight.sum())
        self.alerts += float(data.weight @ scored.alert)
        lot = samples.lots(job.seed, rows.first, len(data.y))
        drawn = Drawn(lot, data, scored.score)
        self.drawn.append(drawn.take(np.flatnonzero(lot < job.limit)))
        if job.labelled:
            self.histogram += Histogram.of(scored.raw, data)

    def found(self, number: int, alerts: Top) -> Found:
        """Return what was found."""
        ((is_number, where),) = self.time_is.items()
        return Found(
            number=number,
            n=self.n,
            weight=self.weight,
            alerts=self.alerts,
            time_is_number=is_number,
            where=where,
            drawn=samples.join(self.drawn),
            histogram=self.histogram,
            top=alerts,
        )


def kept(address: str, key: str) -> Found | None:
    """Return what the footer of a file of an earlier run says; None for another content."""
    if not storage.exists(address):
        return None
    try:
        with storage.parquet(address) as opened:
            said = opened.metadata.metadata or {}
    except (pa.ArrowException, OSError):
        return None
    if said.get(b"key", b"").decode() != key:
        return None
    return _unpacked(said[b"found"])


def _packed(found: Found) -> bytes:
    """Return what was found as text for a footer: an archive of arrays, in base 64."""
    said = {
        "number": found.number,
        "n": found.n,
        "weight": found.weight,
        "alerts": found.alerts,
        "time_is_number": found.time_is_number,
        "where": found.where,
    }
    arrays: dict[str, Any] = {
        "lot": found.drawn.lot,
        "score": found.drawn.score,
    }
    arrays |= _under("histogram.", found.histogram.to_arrays())
    arrays |= _under("top.", found.top.to_arrays())
    for field, values in found.drawn.data._asdict().items():
        if values is not None:
            arrays[f"data.{field}"] = values
    archive = io.BytesIO()
    np.savez(archive, said=np.array(json.dumps(said)), **arrays)
    return base64.b64encode(archive.getvalue())


def _unpacked(content: bytes) -> Found:
    archive = np.load(io.BytesIO(base64.b64decode(content)), allow_pickle=False)
    said = json.loads(archive["said"].item())
    of_top = _below("top.", archive)
    data = Arrays(*(archive.get(f"data.{field}") for field in Arrays._fields))
    return Found(
        **said,
        drawn=Drawn(archive["lot"], data, archive["score"]),
        histogram=Histogram.from_arrays(_below("histogram.", archive)),
        top=Top.from_arrays(of_top),
    )


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays with `prefix` in front of their names."""
    return {prefix + name: values for name, values in arrays.items()}


def _below(prefix: str, archive: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with `prefix`, under the rest of their names."""
    return {
        name.removeprefix(prefix): values
        for name, values in archive.items()
        if name.startswith(prefix)
    }
