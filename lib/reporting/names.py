"""Name models and metrics for people, the same in figures, tables, pages and MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from lib.data.budgets import Budget
from lib.data.columns import one_line

# lib.registry.serving.Now, what is served at a moment: reporting must not know the registry
Now = Any
NOT_EXPORTED = "done, not exported"  # how a run ends that leaves another bundle being served
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
VARIANTS = {  # what tells candidates of a family apart -> in words
    "train_on=all": "no labels",
    "log=never": "no logarithm",
    "isolated=0.15": "15 % isolated",
    "max_samples=8192": "larger trees",
    ",": ", ",
}
# of detectors that a user's own notebooks fit; see `introduce`
_OWN: dict[str, Mapping[str, str]] = {}
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
    "nearest_neighbours",
    "robust_covariance",
    "empirical_tails",
    "fusion",
    "few_labels",
    "supervised_trees",
}
_FAMILIES |= LOWER
_SETTING = r"\w+=\w+(?:\.\w+)?"
_VARIANT = f"@{_SETTING}(?:,{_SETTING})*"  # what stands behind a family's name


def introduce(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Call a user's own detectors, from now on, as their notebooks say: label and colour.

    models : {candidate: its manifest, or its entry in a run's metrics.json}; those that have no
        `shown` are called after their name
    """
    for model, entry in models.items():
        if "shown" in entry:
            _OWN[model.partition("@")[0]] = entry["shown"]


def own_colour(model: str) -> str | None:
    """Return the colour that a user's notebook has chosen for its candidate; None without one."""
    return _OWN.get(model.partition("@")[0], {}).get("colour")


def label(model: str) -> str:
    """Return a candidate's name as people read it: `gaussian_mixture` -> `Gaussian mixture`."""
    family, _, variant = model.partition("@")
    text = _OWN.get(family, {}).get("label") or _MODELS.get(family, family.replace("_", " "))
    if family not in LOWER:
        # not `capitalize`, which would lower the rest: Gaussian
        text = text[0].upper() + text[1:]
    if not variant:
        return text
    for parameter, words in VARIANTS.items():
        variant = variant.replace(parameter, words)
    return f"{text} ({variant})"


