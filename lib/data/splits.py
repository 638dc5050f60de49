"""Three periods in time order: reference, validation, and untouched in batches.

Transactions of one instant are never parted.
`splits.json` says what lies in a split folder; it is written with the Parquet files, all of them or
none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.data import budgets, cuts, datasets, features, fingerprints, labels_seen
from lib.data.checks import check_header, columns_to_read
from lib.data.datasets import (
    Arrays,
    DataError,
    Dataset,
    find_raw,
    load_description,
    prepare,
    read_transactions,
)
from lib.files import locked, sha256

MANIFEST = "splits.json"
PERIODS = ("reference", "validation", "untouched")
MAKER = "run notebook 02_split, or call lib.data.splits.ensure, to make it"


@dataclass(frozen=True)
class Split:
    """A split folder on disk. Print it: a table of its periods."""

    path: Path
    manifest: dict  # the content of splits.json

    @cached_property
    def dataset(self) -> Dataset:
        """The description that the split was made with."""
        return Dataset.from_dict(self.manifest["dataset"], str(self.path / MANIFEST))

    @property
    def source(self) -> str:
        """'full', 'custom' or 'simulated'."""
        return self.manifest["source"]

    @property
    def drifts_on_purpose(self) -> bool:
        """Whether its transactions are simulated, with known changes in the untouched period."""
        return self.source == "simulated" and (self.dataset.simulation or {}).get("drift", True)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of splits.json."""
        return sha256(self.path / MANIFEST)

    @property
    def batches(self) -> list[str]:
        """Names of the untouched period's batches, in time order."""
        return [name for name in self.manifest["periods"] if name.startswith("batch_")]

    def budget(self, alert_budget: float = 0.0, reviews_per_day: int = 0) -> budgets.Budget:
        """What people can review: by these parameters, else as the description says.

        Parameters
        ----------
        alert_budget : share of all transactions; 0: not given
        reviews_per_day : transactions that people review a day (n); 0: not given

        Raises
        ------
        DataError
            Both are given, or the table cannot say how many transactions a day has.
        """
        try:
            budgets.check_one(alert_budget, reviews_per_day)
        except ValueError as error:
            raise DataError(str(error)) from error
        if not alert_budget:
            reviews_per_day = reviews_per_day or self.dataset.reviews_per_day or 0
        if reviews_per_day:
            return budgets.from_reviews(reviews_per_day, self.manifest)
        share = alert_budget or self.dataset.alert_budget
        return budgets.Budget(share, budgets.transactions_per_day(self.manifest))

    def frame(self, period: str) -> pd.DataFrame:
        """The transactions of 'reference', 'validation', 'untouched' or a batch, in time order."""
        if period not in self.manifest["periods"]:
            raise DataError(
                f"period {period!r} is unknown; there are {', '.join(self.manifest['periods'])}"
            )
        names = self.batches if period == "untouched" else [period]
        return pd.concat([_read(_file(self.path, name)) for name in names], ignore_index=True)

    def arrays(self, *periods: str) -> Arrays:
        """`frame` as `lib.data.datasets.Arrays`; of several periods, one after the other."""
        frames = [self.frame(period) for period in periods]
        return self.dataset.arrays(pd.concat(frames, ignore_index=True))

    def table(self) -> pd.DataFrame:
        """One row a period, as text for people; shares and fraud rate are weighted."""
        return cuts.table(self.manifest)

    def __str__(self) -> str:
        return f"{self.dataset.name} ({self.source})\n{self.table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return (
            f"<p>{self.dataset.name} "
            f"({self.source})</p>{self.table().to_html(index=False, border=0)}"
        )


def locate(
    dataset: Dataset,
    *,
    source_id: str,
    reference: float = 0.5,
    validation: float = 0.2,
    n_batches: int = 10,
) -> Path:
    """Return the folder of a split: a function of the data, their description and the shares.

    With a recipe, of the code that derives the features, too.
    """
    asked = [dataset.to_dict(), source_id, reference, validation, n_batches]
    if dataset.recipe is not None:
        asked.append(features.code())
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return (
        datasets.ROOT
        / "data"
        / dataset.name
        / f"{reference:g}-{validation:g}-{n_batches}-{digest[:12]}"
    )


