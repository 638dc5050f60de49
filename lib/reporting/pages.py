"""The run's static page and the list of all runs: self-contained HTML, written from the run's
files.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from lib.data import labels_seen
from lib.evaluation.figures import Figure, interval, number
from lib.files import read_json, write_text
from lib.reporting import differences, names, tables
from lib.reporting.names import HEADLINE, SHARES, label
from lib.reporting.plots import colour

NO_FIGURE = {"value": None, "low": None, "high": None}
TEMPLATES = Path(__file__).parent / "templates"
NOTES = {
    "untouched": "Read once, after every decision: what production would have seen.",
    "validation": "Decided between the models and set their thresholds.",
}
SHOWN = (  # stem of the figure, its caption, what is in it for those who can't see it
    (
        "06_comparison-precision-recall",
        "How clean are the alerts (precision) when this share of all frauds is to be found "
        "(recall)? On validation.",
        "Precision over recall on validation, one line a model; a dotted line marks a random "
        "ranking.",
    ),
    (
        "06_comparison-money",
        "Which share of the fraud money is caught when this share of transactions is reviewed? On "
        "validation.",
        "Share of fraud money caught over share of transactions reviewed, one line a model.",
    ),
)
TIMELINE = (
    "08_production-timeline",
    "The untouched period replayed against the live server, batch by batch, with labels that come "
    "late. Recall and "
    "money are of the alerts as they were fired: less than in a ranking of the whole period. "
    "Frames: simulated drift.",
    "Four panels over the batches: alert rate, drift of each feature, recall with intervals, "
    "money caught.",
)


def write(run_dir, stages=(), status="", now=None, look=None):
    """Write `index.html` into a run's folder, and the list of runs beside it -> path of the run's
    page.

    stages : list of {"stage", "status", "seconds", "peak_mb"}, as the runner's summary has them
    status : of the run that is ending; empty: what its run.json says
    now : lib.registry.serving.Now, what is served at this moment; None: nothing is said of it
    look : function (registered name) -> Now, for the other runs of the list; None: `now` for all
    """
    run_dir = Path(run_dir)
    metrics, about = _read(run_dir / "metrics.json"), _read(run_dir / "run.json")
    shown = [_figure(run_dir, *figure) for figure in SHOWN if _png(run_dir, figure[0]).is_file()]
    production = _figure(run_dir, *TIMELINE) if _png(run_dir, TIMELINE[0]).is_file() else None
    content = {
        "title": f"Fraud detection on {metrics.get('dataset') or about.get('dataset', 'a table')}",
        "run": run_dir.name,
        "when": _when(run_dir.name),
        "status": status,
        "simulated": names.SIMULATED if metrics.get("source") == "simulated" else "",
        "verdict": _verdict(metrics, now),
        "serving": {"as_of": now.as_of, "sentences": now.sentences()} if now else None,
        "facts": _facts(metrics, stages),
        "tables": _tables(metrics, now),
        "figures": shown,
        "production": production,
        "since": differences.since_previous(run_dir, metrics),
        "stages": [_stage(run_dir, stage) for stage in stages],
        "example": _example(run_dir, metrics),
        "cards": [card for name in ("model_card", "data_card") if (card := _card(run_dir, name))],
        "files": [name for name in ("metrics.json", "run.yaml") if (run_dir / name).is_file()],
    }
    _render("run.html.j2", run_dir / "index.html", content)
    write_index(run_dir.parent, {run_dir.name: status} if status else {}, now, look)
    return run_dir / "index.html"


def write_index(reports, ending=None, now=None, look=None):
    """Write `reports/index.html`, the list of all runs that have a page, newest first -> its path.

    ending : {name: status} of runs whose run.json does not say yet how they ended
    now : lib.registry.serving.Now, what is served at this moment
    look : function (registered name) -> Now, for runs of other names than that of `now`
    """
    pages = sorted(Path(reports).glob("*/index.html"), key=lambda p: p.parent.name, reverse=True)
    known = {now.name: now} if now else {}

    def served(champion):
        """What is served of a champion's name; each name is looked up once."""
        if champion is None or now is None:
            return None
        name = champion["name"]
        if name not in known and look is not None:
            known[name] = look(name)
        return known.get(name)

    runs = []
    for folder in [page.parent for page in pages if not page.parent.is_symlink()]:
        champion = _read(folder / "metrics.json").get("champion")
        runs.append(_listed(folder, (ending or {}).get(folder.name), served(champion)))
    content = {"title": "All runs", "runs": runs, "periods": list(NOTES)}
    content["serving"] = {"as_of": now.as_of, "sentences": now.sentences()} if now else None
    return _render("index.html.j2", Path(reports) / "index.html", content)


