"""Whether to train a model again: the facts, the judgement that follows from them, and a sentence that says why.

`judge` is a pure function of facts, which `flows/retraining/facts.py` reads from the store and the registry; the flow
in `flows/retraining/retrain_model.py` acts on it.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from datasets.errors import InputError
from datasets.field_constraints import NonNegativeFloat, Range, check_ranges
from pipelines.runtime.step_keys import digest

# How a retraining stands in the log. One that was killed is still noted as running; who reads the log tells it by its
# process, which is gone, and calls it crashed.
RUNNING, DONE, FAILED, CANCELLED, CRASHED = "running", "done", "failed", "cancelled", "crashed"
# After a failure the same is tried again at once; after further ones in a row, this long after the last, then twice as
# long each time.
FIRST_WAIT_H, LONGEST_WAIT_H = 1.0, 24.0
MAX_STARTS = 5  # of one run, and of one retraining whose process was killed again and again
CLOCKS_H = 0.25  # by so much clocks of machines may differ; a time further ahead was noted before a clock was set back
DRIFT = "drift "  # begins what the canary's trigger fires for
# Scheduled runs are not punctual to the second: a minimum interval of a day and a nightly schedule go together.
JITTER_H, JITTER = 1.0, 1 / 24  # at most, and as a fraction of the minimum interval


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainConfig:
    """When a model is trained again. A trigger at 0 never fires."""

    # Train again once there are this many hours of clean songs that the champion has not learned from
    new_hours: NonNegativeFloat = 10.0
    # Train again once the champion was promoted, or rolled back to, this long ago
    max_age_days: NonNegativeFloat = 60.0
    canary: str = ""  # a folder of songs with stems on which the champion is scored every time; none where empty
    # Train again once the champion's nSDR there fell by this much since its first score
    canary_drop_db: NonNegativeFloat = 0.3
    # Train again where somebody made another version the champion since the last retraining
    on_manual_promotion: bool = True
    min_interval_h: NonNegativeFloat = 24.0  # least time from one retraining's beginning to the next
    # Budget of devices times hours in a calendar month; 0: no limit
    gpu_hours_per_month: Annotated[float, Range(ge=0, unit="h")] = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="retrain.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """One retraining as it is in the log."""

    began_at: str  # UTC, ISO 8601, as all times here
    ended_at: str = ""  # empty while it runs
    status: str = RUNNING
    error: str = ""  # what a failed one ended with, in one line
    devices: int = 0  # GPUs that its training may hold
    # Of GPUs at work in training and scoring, until now while it runs; None in logs from before they were counted
    gpu_hours: float | None = None
    # The same by the month they were used in, such as "2026-11", in UTC
    gpu_hours_by_month: Mapping[str, float] = field(default_factory=dict)
    starts: int = 0  # how often a process began or went on with it
    champion: str = ""  # the champion's version when it ended
    reason: str = ""
    run: str = ""  # the flow run that does it
    due_at: str = ""  # when that was scheduled, before it waited and brought the dataset up to date
    occasion: str = ""  # why it was done, as `Judgement` has it
    dataset: str = ""  # digest of the songs
    recipe: str = ""  # digest of settings and code
    seed: int | None = None  # of its training; None in logs from before each had its own
    run_key: str = ""  # of its training
    machine: str = ""  # of the process that does it, as `process_identity` has these three
    pid: int = 0
    process_start: float = 0.0
    seen_at: str = ""  # when that process last said that it is alive


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that a judgement depends on."""

    now: str
    hours: float = 0.0  # of clean songs to learn from: those on the train side of the newest dataset
    champion: str = ""  # its version; empty where there is none
    champion_hours: float | None = None  # of these that it learned from; None where its dataset is gone
    champion_at: str = ""  # when it was promoted, or rolled back to
    rolled_back: bool = False  # it is the champion by a rollback
    canary: Sequence[float] = ()  # the champion's scores on the canary songs, in dB, the oldest first
    expected_alias: str = ""  # the champion's version when the last retraining ended
    done: Sequence[Retraining] = ()  # the oldest first
    unreadable: Sequence[str] = ()  # notes in the log that cannot be read
    due: str = ""  # when this check was scheduled; now where empty
    dataset: str = ""  # digest of the songs
    recipe: str = ""  # digest of settings and code


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What follows from the facts; the sentence is for people.

    The occasion names the triggers that fire. It stays the same while the same triggers fire for the same reason: a
    training on the same occasion with the same songs, settings and code would give the same model.
    """

    retrain: bool
    sentence: str
    occasion: str = ""

    @property
    def drift(self) -> bool:
        """Whether the canary songs are among the triggers that fire."""
        return any(part.startswith(DRIFT) for part in self.occasion.split("; "))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trigger:
    """The state of a trigger that is on; `occasion` names what it fires for."""

    message: str
    fires: bool
    occasion: str = ""


def judge(facts: Facts, config: RetrainConfig) -> Judgement:
    """Retrain if a trigger fires and nothing forbids it."""
    if facts.hours == 0:
        return Judgement(retrain=False, sentence="No: there are no clean songs to learn from yet.")
    triggers = list(_triggers(facts, config))
    fired = [trigger for trigger in triggers if trigger.fires]
    if not fired:
        quiet = "; ".join(trigger.message for trigger in triggers) or "every trigger is off"
        return Judgement(retrain=False, sentence=f"No: {quiet}.")
    reasons = " and ".join(trigger.message for trigger in fired)
    occasion = "; ".join([f"version {facts.champion or 'none'}", *(trigger.occasion for trigger in fired)])
    objection = next(_objections(facts, config, occasion), None)
    if objection:
        return Judgement(retrain=False, sentence=f"Not now: {objection}, though {reasons}.", occasion=occasion)
    unfinished = _came_to_nothing(facts)
    again = f" (the retraining of {unfinished[-1].began_at[:16]} {_how_it_ended(unfinished[-1])})" if unfinished else ""
    return Judgement(retrain=True, sentence=f"Yes: {reasons}{again}.", occasion=occasion)


def remarks(facts: Facts) -> list[str]:
    """What is wrong with the log, in whole sentences: none of it keeps a retraining from being decided on."""
    broken = [f"The note {name} of a retraining cannot be read and is left out." for name in facts.unreadable]
    return broken + [
        f"The retraining of {entry.began_at[:16]} lies in the future: the clock was set back since. It keeps no other "
        "waiting."
        for entry in facts.done
        if _hours_ago(entry.began_at, facts.now) is None
    ]


def _triggers(facts: Facts, config: RetrainConfig) -> Iterator[_Trigger]:
    """Each trigger that is on."""
    if not facts.champion:
        yield _Trigger(message="there is no champion yet", fires=True, occasion="no champion")
        return
    if config.new_hours and facts.champion_hours is not None:
        new = facts.hours - facts.champion_hours
        message = f"{new:.1f} new clean hours of {config.new_hours:g}"
        yield _Trigger(message=message, fires=new >= config.new_hours, occasion="new songs")
    elif config.new_hours:
        message = f"the dataset of version {facts.champion} is gone, so new hours cannot be counted"
        yield _Trigger(message=message, fires=False)
    if config.max_age_days and facts.champion_at:
        days = _hours_between(facts.champion_at, facts.now) / 24
        message = f"version {facts.champion} is {days:.1f} of {config.max_age_days:g} days old"
        age = f"{_times(days, config.max_age_days)} times old since {facts.champion_at}"
        yield _Trigger(message=message, fires=days >= config.max_age_days, occasion=age)
    if config.canary_drop_db and len(facts.canary) > 1:
        drop = facts.canary[0] - facts.canary[-1]
        message = f"the canary songs lost {drop:.2f} dB of {config.canary_drop_db:g}"
        drift = f"{DRIFT}{_times(drop, config.canary_drop_db)} times"
        yield _Trigger(message=message, fires=drop >= config.canary_drop_db, occasion=drift)
    if config.on_manual_promotion and facts.expected_alias:
        yield _moved(facts)


def _times(value: float, limit: float) -> float:
    """How often a limit is reached; NaN and infinity, from the scores of a broken champion, stay as they are."""
    times = value / limit + 1e-9
    return int(times) if math.isfinite(times) else times


def _moved(facts: Facts) -> _Trigger:
    if facts.champion == facts.expected_alias:
        return _Trigger(message=f"the champion is still version {facts.champion}", fires=False)
    if facts.rolled_back:  # by `stemline rollback`: to train again would undo it
        return _Trigger(message=f"the champion was rolled back to version {facts.champion}", fires=False)
    message = f"the champion was moved from version {facts.expected_alias} to {facts.champion}"
    return _Trigger(message=message, fires=True, occasion=f"moved from {facts.expected_alias}")


def _objections(facts: Facts, config: RetrainConfig, occasion: str) -> Iterator[str]:
    """Why not to retrain now, the strongest reason first."""
    running = next((entry for entry in facts.done if entry.status == RUNNING), None)
    if running:
        yield f"one that began {_hours_ago(running.began_at, facts.now) or 0.0:.1f} h ago is still running"
    if wait := _back_off(facts):
        yield wait
    times = [entry.due_at or entry.began_at for entry in facts.done if entry.status == DONE]
    latest = next((time for time in times[::-1] if _hours_ago(time, facts.now) is not None), "")
    # A run may begin long after it was due, and find one that was due since.
    ago = max(0.0, _hours_between(latest, facts.due or facts.now)) if latest else math.inf
    if ago < _at_least(config.min_interval_h):
        yield f"the last one began {ago:.1f} h ago; the minimum interval is {config.min_interval_h:g} h"
    now = (occasion, facts.dataset, facts.recipe)
    ended = [entry for entry in facts.done if entry.status == DONE]
    yield from (nothing_to_train(entry) for entry in ended if (entry.occasion, entry.dataset, entry.recipe) == now)
    if over := over_budget(facts.done, config, facts.now):
        yield over


def over_budget(
    done: Sequence[Retraining], config: RetrainConfig, now: str, *, unfinished: Retraining | None = None
) -> str:
    """Why this month's GPU hours do not suffice for one more, or for the rest of `unfinished`; empty where they do."""
    if not config.gpu_hours_per_month:
        return ""
    spent = sum(_gpu_hours_in(entry, now[:7]) for entry in done)
    usual = statistics.median([_gpu_hours(entry) for entry in done if entry.status == DONE] or [0.0])
    rest = max(0.0, usual - _gpu_hours(unfinished)) if unfinished else usual
    if spent + rest <= config.gpu_hours_per_month:
        return ""
    what = f"the rest of the one that began {unfinished.began_at[:16]}" if unfinished else "one"
    budget = config.gpu_hours_per_month
    return f"{spent:.1f} GPU hours of {budget:g} are spent this month, and {what} takes about {rest:.1f}"


