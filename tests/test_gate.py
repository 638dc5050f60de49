"""The gate, case by case."""

import re
from dataclasses import replace

import pytest

from lib.evaluation.costs import Cost
from lib.evaluation.gate import (
    Alerts,
    AtBudget,
    Candidate,
    Champion,
    Naive,
    Terms,
    Validation,
    decide,
    labels_would_help,
)

VALIDATION = Validation(1000.0, 2000.0, 40, 0.001)
NAIVE = {"random": Naive(0.002), "amount": Naive(0.01), "max_abs_z": Naive(0.1)}


def figure(value, spread=0.02):
    low, high = (None, None) if value is None else (value - spread, value + spread)
    return {"value": value, "low": low, "high": high}


def candidate(name="forest", value=0.4, difference=0.0, **more):
    between = None if difference is None else figure(difference)
    return Candidate(
        name, figure(value), **{"bundle_hash": f"hash of {name}", "difference": between} | more
    )


def champion(value=0.4, **more):
    known = {
        "version": "3",
        "bundle_hash": "other",
        "fit_start_s": 0.0,
        "fit_end_s": 999.0,
        "figure": figure(value),
    }
    return Champion(**known | more)


ACCEPT, CLEAR = {"accept": True}, {"promote": "clearly_better"}
BETTER = candidate(difference=0.01)
FOREST, MIXTURE = candidate(), candidate("mixture", 0.5)
BOOSTING = candidate("boosting", 0.8, supervised=True)
OVERLAPPING = champion(fit_end_s=1000.0)
UNSCORED = champion(figure=None)
LOST = champion(bundle_hash="", figure=None, lost="The files of x, version 3, are gone.")

CASES = {
    "no champion yet": (
        [FOREST, MIXTURE],
        None,
        {},
        "mixture",
        "promote",
        "there was no champion before it",
    ),
    "highest metric wins": (
        [MIXTURE, FOREST],
        None,
        {},
        "mixture",
        "promote",
        "best average_precision of 2",
    ),
    "of equals the first": (
        [FOREST, candidate("twin")],
        None,
        {},
        "forest",
        "promote",
        "no champion",
    ),
    "an unknown value takes no part": (
        [candidate("a", None), FOREST],
        None,
        {},
        "forest",
        "promote",
        "of 1 candidate:",
    ),
    "nobody has a value": (
        [candidate("a", None)],
        None,
        {},
        None,
        "none",
        "no candidate has a value",
    ),
    "no candidate at all": ([], champion(), {}, None, "keep", "no candidate has a value"),
    "a naive rule wins": (
        [candidate(value=0.05)],
        None,
        {},
        None,
        "none",
        r"naive rule max_abs_z \(0.1000\)",
    ),
    "a naive rule draws": ([candidate(value=0.1)], None, {}, None, "none", "does not beat"),
    "a naive rule wins over all but the champion": (
        [candidate(value=0.05)],
        champion(),
        {},
        None,
        "keep",
        "does not beat",
    ),
    "supervised takes no part": (
        [BOOSTING, FOREST],
        None,
        {},
        "forest",
        "promote",
        "boosting learns from labels",
    ),
    "supervised alone": ([BOOSTING], None, {}, None, "none", "boosting learns from labels"),
    "supervised allowed": (
        [BOOSTING, FOREST],
        None,
        {"allow_supervised": True},
        "boosting",
        "promote",
        "best",
    ),
    "identical": ([FOREST], champion(bundle_hash="hash of forest"), {}, None, "keep", "identical"),
    "identical, accept or not": (
        [FOREST],
        champion(bundle_hash="hash of forest", fit_end_s=1500.0),
        ACCEPT,
        None,
        "keep",
        "identical",
    ),
    "clearly better": (
        [candidate(difference=0.1)],
        champion(),
        {},
        "forest",
        "promote",
        "is better than the champion",
    ),
    "better, within the noise": (
        [candidate(difference=0.01)],
        champion(),
        {},
        "forest",
        "promote",
        "40 labelled frauds",
    ),
    "lower bound is 0": (
        [candidate(difference=0.02)],
        champion(),
        {},
        "forest",
        "promote",
        "chance",
    ),
    "a draw": (
        [candidate(difference=0.0)],
        champion(),
        {},
        None,
        "keep",
        "scores as well.*--accept",
    ),
    "a draw but for rounding": (
        [candidate(difference=1e-17)],
        champion(),
        {},
        None,
        "keep",
        "scores as well",
    ),
    "a draw, accepted": (
        [candidate(difference=0.0)],
        champion(),
        ACCEPT,
        "forest",
        "promote",
        "accepted",
    ),
    "a little worse": ([candidate(difference=-0.01)], champion(), {}, None, "keep", "not better"),
    "worse by as much as chance": (
        [candidate(difference=-0.12)],
        champion(),
        {},
        None,
        "keep",
        "not better",
    ),
    "worse, accept or not": (
        [candidate(difference=-0.03)],
        champion(),
        ACCEPT,
        None,
        "keep",
        "not better",
    ),
    "has to be clear, is": (
        [candidate(difference=0.1)],
        champion(),
        CLEAR,
        "forest",
        "promote",
        "is better",
    ),
    "has to be clear, may be chance": (
        [candidate(difference=0.01)],
        champion(),
        CLEAR,
        None,
        "keep",
        "not clearly",
    ),
    "has to be clear, bound is 0": (
        [candidate(difference=0.02)],
        champion(),
        CLEAR,
        None,
        "keep",
        "not clearly",
    ),
    "fitted on validation": (
        [FOREST],
        OVERLAPPING,
        {},
        None,
        "keep",
        "overlaps this validation.*--accept",
    ),
    "fitted on validation, accepted": (
        [FOREST],
        OVERLAPPING,
        ACCEPT,
        "forest",
        "promote",
        "accepted",
    ),
    "fitted after validation": (
        [BETTER],
        champion(fit_start_s=2001.0, fit_end_s=9e9),
        {},
        "forest",
        "promote",
        "better",
    ),
    "champion cannot be scored": (
        [FOREST],
        UNSCORED,
        {},
        None,
        "keep",
        "could not be scored.*--accept",
    ),
    "champion cannot be scored, accepted": (
        [FOREST],
        UNSCORED,
        ACCEPT,
        "forest",
        "promote",
        "accepted",
    ),
    "champion's files are gone": (
        [FOREST],
        LOST,
        {},
        None,
        "keep",
        "files of x, version 3, are gone.*--accept",
    ),
    "champion's files are gone, accepted": (
        [FOREST],
        LOST,
        ACCEPT,
        "forest",
        "promote",
        "accepted",
    ),
    "no difference given": (
        [candidate(difference=None)],
        champion(),
        {},
        None,
        "keep",
        "could not be scored",
    ),
}