def _listed(folder, ending, now):
    """One run of the list; `ending`: how it ends, where its run.json does not say so yet."""
    metrics, about = _read(folder / "metrics.json"), _read(folder / "run.json")
    champion = metrics.get("champion")
    figures = metrics.get("models", {}).get(names.champion_entry(metrics), {})
    said = f"{label(champion['model'])}, version {champion['version']}" if champion else "none"
    return {
        "name": folder.name,
        "when": _when(folder.name) or folder.name,
        "dataset": metrics.get("dataset") or about.get("dataset", ""),
        "simulated": "simulated" in (metrics.get("source"), about.get("dataset")),
        "status": ending or about.get("outcome") or about.get("status", ""),
        "champion": said,
        "fate": _fate(champion, now),
        "figures": [_cell(figures.get(period, {}).get("average_precision")) for period in NOTES],
    }


def _fate(champion, now):
    """What a run's champion is now: the champion, withdrawn, or nothing that anybody has said."""
    if champion is None or now is None or champion["name"] != now.name:
        return ""
    version = str(champion["version"])
    if now.champion is not None and now.champion.version == version:
        return "champion now"
    return "withdrawn" if version in (now.withdrawn or {}) else ""


def _render(template, path, content):
    # 60 ms that a run without changes need not spend
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    environment.filters["breakable"] = _breakable
    return write_text(path, environment.get_template(template).render(content))


def _breakable(text):
    """`text` as HTML that may break behind commas and underscores, not behind that of a notebook's
    number.
    """
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=[,_])(?<!\d_)(?=\w)", "<wbr>", escape(text)))


def _read(path):
    return read_json(path, {})


def _when(name):
    """`20260102-030405-x` -> `2 January 2026, 03:04`; empty for other names."""
    if not (stamp := re.match(r"\d{8}-\d{6}", name)):
        return ""
    when = datetime.strptime(stamp[0], "%Y%m%d-%H%M%S")
    return f"{when.day} {when:%B %Y, %H:%M}"


def _cell(figure: Figure | None, digits: int = 3) -> dict[str, Any]:
    """Return a figure as text, its interval below it, and their places on a strip."""
    figure = figure or NO_FIGURE
    return {
        "text": number(figure["value"], digits),
        "range": interval(figure, digits),
        "low": _place(figure["low"]),
        "high": _place(figure["high"]),
        "at": _place(figure["value"]),
    }


def _place(share: float | None) -> float | None:
    """Return where a share lies on a strip of 100 units."""
    return None if share is None else round(100 * share, 1)


def _tables(metrics: Mapping[str, Any], now: Any = None) -> list[dict[str, Any]]:
    """Return the tables of results, one a period that any label judges."""
    # who has been replaced since is not shown as the champion
    is_past = names.became_of(metrics.get("champion"), now)
    champion = None if is_past else names.champion_entry(metrics)
    columns = tables.headings(metrics.get("alert_budget", 0))
    result = []
    for period in NOTES:
        rows = _rows(metrics.get("models", {}), period, champion)
        if rows:
            result.append(
                {
                    "period": period,
                    "note": _note(metrics, period),
                    "columns": list(columns.values()),
                    "rows": rows,
                }
            )
    return result


def _note(metrics: Mapping[str, Any], period: str) -> str:
    """Return what a period is for, and why its figures have no intervals."""
    note = NOTES[period]
    why = (metrics.get("intervals") or {}).get("no_interval")
    if period == "validation" and why:
        note += f" No intervals from resampled blocks: {why}."
    return note


def _rows(models: Mapping[str, Any], period: str, champion: str | None) -> list[dict[str, Any]]:
    """Return the rows of a table, a perfect ranking first, then the best; none without labels."""
    judged = {m: entry for m, entry in models.items() if _is_judged(entry, period)}
    if not judged:
        return []
    order = sorted(judged, key=lambda m: tables.precision(judged[m][period]), reverse=True)
    # the ceilings are the same for all models of a period
    first = judged[order[0]][period]
    perfect = {
        "label": "Perfect ranking",
        "seen": "",
        "colour": "transparent",
        "champion": False,
        "cells": [_cell(tables.ceiling(first, metric)) for metric in HEADLINE],
    }
    return [perfect, *(_row(m, judged[m], period, m == champion) for m in order)]


def _is_judged(entry: Mapping[str, Any], period: str) -> bool:
    """Return whether a model has any figure on a period; without labels it has none."""
    return any(figure["value"] is not None for figure in entry.get(period, {}).values())


