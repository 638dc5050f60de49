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


def headline(metrics, now=None):
    """What a run decided, in a sentence, and what has become of it since.

    metrics : the run's metrics.json; now : lib.serving.Now, what is served at this moment; None: nobody has looked
    """
    champion, verdict = metrics.get("champion"), metrics.get("verdict", {})
    if champion is None:
        return "No champion: nothing is served from this run."
    is_promotion = verdict.get("action") == "promote"
    model, version = label(champion["model"]), f"{champion['name']} version {champion['version']}"
    since = _since(champion, now)
    if since:
        did = "This run promoted" if is_promotion else "This run kept"
        return f"{did} {model}, {version}; since then {since}."
    return f"{model} {'was promoted to' if is_promotion else 'remains'} champion, {version}."


def _since(champion, now):
    """What has become of a run's champion since; empty where it still is the champion, or nobody knows."""
    if now is None or now.champion is None or now.champion.name != champion["name"]:
        return ""
    if now.champion.version == str(champion["version"]):
        return ""
    why = (now.withdrawn or {}).get(str(champion["version"]))
    what = f"it was withdrawn ({why})" if why else "another has taken its place"
    return f"{what}, and version {now.champion.version} is the champion"


def plain(reason, models=()):
    """A sentence of the gate with models and metrics called as people call them, and a capital at its start."""
    names = {model: label(model) for model in {*_FAMILIES, *models}} | HEADLINE
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    text = re.sub(rf"(?<![\w@=])(?:{pattern})(?![\w@=])", lambda found: names[found[0]], reason)
    return text[:1].upper() + text[1:]
