"""The listening pages in Debian's chromium: what is heard changes, and the position does not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.report.ab_page import ABEntry, ABPair, index_page, song_page
from tests.contracts.test_report_in_browser import browser as browser  # the fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RATE, SECONDS = 16_000, 4
NAMES = ("models:/stemline/2", "models:/stemline/1")
ENTRIES = [
    ABEntry(file="one.html", title="One <b>", gain=-1.0, scores={"drums": (4.0, 5.0), "bass": (2.0, 3.0)}),
    ABEntry(file="two.html", title="Two", gain=0.5, scores={"drums": (4.5, 4.0), "bass": (3.5, 3.0)}),
]
# Everything that goes to the loudspeakers is also kept here.
RECORDER = """
  window.heard = [];
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target === this.context.destination && !this.isRecorder) {
      const recorder = this.context.createScriptProcessor(1024, 2, 2);
      recorder.isRecorder = true;
      recorder.onaudioprocess = (event) => window.heard.push(...event.inputBuffer.getChannelData(0));
      connect.call(this, recorder);
      connect.call(recorder, target);
    }
    return connect.call(this, target, ...rest);
  };
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first model's drums rise from 0 to 0.5, the second's fall to -0.5: a sample tells who and where."""
    folder = tmp_path_factory.mktemp("listening")
    ramp_CT = np.tile(np.linspace(0, 0.5, RATE * SECONDS, endpoint=False, dtype=np.float32), (2, 1))
    quiet_CT = np.full_like(ramp_CT, 0.25)
    duel = ABPair(
        title="One <b>", license="", sample_rate=RATE, start_s=61.0, sources=("drums", "bass"),
        versions={
            name: np.stack([sign * ramp_CT, sign * quiet_CT])
            for name, sign in zip(("Reference", *NAMES), (0, 1, -1), strict=True)
        },
    )  # fmt: skip
    for entry, around in zip(ENTRIES, (("", "two.html"), ("one.html", "")), strict=True):
        (folder / entry.file).write_text(song_page(duel, entry, around=around, about="x"), encoding="utf-8")
    (folder / "index.html").write_text(index_page(ENTRIES, NAMES, protocol="test"), encoding="utf-8")
    return folder


class Opened:
    """A song's page, with what it said and what it played."""

    def __init__(self, browser: Any, page: Path, *, width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self._note(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.add_init_script(RECORDER)
        self.page.goto(page.as_uri())

    def _note(self, text: str) -> None:
        if "ScriptProcessorNode is deprecated" not in text:  # the recorder's own
            self.said.append(text)

    def until(self, condition: str) -> None:
        """Wait up to two minutes. Playwright's own waiting needs eval, which the page's policy forbids."""
        for _ in range(4000):
            if self.page.evaluate(f"() => ({condition})"):
                return
            self.page.wait_for_timeout(30)
        raise AssertionError(condition)

    def heard(self) -> Any:
        """All samples that were played until now."""
        return np.array(self.page.evaluate("window.heard"))

    def hear_on(self, samples: int = 8 * 1024) -> None:
        self.until(f"window.heard.length > {len(self.heard()) + samples}")


@pytest.fixture
def opened(browser: Any, pages: Path) -> Iterator[Opened]:
    window = Opened(browser, pages / "one.html")
    yield window
    assert window.said == []
    assert [url for url in window.asked if not url.startswith("data:")] == [(pages / "one.html").as_uri()]
    window.context.close()


def test_switching_keeps_the_position_to_the_sample(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("q")  # the drums alone
    page.keyboard.press("2")
    page.keyboard.press("Space")
    opened.until("window.heard.some((value) => value > 0.02)")
    for key in "323":
        page.keyboard.press(key)
        opened.hear_on()
    heard_T = opened.heard()
    first, last = np.flatnonzero(heard_T > 0.02)[0], len(heard_T)
    played_T = np.abs(heard_T[first:last])
    steps_T = np.diff(played_T[: int(0.45 * 2 * RATE)])
    switched = np.flatnonzero(np.diff(np.sign(heard_T[first:last])))
    assert len(switched) >= 3
    # Who is heard changes within 5 ms, and 400 samples later the ramp that tells the position is 400 steps on.
    # Only there: at other places this recorder may leave out a block of 128 samples when the machine is busy.
    for place in switched:
        moved = (played_T[place + 200] - played_T[place - 200]) % 0.5
        assert abs(moved - 400 * 0.5 / (RATE * SECONDS)) < 5e-5
    assert np.abs(steps_T).max() < 0.05  # and no click at a switch


def test_solo_and_mute_decide_what_is_heard(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("2")
    page.get_by_role("button", name="Solo bass").click()
    page.get_by_role("button", name="Play").click()
    opened.until("window.heard.length > 2048 && Math.abs(window.heard.at(-1) - 0.25) < 1e-3")
    page.get_by_role("button", name="Solo bass").click()
    page.keyboard.press("Shift+W")
    opened.until("Math.abs(window.heard.at(-1) - 0.25) > 1e-2 || window.heard.at(-1) < 0.2")
    assert page.get_by_role("button", name="Mute bass").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Shift+Q")
    opened.until("window.heard.slice(-1024).every((value) => value === 0)")


def test_a_dragged_stretch_repeats(opened: Opened) -> None:
    page = opened.page
    picture = page.locator(".picture").first
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.375 * box["width"], box["y"] + 20, steps=4)
    page.mouse.up()
    assert "0:01.0 to 0:01.5" in page.inner_text(".loop-told")
    page.keyboard.press("2")
    page.keyboard.press("q")
    page.keyboard.press("Space")
    opened.until("window.heard.filter((value) => value > 0.1).length > 24000")
    played_T = opened.heard()
    played_T = played_T[played_T > 0.1]
    assert (played_T.min(), played_T.max()) == pytest.approx((0.125, 0.1875), abs=3e-3)
    page.keyboard.press("l")
    assert "excerpt repeats" in page.inner_text(".loop-told")


def test_a_blind_vote_hides_names_and_scores_and_counts_for_the_right_model(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("b")
    assert page.locator(".version .who").all_inner_texts() == ["Reference", "A", "B"]
    assert page.locator(".open").first.evaluate("(item) => getComputedStyle(item).visibility") == "hidden"
    assert page.locator(".layer:not([hidden])").first.evaluate("(one) => getComputedStyle(one).visibility") == "hidden"
    page.keyboard.press("w")
    page.keyboard.press("2")
    page.keyboard.press("Space")
    opened.until("Math.abs(Math.abs(window.heard.at(-1) ?? 0) - 0.25) < 1e-3")
    heard_first = opened.heard()[-1] > 0
    page.get_by_role("button", name="A is better").click()
    told = page.inner_text(".told")
    assert f"You preferred the {'first' if heard_first else 'second'}: {NAMES[0 if heard_first else 1]}." in told
    assert f"first {int(heard_first)}, second {int(not heard_first)}, no difference 0" in told
    page.keyboard.press("b")
    assert page.locator(".version .who").all_inner_texts() == ["Reference", *NAMES]
    page.goto((Path(page.url.removeprefix("file://")).parent / "index.html").as_uri())
    assert page.locator(".votes").first.inner_text() == ("1 : 0" if heard_first else "0 : 1")
    opened.asked.pop()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_fit_and_lead_to_each_other(browser: Any, pages: Path, width: int) -> None:
    window = Opened(browser, pages / "index.html", width=width)
    page = window.page
    assert page.locator("tbody th").all_inner_texts() == ["One <b>", "Two"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name="One <b>").click()
    assert page.inner_text("h1") == "One <b>"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name="Next song").click()
    page.get_by_role("link", name="All songs").click()
    assert page.locator("h1").inner_text().startswith(NAMES[0])
    assert window.said == []
    window.context.close()
