"""Tables that people read: digits, intervals, ceilings; DataFrames of text for notebooks, README
and report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.data.columns import free_name, one_line
from lib.data.splits import Split
from lib.detectors.sampling import weighted_quantile
from lib.evaluation.figures import DASH, Figure, cell
from lib.reporting.names import HEADLINE, SHARES, label

Figures = Mapping[str, Figure]  # {metric: figure} of one model on one period


def precision(figures: Figures) -> float:
    """Return the average precision that tables are sorted by; 0 where no label judges."""
    return figures["average_precision"]["value"] or 0.0


def headings(alert_budget: float) -> dict[str, str]:
    """Return {metric: heading of its column}, those at a budget with the budget."""
    named = {}
    for metric, text in HEADLINE.items():
        named[metric] = f"{text} at {alert_budget:g}" if metric in SHARES else text
    return named


def ceiling(figures: Figures, metric: str) -> Figure:
    """Return what a perfect ranking reaches.

    A share at a budget has a ceiling of its own: a budget below the prevalence can't find all
    frauds, one above it can't have alerts that are all fraud. No interval is given: a ceiling
    follows from the number of frauds.

    Parameters
    ----------
    figures : of any model on the period: the ceiling is the same for all
    metric : as in `names.HEADLINE`; those of `names.SHARES` may have a budget behind them
    """
    value = 1.0
    if "_at_budget" in metric:
        value = figures.get(f"ceiling_{metric}", {"value": None})["value"]
    return {"value": value, "low": None, "high": None}


def results(figures: Mapping[str, Figures], alert_budget: float) -> pd.DataFrame:
    """Return the headline table of text: a row a model, the best average precision first.

    What a perfect ranking reaches stands on top.

    Parameters
    ----------
    figures : {model: {metric: figure}} as `lib.evaluation.comparison` gives them
    alert_budget : share of transactions that people review
    """
    order = sorted(figures, key=lambda model: precision(figures[model]), reverse=True)
    named = headings(alert_budget)
    first = figures[order[0]]
    perfect = {metric: ceiling(first, metric) for metric in named}
    rows = {"perfect ranking": _cells(perfect, named)}
    for model in order:
        rows[label(model)] = _cells(figures[model], named)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(named.values()))
    return table.rename_axis("model")


def _cells(figures: Figures, metrics: Iterable[str]) -> list[str]:
    return [cell(figures[metric]) for metric in metrics]


def validated(
    compared: Any, scores: Mapping[str, np.ndarray], weight: np.ndarray, alert_budget: float
) -> pd.DataFrame:
    """Return the headline table of a `metrics.Comparison`; see `results` and `ranked`.

    Without any label it shows what rankings say by themselves.
    """
    if compared.basis.n_labelled:
        return results(compared.metrics, alert_budget)
    return ranked(scores, weight, alert_budget)


def ranked(
    scores: Mapping[str, np.ndarray], weight: np.ndarray, alert_budget: float
) -> pd.DataFrame:
    """Return what can be said of rankings that no label judges: a row of text a model.

    Threshold and alert rate at the budget, quantiles of the raw score, and the share of the other
    models' alerts that are alerts here, too.

    Parameters
    ----------
    scores : {model: (n,) float, higher = more anomalous}
    weight : (n,) float
    alert_budget : share of the weight
    """
    thresholds = {}
    alerts = {}
    for model, raw_score in scores.items():
        thresholds[model] = threshold_for_budget(raw_score, weight, alert_budget)
        alerts[model] = raw_score >= thresholds[model]
    rows = {}
    for model, raw_score in scores.items():
        median, high, top = weighted_quantile(raw_score, weight, [0.5, 0.99, 1.0])
        rate = weight[alerts[model]].sum() / weight.sum()
        shared = _shared(alerts, model, weight)
        rows[label(model)] = {
            "threshold (raw score)": f"{thresholds[model]:.4g}",
            f"alert rate at {alert_budget:g}": f"{rate:.3%}",
            "median": f"{median:.4g}",
            "99 %": f"{high:.4g}",
            "highest": f"{top:.4g}",
            "alerts of the others that it shares": DASH if shared is None else f"{shared:.0%}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _shared(alerts: dict[str, np.ndarray], model: str, weight: np.ndarray) -> float | None:
    """Return which share of another model's alerts the model raises, too, the mean over the others.

    alerts : {model: (n,) bool}; None where no other model raises any
    """
    shares = []
    for other, alert in alerts.items():
        total = weight[alert].sum()
        if other != model and total > 0:
            both = alerts[model] & alert
            shares.append(weight[both].sum() / total)
    return float(np.mean(shares)) if shares else None


def by_budget(
    figures: Mapping[str, Figures], budgets: Sequence[float], alert_budget: float
) -> pd.DataFrame:
    """Return recall, precision and money caught as text: a column a budget, models by the ceiling.

    Parameters
    ----------
    figures : {model: {metric: figure}}
    budgets : shares of transactions that people might review
    alert_budget : the one they do: its metrics have no budget in their names
    """
    first = next(iter(figures.values()))
    rows = {}
    for metric, text in SHARES.items():
        names = [_at(metric, budget, alert_budget) for budget in budgets]
        perfect = {name: ceiling(first, name) for name in names}
        rows[text, "perfect ranking"] = _cells(perfect, names)
        for model, own in figures.items():
            rows[text, label(model)] = _cells(own, names)
    index = pd.MultiIndex.from_tuples(rows, names=["share", "model"])
    columns = [f"at {budget:g}" for budget in budgets]
    return pd.DataFrame(list(rows.values()), index, columns)


def _at(metric: str, budget: float, alert_budget: float) -> str:
    return metric if budget == alert_budget else f"{metric}_{budget:g}"


def labels_seen(bundles: Mapping[str, Any]) -> pd.DataFrame:
    """Return which labels each candidate has seen, and on how many rows it was fitted, as text.

    bundles : {name: `lib.bundle` of the candidate}
    """
    rows = {}
    for name, bundle in bundles.items():
        fit = bundle.manifest["fit"]
        rows[label(name)] = {
            "train_on": fit["train_on"],
            "labels seen": fit["labels_seen"],
            "reference rows": f"{fit['n']:,}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("candidate")


def calibrated(
    raw_score: np.ndarray, weight: np.ndarray, alert_budget: float
) -> tuple[np.ndarray, float]:
    """Return anomaly scores (n,) from 0 to 1 and the budget's threshold in that unit.

    No label is used.

    raw_score, weight : (n,) float; a higher raw score is more anomalous
    """
    calibration = Calibration.fit(raw_score, weight)
    threshold = threshold_for_budget(raw_score, weight, alert_budget)
    calibrated_threshold = calibration.apply(np.array([threshold]))
    return calibration.apply(raw_score), float(calibrated_threshold[0])


def worst(split: Split, period: str, anomaly_score: np.ndarray, n: int = 5) -> pd.DataFrame:
    """Return the frauds with the lowest and the genuine transactions with the highest score.

    Of anomaly scores (m,), `n` of each. Without any label: the `n` transactions with the highest
    score. No column is merged with one of the user's.
    """
    y = split.arrays(period).y
    order = np.argsort(anomaly_score, kind="stable")
    kinds = {
        "missed fraud": order[y[order] == 1][:n],
        "false alarm": order[y[order] == 0][::-1][:n],
    }
    if not any(map(len, kinds.values())):
        kinds = {"highest score": order[::-1][:n]}
    dataset = split.dataset
    columns = [dataset.time_column, dataset.amount, *dataset.features]
    # a data set may lack the first two, and the amount may be a feature, too
    shown = list(dict.fromkeys(column for column in columns if column))
    rows = np.concatenate(list(kinds.values()))
    table = split.frame(period).iloc[rows][shown]
    table.insert(0, free_name("anomaly score", shown), np.asarray(anomaly_score)[rows])
    what = np.repeat(list(kinds), [len(found) for found in kinds.values()])
    table.index = pd.MultiIndex.from_arrays([what, rows], names=["what", "row"])
    return rounded(table, 3)


def rounded(frame: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Return the frame with its numbers rounded; dates and text stay as they are."""
    numeric = frame.select_dtypes("number")
    return frame.round(dict.fromkeys(numeric, digits))


def markdown(table: pd.DataFrame) -> str:
    """Return a DataFrame of text as a Markdown table, its index as the first columns."""
    frame = table.reset_index()
    lines = [_markdown_row(frame.columns), "|" + "---|" * frame.shape[1]]
    lines += [_markdown_row(row) for row in frame.to_numpy()]
    return "\n".join(lines)


def _markdown_row(values: Any) -> str:
    cells = [_markdown_cell(value) for value in values]
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(value: Any) -> str:
    text = str(value)
    # a pipe within a cell would begin the next one
    return one_line(text).replace("|", r"\|") if text else ""
