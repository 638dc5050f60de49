"""The run's static page and the list of all runs: self-contained HTML, written from the run's
files.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.bundle.raw import RawTable
from lib.data import labels_seen
from lib.data.budgets import Budget, count, percent
from lib.evaluation import comparison
from lib.evaluation.figures import Figure, interval, number
from lib.files import read_json
from lib.reporting import (
    alerts,
    differences,
    drift_details,
    names,
    run_descriptions,
    tables,
    threshold_figures,
    weeks,
)
from lib.reporting.names import HEADLINE, NOT_EXPORTED, Now, label
from lib.reporting.plots import colour
from lib.reporting.rendering import render

NO_FIGURE = {"value": None, "low": None, "high": None}
SLIDER = "slider.js"
PERIODS = ("reference", "validation", "untouched")
CARDS = ("model_card", "data_card")
FILES = ("metrics.json", "run.yaml")
NOTES = {
    "untouched": "Read once, after every decision: what production would have seen.",
    "validation": "Decided between the models and set their thresholds.",
}
DRIFTS = (
    "Habits and frauds change on purpose in the untouched period, so that there is drift to "
    "notice; figures on it are lower than on validation because of that."
)
MATTERS = (  # stem of the figure, its caption, what is in it for those who can't see it
    "09_comparison-champion",
    "How clean are the champion's alerts (precision) when this share of all frauds is to be found "
    "(recall)? Beside it the rules that anybody could write into a query, and trees that were "
    "fitted with known frauds: the yardstick for what labels would reach.",
    "Precision over recall of the champion, of naive rules and of trees that know labels.",
)
SHOWN = (
    (
        "09_comparison-precision-recall",
        "How clean are the alerts (precision) when this share of all frauds is to be found "
        "(recall)? On validation.",
        "Precision over recall on validation, one line a model; a dotted line marks a random "
        "ranking.",
    ),
    (
        "09_comparison-money",
        "Which share of the fraud money is caught when this share of transactions is reviewed? On "
        "validation.",
        "Share of fraud money caught over share of transactions reviewed, one line a model.",
    ),
)
TIMELINE = (
    "11_production-timeline",
    "The untouched period replayed against the live server, batch by batch, with labels that come "
    "late. Recall is of all alerts that were fired, money of those that people can review: as they "
    "arrive, up to the budget.",
    "Four panels over the batches: alert rate, drift of each feature, recall with intervals, "
    "money caught.",
)


def write(
    run_dir: Path | str,
    stages: Sequence[Mapping[str, Any]] = (),
    status: str = "",
    now: Now | None = None,
    look: Callable[[str], Now] | None = None,
) -> Path:
    """Return the path of the run's page, `index.html`, written with the list of runs beside it.

    Parameters
    ----------
    run_dir : the run's folder
    stages : {"stage", "status", "seconds", "peak_mb"} each, as the runner's summary has them
    status : of the run that is ending; empty: what its run.json says
    now : what is served at this moment; None: nothing is said of it
    look : finds what is served of a registered name, for the other runs; None: `now` for all
    """
    run_dir = Path(run_dir)
    content = _content(run_dir, stages, status, now)
    path = run_dir / "index.html"
    render("run.html.j2", path, content)
    ending = {run_dir.name: status} if status else {}
    # after the page: the list holds the runs that have one
    write_index(run_dir.parent, ending, now, look)
    return path


def _content(
    run_dir: Path,
    stages: Sequence[Mapping[str, Any]],
    status: str,
    now: Now | None,
) -> dict[str, Any]:
    """Return what the template of a run's page asks for."""
    metrics = _read(run_dir / "metrics.json")
    about = _read(run_dir / "run.json")
    dataset = metrics.get("dataset") or about.get("dataset", "a table")
    is_simulated = metrics.get("source") == "simulated"
    figures = [_figure(run_dir, *figure) for figure in SHOWN]
    results = {table["period"]: table for table in _tables(metrics, now)}
    by_budget = _by_budget(metrics)
    return {
        "title": f"Fraud detection on {dataset}",
        "run": run_dir.name,
        "when": _when(run_dir.name),
        "status": status,
        "simulated": _of_simulation(metrics) if is_simulated else "",
        "injected": _injected(run_dir) if is_simulated else [],
        "verdict": _verdict(metrics, now),
        "not_compared": run_descriptions.not_compared(run_dir, stages),
        "serving": _serving(now, run_dir.parent),
        "facts": _facts(metrics, stages),
        "matters": _figure(run_dir, *MATTERS),
        "by_budget": by_budget,
        "untouched": results.get("untouched"),
        "validation": results.get("validation"),
        "reviews": _reviews(metrics, now),
        "figures": _present(figures),
        "production": _figure(run_dir, *TIMELINE),
        "drift": _drift(run_dir),
        "alerts": alerts.of_run(run_dir),
        "weekly": alerts.verdict_of_run(run_dir),
        "since": differences.since_previous(run_dir, metrics),
        "stages": [_stage(run_dir, stage) for stage in stages],
        # a request for a model that is not being served would be refused
        "example": "" if status == NOT_EXPORTED else _example(run_dir, metrics),
        "cards": _present([_card(run_dir, name) for name in CARDS]),
        "files": [name for name in FILES if (run_dir / name).is_file()],
        "scripts": [SLIDER] if by_budget else [],
    }


