"""The pipeline's table: which notebooks there are, and what each reads and writes.

Places are written as people say them: `raw` (the raw file), `splits` (the folder of one split),
`run/…` (in the run's folder), `registry`, `serve/model`. The order follows from them: a stage comes
after the earlier ones that write what it reads.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lib.errors import Refused, unknown


@dataclass(frozen=True)
class Stage:
    """A notebook's place in the pipeline.

    Parameters
    ----------
    name : file name of the notebook without suffix
    reads, writes : places
    starts : patterns of the project's files that it executes besides what it imports
    on_demand : it runs only where it is named
    usual_s : seconds that it is expected to take before it has ever run; of the stages whose turn
        has come, the longest go first
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    on_demand: bool = False
    usual_s: float = 0.0

    @property
    def short(self) -> str:
        """`autoencoder` for `04_autoencoder`."""
        return self.name.partition("_")[2]

    @property
    def runs_anywhere(self) -> bool:
        """Whether a worker can execute it: it needs the split alone, and writes into the run."""
        return self.reads == ("splits",) and all(within(key, "run") for key in self.writes)


def _fits(name: str, usual_s: float) -> Stage:
    """Return the stage of a notebook that fits the detector it is named after."""
    detector = name.partition("_")[2]
    return Stage(name, reads=("splits",), writes=(f"run/models/{detector}",), usual_s=usual_s)


STAGES = (
    Stage("01_eda", reads=("raw",)),
    Stage("02_split", reads=("raw",), writes=("splits", "run/data_card.md"), usual_s=10),
    _fits("03_isolation_forest", usual_s=10),
    _fits("04_autoencoder", usual_s=40),
    _fits("05_gaussian_mixture", usual_s=60),
    _fits("06_nearest_neighbours", usual_s=20),
    _fits("07_robust_covariance", usual_s=10),
    _fits("08_empirical_tails", usual_s=10),
    Stage(
        "09_comparison",
        reads=("splits", "run/models", "registry"),
        writes=("run/models", "run/metrics.json", "run/model_card.md", "registry"),
    ),
    Stage(
        "10_export",
        reads=("splits", "run/models", "registry"),
        writes=("serve/model", "run/bundle", "run/refit"),
    ),
    Stage(
        "11_production",
        reads=("splits", "serve/model", "run/bundle"),
        writes=("run/production",),
        starts=("serve/*.py",),
    ),
    Stage("12_stability", reads=("raw",), on_demand=True),
    Stage("13_few_labels", reads=("splits",), on_demand=True),
)


def present(root: Path) -> tuple[Stage, ...]:
    """Return the stages whose notebook is in `root/notebooks`, in order."""
    return tuple(stage for stage in STAGES if notebook(root, stage).is_file())


def notebook(root: Path, stage: Stage) -> Path:
    """Return the path of a stage's notebook."""
    return Path(root) / "notebooks" / f"{stage.name}.ipynb"


def upstream(stage: Stage) -> tuple[Stage, ...]:
    """Return the earlier stages that `stage` waits for: those that write something it reads."""
    earlier = STAGES[: STAGES.index(stage)]
    return tuple(before for before in earlier if _feeds(before, stage))


def _feeds(before: Stage, after: Stage) -> bool:
    for written in before.writes:
        for read in after.reads:
            if within(written, read) or within(read, written):
                return True
    return False


def within(key: str, place: str) -> bool:
    """Return whether `run/models/autoencoder` lies in `run/models`, or is it."""
    return f"{key}/".startswith(f"{place}/")


def find(name: str, stages: Sequence[Stage]) -> Stage:
    """Return a stage by its name or its short name; Refused if there is none."""
    for stage in stages:
        if name in (stage.name, stage.short):
            return stage
    names = [stage.name for stage in stages] + [stage.short for stage in stages]
    raise Refused(unknown("stage", name, names))


def choose(
    stages: Sequence[Stage], only: Iterable[str] = (), first: str = "", last: str = ""
) -> tuple[Stage, ...]:
    """Return the stages to run: `only` these, or those from `first` until `last`.

    Stages on demand are among them only where they are named.
    """
    only = list(only)
    if only and (first or last):
        raise Refused("--only cannot be combined with --from or --until.")
    if only:
        chosen = {find(name, stages) for name in only}
        return tuple(stage for stage in stages if stage in chosen)
    named = {find(name, stages) for name in (first, last) if name}
    start = stages.index(find(first, stages)) if first else 0
    end = stages.index(find(last, stages)) + 1 if last else len(stages)
    if start >= end:
        order = ", ".join(stage.name for stage in stages)
        raise Refused(f"--from {first} comes after --until {last}; the order is {order}.")
    return tuple(s for s in stages[start:end] if not s.on_demand or s in named)


class Cell(NamedTuple):
    """A notebook's cell: `code` or `markdown`, its text, its tags."""

    kind: str
    source: str
    tags: list[str]


def read_cells(path: Path | str) -> list[Cell]:
    """Return a notebook's cells; Refused if the file is not a notebook."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        return [
            Cell(
                kind=cell["cell_type"],
                source="".join(cell["source"]),
                tags=cell.get("metadata", {}).get("tags", []),
            )
            for cell in cells
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} cannot be read as a notebook ({error}).") from error
