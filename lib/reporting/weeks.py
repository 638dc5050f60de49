"""The page of all tables that have been scored: a timeline of weeks for each registered model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.data import cuts
from lib.data.columns import one_line
from lib.evaluation.figures import Figure, interval, number, rate
from lib.reporting.names import label
from lib.reporting.rendering import render

Record = Mapping[str, Any]  # see `lib.production.scored_weeks.records`
PAGE = "production.html"
STEPS = (76, 360)  # units of the drawing that a week takes, at least and at most
WIDTH = 1_170  # of the drawing, unless weeks are too many or too few for it
RIGHT = 44  # right of the last week
LEFT = 58  # units left of the first week
HEIGHT = 110  # of a panel
MIDDLE = 4.0  # of a text, above its foot
CLEAR = 11.0  # between a line and the middle of a text
GAP = 44  # between panels
HEADROOM = 1.2  # above the largest value


def write(path: Path, records: Sequence[Record]) -> Path:
    """Return the path of the page of all weeks.

    Parameters
    ----------
    records : in time order, with `page`, the address of each table's alerts
    """
    by_model: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        by_model.setdefault((record["name"], record["dataset"]), []).append(record)
    # what was scored last comes first
    newest = sorted(by_model.values(), key=lambda own: max(r["scored_at"] for r in own))
    content = {
        "title": "In production",
        "models": [_of_model(own) for own in reversed(newest)],
    }
    return render("weeks.html.j2", path, content)


def _of_model(records: Sequence[Record]) -> dict[str, Any]:
    """Return the timeline and the table of one model on one dataset."""
    last = records[-1]
    return {
        "name": last["name"],
        "dataset": last["dataset"],
        "verdict": last["verdict"],
        "when": _when(last),
        "drawing": _drawing(records),
        "rows": [_row(record, i) for i, record in reversed([*enumerate(records)])],
    }


def _row(record: Record, i: int) -> dict[str, Any]:
    low, high = record["alert_band"]
    realised = record["realised"] or {}
    drifted = record["drifted"]
    drift = "not looked for" if drifted is None else f"{len(drifted)} features"
    if drifted is not None and len(drifted) == 1:
        drift = "1 feature"
    if record["score_drifted"]:
        drift += " and the score"
    return {
        "number": "" if record["time"] == "datetime" else _tick(record, i),
        "when": _when(record),
        "file": one_line(record["file"]),
        "page": record["page"],
        "n": f"{record['n']:,}",
        "model": f"{label(record['model'])}, version {record['version'] or '–'}, "
        f"threshold {record['threshold']:.6g}",
        "word": record["verdict"]["word"],
        "reason": record["verdict"]["reasons"][0],
        "n_alerts": f"{record['n_alerts']:,}",
        "rate": rate(record["alert_rate"]),
        "band": f"{rate(low)} … {rate(high)}",
        "is_outside": not low <= record["alert_rate"] <= high,
        "precision": _cell(_figure(record, "precision")[0]),
        "estimated": _figure(record, "precision")[1],
        "recall": _cell(realised.get("recall")),
        "drift": drift,
    }


def _figure(record: Record, name: str) -> tuple[Figure | None, bool]:
    """Return precision or recall of a week, and whether it is only estimated."""
    realised = (record["realised"] or {}).get(name)
    if realised is not None and realised["value"] is not None:
        return realised, False
    if name != "precision":
        return None, False
    return record["estimated_precision"], True


def _cell(figure: Figure | None) -> dict[str, str]:
    if figure is None or figure["value"] is None:
        return {"text": "–", "range": ""}
    return {"text": number(figure["value"], 2), "range": interval(figure, 2)}


def _when(record: Record) -> str:
    """Return from when to when the transactions of a table are; its file where there is no time."""
    kind = record["time"]
    if kind == "rows":
        return one_line(record["file"])
    if kind == "datetime":
        start, end = (datetime.fromtimestamp(record[key], UTC) for key in ("start_s", "end_s"))
        first = f"{start.day} {start:%b %Y}"
        last = f"{end.day} {end:%b %Y}"
        return first if first == last else f"{first} – {last}"
    return " – ".join(cuts.day_and_time(record[key]) for key in ("start_s", "end_s"))


def _tick(record: Record, i: int) -> str:
    """Return what stands below a week in the drawing."""
    if record["time"] == "datetime":
        start = datetime.fromtimestamp(record["start_s"], UTC)
        return f"{start.day} {start:%b}"
    return str(i + 1)


class _Panel:
    """Places of one panel of the drawing: values from 0 at its foot to `top` at its head."""

    def __init__(self, number: int, title: str, values: Sequence[float], unit: str) -> None:
        self.title = title
        self.head = 24 + number * (HEIGHT + GAP)
        self.foot = self.head + HEIGHT
        self.top = HEADROOM * max(values, default=0.0) or 1.0
        self.unit = unit

    def y(self, value: float) -> float:
        """Return the height of a value."""
        return round(self.foot - HEIGHT * min(value / self.top, 1.0), 1)

    def ticks(self) -> list[dict[str, Any]]:
        """Return the marks of its axis: foot, and the largest value."""
        largest = self.top / HEADROOM
        said = {"%": rate(largest), "n": f"{largest:.0f}"}.get(self.unit, f"{largest:.2f}")
        return [{"y": self.y(0.0), "text": "0"}, {"y": self.y(largest), "text": said}]

    def to_dict(self, marks: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what the template draws."""
        return {
            "title": self.title,
            "head": self.head,
            "foot": self.foot,
            "ticks": self.ticks(),
            "marks": marks,
        }


