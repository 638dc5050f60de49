"""Decide which candidate, if any, becomes champion; nothing is read or written.

The champion stays unless the challenger is better. A person's `accept` lifts what stands in the way
of a comparison (few frauds, a fit that overlaps validation, files that are gone, a model that was
withdrawn), never its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lib.data.budgets import Budget, count, percent
from lib.data.cuts import instant
from lib.errors import listed
from lib.evaluation.costs import EQUAL, Cost
from lib.evaluation.figures import cell, in_words, number

# of every metric in lib.evaluation.metrics, and so of the one that selects
DIRECTION = "higher is better"
PROMOTE = ("better", "clearly_better")
# in this order where nobody can judge
NOMINEES = (
    "gaussian_mixture",
    "nearest_neighbours",
    "robust_covariance",
    "autoencoder",
    "isolation_forest",
    "empirical_tails",
)
MIN_FRAUDS = 10  # labelled frauds that it takes to replace a champion
TINY = 1e-12  # what adding the same weights in another order can make of a tie


@dataclass(frozen=True)
class AtBudget:
    """Precision and recall at the alert budget, shares from 0 to 1; None where unknown."""

    precision: float | None = None
    recall: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether both figures are there."""
        return None not in (self.precision, self.recall)


@dataclass(frozen=True)
class Naive:
    """A rule that anybody could write into a query.

    value : of the selecting metric; at_budget : what it finds at the alert budget.
    """

    value: float | None
    at_budget: AtBudget = AtBudget()


@dataclass(frozen=True)
class Alerts:
    """A model and what its threshold was set for.

    graph : sha256 of model.onnx; rule, alert_budget : as in `lib.evaluation.thresholds.Rule`.
    transactions_per_day : of the table that it was set on; None where that has no days.
    """

    graph: str
    rule: str
    alert_budget: float
    transactions_per_day: float | None = field(default=None, compare=False)

    @property
    def asked(self) -> str:
        """What the threshold was set for, in words."""
        if self.rule == "alert_budget":
            budget = Budget(self.alert_budget, self.transactions_per_day)
            if budget.reviews_per_day is None:
                return f"{budget.short} of the transactions"
            return f"{count(budget.reviews_per_day)} reviews a day"
        return f"the rule {self.rule}"


@dataclass(frozen=True)
class Candidate:
    """A fitted model on this validation.

    figure : {"value", "low", "high"} of the selecting metric.
    supervised : whether it was fitted with labels of fraud.
    label_free : whether no label at all was used, not even to leave frauds out.
    bundle_hash : `lib.bundle.bundle_hash` of it as it would be registered.
    difference : {"value", "low", "high"}, its metric minus the champion's on the same resamples;
        None without one.
    cost : of scoring; None where nobody has measured it.
    alerts : its graph and what its threshold was set for; None where it has no threshold.
    """

    name: str
    figure: Mapping
    supervised: bool = False
    bundle_hash: str = ""
    difference: Mapping | None = None
    at_budget: AtBudget = AtBudget()
    label_free: bool = False
    cost: Cost | None = None
    alerts: Alerts | None = None


@dataclass(frozen=True)
class Champion:
    """The model that holds the alias now.

    figure : the selecting metric on this validation; None if the champion could not be scored on
        it.
    fit_start_s, fit_end_s : the time its fitted transactions span, in the seconds of this dataset.
    lost : the sentence that says why its files can't be read; empty where they can.
    alerts : its graph and what its threshold was set for; None where it has no threshold.
    """

    version: str
    bundle_hash: str
    fit_start_s: float
    fit_end_s: float
    figure: Mapping | None = None
    lost: str = ""
    alerts: Alerts | None = None


@dataclass(frozen=True)
class Validation:
    """What decides: first and last instant (s), labelled frauds, their share of the weight.

    `time` is the kind of the instants, as splits.json has it: seconds, datetime or rows.

    A champion fitted on any of it has seen its answers, so that comparing it would favour the
    champion.
    """

    start_s: float
    end_s: float
    n_frauds: int
    prevalence: float | None = None
    time: str = "seconds"


