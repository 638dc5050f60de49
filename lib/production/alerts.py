"""Alerts with their reasons, for people who review them: `alerts.csv` and the records of a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lib.bundle import categories
from lib.bundle.bundle import Bundle
from lib.data.columns import beside
from lib.data.datasets import UNLABELLED, Dataset
from lib.engine.top import Top
from lib.reporting import reason_words

N_REASONS = 3
OURS = ("rank", "row", "anomaly_score", "why", "label")  # columns of ours in alerts.csv
OF_REASON = ("feature", "value", "usual_low", "usual_high", "share")
LABELS = {1: "fraud", 0: "genuine", UNLABELLED: None}


@dataclass(frozen=True)
class Categories:
    """What the numbers of categories stand for: {feature: column of the text}, and shares."""

    columns: Mapping[str, str]
    encoders: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, dataset: Dataset, model: Bundle) -> Categories:
        """Return those of a dataset, as a model's reference has counted them."""
        encoders = model.manifest.get("recipe", {}).get("encoders", {})
        return cls(dataset.text_of, encoders)

    def said(self, feature: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a category's text and its share of reference; None of what is no category."""
        if feature not in self.columns:
            return None
        text = row[self.columns[feature]]
        text = None if pd.isna(text) else str(text)
        shares = self.encoders.get(feature, {}).get("shares", {})
        key = categories.MISSING if text is None else text
        return {"value": text, "share_of_reference": float(shares.get(key, 0.0))}


def explained(dataset: Dataset, model: Bundle, top: Top) -> list[dict[str, Any]]:
    """Return the alerts of `top`, the highest score first, as JSON has them.

    Returns
    -------
    list of dict
        `rank`, `position` of the row in its table, `time` as text, `ids` {column: text}, `amount`,
        `score`, `label` ('fraud', 'genuine' or None), `why` in words, and `reasons`: `feature`,
        `title`, `value`, `category`, `low` and `high` of the usual range, `direction`, `share`,
        `words`.
    """
    if not len(top.score):
        return []
    titles = {} if dataset.recipe is None else dataset.recipe.titles
    known = Categories.of(dataset, model)
    rows = top.frame.to_dict("records")
    times = _as_text(top.frame[dataset.time_column])
    found = []
    for i, entries in enumerate(model.explain(top.X, N_REASONS)):
        for entry in entries:
            entry["low"], entry["high"] = entry.pop("genuine_range")
            entry["title"] = titles.get(entry["feature"], entry["feature"])
            entry["category"] = known.said(entry["feature"], rows[i])
            entry["words"] = reason_words.of(entry)
        found.append(
            {
                "rank": i + 1,
                "position": int(top.position[i]),
                "time": times[i] if dataset.time is not None else None,
                "ids": {column: _text(rows[i][column]) for column in dataset.kept},
                "amount": _amount(dataset, rows[i]),
                "score": float(top.score[i]),
                "label": LABELS[int(rows[i].get(dataset.label, UNLABELLED))],
                "why": reason_words.together(entries),
                "reasons": entries,
            }
        )
    return found


def _as_text(times: pd.Series) -> list[str]:
    """Return times as text: dates as people write them, numbers without needless digits."""
    if pd.api.types.is_numeric_dtype(times):
        return [f"{value:.10g}" for value in times]
    return times.dt.strftime("%Y-%m-%d %H:%M:%S").tolist()


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _amount(dataset: Dataset, row: Mapping[str, Any]) -> float | None:
    if dataset.amount is None or pd.isna(row[dataset.amount]):
        return None
    return float(row[dataset.amount])


def as_csv(dataset: Dataset, alerts: Sequence[Mapping[str, Any]]) -> str:
    """Return alerts as a table, a row each: what it is, why, and the reasons column by column.

    Identifiers keep their names unless one is called like a column of ours.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_lines(dataset, alerts))
    return text.getvalue()


def _lines(dataset: Dataset, alerts: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """Yield the header, then a line for each alert."""
    numbered = [f"reason_{k}_{part}" for k in range(1, N_REASONS + 1) for part in OF_REASON]
    has_time = dataset.time is not None
    theirs = [*dataset.kept, *([dataset.amount] if dataset.amount else [])]
    time = [dataset.time_column] if has_time else []
    named = beside((*OURS, *numbered), (*time, *theirs))
    header = [named[column] for column in (*time, *theirs)]
    yield ["rank", "row", *header, "anomaly_score", "label", "why", *numbered]
    for alert in alerts:
        reasons = [*alert["reasons"], *([None] * (N_REASONS - len(alert["reasons"])))]
        amount = [alert["amount"]] if dataset.amount else []
        yield [
            alert["rank"],
            alert["position"] + 1,  # as people count, the header left out
            *([alert["time"]] if has_time else []),
            *alert["ids"].values(),
            *amount,
            alert["score"],
            alert["label"],
            alert["why"],
            *(cell for reason in reasons for cell in _cells(reason)),
        ]


def _cells(reason: Mapping[str, Any] | None) -> list[Any]:
    """Return a reason's columns; a category has its own value, and no range of numbers."""
    if reason is None:
        return [None] * len(OF_REASON)
    feature, share = reason["feature"], reason["share"]
    if reason["category"] is not None:
        return [feature, reason["category"]["value"], None, None, share]
    return [feature, reason["value"], reason["low"], reason["high"], share]
