"""Show alerts to people who review them: a page, and the section of it on a run's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.data.columns import one_line
from lib.files import read_json, write_text
from lib.reporting import reason_words
from lib.reporting.rendering import filled

Alert = Mapping[str, Any]  # see `lib.production.alerts.explained`
SCRIPT = "alerts.js"
ON_PAGE = 200  # alerts of a page of their own
ON_RUN = 10  # alerts of a run's page
LISTED = "alerts.csv"  # beside the page of a table that was scored: `Batch.alerts`
OF_RUN = "alerts.json"  # in a run's `production/`; the page lies beside it
AXIS = 100.0  # units of a bar
MARGIN = 0.06  # of a bar, that is left at both ends


@dataclass(frozen=True)
class Batch:
    """Alerts of one table, and what they are alerts of.

    Parameters
    ----------
    title : of the page
    facts : {what: text}, above the alerts
    n : alerts of the table, of which `alerts` are the first
    usual : what the usual range is, see `lib.bundle.reasons.of_range`
    alerts : the highest score first
    amount : the column of amounts; empty without any
    """

    title: str
    facts: Mapping[str, str]
    n: int
    usual: str
    alerts: Sequence[Alert]
    amount: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what json.dumps takes."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def write(path: Path | str, batch: Batch, **more: Any) -> Path:
    """Return the path of a page of alerts; `more` is as for `page`."""
    # a replayed batch has no such file
    listed = LISTED if Path(path).with_name(LISTED).is_file() else ""
    return write_text(path, page(batch, listed=listed, **more))


def page(
    batch: Batch,
    *,
    verdict: Mapping[str, Any] | None = None,
    links: Mapping[str, str] | None = None,
    listed: str = "",
) -> str:
    """Return a page of alerts.

    Parameters
    ----------
    verdict : {"word", "reasons", "next_step"} of the table, see `lib.production.verdict`
    links : {text: address} of pages and files that belong to it
    listed : address of the file that has `batch.alerts`, more than the page; empty without any
    """
    content = {
        "title": batch.title,
        "verdict": verdict,
        "links": links or {},
        "listed": listed,
        "n_listed": len(batch.alerts),
        "scripts": [SCRIPT] if batch.alerts else [],
        **section(batch, ON_PAGE),
    }
    return filled("alerts.html.j2", content)


def verdict_of_run(run_dir: Path) -> dict[str, Any] | None:
    """Return the weekly verdict in which a run's production has ended; None without any."""
    found = read_json(run_dir / "stages" / "11_production" / "metrics.json", {})
    return found.get("weekly", {}).get("verdict")


def of_run(run_dir: Path) -> dict[str, Any] | None:
    """Return the section of a run's page: the first alerts of its last batch; None without any."""
    found = read_json(run_dir / "production" / OF_RUN)
    if not found or not found["alerts"]:
        return None
    return section(Batch(**found), ON_RUN) | {"page": "production/alerts.html"}


def section(batch: Batch, most: int) -> dict[str, Any]:
    """Return what the template of a list of alerts asks for, of the first `most` alerts."""
    rows = [_row(alert) for alert in batch.alerts[:most]]
    named: dict[str, str] = {}
    for row in rows:
        named |= {reason["feature"]: reason["title"] for reason in row["reasons"]}
    features = sorted(named, key=lambda feature: named[feature].casefold())
    numbers = {feature: i for i, feature in enumerate(features)}
    for row in rows:
        row["features"] = " ".join(str(numbers[reason["feature"]]) for reason in row["reasons"])
    return {
        "facts": batch.facts,
        "n": batch.n,
        "n_shown": len(rows),
        "usual": batch.usual,
        "amount": one_line(batch.amount) if batch.amount else "",
        "has_labels": any(row["label"] for row in rows),
        "has_time": any(row["time"] for row in rows),
        "rows": rows,
        "features": [(numbers[feature], named[feature]) for feature in features],
    }


def _row(alert: Alert) -> dict[str, Any]:
    reasons = alert["reasons"]
    unusual = any(entry["direction"] in ("high", "low") for entry in reasons)
    ids = {one_line(column): one_line(value) for column, value in alert["ids"].items()}
    return {
        "rank": alert["rank"],
        "time": _time(alert["time"]),
        "position": alert["position"],
        "ids": ids,
        "number": alert["amount"],
        "amount": "" if alert["amount"] is None else f"{alert['amount']:,.2f}",
        "score": f"{alert['score']:.5f}",
        "label": alert["label"],
        "combination": not unusual,
        "reasons": [_reason(entry) for entry in reasons],
    }


def _time(text: str | None) -> str:
    """Return a time as people read it: a date as it is, a number in seconds."""
    try:
        return f"{float(text or ''):,.10g} s"
    except ValueError:
        return text or ""


def _reason(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reason as text and as the places of a bar: the usual range, and the value."""
    return {
        "feature": entry["feature"],
        "title": one_line(entry["title"]),
        "value": reason_words.value_of(entry),
        "usual": reason_words.usual(entry),
        "share": reason_words.share(entry["share"]),
        "bar": _bar(entry["value"], entry["low"], entry["high"]),
    }


def _bar(value: float | None, low: float, high: float) -> dict[str, float] | None:
    """Return where range and value lie on a bar of `AXIS` units; None without a value."""
    if value is None:
        return None
    begin, end = min(low, value), max(high, value)
    length = (end - begin) or 1.0
    inner = AXIS * (1 - 2 * MARGIN)

    def place(number: float) -> float:
        return round(AXIS * MARGIN + inner * (number - begin) / length, 1)

    return {"low": place(low), "high": max(place(high), place(low) + 1.0), "at": place(value)}
