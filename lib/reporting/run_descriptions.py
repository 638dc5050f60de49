"""Descriptions of runs and notebooks in Markdown, for whoever finds them in MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lib.data import labels_seen
from lib.evaluation.figures import cell
from lib.reporting import names

PERIODS = ("validation", "untouched")
# an item of the list in a notebook's first cell, up to the next item
_FACT = re.compile(r"^- \*(Question|Reads|Writes)\*: (.*(?:\n(?!- ).+)*)", re.MULTILINE)


def stage(name: str, cells: Iterable[tuple[str, str, Any]], why: str = "") -> str:
    """Describe what a notebook asks, reads and writes, from its first cell.

    Parameters
    ----------
    name : of the notebook, without `.ipynb`
    cells : (cell_type, source, tags) each, see `lib.pipeline.stages.read_cells`
    why : it was executed
    """
    texts = [source for kind, source, _ in cells if kind == "markdown"]
    first = texts[0] if texts else ""
    lines = [f"`notebooks/{name}.ipynb`", ""]
    for what, text in _FACT.findall(first):
        on_one_line = " ".join(text.split())
        lines.append(f"- *{what}*: {on_one_line}")
    if why:
        lines.append(f"- *Executed because*: {why}")
    return "\n".join(lines)


def pipeline(name: str, metrics: Mapping[str, Any], now: Any = None) -> str:
    """Describe what a run decided, what has become of it, and how good its candidates are.

    Parameters
    ----------
    name : of the run
    metrics : its metrics.json, empty if there is none
    now : lib.registry.serving.Now, what is served at this moment; None: nobody has looked
    """
    where = f"Everything is in `reports/{name}`, its page is `index.html` there."
    if not metrics:
        return where
    parts = []
    if metrics.get("source") == "simulated":
        parts.append(f"**{names.SIMULATED}**")
    parts += [
        f"**As this run decided: {names.headline(metrics, now)}**",
        _reasons(metrics),
        _candidates(metrics.get("models", {})),
        where,
    ]
    return "\n\n".join(parts)


def _reasons(metrics: Mapping[str, Any]) -> str:
    """Return the gate's reasons as a list; remarks, which ask for attention, in bold."""
    models = metrics.get("models", {})
    lines = []
    for reason in metrics.get("verdict", {}).get("reasons", []):
        lines.append(f"- {names.plain(reason, models)}")
    for remark in metrics.get("remarks", []):
        lines.append(f"- **{names.plain(remark, models)}**")
    return "\n".join(lines)


def _candidates(models: Mapping[str, Any]) -> str:
    """Return a Markdown table of the candidates' average precision, in the order of the run."""
    lines = [
        "| model | labels seen | average precision on validation | on untouched |",
        "|---|---|---|---|",
    ]
    for model, entry in models.items():
        # a variant's name may hold anything: a pipe would begin another cell
        named = names.label(model).replace("|", r"\|")
        seen = labels_seen.in_short(entry.get("train_on"))
        cells = []
        for period in PERIODS:
            figures = entry.get(period) or {}
            cells.append(cell(figures.get("average_precision")))
        lines.append(f"| {named} | {seen} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(metrics: Mapping[str, Any]) -> dict[str, dict]:
    """Return what is worth comparing runs by: {model: {period: {metric: figure}}}.

    The headline figures of every model and, under `champion`, of the champion.
    """
    found: dict[str, dict] = {}
    for model, entry in metrics.get("models", {}).items():
        found[model] = {}
        for period in PERIODS:
            if period in entry:
                found[model][period] = _headline_only(entry[period])
    champion = names.champion_entry(metrics)
    if champion in found:
        found["champion"] = found[champion]
    return found


def _headline_only(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {metric: figures[metric] for metric in names.HEADLINE if metric in figures}
