"""Headless Chromium for the checks: what it loads, what it complains of, what it looks like."""

import contextlib
import shutil

import pytest
from conftest import ROOT
from playwright.sync_api import sync_playwright

SHOTS = ROOT / "reports" / "checks"  # where the checks leave their screenshots
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *(
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *("--disable-component-update", "--disable-sync"),
)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@contextlib.contextmanager
def chromium():
    """A browser; where the system has none, the test fails and says what to install."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail(
            f"No Chromium on PATH (looked for {', '.join(NAMES)}): install it, then run make "
            "check again."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """A page of the browser that notes every error of its console and every request that leaves the
    machine.
    """

    def __init__(self, browser, size="desktop", scheme="light"):
        width, height = SIZES[size]
        self.name = f"{size}-{scheme}"
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.errors, self.outside = [], []
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note)

    def _note(self, request):
        if (
            request.url.startswith(("http:", "https:", "ws:", "wss:"))
            and "//127.0.0.1:" not in request.url
        ):
            self.outside.append(request.url)

    def shoot(self, name, whole=True):
        """Save a screenshot, of the whole page or of what can be seen of it."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}-{self.name}.png", full_page=whole)

    def close(self):
        self.context.close()
