"""The pipeline's table: which notebooks there are, what each reads and writes, and which parameters it takes.

Places are written as people say them: `raw` (the raw file), `splits` (the folder of one split), `run/…` (in the run's
folder), `registry`, `serve/model`. Who waits for whom follows: a stage comes after the earlier ones that write what it
reads.
"""

import ast
import difflib
import io
import json
import math
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIPELINE_OWNED = {  # parameters that the pipeline sets, and what they follow from
    "dataset": "--dataset",
    "raw": "--raw",
    "split_dir": "the data and the parameters of 02_split",
    "run_dir": "the time: every run has a folder of its own",
    "track": "the pipeline, which logs every notebook itself",
    "candidate": "--sweep",
}


class Refused(ValueError):  # noqa: N818 - reads as what happened
    """What was asked cannot be run; the message says what to change. Exit code 2."""


@dataclass(frozen=True)
class Stage:
    """A notebook's place in the pipeline.

    `starts` are patterns of the project's files, programs and notebooks, that it executes besides what it imports; a
    stage that is `on_demand` runs only where it is named. `usual_s` are seconds that it is expected to take before it
    has ever run: of the stages whose turn has come, the longest go first.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    on_demand: bool = False
    usual_s: float = 0.0

    @property
    def short(self):
        """`autoencoder` for `04_autoencoder`."""
        return self.name.partition("_")[2]


STAGES = (
    Stage("01_eda", ("raw",)),
    Stage("02_split", ("raw",), ("splits", "run/data_card.md"), usual_s=10),
    Stage("03_isolation_forest", ("splits",), ("run/models/isolation_forest",), usual_s=10),
    Stage("04_autoencoder", ("splits",), ("run/models/autoencoder",), usual_s=40),
    Stage("05_gaussian_mixture", ("splits",), ("run/models/gaussian_mixture",), usual_s=60),
    Stage(
        "06_comparison",
        ("splits", "run/models", "registry"),
        ("run/models", "run/metrics.json", "run/model_card.md", "registry"),
    ),
    Stage("07_export", ("run/models", "registry"), ("serve/model",)),
    Stage("08_production", ("splits", "serve/model"), ("run/production",), ("serve/*.py", "notebooks/0[345]_*.ipynb")),
    Stage("09_stability", ("raw",), on_demand=True),
    Stage("10_few_labels", ("splits",), on_demand=True),
)


def present(root):
    """The stages whose notebook is in `root/notebooks`, in order."""
    return tuple(s for s in STAGES if notebook(root, s).is_file())


def notebook(root, stage):
    """The path of a stage's notebook."""
    return Path(root) / "notebooks" / f"{stage.name}.ipynb"


def upstream(stage):
    """The earlier stages that `stage` waits for: those that write something it reads."""
    earlier = STAGES[: STAGES.index(stage)]
    return tuple(s for s in earlier if any(within(w, r) or within(r, w) for w in s.writes for r in stage.reads))


def within(key, place):
    """Whether `run/models/autoencoder` lies in `run/models` (or is it)."""
    return f"{key}/".startswith(f"{place}/")


def nearest(name, names, what):
    """The sentence that refuses an unknown name."""
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(names)) or 'none'}."
    return f"Unknown {what} {name!r}: {hint}"


def find(name, stages):
    """The stage called `04_autoencoder` or `autoencoder`; Refused, with the nearest name, if there is none."""
    for stage in stages:
        if name in (stage.name, stage.short):
            return stage
    raise Refused(nearest(name, [n for s in stages for n in (s.name, s.short)], "stage"))


def choose(stages, only=(), first="", last=""):
    """The stages to run: `only` these, or from `first` until `last`; those on demand only where they are named."""
    if only and (first or last):
        raise Refused("--only goes without --from and --until.")
    if only:
        chosen = {find(name, stages) for name in only}
        return tuple(s for s in stages if s in chosen)
    named = {find(name, stages) for name in (first, last) if name}
    start = stages.index(find(first, stages)) if first else 0
    end = stages.index(find(last, stages)) + 1 if last else len(stages)
    if start >= end:
        raise Refused(f"--from {first} comes after --until {last}: the order is {', '.join(s.name for s in stages)}.")
    return tuple(s for s in stages[start:end] if not s.on_demand or s in named)


def read_cells(path):
    """A notebook's cells -> [(cell_type, source, tags)]; Refused if it is no notebook."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        return [(c["cell_type"], "".join(c["source"]), c.get("metadata", {}).get("tags", [])) for c in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is not a notebook that can be read ({error}).") from error


@dataclass(frozen=True)
class Parameter:
    """A line of a parameters cell: `latent: int = 8  # width of the bottleneck`."""

    name: str
    kind: str
    default: Any
    comment: str = ""

    @property
    def choices(self):
        """The values that the comment lists between bars, without what it says of them in brackets; else empty."""
        listed = [re.sub(r"\(.*?\)", "", part).split(",")[0].strip() for part in self.comment.split(" | ")]
        return listed if len(listed) > 1 else []

    def shares(self, value):
        """The numbers in `value` that are shares, as a comment says that begins with the word."""
        if value is None or not self.comment.startswith("share"):
            return []
        return value if isinstance(value, list) else [value]


def read_parameters(path):
    """The parameters of a notebook -> {name: Parameter}, from its cell tagged `parameters`; Refused if it is not
    made of annotated literals, one a line."""
    source = next((source for _, source, tags in read_cells(path) if "parameters" in tags), "")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = {}
    try:
        comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
        for node in ast.parse(source).body:
            name, kind, default = node.target.id, ast.unparse(node.annotation), ast.literal_eval(node.value)
            found[name] = Parameter(name, kind, default, comments.get(node.end_lineno, ""))
    except (SyntaxError, tokenize.TokenError, AttributeError, ValueError) as error:
        raise Refused(f"{path}: the parameters cell holds more than lines such as `seed: int = 0  # …`.") from error
    return found


def convert(parameter, value, where):
    """`value`, text from the command line or typed already from a file, in the parameter's type; else Refused."""
    try:
        converted = _as(parameter.kind, value)
    except (ValueError, TypeError, SyntaxError) as error:
        raise Refused(f"{where}: {parameter.name} is of type {parameter.kind}, and {value!r} is not.") from error
    if parameter.choices and converted not in parameter.choices:
        raise Refused(f"{where}: {nearest(converted, parameter.choices, parameter.name)}")
    for share in parameter.shares(converted):
        if not 0 <= share <= 1 or (share == 0 and "above 0" in parameter.comment):
            raise Refused(f"{where}: {parameter.name} is {share:g}; it is a share: a number between 0 and 1.")
    return converted


def _as(kind, value):
    base, inner = re.fullmatch(r"(\w+)(?:\[(.*?)\])?.*", kind).groups()
    if "None" in kind and str(value).lower() == "none":
        return None
    if base == "list":
        if isinstance(value, str):
            value = ast.literal_eval(value) if value.startswith("[") else value.split(",")
        return [_as(inner or "str", v) for v in value]
    if base == "bool" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if base == "str" and isinstance(value, str):
        return value
    if base == "int" and not isinstance(value, bool | float):
        return int(value)
    if base == "float" and not isinstance(value, bool) and math.isfinite(float(value)):
        return float(value)
    raise TypeError