def verdict_of(
    candidates, holder=None, validation=VALIDATION, naive=NAIVE, withdrawn=None, **terms
):
    given = {"naive": naive, "withdrawn": withdrawn, "terms": Terms(alert_budget=0.01, **terms)}
    return decide(candidates, holder, validation, **given)


@pytest.mark.parametrize(
    ("candidates", "holder", "options", "promote", "action", "reason"), CASES.values(), ids=CASES
)
def test_decision(candidates, holder, options, promote, action, reason):
    verdict = verdict_of(candidates, holder, **options)
    assert (verdict.promote, verdict.action) == (promote, action)
    assert re.search(reason, "; ".join(verdict.reasons))
    assert verdict.remarks == (
        ["The files of x, version 3, are gone. --accept lets a candidate replace it."]
        if holder is LOST and not promote
        else []
    )


SAME = Alerts("graph", "alert_budget", 0.002)


@pytest.mark.parametrize(
    ("own", "asked", "promote"),
    [
        (SAME, replace(SAME, alert_budget=0.01), "forest"),
        (SAME, replace(SAME, rule="max_f1"), "forest"),
        (SAME, SAME, None),
        (SAME, replace(SAME, graph="another", alert_budget=0.01), None),
        (None, replace(SAME, alert_budget=0.01), None),
    ],
)
def test_the_threshold_of_a_champion_that_stays_follows_the_budget(own, asked, promote):
    tie = {"value": 0.0, "low": 0.0, "high": 0.0}
    forest = Candidate("forest", figure(0.4), difference=tie, bundle_hash="f", alerts=asked)
    verdict = verdict_of([forest], replace(champion(), alerts=own))
    assert verdict.promote == promote
    follows = "the model of version 3 stays, and its threshold follows"
    assert (follows in verdict.reasons[-1]) == bool(promote)
    # one event, one statement
    assert bool(verdict.resets) == bool(promote)
    assert ("--accept" in "; ".join(verdict.reasons)) != bool(promote)
    withdrawn = {"f": "version 2 was withdrawn: too many alerts"}
    kept = verdict_of([forest], replace(champion(), alerts=own), withdrawn=withdrawn)
    assert kept.promote is None


