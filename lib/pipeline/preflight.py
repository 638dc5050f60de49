"""Before a run: find its data, check every row, split them in time. What is refused here has trained nothing."""

from dataclasses import dataclass
from pathlib import Path

from lib import splits
from lib.datasets import Dataset
from lib.errors import Refused
from lib.rawfile import RawFileMissing

DEFAULT, FALLBACK = "creditcard", "simulated"


@dataclass(frozen=True)
class Data:
    """A run's data, found, checked and split.

    `argument` and `raw` are what notebooks take as `dataset` and `raw`; `rows` how many are to be simulated (0: as the
    description says); `fallback` why simulated transactions stand in for the default, empty if they do not.
    """

    dataset: Dataset
    source: str
    argument: str
    raw: str
    rows: int
    split_dir: Path
    fallback: str = ""

    @property
    def registered_name(self):
        """The name of this dataset's models in the registry."""
        return registered_name(self.dataset.name)

    @property
    def is_split(self):
        """Whether the split is there; only a dry run goes on without it."""
        return splits.is_whole(self.split_dir)


def registered_name(dataset):
    """`fraud-detector` for the default dataset, `fraud-detector-<dataset>` for any other."""
    return "fraud-detector" if dataset == DEFAULT else f"fraud-detector-{dataset}"


def prepare(dataset="", raw="", rows=0, seed=0, shares=None, write=True):
    """Find, check and split -> Data; without `write` nothing is downloaded, no row is checked, no split made.

    Parameters
    ----------
    dataset : str, name or path of a description; empty: creditcard if its raw file can be had, else simulated
    raw : str, the raw file; empty: where the description says
    rows, seed : of simulated transactions
    shares : dict, `reference`, `validation`, `n_batches` where they are not the defaults

    Raises
    ------
    DataError
        Naming file, column, row and value; nothing has been written.
    """
    argument, fallback = dataset or DEFAULT, ""
    try:
        table = splits.find(argument, rows, seed, raw, download=write)
    except RawFileMissing as error:
        if dataset:
            raise
        argument, fallback = FALLBACK, str(error)
        table = splits.find(argument, rows, seed)
    if rows and table.dataset.simulation is None:
        raise Refused(f"-p rows {rows}: only simulated transactions come in any number; add --dataset {FALLBACK}.")
    argument = str(Path(argument).expanduser().resolve()) if Path(argument).is_file() else argument
    raw = str(Path(raw).expanduser().resolve()) if raw else ""
    folder = splits.locate(table.dataset, source_id=table.source_id, **shares or {})
    if write and not splits.is_whole(folder):
        splits.ensure(argument, rows, seed, raw, **shares or {})
    return Data(table.dataset, table.source, argument, raw, rows, folder, fallback)