def _back_off(facts: Facts) -> str:
    """Why to wait after failures in a row; empty after a first one, and where the wait is over."""
    failures = [entry for entry in _came_to_nothing(facts) if entry.status != CANCELLED]
    if len(failures) < 2:
        return ""
    last = failures[-1]
    wait_h = min(LONGEST_WAIT_H, FIRST_WAIT_H * 2 ** (len(failures) - 2))
    ago = _hours_ago(last.ended_at or last.began_at, facts.now)
    if ago is None or ago >= _at_least(wait_h):
        return ""
    return (
        f"the last {len(failures)} retrainings with these settings came to nothing, and the last of them "
        f"{_how_it_ended(last)} {ago:.1f} h ago; the next begins {wait_h:g} h after it"
    )


def _came_to_nothing(facts: Facts) -> list[Retraining]:
    """Those in a row at the end of the log that failed or were cancelled, with the present settings and code."""
    came_to_nothing: list[Retraining] = []
    for entry in facts.done[::-1]:
        if _hours_ago(entry.began_at, facts.now) is None:
            continue
        if entry.status not in (FAILED, CRASHED, CANCELLED) or entry.recipe != facts.recipe:
            break
        came_to_nothing.insert(0, entry)
    return came_to_nothing


def _how_it_ended(entry: Retraining) -> str:
    status = "was cancelled" if entry.status == CANCELLED else entry.status
    return f"{status}: {entry.error.rstrip('.')}" if entry.error else status