@pytest.mark.parametrize(("value", "promote"), [(-0.001, None), (0.0, None), (0.1, "forest")])
def test_without_an_interval_the_difference_itself_decides(value, promote):
    between = {"value": value, "low": None, "high": None}
    verdict = verdict_of([Candidate("forest", figure(0.4), difference=between)], champion())
    assert verdict.promote == promote
    assert ("no interval: this may be chance" in "; ".join(verdict.reasons)) == bool(promote)
    assert (
        verdict_of(
            [Candidate("forest", figure(0.4), difference=between)], champion(), **CLEAR
        ).promote
        is None
    )


def test_a_naive_rule_without_a_value_beats_nobody():
    assert verdict_of([FOREST], naive={"amount": Naive(None)}).promote == "forest"


@pytest.mark.parametrize(
    ("rule", "own", "promote"),
    [
        (AtBudget(1.0, 0.4), AtBudget(0.55, 0.22), None),
        (AtBudget(0.55, 0.22), AtBudget(0.55, 0.22), "forest"),  # a draw
        (AtBudget(0.1, 0.04), AtBudget(0.55, 0.22), "forest"),
        (AtBudget(), AtBudget(0.55, 0.22), "forest"),
        (AtBudget(1.0, 0.4), AtBudget(), "forest"),
    ],
)
def test_a_naive_rule_counts_at_the_alert_budget_too(rule, own, promote):
    verdict = verdict_of([replace(FOREST, at_budget=own)], naive={"amount": Naive(0.01, rule)})
    assert verdict.promote == promote
    if promote is None:
        assert re.search(r"precision 0.55.*amount \(precision 1.00", verdict.reasons[-1])


@pytest.mark.parametrize(("accept", "promote"), [(False, None), (True, "forest")])
@pytest.mark.parametrize("n_frauds", [1, 9])
def test_few_frauds_replace_no_champion(n_frauds, accept, promote):
    few = replace(VALIDATION, n_frauds=n_frauds)
    for difference in (0.1, -0.1):
        verdict = verdict_of([candidate(difference=difference)], champion(), few, accept=accept)
        assert verdict.promote == promote
        assert re.search(rf"only {n_frauds} labelled fraud.*min_frauds \(10\)", verdict.reasons[-1])
    assert verdict_of([BETTER], champion(), few, min_frauds=n_frauds).promote == "forest"


def test_few_frauds_choose_a_first_champion_with_a_remark():
    verdict = verdict_of([FOREST], None, replace(VALIDATION, n_frauds=9))
    assert verdict.promote == "forest"
    assert re.search("Only 9 labelled frauds .*decide little", verdict.remarks[0])
    assert verdict_of([FOREST]).remarks == []


UNJUDGED = replace(VALIDATION, n_frauds=0, prevalence=None)
NOBODY = {"value": None, "low": None, "high": None}


def unjudged(*names):
    return [Candidate(name, NOBODY, label_free="train_on=all" in name) for name in names]


@pytest.mark.parametrize(
    ("names", "nominee", "promote"),
    [
        (
            ["autoencoder", "gaussian_mixture", "autoencoder@train_on=all"],
            "",
            "autoencoder@train_on=all",
        ),
        (
            ["fusion@train_on=all", "empirical_tails@train_on=all", "robust_covariance"],
            "",
            "empirical_tails@train_on=all",
        ),
        (
            ["autoencoder", "isolation_forest@train_on=all", "gaussian_mixture@train_on=all"],
            "",
            "gaussian_mixture@train_on=all",
        ),
        (["isolation_forest", "autoencoder"], "", "autoencoder"),
        (["gaussian_mixture", "isolation_forest"], "isolation_forest", "isolation_forest"),
        (["mine"], "", "mine"),
    ],
)
def test_where_nobody_can_judge_the_nominee_is_the_first_champion(names, nominee, promote):
    verdict = verdict_of(unjudged(*names), None, UNJUDGED, nominee=nominee)
    assert (verdict.promote, verdict.action) == (promote, "promote")
    assert verdict.remarks == [f"Nobody has judged {promote}: validation holds no labelled fraud."]
    stays = verdict_of(unjudged(*names), champion(figure=None), UNJUDGED, nominee=nominee)
    assert (stays.promote, stays.action) == (None, "keep")
    assert "--accept" in stays.reasons[-1]
    assert (
        verdict_of(unjudged(*names), UNSCORED, UNJUDGED, nominee=nominee, accept=True).promote
        == promote
    )


