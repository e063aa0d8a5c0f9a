"""The log of retrainings, a small file for each beside the tables of a store, and the champion's canary scores.

A retraining that was killed is still noted as running. Who reads the log is told that it crashed: its process is gone.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from datasets.errors import InputError
from datasets.store import storage
from flows import config as settings
from flows.retrain_policy import CANCELLED, CRASHED, DONE, FAILED, MAX_STARTS, RUNNING, Retraining
from flows.tasks import process_identity

_LOG = logging.getLogger(__name__)
SILENT = timedelta(minutes=10)  # one on another machine that says nothing for so long was killed
LOOK_EVERY_S = 10.0
_STATES = (RUNNING, DONE, FAILED, CANCELLED, CRASHED)
_TIMES = ("began_at", "ended_at", "due_at", "seen_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainLog:
    """What the log holds."""

    retrainings: Sequence[Retraining]  # the oldest first; those whose process is gone as crashed
    unreadable: Sequence[str]  # files that hold none, as a machine that lost its power leaves them


def now() -> str:
    """The current time as it is written here."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def utc(at: str) -> str:
    """A time as it is written here; one without a zone is in UTC already, as the registry's are."""
    time = datetime.fromisoformat(at)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="seconds")


def read_log(store: str) -> RetrainLog:
    """Every retraining of the log; what cannot be read is named, and stands in nobody's way."""
    notes = _notes(store)
    entries = (_as_it_is(entry) for entry in notes.values() if entry)
    unreadable = [file for file, entry in notes.items() if entry is None]
    return RetrainLog(retrainings=sorted(entries, key=lambda entry: entry.began_at), unreadable=unreadable)


def _notes(store: str) -> dict[str, Retraining | None]:
    """Each file of the log, and what it says; None where it cannot be read."""
    folder = storage.join(store, "retrainings")
    notes = dict[str, Retraining | None]()
    for name in storage.names(folder):
        if name.endswith(".json"):
            file = storage.join(folder, name)
            try:
                notes[file] = _parse(storage.read(file))
            except (OSError, ValueError, RecursionError):
                notes[file] = None
    return notes


def _parse(note: bytes) -> Retraining:
    """The retraining of a note; what a newer program notes besides is left out. ValueError where it is none."""
    content = json.loads(note)
    if not isinstance(content, dict):
        raise ValueError("a note is a table")
    names = {field.name for field in dataclasses.fields(Retraining)}
    entry: Retraining = settings.parse(
        Retraining, json.dumps({name: value for name, value in content.items() if name in names})
    )
    times: dict[str, Any] = {name: utc(getattr(entry, name)) for name in _TIMES if getattr(entry, name)}
    if not entry.began_at or entry.status not in _STATES:
        raise ValueError("a retraining has a beginning and a status")
    if "status" not in content:  # from before it was noted: what had not ended then is over by now
        entry = replace(entry, status=DONE if entry.ended_at else CRASHED)
    return replace(entry, **times)


def _as_it_is(entry: Retraining) -> Retraining:
    """The same, but crashed where it is noted as running and its process is gone."""
    return entry if entry.status != RUNNING or _is_alive(entry) else _crashed(entry)


def _crashed(entry: Retraining) -> Retraining:
    return replace(entry, status=CRASHED, ended_at=entry.seen_at or entry.began_at)


def _is_alive(entry: Retraining) -> bool:
    """Told by the process where it is one of this machine, else by its last sign of life."""
    if entry.machine == process_identity.this_machine():
        return process_identity.is_running(entry.pid, entry.process_start)
    return bool(entry.seen_at) and abs(datetime.now(UTC) - datetime.fromisoformat(entry.seen_at)) < SILENT


def write(store: str, entry: Retraining) -> None:
    """Put a retraining into the log; it replaces what was noted of it before."""
    storage.write(_file_of(store, entry), _json(asdict(entry)))


def _file_of(store: str, entry: Retraining) -> str:
    return storage.join(store, "retrainings", f"{entry.began_at.replace(':', '').replace('+', 'Z')}.json")


def settle(store: str, *, alone: bool = False) -> None:
    """Note of each retraining that crashed that it did. For who holds the lock of the store.

    Where no other command can use these tables, `alone`, whatever is noted as running crashed: clocks need not agree.
    """
    for file, entry in _notes(store).items():
        if entry and entry != (as_it_is := _crashed(entry) if alone and entry.status == RUNNING else _as_it_is(entry)):
            storage.write(file, _json(asdict(as_it_is)))


def unfinished(store: str, run: str, recipe: str) -> Retraining | None:
    """What this very run began before it was stopped or killed, if nothing was trained since; None where that is none.

    One that failed is not gone on with but decided on anew; so is one whose settings or code are others by now, and
    one that was killed at each of its first starts.
    """
    entries = read_log(store).retrainings
    last_done = max((entry.began_at for entry in entries if entry.status == DONE), default="")
    own = [entry for entry in entries if entry.run == run and entry.status in (CRASHED, CANCELLED)]
    own = [entry for entry in own if entry.status == CANCELLED or entry.starts < MAX_STARTS]
    return next((entry for entry in own[::-1] if entry.recipe in ("", recipe) and entry.began_at > last_done), None)


def wait_for_earlier_start(store: str, run: str) -> None:
    """Returns once an earlier start of this very run, on another machine, is known to be gone.

    A machine that was lost says nothing for ten minutes before that is known; what its clock said does not matter.
    InputError where it still lives then: a run that ended there as if all were well would be noticed by nobody.
    """
    began_s, first_seen = time.monotonic(), dict[str, str]()
    while earlier := next(
        (entry for entry in read_log(store).retrainings if entry.run == run and entry.status == RUNNING), None
    ):
        waited_s = time.monotonic() - began_s
        if first_seen.setdefault(earlier.began_at, earlier.seen_at) == earlier.seen_at:
            if waited_s > SILENT.total_seconds():
                return
        elif waited_s > 1.2 * SILENT.total_seconds():
            raise InputError(
                f"an earlier start of this run is still at work on {earlier.machine.split(' ')[0]}, process "
                f"{earlier.pid}, and said so at {earlier.seen_at}; stop that process, then start the run again"
            )
        time.sleep(LOOK_EVERY_S)


def cancel(store: str, run: str) -> None:
    """Note that a run was cancelled; the process that might have done it is gone."""
    for entry in read_log(store).retrainings:
        if entry.run == run and entry.status in (RUNNING, CRASHED):
            write(store, replace(entry, status=CANCELLED, ended_at=now()))


def canary_scores(store: str, champion_digest: str) -> list[float]:
    """The scores of a champion on the canary songs, the oldest first."""
    file = _canary_file(store, champion_digest)
    try:
        scores = json.loads(storage.read(file))
        return [float(score) for score in scores]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        _LOG.warning("%s cannot be read; the scores of the canary songs begin anew", file)
        return []


def add_canary_score(store: str, champion_digest: str, score_db: float) -> None:
    """Keep one more score of a champion on the canary songs."""
    scores = [*canary_scores(store, champion_digest), score_db]
    storage.write(_canary_file(store, champion_digest), _json(scores))


def _canary_file(store: str, champion_digest: str) -> str:
    return storage.join(store, "retrainings", "canary", f"{champion_digest[:16]}.json")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
