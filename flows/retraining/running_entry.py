"""Keeps the log's entry of a retraining true while it runs, and ends it however the retraining ends."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from prefect.exceptions import CancelledRun

from flows.console.error_messages import explain
from flows.console.progress_display import Screen
from flows.console.stop_signals import stopped as was_stopped
from flows.retrain_policy import CANCELLED, FAILED, RUNNING, Retraining
from flows.retraining import retrain_log
from flows.tasks.process_identity import this_process

_LOG = logging.getLogger(__name__)
BEAT_S = 60.0  # the entry says so often that its process is alive, and what it has cost
_ERROR_CHARACTERS = 200
_JOIN_S = 20.0  # a write to an object store that hangs must not keep a stopped command


class RunningEntry:
    """The entry of a retraining under way; `end` says how it stands at its end."""

    def __init__(self, store: str, begun: Retraining, screen: Screen, gpus: Mapping[str, int]) -> None:
        process = this_process()
        self._entry = replace(
            begun, status=RUNNING, ended_at="", error="", machine=process.machine, pid=process.pid,
            process_start=process.start, starts=begun.starts + 1,
        )  # fmt: skip
        self._store, self._screen, self._gpus = store, screen, gpus
        self._writing, self._ended = threading.Lock(), False
        self._hours = dict(begun.gpu_hours_by_month) or {begun.began_at[:7]: begun.gpu_hours or 0.0}
        self._counted_s = self._worked_s()  # earlier stages of this screen were not part of it

    @property
    def entry(self) -> Retraining:
        """As it stands now."""
        return self._as_of(retrain_log.now(), self._worked_s())

    def _as_of(self, now: str, worked_s: float) -> Retraining:
        hours = self._hours_at(now[:7], worked_s)
        return replace(
            self._entry,
            seen_at=now,
            gpu_hours=round(sum(hours.values()), 6),
            gpu_hours_by_month={month: round(used, 6) for month, used in hours.items()},
        )

    def write(self) -> None:
        """Note that it is running; nothing once it has ended."""
        with self._writing:
            if not self._ended:
                now, worked_s = retrain_log.now(), self._worked_s()
                self._hours, self._counted_s = self._hours_at(now[:7], worked_s), worked_s
                retrain_log.write(self._store, self._as_of(now, worked_s))

    def end(self, status: str, *, champion: str = "", error: str = "") -> None:
        """Note how it ended, once: what comes after changes nothing."""
        waited = self._writing.acquire(timeout=_JOIN_S)
        try:
            if not self._ended:
                entry = self.entry
                ended = replace(entry, status=status, ended_at=entry.seen_at, champion=champion, error=error)
                retrain_log.write(self._store, ended)
                self._ended = True
        finally:
            if waited:
                self._writing.release()

    def _hours_at(self, month: str, worked_s: float) -> dict[str, float]:
        """GPU hours by month; what was not counted yet was used in this one."""
        new_h = (worked_s - self._counted_s) / 3600
        return {**self._hours, month: self._hours.get(month, 0.0) + new_h}

    def _worked_s(self) -> float:
        """Seconds of GPUs."""
        return sum(gpus * self._screen.worked_s(stage) for stage, gpus in self._gpus.items())


@contextmanager
def recorded(store: str, begun: Retraining, screen: Screen, *, gpus: Mapping[str, int]) -> Iterator[RunningEntry]:
    """Inside, the entry is noted as running, with what it has cost; after an error, as failed or cancelled.

    `gpus` says how many a stage of the screen has at work. The body ends the entry itself where all went well.
    """
    recording = RunningEntry(store, begun, screen, gpus)
    recording.write()
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(recording, over), name="retraining-log", daemon=True)
    thread.start()

    try:
        yield recording
    except BaseException as error:
        over.set()
        # What fails after a signal fails because of it: code in C makes errors of its own of an interruption.
        stopped = not isinstance(error, Exception) or isinstance(error, CancelledRun) or was_stopped() is not None
        try:
            lines = "" if stopped else explain(error).message.removeprefix("stemline failed: ")
            recording.end(CANCELLED if stopped else FAILED, error=_one_line(lines))
        except Exception as second:  # such as a full disk, of which the first one tells
            _LOG.warning("the log of retrainings could not be written: %s", second)
        raise
    finally:
        over.set()
        thread.join(timeout=_JOIN_S)


def _beat(recording: RunningEntry, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        try:
            recording.write()
        except Exception as error:  # a disk that is full now, a store that is away for a moment: the next may do
            _LOG.warning("the log of retrainings could not be written: %s", error)


def _one_line(text: str) -> str:
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= _ERROR_CHARACTERS else line[: _ERROR_CHARACTERS - 1] + "…"
