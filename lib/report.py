"""The run's static page and the list of all runs: self-contained HTML, written from the run's files."""

import base64
import json
from pathlib import Path

from lib.plots import colour, label

TEMPLATES = Path(__file__).parent / "templates"
COLUMNS = {
    "recall_at_budget": "recall",
    "precision_at_budget": "precision",
    "amount_recall_at_budget": "money caught",
    "recall_at_fpr_0.01": "recall at 1 % FPR",
    "roc_auc": "ROC AUC",
}
LABELS = {"genuine": "frauds removed", "labels": "in the fit"}
SHOWN = (  # stem of the figure, its caption
    ("06_comparison-precision-recall", "Precision and recall on validation; the dotted line is a random ranking."),
    ("06_comparison-money", "Share of fraud money caught; dotted lines are the alert budgets."),
    ("06_comparison-intervals", "Average precision on validation with 95 % intervals."),
    ("08_production-timeline", "The untouched period replayed against the server, batch by batch."),
)


def write(run_dir, stages=()):
    """Write `index.html` into a run's folder, and the list of runs beside it -> path of the run's page.

    stages : list of {"stage", "status", "seconds", "peak_mb"}, as the runner's summary has them
    """
    run_dir = Path(run_dir)
    metrics = _read(run_dir / "metrics.json")
    previous = _previous(run_dir, metrics.get("dataset"))
    before = _read(run_dir.parent / previous / "metrics.json") if previous else {}
    content = {
        "title": f"Fraud detection on {metrics.get('dataset', 'an unfinished run')}: {run_dir.name}",
        "simulated": metrics.get("source") == "simulated",
        "verdict": _verdict(metrics),
        "facts": _facts(metrics),
        "tables": _tables(metrics),
        "figures": [_figure(run_dir, stem, caption) for stem, caption in SHOWN if _png(run_dir, stem).is_file()],
        "stages": [_stage(run_dir, stage) for stage in stages],
        "previous": previous,
        "differences": _differences(before, metrics) if previous else [],
        "example": _example(run_dir, metrics),
        "cards": [card for card in ("model_card.md", "data_card.md") if (run_dir / card).is_file()],
    }
    _render("run.html.j2", run_dir / "index.html", content)
    write_index(run_dir.parent)
    return run_dir / "index.html"


def write_index(reports):
    """Write `reports/index.html`, the list of all runs that have a page, newest first -> its path."""
    pages = sorted(Path(reports).glob("*/index.html"), key=lambda p: p.parent.name, reverse=True)
    runs = []
    for folder in [p.parent for p in pages if not p.parent.is_symlink()]:
        metrics = _read(folder / "metrics.json")
        champion = metrics.get("champion")
        figures = metrics.get("models", {}).get(champion["model"], {}) if champion else {}
        source = "simulated" if metrics.get("source") == "simulated" else metrics.get("source", "")
        runs.append(
            {
                "name": folder.name,
                "data": f"{metrics.get('dataset', 'unfinished')} ({source})",
                "champion": f"{label(champion['model'])}, version {champion['version']}" if champion else "none",
                "first": _cell(figures.get("validation", {}).get("average_precision")),
            }
        )
    return _render("index.html.j2", Path(reports) / "index.html", {"title": "All runs", "runs": runs})


def _render(template, path, content):
    from jinja2 import Environment, FileSystemLoader  # 60 ms that a run without changes need not spend

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(environment.get_template(template).render(content), encoding="utf-8")
    return partial.replace(path)


def _read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _cell(figure, digits=3):
    """A figure as text, its interval, and their places on a strip from 0 to 100."""
    if not figure or figure["value"] is None:
        return {"text": "–", "range": "", "low": None, "high": None, "at": None}
    known = figure["low"] is not None
    return {
        "text": f"{figure['value']:.{digits}f}",
        "range": f"{figure['low']:.{digits}f}–{figure['high']:.{digits}f}" if known else "",
        "low": round(100 * figure["low"], 1) if known else None,
        "high": round(100 * figure["high"], 1) if known else None,
        "at": round(100 * figure["value"], 1),
    }


