"""Alerts and weeks in headless Chromium: order, filters, phone and desktop, light and dark."""

import bundles
import numpy as np
import pytest
import yaml
from browser import SIZES, Visitor, chromium
from test_pages import CONTRAST, SCROLLING, WIDTHS, settled

from lib.data import simulation
from lib.data.datasets import load_description
from lib.production import scoring

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("browser")]
ROWS = "tbody tr:not([hidden])"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder with reports on eight weeks; alerts of the last lie in `out`."""
    folder = tmp_path_factory.mktemp("alerts")
    dataset = load_description("simulated")
    (folder / "cards.yaml").write_text(yaml.safe_dump(dataset.to_dict()))
    served = bundles.write(
        folder / "model",
        features=dataset.features,
        metrics={
            "validation": {"precision_at_budget": {"value": 0.3, "low": 0.2, "high": 0.4}},
        },
    )
    frame = simulation.simulate(8_000, seed=1)
    for i, rows in enumerate(np.array_split(np.arange(len(frame)), 8)):
        week = frame.iloc[rows]
        file = folder / f"week{i}.csv"
        (week if i % 3 else week.drop(columns="Class")).to_csv(file, index=False)
        where = ["--dataset", str(folder / "cards.yaml"), "--out", str(folder / "out")]
        history = ["--history", str(folder / "reports" / "scoring")]
        assert scoring.main([str(file), "--bundle", str(served), *where, *history]) == 0
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page", ["out/alerts.html", "reports/production.html"])
def test_pages_can_be_read_wide_and_narrow_light_and_dark(scene, browser, page, size, scheme):
    visitor = Visitor(browser, size, scheme)
    visitor.page.goto((scene / page).as_uri())
    width, screen = visitor.page.evaluate(WIDTHS)
    assert width <= screen
    assert settled(visitor.page, SCROLLING) == []
    assert visitor.page.evaluate(CONTRAST) == []
    visitor.shoot(page.partition("/")[2].removesuffix(".html"))
    assert (visitor.errors, visitor.outside) == ([], [])
    visitor.close()


def test_alerts_are_sorted_and_filtered(scene, browser):
    visitor = Visitor(browser)
    page = visitor.page
    page.goto((scene / "out" / "alerts.html").as_uri())
    n = page.locator(ROWS).count()
    page.get_by_label("order").select_option("amount")
    amounts = page.eval_on_selector_all(ROWS, "rows => rows.map(row => Number(row.dataset.amount))")
    assert amounts == sorted(amounts, reverse=True)
    page.get_by_label("Amount, at least").fill(str(amounts[2]))
    assert page.locator(ROWS).count() == 3
    assert page.locator("#count").text_content() == f"3 of {n} shown"
    page.get_by_role("button", name="Clear filters").click()
    assert page.locator(ROWS).count() == n
    page.get_by_label("reason").select_option(index=1)
    chosen = page.get_by_label("reason").input_value()
    reasons = page.eval_on_selector_all(ROWS, "rows => rows.map(row => row.dataset.reasons)")
    assert 0 < len(reasons) <= n
    assert all(chosen in each.split() for each in reasons)
    assert visitor.errors == []
    visitor.close()


def test_without_script_the_alerts_are_all_there(scene, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((scene / "out" / "alerts.html").as_uri())
    assert page.locator(ROWS).count() > 20
    assert not page.locator("form.tools").is_visible()
    context.close()


def test_a_week_leads_to_its_alerts(scene, browser):
    visitor = Visitor(browser)
    visitor.page.goto((scene / "reports" / "production.html").as_uri())
    visitor.page.locator("table.weeks a").first.click()
    assert "Alerts of week7.csv" in visitor.page.locator("h1").text_content()
    visitor.page.get_by_role("link", name="All weeks").click()
    assert visitor.page.locator("h1").text_content() == "In production"
    visitor.close()
