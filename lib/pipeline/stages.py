"""The pipeline's table: which notebooks there are, and what each reads and writes.

Places are written as people say them: `raw` (the raw file), `splits` (the folder of one split),
`run/…` (in the run's folder), `registry`, `serve/model`. The order follows from them: a stage comes
after the earlier ones that write what it reads.

A notebook that is not in the table is a stage as well if it has a parameter `candidate`: it fits a
detector, and its first cell says so.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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


# names that a candidate cannot have: of models that the comparison makes itself, and of naive rules
RESERVED = (
    *("fusion", "few_labels", "supervised_trees", "present_champion"),
    *("random", "amount", "max_abs_z"),
)
OWN_NAME = re.compile(r"\d\w*?_([a-z]\w*)", re.ASCII)
OWN_USUAL_S = 20
# what a notebook of the user's own has to name in its first cell
OWN_HEADER = {"Reads": "`split_dir`", "Writes": "`models/<candidate>/`"}
# an item of the list in a notebook's first cell, up to the next item
_ITEM = re.compile(r"^- \*(\w+)\*: (.*(?:\n(?!- ).+)*)", re.MULTILINE)


def present(root: Path) -> tuple[Stage, ...]:
    """Return the stages whose notebook is in `root/notebooks`, in order.

    Notebooks of the user's own that fit a detector come before the first that compares any.

    Raises
    ------
    Refused
        A notebook has a parameter `candidate`, and its name or first cell does not say what of.
    """
    table = tuple(stage for stage in STAGES if notebook(root, stage).is_file())
    own = _own(Path(root))
    first = next((i for i, s in enumerate(table) if "run/models" in s.reads), len(table))
    return (*table[:first], *own, *table[first:])


def _own(root: Path) -> tuple[Stage, ...]:
    """Return the stages of notebooks that are not in the table and fit a detector."""
    known = {stage.name for stage in STAGES}
    taken = {stage.short for stage in STAGES} | set(RESERVED)
    found = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        if path.stem in known or not _has_candidate(path):
            continue
        stage = _own_stage(path)
        if stage.short in taken:
            raise Refused(
                f"notebooks/{path.name}: another model is called {stage.short} already; give the "
                "notebook another name, such as 08b_lof.ipynb."
            )
        taken.add(stage.short)
        found.append(stage)
    return tuple(found)


def _has_candidate(path: Path) -> bool:
    """Return whether a file is a notebook with a parameter `candidate`."""
    try:
        cells = read_cells(path)
    except Refused:  # somebody's own file, which no run needs
        return False
    tagged = "\n".join(cell.source for cell in cells if "parameters" in cell.tags)
    return re.search(r"^candidate\s*:", tagged, re.MULTILINE) is not None


def _own_stage(path: Path) -> Stage:
    if OWN_NAME.fullmatch(path.stem) is None:
        raise Refused(
            f"notebooks/{path.name} has a parameter `candidate`, and so is a stage that fits a "
            "detector: name it with a number, an underscore and the candidate's name, such as "
            "08b_lof.ipynb."
        )
    said = header(read_cells(path))
    for item, place in OWN_HEADER.items():
        if place not in said.get(item, ""):
            raise Refused(
                f"notebooks/{path.name}: its first cell needs a line `- *{item}*: …` that names "
                f"{place}, as in notebooks/templates/detector.ipynb."
            )
    return _fits(path.stem, usual_s=OWN_USUAL_S)


def header(cells: Iterable[tuple[str, str, Any]]) -> dict[str, str]:
    """Return the items of a notebook's first cell: {"Question": …, "Reads": …}, each in one line.

    cells : (kind, source, tags) each, see `read_cells`
    """
    first = next((source for kind, source, _ in cells if kind == "markdown"), "")
    # a line break would end the item of a list
    return {item: " ".join(text.split()) for item, text in _ITEM.findall(first)}


def notebook(root: Path, stage: Stage) -> Path:
    """Return the path of a stage's notebook."""
    return Path(root) / "notebooks" / f"{stage.name}.ipynb"


def upstream(stage: Stage, stages: Sequence[Stage] = STAGES) -> tuple[Stage, ...]:
    """Return the stages before `stage` that it waits for: those that write something it reads."""
    earlier = stages[: stages.index(stage)]
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
