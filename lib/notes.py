"""Descriptions in Markdown and tags, for whoever finds a run or a model in MLflow."""

import re
from pathlib import Path

from lib import words

PERIODS = {"validation", "untouched"}
LIMIT = 5000  # characters that MLflow's database has for a description


def stage(name, cells, why=""):
    """What a notebook asks, reads and writes, from its first cell, and why it was executed.

    cells : [(cell_type, source, tags)], see `lib.pipeline.stages.read_cells`
    """
    first = next((source for kind, source, _ in cells if kind == "markdown"), "")
    facts = re.findall(r"^- \*(Question|Reads|Writes)\*: (.*(?:\n(?!- ).+)*)", first, re.MULTILINE)
    lines = [f"- *{what}*: {' '.join(text.split())}" for what, text in facts]
    return "\n".join([f"`notebooks/{name}.ipynb`", "", *lines, *([f"- *Executed because*: {why}"] if why else [])])


def pipeline(name, metrics):
    """What a run decided and how good its candidates are; `metrics`: its metrics.json, empty if there is none."""
    lines = [f"Everything is in `reports/{name}`, its page is `index.html` there."]
    if not metrics:
        return lines[0]
    simulated = metrics.get("source") == "simulated"
    head = [f"**{words.SIMULATED}**"] if simulated else []
    models, verdict = metrics.get("models", {}), metrics.get("verdict", {})
    reasons = [f"- {words.plain(reason, models)}" for reason in verdict.get("reasons", [])]
    reasons += [f"- **{words.plain(remark, models)}**" for remark in metrics.get("remarks", [])]
    rows = ["| model | labels seen | average precision on validation | on untouched |", "|---|---|---|---|"]
    for model, entry in models.items():
        cells = (_cell(entry.get(period)) for period in ("validation", "untouched"))
        seen = words.LABELS_SEEN.get(entry.get("train_on"), "none")
        rows.append(f"| {words.label(model).replace('|', chr(92) + '|')} | {seen} | {' | '.join(cells)} |")
    parts = [*head, f"**As this run decided: {words.headline(metrics)}**", "\n".join(reasons), "\n".join(rows), *lines]
    return "\n\n".join(parts)


def figures(metrics):
    """The headline figures of every model and, under `champion`, of the champion: what is worth comparing runs by."""
    models = {
        model: {
            period: {m: entry[period][m] for m in words.HEADLINE if m in entry[period]} for period in PERIODS & {*entry}
        }
        for model, entry in metrics.get("models", {}).items()
    }
    champion = words.champion_entry(metrics)
    return models | ({"champion": models[champion]} if champion in models else {})


def _cell(figures):
    figure = (figures or {}).get("average_precision", {"value": None})
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def version_tags(manifest):
    """Tags of a registered version: what it is -> {tag: text}."""
    tags = {"model": manifest["model"], "train_on": manifest["fit"]["train_on"]}
    tags |= {"dataset": manifest["dataset"]["name"], "source": manifest["dataset"]["source"]}
    threshold = manifest.get("threshold", {})
    known = {"threshold": threshold.get("anomaly_score"), "alert_budget": threshold.get("alert_budget")}
    return tags | {tag: repr(value) for tag, value in known.items() if value is not None}


def known(version):
    """As much of a manifest as the registry's own tags say; `version`: store.Version."""
    threshold = {"anomaly_score": version.threshold, "alert_budget": version.alert_budget}
    return {"model": version.model or "unknown", "threshold": threshold}


def version(manifest, reasons):
    """Why a version was promoted, in the gate's own sentences."""
    said = [f"- {words.plain(reason, {manifest['model']})}" for reason in reasons]
    return "\n".join([f"{words.label(manifest['model'])}, promoted because:", "", *said] if said else [])


def registered(manifest, folder):
    """Description of a registered model: what its aliases mean, and the champion's model card."""
    about = (
        f"Fraud detector for `{manifest['dataset']['name']}`: an ONNX graph from features to raw score, higher = more "
        "anomalous, with its manifest. The version with the alias `champion` is exported and served; `previous` is "
        "the one before it."
    )
    card = Path(folder) / "model_card.md"
    if not card.is_file():
        return about
    text = re.sub("^# ", "## The champion: ", card.read_text(encoding="utf-8").replace("\n## ", "\n### "))
    return f"{about}\n\n{text}"[:LIMIT]
