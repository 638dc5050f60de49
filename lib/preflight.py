"""Before a run: find its data, check every row and split them in time, so that nothing is trained on what is refused."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from lib import rawfile, splits
from lib.datasets import Dataset, find_raw, load_description
from lib.rawfile import DataError, RawFileMissing
from lib.stages import Refused

DEFAULT, FALLBACK = "creditcard", "simulated"
MAKERS = ("datasets", "periods", "rawfile", "rows", "simulation", "splits")  # a change in these makes another split
SHARES = ("reference", "validation", "n_batches")


@dataclass(frozen=True)
class Data:
    """A run's data, ready to be used.

    `argument` is what notebooks take as `dataset`, `raw` the raw file's path or empty, `fallback` why simulated
    transactions stand in for the default, empty otherwise.
    """

    dataset: Dataset
    argument: str
    raw: str
    rows: int
    split_dir: Path
    fallback: str = ""

    @property
    def source(self):
        """'full', 'custom' or 'simulated'."""
        return splits.open_split(self.split_dir).source

    @property
    def registered_name(self):
        """The name of this dataset's models in the registry."""
        return "fraud-detector" if self.dataset.name == DEFAULT else f"fraud-detector-{self.dataset.name}"


def prepare(root, dataset="", raw="", rows=None, seed=0, shares=None, write=True):
    """Find, check and split -> Data; `write=False`: None in its place if that is still to be done.

    Parameters
    ----------
    dataset : str, name or path of a description; empty: creditcard if its file can be had, else simulated
    rows : int, transactions to simulate; None: as the description says; refused for real data
    shares : dict, `reference`, `validation`, `n_batches` where they are not the defaults

    Raises
    ------
    DataError
        Naming file, column, row and value; nothing has been written.
    """
    description, fallback = load_description(dataset or DEFAULT), ""
    if not dataset:
        try:
            find_only(description, raw)
        except RawFileMissing as error:
            description, fallback = load_description(FALLBACK), str(error)
    simulated = description.simulation is not None
    if rows is not None and not simulated:
        raise Refused(f"-p rows {rows}: rows are for simulated transactions only; add --dataset {FALLBACK}.")
    argument = description.name if not dataset or not Path(dataset).is_file() else str(Path(dataset).resolve())
    path = "" if simulated and not raw else str(find_only(description, raw))
    rows = rows if rows is not None else (description.simulation or {}).get("rows", 0)
    memo = Memo(root, description, path, rows, seed, shares or {})
    folder = memo.recall()
    if folder is None:
        if not write:
            return None
        folder = splits.ensure(argument, rows=rows, seed=seed, raw=path, **shares or {})
        memo.keep(folder)
    return Data(description, argument, path, rows, folder, fallback)


def find_only(description, raw):
    """The raw file's path, its content not looked at; it is downloaded if need be."""
    path = Path(raw).expanduser().resolve() if raw else description.raw_path
    return path if path and path.exists() else find_raw(description, raw)[0]


class Memo:
    """Which split folder came out the last time that the same was asked: a file is not read again to tell."""

    def __init__(self, root, description, path, rows, seed, shares):
        self.file = Path(root) / ".pipeline" / "splits.json"
        parts = rawfile.parts(Path(path)) if path else []
        raw = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in parts]
        code = [rawfile.sha256(Path(root) / "lib" / f"{name}.py") for name in MAKERS]
        asked = [description.to_dict(), raw, code, shares, [rows, seed] if not path else None]
        self.key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        self.root = Path(root)

    def recall(self):
        folder = self._read().get(self.key)
        return self.root / folder if folder and splits.is_whole(self.root / folder) else None

    def keep(self, folder):
        self.file.parent.mkdir(exist_ok=True)
        partial = self.file.with_suffix(".part")
        partial.write_text(json.dumps(self._read() | {self.key: folder.relative_to(self.root).as_posix()}, indent=1))
        partial.replace(self.file)

    def _read(self):
        try:
            return json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}


__all__ = ["Data", "DataError", "prepare"]
