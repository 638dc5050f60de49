"""What differs between a run and the one before it on the same dataset: parameters, data, figures,
champion.
"""

from pathlib import Path

import yaml

from lib.files import read_json
from lib.reporting.names import HEADLINE, label

SHOWN = ("average_precision", "recall_at_budget", "amount_recall_at_budget")


def since_previous(run_dir, metrics):
    """Name of the newest earlier run on the same dataset that has figures, and what has changed
    since.

    Returns
    -------
    {"run": str, "parameters": rows, "figures": rows}, a row being (what, then, now); {} without an
    earlier run
    """
    run_dir = Path(run_dir)
    previous = _previous(run_dir, metrics.get("dataset"))
    if previous is None:
        return {}
    before = _json(previous / "metrics.json")
    return {
        "run": previous.name,
        "parameters": [*_changed(_settings(previous, before), _settings(run_dir, metrics))],
        "figures": [*_changed(_figures(before), _figures(metrics))],
    }


def _previous(run_dir, dataset):
    earlier = [p.parent for p in run_dir.parent.glob("*/metrics.json") if not p.parent.is_symlink()]
    earlier = [p for p in earlier if p.name < run_dir.name and p.name[0].isdigit()]
    same = [p for p in earlier if _json(p / "metrics.json").get("dataset") == dataset]
    return max(same, key=lambda p: p.name, default=None)


def _settings(run_dir, metrics):
    """Everything that was asked for, and what data and programs it met -> {what: text}."""
    path = run_dir / "run.yaml"
    asked = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}
    found = {
        "source": metrics.get("source"),
        "transactions": _n(metrics, "n"),
        "known frauds": _n(metrics, "n_frauds"),
    }
    if not asked:
        found |= {name: metrics.get(name) for name in ("seed", "alert_budget")}
    found |= {
        f"version of {name}": version for name, version in metrics.get("versions", {}).items()
    }
    return {name: str(value) for name, value in ((asked.get("parameters") or {}) | found).items()}


def _n(metrics, key):
    main = [
        period
        for name, period in metrics.get("splits", {}).items()
        if not name.startswith("batch_")
    ]
    return sum(period[key] or 0 for period in main)


def _figures(metrics):
    """{what: text} of every model's main figures, and of the champion."""
    found = {}
    for model, entry in metrics.get("models", {}).items():
        for period in ("validation", "untouched"):
            for metric in SHOWN:
                value = entry.get(period, {}).get(metric, {}).get("value")
                found[f"{label(model)}, {HEADLINE[metric]} on {period}"] = (
                    "–" if value is None else f"{value:.4f}"
                )
    champion = metrics.get("champion") or {}
    found["champion"] = label(champion["model"]) if champion else "none"
    return found | {"champion's version": champion.get("version", "none")}


def _changed(before, now):
    for what in dict.fromkeys([*before, *now]):
        if before.get(what, "–") != now.get(what, "–"):
            yield what, before.get(what, "–"), now.get(what, "–")


def _json(path):
    return read_json(path, {})
