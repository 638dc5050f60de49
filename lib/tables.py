"""Tables that people read: digits, intervals, ceilings; DataFrames of text for notebooks, README and report."""

import numpy as np
import pandas as pd

from lib.calibration import Calibration, threshold_for_budget
from lib.names import HEADLINE, SHARES, label


def cell(figure, digits=3):
    """{"value", "low", "high"} -> `0.812 [0.740, 0.866]`; a dash where there is no figure."""
    if figure is None or figure["value"] is None:
        return "–"
    text = f"{figure['value']:.{digits}f}"
    return text if figure["low"] is None else f"{text} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def results(figures, alert_budget):
    """The headline table: a row a model, best average precision first, what a perfect ranking reaches on top.

    figures : {model: {metric: {"value", "low", "high"}}} as `metrics.compare` gives them -> DataFrame of str
    """
    order = sorted(figures, key=lambda m: -(figures[m]["average_precision"]["value"] or 0))
    names = {m: f"{text} at {alert_budget:g}" if m in SHARES else text for m, text in HEADLINE.items()}
    table = pd.DataFrame({names[m]: [cell(figures[model][m]) for model in order] for m in HEADLINE}, map(label, order))
    first = figures[order[0]]
    perfect = {names[m]: cell({**first[f"ceiling_{m}"], "low": None}) if m in SHARES else "1.000" for m in HEADLINE}
    table = pd.concat([pd.DataFrame([perfect], ["perfect ranking"]), table])
    return table.rename_axis("model")


def by_budget(figures, budgets, alert_budget):
    """Recall, precision and money caught, a column a budget, each model below the ceiling -> DataFrame of str."""
    rows, first = {}, next(iter(figures.values()))
    for metric, text in SHARES.items():
        names = {b: metric + ("" if b == alert_budget else f"_{b:g}") for b in budgets}
        rows[text, "perfect ranking"] = {
            b: cell({**first[f"ceiling_{name}"], "low": None}) for b, name in names.items()
        }
        rows |= {(text, label(m)): {b: cell(f[name]) for b, name in names.items()} for m, f in figures.items()}
    table = pd.DataFrame(rows).T.rename(columns=lambda budget: f"at {budget:g}")
    table.index.names = ["share", "model"]
    return table


def labels_seen(bundles):
    """Which labels each candidate has seen, and on how many rows it was fitted -> DataFrame of str."""
    fits = {label(name): b.manifest["fit"] for name, b in bundles.items()}
    return pd.DataFrame(
        {
            "train_on": {n: f["train_on"] for n, f in fits.items()},
            "labels seen": {n: f["labels_seen"] for n, f in fits.items()},
            "reference rows": {n: f"{f['n']:,}" for n, f in fits.items()},
        }
    ).rename_axis("candidate")


def calibrated(raw_score, weight, alert_budget):
    """Anomaly scores (n,) and the threshold of the alert budget, in the same unit; no label is used."""
    calibration = Calibration.fit(raw_score, weight)
    threshold = threshold_for_budget(raw_score, weight, alert_budget)
    return calibration.apply(raw_score), float(calibration.apply(np.array([threshold]))[0])


def worst(split, period, anomaly_score, n=5):
    """The `n` frauds with the lowest and the `n` genuine transactions with the highest score -> DataFrame."""
    frame, data = split.frame(period), split.arrays(period)
    frame = frame.assign(anomaly_score=anomaly_score)
    misses = frame[data.y == 1].nsmallest(n, "anomaly_score")
    alarms = frame[data.y == 0].nlargest(n, "anomaly_score")
    shown = ["anomaly_score", split.dataset.time, *([split.dataset.amount] if split.dataset.amount else [])]
    shown += [f for f in split.dataset.features if f not in shown]
    table = pd.concat({"missed fraud": misses[shown], "false alarm": alarms[shown]}, names=["what", "row"])
    return table.round(3)


def markdown(table):
    """A DataFrame of text as a Markdown table -> str."""
    frame = table.reset_index()
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    rows = [[str(value).replace("|", r"\|") for value in row] for row in frame.to_numpy()]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
