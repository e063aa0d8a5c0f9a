"""What a step tells Prefect's page, in Debian's chromium: a song's name is text there and nothing else."""

import json
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from flows.cli.operations import ui
from flows.console.progress_display import current
from flows.tasks import prefect_artifacts
from tests.contracts.test_report_in_browser import browser  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.slow]
HOSTILE = (
    "<img src=x onerror=document.title='taken'>", "![seen](http://evil.example/pixel.png)",
    "[click](javascript:document.title='taken')", "http://evil.example/a www.evil.example", "a | b | <b>c</b>",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and password of a Prefect server of its own."""
    with ui._prefect(tmp_path_factory.mktemp("prefect"), current()) as server:
        yield server


def test_a_song_called_as_markup_is_text_on_the_page_of_a_step(
    server: tuple[str, str],
    browser: Any,  # noqa: F811
) -> None:
    address, password = server
    markdown = prefect_artifacts._page("ingest", {f"song {name}": name for name in HOSTILE})
    body = {"key": "step-ingest", "type": "markdown", "data": markdown}
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {b64encode(password.encode()).decode()}"}
    asked = urllib.request.Request(f"{address}api/artifacts/", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        artifact = json.loads(answer.read())["id"]
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    page.wait_for_selector("input[type=password]", timeout=120_000)
    page.fill("input[type=password]", password)
    page.keyboard.press("Enter")
    page.wait_for_function("!location.pathname.includes('login')", timeout=120_000)
    page.goto(f"{address}artifacts/artifact/{artifact}")
    page.wait_for_selector("td", timeout=120_000)
    cells = [cell.inner_text().strip() for cell in page.query_selector_all("td")]
    assert cells == [text for name in HOSTILE for text in (f"song {name}", name)]
    assert page.query_selector_all("td img, td a, td b") == []
    assert "taken" not in page.title()
    assert [url for url in requested if "evil.example" in url] == []  # Prefect's own page asks its makers' host
