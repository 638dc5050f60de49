"""The server's page /docs in headless Chromium: a request sent from it, no other host, phone and
desktop.
"""

import json

import bundles
import pytest
from browser import SIZES, Visitor, chromium
from server import running

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("browser")]
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_docs_send_a_request_and_ask_nobody_else(tmp_path, size, scheme):
    folder = bundles.write(tmp_path / "bundle", hashed_names=True)
    with running(folder, tmp_path / "log", api_key="s3cret") as server, chromium() as browser:
        visitor = Visitor(browser, size, scheme)
        page = visitor.page
        page.goto(f"http://127.0.0.1:{server.port}/")
        assert page.url.endswith("/docs")
        assert "Simulated" in page.locator(".warning").inner_text()
        assert "fraud-detector, version 3" in page.locator(".facts").inner_text()
        page.fill("#key", "s3cret")
        form = page.locator('form[data-path="/predict"]')
        for example in form.locator("button.example").all():
            example.click()
            form.get_by_label("explain").check()
            form.get_by_role("button", name="Send").click()
            form.locator("pre.answer", has_text="explanations").wait_for(timeout=10_000)
            status, model, answer = form.locator("pre.answer").inner_text().split("\n", 2)
            assert (status, model) == ("200", "X-Model: fraud-detector/3")
            is_anomalous = "anomalous" in example.inner_text()
            assert json.loads(answer)["predictions"] == [int(is_anomalous)]
            form.get_by_label("explain").uncheck()
            form.get_by_role("button", name="Send").click()
            form.locator("pre.answer:not(:has-text('explanations'))").wait_for(timeout=10_000)
        assert "s3cret" not in page.locator("body").inner_text()
        for summary in page.locator("summary").all():
            summary.click()
        wide, seen = page.evaluate(WIDTHS)
        assert wide <= seen, "the page must not scroll sideways"
        visitor.shoot("docs")
        assert visitor.errors == visitor.outside == []
        visitor.close()