def code(name: str) -> str:
    """Return a name of a user's column as code in Markdown, whatever characters it has."""
    text = one_line(name)
    inside = re.findall("`+", text)
    longest = max(map(len, inside), default=0)
    # Markdown ends code at the next fence of the same length
    fence = "`" * (longest + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def headings(budget: Budget | None) -> dict[str, str]:
    """Return {metric: its name for people}; of those at a budget, `recall at 285 a day`.

    budget : None where it is not known
    """
    at = " at the alert budget" if budget is None else f" at {budget.short}"
    return {
        metric: f"{text}{at}" if metric in SHARES else text for metric, text in HEADLINE.items()
    }


def budget_of(metrics: Mapping[str, Any]) -> Budget | None:
    """Return the budget that a run's metrics.json has; None where it has none."""
    share = metrics.get("alert_budget")
    return Budget(share, metrics.get("transactions_per_day")) if share else None


def is_judged(entry: Mapping[str, Any], period: str) -> bool:
    """Return whether a model has any figure on a period; without labels it has none."""
    return any(figure["value"] is not None for figure in entry.get(period, {}).values())


def period_shown(entry: Mapping[str, Any]) -> str:
    """Return the period whose figures speak for a model: untouched where it is judged there.

    Empty where no label judges it.
    """
    judged = [period for period in ("untouched", "validation") if is_judged(entry, period)]
    return judged[0] if judged else ""


def champion_entry(metrics: Mapping[str, Any]) -> str | None:
    """Return under which name a run's metrics.json has the champion's own figures.

    None where it could not be scored, or there is no champion.
    A champion that stays is not this run's candidate of the same kind.
    """
    champion = metrics.get("champion") or {}
    return champion.get("figures", champion.get("model"))


def headline(metrics: Mapping[str, Any], now: Now | None = None) -> str:
    """Return what a run decided, in a sentence, and what has become of it since.

    metrics : the run's metrics.json
    now : what is served at this moment; None: nobody has looked
    """
    champion = metrics.get("champion")
    verdict = metrics.get("verdict", {})
    if champion is None:
        return "No champion: nothing is served from this run."
    is_promotion = verdict.get("action") == "promote"
    model = label(champion["model"])
    version = f"{champion['name']} version {champion['version']}"
    since = became_of(champion, now)
    if since:
        is_new = is_promotion and not verdict.get("resets")
        did = "This run promoted" if is_new else "This run kept"
        return f"{did} {model}, {version}; since then {since}."
    if verdict.get("resets"):
        return (
            f"{model} stays champion; its threshold is now set for {verdict['resets']} ({version})."
        )
    did = "was promoted to" if is_promotion else "remains"
    return f"{model} {did} champion, {version}."


def when(instant: str) -> str:
    """Return `2026-11-27T01:15:41+00:00` as people write it, `27 November 2026, 01:15 UTC`.

    As it is where it is no time.
    """
    try:
        time = datetime.fromisoformat(instant).astimezone(UTC)
    except ValueError:
        return instant
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def served_facts(now: Now) -> dict[str, str]:
    """Return what is served from the server's folder, {what: text}; {} where nothing is.

    The same words on page and console: model, version, threshold, since, exported.
    """
    bundle = now.bundle
    if bundle is None:
        return {}
    facts = {"model": label(bundle.model) if bundle.model else "unknown"}
    facts["version"] = f"{bundle.name} version {bundle.version}"
    if bundle.threshold is not None:
        facts["threshold"] = f"{bundle.threshold:.6f}"
    if bundle.refit:
        facts["fitted anew on"] = bundle.refit
    if bundle.budget:
        facts["set for"] = bundle.budget
    if now.is_exported and now.champion.since:
        facts["champion since"] = when(now.champion.since)
    if bundle.since:
        facts["exported"] = when(bundle.since)
    if bundle.run:
        facts["by run"] = bundle.run
    return facts


def served_title(now: Now) -> str:
    """Return what is served, in a few words, `Served now: Robust covariance`."""
    if now.damage:
        return "Served now: nothing, the bundle is damaged"
    if now.bundle is None:
        return "Served now: nothing"
    return f"Served now: {label(now.bundle.model) if now.bundle.model else now.bundle.name}"


REFITTED = (
    "What is served is a refit. The figures and the model card of a run are of the model as it was "
    "compared; alerts and their verdict are of what is served."
)


def served_remarks(now: Now) -> list[str]:
    """Return what else must be known of what is served: sentences; [] where all is as it should."""
    if now.is_exported:
        return [REFITTED] if now.bundle is not None and now.bundle.refit else []
    # the last sentences are on the folder, the first is on the champion
    return served(now) if now.bundle is None or now.damage else _differs(now)


def _differs(now: Now) -> list[str]:
    told = served(now)
    return [told[0], *told[2:]]


def served(now: Now) -> list[str]:
    """Return what is served at a moment, in sentences, with models called as people call them."""
    sentences = []
    for sentence in now.sentences():
        for model in (now.champion, now.bundle):
            if model is not None and model.model:
                sentence = sentence.replace(f"({model.called})", f"({label(model.model)})")
        sentences.append(sentence)
    return sentences


def became_of(champion: Mapping[str, Any] | None, now: Now | None) -> str:
    """Return what has become of a run's champion since.

    Empty where it still is the champion, or nobody knows.
    """
    if champion is None or now is None or now.champion is None:
        return ""
    if now.champion.name != champion["name"]:
        return ""
    # a number in older files, text in MLflow
    version = str(champion["version"])
    if now.champion.version == version:
        return ""
    withdrawn = now.withdrawn or {}
    why = withdrawn.get(version)
    what = f"it was withdrawn ({why})" if why else "another has taken its place"
    return f"{what}, and version {now.champion.version} is the champion"


def what_drifted(step: Mapping[str, Any]) -> list[str]:
    """Return the features that have drifted in a batch; a category with the value that has moved.

    For example `amount` and `category: travel 0.4 % → 2.1 %`.

    step : of a simulated production, as `lib.production.monitoring.look` gives it
    """
    moved = step.get("moved", {})
    words = []
    for name in step["drifted"]:
        shown = one_line(name)
        words.append(f"{shown}: {moved[name]}" if name in moved else shown)
    return words


def plain(reason: str, models: Iterable[str] = ()) -> str:
    """Return a sentence of the gate with models and metrics called as people call them.

    It begins with a capital.
    """
    names = {}
    for model in {*_FAMILIES, *_OWN, *models}:
        names[model] = label(model)
    names |= HEADLINE
    # the longest first: `fusion` must not win over `fusion@latent=4`
    longest_first = sorted(names, key=len, reverse=True)
    either = "|".join(map(re.escape, longest_first))
    families = "|".join(sorted({*_FAMILIES, *_OWN}))
    # a whole name only, not a part of a longer one; of a variant also where nobody has listed it
    whole = rf"(?<![\w@=])(?:{either}|(?:{families}){_VARIANT})(?![\w@=])"
    text = re.sub(whole, lambda found: names.get(found[0]) or label(found[0]), reason)
    return text[:1].upper() + text[1:]
