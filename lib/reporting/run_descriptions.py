"""Descriptions of runs and notebooks in Markdown, for whoever finds them in MLflow."""

import re

from lib.reporting import names

PERIODS = {"validation", "untouched"}


def stage(name, cells, why=""):
    """What a notebook asks, reads and writes, from its first cell, and why it was executed.

    cells : [(cell_type, source, tags)], see `lib.pipeline.stages.read_cells`
    """
    first = next((source for kind, source, _ in cells if kind == "markdown"), "")
    facts = re.findall(r"^- \*(Question|Reads|Writes)\*: (.*(?:\n(?!- ).+)*)", first, re.MULTILINE)
    lines = [f"- *{what}*: {' '.join(text.split())}" for what, text in facts]
    return "\n".join(
        [
            f"`notebooks/{name}.ipynb`",
            "",
            *lines,
            *([f"- *Executed because*: {why}"] if why else []),
        ]
    )


def pipeline(name, metrics, now=None):
    """Describe what a run decided, what has become of it, and how good its candidates are.

    metrics : its metrics.json, empty if there is none; now : lib.registry.serving.Now
    """
    lines = [f"Everything is in `reports/{name}`, its page is `index.html` there."]
    if not metrics:
        return lines[0]
    simulated = metrics.get("source") == "simulated"
    head = [f"**{names.SIMULATED}**"] if simulated else []
    models, verdict = metrics.get("models", {}), metrics.get("verdict", {})
    reasons = [f"- {names.plain(reason, models)}" for reason in verdict.get("reasons", [])]
    reasons += [f"- **{names.plain(remark, models)}**" for remark in metrics.get("remarks", [])]
    rows = [
        "| model | labels seen | average precision on validation | on untouched |",
        "|---|---|---|---|",
    ]
    for model, entry in models.items():
        cells = (_cell(entry.get(period)) for period in ("validation", "untouched"))
        seen = names.LABELS_SEEN_IN_SHORT.get(entry.get("train_on"), "none")
        rows.append(
            f"| {names.label(model).replace('|', chr(92) + '|')} | {seen} | {' | '.join(cells)} |"
        )
    parts = [
        *head,
        f"**As this run decided: {names.headline(metrics, now)}**",
        "\n".join(reasons),
        "\n".join(rows),
        *lines,
    ]
    return "\n\n".join(parts)


def figures(metrics):
    """The headline figures of every model and, under `champion`, of the champion: what is worth
    comparing runs by.
    """
    models = {
        model: {
            period: {m: entry[period][m] for m in names.HEADLINE if m in entry[period]}
            for period in PERIODS & {*entry}
        }
        for model, entry in metrics.get("models", {}).items()
    }
    champion = names.champion_entry(metrics)
    return models | ({"champion": models[champion]} if champion in models else {})


def _cell(figures):
    figure = (figures or {}).get("average_precision", {"value": None})
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
