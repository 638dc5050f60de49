"""Word sources and verdicts for people, the same on pages, cards, console and in MLflow; names are in `names`."""

import re

from lib.names import HEADLINE, LOWER, SHARES, label  # noqa: F401 - pages and cards find all words here

LABELS_SEEN = {"genuine": "frauds removed", "labels": "in the fit"}
SOURCES = {
    "full": "the published file, as its fingerprint proves",
    "custom": "a file of the user's own",
    "simulated": "simulated transactions",
}
SIMULATED = "Simulated transactions: nobody has ever made them, and figures on them say nothing about real fraud."
_FAMILIES = {
    "isolation_forest",
    "autoencoder",
    "gaussian_mixture",
    "robust_covariance",
    "fusion",
    "few_labels",
    "supervised_boosting",
}
_FAMILIES |= LOWER


def champion_entry(metrics):
    """Under which name a run's metrics.json has the champion's own figures, None where it could not be scored.

    A champion that stays is not this run's candidate of the same kind.
    """
    champion = metrics.get("champion") or {}
    return champion.get("figures", champion.get("model"))


def headline(metrics):
    """What a run decided, in a sentence; `metrics`: the run's metrics.json."""
    champion, verdict = metrics.get("champion"), metrics.get("verdict", {})
    if champion is None:
        return "No champion: nothing is served from this run."
    did = "was promoted to" if verdict.get("action") == "promote" else "remains"
    return f"{label(champion['model'])} {did} champion, {champion['name']} version {champion['version']}."


def plain(reason, models=()):
    """A sentence of the gate with models and metrics called as people call them, and a capital at its start."""
    names = {model: label(model) for model in {*_FAMILIES, *models}} | HEADLINE
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    text = re.sub(rf"(?<![\w@=])(?:{pattern})(?![\w@=])", lambda found: names[found[0]], reason)
    return text[:1].upper() + text[1:]
