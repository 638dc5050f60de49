"""Tags and descriptions of registered models, for whoever finds one in MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LIMIT = 5000  # characters that MLflow's database has for a description


def version_tags(manifest: dict) -> dict[str, str]:
    """Return tags that say what a registered version is: {tag: text}."""
    tags = {
        "model": manifest["model"],
        "train_on": manifest["fit"]["train_on"],
        "dataset": manifest["dataset"]["name"],
        "source": manifest["dataset"]["source"],
    }
    threshold = manifest.get("threshold", {})
    known = {
        "threshold": threshold.get("anomaly_score"),
        "alert_budget": threshold.get("alert_budget"),
    }
    return tags | {tag: repr(value) for tag, value in known.items() if value is not None}


def known(version: Any) -> dict:
    """Return as much of a manifest as the tags of a `mlflow_store.Version` say."""
    threshold = {"anomaly_score": version.threshold, "alert_budget": version.alert_budget}
    return {"model": version.model or "unknown", "threshold": threshold}


def version(manifest: dict, reasons: Iterable[str]) -> str:
    """Return why a version was promoted, in the sentences that were given."""
    said = [f"- {reason}" for reason in reasons]
    if not said:
        return ""
    return "\n".join([f"{manifest['model']}, promoted because:", "", *said])


def registered(manifest: dict, folder: Path) -> str:
    """Describe a registered model: what its aliases mean, and the champion's model card."""
    about = (
        f"Fraud detector for `{manifest['dataset']['name']}`: an ONNX graph from features to raw "
        "score, higher = more anomalous, with its manifest. The version with the alias `champion` "
        "is exported and served; `previous` is the one before it."
    )
    card = Path(folder) / "model_card.md"
    if not card.is_file():
        return about
    text = re.sub(
        "^# ", "## The champion: ", card.read_text(encoding="utf-8").replace("\n## ", "\n### ")
    )
    return f"{about}\n\n{text}"[:LIMIT]
