"""The curation's page in Debian's chromium: nothing is fetched, players start under the keyboard, songs are found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datasets.quality.verdict_overrides import Override, read_overrides
from pipelines.report.curation import curation_page
from tests.contracts.test_report_in_browser import Opened, browser  # noqa: F401
from tests.pipelines.report.test_curation import make_curation

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curation")
    return Path(curation_page.run(make_curation(folder), store=folder))


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Opened]:  # noqa: F811
    shown = Opened(browser, page)
    yield shown
    assert shown.said == []
    shown.page.close()


def visible(opened: Opened) -> list[str]:
    """Ids of the songs that the table shows, in its order."""
    rows: list[str] = opened.page.evaluate(
        "[...document.querySelectorAll('.songs tbody tr')].filter((row) => !row.hidden).map((row) => row.dataset.id)"
    )
    return rows


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_the_page_loads_without_a_request_or_a_complaint(
    browser: Any,  # noqa: F811
    page: Path,
    width: int,
    scheme: str,
) -> None:
    opened = Opened(browser, page, width=width, scheme=scheme)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [page.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.evaluate("document.scripts.length") == 1
    assert opened.page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")
    opened.page.close()


def test_the_keyboard_plays_one_moment_and_each_song_has_its_own_position(opened: Opened) -> None:
    page = opened.page
    assert opened.audio("one.preload") == ["none"] * 4
    page.locator(".player button").first.focus()
    page.keyboard.press("Enter")
    opened.until("document.querySelector('audio').currentTime > 0.2")
    page.keyboard.press("ArrowRight")
    opened.until("document.querySelector('audio').currentTime > 1.2")
    page.keyboard.press("Tab")  # to the same place in the song that this one repeats
    page.keyboard.press("Space")
    opened.until("document.querySelectorAll('audio')[1].currentTime > 1.2")
    page.keyboard.press("Tab")  # to another song
    page.keyboard.press("Space")
    opened.until("document.querySelectorAll('audio')[2].played.length")
    assert opened.page.evaluate("document.querySelectorAll('audio')[2].played.start(0)") < 0.1
    assert opened.audio("one.paused") == [True, True, False, True]
    page.keyboard.press("Space")
    assert all(opened.audio("one.paused"))


def test_songs_are_found_by_verdict_reason_and_words_and_sorted(opened: Opened) -> None:
    page = opened.page
    assert visible(opened) == ["a", "b", "c", "d", "e", "broken"]
    page.locator(".chip[value=kept]").press("Enter")
    assert visible(opened) == ["a", "b"]
    page.locator(".chip[value=mislabelled]").click()
    assert visible(opened) == ["d"]
    assert page.locator(".chip[aria-pressed=true]").count() == 1
    page.locator(".chip[value=mislabelled]").click()
    page.locator("#search").fill("Because UNDECODABLE")
    assert visible(opened) == ["broken"]
    assert page.locator("#count").inner_text() == "1 song"
    page.locator("#search").fill("")
    verdict = page.locator(".songs thead button").nth(3)
    verdict.press("Enter")
    assert visible(opened)[0] == "e"  # duplicate comes first in the alphabet
    verdict.press("Enter")
    assert visible(opened)[0] == "broken"
    assert page.locator("[aria-sort=descending]").count() == 1


def test_decisions_become_the_file_that_the_step_takes(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    assert not page.locator(".hand").is_visible()
    for song in ("a", "d"):
        page.locator(f"tr[data-id={song}] .flip").press("Enter")
    file = tmp_path / "hand.csv"
    file.write_text(page.locator(".hand textarea").input_value(), encoding="utf-8")
    why = "heard on the page of the curation"
    assert read_overrides(str(file), known=["a", "b", "c", "d", "e"], unstored={}).songs == {
        "a": Override(keep=False, why=why),
        "d": Override(keep=True, why=why),
    }
    page.locator("tr[data-id=a] .flip").click()
    assert "a,drop" not in page.locator(".hand textarea").input_value()


def test_without_a_script_every_song_is_listed_and_can_be_played(browser: Any, page: Path) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(page.as_uri())
    assert plain.locator(".songs tbody tr").count() == 6
    assert plain.locator("audio").first.is_visible()
    assert not plain.locator(".tools").is_visible()
    assert not plain.locator(".flip").first.is_visible()
    context.close()
