"""The rule that lets a model through: which candidate, if any, becomes champion. Pure; nothing is read or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DIRECTION = "higher is better"  # of every metric in lib.metrics, and so of the one that selects


@dataclass(frozen=True)
class Candidate:
    """A fitted model on this validation.

    figure : {"value", "low", "high"} of the selecting metric.
    supervised : whether it was fitted with labels of fraud.
    bundle_hash : `lib.bundle.bundle_hash` of it as it would be registered.
    difference : {"value", "low", "high"}, its metric minus the champion's on the same resamples; None without one.
    """

    name: str
    figure: Mapping
    supervised: bool = False
    bundle_hash: str = ""
    difference: Mapping | None = None


@dataclass(frozen=True)
class Champion:
    """The model that holds the alias now.

    figure : the selecting metric on this validation; None if the champion could not be scored on it.
    fit_start_s, fit_end_s : the time its fitted transactions span, in the seconds of this dataset.
    """

    version: str
    bundle_hash: str
    fit_start_s: float
    fit_end_s: float
    figure: Mapping | None = None


@dataclass(frozen=True)
class Verdict:
    """promote : the candidate to register, or None; reasons : sentences, in the order of the decision.

    action : 'promote'; 'keep', the champion stays; 'none', no candidate is good enough to be compared with it.
    """

    promote: str | None
    reasons: list[str]
    action: str


def decide(
    candidates: Sequence[Candidate],
    naive: Mapping[str, float | None],
    champion: Champion | None,
    *,
    metric: str,
    validation_s: tuple[float, float],
    accept: bool = False,
    allow_supervised: bool = False,
) -> Verdict:
    """Choose the candidate with the highest metric and hold it against naive rules and champion.

    Parameters
    ----------
    candidates : in order of preference: of equal values the first one is chosen.
    naive : value of the metric for each naive rule; the candidate must be strictly above all of them.
    champion : None if there is none yet.
    metric : name of the selecting metric, higher is better.
    validation_s : first and last instant of this validation. A champion fitted on any of it has seen its
        answers, so that comparing it would favour the champion.
    accept : promote although the champion cannot be compared; a person has decided so.
    allow_supervised : let models fitted with labels of fraud compete.
    """
    known = [c for c in candidates if c.figure["value"] is not None]
    eligible = [c for c in known if allow_supervised or not c.supervised]
    reasons = [f"{c.name} was fitted with labels and takes no part" for c in known if c not in eligible]
    if not eligible:
        return Verdict(None, [*reasons, f"no candidate has a value of {metric}"], "none")
    best = max(eligible, key=lambda c: c.figure["value"])
    reasons.append(
        f"{best.name} has the best {metric} of {len(eligible)} candidates: {_text(best.figure)}, {DIRECTION}"
    )

    beaten_by = {rule: value for rule, value in naive.items() if value is not None and value >= best.figure["value"]}
    if beaten_by:
        rules = ", ".join(f"{rule} ({value:.4f})" for rule, value in beaten_by.items())
        return Verdict(None, [*reasons, f"it does not beat the naive rule {rules}"], "none")
    reasons.append(f"it beats the naive rules {', '.join(naive)}" if naive else "there is no naive rule to beat")

    if champion is None:
        return Verdict(best.name, [*reasons, "there was no champion before it"], "promote")
    if champion.bundle_hash == best.bundle_hash:
        return Verdict(None, [*reasons, f"it is identical to the champion, version {champion.version}"], "keep")

    obstacle = _incomparable(best, champion, validation_s)
    if obstacle:
        if accept:
            return Verdict(best.name, [*reasons, f"{obstacle}; accepted without a comparison"], "promote")
        return Verdict(None, [*reasons, f"{obstacle}; pass --accept to promote without a comparison"], "keep")

    comparison = f"the champion, version {champion.version}, has {_text(champion.figure)}; "
    comparison += f"the paired difference is {_text(best.difference)}"
    upper = best.difference["value"] if best.difference["high"] is None else best.difference["high"]
    if upper < 0:
        return Verdict(None, [*reasons, f"it loses to the champion: {comparison}"], "keep")
    return Verdict(best.name, [*reasons, f"it does not lose to the champion: {comparison}"], "promote")


def _incomparable(best, champion, validation_s):
    """Why challenger and champion cannot be compared on this validation, or None."""
    start, end = validation_s
    if champion.fit_start_s <= end and champion.fit_end_s >= start:
        return (
            f"the champion, version {champion.version}, was fitted on transactions from {champion.fit_start_s:.0f} s "
            f"to {champion.fit_end_s:.0f} s, which overlaps this validation ({start:.0f} s to {end:.0f} s)"
        )
    if champion.figure is None or champion.figure["value"] is None or best.difference is None:
        return f"the champion, version {champion.version}, could not be scored on this validation"
    return None


def _text(figure):
    if figure["low"] is None:
        return f"{figure['value']:.4f} (no interval)"
    return f"{figure['value']:.4f} (95 % interval {figure['low']:.4f} to {figure['high']:.4f})"
