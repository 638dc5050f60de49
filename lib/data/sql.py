"""Pieces of SQL: names, texts and numbers as they are written, and a statement in steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lib.data.columns import free_name


def quoted(name: str) -> str:
    """Return a name of a column or table as SQL has it."""
    inside = name.replace('"', '""')
    return f'"{inside}"'


def text(value: str) -> str:
    """Return a text as SQL has it."""
    inside = value.replace("'", "''")
    return f"'{inside}'"


def number(value: float) -> str:
    """Return a float as SQL has it: with an exponent, without which some read a decimal."""
    shortest = repr(float(value))
    return shortest if "e" in shortest else f"{shortest}e0"


def select(columns: Iterable[str], source: str) -> str:
    """Return a SELECT, a column a line."""
    listed = ",\n  ".join(columns)
    return f"SELECT\n  {listed}\nFROM {source}"


@dataclass
class Steps:
    """Steps of a statement: each is a SELECT under a name, which later ones read.

    Parameters
    ----------
    taken : names that steps cannot have
    """

    taken: set[str]
    named: list[tuple[str, str]] = field(default_factory=list)

    def add(self, wanted: str, step: str) -> str:
        """Add a step and return its name, which is the wanted one if that is free."""
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        self.named.append((name, step))
        return name

    @property
    def first(self) -> str:
        """Name of the first step."""
        return self.named[0][0]

    @property
    def last(self) -> str:
        """Name of the latest step."""
        return self.named[-1][0]

    def statement(self, result: str) -> str:
        """Return the statement of all steps and of a last one, which has no name."""
        parts = [f"{name} AS (\n{_indented(step)}\n)" for name, step in self.named]
        return f"WITH {', '.join(parts)}\n{result}\n"


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
