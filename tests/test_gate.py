"""The gate, case by case."""

import re

import pytest

from lib.gate import Candidate, Champion, decide

VALIDATION_S = (1000.0, 2000.0)
NAIVE = {"random": 0.002, "amount": 0.01, "max_abs_z": 0.1}


def figure(value, spread=0.02):
    low, high = (None, None) if value is None else (value - spread, value + spread)
    return {"value": value, "low": low, "high": high}


def candidate(name="forest", value=0.4, difference=0.0, **more):
    between = None if difference is None else figure(difference)
    return Candidate(name, figure(value), **{"bundle_hash": f"hash of {name}", "difference": between} | more)


def champion(value=0.4, **more):
    known = {"version": "3", "bundle_hash": "other", "fit_start_s": 0.0, "fit_end_s": 999.0, "figure": figure(value)}
    return Champion(**known | more)


FOREST, MIXTURE = candidate(), candidate("mixture", 0.5)
BOOSTING = candidate("boosting", 0.8, supervised=True)
OVERLAPPING = champion(fit_end_s=1000.0)
UNSCORED = champion(figure=None)

CASES = {
    "no champion yet": ([FOREST, MIXTURE], None, {}, "mixture", "promote", "there was no champion before it"),
    "highest metric wins": ([MIXTURE, FOREST], None, {}, "mixture", "promote", "best average_precision of 2"),
    "of equals the first": ([FOREST, candidate("twin")], None, {}, "forest", "promote", "no champion"),
    "an unknown value takes no part": (
        [candidate("a", None), FOREST],
        None,
        {},
        "forest",
        "promote",
        "of 1 candidates",
    ),
    "nobody has a value": ([candidate("a", None)], None, {}, None, "none", "no candidate has a value"),
    "no candidate at all": ([], champion(), {}, None, "none", "no candidate has a value"),
    "a naive rule wins": ([candidate(value=0.05)], None, {}, None, "none", r"naive rule max_abs_z \(0.1000\)"),
    "a naive rule draws": ([candidate(value=0.1)], None, {}, None, "none", "does not beat"),
    "a naive rule wins, champion or not": ([candidate(value=0.05)], champion(), {}, None, "none", "does not beat"),
    "supervised takes no part": ([BOOSTING, FOREST], None, {}, "forest", "promote", "boosting was fitted with labels"),
    "supervised alone": ([BOOSTING], None, {}, None, "none", "boosting was fitted with labels"),
    "supervised allowed": ([BOOSTING, FOREST], None, {"allow_supervised": True}, "boosting", "promote", "best"),
    "identical": ([FOREST], champion(bundle_hash="hash of forest"), {}, None, "keep", "identical"),
    "identical, accept or not": (
        [FOREST],
        champion(bundle_hash="hash of forest", fit_end_s=1500.0),
        {"accept": True},
        None,
        "keep",
        "identical",
    ),
    "clearly better": ([candidate(difference=0.1)], champion(), {}, "forest", "promote", "does not lose"),
    "a little worse, within the noise": (
        [candidate(difference=-0.01)],
        champion(),
        {},
        "forest",
        "promote",
        "not lose",
    ),
    "interval touches 0": ([candidate(difference=-0.02)], champion(), {}, "forest", "promote", "does not lose"),
    "clearly worse": ([candidate(difference=-0.03)], champion(), {}, None, "keep", "it loses to the champion"),
    "clearly worse, accept or not": (
        [candidate(difference=-0.03)],
        champion(),
        {"accept": True},
        None,
        "keep",
        "loses",
    ),
    "fitted on validation": ([FOREST], OVERLAPPING, {}, None, "keep", "overlaps this validation.*--accept"),
    "fitted on validation, accepted": ([FOREST], OVERLAPPING, {"accept": True}, "forest", "promote", "accepted"),
    "fitted after validation": ([FOREST], champion(fit_start_s=2001.0, fit_end_s=9e9), {}, "forest", "promote", "lose"),
    "champion cannot be scored": ([FOREST], UNSCORED, {}, None, "keep", "could not be scored.*--accept"),
    "champion cannot be scored, accepted": ([FOREST], UNSCORED, {"accept": True}, "forest", "promote", "accepted"),
    "no difference given": ([candidate(difference=None)], champion(), {}, None, "keep", "could not be scored"),
}


@pytest.mark.parametrize(("candidates", "holder", "options", "promote", "action", "reason"), CASES.values(), ids=CASES)
def test_decision(candidates, holder, options, promote, action, reason):
    verdict = decide(candidates, NAIVE, holder, metric="average_precision", validation_s=VALIDATION_S, **options)
    assert (verdict.promote, verdict.action) == (promote, action)
    assert re.search(reason, "; ".join(verdict.reasons))


@pytest.mark.parametrize(("value", "promote"), [(-0.001, None), (0.0, "forest"), (0.1, "forest")])
def test_without_an_interval_the_difference_itself_decides(value, promote):
    between = {"value": value, "low": None, "high": None}
    verdict = decide(
        [Candidate("forest", figure(0.4), difference=between)],
        NAIVE,
        champion(),
        metric="average_precision",
        validation_s=VALIDATION_S,
    )
    assert verdict.promote == promote


def test_a_naive_rule_without_a_value_beats_nobody():
    verdict = decide([FOREST], {"amount": None}, None, metric="average_precision", validation_s=VALIDATION_S)
    assert verdict.promote == "forest"