@dataclass(frozen=True)
class Terms:
    """How to decide.

    metric : name of the selecting metric, higher is better.
    promote : 'better', the paired difference is above 0; 'clearly_better', its interval is.
    min_frauds : with fewer labelled frauds in validation no champion is replaced unless a person
        accepts it.
    nominee : the candidate to take where validation holds no labelled fraud; empty: the first of
        NOMINEES.
    alert_budget : share of the transactions that people review.
    accept : promote although the champion cannot be compared; a person has decided so.
    allow_supervised : let models fitted with labels of fraud compete.
    parsimony_margin : of the metric; of the candidates that are no further below the best, the one
        that is cheapest to score is chosen. 0: the best, whatever it costs.
    """

    metric: str = "average_precision"
    promote: str = "better"
    min_frauds: int = MIN_FRAUDS
    nominee: str = ""
    alert_budget: float = 0.002
    accept: bool = False
    allow_supervised: bool = False
    parsimony_margin: float = 0.01


@dataclass(frozen=True)
class Verdict:
    """What was decided, and why.

    promote : the candidate to register, or None.
    reasons : sentences, in the order of the decision.
    action : 'promote'; 'keep', the champion stays; 'none', there is no champion and none is made.
    remarks : sentences that must not be overlooked, whatever was decided.
    chosen : the candidate that was held against naive rules and champion, or None.
    resets : what the threshold of a champion that stays is now set for, which makes a version;
        empty where it stays as it is, or another model is promoted.
    """

    promote: str | None
    reasons: list[str]
    action: str
    remarks: list[str] = field(default_factory=list)
    chosen: str | None = None
    resets: str = ""


def decide(
    candidates: Sequence[Candidate],
    champion: Champion | None,
    validation: Validation,
    *,
    naive: Mapping[str, Naive] | None = None,
    withdrawn: Mapping[str, str] | None = None,
    terms: Terms = Terms(),
) -> Verdict:
    """Choose a candidate, the best or a cheaper one near it; hold it against rules and champion.

    Parameters
    ----------
    candidates : in order of preference: of equal values the first one is chosen.
    champion : None if there is none yet.
    naive : the candidate must be above all of them by the metric, and below none of them at the
        alert budget.
    withdrawn : {bundle hash: clause}, such as "version 2 was withdrawn: too many alerts".

    Raises
    ------
    ValueError : `terms.nominee` is none of the candidates, `terms.promote` none of PROMOTE,
        `terms.parsimony_margin` negative.
    """
    if terms.promote not in PROMOTE:
        raise ValueError(f"promote is {terms.promote!r}; it is {' or '.join(PROMOTE)}.")
    if terms.parsimony_margin < 0:
        raise ValueError(f"parsimony_margin is {terms.parsimony_margin:g}; it is at least 0.")
    names = [candidate.name for candidate in candidates]
    if terms.nominee and terms.nominee not in names:
        raise ValueError(
            f"nominee is {terms.nominee!r}; the candidates are {', '.join(names) or 'none'}."
        )
    given = _Given(
        champion=champion,
        validation=validation,
        naive=naive or {},
        withdrawn=withdrawn or {},
        terms=terms,
    )
    best, reasons = _best(candidates, given)
    verdict = _rule(best, reasons, given)
    if verdict.action == "keep":
        verdict = _at_the_budget(verdict, best, candidates, given)
    return replace(
        verdict,
        remarks=[
            *_remarks(verdict, champion, validation, terms),
            *_budget_changed(verdict, champion, candidates),
        ],
        chosen=None if best is None else best.name,
    )


@dataclass(frozen=True)
class _Given:
    """What a decision rests on, besides the candidates; see `decide`."""

    champion: Champion | None
    validation: Validation
    naive: Mapping[str, Naive]
    withdrawn: Mapping[str, str]
    terms: Terms


def _stay(champion: Champion | None, reasons: list[str]) -> Verdict:
    """Return the verdict that promotes nobody."""
    return Verdict(None, reasons, "none" if champion is None else "keep")


def _promote(best: Candidate, reasons: list[str]) -> Verdict:
    return Verdict(best.name, reasons, "promote")


