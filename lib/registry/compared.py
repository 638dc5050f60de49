"""What MLflow's pages show of candidates: few figures under common names, and the view of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PERIODS = ("validation", "untouched")
METRICS = {  # a metric of ours: its name in MLflow, short enough for the heading of a column
    "average_precision": "average_precision",
    "recall_at_budget": "recall",
    "precision_at_budget": "precision",
    "amount_recall_at_budget": "money_caught",
}
COSTS = ("score_us", "bytes")
COLUMNS = (*(f"{period}/{name}" for name in METRICS.values() for period in PERIODS), *COSTS)
# MLflow's name for a view that its pages open by a link; they read it from a tag of the experiment
VIEW = "comparison"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
# axes of the parallel coordinates, few enough to be told apart: quality, then price
AXES = (
    "validation/average_precision",
    "untouched/average_precision",
    "validation/money_caught",
    "score_us",
)
WIDTH_OF_A_LETTER = 6.5  # pixels in the heading of a column
ROUNDED = 4  # significant digits: MLflow's table shows every digit of a number


def figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that every candidate has: {period: {metric: figure}}, and its costs.

    Parameters
    ----------
    entry : a model's in a run's `metrics.json`, or a candidate's `metrics.json`
    """
    found: dict[str, Any] = {}
    for period in PERIODS:
        # before `untouched` is read, it has no entry
        of_period = entry.get(period) or {}
        known = {name: of_period[ours] for ours, name in METRICS.items() if ours in of_period}
        found[period] = {name: _rounded(figure) for name, figure in known.items()}
    return found | {cost: entry[cost] for cost in COSTS if cost in entry}


def _rounded(figure: Mapping[str, float | None]) -> dict[str, float | None]:
    return {
        key: None if value is None else float(f"{value:.{ROUNDED}g}")
        for key, value in figure.items()
    }


def view(parent_id: str) -> str:
    """Return the view of one run's candidates as MLflow's pages read it, JSON.

    The best on validation comes first. As charts they are parallel coordinates, then bars.

    Parameters
    ----------
    parent_id : of the pipeline's run in MLflow
    """
    widths = {_column(name): round(40 + WIDTH_OF_A_LETTER * len(name)) for name in COLUMNS}
    others = ["tags.`train_on`", "attributes.`Dataset`"]
    state = {
        "searchFilter": f"tags.kind = 'candidate' AND tags.`mlflow.parentRunId` = '{parent_id}'",
        "orderByKey": _column(COLUMNS[0]),
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": [*widths, *others],
        "columnOrder": [*widths, *others],
        "columnWidths": widths,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": False,
        "isAccordionReordered": True,  # else sections are in the order of their names
        "compareRunCharts": [
            _chart("PARALLEL", "all", selectedMetrics=AXES, selectedParams=[], showAllRuns=True),
            *(_chart("BAR", "each", metricKey=name, runsCountToCompare=20) for name in COLUMNS),
        ],
        "compareRunSections": [
            _section("all", "Quality and price", columns=1, cardHeight=420),
            _section("each", "One figure of all candidates", columns=3, cardHeight=360),
        ],
    }
    return json.dumps(state)


def _column(name: str) -> str:
    return f"metrics.`{name}`"


def _chart(kind: str, section: str, **settings: Any) -> dict[str, Any]:
    uuid = f"{section}-{settings.get('metricKey', kind)}"
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False}
    return {"type": kind, "uuid": uuid, **common, **settings}


def _section(uuid: str, name: str, **settings: int) -> dict[str, Any]:
    common = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "name": name, **common, **settings}


def link(port: int, experiment_id: str, *, charts: bool = False) -> str:
    """Return the address at which a local MLflow opens the view: as a table of runs, or charts."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return (
        f"http://localhost:{port}/#/experiments/{experiment_id}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={VIEW}{mode}"
    )
