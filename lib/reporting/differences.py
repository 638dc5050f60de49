"""What differs between a run and the one before it on the same dataset: parameters, data, figures,
champion.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lib.evaluation.figures import DASH, number
from lib.files import read_json
from lib.reporting.names import HEADLINE, label

SHOWN = ("average_precision", "recall_at_budget", "amount_recall_at_budget")
# a digit more than in tables, where the interval says that it means little: here equal is equal
DIGITS = 4


def since_previous(run_dir: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a run with the newest earlier one on the same dataset that has figures.

    Parameters
    ----------
    run_dir : the run's folder; the others lie beside it
    metrics : its metrics.json

    Returns
    -------
    {"run": name of the earlier one, "parameters": rows, "figures": rows}, a row being
    (what, then, now), of what has changed only; {} without an earlier run
    """
    run_dir = Path(run_dir)
    previous = _previous(run_dir, metrics.get("dataset"))
    if previous is None:
        return {}
    before = _read_metrics(previous)
    return {
        "run": previous.name,
        "parameters": _changed(_settings(previous, before), _settings(run_dir, metrics)),
        "figures": _changed(_figures(before), _figures(metrics)),
    }


def _previous(run_dir: Path, dataset: str | None) -> Path | None:
    """Return the folder of the newest earlier run; names of runs begin with their time."""
    earlier = []
    for path in run_dir.parent.glob("*/metrics.json"):
        folder = path.parent
        # neither the link `latest` nor the folder `by-hand`
        is_run = folder.name[0].isdigit() and not folder.is_symlink()
        if is_run and folder.name < run_dir.name:
            earlier.append(folder)
    same = [folder for folder in earlier if _read_metrics(folder).get("dataset") == dataset]
    return max(same, key=lambda folder: folder.name, default=None)


def _settings(run_dir: Path, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return everything that was asked for, and what data and programs it met: {what: text}."""
    asked: dict[str, Any] = {}
    path = run_dir / "run.yaml"
    if path.is_file():
        asked = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    found = dict(asked.get("parameters") or {})
    found["source"] = metrics.get("source")
    found["transactions"] = _total(metrics, "n")
    found["known frauds"] = _total(metrics, "n_frauds")
    if not asked:
        # a run by hand has no run.yaml: these two are known from its figures
        found["seed"] = metrics.get("seed")
        found["alert_budget"] = metrics.get("alert_budget")
    for package, version in metrics.get("versions", {}).items():
        found[f"version of {package}"] = version
    return {name: str(value) for name, value in found.items()}


def _total(metrics: Mapping[str, Any], key: str) -> int:
    """Return the sum over the periods; the batches are parts of one of them."""
    total = 0
    for name, period in metrics.get("splits", {}).items():
        if not name.startswith("batch_"):
            total += period[key] or 0
    return total


def _figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return {what: text} of every model's main figures, and of the champion."""
    found = {}
    for model, entry in metrics.get("models", {}).items():
        for period in ("validation", "untouched"):
            for metric in SHOWN:
                figure = entry.get(period, {}).get(metric, {})
                what = f"{label(model)}, {HEADLINE[metric]} on {period}"
                found[what] = number(figure.get("value"), DIGITS)
    champion = metrics.get("champion") or {}
    found["champion"] = label(champion["model"]) if champion else "none"
    found["champion's version"] = champion.get("version", "none")
    return found


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (what, then, now) of what differs, in the order of the earlier run."""
    rows = []
    for what in dict.fromkeys([*before, *now]):
        row = (what, before.get(what, DASH), now.get(what, DASH))
        if row[1] != row[2]:
            rows.append(row)
    return rows


def _read_metrics(folder: Path) -> dict[str, Any]:
    return read_json(folder / "metrics.json", {})