@dataclass(frozen=True)
class Table:
    """The transactions that a description means, found but not read yet.

    Parameters
    ----------
    source_id : identifies the transactions without parsing them
    path : the raw file or folder; None for simulated transactions
    read : returns the transactions, checked and in time order; raises DataError at the first row
        that is not right
    seed : of simulated transactions
    """

    dataset: Dataset
    source_id: str
    path: Path | None
    read: Callable[[], pd.DataFrame]
    seed: int | None = None

    def locate(self, **shares: Any) -> Path:
        """Return the folder of a split, whether it is there or not."""
        return locate(self.dataset, source_id=self.source_id, **shares)

    def split(
        self, *, reference: float = 0.5, validation: float = 0.2, n_batches: int = 10
    ) -> Path:
        """Return the folder of a split, made if it is not there; DataError before it is written.

        Several processes may call this at once. See `make` for the shares.
        """
        shares: dict[str, Any] = {
            "reference": reference,
            "validation": validation,
            "n_batches": n_batches,
        }
        folder = self.locate(**shares)
        if is_whole(folder):
            return folder
        frame = self.read()
        is_simulated = self.path is None
        make(
            self.dataset,
            frame,
            folder,
            source="simulated" if is_simulated else datasets.source(self.dataset, frame),
            raw_sha256=cuts.digest(frame) if is_simulated else self.source_id,
            seed=self.seed,
            **shares,
        )
        return folder


def find(
    dataset_name: str | Path = "simulated",
    rows: int = 20_000,
    seed: int = 0,
    raw: str | Path = "",
    *,
    download: bool = True,
    progress: Callable | None = None,
) -> Table:
    """Return the table that a description means; real tables ignore `rows` and `seed`.

    Parameters
    ----------
    rows : simulated transactions (n); 0: as the description says
    raw, download, progress : see `lib.data.datasets.find_raw`

    Raises
    ------
    DataError
        The raw file is not there, or lacks a column of the description.
    """
    dataset = load_description(dataset_name)
    if dataset.simulation is None:
        path = find_raw(dataset, raw, download, progress)
        check_header(dataset, path)  # also where nobody will read the rows: in a dry run
        source_id = fingerprints.of_bytes(path, datasets.ROOT / "data")
        return Table(dataset, source_id, path, lambda: read_transactions(dataset, path))
    if raw:
        raise DataError(
            f"{dataset.name} is simulated and takes no raw file ({raw}); name another dataset "
            "with it"
        )
    return _simulated(dataset, rows or dataset.simulation["rows"], seed)


def _simulated(dataset: Dataset, rows: int, seed: int) -> Table:
    from lib.data import simulators  # only here: real data do not need it

    simulator = simulators.of(dataset)
    columns_to_read(dataset, list(simulator.columns), dataset.name, labelled=True)
    drift = (dataset.simulation or {}).get("drift", True)
    code = simulator.code[:12]

    def read() -> pd.DataFrame:
        where = f"{dataset.name} (rows={rows}, seed={seed})"
        return prepare(dataset, simulator.simulate(rows, seed, drift=drift), where)

    return Table(dataset, f"simulated-{rows}-{seed}-{drift}-{code}", None, read, seed)


def ensure(
    dataset_name: str | Path = "simulated",
    rows: int = 20_000,
    seed: int = 0,
    raw: str | Path = "",
    **shares: Any,
) -> Path:
    """Return the folder of a table's split, made if it is not there.

    See `find` for the table, `Table.split` for `shares`.
    """
    return find(dataset_name, rows, seed, raw).split(**shares)


def opened(
    folder: str | Path, dataset_name: str | Path = "simulated", rows: int = 20_000, seed: int = 0
) -> Split:
    """Open the split in `folder`; where that is empty, the one that `ensure` makes of a table."""
    return open_split(folder or ensure(dataset_name, rows, seed))


