"""The tables that have been scored so far, a week each say: pages of alerts, and one of all weeks.

A table that begins at the same instant as one before takes its place: a week that is scored again
once its labels are known is still one week. Registered models, their versions, thresholds and
datasets are kept apart, and so is a refit: what a newer model says of a week replaces nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lib.bundle.bundle import Bundle
from lib.bundle.reasons import of_range
from lib.data import cuts
from lib.data.datasets import ROOT, Dataset
from lib.evaluation.figures import rate
from lib.files import locked, read_json, write_json
from lib.reporting import alerts, weeks
from lib.reporting.names import label

RECORD = "record.json"
ALERTS = "alerts.html"
KEPT = (  # of a report, in a record
    "n",
    "n_alerts",
    "start_s",
    "end_s",
    "alert_rate",
    "alert_band",
    "expected_alert_rate",
    "promised",
    "realised",
    "estimated_precision",
    "drifted",
    "score_drifted",
    "verdict",
)


@dataclass(frozen=True)
class Place:
    """Where a table came from, and where what is found goes.

    Parameters
    ----------
    file : the table
    out : folder of its scores
    history : folder of all tables scored so far; None: nothing is kept
    """

    file: Path
    out: Path
    history: Path | None = None


def publish(
    dataset: Dataset,
    model: Bundle,
    place: Place,
    report: Mapping[str, Any],
    explained: Sequence[Mapping[str, Any]],
) -> list[Path]:
    """Write a table's page of alerts, keep its record, and write the page of all weeks.

    Parameters
    ----------
    report : as `lib.production.scoring.score_table` gives it
    explained : its alerts

    Returns
    -------
    list of Path
        The pages, the alerts of this table first.
    """
    kind = _kind_of_time(dataset, model)
    of_table = batch(dataset, model, place.file, report, explained)
    page = place.out / ALERTS
    alerts.write(page, of_table, verdict=report["verdict"], links=_links(model, page, None))
    if place.history is None:
        return [page]
    folder = _folder(model, place, kind, report)
    ours = folder / ALERTS
    overview = place.history.parent / weeks.PAGE
    with locked(place.history / ".lock"):
        links = _links(model, ours, overview)
        alerts.write(ours, of_table, verdict=report["verdict"], links=links)
        record = {key: report[key] for key in KEPT}
        record |= {
            "file": place.file.name,
            "time": kind,
            "name": _name(model),
            "dataset": model.manifest["dataset"]["name"],
            "model": model.manifest["model"],
            "version": model.version,
            "threshold": model.threshold,
            "scored_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(folder / RECORD, record)
        weeks.write(overview, records(place.history))
    return [page, overview]


def records(history: Path) -> list[dict[str, Any]]:
    """Return the records of all tables, in time order; `page` is where the alerts of each lie.

    Addresses are as the page beside the folder needs them. What is no whole record is left out.
    """
    found = []
    for path in sorted(history.glob(f"*/*/*/{RECORD}")):
        record = read_json(path)
        if not isinstance(record, dict) or not set(KEPT) <= set(record):
            continue
        page = path.with_name(ALERTS).relative_to(history.parent)
        found.append(record | {"page": quote(page.as_posix())})
    return sorted(found, key=lambda record: (record["start_s"], record["scored_at"]))


def batch(
    dataset: Dataset,
    model: Bundle,
    file: Path,
    report: Mapping[str, Any],
    explained: Sequence[Mapping[str, Any]],
) -> alerts.Batch:
    """Return the alerts of a table as a page shows them.

    Parameters
    ----------
    report : `n`, `n_alerts` and `alert_rate`; `start_s` and `end_s` where they are known
    """
    kind = _kind_of_time(dataset, model)
    period = {}
    if kind != "rows" and "start_s" in report:
        ends = {"from": report["start_s"], "to": report["end_s"]}
        said = cuts.day_and_time if kind == "seconds" else partial(cuts.instant, kind=kind)
        period = {name: said(seconds) for name, seconds in ends.items()}
    facts = {
        "transactions": f"{report['n']:,}",
        **period,
        "alerts": f"{report['n_alerts']:,} ({shown_rate(report)})",
        "model": f"{label(model.manifest['model'])}, {_name(model)} {model.version or ''}".strip(),
        "threshold": f"{model.threshold:.6g}",
    }
    if report.get("drift"):
        facts["drift is held against"] = " and ".join(report["drift"]["window"]["periods"])
    return alerts.Batch(
        title=f"Alerts of {file.name}",
        facts=facts,
        n=report["n_alerts"],
        usual=of_range(model.manifest),
        alerts=explained,
        amount=dataset.amount or "",
    )


def shown_rate(report: Mapping[str, Any]) -> str:
    """Return a report's alert rate as text, which says so where rows have weights."""
    weighted = " by weight" if not math.isclose(report["weight"], report["n"]) else ""
    return f"{rate(report['alert_rate'])} of the transactions{weighted}"


def _name(model: Bundle) -> str:
    """Return the registered name of a bundle."""
    provenance = model.manifest.get("provenance", {})
    return str(provenance.get("registered_name") or model.manifest.get("name") or "model")


def _kind_of_time(dataset: Dataset, model: Bundle) -> str:
    if dataset.time is None:
        return "rows"
    return model.manifest.get("fit", {}).get("time", "seconds")


def _folder(model: Bundle, place: Place, kind: str, report: Mapping[str, Any]) -> Path:
    """Return the folder of a table's record: by model, dataset, instant, version and bundle.

    The bundle's hash tells thresholds apart, and a refit from what was compared.
    """
    key = cuts.instant(report["start_s"], kind)
    if kind == "rows":
        # all tables begin with row 0: the file tells them apart
        path = str(place.file.resolve())
        key = f"{place.file.name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    elif not report["start_s"].is_integer():
        key = f"{key} {report['start_s']}"
    key = f"{key} version {model.version or 'none'} {model.hash[:12]}"
    names = (_name(model), model.manifest["dataset"]["name"], re.sub(r"[^\w.]+", "-", key))
    # a name may hold anything: it must not lead out of the folder
    safe = [quote(name, safe="").replace(".", "%2E") for name in names]
    assert place.history is not None
    return place.history.joinpath(*safe)


def _links(model: Bundle, page: Path, overview: Path | None) -> dict[str, str]:
    """Return what belongs to a page of alerts: the model's run, and the page of all weeks."""
    links = {}
    if overview is not None:
        links["All weeks"] = _address(page, overview)
    run = run_of(model)
    if run is not None:
        links["The run that made the model"] = _address(page, run / "index.html")
    return links


def _address(page: Path, target: Path) -> str:
    """Return a relative address from a page to a file."""
    return quote(os.path.relpath(target.resolve(), page.resolve().parent))


def run_of(model: Bundle, reports: Path = ROOT / "reports") -> Path | None:
    """Return the folder of the run that made a bundle's version; None where its page is gone."""
    made_by = model.manifest.get("provenance", {}).get("mlflow_run_id")
    if not made_by:
        return None
    for path in sorted(reports.glob("2*/run.json"), reverse=True):
        has_page = (path.parent / "index.html").is_file()
        if has_page and read_json(path, {}).get("mlflow_run") == made_by:
            return path.parent
    return None