def test_what_may_not_be_promoted_is_no_nominee():
    verdict = verdict_of([replace(BOOSTING, figure=NOBODY)], None, UNJUDGED)
    assert (verdict.promote, verdict.action) == (None, "none")
    with pytest.raises(ValueError, match="nominee is 'fusoin'; the candidates are forest"):
        verdict_of([FOREST], nominee="fusoin")
    with pytest.raises(ValueError, match="'best'; it is better or clearly_better"):
        verdict_of([FOREST], promote="best")


def test_a_withdrawn_model_does_not_return_without_accept():
    gone = {"hash of forest": "version 2 was withdrawn: too many alerts"}
    for holder in (champion(), OVERLAPPING, None):
        verdict = verdict_of([candidate(difference=0.1)], holder, withdrawn=gone)
        assert (verdict.promote, verdict.action) == (None, "keep" if holder else "none")
        assert re.search("too many alerts.*--accept", verdict.reasons[-1])
        assert (
            verdict_of([candidate(difference=0.1)], holder, withdrawn=gone, accept=True).promote
            == "forest"
        )
    assert (
        verdict_of([candidate("other", difference=0.1)], champion(), withdrawn=gone).promote
        == "other"
    )


def test_a_budget_below_the_prevalence_is_a_remark():
    verdict = verdict_of([FOREST], None, replace(VALIDATION, prevalence=0.04))
    assert re.search(
        r"budget, 1 % .* below the prevalence of validation, 4 %: .* more than 25% of its frauds",
        verdict.remarks[0],
    )
    assert verdict_of([FOREST], None, replace(VALIDATION, prevalence=0.01)).remarks == []


def priced(name, value, score_us, size=1_000, **more):
    return candidate(name, value, cost=Cost(score_us, size), **more)


BEST = priced("fusion", 0.8121, 38.0, 2_900_000)
BEATEN = {"amount": Naive(0.01, AtBudget(1.0, 0.4))}
PARSIMONY = {
    "a cheaper one within the margin": (
        [BEST, priced("near", 0.806, 2.1, 12_000)],
        {},
        "near",
        r"near is within parsimony_margin \(0.01\) of it, 0.8060, and is cheaper to score: "
        r"0.0061 points for 2.1 instead of 38 microseconds a row and 12 kB instead of 2.9 MB",
    ),
    "a cheaper one on the edge of the margin": (
        [priced("fusion", 0.81, 38.0), priced("edge", 0.80, 2.1)],
        {},
        "edge",
        "0.0100 points",
    ),
    "a cheaper one beyond the margin": ([BEST, priced("far", 0.802, 2.1)], {}, "fusion", ""),
    "a wider margin": (
        [BEST, priced("far", 0.802, 2.1)],
        {"parsimony_margin": 0.02},
        "far",
        r"\(0.02\)",
    ),
    "a margin of 0": (
        [BEST, priced("near", 0.812, 2.1)],
        {"parsimony_margin": 0.0},
        "fusion",
        "",
    ),
    "about as fast: the better figure": (
        [BEST, priced("near", 0.811, 25.4, 10)],
        {},
        "fusion",
        "",
    ),
    "about as fast as the fastest: the better figure of those": (
        [BEST, priced("fast", 0.805, 2.0), priced("near", 0.807, 3.0)],
        {},
        "near",
        "0.0051 points for 3 instead of 38",
    ),
    "of equal figures the smaller": (
        [BEST, priced("large", 0.81, 2.0, 20), priced("small", 0.81, 2.4, 10)],
        {},
        "small",
        "10 bytes instead of 2.9 MB",
    ),
    "of equals the first": (
        [BEST, priced("first", 0.81, 2.4), priced("second", 0.81, 2.0)],
        {},
        "first",
        "cheaper",
    ),
    "a cost that nobody has measured": ([BEST, candidate("near", 0.81)], {}, "fusion", ""),
    "the best has no cost": (
        [candidate("fusion", 0.812), priced("near", 0.81, 2.0)],
        {},
        "fusion",
        "",
    ),
    "with labels and not allowed": (
        [BEST, priced("trees", 0.81, 2.0, supervised=True)],
        {},
        "fusion",
        "",
    ),
    "with labels and allowed": (
        [BEST, priced("trees", 0.81, 2.0, supervised=True)],
        {"allow_supervised": True},
        "trees",
        "cheaper",
    ),
}