def _rule(best: Candidate | None, reasons: list[str], given: _Given) -> Verdict:
    """Return the decision on the best candidate, without remarks.

    First the naive rules, which anybody could use instead; then whether the champion can be
    compared at all, which a person may overrule; last the comparison, which nobody may.
    """
    champion = given.champion
    if best is None:
        return _stay(champion, reasons)
    beaten = _beaten(best, given.naive, given.validation)
    if beaten:
        return _stay(champion, [*reasons, beaten])
    if given.validation.n_frauds:
        reasons = [*reasons, _beats(given.naive)]
    is_known = champion is not None and not champion.lost
    if is_known and champion.bundle_hash == best.bundle_hash:
        same = f"it is identical to the champion, version {champion.version}"
        return _stay(champion, [*reasons, same])

    obstacle = given.withdrawn.get(best.bundle_hash)
    if not obstacle:
        obstacle = _incomparable(best, champion, given.validation, given.terms)
    if obstacle and not given.terms.accept:
        way_out = f"{obstacle}; pass --accept to promote {best.name} all the same"
        return _stay(champion, [*reasons, way_out])
    if obstacle:
        accepted = f"{obstacle}; {best.name} was accepted all the same"
        return _promote(best, [*reasons, accepted])
    if champion is None:
        return _promote(best, [*reasons, "there was no champion before it"])
    return _compared(best, reasons, champion, given.validation, given.terms)


def _at_the_budget(
    verdict: Verdict, best: Candidate | None, candidates: Sequence[Candidate], given: _Given
) -> Verdict:
    """Let the threshold of a champion that stays follow the budget.

    Where a candidate is the champion's own model, to the byte, and its threshold was set for
    another budget or by another rule, the candidate takes its place.
    """
    own = given.champion.alerts
    for candidate in candidates:
        asked = candidate.alerts
        if own is None or asked is None or asked.graph != own.graph or asked == own:
            continue
        if candidate.bundle_hash in given.withdrawn and not given.terms.accept:
            continue
        follows = (
            f"the model of version {given.champion.version} stays, and its threshold follows: it "
            f"was set for {own.asked} and is now set for {asked.asked}"
        )
        reasons = verdict.reasons
        if best is candidate:
            # that it is no better than itself, and how to promote it, is nobody's question
            reasons = reasons[:-1]
        return replace(_promote(candidate, [*reasons, follows]), resets=asked.asked)
    return verdict


def _best(candidates, given) -> tuple[Candidate | None, list[str]]:
    """Return the candidate to decide on, or None, and the reasons so far."""
    terms = given.terms
    eligible = []
    reasons = []
    for candidate in candidates:
        if candidate.supervised and not terms.allow_supervised:
            reasons.append(f"the model {candidate.name} learns from labels and takes no part")
        else:
            eligible.append(candidate)
    if not given.validation.n_frauds:
        return _nominated(eligible, reasons, terms.nominee)
    known = [c for c in eligible if c.figure["value"] is not None]
    if not known:
        return None, [*reasons, f"no candidate has a value of {terms.metric}"]
    best = max(known, key=lambda c: c.figure["value"])
    plural = "" if len(known) == 1 else "s"
    of = f"{len(known)} candidate{plural}"
    figure = _text(best.figure)
    won = f"{best.name} has the best {terms.metric} of {of}: {figure}, {DIRECTION}"
    thrifty = _thrifty(best, known, given)
    if thrifty is best:
        return best, [*reasons, won]
    return thrifty, [*reasons, won, _saving(thrifty, best, terms)]


def _thrifty(best: Candidate, known: Sequence[Candidate], given: _Given) -> Candidate:
    """Return the candidate within the margin of the best that is cheapest to score.

    Of those that are about as fast as the fastest, the one with the best figure, then the smallest,
    then the first. A candidate that a naive rule beats takes no part; where that is the best one
    itself, it stays the one to decide on.
    """
    margin = given.terms.parsimony_margin
    if not margin or best.cost is None or _beaten(best, given.naive, given.validation):
        return best
    lowest = best.figure["value"] - margin - TINY
    near = [c for c in known if c.cost and c.figure["value"] >= lowest]
    sound = [c for c in near if not _beaten(c, given.naive, given.validation)]
    least_us = min(c.cost.score_us for c in sound)
    fast = [c for c in sound if c.cost.score_us <= EQUAL * least_us]
    return min(fast, key=lambda c: (-c.figure["value"], c.cost.bytes))


