"""Write a run's results into the README, between its markers, and copy the figures that it shows.

Usage: python benchmarks/readme.py reports/<run>
"""

import json
import re
import shutil
import sys
from pathlib import Path

from lib.datasets import ROOT
from lib.plots import label
from lib.report import LABELS
from lib.tables import cell

FIGURES = ("06_comparison-precision-recall", "06_comparison-money", "08_production-timeline")
METRICS = {
    "average_precision": "average precision",
    "recall_at_budget": "recall",
    "precision_at_budget": "precision",
    "amount_recall_at_budget": "money caught",
}


def results(metrics):
    """The results as Markdown: protocol, then a table for untouched (or validation where there is none)."""
    models, budget = metrics["models"], metrics["alert_budget"]
    period = "untouched" if any("untouched" in m for m in models.values()) else "validation"
    rows = {name: m for name, m in models.items() if period in m}
    order = sorted(rows, key=lambda name: -(rows[name]["validation"]["average_precision"]["value"] or 0))
    heads = ["model", "labels seen", "validation: average precision", *(f"{period}: {t}" for t in METRICS.values())]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    first = rows[order[0]][period]
    perfect = [cell({**first[f"ceiling_{m}"], "low": None}, 2) if "budget" in m else "1.00" for m in METRICS]
    lines.append("| " + " | ".join(["*perfect ranking*", "", "1.00", *perfect]) + " |")
    for name in order:
        model = rows[name]
        cells = [cell(model[period][m], 2) for m in METRICS]
        seen = LABELS.get(model.get("train_on"), "none")
        lines.append(
            "| " + " | ".join([label(name), seen, cell(model["validation"]["average_precision"], 2), *cells]) + " |"
        )
    champion = metrics["champion"]
    chosen = f"Champion, chosen on validation: {label(champion['model'])}. " if champion else ""
    periods = metrics["splits"]
    counts = ", ".join(
        f"{n} {periods[n]['n']:,} rows ({periods[n]['n_frauds']} frauds)"
        for n in ("reference", "validation", "untouched")
    )
    note = f"{chosen}Recall, precision and money at an alert budget of {budget:g}; in brackets 95 % intervals."
    note += f" {counts}; seed {metrics['seed']}."
    return "\n".join([*lines, "", note])


def main(run_dir):
    run_dir, readme = Path(run_dir), ROOT / "README.md"
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    text = readme.read_text(encoding="utf-8")
    block = f"<!-- results -->\n{results(metrics)}\n<!-- /results -->"
    readme.write_text(
        re.sub(r"<!-- results -->.*?<!-- /results -->", lambda _: block, text, flags=re.S), encoding="utf-8"
    )
    (ROOT / "docs").mkdir(exist_ok=True)
    for stem in FIGURES:
        source = run_dir / "figures" / f"{stem}.png"
        if source.is_file():
            shutil.copyfile(source, ROOT / "docs" / f"{stem.partition('-')[2]}.png")


if __name__ == "__main__":
    main(sys.argv[1])
