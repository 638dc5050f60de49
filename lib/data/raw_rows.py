"""Raw transactions: what a bundle has to know of them, and as a server is sent them.

`python -m lib.data.raw_rows --dataset shop.yaml` prints a table's rows with their labels, a JSON
object a line, as `python -m serve.history load -` and POST /predict take them.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.bundle.by_row import MICROSECONDS
from lib.bundle.raw import UNITS, RawTable
from lib.bundle.recent import Recent
from lib.bundle.recipe import as_mapping
from lib.data import splits
from lib.data.datasets import UNLABELLED, Dataset
from lib.data.features import instants
from lib.errors import DataError


def described(dataset: Dataset, split: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return `recipe` of a bundle's manifest: what raw columns mean, for `lib.bundle.raw`.

    None where the description has no recipe.

    Parameters
    ----------
    split : manifest of a split, which knows the encoders and what kind of time it is
    """
    recipe = dataset.recipe
    if recipe is None:
        return None
    written = {feature.name: as_mapping(feature) for feature in recipe.derived}
    words = {} if dataset.label_words is None else dataset.label_words.meanings
    return {
        "id": dataset.ids[0] if dataset.ids else None,
        "label": dataset.label,
        "label_words": words,
        "time": {
            "columns": list(dataset.time_columns),
            "kind": split["time"],
            "format": dataset.time_format,
            "unit": dataset.time_unit,
        },
        "timezone": recipe.timezone,
        "entities": list(recipe.entities),
        "features": [written.get(feature, feature) for feature in dataset.features],
        "amount": dataset.amount,
        "negative_amount": dataset.negative_amount,
        "encoders": split["encoders"],
    }


def recent(dataset: Dataset, frame: pd.DataFrame, raw: RawTable) -> Recent:
    """Return the transactions of a frame that windows of later ones can reach.

    Parameters
    ----------
    frame : of a split, in time order
    """
    t = instants(dataset, frame[dataset.time_column])
    is_kept = t > t[-1] - raw.oldest
    for entity in raw.latest_of:
        is_kept |= ~frame[entity].duplicated(keep="last").to_numpy()
    kept = frame[is_kept]
    fraud = np.full(len(kept), np.nan)
    if dataset.label is not None and dataset.label in kept.columns:
        y = kept[dataset.label].to_numpy(np.float64)
        fraud = np.where(y == UNLABELLED, np.nan, y)
    texts = {column: _words(dataset, kept, column) for column in raw.texts}
    numbers = {column: kept[column].to_numpy(np.float64) for column in raw.numbers}
    return Recent(kept[raw.id].astype(str).tolist(), t[is_kept], fraud, numbers, texts)


def as_frame(dataset: Dataset, known: Recent, like: pd.DataFrame) -> pd.DataFrame:
    """Return transactions that a bundle brings along as rows of a checked frame.

    Parameters
    ----------
    like : a checked frame of the same table, whose columns and kind of time it gets
    """
    columns: dict[str, Any] = {}
    time = like[dataset.time_column]
    columns[dataset.time_column] = known.t / MICROSECONDS
    if not pd.api.types.is_numeric_dtype(time):
        columns[dataset.time_column] = pd.to_datetime(known.t, unit="us").astype(time.dtype)
    columns |= known.numbers
    for column, words in known.texts.items():
        columns[column] = pd.array(words, dtype="str")
    for place, column in enumerate(dataset.ids):
        # the first identifies; of others nothing is kept
        columns[column] = pd.array(known.ids if place == 0 else [""] * len(known), dtype="str")
    if dataset.weight is not None:
        columns[dataset.weight] = np.ones(len(known))
    if dataset.label is not None and dataset.label in like.columns:
        columns[dataset.label] = np.where(np.isnan(known.fraud), UNLABELLED, known.fraud)
    return pd.DataFrame({column: columns[column] for column in like.columns})


def as_json(dataset: Dataset, frame: pd.DataFrame, raw: RawTable) -> list[dict[str, Any]]:
    """Return the rows of a frame of a split as POST /predict takes them: raw columns by name."""
    columns: dict[str, list] = {}
    if raw.id is not None:
        columns[raw.id] = frame[raw.id].astype(str).tolist()
    columns |= _times(dataset, frame)
    for column in raw.numbers:
        values = frame[column].to_numpy(np.float64)
        columns[column] = [None if np.isnan(value) else value for value in values.tolist()]
    for column in raw.texts:
        columns[column] = _words(dataset, frame, column)
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _times(dataset: Dataset, frame: pd.DataFrame) -> dict[str, list]:
    """Return the columns of the time: numbers in their own unit, dates as text in ISO 8601."""
    if dataset.time is None:
        return {}
    time = frame[dataset.time_column]
    if pd.api.types.is_numeric_dtype(time):
        unit = UNITS[dataset.time_unit or "s"]
        return {dataset.time_columns[0]: (time / unit).tolist()}
    whole = (pd.to_datetime(instants(dataset, time), unit="us")).strftime("%Y-%m-%d %H:%M:%S.%f")
    if len(dataset.time_columns) == 1:
        return {dataset.time_columns[0]: [f"{text}Z" for text in whole]}
    day, clock = dataset.time_columns
    return {day: whole.str[:10].tolist(), clock: whole.str[11:].tolist()}


def _words(dataset: Dataset, frame: pd.DataFrame, column: str) -> list[str | None]:
    """Return the text of an entity or a category, None where it is missing."""
    # where a split has a number under the column's name, the text stands beside it
    beside = dataset.text_of.get(column, column)
    cells = frame[beside if beside in frame.columns else column]
    return cells.astype(object).where(cells.notna(), None).tolist()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table's rows; return the exit code: 0, or 2 where the table is at fault."""
    parser = argparse.ArgumentParser("python -m lib.data.raw_rows", description=__doc__)
    parser.add_argument(
        "--dataset", required=True, help="a name in data/ or the path of a YAML file"
    )
    parser.add_argument(
        "--raw", default="", help="file or folder (default: as the description says)"
    )
    given = parser.parse_args(arguments)
    try:
        table = splits.find(given.dataset, rows=0, raw=given.raw)
        dataset = table.dataset
        frame = table.read()
        time = "seconds"
        if not pd.api.types.is_numeric_dtype(frame[dataset.time_column]):
            time = "datetime"
        described_as = described(dataset, {"time": time, "encoders": {}})
        if described_as is None:
            raise DataError(f"{dataset.name} has no recipe: its rows are features")
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    manifest = {"recipe": described_as, "features": list(dataset.features)}
    raw = RawTable(manifest)
    labels = np.full(len(frame), UNLABELLED)
    if dataset.label is not None:
        labels = frame[dataset.label].to_numpy()
    for row, label in zip(as_json(dataset, frame, raw), labels.tolist(), strict=True):
        if label != UNLABELLED:
            row[dataset.label] = raw.said(label)
        print(json.dumps(row, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a traceback
    sys.exit(main())
