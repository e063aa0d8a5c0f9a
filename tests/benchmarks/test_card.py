"""`make bench-card` in small, on a CPU: every group gives figures, and a kill at any time leaves whole lines."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import card, card_figures

COMMAND = [sys.executable, "-m", "tests.benchmarks.card", "--toy"]


def lines(out: Path) -> list[dict[str, Any]]:
    """Every line whole: JSON, and ended."""
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_each_group_has_a_limit_and_a_place_in_the_order() -> None:
    assert list(card.LIMITS) == list(card_figures.GROUPS)


@pytest.mark.slow
@pytest.mark.parametrize("group", [name for name in card.LIMITS if name != "compiled"])
def test_a_group_gives_figures_on_a_cpu(group: str) -> None:
    rows = list(card_figures.GROUPS[group](card_figures.TOY))
    figures = [row for row in rows if "value" in row]
    assert figures
    assert all(row["value"] >= 0 for row in figures)
    assert not [row for row in figures if row["met"] is False and group in ("families", "processes")]


@pytest.mark.slow
def test_whoever_is_killed_in_the_middle_leaves_what_was_measured_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "figures.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "--out", str(out), "--groups", "rates", "families"], stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 240
    while not any(line["group"] == "families" for line in lines(out)) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = lines(out)
    assert {"group": "rates", "ended": "done"}.items() <= next(line for line in kept if "ended" in line).items()
    assert [line["name"] for line in kept if "value" in line][:2] == ["copy", "products, bf16"]
    assert not any(line.get("ended") for line in kept if line["group"] == "families")
    time.sleep(1.0)
    assert not [text for text in _command_lines() if str(out) in text]


@pytest.mark.slow
def test_a_group_that_is_late_or_fails_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figures.jsonl"
    late = card.run("families", out, toy=True, limit_s=0.5)
    assert (late["ended"], late["why"]) == ("late", "its limit was 0 s")
    assert card.run("rates", out, toy=True, limit_s=-1.0)["ended"] == "late"
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert card.run("rates", out, toy=True, limit_s=10.0)["ended"] == "failed"
    assert lines(out) == []


def _command_lines() -> list[str]:
    texts = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) != os.getpid():
            try:
                texts.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # it has ended
    return texts