def _saving(thrifty: Candidate, best: Candidate, terms: Terms) -> str:
    """Return what is given up for what, as a clause that follows the one on the best candidate."""
    lost = best.figure["value"] - thrifty.figure["value"]
    value = number(thrifty.figure["value"], 4)
    margin = f"parsimony_margin ({terms.parsimony_margin:g})"
    near = f"{thrifty.name} is within {margin} of it, {value}, and is cheaper to score"
    ours = thrifty.cost
    theirs = best.cost
    time = f"{ours.time} instead of {theirs.time} microseconds a row"
    size = f"{ours.size} instead of {theirs.size}"
    return f"{near}: {lost:.4f} points for {time} and {size}"


def _nominated(eligible, reasons, nominee) -> tuple[Candidate | None, list[str]]:
    """Return the same where validation holds no labelled fraud.

    The nominee, else by the order of NOMINEES.
    """
    chosen = eligible
    if nominee:
        chosen = [c for c in eligible if c.name == nominee]
    if not chosen:
        return None, [*reasons, "there is no candidate that may be promoted"]
    best = min(chosen, key=_place)
    how = "it is the nominee" if nominee else "none was named by the parameter nominee"
    unjudged = f"validation holds no labelled fraud, so that nobody can judge {best.name}; {how}"
    return best, [*reasons, unjudged]


def _place(candidate: Candidate) -> tuple[bool, int]:
    """Return a sort key where nobody can judge: the smallest is taken.

    Those that used no label come first, as the labels that there are may say little.
    """
    family = candidate.name.partition("@")[0]
    place = len(NOMINEES)
    if family in NOMINEES:
        place = NOMINEES.index(family)
    return not candidate.label_free, place


def _beats(naive: Mapping[str, Naive]) -> str:
    if not naive:
        return "there is no naive rule to beat"
    plural = "" if len(naive) == 1 else "s"
    return f"it beats the naive rule{plural} {listed(naive)}"


def _beaten(best, naive, validation):
    """Return the naive rules that the candidate does not beat, as a clause; empty if none."""
    if not validation.n_frauds:
        return ""
    by_metric = [
        f"{name} ({rule.value:.4f})"
        for name, rule in naive.items()
        if rule.value is not None and rule.value >= best.figure["value"]
    ]
    if by_metric:
        return f"it does not beat the naive rule {listed(by_metric)}"
    at_budget = [
        f"{name} (precision {rule.at_budget.precision:.2f}, recall {rule.at_budget.recall:.2f})"
        for name, rule in naive.items()
        if _finds_more(rule.at_budget, best.at_budget)
    ]
    if not at_budget:
        return ""
    at = best.at_budget
    own = f"precision {at.precision:.2f}, recall {at.recall:.2f}"
    return f"at the alert budget it has {own} and does not beat the naive rule {listed(at_budget)}"


def _finds_more(rule, own):
    """Return whether a rule finds more at the budget; a draw is not more.

    At one budget precision and recall count the same frauds, so that recall alone decides.
    """
    return rule.is_known and own.is_known and rule.recall > own.recall + TINY


def _incomparable(best, champion, validation, terms):
    """Return why challenger and champion cannot be compared here; None if they can."""
    if champion is None:
        return None
    name = f"the champion, version {champion.version},"
    start = validation.start_s
    end = validation.end_s
    if champion.lost:
        return f"{name} can't be read ({champion.lost.rstrip('.')})"
    if champion.fit_start_s <= end and champion.fit_end_s >= start:
        fitted = _span(champion.fit_start_s, champion.fit_end_s, validation.time)
        overlap = f"which overlaps this validation ({_span(start, end, validation.time)})"
        return f"{name} was fitted on transactions from {fitted}, {overlap}"
    if not validation.n_frauds:
        return f"{name} stays where validation holds no labelled fraud"
    is_scored = champion.figure is not None and champion.figure["value"] is not None
    if not is_scored or best.difference is None:
        return f"{name} could not be scored on this validation"
    if validation.n_frauds < terms.min_frauds:
        few = (
            f"only {_frauds(validation.n_frauds)} in validation, fewer than min_frauds "
            f"({terms.min_frauds})"
        )
        verb = "is" if validation.n_frauds == 1 else "are"
        return f"there {verb} {few}; {_comparison(best, champion)}"
    return None


def _span(start_s: float, end_s: float, kind: str) -> str:
    return f"{instant(start_s, kind)} to {instant(end_s, kind)}"


