"""The pages of a run in headless Chromium: every link, desktop and phone, light and dark, and the
keyboard.
"""

import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from browser import SIZES, Visitor, chromium
from conftest import copy_project

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("browser")]
SETTINGS = (
    "rows 4000",
    "epochs 2",
    "autoencoder.members 1",
    "gaussian_mixture.members 2",
    "n_resamples 100",
)
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
IMAGES = "[...document.images].map(i => [i.alt, i.naturalWidth])"
LINKS = "[...document.querySelectorAll('a[href]')].map(a => a.href)"
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                          if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll('main *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push(`${e.tagName} ${e.textContent.trim().slice(0, 30)}: ${ratio.toFixed(1)}`);
  }
  return poor;
}"""
# what is wider than the screen outside the regions that scroll; regions that the keyboard or a
# screen reader can't
# reach; regions that say that there is more where there is not, or do not say it
SCROLLING = """() => {
  const wrong = [], screen = document.documentElement.clientWidth, name = e => `${e.tagName}.${e.className}`;
  for (const e of document.querySelectorAll('body *')) {
    if (!e.checkVisibility()) continue;
    if (e.getBoundingClientRect().right > screen + 1 && !e.closest('.wide'))
      wrong.push(`${name(e)} is wider than the screen`);
    const scrolls = e.scrollWidth > e.clientWidth + 1 && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
    if (scrolls && !e.matches('.wide')) wrong.push(`${name(e)} scrolls sideways`);
  }
  for (const e of document.querySelectorAll('.wide')) {
    if (!e.checkVisibility()) continue;
    const label = e.ariaLabel || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent;
    if (e.tabIndex !== 0 || e.role !== 'region' || !label) wrong.push(`${name(e)} has no tabindex, role or label`);
    const said = parseFloat(getComputedStyle(e, '::before').height) > 10, more = e.scrollWidth > e.clientWidth;
    if (said !== more) wrong.push(`${label}: there is ${more ? '' : 'no '}more, and it is ${said ? '' : 'not '}said`);
  }
  return wrong;
}"""
REACHED = "a[href], summary, input, [tabindex]"
OPEN = "found => found.forEach(each => each.open = true)"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The folder of reports of a small project after two runs that differ in a parameter."""
    folder, environment = copy_project(tmp_path_factory.mktemp("pages") / "project")
    for seed in ("0", "1"):
        settings = [text for setting in SETTINGS for text in ("-p", *setting.split())]
        command = [
            sys.executable,
            "run_pipeline.py",
            "--dataset",
            "simulated",
            *settings,
            "-p",
            "comparison.seed",
            seed,
        ]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder / "reports"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_are_legible_and_ask_nobody(reports, browser, size, scheme):
    visitor = Visitor(browser, size, scheme)
    run = max(reports.glob("2*"))
    for path, name in ((reports / "index.html", "runs"), (run / "index.html", "run")):
        visitor.page.goto(path.as_uri())
        visitor.page.eval_on_selector_all("details", OPEN)
        visitor.shoot(name)
        width, shown = visitor.page.evaluate(WIDTHS)
        assert width <= shown, f"{name} is {width} wide on a screen of {shown}"
        assert settled(visitor.page, SCROLLING) == []
        assert visitor.page.evaluate(CONTRAST) == []
        assert all(alt and pixels for alt, pixels in visitor.page.evaluate(IMAGES))
    assert (visitor.errors, visitor.outside) == ([], [])
    visitor.close()


def settled(page, script):
    """What is wrong still after three seconds: what says that there is more follows by frames."""
    for _ in range(30):
        wrong = page.evaluate(script)
        if not wrong:
            break
        page.wait_for_timeout(100)
    return wrong


