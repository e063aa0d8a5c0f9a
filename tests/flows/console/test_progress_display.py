"""What a person sees while a job runs, with and without a terminal."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flows.console.progress_display import Screen, decibels, duration, table


def recorded(*, terminal: bool, width: int = 80) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(Console(file=text, force_terminal=terminal, width=width, legacy_windows=False)), text


def run_a_stage(screen: Screen) -> None:
    screen.start("train", 300, "steps")
    for _ in range(120):
        screen.advance()
    screen.note("loss 0.21")


def test_without_a_terminal_a_finished_stage_is_one_plain_line() -> None:
    screen, text = recorded(terminal=False)
    run_a_stage(screen)
    screen.finish("300 steps, loss 0.2")
    assert text.getvalue().count("\n") == 1
    assert "\x1b" not in text.getvalue()
    assert "train" in text.getvalue()
    assert "300 steps, loss 0.2" in text.getvalue()


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is_and_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 10000, 10))
    monkeypatch.setattr("flows.console.progress_display.time.monotonic", lambda: float(next(clock)))
    screen, text = recorded(terminal=False)
    screen.start("train", 960000, "steps")
    screen.advance(480000)  # at once: a training that goes on
    screen.advance(60000)
    screen.note("loss 0.21 · 3.1 steps/s")
    lines = text.getvalue().splitlines()
    assert re.fullmatch(r"  train 480000/960000 steps · \d+ s", lines[0]), "no speed is known yet"
    assert re.fullmatch(r"  train 540000/960000 steps · .+ · \d min \d\d s left · loss 0\.21 · 3\.1 steps/s", lines[-1])


def test_the_live_line_fits_eighty_columns_and_goes_away() -> None:
    screen, _text = recorded(terminal=True)
    with screen:
        run_a_stage(screen)
        assert screen._live is not None
        shown = Console(file=io.StringIO(), width=80, force_terminal=False)
        shown.print(screen._live.get_renderable())
        assert isinstance(shown.file, io.StringIO)
        lines = shown.file.getvalue().rstrip("\n").split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert "120/300 steps" in lines[0]
    assert "0:00:00" in lines[0]
    assert "loss 0.21" in lines[1]
    assert screen._live is None


def test_a_stage_that_failed_leaves_no_line() -> None:
    screen, text = recorded(terminal=False)
    screen.start("ingest", 0, "")
    screen.finish("")
    assert text.getvalue() == ""


def test_a_cached_step_says_so() -> None:
    screen, text = recorded(terminal=False)
    screen.cached("ingest", "12 songs")
    assert "as before" in text.getvalue()


def test_song_names_are_printed_as_they_are_and_not_as_markup() -> None:
    screen, text = recorded(terminal=False)
    screen.start("separate", 1, "songs")
    screen.finish("[bold]odd[/name]")
    assert "[bold]odd[/name]" in text.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_are_short_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_decibels_carry_a_sign_only_where_asked() -> None:
    assert [decibels(3.0), decibels(3.0, sign=True), decibels(-0.5, sign=True), decibels(None)] == [
        "3.00", "+3.00", "-0.50", "–",
    ]  # fmt: skip


def test_a_table_fits_eighty_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(table("Scores", ["source", "mixture", "model"], [["drums", "0.1", "5.0"], ["mean", "0", "4"]]))
    assert isinstance(console.file, io.StringIO)
    assert all(len(line) <= 80 for line in console.file.getvalue().split("\n"))


OTHERS = """
import json, os, subprocess, sys
from pathlib import Path
from flows.console.progress_display import Screen
from flows.console.sanitized_console import Terminal
with Screen(Terminal(stderr=True)) as screen, screen.alone_on_stderr(Path(sys.argv[1])):
    print("a library")
    os.write(1, b"(raylet) a worker died\\n")
    subprocess.run(["sh", "-c", "echo a child; echo a child that warns >&2"], check=True)
    screen.say("ours")
print(json.dumps({"the": "result"}))
"""


def test_stdout_is_for_the_result_and_stderr_for_progress_whatever_others_write(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", OTHERS, log], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"the": "result"}
    assert done.stderr == "ours\n"
    assert sorted(log.read_text().splitlines()) == [
        "(raylet) a worker died", "a child", "a child that warns", "a library",
    ]  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_a_log_has_plain_lines_with_the_time_whatever_the_console_is(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10000, 11))
    log = io.StringIO()
    screen, _ = recorded(terminal=terminal)
    screen.log = Console(file=log, width=200)
    with screen:
        monkeypatch.setattr("flows.console.progress_display.time.monotonic", lambda: float(next(clock)))
        run_a_stage(screen)
        screen.finish("300 steps")
        screen.say("the end")
    lines = log.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert "\x1b" not in log.getvalue()
    assert any("train 1/300 steps" in line for line in lines)
    assert lines[-2][20:].startswith("✓ train: 300 steps, ")
    assert lines[-1][20:] == "the end"
