"""The pages of a run in headless Chromium: every link, desktop and phone, light and dark, and the keyboard."""

import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from browser import SIZES, Visitor, chromium
from conftest import copy_project

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("browser")]
SETTINGS = ("rows 4000", "epochs 2", "autoencoder.members 1", "gaussian_mixture.members 2", "n_resamples 100")
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
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
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
        visitor.page.eval_on_selector_all("details", "found => found.forEach(each => each.open = true)")
        visitor.shoot(name)
        width, shown = visitor.page.evaluate(WIDTHS)
        assert width <= shown, f"{name} is {width} wide on a screen of {shown}"
        assert visitor.page.evaluate(CONTRAST) == []
        assert all(alt and pixels for alt, pixels in visitor.page.evaluate(IMAGES))
    assert (visitor.errors, visitor.outside) == ([], [])
    visitor.close()


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
        if not (parts.scheme == "file" and path.startswith(str(reports)) and (reports / path).is_file()):
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
    assert len(pages) >= 1 + 2 * (1 + 8), "the list of runs, and of both runs the page and eight notebooks"
    visitor.close()


def test_notebooks_of_a_run_do_not_scroll_sideways_on_a_phone(reports, browser):
    visitor = Visitor(browser, "phone")
    for path in sorted(max(reports.glob("2*")).glob("notebooks/*.html")):
        visitor.page.goto(path.as_uri())
        visitor.shoot(path.stem)
        width, shown = visitor.page.evaluate(WIDTHS)
        assert width <= shown, f"{path.name} is {width} wide on a screen of {shown}"
    visitor.close()


def test_keyboard_reaches_every_link_and_table(reports, browser):
    visitor = Visitor(browser)
    page = visitor.page
    page.goto((max(reports.glob("2*")) / "index.html").as_uri())
    wanted = page.evaluate("document.querySelectorAll('a[href], summary, [tabindex]').length")
    reached = 0
    for _ in range(2 * wanted):
        page.keyboard.press("Tab")
        style = "e => [e.tagName, getComputedStyle(e).outlineStyle]"
        tag, outline = page.eval_on_selector(":focus", style) if page.query_selector(":focus") else ("BODY", "")
        if tag == "BODY":
            break
        assert outline == "solid", f"the focus on {tag} cannot be seen"
        reached += 1
    shown = page.evaluate(
        "[...document.querySelectorAll('a[href], summary, [tabindex]')].filter(e => e.checkVisibility()).length"
    )
    assert reached == shown
    visitor.close()
