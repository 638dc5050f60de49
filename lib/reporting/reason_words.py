"""Say in words why a transaction has a high score: `V14 −12.3, usual −3 … 1.8`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib.data.columns import one_line

Entry = Mapping[str, Any]  # of one feature, see `lib.production.alerts.explained`
MOSTLY = 0.5  # of what raises the score, below which unusual values are not what explains it


def number(value: float) -> str:
    """Write a number as short as people need it: `−12.3`, `0.0214`, `1,204`."""
    if abs(value) >= 1_000:
        text = f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.2e}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def share(value: float) -> str:
    """Write a share of what raises a score, or of reference: `62 %`, `0.4 %`, `under 0.1 %`."""
    per_cent = 100 * value
    if 0 < per_cent < 0.1:
        return "under 0.1 %"
    return f"{per_cent:.0f} %" if per_cent >= 1 or per_cent == 0 else f"{per_cent:.1f} %"


def value_of(entry: Entry) -> str:
    """Return the value of a feature; of a category its word."""
    category = entry["category"]
    if category is not None:
        return "missing" if category["value"] is None else f"“{one_line(category['value'])}”"
    return "missing" if entry["value"] is None else number(entry["value"])


def usual(entry: Entry) -> str:
    """Return what would be usual: `usual −3 … 1.8`; how frequent a category is."""
    category = entry["category"]
    if category is None:
        return f"usual {number(entry['low'])} … {number(entry['high'])}"
    if not category["share_of_reference"]:
        return "never in reference"
    return f"{share(category['share_of_reference'])} of reference"


def of(entry: Entry) -> str:
    """Return a reason: feature, value, and what would be usual."""
    return f"{one_line(entry['title'])} {value_of(entry)}, {usual(entry)}"


def together(entries: Sequence[Entry]) -> str:
    """Return all reasons of one transaction as a sentence or two."""
    unusual = [entry for entry in entries if entry["direction"] in ("high", "low")]
    if not unusual:
        return _combination(entries)
    said = [f"{of(entry)} ({share(entry['share'])} of what raises the score)" for entry in unusual]
    text = "; ".join(said) + "."
    explained = sum(entry["share"] for entry in unusual)
    if explained < MOSTLY and len(entries) < 3:
        text += f" The other {share(1 - explained)} come from values that are usual by themselves."
    return text


def _combination(entries: Sequence[Entry]) -> str:
    text = "No value is unusual by itself: it is the combination"
    named = [f"{one_line(entry['title'])} {value_of(entry)}" for entry in entries]
    if not named:
        return f"{text}."
    listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return f"{text}, above all of {listed}."
