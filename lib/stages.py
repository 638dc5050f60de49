"""The pipeline's table: which notebooks there are, what each reads and writes, and which parameters it takes.

Places are written as people say them: `raw` (the raw file), `splits` (the folder of one split), `run/…` (inside the run's
folder), `registry`, `serve/model`. Who waits for whom follows from them: a stage comes after every earlier one that writes
what it reads.
"""

import ast
import difflib
import io
import json
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIPELINE_OWNED = {
    "dataset": "--dataset",
    "raw": "--raw",
    "split_dir": "the parameters of 02_split",
    "run_dir": "nothing: every run has its own folder",
    "track": "nothing: the pipeline logs every notebook itself",
    "candidate": "--sweep",
}


class Refused(ValueError):
    """What was asked cannot be run; the message says what to change. Exit code 2."""


@dataclass(frozen=True)
class Stage:
    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    on_demand: bool = False

    @property
    def short(self):
        """`autoencoder` for `04_autoencoder`."""
        return self.name.partition("_")[2]


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    default: Any
    comment: str = ""


def _model(name):
    model = name.partition("_")[2]
    return Stage(name, reads=("splits",), writes=(f"run/models/{model}",))


STAGES = (
    Stage("01_eda", reads=("raw",)),
    Stage("02_split", reads=("raw",), writes=("splits",)),
    _model("03_isolation_forest"),
    _model("04_autoencoder"),
    _model("05_gaussian_mixture"),
    Stage(
        "06_comparison",
        reads=("splits", "run/models", "registry"),
        writes=("run/metrics.json", "run/models", "registry"),
    ),
    Stage("07_export", reads=("splits", "run/models", "registry"), writes=("serve/model",)),
    Stage("08_production", reads=("splits", "run/models", "serve/model"), writes=("run/production",)),
    Stage("09_stability", reads=("raw",), writes=("run/stability",), on_demand=True),
)


def present(root):
    """The stages whose notebook is in `root/notebooks`, in order."""
    return tuple(s for s in STAGES if (Path(root) / "notebooks" / f"{s.name}.ipynb").is_file())


def upstream(stage, stages=STAGES):
    """The earlier stages that `stage` waits for, directly: those that write something it reads."""
    earlier = stages[: stages.index(stage)]
    return tuple(s for s in earlier if any(_overlap(w, r) for w in s.writes for r in stage.reads))


def _overlap(one, other):
    one, other = one.split("/"), other.split("/")
    return all(a == b for a, b in zip(one, other, strict=False))


def nearest(name, names, what):
    """The sentence that refuses an unknown name."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(names)) or 'none'}."
    return f"Unknown {what} {name!r}: {hint}"


def find(name, stages):
    """The stage called `04_autoencoder` or `autoencoder`; Refused, with the nearest name, if there is none."""
    for stage in stages:
        if name in (stage.name, stage.short):
            return stage
    raise Refused(nearest(name, [s.name for s in stages] + [s.short for s in stages], "stage"))


def choose(stages, only=(), first=None, last=None):
    """The stages to run: `only` these, or from `first` until `last`; those on demand only where they are named."""
    if only:
        chosen = {find(name, stages) for name in only}
        return tuple(s for s in stages if s in chosen)
    start = stages.index(find(first, stages)) if first else 0
    end = stages.index(find(last, stages)) + 1 if last else len(stages)
    if start >= end:
        raise Refused(f"Nothing lies between --from {first} and --until {last}: the order is {_names(stages)}.")
    named = {find(name, stages) for name in (first, last) if name}
    return tuple(s for s in stages[start:end] if not s.on_demand or s in named)


def _names(stages):
    return ", ".join(s.name for s in stages)


def load_cells(notebook):
    """The notebook's cells as [(cell_type, source, tags)]; Refused if it is no notebook."""
    try:
        content = json.loads(Path(notebook).read_text(encoding="utf-8"))
        return [(c["cell_type"], "".join(c["source"]), c.get("metadata", {}).get("tags", [])) for c in content["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{Path(notebook).name} is not a notebook that can be read ({error}).") from error


def read_parameters(notebook):
    """The parameters of a notebook -> {name: Parameter}, from its cell tagged `parameters`.

    One annotated literal a line, its comment the description: `latent: int = 8  # width of the bottleneck`.
    """
    source = next((source for _, source, tags in load_cells(notebook) if "parameters" in tags), "")
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign):
            target, kind = node.target, ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign):
            target, kind = node.targets[0], ""
        else:
            continue
        try:
            default = ast.literal_eval(node.value)
        except ValueError as error:
            raise Refused(f"{Path(notebook).name}: the default of {target.id} is no literal.") from error
        kind = kind or type(default).__name__
        found[target.id] = Parameter(target.id, kind, default, comments.get(node.end_lineno, ""))
    return found


def convert(parameter, value, where):
    """`value`, text from the command line or already typed from a file, as the parameter's type; Refused otherwise."""
    try:
        return _as(parameter.kind, value)
    except (ValueError, TypeError, SyntaxError) as error:
        raise Refused(f"{where}: {parameter.name} is of type {parameter.kind}, {value!r} is not.") from error


def _as(kind, value):
    base, inner = re.fullmatch(r"(\w+)(?:\[(.*)\])?", kind.split("|")[0].strip()).groups()
    if "None" in kind and str(value).lower() == "none":
        return None
    if base in ("list", "tuple"):
        if isinstance(value, str):
            value = ast.literal_eval(value) if value[:1] in "[(" else value.split(",")
        if not isinstance(value, list | tuple):
            raise TypeError
        return [_as((inner or "str").split(",")[0], v) for v in value]
    if base == "bool":
        if str(value).lower() not in ("true", "false"):
            raise ValueError
        return str(value).lower() == "true"
    if base == "str":
        if not isinstance(value, str):
            raise TypeError
        return value
    if isinstance(value, bool) or (base == "int" and isinstance(value, float)):
        raise TypeError
    if base in ("int", "float"):
        return {"int": int, "float": float}[base](value)
    return ast.literal_eval(value) if isinstance(value, str) else value