def _drawing(records: Sequence[Record]) -> dict[str, Any]:
    """Return the places of the timeline; recall has a panel where it is known."""
    narrowest, widest = STEPS
    step = min(max((WIDTH - LEFT - RIGHT) / len(records), narrowest), widest)
    x = [round(LEFT + step * (i + 0.5), 1) for i in range(len(records))]
    panels = [_alert_rate(records), _figures(records, "precision", 1)]
    if any(_figure(record, "recall")[0] is not None for record in records):
        panels.append(_figures(records, "recall", 2))
    panels.append(_drifts(records, len(panels)))
    weeks = []
    for i, (record, at) in enumerate(zip(records, x, strict=True)):
        word = record["verdict"]["word"]
        weeks.append({"x": at, "tick": _tick(record, i), "word": word, "page": record["page"]})
    return {
        "step": round(step, 1),
        "left": LEFT,
        "right": round(LEFT + step * len(records), 1),
        "width": round(LEFT + step * len(records) + RIGHT, 1),
        "height": panels[-1]["foot"] + 48,
        "panels": panels,
        "weeks": weeks,
    }


def _alert_rate(records: Sequence[Record]) -> dict[str, Any]:
    values = [max(r["alert_rate"], r["alert_band"][1]) for r in records]
    panel = _Panel(0, "alert rate, and the band it is expected in", values, "%")
    marks = []
    for record in records:
        low, high = record["alert_band"]
        found = record["alert_rate"]
        marks.append(
            {
                "low": panel.y(low),
                "high": panel.y(high),
                "at": panel.y(found),
                "below": _text_below(panel.y(found), panel.foot),
                "wide": True,
                "hollow": False,
                "said": rate(found),
                "alarm": not low <= found <= high,
            }
        )
    return panel.to_dict(marks)


def _figures(records: Sequence[Record], name: str, place: int) -> dict[str, Any]:
    """Return the panel of precision or of recall."""
    panel = _Panel(place, f"{name} of the alerts, and what validation promised", [1.0], "")
    panel.top = HEADROOM
    marks = []
    for record in records:
        figure, is_estimated = _figure(record, name)
        promised = record["promised"].get(name) or {"value": None}
        mark: dict[str, Any] = {"at": None, "hollow": is_estimated, "alarm": False}
        if promised["value"] is not None:
            mark["promised"] = panel.y(promised["value"])
        if figure is not None and figure["value"] is not None:
            mark["at"] = panel.y(figure["value"])
            mark["said"] = number(figure["value"], 2)
            mark["below"] = _text_below(mark["at"], panel.foot, mark.get("promised"))
            if figure["low"] is not None:
                mark |= {"low": panel.y(figure["low"]), "high": panel.y(figure["high"])}
        marks.append(mark)
    return panel.to_dict(marks) | {"ticks": [{"y": panel.y(v), "text": f"{v:g}"} for v in (0, 1)]}


def _text_below(at: float, foot: float, line: float | None = None) -> float:
    """Return how far below a dot its text stands: the least that no line strikes it out.

    Parameters
    ----------
    at, foot, line : places of the dot, of the panel's foot and of a dashed line, if there is one
    """
    lines = [foot] if line is None else [foot, line]
    middles = [at, *(place - CLEAR for place in lines), *(place + CLEAR for place in lines)]
    free = [
        middle
        for middle in middles
        if middle < foot and all(abs(middle - place) >= CLEAR for place in lines)
    ]
    return MIDDLE + min(free, key=lambda middle: abs(middle - at)) - at


def _drifts(records: Sequence[Record], place: int) -> dict[str, Any]:
    counts = [len(record["drifted"] or ()) for record in records]
    panel = _Panel(
        place, "features that have drifted; filled red: the score, too", [*counts, 1], "n"
    )
    marks = []
    for record, count in zip(records, counts, strict=True):
        is_known = record["drifted"] is not None
        marks.append(
            {
                "bar": panel.y(count) if is_known else None,
                "said": str(count) if is_known else "?",
                "alarm": record["score_drifted"],
            }
        )
    return panel.to_dict(marks)
