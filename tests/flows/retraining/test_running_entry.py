"""However a retraining ends, its entry in the log says so, and what of GPUs it really used."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.exceptions import CancelledRun
from rich.console import Console

from datasets.errors import InputError
from flows.console.progress_display import Screen
from flows.retrain_policy import Retraining
from flows.retraining import retrain_log, running_entry
from flows.retraining.retrain_log import read_log
from flows.retraining.running_entry import recorded
from flows.tasks.process_identity import this_process

BEGUN = Retraining(began_at="2026-11-23T09:00:00+00:00", run="a run", devices=4, reason="Yes: why.")


def screen() -> Screen:
    return Screen(Console(file=io.StringIO()))


def only(store: Path) -> Retraining:
    (entry,) = read_log(str(store)).retrainings
    return entry


def test_it_is_noted_as_running_and_then_as_its_body_ended_it(tmp_path: Path) -> None:
    with recorded(str(tmp_path), BEGUN, screen(), gpus={}) as under_way:
        entry, process = only(tmp_path), this_process()
        assert (entry.status, entry.machine, entry.pid) == ("running", process.machine, process.pid)
        under_way.end("done", champion="7")
    entry = only(tmp_path)
    assert (entry.status, entry.champion, entry.gpu_hours, entry.reason) == ("done", "7", 0.0, "Yes: why.")
    assert entry.ended_at > entry.began_at


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("the songs are gone\nsee there"), "failed", "the songs are gone"),
        (OSError(28, "No space left on device"), "failed", "The disk is full."),
        (ZeroDivisionError("x" * 900), "failed", "ZeroDivisionError: xxx"),
        (KeyboardInterrupt(), "cancelled", ""),
        (SystemExit(1), "cancelled", ""),
        (CancelledRun("by somebody"), "cancelled", ""),
    ],
)
def test_an_error_ends_it_in_the_log_and_goes_on(tmp_path: Path, error: BaseException, status: str, words: str) -> None:
    with pytest.raises(type(error)), recorded(str(tmp_path), BEGUN, screen(), gpus={}):
        raise error
    entry = only(tmp_path)
    assert entry.status == status
    assert entry.ended_at
    assert entry.error.startswith(words)
    assert len(entry.error) <= 200


def test_a_log_that_cannot_be_written_at_the_end_does_not_hide_why_it_ended(tmp_path: Path) -> None:
    def work() -> None:
        with recorded(str(tmp_path), BEGUN, screen(), gpus={}):
            (tmp_path / "retrainings").rename(tmp_path / "away")
            (tmp_path / "retrainings").write_text("in the way")
            raise InputError("the songs are gone")

    with pytest.raises(InputError, match="the songs are gone"):
        work()


def test_gpus_count_while_they_work_and_not_while_they_are_waited_for(tmp_path: Path) -> None:
    shown = screen()
    shown.start("train", 10, "steps")
    shown.advance()
    time.sleep(0.2)  # an earlier training in the same process
    shown.finish("")
    with recorded(str(tmp_path), replace(BEGUN, gpu_hours=1.0), shown, gpus={"train": 4, "evaluate": 2}) as under_way:
        for name in ("ingest", "train", "train", "evaluate"):  # a worker was lost: the training began twice
            shown.start(name, 10, "steps")
            time.sleep(0.5)  # no machine yet
            shown.advance()
            time.sleep(0.3)
            if name == "evaluate":
                used = 3600 * (under_way.entry.gpu_hours or 0.0) - 3600
                assert 2.4 + 0.6 <= used < 5, "while it runs, what it used until now"
            shown.finish("")
        under_way.end("done")
    assert 2.4 + 0.6 <= 3600 * ((only(tmp_path).gpu_hours or 0.0) - 1.0) < 5


KILLED = """
import io, sys, time
from rich.console import Console
from flows.console.progress_display import Screen
from flows.retrain_policy import Retraining
from flows.retraining import retrain_log, running_entry
running_entry.BEAT_S = 0.2
screen = Screen(Console(file=io.StringIO()))
begun = Retraining(began_at="2026-11-23T09:00:00+00:00", devices=100)
with running_entry.recorded(sys.argv[1], begun, screen, gpus={"train": 100}):
    screen.start("train", 10, "steps")
    screen.advance()
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_kill_leaves_what_it_used_until_shortly_before(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and process.poll() is None:
        notes = list((tmp_path / "retrainings").glob("*.json"))
        if notes and json.loads(notes[0].read_text())["gpu_hours"] > 0.02:
            break
        time.sleep(0.1)
    assert only(tmp_path).status == "running"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    entry = only(tmp_path)
    assert entry.status == "crashed"
    assert 0.02 < (entry.gpu_hours or 0.0) < 1
    assert entry.ended_at == entry.seen_at > entry.began_at


def test_a_beat_that_cannot_be_written_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_entry, "BEAT_S", 0.05)
    with recorded(str(tmp_path), BEGUN, screen(), gpus={}) as under_way:
        folder = tmp_path / "retrainings"
        folder.rename(tmp_path / "away")
        folder.write_text("in the way")
        time.sleep(0.3)
        folder.unlink()
        deadline_s = time.monotonic() + 20
        while not list(folder.glob("*.json")) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert only(tmp_path).status == "running"
        under_way.end("done")
    assert only(tmp_path).status == "done"


