"""What differs between a run and the one before it on the same dataset: parameters, data, figures,
champion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lib.evaluation.figures import DASH, number
from lib.files import read_json
from lib.reporting.names import HEADLINE, champion_entry, label

SHOWN = (
    "average_precision",
    "recall_at_budget",
    "amount_recall_at_budget",
)
PERIODS = ("validation", "untouched")
# a digit more than in tables, where the interval says that it means little: here equal is equal
DIGITS = 4
MOST = 10  # rows that are shown
MOST_SETTINGS = 4  # of them parameters and data

Row = tuple[str, str, str]  # what, then, now


def since_previous(run_dir: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what differs from the newest earlier run on the same dataset that has figures.

    Parameters
    ----------
    run_dir : the run's folder; the others lie beside it
    metrics : its metrics.json

    Returns
    -------
    {"run": name of the earlier one, "parameters": rows, "figures": rows, "n_more": changes that
    are not shown}, a row being (what, then, now), of what has changed only, at most ten together,
    those of the champion first; {} without an earlier run
    """
    run_dir = Path(run_dir)
    previous = _previous(run_dir, metrics.get("dataset"))
    if previous is None:
        return {}
    before = _read_metrics(previous)
    settings_then = _settings(previous, before)
    settings_now = _settings(run_dir, metrics)
    figures_then = _figures(before)
    figures_now = _figures(metrics)
    settings = _changed(settings_then, settings_now)
    figures = _by_importance(_changed(figures_then, figures_now), metrics)
    n_settings = max(MOST_SETTINGS, MOST - len(figures))
    shown_settings = settings[:n_settings]
    shown_figures = figures[: MOST - len(shown_settings)]
    n_shown = len(shown_settings) + len(shown_figures)
    return {
        "run": previous.name,
        "parameters": shown_settings,
        "figures": shown_figures,
        "n_more": len(settings) + len(figures) - n_shown,
    }


def _by_importance(rows: Sequence[Row], metrics: Mapping[str, Any]) -> list[Row]:
    """Return rows of figures: the champion, its own figures, then the largest change first."""
    own = champion_entry(metrics)
    champion = f"{label(own)}, " if own else "champion"

    def place(row: Row) -> tuple[int, float]:
        what, then, now = row
        if what.startswith("champion"):
            return 0, 0.0
        return (1 if what.startswith(champion) else 2), -_size(then, now)

    return sorted(rows, key=place)


def _size(then: str, now: str) -> float:
    """Return how far two figures are apart; one that is new or gone comes last."""
    try:
        return abs(float(now) - float(then))
    except ValueError:
        return 0.0


def _previous(run_dir: Path, dataset: str | None) -> Path | None:
    """Return the folder of the newest earlier run; names of runs begin with their time."""
    earlier = []
    for path in run_dir.parent.glob("*/metrics.json"):
        folder = path.parent
        # neither the link `latest` nor the folder `by-hand`
        if folder.is_symlink() or not folder.name[0].isdigit():
            continue
        if folder.name < run_dir.name:
            earlier.append(folder)
    # from the newest on: most often the first is of the same dataset, and no other is read
    earlier.sort(key=lambda folder: folder.name, reverse=True)
    for folder in earlier:
        found = _read_metrics(folder)
        if found.get("dataset") == dataset:
            return folder
    return None


def _settings(run_dir: Path, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return everything that was asked for, and what data and programs it met: {what: text}."""
    asked = _asked(run_dir)
    parameters = asked.get("parameters") or {}
    found = dict(parameters)
    found["source"] = metrics.get("source")
    found["transactions"] = _total(metrics, "n")
    found["known frauds"] = _total(metrics, "n_frauds")
    if not asked:
        # a run by hand has no run.yaml: these two are known from its figures
        found["seed"] = metrics.get("seed")
        found["alert_budget"] = metrics.get("alert_budget")
    versions = metrics.get("versions", {})
    for package, version in versions.items():
        found[f"version of {package}"] = version
    return {name: str(value) for name, value in found.items()}


def _asked(run_dir: Path) -> dict[str, Any]:
    """Return the content of a run's run.yaml; {} for a run by hand, which has none."""
    path = run_dir / "run.yaml"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    # an empty file is None to YAML
    return yaml.safe_load(text) or {}


def _total(metrics: Mapping[str, Any], key: str) -> int:
    """Return the sum over the periods; the batches are parts of one of them."""
    total = 0
    periods = metrics.get("splits", {})
    for name, period in periods.items():
        if name.startswith("batch_"):
            continue
        # None: no transaction of the period has a label
        total += period[key] or 0
    return total


def _figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return {what: text} of every model's main figures, and of the champion."""
    found = {}
    models = metrics.get("models", {})
    for model, entry in models.items():
        for period in PERIODS:
            figures = entry.get(period, {})
            for metric in SHOWN:
                what = f"{label(model)}, {HEADLINE[metric]} on {period}"
                figure = figures.get(metric, {})
                value = figure.get("value")
                found[what] = number(value, DIGITS)
    champion = metrics.get("champion")
    if champion:
        found["champion"] = label(champion["model"])
        found["champion's version"] = champion.get("version", "none")
    else:
        found["champion"] = "none"
        found["champion's version"] = "none"
    return found


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[Row]:
    """Return (what, then, now) of what differs, in the order of the earlier run."""
    rows = []
    # a dictionary keeps the order, which a set would not
    either = dict.fromkeys([*before, *now])
    for what in either:
        then = before.get(what, DASH)
        today = now.get(what, DASH)
        if then != today:
            rows.append((what, then, today))
    return rows


def _read_metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    return read_json(path, {})
