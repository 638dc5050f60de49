"""A notebook's parameters, read from its tagged cell, and values converted to their types."""

import ast
import contextlib
import io
import math
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import Refused, unknown
from lib.pipeline.stages import read_cells

PIPELINE_OWNED = {  # parameters that the pipeline sets, and what they follow from
    "dataset": "--dataset",
    "raw": "--raw",
    "split_dir": "the data and the parameters of 02_split",
    "run_dir": "the time: every run has a folder of its own",
    "track": "the pipeline, which logs every notebook itself",
    "candidate": "--sweep",
    "engine": "--engine",
    "stage": "the notebook's file name",
}


@dataclass(frozen=True)
class Parameter:
    """A line of a parameters cell: `latent: int = 8  # width of the bottleneck`."""

    name: str
    kind: str
    default: Any
    comment: str = ""

    @property
    def choices(self) -> list[str]:
        """The values that the comment lists between bars (`cpu | cuda | auto`); else empty.

        What the comment says of a value in brackets, or after a comma, is not part of it.
        """
        parts = self.comment.split(" | ")
        if len(parts) == 1:
            return []
        return [re.sub(r"\(.*?\)", "", part).split(",")[0].strip() for part in parts]

    def shares(self, value: Any) -> list[float]:
        """Return the numbers in `value` that are shares: their comment begins with that word."""
        if value is None or not self.comment.startswith("share"):
            return []
        return value if isinstance(value, list) else [value]


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Return a notebook's parameters by name.

    Raises Refused if the cell tagged `parameters` holds more than annotated literals, one a line.
    """
    tagged = (cell.source for cell in read_cells(path) if "parameters" in cell.tags)
    source = next(tagged, "")
    try:
        return {parameter.name: parameter for parameter in _parse(source)}
    except (SyntaxError, tokenize.TokenError, AttributeError, ValueError) as error:
        raise Refused(
            f"{path}: the parameters cell holds more than lines such as `seed: int = 0  # …`."
        ) from error


def _parse(source: str) -> Iterator[Parameter]:
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign):
            raise SyntaxError
        yield Parameter(
            name=ast.unparse(node.target),
            kind=ast.unparse(node.annotation),
            default=ast.literal_eval(node.value),
            comment=comments.get(node.end_lineno, ""),
        )


def convert(parameter: Parameter, value: Any, where: str) -> Any:
    """Return `value` in the parameter's type.

    Parameters
    ----------
    value : text from the command line, or a value typed already, from a file
    where : how it was given, for the message

    Raises
    ------
    Refused
        The value is of another type, is not among the choices, or should be a share and is not.
    """
    try:
        converted = _as(parameter.kind, value)
    except (ValueError, TypeError, SyntaxError) as error:
        raise Refused(
            f"{where}: {parameter.name} expects {parameter.kind}, got {value!r}."
        ) from error
    if parameter.choices and converted not in parameter.choices:
        raise Refused(f"{where}: {unknown(parameter.name, str(converted), parameter.choices)}")
    for share in parameter.shares(converted):
        needs_more = share == 0 and "above 0" in parameter.comment
        if not 0 <= share <= 1 or needs_more:
            raise Refused(
                f"{where}: {parameter.name} is {share:g}; expected a share, between 0 and 1."
            )
    return converted


def _as(kind: str, value: Any) -> Any:
    """Return `value` as `int`, `float`, `bool`, `str`, `list[…]` or one of them or None."""
    base, inner = re.fullmatch(r"(\w+)(?:\[(.*?)\])?.*", kind).groups()
    if "None" in kind and str(value).lower() == "none":
        return None
    if base == "list":
        return [_as(inner or "str", item) for item in _listed(value)]
    if base == "bool" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if base == "str" and isinstance(value, str):
        return value
    if base == "int" and not isinstance(value, bool | float):
        return int(value)
    if base == "float" and not isinstance(value, bool) and math.isfinite(float(value)):
        return float(value)
    raise TypeError


def _listed(value: Any) -> list:
    """Return the items of `[1, 2]`, `1,2` or `[a, b]` from the command line; a list as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("[") and text.endswith("]"):
        with contextlib.suppress(ValueError, SyntaxError):  # words without quotes
            return ast.literal_eval(text)
        text = text[1:-1]
    return [item.strip() for item in text.split(",")]