def _at_least(hours: float) -> float:
    """The least time that counts as so many hours: schedules are not punctual to the second."""
    return hours - min(JITTER_H, JITTER * hours)


def _hours_ago(time: str, now: str) -> float | None:
    """None where the time lies in the future, by more than clocks of machines differ."""
    hours = _hours_between(time, now)
    return None if hours < -CLOCKS_H else max(0.0, hours)


def nothing_to_train(before: Retraining) -> str:
    """Why a training that would repeat an earlier one is not started."""
    return f"there is nothing to train: the retraining of {before.began_at[:16]} had the same songs, settings and code"


def seed_of(seed: int, occasion: str) -> int:
    """The seed of a retraining: its own on each occasion, and the same again after a kill."""
    return int(digest(seed, occasion)[:7], 16)


def _gpu_hours(entry: Retraining) -> float:
    """What a retraining cost; in logs from before it was measured, what it held, if it ended."""
    if entry.gpu_hours is not None:
        return entry.gpu_hours
    return entry.devices * max(0.0, _hours_between(entry.began_at, entry.ended_at)) if entry.ended_at else 0.0


def _gpu_hours_in(entry: Retraining, month: str) -> float:
    """The part of its cost that a month bears; all of it the month it began in, where the log does not say."""
    by_month = entry.gpu_hours_by_month or {entry.began_at[:7]: _gpu_hours(entry)}
    return by_month.get(month, 0.0)


def _hours_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)) / timedelta(hours=1)
