"""Alerts with their reasons: as a table, in words, and as a page."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from online import Prepared, shop, table

from lib import bundle
from lib.bundle.reasons import MIN_SHARE
from lib.data.datasets import Dataset
from lib.engine import top
from lib.engine.scored import Scored
from lib.production.scoring import score_table
from lib.reporting import alerts as pages
from lib.reporting import reason_words

PLAIN = {"title": "V4", "value": 0.16, "low": -3.0, "high": 3.2, "category": None, "share": 0.1}


def entry(**changes):
    return {"direction": "within", **PLAIN, **changes}


def test_a_reason_is_said_in_words():
    high = entry(value=-12.345, direction="low", share=0.62)
    assert (
        reason_words.together([high]) == "V4 −12.3, usual −3 … 3.2 (62 % of what raises the score)."
    )
    category = {"value": "travel", "share_of_reference": 0.004}
    rare = entry(title="kind", category=category, value=5.5, direction="high")
    assert reason_words.of(rare) == "kind “travel”, 0.4 % of reference"
    unheard = {"value": None, "share_of_reference": 0.0}
    assert reason_words.of(entry(category=unheard)) == "V4 missing, never in reference"


def test_where_no_value_is_unusual_words_say_that_it_is_the_combination():
    said = reason_words.together([entry(), entry(title="V9"), entry(title="V2")])
    assert "combination" in said
    assert "usual" not in said.replace("unusual", "")
    assert said.endswith("above all of V4 0.16, V9 0.16 and V2 0.16.")
    assert reason_words.together([]).endswith("it is the combination.")


def test_unusual_values_that_explain_little_do_not_pretend_to():
    said = reason_words.together([entry(value=4.0, direction="high", share=0.1)])
    assert "The other 90 % come from values that are usual by themselves." in said


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (-0.0214, "−0.0214"), (3e12, "3.00e+12"), (0.0, "0")]
)
def test_numbers_are_short(value, text):
    assert reason_words.number(value) == text


def test_alerts_of_any_cut_are_those_of_the_whole_table():
    dataset = Dataset(name="t", time="t", features=("x",), ids=("nr",))
    rng = np.random.default_rng(0)
    score = rng.integers(0, 12, 90) / 12
    frame = pd.DataFrame({"t": np.arange(90.0), "nr": [f"n{i}" for i in range(90)], "x": score})
    X = score[:, None].astype(np.float32)
    scored = Scored(score, score, (score > 0.5).astype(np.int8))
    whole = top.of_rows(dataset, frame, X, 0, scored, 20)
    joined = []
    for rows in np.array_split(np.arange(90), 7)[::-1]:
        own = Scored(score[rows], score[rows], scored.alert[rows])
        joined.append(top.of_rows(dataset, frame.iloc[rows], X[rows], int(rows[0]), own, 20))
        joined = [top.join([top.Top.from_arrays(part.to_arrays()) for part in joined])]
    assert whole.n == joined[0].n == scored.alert.sum()
    assert whole.position.tolist() == joined[0].position.tolist()
    assert whole.frame["nr"].tolist() == joined[0].frame["nr"].tolist()
    assert (np.diff(whole.raw) <= 0).all()


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory):
    """A table with categories and histories, scored -> (folder, what is known of it)."""
    folder = tmp_path_factory.mktemp("reviewed")
    features = [{"category": "kind"}, {"mean": "eur", "of": "card", "within": "7d"}]
    prepared = Prepared(shop(features), table())
    model = bundle.load(prepared.write(folder / "served", 0))
    # the last row is odd: a kind and an amount that reference lacks
    rows = table()
    rows.loc[rows.index[-1], ["kind", "eur", "nr"]] = ["=2+3", 9e5, "<b>&"]
    rows.to_csv(folder / "rows.csv", index=False)
    found = score_table(prepared.dataset, folder / "rows.csv", model, folder / "out")
    return folder / "out", found


def test_an_alert_has_its_reasons_in_columns_and_in_words(reviewed):
    folder, found = reviewed
    lines = list(csv.DictReader(io.StringIO((folder / "alerts.csv").read_text())))
    scores = pd.read_parquet(folder / "scores.parquet")
    assert len(lines) == found.report["n_alerts"] == scores["alert"].sum() > 0
    ranked = scores.sort_values(["anomaly_score", "position"], ascending=[False, True])
    assert [int(line["row"]) - 1 for line in lines] == ranked["position"].head(len(lines)).tolist()
    odd = {line["nr"]: line for line in lines}["<b>&"]
    assert float(odd["eur"]) == 9e5
    assert "eur 900,000, usual" in odd["why"]
    reasons = {odd[f"reason_{k}_feature"]: odd[f"reason_{k}_value"] for k in (1, 2, 3)}
    assert float(reasons["eur"]) == 9e5
    shares = [float(odd[f"reason_{k}_share"] or 0) for k in (1, 2, 3)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1.001


def test_a_reason_is_an_unusual_value_or_part_of_a_combination(reviewed):
    _, found = reviewed
    for alert in found.alerts:
        unusual = [r for r in alert["reasons"] if r["direction"] in ("high", "low")]
        assert unusual in ([], alert["reasons"])
        for reason in unusual:
            assert not reason["low"] <= reason["value"] <= reason["high"]
            assert reason["share"] >= MIN_SHARE - 1e-4


def test_the_page_is_escaped_readable_without_script_and_runs_only_its_own(reviewed, tmp_path):
    _, found = reviewed
    batch = pages.Batch("Alerts", {}, found.report["n_alerts"], "1 % to 99 %", found.alerts, "eur")
    text = pages.write(tmp_path / "alerts.html", batch).read_text()
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text
    n = len(found.alerts)
    assert text.count('<tr role="row" data-rank=') == n
    assert '<form class="tools" hidden>' in text
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert text.count("<script") == 1
    import base64
    import hashlib

    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert f"sha256-{digest}" in policy.replace("&#39;", "'")
    assert "default-src" in policy
    assert not re.search(r"https?://", text)
    assert json.loads(json.dumps(batch.to_dict())) == batch.to_dict()


def test_a_table_without_an_alert_has_a_page(tmp_path):
    batch = pages.Batch("Alerts", {}, 0, "1 % to 99 %", [])
    text = pages.write(tmp_path / "alerts.html", batch).read_text()
    assert "No alert" in text
    assert "<script" not in text


def test_the_page_says_where_the_other_alerts_are(reviewed, tmp_path):
    _, found = reviewed
    many = [*found.alerts] * (1 + pages.ON_PAGE // len(found.alerts))
    batch = pages.Batch("Alerts", {}, len(many), "1 % to 99 %", many)
    text = pages.write(tmp_path / "alerts.html", batch).read_text()
    assert "The others are not on this page." in text
    (tmp_path / pages.LISTED).touch()
    text = pages.write(tmp_path / "alerts.html", batch).read_text()
    assert f'<a href="alerts.csv">alerts.csv</a> has all {len(many)}.' in text
    more = pages.Batch("Alerts", {}, 9_999, "1 % to 99 %", many)
    text = pages.write(tmp_path / "alerts.html", more).read_text()
    assert f"has the first {len(many)}." in text
    assert "1\u00a0% to 99\u00a0%" in text


def test_bars_hold_value_and_range():
    for value in (-60.0, 0.0, 1.0, 1e30):
        bar = pages._bar(value, -3.0, 1.8)
        assert all(0 <= place <= 100 for place in bar.values())
        assert bar["low"] < bar["high"]
    assert pages._bar(None, 0.0, 1.0) is None
    assert pages._bar(2.0, 2.0, 2.0)["at"] == pages._bar(2.0, 2.0, 2.0)["low"]
