"""Is a deployed model still good? The one rule, in words: as expected, watch, or act.

Labels decide where there are any; without them the alert rate, an estimate and drift of the score
stand in, which call for a look, not for a new model. `docs/production.md` says how often the rule
is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lib.data.columns import one_line
from lib.evaluation.figures import Figure, number
from lib.evaluation.figures import rate as shown

AS_EXPECTED = "as expected"
WATCH = "watch"
ACT = "act"
LEVELS = (AS_EXPECTED, WATCH, ACT)
FAR = 2.0  # times as many alerts as expected, or as few: more than a matter of chance or season
# half-widths of a 95 % interval that make one of 99 %, and one of 99.9 %
LIKELY = 2.576 / 1.96
SURE = 3.291 / 1.96
LOSS = 0.1  # of a promised figure, that calls for acting: less is no reason, however sure
N_NAMED = 5  # features that a sentence names
RETRAIN = (
    "Retrain once a table holds enough newer labelled transactions: make pipeline with it and with "
    "the parameters of before (docs/production.md says how, weekly); until then expect figures as "
    "these."
)
FIX = (
    "Look at the columns that have drifted, and at the feed they come from; if the data are right, "
    "retrain, which sets the threshold anew."
)
WAIT = "Score the table again when more labels are known; if it stays below, retrain."
AGAIN = "Look at the frauds that were missed; if the next table is below, too, retrain."
STRICT = "a budget of more reviews would lower it"
LOWER = (
    "Look at the columns that have drifted, and at the feed they come from; if the data are right, "
    "the threshold is too strict: make pipeline ARGS='--from comparison -p reviews_per_day N' "
    "sets it for more reviews a day."
)
LOOK = "Look at the alerts and at the columns that have drifted; if it is the same next week, act."
NOTHING = "Nothing to do."


@dataclass(frozen=True)
class Evidence:
    """What is known of one table of transactions, and what was to be expected.

    Parameters
    ----------
    alert_rate, alert_low, alert_high : share of weight that is alerts, and the band in which it is
        expected for so many transactions
    expected_rate : in the middle of the band
    n, n_alerts : transactions, and alerts among them
    is_weighted : whether shares count rows by weights
    n_known : transactions of the time that the model was fitted on or its threshold was set by
    is_labelled : whether all labels are known
    promised, realised : figures by name (`precision`, `recall`, `amount_recall`), of validation and
        of this table's labels; a figure that is not known is absent or has no value
    estimated_precision : without labels, from how likely fraud was at each score; a figure
    drifted : features that have drifted; None where nobody has looked
    score_drifted : whether the score has
    n_features : of the model
    """

    alert_rate: float
    alert_low: float
    alert_high: float
    expected_rate: float
    n: int
    n_alerts: int
    is_weighted: bool = False
    n_known: int = 0
    is_labelled: bool = False
    promised: Mapping[str, Figure] = field(default_factory=dict)
    realised: Mapping[str, Figure] = field(default_factory=dict)
    estimated_precision: Figure | None = None
    drifted: Sequence[str] | None = None
    score_drifted: bool = False
    n_features: int = 0


@dataclass(frozen=True)
class Finding:
    """One sentence, how much it matters, and what to do about it."""

    level: str
    sentence: str
    next_step: str = NOTHING


@dataclass(frozen=True)
class Judgement:
    """The verdict: a word of `LEVELS`, why, and what to do next."""

    word: str
    reasons: tuple[str, ...]
    next_step: str

    def to_dict(self) -> dict:
        """Return what json.dumps takes."""
        return {"word": self.word, "reasons": list(self.reasons), "next_step": self.next_step}


def judge(evidence: Evidence) -> Judgement:
    """Return the verdict on one table; the findings that decide come first."""
    found = [*_of_time(evidence), *_of_labels(evidence), *_of_alerts(evidence)]
    found += [*_of_estimate(evidence), *_of_drift(evidence)]
    found.sort(key=lambda finding: -LEVELS.index(finding.level))
    worst = found[0]
    return Judgement(
        word=worst.level,
        reasons=tuple(finding.sentence for finding in found),
        next_step=worst.next_step,
    )


def _of_time(evidence: Evidence) -> Iterator[Finding]:
    """Yield how much of the table the model has known before: figures on that flatter it."""
    if evidence.n_known:
        yield Finding(
            AS_EXPECTED,
            f"{evidence.n_known:,} of {evidence.n:,} transactions are of the time that the model "
            "was fitted on or its threshold was set by: the figures flatter it.",
        )


def _of_labels(evidence: Evidence) -> Iterator[Finding]:
    """Yield what labels say of precision and recall: below what was promised, or not."""
    for name in ("recall", "precision"):
        found, promised = evidence.realised.get(name), evidence.promised.get(name)
        if not _is_known(found):
            continue
        said = f"{name.capitalize()} is {_with_bounds(found)}"
        if not _is_known(promised):
            yield Finding(AS_EXPECTED, f"{said}; nobody knows what to expect.")
            continue
        said += f", validation promised {_with_bounds(promised)}"
        below = _below(found, promised)
        is_large = found["value"] < (1 - LOSS) * promised["value"]
        if below > SURE and is_large:
            yield Finding(ACT, f"{said}: clearly below.", RETRAIN)
        elif below > LIKELY:
            yield Finding(
                WATCH, f"{said}: probably below.", AGAIN if evidence.is_labelled else WAIT
            )
        else:
            yield Finding(AS_EXPECTED, f"{said}.")


def counted(n_alerts: int) -> str:
    """Return a number of alerts as text."""
    return "1 alert" if n_alerts == 1 else f"{n_alerts:,} alerts"


def _of_alerts(evidence: Evidence) -> Iterator[Finding]:
    """Yield what the alert rate says: people are given too much to review, or frauds pass by."""
    rate, low, high = evidence.alert_rate, evidence.alert_low, evidence.alert_high
    expected = f"expected {shown(low)} to {shown(high)}"
    said = f"{counted(evidence.n_alerts)} among {evidence.n:,} transactions: {shown(rate)}"
    said += f" by weight, {expected}" if evidence.is_weighted else f", {expected}"
    if not evidence.n_alerts:
        said = f"No transaction reaches the threshold; {expected} are alerts"
    if _is_in_band(evidence):
        yield Finding(AS_EXPECTED, f"{said}." if evidence.n_alerts else f"{said}; {STRICT}.")
        return
    side = "more" if rate > high else "fewer"
    is_far = rate > FAR * evidence.expected_rate or rate < evidence.expected_rate / FAR
    if is_far:
        fix = FIX if rate > high else LOWER
        yield Finding(ACT, f"{said}: far {side} than expected.", fix)
    else:
        yield Finding(WATCH, f"{said}: {side} than chance explains.", LOOK)


def _of_estimate(evidence: Evidence) -> Iterator[Finding]:
    """Yield the estimated precision, of a table whose labels are not known."""
    estimate = evidence.estimated_precision
    if not _is_known(estimate) or _is_known(evidence.realised.get("precision")):
        return
    said = f"Precision is estimated at {_with_bounds(estimate)} without labels"
    doubt = ""
    if evidence.score_drifted or not _is_in_band(evidence):
        doubt = " Scores may no longer mean what they meant on validation."
    promised = evidence.promised.get("precision")
    if not _is_known(promised):
        yield Finding(AS_EXPECTED, f"{said}.{doubt}")
        return
    said += f", validation promised {_with_bounds(promised)}"
    if _below(estimate, promised) > LIKELY:
        yield Finding(WATCH, f"{said}: below.{doubt}", LOOK)
    else:
        yield Finding(AS_EXPECTED, f"{said}.{doubt}")


def _is_in_band(evidence: Evidence) -> bool:
    """Return whether there are as many alerts as expected."""
    return evidence.alert_low <= evidence.alert_rate <= evidence.alert_high


def _of_drift(evidence: Evidence) -> Iterator[Finding]:
    """Yield what has drifted; features alone, while the score has not, change no verdict."""
    if evidence.drifted is None:
        yield Finding(
            AS_EXPECTED,
            "Reference and validation are missing: no drift was looked for.",
        )
        return
    n = len(evidence.drifted)
    named = ", ".join(one_line(name) for name in evidence.drifted[:N_NAMED])
    more = " …" if n > N_NAMED else ""
    features = f"{n} of {evidence.n_features} features ({named}{more})"
    have = "has" if n == 1 else "have"
    if evidence.score_drifted:
        also = f", and so {have} {features}" if n else ""
        if _is_vindicated(evidence):
            yield Finding(AS_EXPECTED, f"The score has drifted{also}; the labels are as promised.")
        else:
            yield Finding(WATCH, f"The score has drifted{also}.", LOOK)
    elif n:
        yield Finding(AS_EXPECTED, f"{features} {have} drifted, the score has not.")
    else:
        yield Finding(AS_EXPECTED, "Nothing has drifted.")


def _below(found: Figure, promised: Figure) -> float:
    """Return how far a figure is below another: half-widths of the difference's 95 % interval.

    That follows from the figures' own intervals by squaring and adding (Newcombe, Statistics in
    Medicine 1998); from 1 on the interval lies below 0.
    """
    half = math.hypot(promised["value"] - promised["low"], found["high"] - found["value"])
    difference = promised["value"] - found["value"]
    if half > 0:
        return difference / half
    return math.inf if difference > 0 else 0.0


def _is_vindicated(evidence: Evidence) -> bool:
    """Return whether labels say that the alerts are as good as promised, whatever has drifted."""
    for name in ("recall", "precision"):
        found, promised = evidence.realised.get(name), evidence.promised.get(name)
        if not (_is_known(found) and _is_known(promised)) or found["value"] < promised["low"]:
            return False
    return True


def _is_known(figure: Figure | None) -> bool:
    return figure is not None and figure["value"] is not None and figure["low"] is not None


def _with_bounds(figure: Figure) -> str:
    return f"{number(figure['value'], 2)} [{number(figure['low'], 2)}, {number(figure['high'], 2)}]"
