"""Before a run: find its data, check every row, split them in time.

What is refused here has trained nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib.data import splits
from lib.data.datasets import ROOT, Dataset
from lib.errors import RawFileMissing, Refused, TrackingError
from lib.pipeline.runs import Run
from lib.registry import mlflow_store, serving

DEFAULT, FALLBACK = "creditcard", "simulated"


@dataclass(frozen=True)
class Data:
    """A run's data, found, checked and split.

    Parameters
    ----------
    source : 'full', 'custom' or 'simulated'; empty where there is no split yet
    argument, raw : what notebooks take as `dataset` and `raw`
    rows : how many are to be simulated; 0: as the description says
    file : the raw file; None for simulated transactions
    fallback : why simulated transactions stand in for the default; empty if they do not
    """

    dataset: Dataset
    source: str
    argument: str
    raw: str
    rows: int
    split_dir: Path
    file: Path | None = None
    fallback: str = ""

    @property
    def registered_name(self) -> str:
        """The name of this dataset's models in the registry."""
        return registered_name(self.dataset.name)

    @property
    def is_split(self) -> bool:
        """Whether the split is there; only a dry run goes on without it."""
        return splits.is_whole(self.split_dir)


def registered_name(dataset: str) -> str:
    """Return `fraud-detector` for the default dataset, `fraud-detector-<dataset>` for any other."""
    return "fraud-detector" if dataset == DEFAULT else f"fraud-detector-{dataset}"


def prepare(  # noqa: PLR0913 - the command line's options, by name
    dataset: str = "",
    raw: str = "",
    *,
    rows: int = 0,
    seed: int = 0,
    shares: dict | None = None,
    write: bool = True,
    root: Path = ROOT,
) -> Data:
    """Find, check and split.

    Parameters
    ----------
    dataset : name or path of a description; empty: creditcard if its raw file can be had, else
        simulated
    raw : the raw file; empty: where the description says
    rows, seed : of simulated transactions
    shares : `reference`, `validation`, `n_batches` where they are not the defaults
    write : False for a dry run: nothing is downloaded, no row is checked, no split made
    root : the project's folder, whose past decides whether simulated transactions may stand in

    Raises
    ------
    DataError
        Naming file, column, row and value; nothing has been written.
    Refused
        The default's raw file is gone from a folder that has held real transactions.
    """
    shares = shares or {}
    argument, fallback = dataset or DEFAULT, ""
    try:
        table = splits.find(argument, rows, seed, raw, download=write)
    except RawFileMissing as error:
        if dataset:
            raise
        past = real_past(root)
        if past:
            raise Refused(f"{error}. {past}") from error
        argument, fallback = FALLBACK, str(error)
        table = splits.find(argument, rows, seed)
    if rows and table.dataset.simulation is None:
        raise Refused(
            f"-p rows {rows}: only simulated transactions come in any number; "
            f"add --dataset {FALLBACK}."
        )
    argument = _absolute(argument) if Path(argument).is_file() else argument
    raw = _absolute(raw) if raw else ""
    folder = table.split(**shares) if write else table.locate(**shares)
    return Data(
        dataset=table.dataset,
        source=splits.open_split(folder).source if splits.is_whole(folder) else "",
        argument=argument,
        raw=raw,
        rows=rows,
        split_dir=folder,
        file=table.path,
        fallback=fallback,
    )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def real_past(root: Path) -> str:
    """Return the sentence that refuses simulated transactions in a folder that has held real ones.

    A bundle, a registered champion or a run of a real table is proof: simulated transactions would
    replace what is decided and served there. Empty where there is none of them.
    """
    runs = [run for run in Run.all(root / "reports") if not _is_simulated(run)]
    proof = _proof(root, runs)
    if not proof:
        return ""
    files = [
        run.info.get("raw_file") or run.info.get("asked", {}).get("raw")
        for run in runs
        if run.info.get("dataset") == DEFAULT
    ]
    last = next(filter(None, files), "")
    where = f" The raw file was last read from {last}." if last else ""
    return (
        f"This folder has held real transactions ({proof}), so that simulated ones do not stand in."
        f"{where} Put the file back or name it with --raw FILE; --dataset {FALLBACK} runs on "
        "simulated transactions all the same."
    )


def _is_simulated(run: Run) -> bool:
    source = run.info.get("source")
    return source == "simulated" if source else run.info.get("dataset") == FALLBACK


def _proof(root: Path, runs: list[Run]) -> str:
    """Return what shows that there have been real transactions; empty where nothing does."""
    bundle, damage = serving.exported(root / "serve" / "model")
    if damage:
        return f"serve/model holds a bundle that cannot be read: {damage}"
    if bundle is not None and bundle.source != "simulated":
        return f"serve/model holds {bundle.name or bundle.model} for {bundle.dataset}"
    if runs:
        return f"reports/{runs[0].name} is a run on {runs[0].info.get('dataset')}"
    try:
        real = [c for c in mlflow_store.champions() if c.tags.get("source") != "simulated"]
    except TrackingError:  # a team's registry: it says nothing of this folder
        return ""
    return f"the registry has {real[0].name} version {real[0].version}" if real else ""
