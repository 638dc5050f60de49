"""Names of a user's columns beside names of ours, whatever they are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SCORE = "anomaly score"  # a column of scores beside features, unless a feature has that name


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """Return a name with as many `_` behind it as make it unlike all taken, ignoring case."""
    lower = {name.casefold() for name in taken}
    while wanted.casefold() in lower:
        wanted += "_"
    return wanted


def beside(ours: Iterable[str], columns: Sequence[str], prefix: str = "id.") -> dict[str, str]:
    """Name a user's columns in a file that has columns of ours -> {column: its name there}.

    A column keeps its own name unless it equals one of ours, ignoring case: then it gets the
    prefix, as often as it takes to be unlike all others.
    """
    taken = {name.casefold() for name in ours}
    found = {}
    for column in columns:
        name = column
        while name.casefold() in taken or (name != column and name in columns):
            name = prefix + name
        found[column] = name
    return found


def one_line(name: object) -> str:
    """Return a name of a user's column on one line, and never empty.

    Line breaks and the like become blanks.
    """
    characters = [c if c.isprintable() else " " for c in str(name)]
    text = "".join(characters).strip()
    return text or "(no name)"
