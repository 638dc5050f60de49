"""Write results of runs into README and docs/results.md, between markers, and copy their figures.

Usage: python benchmarks/readme.py reports/<run> [reports/<run with 12_stability>
[reports/<run with 12_stability over tables>]]
"""

import re
import shutil
import sys
from pathlib import Path

from lib.data import labels_seen
from lib.data.datasets import ROOT
from lib.evaluation.figures import cell, number
from lib.files import read_json, write_text
from lib.reporting.names import budget_of, label

RESULTS = ROOT / "docs" / "results.md"
FIGURES = ("09_comparison-precision-recall", "09_comparison-money", "11_production-timeline")
METRICS = {
    "average_precision": "average precision",
    "recall_at_budget": "recall",
    "precision_at_budget": "precision",
    "amount_recall_at_budget": "money caught",
}


def results(metrics, shown=METRICS):
    """The results as Markdown: a table of validation and untouched, then who was chosen.

    shown : the figures on untouched, {metric: name}
    """
    models, budget = metrics["models"], budget_of(metrics)
    period = "untouched" if any("untouched" in m for m in models.values()) else "validation"
    rows = {name: m for name, m in models.items() if period in m}
    order = sorted(rows, key=lambda name: -_precision(rows[name]))
    heads = ["model", "labels seen", "validation: average precision"]
    heads += [f"{period}: {text}" for text in shown.values()]
    lines = [_line(heads), "|---|---|" + "---:|" * (len(heads) - 2)]
    first = rows[order[0]][period]
    perfect = [
        cell({**first[f"ceiling_{m}"], "low": None}, 2) if "budget" in m else "1.00" for m in shown
    ]
    lines.append(_line(["*perfect ranking*", "", "1.00", *perfect]))
    for name in order:
        model = rows[name]
        seen = labels_seen.in_short(model.get("train_on"), model.get("labels_in_features"))
        cells = [cell(model[period][m], 2) for m in shown]
        decided = cell(model["validation"]["average_precision"], 2)
        lines.append(_line([label(name).replace("|", "\\|"), seen, decided, *cells]))
    champion = metrics["champion"]
    chosen = f"Champion, chosen on validation: {label(champion['model'])}. " if champion else ""
    periods = metrics["splits"]
    counts = ", ".join(
        f"{n} {periods[n]['n']:,} rows ({periods[n]['n_frauds']} frauds)"
        for n in ("reference", "validation", "untouched")
    )
    *names, last = [name for m, name in shown.items() if "budget" in m]
    at_budget = f"{', '.join(names)} and {last}".capitalize()
    note = (
        f"{chosen}{at_budget} where people review {budget}; in brackets 95 % "
        f"intervals. {counts}; seed {metrics['seed']}."
    )
    return "\n".join([*lines, "", note])


def _precision(model):
    return model["validation"]["average_precision"]["value"] or 0


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def stability(metrics):
    """Mean, worst and best of all seeds as Markdown, a column a cut; `metrics` of 12_stability."""
    spread = metrics["spread"]
    cuts = sorted(
        {key.split("/", 2)[2] for key in spread},
        key=lambda cut: (cut in metrics["final_cuts"], cut),
    )
    final = {cut: " (final)" * (cut in metrics["final_cuts"]) for cut in cuts}
    heads = [
        f"{cut}{final[cut]}: {name}" for cut in cuts for name in ("average precision", "recall")
    ]
    lines = [
        "| model | labels seen | " + " | ".join(heads) + " |",
        "|---|---|" + "---:|" * len(heads),
    ]
    rows = {key.rpartition(f"/{cuts[0]}")[0] for key in spread if key.endswith(f"/{cuts[0]}")}
    for row in sorted(
        rows, key=lambda row: -spread[f"{row}/{cuts[0]}"]["average_precision"]["value"]
    ):
        model, regime = row.split("/")
        seen = labels_seen.in_short(regime)
        cells = [
            _worst_and_best(spread[f"{row}/{cut}"][m]) for cut in cuts for m in list(METRICS)[:2]
        ]
        lines.append(_line([label(model), seen, *cells]))
    return "\n".join(lines)


def by_table(metrics):
    """Average precision and rank as Markdown, a column a table; `metrics` of 12_stability."""
    found = metrics["by_table"]
    tables = list(next(iter(found["genuine"].values()))["tables"])
    # the same for all models of a table, so that its heading says it once
    known = metrics.get("labels_in_features", {})
    named = []
    for table in tables:
        in_features = f" ({known[table]} in features)" if known.get(table) else ""
        named.append(table.replace("_", " ") + in_features)
    heads = ["model", "labels seen", "mean rank", *named]
    lines = [_line(heads), "|---|---|" + "---:|" * (len(heads) - 2)]
    for regime, models in found.items():
        for model in sorted(models, key=lambda name: models[name]["mean_rank"]):
            entry = models[model]
            cells = [
                f"{number(of_table['average_precision'])} ({of_table['rank']:g})"
                for of_table in entry["tables"].values()
            ]
            seen = labels_seen.in_short(regime)
            lines.append(_line([label(model), seen, f"{entry['mean_rank']:.1f}", *cells]))
    return "\n".join(lines)


def _worst_and_best(figure):
    # not as an interval is written: these are the worst and the best of all seeds
    worst, best = number(figure["low"]), number(figure["high"])
    return f"{number(figure['value'])} ({worst} … {best})"


def replaced(text, name, content):
    """`text` with `content` between the markers of this name."""
    block = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
    return re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: block, text, flags=re.S)


def copied(run_dir, stems):
    """Copy these figures of a run to docs/, under their names without the stage."""
    (ROOT / "docs").mkdir(exist_ok=True)
    for stem in stems:
        source = run_dir / "figures" / f"{stem}.png"
        if source.is_file():
            shutil.copyfile(source, ROOT / "docs" / f"{stem.partition('-')[2]}.png")


def main(run_dir, stable_dir="", tables_dir=""):
    """Write the tables of a run, and of one with 12_stability, and copy their figures."""
    run_dir = Path(run_dir)
    metrics = read_json(run_dir / "metrics.json")
    front = {name: text for name, text in METRICS.items() if name != "precision_at_budget"}
    rewrite(ROOT / "README.md", "results", results(metrics, front))
    rewrite(RESULTS, "results", results(metrics))
    copied(run_dir, FIGURES)
    if stable_dir:
        found = read_json(Path(stable_dir) / "stages" / "12_stability" / "metrics.json")
        rewrite(RESULTS, "stability", stability(found))
        copied(Path(stable_dir), ["12_stability-spread"])
    if tables_dir:
        found = read_json(Path(tables_dir) / "stages" / "12_stability" / "metrics.json")
        rewrite(ROOT / "README.md", "tables", by_table(found))


def rewrite(page, name, content):
    """Put `content` between the markers of this name in a page."""
    write_text(page, replaced(page.read_text(encoding="utf-8"), name, content))


if __name__ == "__main__":
    main(*sys.argv[1:])
