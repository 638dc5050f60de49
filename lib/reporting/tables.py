"""Tables that people read: digits, intervals, ceilings; DataFrames of text for notebooks, README
and report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.data.budgets import Budget, percent
from lib.data.columns import free_name, one_line
from lib.data.splits import Split
from lib.detectors.sampling import weighted_quantile
from lib.evaluation.figures import Figure, cell, number
from lib.reporting.names import HEADLINE, SHARES, headings, label

if TYPE_CHECKING:
    from lib.evaluation.costs import Cost
    from lib.evaluation.entity_precision import EntityPrecision
    from lib.evaluation.intervals import Comparison

Figures = Mapping[str, Figure]  # {metric: figure} of one model on one period
NO_FIGURE: Figure = {
    "value": None,
    "low": None,
    "high": None,
}


def precision(figures: Figures) -> float:
    """Return the average precision that tables are sorted by; 0 where no label judges."""
    return figures["average_precision"]["value"] or 0.0


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
        known = figures.get(f"ceiling_{metric}", NO_FIGURE)
        value = known["value"]
    return {**NO_FIGURE, "value": value}


def results(figures: Mapping[str, Figures], budget: Budget) -> pd.DataFrame:
    """Return the headline table of text: a row a model, the best average precision first.

    What a perfect ranking reaches stands on top.

    Parameters
    ----------
    figures : {model: {metric: figure}} as `lib.evaluation.comparison` gives them
    budget : what people review
    """
    order = sorted(
        figures,
        key=lambda model: precision(figures[model]),
        reverse=True,
    )
    named = headings(budget)
    first = figures[order[0]]
    rows = {"perfect ranking": _perfect(first, named)}
    for model in order:
        rows[label(model)] = _cells(figures[model], named)
    columns = list(named.values())
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("model")


def _perfect(figures: Figures, metrics: Iterable[str]) -> list[str]:
    cells = []
    for metric in metrics:
        highest = ceiling(figures, metric)
        cells.append(cell(highest))
    return cells


def _cells(figures: Figures, metrics: Iterable[str]) -> list[str]:
    return [cell(figures[metric]) for metric in metrics]


def validated(
    compared: Comparison,
    scores: Mapping[str, np.ndarray],
    weight: np.ndarray,
    budget: Budget,
) -> pd.DataFrame:
    """Return the headline table of a comparison; see `results` and `ranked`.

    Without any label it shows what rankings say by themselves.
    """
    if compared.basis.n_labelled:
        return results(compared.metrics, budget)
    return ranked(scores, weight, budget)


def ranked(
    scores: Mapping[str, np.ndarray],
    weight: np.ndarray,
    budget: Budget,
) -> pd.DataFrame:
    """Return what can be said of rankings that no label judges: a row of text a model.

    Threshold and alert rate at the budget, quantiles of the raw score, and the share of the other
    models' alerts that are alerts here, too.

    Parameters
    ----------
    scores : {model: (n,), higher = more anomalous}
    weight : (n,)
    budget : what people review
    """
    thresholds = {}
    alerts = {}
    for model, raw_score in scores.items():
        threshold = threshold_for_budget(raw_score, weight, budget.share)
        thresholds[model] = threshold
        alerts[model] = raw_score >= threshold
    total = weight.sum()
    rows = {}
    for model, raw_score in scores.items():
        threshold = thresholds[model]
        alerted = alerts[model]
        rate = weight[alerted].sum() / total
        shared = _shared(alerts, model, weight)
        quantiles = weighted_quantile(raw_score, weight, [0.5, 0.99, 1.0])
        median, high, top = quantiles
        rows[label(model)] = {
            "threshold (raw score)": f"{threshold:.4g}",
            f"alert rate at {budget.short}": f"{rate:.3%}",
            "median": f"{median:.4g}",
            "99 %": f"{high:.4g}",
            "highest": f"{top:.4g}",
            "alerts of the others that it shares": number(shared, 0, "%"),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis("model")


def _shared(alerts: dict[str, np.ndarray], model: str, weight: np.ndarray) -> float | None:
    """Return which share of another model's alerts the model raises, too, the mean over the others.

    alerts : {model: (n,) bool}; None where no other model raises any
    """
    own = alerts[model]
    shares = []
    for other, alert in alerts.items():
        total = weight[alert].sum()
        if other == model or total == 0:
            continue
        both = own & alert
        shared = weight[both].sum()
        shares.append(shared / total)
    if not shares:
        return None
    return float(np.mean(shares))


def by_table(values: pd.DataFrame, ranks: pd.DataFrame) -> pd.DataFrame:
    """Return figures with their ranks as text, `0.812 (1)`; the best mean rank comes first.

    values, ranks : a row a model, a column a table of transactions
    """
    cells = {
        table: [f"{number(v)} ({r:g})" for v, r in zip(values[table], ranks[table], strict=True)]
        for table in values
    }
    frame = pd.DataFrame(cells, index=[label(model) for model in values.index])
    mean_rank = ranks.mean(axis=1).to_numpy()
    frame.insert(0, "mean rank", [f"{rank:.2f}" for rank in mean_rank], allow_duplicates=True)
    order = np.argsort(mean_rank, kind="stable")
    return frame.iloc[order].rename_axis("model")


def by_budget(
    figures: Mapping[str, Figures],
    budgets: Sequence[float],
    deciding: Budget,
) -> pd.DataFrame:
    """Return recall, precision and money caught as text: a column a budget, models by the ceiling.

    Parameters
    ----------
    figures : {model: {metric: figure}}
    budgets : shares of transactions that people might review
    deciding : the one they do: its metrics have no budget in their names
    """
    first = next(iter(figures.values()))
    shares = sorted({*budgets, deciding.share})
    rows = {}
    for metric, text in SHARES.items():
        names = [_at(metric, share, deciding.share) for share in shares]
        rows[text, "perfect ranking"] = _perfect(first, names)
        for model, own in figures.items():
            rows[text, label(model)] = _cells(own, names)
    index = pd.MultiIndex.from_tuples(rows, names=["share", "model"])
    per_day = deciding.transactions_per_day
    columns = [f"at {Budget(share, per_day).short}, {percent(share)}" for share in shares]
    if per_day is None:
        columns = [f"at {percent(share)}" for share in shares]
    cells = list(rows.values())
    return pd.DataFrame(cells, index, columns)


def by_entity(found: Mapping[str, Mapping[str, EntityPrecision]]) -> pd.DataFrame:
    """Return the precision of those who review entities as text: a column an entity.

    Parameters
    ----------
    found : {entity: {model: what its reviews find}}
    """
    columns = {}
    for entity, of_models in found.items():
        first = next(iter(of_models.values()))
        column = {"perfect ranking": number(first.ceiling)}
        for model, result in of_models.items():
            column[label(model)] = cell(result.precision, 3)
        columns[entity] = column
    return pd.DataFrame(columns)


def _at(metric: str, share: float, deciding: float) -> str:
    if share == deciding:
        return metric
    return f"{metric}_{share:g}"


def reviewing(rows: Sequence[Mapping[str, Any]], period: str) -> pd.DataFrame:
    """Return what one model finds at several budgets on a period, as text: a row a budget.

    rows : as `lib.evaluation.budget_table.as_json` gives them
    """
    found = {}
    for row in rows:
        figures = row[period]
        budget = budget_of(row)
        found[f"{budget.short} *" if row["decides"] else budget.short] = {
            "of all": percent(budget.share),
            "threshold": f"{row['threshold']:.6f}",
            "alerts": alerts(figures["alert_rate"], budget),
            "precision": cell(figures["precision"], 2),
            "frauds found": cell(figures["recall"], 0, "%"),
            "money caught": cell(figures["amount_recall"], 0, "%"),
            "false alarms per fraud": cell(figures["false_alarms_per_fraud"], 1),
        }
    table = pd.DataFrame.from_dict(found, orient="index")
    return table.rename_axis("reviews")


def budget_of(row: Mapping[str, Any]) -> Budget:
    """Return the budget of a row of `lib.evaluation.budget_table.as_json`."""
    share, per_day = row["alert_budget"], row["reviews_per_day"]
    return Budget(share, None if per_day is None else per_day / share)


def alerts(rate: Figure, budget: Budget) -> str:
    """Return how many alerts a threshold fires: a day, where the table has days."""
    per_day = budget.transactions_per_day
    if per_day is None:
        return cell(rate, 2, "%")
    scaled = {end: None if share is None else share * per_day for end, share in rate.items()}
    return f"{cell(scaled, 0)} a day"


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
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis("candidate")


def costs(
    measured: Mapping[str, Cost],
    figures: Mapping[str, Figures],
    metric: str,
) -> pd.DataFrame:
    """Return what candidates cost to score, as text: a row each, the cheapest first.

    Parameters
    ----------
    measured : as `lib.evaluation.costs.measure` gives them
    figures : {model: {metric: figure}} on validation
    metric : the one that decides
    """
    rows = {}
    for name in sorted(measured, key=lambda name: measured[name].score_us):
        cost = measured[name]
        rows[label(name)] = {
            HEADLINE.get(metric, metric): cell(figures[name][metric]),
            "microseconds a row": cost.time,
            "model.onnx": cost.size,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis("candidate")


def calibrated(
    raw_score: np.ndarray,
    weight: np.ndarray,
    alert_budget: float,
) -> tuple[np.ndarray, float]:
    """Return anomaly scores (n,) from 0 to 1 and the budget's threshold in that unit.

    No label is used.

    raw_score, weight : (n,); a higher raw score is more anomalous
    """
    calibration = Calibration.fit(raw_score, weight)
    threshold = threshold_for_budget(raw_score, weight, alert_budget)
    # one array in, one out: the threshold goes the way of the scores
    thresholds = calibration.apply(np.array([threshold]))
    anomaly_score = calibration.apply(raw_score)
    return anomaly_score, float(thresholds[0])


def worst(
    split: Split,
    period: str,
    anomaly_score: np.ndarray,
    n: int = 5,
) -> pd.DataFrame:
    """Return the frauds with the lowest and the genuine transactions with the highest score.

    Of anomaly scores (m,), `n` of each. Without any label: the `n` transactions with the highest
    score. No column is merged with one of the user's.
    """
    scores = np.asarray(anomaly_score)
    kinds = _extremes(scores, split.arrays(period).y, n)
    rows = np.concatenate(list(kinds.values()))
    shown = _shown(split)
    frame = split.frame(period)
    table = frame.iloc[rows][shown]
    heading = free_name("anomaly score", shown)
    table.insert(0, heading, scores[rows])
    counts = [len(found) for found in kinds.values()]
    what = np.repeat(list(kinds), counts)
    table.index = pd.MultiIndex.from_arrays([what, rows], names=["what", "row"])
    return rounded(table, 3)


def _extremes(scores: np.ndarray, y: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Return {what they are: rows (at most n,)}, the most surprising rows first."""
    # stable: the same rows again where scores tie
    order = np.argsort(scores, kind="stable")
    downwards = order[::-1]
    is_fraud = y[order] == 1
    is_genuine = y[downwards] == 0
    missed = order[is_fraud][:n]
    false = downwards[is_genuine][:n]
    if not len(missed) and not len(false):
        return {"highest score": downwards[:n]}
    return {
        "missed fraud": missed,
        "false alarm": false,
    }


def _shown(split: Split) -> list[str]:
    dataset = split.dataset
    columns = [dataset.time_column, dataset.amount, *dataset.features]
    # a data set may lack the first two, and the amount may be a feature, too
    present = [column for column in columns if column]
    return list(dict.fromkeys(present))


def rounded(frame: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Return the frame with its numbers rounded; dates and text stay as they are."""
    numeric = frame.select_dtypes("number")
    by_column = dict.fromkeys(numeric, digits)
    return frame.round(by_column)


def markdown(table: pd.DataFrame) -> str:
    """Return a DataFrame of text as a Markdown table, its index as the first columns."""
    frame = table.reset_index()
    _, n_columns = frame.shape
    lines = [
        _markdown_row(frame.columns),
        "|" + "---|" * n_columns,
    ]
    for row in frame.to_numpy():
        lines.append(_markdown_row(row))
    return "\n".join(lines)


def _markdown_row(values: Any) -> str:
    cells = [_markdown_cell(value) for value in values]
    inner = " | ".join(cells)
    return f"| {inner} |"


def _markdown_cell(value: Any) -> str:
    text = str(value)
    if not text:
        return ""
    # a pipe within a cell would begin the next one
    return one_line(text).replace("|", r"\|")
