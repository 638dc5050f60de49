"""What a thinned table says of the table that it was drawn from (`lib.production.thin`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lib.data import reading
from lib.data.kinds import kind

KEY = b"thinned"  # in the footer of the Parquet file


def of_table(path: Path) -> dict[str, Any] | None:
    """Return the record in a table's footer; None for a table that was not thinned, or a folder.

    `rows` of it were drawn from `of` rows; the other keys are those of `thin.json`.
    """
    files = reading.parts(path)
    if len(files) != 1 or kind(files[0]) != "parquet":
        return None
    said = (pq.read_metadata(files[0]).metadata or {}).get(KEY)
    return None if said is None else json.loads(said)


def sentence(record: dict[str, Any]) -> str:
    """Return how many rows stand for how many: `300,000 of 2,000,000,000 transactions`."""
    return f"{record['rows']:,} of {record['of']:,} transactions"
