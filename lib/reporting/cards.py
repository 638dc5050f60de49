"""Model card and data card: Markdown that is written from manifests, the same text for the same
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.bundle.manifest import MODEL_CARD  # noqa: F401 - named beside the data card
from lib.data import cuts, thin_record
from lib.data.budgets import Budget, percent
from lib.data.columns import one_line
from lib.evaluation.figures import cell
from lib.files import write_text
from lib.reporting.names import HEADLINE, SHARES, SIMULATED, SOURCES, code, introduce, label
from lib.reporting.tables import markdown

if TYPE_CHECKING:
    from lib.data.datasets import Dataset
    from lib.data.splits import Split
    from lib.reporting.tables import Figures

DATA_CARD = "data_card.md"
ABOUT = {
    "isolation_forest": "Random trees isolate outliers early; the score is the average depth, "
    "turned round.",
    "autoencoder": "Networks reconstruct rows from noise; the score is the Mahalanobis distance of "
    "what they fail at.",
    "gaussian_mixture": "Mixtures of Gaussian components; the score is the negative log "
    "density of the transaction, averaged over the mixtures.",
    "fusion": "Several detectors as one; the score is their mean surprise, on a logarithmic scale.",
    "robust_covariance": "One mean and one covariance that outliers cannot pull; the score is the "
    "squared Mahalanobis distance.",
    "nearest_neighbours": "Many ordinary rows of reference are kept; the score is the distance to "
    "the nearest of them.",
    "empirical_tails": "Column by column, how far out in the tails of reference a row lies; the "
    "score adds this up.",
    "few_labels": "The density of a Gaussian mixture, tilted by a regression on known frauds of "
    "reference.",
    "supervised_trees": "Gradient boosting and a random forest, fitted with the frauds of "
    "reference; the score is the mean of their log-odds.",
}
NOTES = {
    "validation": "It chose between models and set the threshold, so that these figures flatter "
    "the model a little.",
    "untouched": "Read once, after every decision: the nearest to what production would have seen.",
}


def model(manifest: Mapping[str, Any], untouched: Figures | None = None) -> str:
    """Return the card of a candidate that has calibration and threshold, as Markdown.

    Nothing in it changes from one run to the next: no id, no time, no version; it is part of the
    bundle's hash.

    Parameters
    ----------
    manifest : with the sha256 of the graphs in `files`
    untouched : {metric: {"value", "low", "high"}} on the last period, where it has been read
    """
    introduce({manifest["model"]: manifest})
    # a variant is described by its family
    family = manifest["model"].partition("@")[0]
    about = manifest.get("shown", {}).get("about") or ABOUT.get(family, "")
    fit = manifest["fit"]
    threshold = manifest.get("threshold", {})
    dataset = manifest["dataset"]
    deciding = Budget(threshold.get("alert_budget", 0.0), threshold.get("transactions_per_day"))
    figures = {"validation": manifest.get("metrics", {}).get("validation"), "untouched": untouched}
    parameters = ", ".join(_parameters(fit["parameters"]))
    empty = "".join(
        f"- No value of {code(name)} was known when it was fitted: a constant to this model, "
        "whatever comes\n"
        for name in manifest.get("empty_features", ())
    )
    refit = manifest.get("refit", {})
    anew = ""
    if refit:
        anew = (
            "- A refit of the configuration that was compared; threshold and figures on validation "
            "are of models that were fitted on reference and the other half of validation\n"
        )
    missing = (
        "are refused"
        if manifest["missing"] == "refuse"
        else "become the median of reference, inside the model"
    )
    lines = [
        f"# {label(manifest['model'])}, a detector of fraud in `{dataset['name']}`",
        *([f"> **{SIMULATED}**"] if dataset["source"] == "simulated" else []),
        f"{about} It learns what is ordinary and ranks what is not.".strip(),
        "## Intended use",
        "It ranks transactions, so that people review the strangest first. It must not block a "
        "payment, refuse a "
        "customer or accuse anybody by itself: a high score means *unlike the past*, not *fraud*.",
        "## Input and output",
        f"- {_features(manifest['features'])}, as float32; missing values {missing}\n"
        "- `anomaly_score` from 0 to 1, higher = more anomalous; 0.999: one validation "
        "transaction in a thousand "
        f"scores as high. Calibrated on all validation transactions, without labels\n"
        f"- {_alert(threshold)}",
        "## Data and labels",
        f"- `{dataset['name']}`: {SOURCES[dataset['source']]}; see the data card of the run\n"
        f"{empty}- Fitted on {fit['n']:,} transactions of {refit.get('periods', 'reference')} "
        f"(weight {fit['weight']:,.0f}), from {_span(fit)}\n"
        f"{anew}"
        f"- Regime `{fit['train_on']}`; labels of fraud seen: {fit['labels_seen']}",
        "## Figures",
        "In brackets 95 % intervals, from resampled blocks of time. A budget is what people "
        f"review; the threshold is set for {deciding}.",
        *_all_figures(figures, deciding),
        "## Limits",
        "- It knows the customers of its fit; others, and later habits, drift away from it. Watch "
        "the alert rate and "
        "the drift report, and fit anew.\n"
        "- Fraud that looks like an ordinary payment in every combination of features is not "
        "found.\n"
        "- Frauds are few: differences smaller than the intervals mean nothing.\n"
        "- Nobody has examined whether it treats groups of customers alike.",
        "## How it was made",
        f"Parameters: {parameters}; seed {fit['seed']}, compute threads {fit['threads']}. The "
        "same data, parameters, "
        f"seed and threads give the same bytes:",
        "\n".join(f"- {name} `{sha256}`" for name, sha256 in _hashes(manifest).items()),
    ]
    return "\n\n".join(lines) + "\n"


def data(split: Split) -> str:
    """Return the card of a split and the transactions in it, as Markdown."""
    manifest, dataset = split.manifest, split.dataset
    raw, shares = dataset.raw, manifest["shares"]
    table = cuts.table(manifest).set_index("period")
    simulated = manifest["source"] == "simulated"
    made = (
        f"; seed {manifest['seed']}"
        if simulated
        else f"; published at {raw.url}"
        if raw.url
        else ""
    )
    if "thinned" in manifest:
        made += f"; {thin_record.sentence(manifest['thinned'])}, drawn with weights"
    columns = {
        "time": f"{_time(dataset)}: orders the rows, no feature",
        "label": _label(dataset),
        "amount": code(dataset.amount)
        if dataset.amount
        else "no amounts: figures in money are missing",
        "weight": f"{code(dataset.weight)}: how many transactions a row stands for"
        if dataset.weight
        else "1 a row",
        "features": _features(dataset.features),
    }
    rules = {
        "missing": {
            "refuse": "missing values are refused",
            "median": "missing values become the median",
        },
        "negative_amount": {
            "refuse": "negative amounts are refused",
            "allow": "negative amounts are allowed",
        },
    }
    remarks = [
        *(rule[getattr(dataset, name)] for name, rule in rules.items()),
        *manifest["remarks"],
    ]
    lines = [
        f"# Data card of `{dataset.name}`",
        *([f"> **{SIMULATED}**"] if simulated else []),
        f"Source: {SOURCES[manifest['source']]}{made}.",
        "## Columns",
        "\n".join(f"- {name}: {text}" for name, text in columns.items()),
        *_derived(manifest),
        "## Periods",
        f"In time order: the first {shares['reference']:.0%} of the weight are *reference* "
        "(fits), the next "
        f"{shares['validation']:.0%} *validation* (decisions, thresholds), the rest *untouched* "
        "(read once, after "
        f"every decision) in {shares['n_batches']} batches. Transactions of one instant are never "
        "parted.",
        markdown(table),
        "## Checks",
        "\n".join(f"- {remark}" for remark in remarks),
        "## Limits",
        "- A batch holds few frauds; a figure on one batch has a wide interval.\n"
        "- Labels are what was known when the table was made: a fraud that nobody reported counts "
        "as genuine.",
        "## Hashes",
        f"- raw data `{manifest['raw_sha256']}`\n- splits.json `{split.fingerprint}`",
    ]
    return "\n\n".join(lines) + "\n"


def _span(fit: Mapping[str, Any]) -> str:
    """Return from when to when the transactions of a fit are: dates (UTC), seconds or rows."""
    kind = fit.get("time", "seconds")
    return f"{cuts.instant(fit['start_s'], kind)} to {cuts.instant(fit['end_s'], kind)}"


def _label(dataset: Dataset) -> str:
    """Return which column is the label, and what its values mean."""
    if dataset.label is None:
        return "no labels"
    words = dataset.label_words
    if words is None:
        return f"{code(dataset.label)}: 1 = fraud, 0 = genuine"
    fraud = ", ".join(map(str, words.fraud))
    genuine = ", ".join(map(str, words.genuine))
    return f"{code(dataset.label)}: fraud is {one_line(fraud)}; genuine is {one_line(genuine)}"


def _time(dataset: Dataset) -> str:
    """Return the columns that tell the time, as Markdown."""
    return " and ".join(map(code, dataset.time_columns)) or "the order of the rows"


def write(path: Path | str, text: str) -> Path:
    """Return the path of a card, put in place whole or not at all."""
    return write_text(path, text)


def _parameters(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `name value` of each parameter; a fusion's members' behind the member's name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _parameters(value, f"{name}." if name in ABOUT else prefix)
        elif value is not None:
            yield f"{prefix}{name} {value}"


def _derived(manifest: dict[str, Any]) -> list[str]:
    """Return the section on derived features, and the labels that they know; none without any."""
    meanings = manifest.get("recipe")
    if not meanings:
        return []
    lines = [f"- {code(name)}: {meaning}" for name, meaning in meanings.items()]
    if manifest["labels_seen"]:
        lines.append(f"- labels that features know: {manifest['labels_seen']}")
    return ["## Derived features", "\n".join(lines)]


def _features(names: Sequence[str]) -> str:
    coded = [code(name) for name in names]
    shown = [*coded[:3], "…", coded[-1]] if len(names) > 5 else coded
    return f"{len(names)} numbers: {', '.join(shown)}"


def _alert(threshold: Mapping[str, Any]) -> str:
    if not threshold:
        return "no threshold yet"
    budget = Budget(threshold["alert_budget"], threshold.get("transactions_per_day"))
    rule = {
        "alert_budget": f"{budget}, on validation, without labels",
        "max_f1": "the best F1 on validation",
        "min_cost": "the least cost on validation",
    }.get(threshold["rule"], threshold["rule"])
    return f"Alert if the score is at least {threshold['anomaly_score']:.6f}: {rule}"


def _all_figures(figures: Mapping[str, Figures | None], budget: Budget) -> list[str]:
    """Return the tables of the periods, or the sentence that nobody has judged the model."""
    known = {period: values for period, values in figures.items() if values}
    judged = {
        p: values
        for p, values in known.items()
        if any(f["value"] is not None for f in values.values())
    }
    if known and not judged:
        return ["No transaction of these periods has a label: nobody has judged this model."]
    return [text for period, values in judged.items() for text in _figures(period, values, budget)]


def _figures(period: str, values: Figures, budget: Budget) -> tuple[str, str, str]:
    rows = [
        (text, cell(values.get(name)), "1.000")
        for name, text in HEADLINE.items()
        if name not in SHARES
    ]
    budgets = sorted(
        {budget.share}
        | {float(m.rpartition("_")[2]) for m in values if m.startswith("recall_at_budget_")}
    )
    for at in budgets:
        suffix = "" if at == budget.share else f"_{at:g}"
        shown = _both_units(Budget(at, budget.transactions_per_day))
        for metric, text in SHARES.items():
            ceiling = values.get(f"ceiling_{metric}{suffix}") or {"value": None}
            rows.append(
                (
                    f"{text} at {shown}",
                    cell(values.get(metric + suffix)),
                    cell({**ceiling, "low": None}),
                )
            )
    table = pd.DataFrame(rows, columns=["figure", "this model", "perfect ranking"]).set_index(
        "figure"
    )
    return f"### On {period}", NOTES[period], markdown(table)


def _both_units(budget: Budget) -> str:
    if budget.reviews_per_day is None:
        return percent(budget.share)
    return f"{budget.short}, {percent(budget.share)}"


def _hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    graphs = {name: sha256 for name, sha256 in manifest["files"].items() if name.endswith(".onnx")}
    return graphs | {"splits.json": manifest["fit"]["split"]}