def make(  # noqa: PLR0913 - the shares of a split, by name
    dataset: Dataset,
    frame: pd.DataFrame,
    folder: Path,
    *,
    source: str,
    raw_sha256: str | None,
    reference: float = 0.5,
    validation: float = 0.2,
    n_batches: int = 10,
    seed: int | None = None,
) -> Split:
    """Cut a checked frame in time order (`read_transactions`, `prepare`) and write it to `folder`.

    Features of a recipe are derived first, over the whole table; how rare a category is, is counted
    in reference.

    Parameters
    ----------
    reference, validation : shares of the weight; the rest is untouched, in `n_batches` of equal
        weight. A cut lies at the change of instant that is nearest to its share.
    seed : of simulated data.

    Raises DataError, and writes nothing, where a period would be empty.
    """
    parts = cuts.cut(dataset, frame, reference, validation, n_batches)
    frame = features.derive(dataset, frame)
    encoders = features.encoders(dataset, frame.iloc[parts["reference"]])
    frame = features.encode(dataset, frame, encoders)
    manifest: dict[str, Any] = {
        "dataset": dataset.to_dict(),
        "source": source,
        "raw_sha256": raw_sha256,
        "seed": seed,
        "shares": {"reference": reference, "validation": validation, "n_batches": n_batches},
        "time": _kind_of_time(dataset, frame),
        "periods": {name: cuts.summary(dataset, frame.iloc[part]) for name, part in parts.items()},
    }
    manifest["remarks"] = [
        *frame.attrs.get("remarks", []),
        *features.remarks(dataset, frame),
        *cuts.remarks(manifest["periods"]),
    ]
    if frame.attrs.get("thinned"):
        manifest["thinned"] = frame.attrs["thinned"]
    if dataset.recipe is not None:
        manifest["recipe"] = dataset.recipe.meanings
        manifest["encoders"] = encoders
        manifest["labels_seen"] = labels_seen.in_features(dataset.recipe)
    try:
        with locked(Path(folder).parent / ".lock"):
            _write(frame, parts, manifest, Path(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error})") from error
    return Split(Path(folder), manifest)


def _kind_of_time(dataset: Dataset, frame: pd.DataFrame) -> str:
    """`rows` for a table without a time, else `seconds` or `datetime`."""
    if dataset.time is None:
        return "rows"
    return "seconds" if pd.api.types.is_numeric_dtype(frame[dataset.time_column]) else "datetime"


def open_split(folder: str | Path) -> Split:
    """A split that is whole; DataError in one sentence if it is not."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, period in manifest["periods"].items():
            if "n_labelled" not in period:  # made by an older version, which did not count them
                raise DataError(
                    f"{folder}: {MANIFEST} does not count the labels of {name}; {MAKER}"
                )
            if (
                name != "untouched"
                and pq.read_metadata(_file(folder, name)).num_rows != period["n"]
            ):
                raise DataError(
                    f"{folder}: {name} does not hold the rows that {MANIFEST} says; {MAKER}"
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: there is no whole split; {MAKER}") from error
    return Split(folder, manifest)


def is_whole(folder: Path) -> bool:
    """Whether `open_split` would open it."""
    try:
        open_split(folder)
    except DataError:
        return False
    return True


def _file(folder, period):
    return (
        folder / "untouched" / f"{period}.parquet"
        if period.startswith("batch_")
        else folder / f"{period}.parquet"
    )


def _read(file):
    try:
        return pq.read_table(file, page_checksum_verification=True).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read ({error}); {MAKER}") from error


def _write(frame, parts, manifest, folder):
    """Write into a temporary folder beside `folder`, then rename it, under the parent's lock."""
    text = json.dumps(manifest, indent=1, allow_nan=False) + "\n"
    if is_whole(folder) and (folder / MANIFEST).read_text(encoding="utf-8") == text:
        return  # made already, perhaps by the process that held the lock before
    new = folder.parent / ".making"
    # left by a process that was killed: whoever is alive has the lock
    shutil.rmtree(new, ignore_errors=True)
    (new / "untouched").mkdir(parents=True)
    try:
        for name, part in parts.items():
            if name != "untouched":
                table = pa.Table.from_pandas(frame.iloc[part], preserve_index=False)
                pq.write_table(table, _file(new, name), write_page_checksum=True)
        (new / MANIFEST).write_text(text, encoding="utf-8")
        for path in filter(Path.is_file, new.rglob("*")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(new / "replaced")
        new.rename(folder)
        shutil.rmtree(folder / "replaced", ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