def _tables(metrics):
    champion = (metrics.get("champion") or {}).get("model")
    budget = metrics.get("alert_budget", 0)
    notes = {
        "validation": "Decides between models and sets thresholds.",
        "untouched": "Read once, after every decision: what production would have seen.",
    }
    result = []
    for period, note in notes.items():
        models = {m: v for m, v in metrics.get("models", {}).items() if period in v}
        order = sorted(models, key=lambda m: -(models[m][period]["average_precision"]["value"] or 0))
        rows = [_row(m, models[m], period, m == champion) for m in order]
        if not rows:
            continue
        first = models[order[0]][period]
        ceilings = [_cell(first.get(f"ceiling_{m}")) | {"range": ""} for m in COLUMNS]
        best = {"label": "Perfect ranking", "labels_seen": "", "colour": "transparent", "champion": False}
        rows.insert(0, best | {"first": _cell({"value": 1.0, "low": None}), "cells": ceilings})
        columns = [f"{text} at {budget:g}" if "budget" in m else text for m, text in COLUMNS.items()]
        what = f"{note} 95 % intervals below; a budget is the share of transactions that people review."
        result.append({"title": f"Results on {period}", "note": what, "columns": columns, "rows": rows})
    return result


def _row(model, entry, period, champion):
    return {
        "label": label(model),
        "labels_seen": LABELS.get(entry.get("train_on"), "none"),
        "colour": colour(model),
        "champion": champion,
        "first": _cell(entry[period]["average_precision"]),
        "cells": [_cell(entry[period].get(metric)) for metric in COLUMNS],
    }


def _verdict(metrics):
    champion, verdict = metrics.get("champion"), metrics.get("verdict", {})
    if champion is None:
        headline = "No champion: nothing is served from this run."
    else:
        did = "was promoted to" if verdict.get("action") == "promote" else "remains"
        headline = f"{label(champion['model'])} {did} champion, {champion['name']} version {champion['version']}."
    return {"headline": headline, "reasons": verdict.get("reasons", [])}


def _facts(metrics):
    if not metrics:
        return []
    periods = metrics["splits"]
    main = [periods[name] for name in ("reference", "validation", "untouched")]
    facts = {
        "transactions": f"{sum(p['n'] for p in main):,}",
        "known frauds": f"{sum(p['n_frauds'] or 0 for p in main):,}",
    }
    facts |= {"source": metrics["source"], "seed": str(metrics["seed"])}
    if metrics["champion"]:
        facts["threshold (anomaly score)"] = f"{metrics['champion']['threshold']:.4f}"
    return [{"name": name, "value": value} for name, value in facts.items()]


def _png(run_dir, stem):
    return run_dir / "figures" / f"{stem}.png"


def _figure(run_dir, stem, caption):
    content = _png(run_dir, stem).read_bytes()
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))  # PNG's IHDR
    data = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"data": data, "alt": caption, "caption": caption, "width": width, "height": height}


def _stage(run_dir, stage):
    page = f"notebooks/{stage['stage']}.html"
    return {
        "name": stage["stage"],
        "status": stage["status"],
        "seconds": f"{stage['seconds']:.1f}" if stage.get("seconds") is not None else "",
        "memory": f"{stage['peak_mb']:,.0f} MB" if stage.get("peak_mb") else "",
        "page": page if (run_dir / page).is_file() else None,
    }


def _previous(run_dir, dataset):
    """Name of the newest earlier run on the same dataset that has figures, or None."""
    earlier = [p.parent for p in run_dir.parent.glob("*/metrics.json") if not p.parent.is_symlink()]
    earlier = [p for p in earlier if p.name < run_dir.name and p.name[0].isdigit()]
    same = [p.name for p in earlier if _read(p / "metrics.json").get("dataset") == dataset]
    return max(same, default=None)


def _differences(before, now):
    """(what, then, now) of every average precision, and of champion, seed and source, that has changed."""
    rows = [(key, str(before.get(key)), str(now.get(key))) for key in ("source", "seed", "alert_budget")]
    names = {**before.get("models", {}), **now.get("models", {})}
    for model in names:
        for period in ("validation", "untouched"):
            texts = [
                _cell(m.get("models", {}).get(model, {}).get(period, {}).get("average_precision"), 4)["text"]
                for m in (before, now)
            ]
            rows.append((f"{label(model)}, average precision on {period}", *texts))
    versions = [(m.get("champion") or {}).get("version", "none") for m in (before, now)]
    return [row for row in [*rows, ("champion's version", *versions)] if row[1] != row[2]]


def _example(run_dir, metrics):
    model = (metrics.get("champion") or {}).get("model")
    manifest = _read(run_dir / "models" / str(model) / "manifest.json")
    row = [round(v, 2) for v in manifest.get("reference", {}).get("median", [])]
    return json.dumps({"features": [row]})
