"""Descriptions of runs and notebooks in Markdown, for whoever finds them in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.data import labels_seen
from lib.evaluation.figures import cell
from lib.files import read_json
from lib.reporting import names
from lib.reporting.names import Now

PERIODS = ("validation", "untouched")
ITEMS = ("Question", "Reads", "Writes")


def stage(name: str, header: Mapping[str, str], why: str = "") -> str:
    """Return what a notebook asks, reads and writes, as Markdown, from its first cell.

    Parameters
    ----------
    name : of the notebook, without `.ipynb`
    header : {item: text}, see `lib.pipeline.stages.header`
    why : it was executed
    """
    lines = [
        f"`notebooks/{name}.ipynb`",
        "",
    ]
    lines += [f"- *{item}*: {header[item]}" for item in ITEMS if item in header]
    if why:
        lines.append(f"- *Executed because*: {why}")
    return "\n".join(lines)


def pipeline(name: str, metrics: Mapping[str, Any], now: Now | None = None) -> str:
    """Return what a run decided, what became of it, and how good its candidates are.

    Parameters
    ----------
    name : of the run
    metrics : its metrics.json, empty if there is none
    now : what is served at this moment; None: nobody has looked
    """
    where = f"Everything is in `reports/{name}`, its page is `index.html` there."
    if not metrics:
        return where
    parts = []
    if metrics.get("source") == "simulated":
        parts.append(f"**{names.SIMULATED}**")
    models = metrics.get("models", {})
    names.introduce(models)
    decided = names.headline(metrics, now)
    parts += [
        f"**As this run decided: {decided}**",
        _reasons(metrics),
        _candidates(models),
        where,
    ]
    return "\n\n".join(parts)


def not_compared(run_dir: Path, stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence on each candidate that a run without a comparison has fitted.

    stages : {"stage", "status"} each, as the runner's summary has them
    """
    if any(stage["stage"].endswith("_comparison") for stage in stages):
        return []
    said = []
    for stage in stages:
        if stage["status"] != "done":
            continue
        recorded = read_json(run_dir / "stages" / stage["stage"] / "metrics.json", {})
        for model, entry in recorded.items():
            figures = entry.get("validation") if isinstance(entry, dict) else None
            if isinstance(figures, dict) and "average_precision" in figures:
                figure = cell(figures["average_precision"])
                said.append(
                    f"{names.label(model)}: average precision {figure} on validation; "
                    "--from comparison compares it with the others."
                )
    return said


def _reasons(metrics: Mapping[str, Any]) -> str:
    """Return the gate's reasons as a list; remarks, which ask for attention, in bold."""
    models = metrics.get("models", {})
    verdict = metrics.get("verdict", {})
    lines = []
    for reason in verdict.get("reasons", []):
        text = names.plain(reason, models)
        lines.append(f"- {text}")
    for remark in metrics.get("remarks", []):
        text = names.plain(remark, models)
        lines.append(f"- **{text}**")
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
        regime = entry.get("train_on")
        seen = labels_seen.in_short(regime, entry.get("labels_in_features"))
        cells = [named, seen]
        for period in PERIODS:
            figures = entry.get(period) or {}
            figure = figures.get("average_precision")
            cells.append(cell(figure))
        inner = " | ".join(cells)
        lines.append(f"| {inner} |")
    return "\n".join(lines)