@pytest.mark.parametrize(
    ("candidates", "options", "promote", "reason"), PARSIMONY.values(), ids=PARSIMONY
)
def test_of_those_near_the_best_the_cheapest_is_chosen(candidates, options, promote, reason):
    verdict = verdict_of(candidates, **options)
    assert (verdict.promote, verdict.chosen) == (promote, promote)
    said = "; ".join(verdict.reasons)
    assert "fusion has the best average_precision" in said
    assert re.search(reason, said)
    assert ("cheaper" in said) == (promote != "fusion")


def test_a_naive_rule_beats_the_cheaper_one_but_not_the_best():
    best = replace(BEST, at_budget=AtBudget(0.6, 0.5))
    cheap = priced("near", 0.81, 2.1, at_budget=AtBudget(0.5, 0.3))
    assert verdict_of([best, cheap], naive=BEATEN).promote == "fusion"
    # where it beats the best, nothing cheaper takes that one's place
    best = replace(best, at_budget=AtBudget(0.5, 0.3))
    cheap = replace(cheap, at_budget=AtBudget(0.6, 0.5))
    verdict = verdict_of([best, cheap], naive=BEATEN)
    assert (verdict.promote, verdict.action, verdict.chosen) == (None, "none", "fusion")


def test_the_cheaper_one_is_held_against_the_champion():
    best = replace(BEST, difference=figure(0.005))
    worse = priced("near", 0.81, 2.1, difference=-0.001)
    verdict = verdict_of([best, worse], champion(0.807))
    assert (verdict.promote, verdict.action, verdict.chosen) == (None, "keep", "near")
    better = replace(worse, difference=figure(0.003))
    assert verdict_of([best, better], champion(0.807)).promote == "near"


def test_where_nobody_can_judge_costs_say_nothing():
    candidates = [
        Candidate("gaussian_mixture", NOBODY, cost=Cost(38.0, 10)),
        Candidate("autoencoder", NOBODY, cost=Cost(2.0, 10)),
    ]
    verdict = verdict_of(candidates, None, UNJUDGED)
    assert (verdict.promote, verdict.chosen) == ("gaussian_mixture", "gaussian_mixture")


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="parsimony_margin is -1"):
        verdict_of([FOREST], parsimony_margin=-1.0)


TREES = candidate("trees", 0.86, supervised=True)
FEW = candidate("few", 0.85, supervised=True)
CLEARLY = {"value": 0.05, "low": 0.01, "high": 0.09}
UNCLEARLY = {"value": 0.04, "low": -0.01, "high": 0.09}


@pytest.mark.parametrize(
    ("differences", "allowed", "best"),
    [
        ({"trees": CLEARLY, "few": CLEARLY}, False, "trees"),
        ({"trees": UNCLEARLY, "few": CLEARLY}, False, "few"),
        ({"trees": UNCLEARLY, "few": UNCLEARLY}, False, None),
        ({"trees": {**CLEARLY, "low": 0.0}, "few": UNCLEARLY}, False, None),
        ({"trees": {**CLEARLY, "low": None}, "few": NOBODY}, False, None),
        ({"trees": CLEARLY, "few": CLEARLY}, True, None),
    ],
)
def test_labels_that_would_help_are_a_remark(differences, allowed, best):
    terms = Terms(allow_supervised=allowed)
    remarks = labels_would_help([FOREST, TREES, FEW], "forest", differences, terms)
    if best is None:
        assert remarks == []
        return
    (remark,) = remarks
    assert f"Labels would help: {best} has average_precision 0.8" in remark
    assert "0.050 [0.010, 0.090] more than forest; -p allow_supervised true" in remark


def test_a_run_that_changes_the_budget_says_so():
    fifty = Alerts("graph", "alert_budget", 0.0004, 125_000.0)
    more = replace(fifty, graph="another", alert_budget=0.002)
    better = {"value": 0.1, "low": 0.05, "high": 0.2}
    forest = Candidate("forest", figure(0.4), difference=better, bundle_hash="f", alerts=more)
    verdict = verdict_of([forest], replace(champion(), alerts=fifty))
    assert verdict.promote == "forest"
    said = "The threshold was set for 50 reviews a day; now for 250 reviews a day."
    assert said in verdict.remarks
    assert verdict.resets == ""
    same = replace(forest, alerts=replace(more, alert_budget=0.0004))
    assert said not in verdict_of([same], replace(champion(), alerts=fifty)).remarks
