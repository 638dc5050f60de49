"""Tables that people read: digits, intervals, ceilings; DataFrames of text for notebooks, README
and report.
"""

import numpy as np
import pandas as pd

from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.data.columns import free_name, one_line
from lib.detectors.sampling import weighted_quantile
from lib.reporting.names import HEADLINE, SHARES, label


def cell(figure, digits=3):
    """{"value", "low", "high"} -> `0.812 [0.740, 0.866]`; a dash where there is no figure."""
    if figure is None or figure["value"] is None:
        return "–"
    text = f"{figure['value']:.{digits}f}"
    return (
        text
        if figure["low"] is None
        else f"{text} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
    )


def results(figures, alert_budget):
    """The headline table: a row a model, best average precision first, what a perfect ranking
    reaches on top.

    figures : {model: {metric: {"value", "low", "high"}}} as `metrics.compare` gives them ->
        DataFrame of str
    """
    order = sorted(figures, key=lambda m: -(figures[m]["average_precision"]["value"] or 0))
    names = {
        m: f"{text} at {alert_budget:g}" if m in SHARES else text for m, text in HEADLINE.items()
    }
    table = pd.DataFrame(
        {names[m]: [cell(figures[model][m]) for model in order] for m in HEADLINE},
        map(label, order),
    )
    first = figures[order[0]]
    perfect = {
        names[m]: cell({**first[f"ceiling_{m}"], "low": None}) if m in SHARES else "1.000"
        for m in HEADLINE
    }
    table = pd.concat([pd.DataFrame([perfect], ["perfect ranking"]), table])
    return table.rename_axis("model")


def validated(compared, scores, weight, alert_budget):
    """Return the headline table of a `metrics.Comparison`; see `results` and `ranked`.

    Without any label it shows what rankings say by themselves.
    """
    if compared.basis.n_labelled:
        return results(compared.metrics, alert_budget)
    return ranked(scores, weight, alert_budget)


def ranked(scores, weight, alert_budget):
    """What can be said of rankings that no label judges: a row a model -> DataFrame of str.

    Threshold and alert rate at the budget, quantiles of the raw score, and the share of the other
    models' alerts that are alerts here, too.

    scores : {model: (n,) float, higher = more anomalous}; weight : (n,) float
    """
    thresholds = {
        model: threshold_for_budget(raw, weight, alert_budget) for model, raw in scores.items()
    }
    alerts = {model: raw >= thresholds[model] for model, raw in scores.items()}
    rows = {}
    for model, raw in scores.items():
        middle, high, top = weighted_quantile(raw, weight, [0.5, 0.99, 1.0])
        mine, others = alerts[model], [alert for other, alert in alerts.items() if other != model]
        shared = [
            weight[mine & other].sum() / weight[other].sum()
            for other in others
            if weight[other].sum() > 0
        ]
        rows[label(model)] = {
            "threshold (raw score)": f"{thresholds[model]:.4g}",
            f"alert rate at {alert_budget:g}": f"{weight[mine].sum() / weight.sum():.3%}",
            "median": f"{middle:.4g}",
            "99 %": f"{high:.4g}",
            "highest": f"{top:.4g}",
            "alerts of the others that it shares": f"{np.mean(shared):.0%}" if shared else "–",
        }
    return pd.DataFrame(rows).T.rename_axis("model")


def by_budget(figures, budgets, alert_budget):
    """Recall, precision and money caught, a column a budget, each model below the ceiling ->
    DataFrame of str.
    """
    rows, first = {}, next(iter(figures.values()))
    for metric, text in SHARES.items():
        names = {b: metric + ("" if b == alert_budget else f"_{b:g}") for b in budgets}
        rows[text, "perfect ranking"] = {
            b: cell({**first[f"ceiling_{name}"], "low": None}) for b, name in names.items()
        }
        rows |= {
            (text, label(m)): {b: cell(f[name]) for b, name in names.items()}
            for m, f in figures.items()
        }
    table = pd.DataFrame(rows).T.rename(columns=lambda budget: f"at {budget:g}")
    table.index.names = ["share", "model"]
    return table


def labels_seen(bundles):
    """Which labels each candidate has seen, and on how many rows it was fitted -> DataFrame of
    str.
    """
    fits = {label(name): b.manifest["fit"] for name, b in bundles.items()}
    return pd.DataFrame(
        {
            "train_on": {n: f["train_on"] for n, f in fits.items()},
            "labels seen": {n: f["labels_seen"] for n, f in fits.items()},
            "reference rows": {n: f"{f['n']:,}" for n, f in fits.items()},
        }
    ).rename_axis("candidate")


def calibrated(raw_score, weight, alert_budget):
    """Anomaly scores (n,) and the threshold of the alert budget, in the same unit; no label is
    used.
    """
    calibration = Calibration.fit(raw_score, weight)
    threshold = threshold_for_budget(raw_score, weight, alert_budget)
    return calibration.apply(raw_score), float(calibration.apply(np.array([threshold]))[0])


def worst(split, period, anomaly_score, n=5):
    """Return the frauds with the lowest and the genuine transactions with the highest score.

    Of anomaly scores (m,), `n` of each. Without any label: the `n` transactions with the highest
    score. No column is merged with one of the user's.
    """
    frame, y = split.frame(period), split.arrays(period).y
    order = np.argsort(anomaly_score, kind="stable")
    kinds = {
        "missed fraud": order[y[order] == 1][:n],
        "false alarm": order[y[order] == 0][::-1][:n],
    }
    if not any(map(len, kinds.values())):
        kinds = {"highest score": order[::-1][:n]}
    dataset = split.dataset
    shown = dict.fromkeys(filter(None, (dataset.time_column, dataset.amount, *dataset.features)))
    ours = free_name("anomaly score", shown)
    rows = np.concatenate(list(kinds.values()))
    table = frame.iloc[rows][list(shown)]
    table.insert(0, ours, np.asarray(anomaly_score)[rows])
    what = np.repeat(list(kinds), [len(positions) for positions in kinds.values()])
    table.index = pd.MultiIndex.from_arrays([what, rows], names=["what", "row"])
    return rounded(table, 3)


def rounded(frame, digits):
    """The frame with its numbers rounded; dates and text stay as they are."""
    return frame.round(dict.fromkeys(frame.select_dtypes("number"), digits))


def markdown(table):
    """A DataFrame of text as a Markdown table -> str."""
    frame = table.reset_index()
    head, *rows = [list(map(_markdown_cell, row)) for row in (frame.columns, *frame.to_numpy())]
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _markdown_cell(value):
    text = str(value)
    return one_line(text).replace("|", r"\|") if text else ""
