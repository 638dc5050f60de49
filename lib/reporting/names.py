"""Name models and metrics for people, the same in figures, tables, pages and MLflow."""

import re

from lib.data.columns import one_line

HEADLINE = {
    "average_precision": "average precision",
    "recall_at_budget": "recall",
    "precision_at_budget": "precision",
    "amount_recall_at_budget": "money caught",
    "recall_at_fpr_0.01": "recall at 1 % false positives",
    "roc_auc": "ROC AUC",
}
SHARES = {metric: text for metric, text in HEADLINE.items() if metric.endswith("_at_budget")}
_MODELS = {
    "gaussian_mixture": "Gaussian mixture",
    "max_abs_z": "largest |z|",
    "amount": "amount alone",
}
LOWER = {"random", "max_abs_z", "amount"}
SOURCES = {
    "full": "the published file, as its fingerprint proves",
    "custom": "a file of the user's own",
    "simulated": "simulated transactions",
}
SIMULATED = (
    "Simulated transactions: nobody has ever made them, and figures on them say nothing about "
    "real fraud."
)
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


def label(model):
    """A candidate's name as people read it: `gaussian_mixture` -> `Gaussian mixture`."""
    family, _, variant = model.partition("@")
    text = _MODELS.get(family, family.replace("_", " "))
    text = text if family in LOWER else text[0].upper() + text[1:]
    return f"{text} ({variant.replace('train_on=all', 'no labels')})" if variant else text


def code(name):
    """A name of a user's column as code in Markdown, whatever characters it has."""
    text = one_line(name)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def champion_entry(metrics):
    """Under which name a run's metrics.json has the champion's own figures, None where it could not
    be scored.

    A champion that stays is not this run's candidate of the same kind.
    """
    champion = metrics.get("champion") or {}
    return champion.get("figures", champion.get("model"))


def headline(metrics, now=None):
    """What a run decided, in a sentence, and what has become of it since.

    metrics : the run's metrics.json; now : lib.registry.serving.Now, what is served at this moment;
        None: nobody has looked
    """
    champion, verdict = metrics.get("champion"), metrics.get("verdict", {})
    if champion is None:
        return "No champion: nothing is served from this run."
    is_promotion = verdict.get("action") == "promote"
    model, version = label(champion["model"]), f"{champion['name']} version {champion['version']}"
    since = became_of(champion, now)
    if since:
        did = "This run promoted" if is_promotion else "This run kept"
        return f"{did} {model}, {version}; since then {since}."
    return f"{model} {'was promoted to' if is_promotion else 'remains'} champion, {version}."


def became_of(champion, now):
    """What has become of a run's champion since; empty where it still is the champion, or nobody
    knows.
    """
    if champion is None or now is None or now.champion is None:
        return ""
    if now.champion.name != champion["name"]:
        return ""
    if now.champion.version == str(champion["version"]):
        return ""
    why = (now.withdrawn or {}).get(str(champion["version"]))
    what = f"it was withdrawn ({why})" if why else "another has taken its place"
    return f"{what}, and version {now.champion.version} is the champion"


def plain(reason, models=()):
    """A sentence of the gate with models and metrics called as people call them, and a capital at
    its start.
    """
    names = {model: label(model) for model in {*_FAMILIES, *models}} | HEADLINE
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    text = re.sub(rf"(?<![\w@=])(?:{pattern})(?![\w@=])", lambda found: names[found[0]], reason)
    return text[:1].upper() + text[1:]