def test_what_comes_after_the_end_changes_nothing(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), recorded(str(tmp_path), BEGUN, screen(), gpus={}) as under_way:
        under_way.end("done", champion="7")
        under_way.write()  # a beat that was late
        raise KeyboardInterrupt
    assert (only(tmp_path).status, only(tmp_path).champion) == ("done", "7")


def test_gpus_of_a_job_that_was_lost_without_a_word_count(tmp_path: Path) -> None:
    shown = screen()
    with recorded(str(tmp_path), BEGUN, shown, gpus={"train": 3600}) as under_way:
        for _ in range(2):  # begun again, and no end was told
            shown.start("train", 10, "steps")
            shown.advance()
            time.sleep(0.1)
        under_way.end("done")
    assert 0.19 < (only(tmp_path).gpu_hours or 0.0) < 2


def test_hours_are_booked_in_the_month_they_were_used_in_and_each_start_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = screen()
    begun = replace(BEGUN, gpu_hours=2.0, starts=1)  # of an older program, which told no months
    with recorded(str(tmp_path), begun, shown, gpus={"train": 3600}) as under_way:
        shown.start("train", 10, "steps")
        shown.advance()
        monkeypatch.setattr(retrain_log, "now", lambda: "2026-11-30T23:59:59+00:00")
        time.sleep(0.3)
        under_way.write()
        november = dict(only(tmp_path).gpu_hours_by_month)
        monkeypatch.setattr(retrain_log, "now", lambda: "2026-12-01T00:00:59+00:00")
        time.sleep(0.3)
        under_way.end("done")
    entry = only(tmp_path)
    assert list(entry.gpu_hours_by_month) == ["2026-11", "2026-12"]
    assert 2.2 < november["2026-11"] == entry.gpu_hours_by_month["2026-11"]
    assert entry.gpu_hours_by_month["2026-12"] > 0.2
    assert sum(entry.gpu_hours_by_month.values()) == pytest.approx(entry.gpu_hours, abs=1e-5)
    assert entry.starts == 2
    with suppress(KeyboardInterrupt), recorded(str(tmp_path), entry, screen(), gpus={}):
        raise KeyboardInterrupt
    again = only(tmp_path)
    assert (again.gpu_hours_by_month, again.starts) == (entry.gpu_hours_by_month, 3)


STOPPED_IN_C = """
import io, os, signal, sys
from rich.console import Console
from flows.console.progress_display import Screen
from flows.console.stop_signals import ended_in_time
from flows.retrain_policy import Retraining
from flows.retraining import running_entry

came = []
signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
begun = Retraining(began_at="2026-11-23T09:00:00+00:00")
screen = Screen(Console(file=io.StringIO()))
with ended_in_time(lambda: None), running_entry.recorded(sys.argv[1], begun, screen, gpus={}):
    if sys.argv[2] == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
        while not (came and running_entry.was_stopped()):
            pass
    raise SystemError("<built-in method __new__> returned a result with an exception set")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("what", "status"), [("signal", "cancelled"), ("nothing", "failed")])
def test_what_fails_after_a_signal_is_cancelled_whatever_the_error(tmp_path: Path, what: str, status: str) -> None:
    subprocess.run([sys.executable, "-c", STOPPED_IN_C, str(tmp_path), what], stderr=subprocess.PIPE, timeout=120)
    assert only(tmp_path).status == status