def _row(model: str, entry: Mapping[str, Any], period: str, champion: bool) -> dict[str, Any]:
    return {
        "label": label(model),
        "seen": labels_seen.in_short(entry.get("train_on")),
        "colour": colour(model),
        "champion": champion,
        "cells": [_cell(entry[period].get(metric)) for metric in HEADLINE],
    }


def _verdict(metrics: Mapping[str, Any], now: Any = None) -> dict[str, Any]:
    """Return what the run decided, why, and the champion's main figures."""
    models = metrics.get("models", {})
    reasons = metrics.get("verdict", {}).get("reasons", [])
    said = [*reasons, *metrics.get("remarks", [])]
    entry = models.get(names.champion_entry(metrics), {})
    judged = [period for period in NOTES if _is_judged(entry, period)]
    figures = []
    if judged:
        for metric in ("average_precision", *SHARES):
            figure = _cell(entry[judged[0]].get(metric), digits=2)
            figures.append({"name": HEADLINE[metric], **figure})
    budget = metrics.get("alert_budget", 0)
    return {
        "headline": names.headline(metrics, now),
        "reasons": [names.plain(sentence, models) for sentence in said],
        "period": judged[0] if judged else "",
        "figures": figures,
        "budget": f"one transaction in {1 / budget:,.0f}" if budget else "",
    }


def _known(periods):
    """What is known of the labels: frauds, and how many transactions have none."""
    if all(period["n_frauds"] is None for period in periods):
        return {"known frauds": "none, no transaction has a label"}
    unknown = sum(period["n"] - period.get("n_labelled", period["n"]) for period in periods)
    frauds = {"known frauds": f"{sum(period['n_frauds'] or 0 for period in periods):,}"}
    return frauds | ({"unlabelled transactions": f"{unknown:,}"} if unknown else {})


def _facts(metrics, stages):
    if not metrics:
        return {}
    main = [metrics["splits"][name] for name in ("reference", "validation", "untouched")]
    facts = {
        "data": metrics["dataset"],
        "source": names.SOURCES.get(metrics.get("source"), "unknown"),
        "transactions": f"{sum(p['n'] for p in main):,}",
        **_known(main),
        "seed": str(metrics["seed"]),
    }
    if "alert_budget" in metrics:
        facts["alert budget"] = f"{metrics['alert_budget']:g}"
    if metrics["champion"] and metrics["champion"].get("threshold") is not None:
        own = metrics["champion"].get("alert_budget")
        odd = f", for a budget of {own:g}" if own not in (None, metrics.get("alert_budget")) else ""
        facts["threshold"] = f"{metrics['champion']['threshold']:.4f}{odd}"
    if seconds := sum(stage.get("seconds") or 0 for stage in stages):
        facts["time of all notebooks"] = (
            f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s"
        )
    return facts


def _png(run_dir, stem):
    return run_dir / "figures" / f"{stem}.png"


def _figure(run_dir, stem, caption, alt):
    content = _png(run_dir, stem).read_bytes()
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))  # PNG's IHDR
    drawing = _png(run_dir, stem).with_suffix(".svg")  # sharp on any screen, and smaller
    kind, content = ("svg+xml", drawing.read_bytes()) if drawing.is_file() else ("png", content)
    return {
        "stem": stem,
        "data": f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        "alt": alt,
        "caption": caption,
        "width": width,
        "height": height,
        "large": f"figures/{stem}.{kind[:3]}",
    }


def _stage(run_dir, stage):
    page = f"notebooks/{stage['stage']}.html"
    return {
        "name": stage["stage"],
        "status": stage["status"],
        "why": stage.get("why", "") if stage["status"] == "failed" else "",
        "seconds": f"{stage['seconds']:.1f} s" if stage.get("seconds") is not None else "",
        "memory": f"{stage['peak_mb']:,.0f} MB" if stage.get("peak_mb") else "",
        "page": page if (run_dir / page).is_file() else None,
    }


def _card(run_dir, name):
    """A card as HTML, its headings below those of the page; None where there is no such card."""
    import mistune

    path = run_dir / f"{name}.md"
    if not path.is_file():
        return None
    text = re.sub("^#", "###", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    html = mistune.create_markdown(plugins=["table"])(text)
    title = name.replace("_", " ").capitalize()
    region = f'<div class="wide" tabindex="0" role="region" aria-label="{title}, table"><table>'
    html = html.replace("<table>", region).replace("</table>", "</table></div>")
    return {"file": path.name, "title": title, "html": html}


def _example(run_dir, metrics):
    model = (metrics.get("champion") or {}).get("model")
    manifest = _read(run_dir / "models" / str(model) / "manifest.json")
    row = [round(v, 2) for v in manifest.get("reference", {}).get("median", [])]
    return json.dumps({"features": [row]}) if row else ""