def test_every_link_leads_somewhere(reports, browser):
    visitor = Visitor(browser)
    waiting, seen, wrong = [(reports / "index.html").as_uri()], set(), []
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        parts = urlsplit(address)
        path = unquote(parts.path)
        if parts.scheme == "data":
            continue
        if not (
            parts.scheme == "file" and path.startswith(str(reports)) and (reports / path).is_file()
        ):
            wrong.append(address)
        elif path.endswith(".html"):
            visitor.page.goto(address)
            if parts.fragment and not visitor.page.evaluate(
                "id => !!document.getElementById(id)", unquote(parts.fragment)
            ):
                wrong.append(address)
            waiting += [link for link in visitor.page.evaluate(LINKS) if link not in seen]
    assert wrong == []
    assert (visitor.errors, visitor.outside) == ([], [])
    pages = [address for address in seen if address.endswith(".html")]
    assert len(pages) >= 1 + 2 * (1 + 8), (
        "the list of runs, and of both runs the page and eight notebooks"
    )
    visitor.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_notebooks_of_a_run_fit_and_are_legible(reports, browser, size, scheme):
    visitor = Visitor(browser, size, scheme)
    for path in sorted(max(reports.glob("2*")).glob("notebooks/*.html")):
        visitor.page.goto(path.as_uri())
        visitor.shoot(path.stem)
        visitor.page.eval_on_selector_all("details", OPEN)
        width, shown = visitor.page.evaluate(WIDTHS)
        assert width <= shown, f"{path.name} is {width} wide on a screen of {shown}"
        assert settled(visitor.page, SCROLLING) == [], path.name
        assert visitor.page.evaluate(CONTRAST) == [], path.name
        assert all(alt and pixels for alt, pixels in visitor.page.evaluate(IMAGES))
    assert (visitor.errors, visitor.outside) == ([], [])
    visitor.close()


def test_runs_are_cards_on_a_phone_and_say_all_that_the_table_says(reports, browser):
    said = {}
    for size in SIZES:
        visitor = Visitor(browser, size)
        visitor.page.goto((reports / "index.html").as_uri())
        said[size] = visitor.page.locator("tbody [role]").all_inner_texts()
        right = visitor.page.eval_on_selector_all(
            "td", "f => Math.max(...f.map(e => e.getBoundingClientRect().right))"
        )
        assert right <= SIZES[size][0], f"{size}: a figure is off the screen"
        boxes = [
            cell.bounding_box()
            for cell in visitor.page.locator("tbody tr").first.locator("> *").all()
        ]
        assert len({box["y"] for box in boxes}) == (1 if size == "desktop" else 4), (
            "a row, or a card of four lines"
        )
        visitor.close()
    assert [text.split() for text in said["phone"]] == [text.split() for text in said["desktop"]]


def test_keyboard_reaches_every_link_and_table(reports, browser):
    visitor = Visitor(browser)
    page = visitor.page
    page.goto((max(reports.glob("2*")) / "index.html").as_uri())
    wanted = page.evaluate(f"document.querySelectorAll('{REACHED}').length")
    reached = 0
    for _ in range(2 * wanted):
        page.keyboard.press("Tab")
        style = "e => [e.tagName, getComputedStyle(e).outlineStyle]"
        tag, outline = (
            page.eval_on_selector(":focus", style)
            if page.query_selector(":focus")
            else ("BODY", "")
        )
        if tag == "BODY":
            break
        assert outline == "solid", f"the focus on {tag} cannot be seen"
        reached += 1
    shown = page.evaluate(
        f"[...document.querySelectorAll('{REACHED}')].filter(e => e.checkVisibility()).length"
    )
    assert reached == shown
    visitor.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_slider_says_another_budget_without_a_server(reports, browser, size):
    visitor = Visitor(browser, size)
    page = visitor.page
    page.goto((max(reports.glob("2*")) / "index.html").as_uri())
    said = page.locator(".said:visible b")
    own = said.inner_text()
    assert own == page.locator(".decides th").first.inner_text().split("this run")[0].strip()
    page.focus("#budget")
    page.keyboard.press("ArrowRight")
    assert page.locator(".said:visible").count() == 1
    assert said.inner_text() != own
    assert page.get_attribute("#budget", "aria-valuetext") == said.inner_text()
    assert visitor.errors == []
    visitor.close()


def test_a_page_can_be_read_without_scripts(reports, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((max(reports.glob("2*")) / "index.html").as_uri())
    assert page.locator("#budgets").is_hidden()
    assert page.locator(".budgets:visible tbody tr").count() == 8
    context.close()