def _compared(best, reasons, champion, validation, terms) -> Verdict:
    """Return the decision between challenger and champion by their paired difference."""
    comparison = _comparison(best, champion)
    difference = best.difference["value"]
    if abs(difference) <= TINY:
        return _tie(best, reasons, champion, comparison, terms)
    if difference < 0:
        worse = f"it is not better than the champion: {comparison}"
        return _stay(champion, [*reasons, worse])
    low = best.difference["low"]
    is_clear = low is not None and low > 0
    if terms.promote == "clearly_better" and not is_clear:
        unclear = f"it is not clearly better than the champion: {comparison}"
        return _stay(champion, [*reasons, unclear])
    reasons = [*reasons, f"it is better than the champion: {comparison}"]
    if not is_clear:
        why = "there is no interval" if low is None else "the interval spans 0"
        few = _frauds(validation.n_frauds)
        reasons.append(f"{why}: this may be chance; {few} decided")
    return _promote(best, reasons)


def _tie(best, reasons, champion, comparison, terms) -> Verdict:
    if terms.accept:
        accepted = f"it scores as the champion does; accepted: {comparison}"
        return _promote(best, [*reasons, accepted])
    tie = (
        "it is not better than the champion but scores as well; pass --accept to promote it all "
        "the same"
    )
    return _stay(champion, [*reasons, f"{tie}: {comparison}"])


def _remarks(verdict, champion, validation, terms):
    """Return what must not be overlooked, whatever was decided."""
    remarks = []
    if verdict.promote and not validation.n_frauds:
        remarks.append(f"Nobody has judged {verdict.promote}: validation holds no labelled fraud.")
    elif verdict.promote and validation.n_frauds < terms.min_frauds:
        remarks.append(
            f"Only {_frauds(validation.n_frauds)} decided for {verdict.promote}; so few decide "
            "little."
        )
    if champion and champion.lost and not verdict.promote:
        remarks.append(f"{champion.lost} --accept lets a candidate replace it.")
    prevalence = validation.prevalence
    budget = terms.alert_budget
    if validation.n_frauds and prevalence and budget < prevalence:
        remarks.append(
            f"The alert budget, {percent(budget)} of the transactions, is below the prevalence of "
            f"validation, {percent(prevalence)}: no model can find more than "
            f"{budget / prevalence:.0%} of its frauds."
        )
    return remarks


def _budget_changed(
    verdict: Verdict, champion: Champion | None, candidates: Sequence[Candidate]
) -> list[str]:
    """Return a remark where what is promoted has a threshold for another budget than before."""
    before = champion and champion.alerts
    now = next((c.alerts for c in candidates if c.name == verdict.promote), None)
    if not before or not now:
        return []
    # a table that has grown has another share for the same reviews, and other reviews for a share
    if now == before or now.asked == before.asked:
        return []
    return [f"The threshold was set for {before.asked}; now for {now.asked}."]


def labels_would_help(
    candidates: Sequence[Candidate],
    chosen: str,
    differences: Mapping[str, Mapping],
    terms: Terms = Terms(),
) -> list[str]:
    """Return a remark on the best model that learnt from labels, where it is clearly better.

    Empty where none is, or where such models compete anyway.

    Parameters
    ----------
    chosen : the candidate that was decided on.
    differences : {candidate: {"value", "low", "high"}}, its metric minus that of `chosen` on the
        same resamples; clearly better is a lower bound above 0.
    """
    if terms.allow_supervised:
        return []
    better = []
    for candidate in candidates:
        low = differences[candidate.name]["low"] if candidate.supervised else None
        if low is not None and low > 0:
            better.append(candidate)
    if not better:
        return []
    best = max(better, key=lambda c: c.figure["value"])
    figure = cell(best.figure)
    more = cell(differences[best.name])
    return [
        f"Labels would help: {best.name} has {terms.metric} {figure} on validation, {more} more "
        f"than {chosen}; -p allow_supervised true lets it be promoted."
    ]


def _comparison(best, champion):
    difference = _text(best.difference)
    return (
        f"version {champion.version} has {_text(champion.figure)}, the paired difference is "
        f"{difference}"
    )


def _frauds(n):
    return f"{n} labelled fraud{'s' if n != 1 else ''}"


def _text(figure):
    # a digit more than in tables: differences between candidates are small
    return in_words(figure, digits=4)
