"""The log of retrainings: how each ended, also where nobody noted it, and notes that are none."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from datasets.errors import InputError
from flows.retrain_policy import MAX_STARTS, Retraining
from flows.retraining import retrain_log
from flows.retraining.retrain_log import (
    add_canary_score,
    canary_scores,
    cancel,
    now,
    read_log,
    settle,
    unfinished,
    utc,
    wait_for_earlier_start,
    write,
)
from flows.tasks.process_identity import start_of, this_machine

BEGAN = "2026-11-23T09:00:00+00:00"
ENTRY = Retraining(began_at=BEGAN, run="a run", recipe="recipe", seen_at="2026-11-23T09:20:00+00:00")


def of_process(pid: int) -> Retraining:
    return replace(ENTRY, machine=this_machine(), pid=pid, process_start=start_of(pid) or 0.0)


def only(store: Path) -> Retraining:
    (entry,) = read_log(str(store)).retrainings
    return entry


def test_what_was_noted_is_read_again_and_an_end_replaces_its_beginning(tmp_path: Path) -> None:
    later = replace(of_process(os.getpid()), began_at="2026-11-23T10:00:00+00:00")
    write(str(tmp_path), later)
    write(str(tmp_path), of_process(os.getpid()))
    ended = replace(ENTRY, status="done", ended_at="2026-11-23T09:30:00+00:00", gpu_hours=0.25)
    write(str(tmp_path), ended)
    assert list(read_log(str(tmp_path)).retrainings) == [ended, later]
    assert read_log(str(tmp_path / "nothing")).retrainings == []


@pytest.mark.parametrize("reaped", [True, False])
def test_one_whose_process_was_killed_has_crashed_when_it_was_last_seen(tmp_path: Path, reaped: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write(str(tmp_path), entry := of_process(process.pid))
    assert only(tmp_path).status == "running"
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    else:  # a worker that has not asked for its child's end yet
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert only(tmp_path) == replace(entry, status="crashed", ended_at=entry.seen_at)
    settle(str(tmp_path))
    (note,) = (tmp_path / "retrainings").glob("*.json")
    assert json.loads(note.read_text())["status"] == "crashed"
    process.communicate()


def test_another_process_with_the_same_number_is_another_one(tmp_path: Path) -> None:
    mine = of_process(os.getpid())
    write(str(tmp_path), replace(mine, process_start=mine.process_start - 1))
    assert only(tmp_path).status == "crashed"


@pytest.mark.parametrize(("silent_min", "status"), [(2, "running"), (9, "running"), (-3, "running"), (11, "crashed")])
def test_one_on_another_machine_lives_as_long_as_it_says_so(tmp_path: Path, silent_min: float, status: str) -> None:
    """Under a number that is taken here too."""
    seen = (datetime.now(UTC) - timedelta(minutes=silent_min)).isoformat(timespec="seconds")
    write(str(tmp_path), replace(of_process(os.getpid()), machine="another", seen_at=seen))
    settle(str(tmp_path))
    assert only(tmp_path).status == status


NO_NOTES = {
    "empty": b"",
    "half-written": json.dumps(asdict(ENTRY))[:60].encode(),
    "zeros": b"\0" * 300,
    "not-text": b"\xff\xfe\x00",
    "a-list": b"[]",
    "deep": b"[" * 100_000,
    "no-time": json.dumps({**asdict(ENTRY), "began_at": "yesterday"}).encode(),
    "no-beginning": json.dumps({"reason": "Yes."}).encode(),
    "no-status": json.dumps({**asdict(ENTRY), "status": "asleep"}).encode(),
    "no-number": json.dumps({**asdict(ENTRY), "gpu_hours": "many"}).encode(),
}


def test_notes_that_are_none_are_named_and_the_others_read(tmp_path: Path) -> None:
    write(str(tmp_path), replace(ENTRY, status="done"))
    for name, content in NO_NOTES.items():
        (tmp_path / "retrainings" / f"{name}.json").write_bytes(content)
    log = read_log(str(tmp_path))
    assert [entry.status for entry in log.retrainings] == ["done"]
    assert sorted(Path(file).stem for file in log.unreadable) == sorted(NO_NOTES)
    settle(str(tmp_path))
    assert len(read_log(str(tmp_path)).unreadable) == len(NO_NOTES), "nothing is put in their place"


def test_what_a_newer_program_notes_besides_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "retrainings").mkdir()
    (tmp_path / "retrainings" / "new.json").write_text(json.dumps({**asdict(ENTRY), "status": "done", "power_kwh": 3}))
    assert only(tmp_path) == replace(ENTRY, status="done")


@pytest.mark.parametrize(("ended", "status"), [("", "crashed"), ("2026-11-23T09:05:00+00:00", "done")])
def test_a_note_from_before_a_status_was_noted_is_over(tmp_path: Path, ended: str, status: str) -> None:
    (tmp_path / "retrainings").mkdir()
    old = {"began_at": BEGAN, "ended_at": ended, "devices": 4, "champion": "", "reason": "Yes.", "run": "r"}
    (tmp_path / "retrainings" / "2026-11-23T090000Z0000.json").write_text(json.dumps(old))
    found = only(tmp_path)
    assert (found.status, found.seed, found.gpu_hours) == (status, None, None)
    assert (unfinished(str(tmp_path), "r", "recipe") == found) is (status == "crashed")


@pytest.mark.parametrize(
    ("status", "goes_on"), [("crashed", True), ("cancelled", True), ("failed", False), ("done", False)]
)
def test_a_run_that_is_started_again_goes_on_with_what_it_began_unless_it_failed(
    tmp_path: Path, status: str, goes_on: bool
) -> None:
    write(str(tmp_path), begun := replace(ENTRY, status=status, ended_at="2026-11-23T09:30:00+00:00"))
    assert unfinished(str(tmp_path), "a run", "recipe") == (begun if goes_on else None)
    assert unfinished(str(tmp_path), "another run", "recipe") is None
    assert unfinished(str(tmp_path), "a run", "other settings") is None
    write(str(tmp_path), replace(begun, began_at="2026-11-24T09:00:00+00:00", run="another run", status="done"))
    assert unfinished(str(tmp_path), "a run", "recipe") is None, "it was trained since"


def test_one_that_runs_elsewhere_is_not_gone_on_with(tmp_path: Path) -> None:
    write(str(tmp_path), of_process(os.getpid()))
    assert unfinished(str(tmp_path), "a run", "recipe") is None


def test_a_run_that_was_cancelled_and_killed_is_noted_as_cancelled(tmp_path: Path) -> None:
    write(str(tmp_path), replace(ENTRY, machine="another"))
    failed = replace(ENTRY, began_at="2026-11-22T09:00:00+00:00", status="failed", ended_at=BEGAN)
    write(str(tmp_path), failed)
    cancel(str(tmp_path), "another run")
    assert [entry.status for entry in read_log(str(tmp_path)).retrainings] == ["failed", "crashed"]
    cancel(str(tmp_path), "a run")
    first, second = read_log(str(tmp_path)).retrainings
    assert (first, second.status) == (failed, "cancelled")
    assert second.ended_at > BEGAN


def test_times_are_utc_whatever_zone_they_were_noted_in(tmp_path: Path) -> None:
    assert utc("2026-11-23T10:00:00+01:00") == utc("2026-11-23T09:00:00") == BEGAN


def test_scores_of_the_canary_songs_begin_anew_where_their_file_is_broken(tmp_path: Path) -> None:
    for score in (6.0, 5.5):
        add_canary_score(str(tmp_path), "abc", score)
    assert canary_scores(str(tmp_path), "abc") == [6.0, 5.5]
    assert canary_scores(str(tmp_path), "another champion") == []
    (file,) = (tmp_path / "retrainings" / "canary").iterdir()
    for broken in ("", "[6.0, 5", '{"a": 1}', "7"):
        file.write_text(broken)
        assert canary_scores(str(tmp_path), "abc") == []
    add_canary_score(str(tmp_path), "abc", 5.0)
    assert canary_scores(str(tmp_path), "abc") == [5.0]
    assert read_log(str(tmp_path)).unreadable == []


@pytest.mark.parametrize(("status", "goes_on"), [("crashed", False), ("cancelled", True)])
def test_one_that_was_killed_at_each_of_its_starts_is_decided_on_anew(
    tmp_path: Path, status: str, goes_on: bool
) -> None:
    write(str(tmp_path), replace(ENTRY, status=status, starts=MAX_STARTS - 1))
    assert unfinished(str(tmp_path), "a run", "recipe") is not None
    write(str(tmp_path), replace(ENTRY, status=status, starts=MAX_STARTS))
    assert (unfinished(str(tmp_path), "a run", "recipe") is not None) is goes_on, "somebody who stops it may go on"


def test_a_run_that_is_started_again_elsewhere_goes_on_once_the_lost_machine_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_log, "SILENT", timedelta(seconds=3))
    monkeypatch.setattr(retrain_log, "LOOK_EVERY_S", 0.1)
    lost = replace(ENTRY, machine="another", seen_at=now())
    write(str(tmp_path), lost)
    began_s = time.monotonic()
    wait_for_earlier_start(str(tmp_path), "another run")
    assert time.monotonic() - began_s < 1
    wait_for_earlier_start(str(tmp_path), "a run")
    assert 1 < time.monotonic() - began_s < 60
    assert unfinished(str(tmp_path), "a run", "recipe") is not None


def test_and_fails_where_that_machine_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrain_log, "SILENT", timedelta(seconds=2))
    monkeypatch.setattr(retrain_log, "LOOK_EVERY_S", 0.1)
    alive, over = replace(ENTRY, machine="another-host 1234", pid=77), threading.Event()

    def say_so() -> None:
        while not over.wait(0.2):
            write(str(tmp_path), replace(alive, seen_at=datetime.now(UTC).isoformat()))

    write(str(tmp_path), replace(alive, seen_at=now()))
    (beat := threading.Thread(target=say_so)).start()
    try:
        with pytest.raises(InputError, match=r"still at work on another-host, process 77.*start the run again"):
            wait_for_earlier_start(str(tmp_path), "a run")
    finally:
        over.set()
        beat.join()


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_clock_that_is_ten_minutes_off_keeps_nobody_waiting_and_no_dead_retraining_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float
) -> None:
    monkeypatch.setattr(retrain_log, "LOOK_EVERY_S", 0.1)
    seen = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    write(str(tmp_path), replace(ENTRY, machine="another", seen_at=seen))
    monkeypatch.setattr(retrain_log, "SILENT", timedelta(minutes=20))  # by the clocks it lives
    settle(str(tmp_path))
    assert only(tmp_path).status == "running"
    monkeypatch.setattr(retrain_log, "_is_alive", lambda entry: True)
    monkeypatch.setattr(retrain_log, "SILENT", timedelta(seconds=1))
    wait_for_earlier_start(str(tmp_path), "a run")  # it says nothing while this waits
    assert only(tmp_path).status == "running"
    settle(str(tmp_path), alone=True)  # nobody else can be in the store
    assert only(tmp_path) == replace(ENTRY, machine="another", seen_at=utc(seen), status="crashed", ended_at=utc(seen))
    assert unfinished(str(tmp_path), "a run", "recipe") is not None