def _drift(run_dir: Path) -> str:
    """Return HTML of what the simulated production called drift; empty where it called none."""
    policies = _read(run_dir / "stages" / TIMELINE[0].partition("-")[0] / "metrics.json")
    for result in policies.get("policies", {}).values():
        return drift_details.html(result["steps"])
    return ""


def _present(found: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return [each for each in found if each is not None]


def _injected(run_dir: Path) -> list[str]:
    """Return which drifts a simulation has injected, in words; [] where nobody has written it."""
    path = run_dir / "stages" / "11_production" / "metrics.json"
    return _read(path).get("injected", [])


def _serving(now: Now | None, reports: Path) -> dict[str, Any] | None:
    """Return what is served now, for people; `run` leads to the run that exported it."""
    if not now:
        return None
    facts = names.served_facts(now)
    run = facts.pop("by run", "")
    return {
        "as_of": names.when(now.as_of),
        "title": names.served_title(now),
        "facts": facts,
        "run": run,
        # a run's folder may be gone since
        "page": run if run and (reports / run / "index.html").is_file() else "",
        "remarks": names.served_remarks(now),
    }


def _by_budget(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of budgets, {} where the champion could not be scored.

    Each row has its cells for each period and, for the slider, what it says in a sentence.
    """
    rows = metrics.get("by_budget") or []
    if not rows:
        return {}
    periods = [period for period in NOTES if period in rows[0]]
    shown = []
    for row in rows:
        budget = tables.budget_of(row)
        cells = {}
        for period in periods:
            fired = threshold_figures.of_alerts(row[period], budget)
            cells[period] = [_named_cell(figure) for figure in fired]
        shown.append(
            {
                "short": budget.short,
                "share": percent(budget.share),
                "threshold": f"{row['threshold']:.6f}",
                "decides": row["decides"],
                "cells": cells,
            }
        )
    first = tables.budget_of(rows[0])
    return {
        "periods": periods,
        "rows": shown,
        "decides": next((i for i, row in enumerate(rows) if row["decides"]), 0),
        "per_day": count(first.transactions_per_day) if first.transactions_per_day else "",
    }


def _named_cell(shown: threshold_figures.Shown) -> dict[str, str]:
    """Return a figure as text, under its name, with its interval."""
    return {
        "name": shown.name,
        "text": number(shown.figure["value"], shown.digits, shown.kind),
        "range": interval(shown.figure, shown.digits, shown.kind),
    }


def write_index(
    reports: Path | str,
    ending: Mapping[str, str] | None = None,
    now: Now | None = None,
    look: Callable[[str], Now] | None = None,
) -> Path:
    """Return the path of `reports/index.html`, the list of all runs with a page, newest first.

    Parameters
    ----------
    reports : the folder of all runs
    ending : {name: status} of runs whose run.json does not say yet how they ended
    now : what is served at this moment
    look : finds what is served of a registered name, for runs of other names than that of `now`
    """
    reports = Path(reports)
    endings = ending or {}
    folders = [page.parent for page in reports.glob("*/index.html")]
    # names begin with the time of the run
    folders.sort(key=lambda folder: folder.name, reverse=True)
    known = {now.name: now} if now else {}

    def served(champion: Mapping[str, Any] | None) -> Now | None:
        """Return what is served of a champion's name; each name is looked up once."""
        if champion is None or now is None:
            return None
        name = champion["name"]
        if name not in known and look is not None:
            known[name] = look(name)
        return known.get(name)

    runs = []
    for folder in folders:
        # `latest` is one of the others
        if folder.is_symlink():
            continue
        metrics = _read(folder / "metrics.json")
        there = served(metrics.get("champion"))
        runs.append(_listed(folder, endings.get(folder.name), there))
    content = {
        "title": "All runs",
        "runs": runs,
        "periods": list(NOTES),
        "serving": _serving(now, reports),
        "weeks": weeks.PAGE if (reports / weeks.PAGE).is_file() else "",
    }
    return render("index.html.j2", reports / "index.html", content)


def _listed(folder: Path, ending: str | None, now: Now | None) -> dict[str, Any]:
    """Return one run of the list; `ending`: how it ends, where its run.json does not say so yet."""
    metrics = _read(folder / "metrics.json")
    about = _read(folder / "run.json")
    models = metrics.get("models", {})
    figures = models.get(names.champion_entry(metrics), {})
    champion = metrics.get("champion")
    said = "none"
    if champion:
        said = f"{label(champion['model'])}, version {champion['version']}"
    cells = []
    for period in NOTES:
        figure = figures.get(period, {}).get("average_precision")
        cells.append(_cell(figure))
    return {
        "name": folder.name,
        "when": _when(folder.name) or folder.name,
        "dataset": metrics.get("dataset") or about.get("dataset", ""),
        "simulated": "simulated" in (metrics.get("source"), about.get("dataset")),
        "status": ending or about.get("outcome") or about.get("status", ""),
        "champion": said,
        "fate": _fate(champion, now),
        "figures": cells,
    }


def _fate(champion: Mapping[str, Any] | None, now: Now | None) -> str:
    """Return what a run's champion is now: champion, withdrawn, or nothing that anybody said."""
    if champion is None or now is None or champion["name"] != now.name:
        return ""
    version = str(champion["version"])
    if now.champion is not None and now.champion.version == version:
        return "champion now"
    withdrawn = now.withdrawn or {}
    return "withdrawn" if version in withdrawn else ""


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file's content, {} without one; models of the user's own get their names."""
    content = read_json(path, {})
    names.introduce(content.get("models", {}))
    return content


def _when(name: str) -> str:
    """Return the time in a run's name, `2 January 2026, 03:04`; empty for other names."""
    stamp = re.match(r"\d{8}-\d{6}", name)
    if stamp is None:
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


def _tables(metrics: Mapping[str, Any], now: Now | None = None) -> list[dict[str, Any]]:
    """Return the tables of results, one a period that any label judges."""
    # who has been replaced since is not shown as the champion
    is_past = names.became_of(metrics.get("champion"), now)
    champion = None if is_past else names.champion_entry(metrics)
    columns = names.headings(names.budget_of(metrics))
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


def _of_simulation(metrics: Mapping[str, Any]) -> str:
    """Return what to bear in mind of a run on simulated transactions."""
    if not metrics.get("drifts_on_purpose"):
        return names.SIMULATED
    return f"{names.SIMULATED} {DRIFTS}"


def _reviews(metrics: Mapping[str, Any], now: Now | None = None) -> dict[str, Any]:
    """Return the precision of those who review entities: a row a model, a column an entity.

    Empty where nobody reviews any. A perfect ranking comes first, then the best in the first
    column.
    """
    found = {entity: of for entity, of in (metrics.get("reviews") or {}).items() if of}
    if not found:
        return {}
    is_past = names.became_of(metrics.get("champion"), now)
    champion = None if is_past else names.champion_entry(metrics)
    models = metrics.get("models", {})
    leading = next(iter(found.values()))
    ceilings = [next(iter(of.values())).get("ceiling") for of in found.values()]
    perfect = {
        "label": "Perfect ranking",
        "seen": "",
        "colour": "transparent",
        "champion": False,
        "cells": [_cell({**NO_FIGURE, "value": value}) for value in ceilings],
    }
    rows = [perfect]
    for model in sorted(leading, key=lambda name: -(leading[name]["value"] or 0)):
        entry = models.get(model, {})
        figures = [of.get(model) for of in found.values()]
        rows.append(_named(model, entry, model == champion) | {"cells": [*map(_cell, figures)]})
    per_day = next(iter(leading.values())).get("per_day")
    return {
        "note": _reviewed(per_day, [names.one_line(entity) for entity in found]),
        "columns": [f"{names.one_line(entity)}: precision of reviews" for entity in found],
        "rows": rows,
    }


def _reviewed(per_day: int | None, entities: Sequence[str]) -> str:
    """Return what the precision of reviews is."""
    whom = " or ".join(f"“{entity}”" for entity in entities)
    n = f"{per_day:,} values" if per_day else "values"
    return (
        f"Precision of reviews: every day people look at the {n} of {whom} with the highest score, "
        "and this is the share of them that have a fraud that day, a mean over the days of "
        "validation; where fewer have a fraud than are reviewed, a perfect ranking stays below 1."
    )


def _note(metrics: Mapping[str, Any], period: str) -> str:
    """Return what a period is for, and why its figures have no intervals."""
    note = NOTES[period]
    why = (metrics.get("intervals") or {}).get("no_interval")
    if period == "validation" and why:
        note += f" No intervals from resampled blocks: {why}."
    return note


def _rows(models: Mapping[str, Any], period: str, champion: str | None) -> list[dict[str, Any]]:
    """Return the rows of a table, a perfect ranking first, then the best; none without labels."""
    judged = {m: entry for m, entry in models.items() if names.is_judged(entry, period)}
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


def _row(model: str, entry: Mapping[str, Any], period: str, champion: bool) -> dict[str, Any]:
    cells = [_cell(entry[period].get(metric)) for metric in HEADLINE]
    return _named(model, entry, champion) | {"cells": cells}


def _named(model: str, entry: Mapping[str, Any], champion: bool) -> dict[str, Any]:
    """Return how a model is called in the first column of a table."""
    seen = labels_seen.in_short(entry.get("train_on"), entry.get("labels_in_features"))
    return {
        "label": label(model),
        # it was fitted by another run, which this one's files do not know
        "seen": "as its model card says" if model == comparison.PRESENT else seen,
        "colour": colour(model),
        "champion": champion,
    }


def _verdict(metrics: Mapping[str, Any], now: Now | None = None) -> dict[str, Any]:
    """Return what the run decided, why, and the champion's main figures."""
    models = metrics.get("models", {})
    reasons = metrics.get("verdict", {}).get("reasons", [])
    entry = models.get(names.champion_entry(metrics), {})
    budget = names.budget_of(metrics)
    of, figures = threshold_figures.of_run(metrics)
    is_later = names.period_shown(entry) == "untouched"
    return {
        "headline": names.headline(metrics, now),
        "reasons": [names.plain(sentence, models) for sentence in reasons],
        "remarks": [names.plain(sentence, models) for sentence in metrics.get("remarks", [])],
        "of": of,
        "drifts": is_later and metrics.get("drifts_on_purpose"),
        "figures": [_named_cell(figure) for figure in figures],
        "budget": str(budget) if budget else "",
    }


def _known(periods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what is known of the labels: frauds, and how many transactions have none."""
    if all(period["n_frauds"] is None for period in periods):
        return {"known frauds": "none, no transaction has a label"}
    n_frauds = 0
    n_unknown = 0
    for period in periods:
        n_frauds += period["n_frauds"] or 0
        # where labels were not counted, every row has one
        n_unknown += period["n"] - period.get("n_labelled", period["n"])
    known = {"known frauds": f"{n_frauds:,}"}
    if n_unknown:
        known["unlabelled transactions"] = f"{n_unknown:,}"
    return known


def _facts(
    metrics: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    if not metrics:
        return {}
    splits = metrics["splits"]
    main = [splits[name] for name in PERIODS]
    n_transactions = sum(period["n"] for period in main)
    source = metrics.get("source")
    transactions = f"{n_transactions:,}"
    if metrics.get("thinned_from"):
        transactions = f"{n_transactions:,} of {metrics['thinned_from']:,}"
    facts = {
        "data": metrics["dataset"],
        "source": names.SOURCES.get(source, "unknown"),
        "transactions": transactions,
        **_known(main),
        "seed": str(metrics["seed"]),
    }
    budget = names.budget_of(metrics)
    if budget is not None:
        facts["people review"] = str(budget)
    champion = metrics["champion"] or {}
    if champion.get("threshold") is not None:
        facts["threshold"] = _threshold(champion, budget)
    seconds = sum(stage.get("seconds") or 0 for stage in stages)
    if seconds:
        facts["time of all notebooks"] = _duration(seconds)
    return facts


def _threshold(champion: Mapping[str, Any], budget: Budget | None) -> str:
    text = f"{champion['threshold']:.6f}"
    own = champion.get("alert_budget")
    # a champion of other data keeps the threshold of the run that made it
    if budget is not None and own not in (None, budget.share):
        text += f", for a budget of {Budget(own, budget.transactions_per_day)}"
    return text


def _duration(seconds: float) -> str:
    if seconds > 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s"


def _figure(run_dir: Path, stem: str, caption: str, alt: str) -> dict[str, Any] | None:
    """Return a figure of the run, embedded; None where the run has not drawn it."""
    path = run_dir / "figures" / f"{stem}.png"
    if not path.is_file():
        return None
    content = path.read_bytes()
    # PNG's IHDR: the page keeps the place before the figure is drawn
    width = int.from_bytes(content[16:20], "big")
    height = int.from_bytes(content[20:24], "big")
    kind = "png"
    drawing = path.with_suffix(".svg")
    # sharp on any screen, and smaller
    if drawing.is_file():
        kind = "svg+xml"
        content = drawing.read_bytes()
    encoded = base64.b64encode(content).decode()
    return {
        "stem": stem,
        "data": f"data:image/{kind};base64,{encoded}",
        "alt": alt,
        "caption": caption,
        "width": width,
        "height": height,
        "large": f"figures/{stem}.{kind[:3]}",
    }


def _stage(run_dir: Path, stage: Mapping[str, Any]) -> dict[str, Any]:
    name = stage["stage"]
    page = f"notebooks/{name}.html"
    has_page = (run_dir / page).is_file()
    is_failed = stage["status"] == "failed"
    seconds = stage.get("seconds")
    peak_mb = stage.get("peak_mb")
    return {
        "name": name,
        "status": stage["status"],
        "why": stage.get("why", "") if is_failed else "",
        "seconds": "" if seconds is None else f"{seconds:.1f} s",
        "memory": f"{peak_mb:,.0f} MB" if peak_mb else "",
        "page": page if has_page else None,
    }


def _card(run_dir: Path, name: str) -> dict[str, Any] | None:
    """Return a card as HTML, its headings below those of the page; None where there is no card."""
    import mistune

    path = run_dir / f"{name}.md"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    lowered = re.sub("^#", "###", text, flags=re.MULTILINE)
    to_html = mistune.create_markdown(plugins=["table"])
    html = str(to_html(lowered))
    title = name.replace("_", " ").capitalize()
    region = f'<div class="wide" tabindex="0" role="region" aria-label="{title}, table"><table>'
    # wide tables scroll by themselves, with the keyboard, too
    html = html.replace("<table>", region)
    html = html.replace("</table>", "</table></div>")
    return {
        "file": path.name,
        "title": title,
        "html": html,
    }


def _example(run_dir: Path, metrics: Mapping[str, Any]) -> str:
    """Return the body of a request that the champion can score; empty without one."""
    champion = metrics.get("champion") or {}
    model = str(champion.get("model"))
    manifest = _read(run_dir / "models" / model / "manifest.json")
    reference = manifest.get("reference", {})
    if manifest.get("recipe"):
        medians = dict(zip(manifest["features"], reference.get("median", []), strict=False))
        row = RawTable(manifest).example(medians, datetime.now(UTC))
        return json.dumps({"transactions": [row]})
    # an ordinary transaction, and nobody's
    row = [round(value, 2) for value in reference.get("median", [])]
    if not row:
        return ""
    return json.dumps({"features": [row]})
