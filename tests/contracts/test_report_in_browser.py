"""The report in Debian's chromium: it asks for nothing, complains of nothing, and plays under the keyboard."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.report.model_report import run
from pipelines.report.report_input import ReportConfig
from tests.pipelines.report.test_model_report import make_input

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return Path(run(ReportConfig(), make_input(folder / "song"), store=str(folder)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


class Opened:
    """The page in a window, and what it said and asked for."""

    def __init__(self, browser: Any, report: Path, *, width: int = 1280, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.blocked: dict[str, str] = {}
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", lambda request: self.blocked.update({request.url: request.failure}))
        self.page.goto(report.as_uri())
        loaded = "one.preload === 'none' || one.readyState >= 1"
        self.until(f"[...document.querySelectorAll('audio')].every((one) => {loaded})")

    def until(self, condition: str, *, patience_s: float = 120.0) -> None:
        """Wait until the condition holds. Playwright's own waiting needs eval, which the page's policy forbids."""
        deadline = time.monotonic() + patience_s
        while not self.page.evaluate(f"() => ({condition})"):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(30)

    def audio(self, expression: str) -> list[Any]:
        """A property of every player."""
        found: list[Any] = self.page.evaluate(f"[...document.querySelectorAll('audio')].map((one) => {expression})")
        return found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_the_page_loads_without_a_request_or_a_complaint(browser: Any, report: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, report, width=width, scheme=scheme)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [report.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.evaluate("document.scripts.length") == 1
    opened.page.close()


def test_every_player_knows_how_long_it_is(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    durations = opened.audio("one.duration")
    assert len(durations) == 9
    assert durations == pytest.approx([3.0] * 9, abs=0.1)
    assert opened.page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")
    opened.page.close()


def test_the_keyboard_plays_seeks_and_hands_the_position_to_the_next_player(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    page = opened.page
    page.locator(".player button").first.focus()
    page.keyboard.press("Enter")
    opened.until("document.querySelector('audio').currentTime > 0.2")
    page.keyboard.press("ArrowRight")
    opened.until("document.querySelector('audio').currentTime > 1.2")
    page.keyboard.press("Tab")  # to the next player's button
    page.keyboard.press("Space")
    opened.until("document.querySelectorAll('audio')[1].currentTime > 1.2")
    assert opened.audio("one.paused") == [True, False, *[True] * 7]
    assert page.locator("button[aria-pressed=true]").count() == 1
    page.keyboard.press("Space")
    assert all(opened.audio("one.paused"))
    assert opened.said == []
    page.close()


def test_a_click_on_a_picture_jumps_there(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    picture = opened.page.locator(".picture").nth(2)
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] / 2, "y": 10})
    opened.until("!document.querySelectorAll('audio')[2].paused")
    opened.until("document.querySelectorAll('audio')[2].played.length")
    assert 1.3 < opened.page.evaluate("document.querySelectorAll('audio')[2].played.start(0)") < 1.7
    opened.page.close()


def test_the_policy_stops_what_a_song_might_smuggle_in(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    opened.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', "
        '\'<img src=x onerror="window.owned = 1"><img src="http://127.0.0.1:9/">\')'
    )
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("window.owned") is None
    assert opened.blocked["http://127.0.0.1:9/"] == "csp"
    assert any("Content Security Policy" in line for line in opened.said)
    opened.page.close()
