"""Tables, figures and pages: digits, labels that keep apart, links that lead somewhere, nothing
from outside.
"""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from lib.data import simulation
from lib.data.budgets import Budget
from lib.evaluation import comparison
from lib.reporting import (
    cards,
    dashboard,
    eda_plots,
    names,
    pages,
    plots,
    rendering,
    run_descriptions,
    tables,
)


def figure(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


@pytest.fixture(autouse=True)
def closed():
    yield
    plots.plt.close("all")


METRICS = (
    *("average_precision", "recall_at_budget", "precision_at_budget", "amount_recall_at_budget"),
    *("recall_at_fpr_0.01", "roc_auc", "recall_at_budget_0.01", "precision_at_budget_0.01"),
    "amount_recall_at_budget_0.01",
)


def figures(value):
    ceilings = {f"ceiling_{m}": figure(0.9) for m in METRICS if "budget" in m}
    return {m: figure(value, value - 0.1, value + 0.1) for m in METRICS} | ceilings


@pytest.fixture
def run(tmp_path):
    """A run's folder with figures of two models, one of them the champion."""
    period = {"n": 100, "n_frauds": 5, "weight": 100.0, "start": 0.0, "end": 10.0}
    models = {
        "autoencoder": {"validation": figures(0.6), "untouched": figures(0.5)},
        "random": {"validation": figures(0.1)},
    }
    metrics = {
        "run": "20260101-000000-simulated",
        "dataset": "simulated",
        "source": "simulated",
        "seed": 0,
        "splits": dict.fromkeys(("reference", "validation", "untouched"), period),
        "alert_budget": 0.002,
        "models": models,
        "champion": {
            "model": "autoencoder",
            "name": "fraud-detector-simulated",
            "version": "2",
            "metric": "average_precision",
            "threshold": 0.998,
        },
        "verdict": {
            "action": "promote",
            "promote": "autoencoder",
            "reasons": ["it beats <everything>"],
        },
    }
    folder = tmp_path / metrics["run"]
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / "04_autoencoder.html").write_text("<p>here</p>")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    fig, ax = plots.figure()
    plots.intervals(
        ax,
        {m: v["validation"]["average_precision"] for m, v in models.items()},
        "average precision",
    )
    for name in ("09_comparison-money", "11_production-timeline"):
        plots.save(fig, folder / "figures", name)
    cards.write(
        folder / "model_card.md",
        "# A model\n\n## Limits\n\n- none <at all>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    )
    return folder


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.alts, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.alts += [attributes.get("alt", "")] if tag == "img" else []


def test_page_shows_verdict_and_warns_of_simulated_data(run):
    text = pages.write(
        run, [{"stage": "04_autoencoder", "status": "done", "seconds": 3.21, "peak_mb": 700.0}]
    ).read_text()
    assert names.SIMULATED in text
    assert "Autoencoder was promoted to champion, fraud-detector-simulated version 2." in text
    assert "It beats &lt;everything&gt;" in text
    assert "0.600" in text
    assert "[0.500, 0.700]" in text
    assert "700 MB" in text


def test_a_champion_that_stays_shows_its_own_figures(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["models"]["present_champion"] = {"validation": figures(0.37)}
    metrics["champion"] |= {"figures": "present_champion", "alert_budget": 0.01}
    (run / "metrics.json").write_text(
        json.dumps(metrics | {"verdict": {"action": "keep", "reasons": []}})
    )
    text = pages.write(run).read_text()
    verdict = text[text.rindex("remains champion") : text.index("Results on")]
    assert "0.37" in verdict
    assert "0.50" not in verdict
    assert "0.998000, for a budget of 1\u00a0% of the transactions" in text


def test_the_champions_figures_are_found_by_what_the_gate_did():
    split = SimpleNamespace(
        dataset=SimpleNamespace(name="x", alert_budgets=[0.002], recipe=None),
        source="custom",
        drifts_on_purpose=False,
        manifest={"periods": {}},
    )
    champion = {"model": "autoencoder", "version": "1"}
    own, new = figures(0.3), figures(0.5)

    def name(validation, action="keep"):
        verdict = SimpleNamespace(
            action=action, promote="autoencoder", reasons=[], remarks=[], resets=""
        )
        results = comparison.Results(validation)
        decision = comparison.Decision(champion, verdict, Budget(0.002))
        found = comparison.run_metrics("run", split, 0, {}, results, decision)
        return found["champion"]["figures"]

    assert name({"autoencoder": new, comparison.PRESENT: own}, "promote") == "autoencoder"
    assert name({"autoencoder": new, comparison.PRESENT: own}) == comparison.PRESENT
    # the same model once more
    assert name({"autoencoder": own, comparison.PRESENT: own}) == "autoencoder"
    assert name({"autoencoder": new}) is None
    assert names.champion_entry({"champion": champion}) == "autoencoder"  # a run of before
    assert names.champion_entry({"champion": None}) is None


def test_every_link_leads_somewhere_and_nothing_comes_from_outside(run):
    page = pages.write(
        run, [{"stage": "04_autoencoder", "status": "done", "seconds": 3.2, "peak_mb": None}]
    )
    for path in (page, run.parent / "index.html"):
        found = Links(path.read_text())
        local = [link for link in found.links if not link.startswith(("data:", "#"))]
        assert local
        assert [link for link in local if not (path.parent / link).exists()] == []
        assert [
            link for link in found.links if link.startswith("#") and link[1:] not in found.ids
        ] == []
        assert len(found.ids) == len(set(found.ids))
        assert all(found.alts)
        assert not re.search(r"(src|href)=\"(https?:)?//", path.read_text())


def test_page_holds_the_cards_below_its_own_headings(run):
    text = pages.write(run).read_text()
    assert "<summary>Model card</summary>" in text
    assert "<h4>Limits</h4>" in text
    assert "none &lt;at all&gt;" in text
    assert 'href="model_card.md"' in text
    assert "Data card" not in text


def test_page_of_a_run_that_failed_early_still_comes(tmp_path):
    (tmp_path / "20260101-000000-x").mkdir()
    text = pages.write(
        tmp_path / "20260101-000000-x", [{"stage": "02_split", "status": "failed"}]
    ).read_text()
    assert "02_split" in text
    assert "No champion" in text
    assert "Serve the model" not in text


def test_a_run_that_is_ending_is_listed_as_it_ended(run):
    (run / "run.json").write_text('{"status": "running"}')
    text = pages.write(run, status="failed").read_text()
    assert "This run has failed" in text
    assert re.search(r">failed</td>", (run.parent / "index.html").read_text())


def test_a_stage_that_failed_says_why_below_its_name(run):
    text = pages.write(
        run, [{"stage": "04_autoencoder", "status": "failed", "why": "cell 3 <failed>"}]
    ).read_text()
    row = re.search(r"<tr><th scope=\"row\"><a href=\"notebooks/04_autoencoder.html.*?</tr>", text)[
        0
    ]
    assert '<span class="seen">cell 3 &lt;failed&gt;</span></th>' in row
    assert ">failed</td>" in row


def test_figures_are_drawings_in_regions_labelled_by_their_captions(run):
    text = pages.write(run).read_text()
    assert text.count('<img src="data:image/svg+xml;base64,') == 2
    (run / "figures" / "09_comparison-money.svg").unlink()
    text = pages.write(run).read_text()
    assert text.count('<img src="data:image/png;base64,') == 1
    assert 'href="figures/09_comparison-money.png"' in text
    labels = re.findall(r'role="region" aria-labelledby="([^"]+)"', text)
    assert labels == ["09_comparison-money", "11_production-timeline"]
    assert [label for label in labels if f'<span id="{label}">' not in text] == []


def test_every_region_that_scrolls_has_role_label_and_a_place_in_the_tab_order(run):
    texts = [pages.write(run).read_text(), (run.parent / "index.html").read_text()]
    regions = [tag for text in texts for tag in re.findall(r'<div class="wide"[^>]*>', text)]
    assert len(regions) >= 6
    told = re.compile(r' tabindex="0" role="region" aria-label(ledby)?="[^"]+')
    assert [tag for tag in regions if not told.search(tag)] == []


def test_long_names_break_at_underscores_and_lists_at_commas():
    assert rendering.breakable("05_gaussian_mixture") == "05_gaussian_<wbr>mixture"
    assert rendering.breakable("frozen,<threshold>, all") == "frozen,&lt;threshold&gt;, all"
    assert rendering.breakable("frozen,threshold") == "frozen,<wbr>threshold"


def test_pages_and_notebooks_scroll_alike():
    page, notebook = (
        (folder / f"{name}.html.j2").read_text()
        for folder, name in (
            (rendering.TEMPLATES, "base"),
            (ROOT / "lib" / "pipeline" / "templates", "notebook"),
        )
    )
    for what in (r"linear-gradient\(90deg.*?(?= })", r"@keyframes more.*", r"animation:more[^}]*"):
        assert re.search(what, page)[0] == re.search(what, notebook)[0]


def test_page_names_what_differs_from_the_previous_run(run):
    later = run.with_name("20260102-000000-simulated")
    later.mkdir()
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["models"]["autoencoder"]["validation"]["average_precision"]["value"] = 0.75
    (later / "metrics.json").write_text(json.dumps(metrics))
    for folder, epochs in ((run, 30), (later, 20)):
        (folder / "run.yaml").write_text(
            f"dataset: simulated\nparameters:\n  04_autoencoder.epochs: {epochs}\n"
        )
    text = pages.write(later).read_text()
    row = re.search(r"Autoencoder, average precision on validation</th>.*?</tr>", text)[0]
    assert re.findall(r">([\d.]+)<", row) == ["0.6000", "0.7500"]
    assert re.findall(r"04_autoencoder.epochs</th>.*>(\d+)<.*>(\d+)<", text) == [("30", "20")]
    assert text.count("average precision on untouched</th>") == 0


def test_cell_shows_interval_only_where_there_is_one():
    assert tables.cell(figure(0.8123, 0.7, 0.9)) == "0.812 [0.700, 0.900]"
    assert tables.cell(figure(0.8123)) == "0.812"
    assert tables.cell(figure(None)) == "–"


def test_results_put_the_best_first_below_the_perfect_ranking():
    table = tables.results(
        {"random": figures(0.1), "autoencoder": figures(0.6)}, Budget(0.002, 10_000)
    )
    assert list(table.index) == ["perfect ranking", "Autoencoder", "random"]
    assert table.loc["perfect ranking", "recall at 20 a day"] == "0.900"
    assert tables.markdown(table).splitlines()[3].startswith("| Autoencoder | 0.600 [0.500, 0.700]")


def test_by_budget_has_every_share_at_every_budget():
    table = tables.by_budget({"autoencoder": figures(0.6)}, (0.002, 0.01), Budget(0.002))
    shares = ("recall", "precision", "money caught")
    assert list(table.index) == [(s, m) for s in shares for m in ("perfect ranking", "Autoencoder")]
    assert list(table.columns) == ["at 0.2 %", "at 1 %"]
    assert table.loc[("recall", "Autoencoder"), "at 1 %"] == "0.600 [0.500, 0.700]"


def test_every_variant_keeps_its_familys_colour():
    assert plots.colour("autoencoder@code=4") == plots.colour("autoencoder")
    assert plots.label("gaussian_mixture@train_on=all") == "Gaussian mixture (no labels)"
    second = plots.label("robust_covariance@train_on=all,isolated=0.15")
    assert second == "Robust covariance (no labels, 15 % isolated)"
    assert len(set(plots.MODEL_COLOURS.values())) == len(plots.MODEL_COLOURS)


def test_page_of_a_run_that_no_label_judges_has_no_table_of_dashes(run):
    metrics = json.loads((run / "metrics.json").read_text())
    nothing = dict.fromkeys(figures(0.5), figure(None))
    metrics["models"] = {"fusion": {"validation": nothing, "untouched": nothing}}
    metrics["champion"] |= {"model": "fusion"}
    for period in metrics["splits"].values():
        period |= {"n_frauds": None, "n_labelled": 0}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = pages.write(run).read_text()
    assert "no transaction has a label" in text
    assert "Results on" not in text
    assert "Perfect ranking" not in text


def test_page_counts_unlabelled_transactions_and_says_why_there_are_no_intervals(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["splits"] = {
        name: period | {"n_labelled": 90} for name, period in metrics["splits"].items()
    }
    metrics["intervals"] = {"no_interval": "3 labelled frauds, 10 are needed"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = pages.write(run).read_text()
    assert re.search(r"unlabelled transactions</dt><dd>30<", text)
    assert text.count("3 labelled frauds") == 1


def test_page_says_that_features_know_labels(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["models"]["autoencoder"] |= {"train_on": "all", "labels_in_features": "fraud rates"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = pages.write(run).read_text()
    row = re.search(r"Autoencoder <span class=.badge.*?</th>", text)[0]
    assert "none; fraud rates in features" in row
    rule = re.search(r">random<span.*?</th>", text)[0]
    assert rule.endswith(">none</span></th>")
    table = run_descriptions.pipeline(run.name, metrics)
    assert "| Autoencoder | none; fraud rates in features |" in table


def reviewed(value, ceiling=0.6):
    return {**figure(value, value - 0.05, value + 0.05), "ceiling": ceiling, "per_day": 40}


def test_page_shows_what_investigators_see(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["reviews"] = {
        "card <1>": {"random": reviewed(0.1), "autoencoder": reviewed(0.3)},
        "merchant": {"random": reviewed(0.2, 0.7), "autoencoder": {**figure(0.4), "ceiling": 0.7}},
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = pages.write(run).read_text()
    assert "#reviews" in Links(text).links
    assert "reviews" in Links(text).ids
    part = text[text.index('id="reviews"') : text.index('id="production"')]
    assert "look at the 40 values of “card &lt;1&gt;” or “merchant”" in part
    assert "card &lt;1&gt;: precision of reviews" in part
    rows = re.findall(r"<tr>\n<th.*?</tr>", part, re.DOTALL)
    assert len(rows) == 3
    numbers = [re.findall(r">([\d.]+)<span", row) for row in rows]
    assert numbers == [["0.600", "0.700"], ["0.300", "0.400"], ["0.100", "0.200"]]
    assert "[0.250, 0.350]" in rows[1]
    assert "champion" in rows[1]


def test_page_without_reviews_says_nothing_of_them(run):
    text = pages.write(run).read_text()
    assert "reviews" not in Links(text).ids
    metrics = json.loads((run / "metrics.json").read_text()) | {"reviews": {}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "investigators" not in pages.write(run).read_text()


@pytest.mark.parametrize(("on_purpose", "said"), [(True, True), (False, False), (None, False)])
def test_page_says_above_all_figures_that_drift_was_simulated(run, on_purpose, said):
    metrics = json.loads((run / "metrics.json").read_text())
    if on_purpose is not None:
        metrics["drifts_on_purpose"] = on_purpose
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = pages.write(run).read_text()
    above = text[: text.index('id="verdict"')]
    assert names.SIMULATED in above
    assert (pages.DRIFTS in above) is said
    verdict = text[text.index('id="verdict"') : text.index('id="results"')]
    assert ("on the untouched period, which drifts on purpose, with" in verdict) is said


@pytest.mark.parametrize(
    ("changes", "unit", "first"),
    [
        ({"clock": False}, "row", "1\n90,000"),
        ({"step_s": 3_600}, "hour of the day", "1\n01:00"),
        ({"step_s": 200_000}, "day", "1\n1"),
        (
            {"step_s": 3_600, "dates": True, "begin_s": 1_719_792_000},
            "date and hour (UTC)",
            "1\n01:00\n2 Jul",
        ),
        ({"step_s": 200_000, "dates": True, "begin_s": 1_719_792_000}, "day", "1\n2 Jul"),
    ],
)
def test_batches_say_when_they_end_in_a_unit_that_tells_them_apart(changes, unit, first):
    given = {"clock": True, "dates": False, "step_s": 3_600, "begin_s": 0} | changes
    steps = [{"end_s": given["begin_s"] + 90_000 + i * given["step_s"]} for i in range(10)]
    found, ends = dashboard._ends(given | {"steps": steps})
    assert (found, ends[0]) == (unit, first)
    assert len(set(ends)) == 10


def test_the_page_opens_what_is_called_drift(tmp_path):
    flag = {
        "name": "V4<b>",
        "moved": 0.21,
        "usual": 0.08,
        "missing": 0.03,
        "missing_before": 0.0,
        "out_of_range": 0.0,
        "value": None,
        "profile": {"reference": [0.5, 0.5], "current": [0.1, 0.9], "edges": [0, 1, 2]},
    }
    category = flag | {"name": "kind", "missing": 0.0, "value": "travel", "before": 0.004}
    category |= {"now": 0.021, "moved": 0.02, "usual": 0.05}
    category["profile"] = {"reference": [0.9], "current": [0.8], "values": ["<i>"], "edges": None}
    steps = [
        {"batch": "batch_01", "flags": [flag]},
        {"batch": "batch_02", "flags": [flag, category]},
    ]
    folder = tmp_path / "stages" / "11_production"
    folder.mkdir(parents=True)
    content = {"policies": {"frozen": {"steps": steps}, "threshold": {"steps": []}}}
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    shown = pages._drift(tmp_path)
    assert shown.count("<details>") == shown.count("<svg") == 2
    assert "V4&lt;b&gt;: batches 1, 2" in shown
    assert "21.0 % of the transactions" in shown
    assert "3.0 % are missing, before 0.0 %" in shown
    assert "travel 0.4 % → 2.1 %" in shown
    assert "&lt;i&gt;" in shown
    assert pages._drift(tmp_path / "nothing") == ""


def test_curves_that_coincide_are_drawn_once_and_the_champion_is_bold():
    x = np.linspace(0, 1, 9)
    curves = {
        "autoencoder": (x, 1 - x),
        "robust_covariance": (x, 1 - x + 0.001),
        "autoencoder@train_on=all": (x, 0.8 - 0.5 * x),
        "random": (x, 0 * x),
    }
    _, ax = plots.figure()
    plots.precision_recall(ax, curves, 0.01, "robust_covariance")
    drawn = [line for line in ax.lines if line.get_drawstyle() == "steps-pre"]
    # the dotted line is a random ranking already
    assert len(drawn) == 2
    widths = [line.get_linewidth() for line in drawn]
    assert widths[0] > 2 * max(widths[1:])
    # the champion's colour; a weaker variant has its family's
    colours = [line.get_color() for line in drawn]
    assert colours[:2] == [plots.colour("robust_covariance"), plots.colour("autoencoder")]
    said = [text.get_text() for text in ax.texts]
    assert "Robust covariance, Autoencoder, champion" in said
    assert "Autoencoder (no labels)" not in said
    assert any(text.startswith("prevalence 1.00%") for text in said)


def test_trims_are_named_at_their_ticks_and_members_lie_in_rows():
    found = {"trim": [0, 0.005, 0.02], "average precision": [0.5, 0.46, 0.49]}
    found["alerts kept at the next"] = [0.71, 0.62, np.nan]
    _, ax = plots.figure()
    plots.trims(ax, pd.DataFrame(found), 0.005)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0%", "0.5%", "2%"]
    assert [text.get_text().partition("\n")[0] for text in ax.texts] == [
        "average precision",
        "alerts that stay the same",
    ]
    _, ax = plots.figure()
    unknown = {"trim": [0.01], "average precision": [np.nan], "alerts kept at the next": [np.nan]}
    assert not plots.trims(ax, pd.DataFrame(unknown), 0.005).texts
    _, ax = plots.figure()
    plots.members(ax, np.array([0.6, 0.6]), 0.61, "gaussian_mixture")
    assert ax.lines[-1].get_ydata().tolist() == [1, 0]


def test_little_money_caught_is_seen_beside_all_fraud_money():
    for caught, scale in ((0.001, "symlog"), (0.4, "linear"), (0.0, "linear")):
        realised = {"money": 50.0, "money_caught_in_time": 50 * caught}
        _, ax = plots.figure()
        dashboard.money(ax, {"frozen": {"steps": [{"realised": realised}] * 2}})
        assert ax.get_yscale() == scale
        assert ax.get_ylim()[1] > 1
        assert f"{100 * caught:g}% frozen" in [text.get_text() for text in ax.texts]


def test_the_budget_is_a_named_line_among_the_alerts():
    step = {"alert_rate": 0.003, "alert_low": 0.001, "alert_high": 0.004, "promoted": False}
    _, ax = plots.figure()
    dashboard.alerts(ax, {"frozen": {"steps": [step] * 3}}, Budget(0.002, 10_000))
    assert [line for line in ax.lines if set(line.get_ydata()) == {0.002}]
    assert "budget 0.2 %\n20 a day" in [text.get_text() for text in ax.texts]


def test_the_page_says_above_all_which_drift_was_injected(run):
    drifts = dashboard.injected_words(simulation.DRIFTS)
    assert drifts[0] == "From batch 3 on V15 and V22 shift by 0.45 standard deviations."
    assert "60% of the frauds" in drifts[2]
    folder = run / "stages" / "11_production"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"injected": drifts}))
    text = pages.write(run).read_text()
    above = text[: text.index('id="verdict"')]
    assert [drift for drift in drifts if f"<li>{drift}</li>" not in above] == []


@pytest.mark.parametrize(
    ("span_s", "first", "said"),
    [
        (5 * 3_600, "15 Jun\n16:00", "from 15 June 2025"),
        (6 * 86_400, "16 Jun", "from 15 June 2025"),
        (300 * 86_400, "15 Jun", "from 15 June 2025"),
    ],
)
def test_dates_stand_below_a_time_that_is_a_date(span_s, first, said):
    start_s = 1_750_000_000  # 2025-06-15 15:06:40
    time_s = start_s + np.linspace(0, span_s, 200)
    _, ax = plots.figure()
    eda_plots.rhythm(ax, time_s, np.ones(200), None, "datetime")
    low, high = ax.get_xlim()
    ticks = [t.get_text() for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high]
    assert 3 <= len(ticks) <= 9
    assert said in ax.get_xlabel()
    assert first in ticks
    eda_plots.rhythm(ax, time_s, np.ones(200), None, "seconds")
    assert "hours since" in ax.get_xlabel()
