"""Whether a model is worth training again: what is known, what follows from it, and the sentence that says why.

`judge` is a pure function of facts; `retrain_log.look` gathers them from the store and the registry; somebody else acts
(`flows/retraining/retrain_model.py`).
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from datasets.errors import InputError
from datasets.ranges import NonNegativeFloat, Range, check_ranges
from pipelines.runtime.step_keys import digest

ABANDONED_H = 48.0  # a retraining that began that long ago and never ended was killed
# A schedule's runs do not begin to the second: a pause of a day and a nightly schedule go together.
JITTER_H, JITTER = 1.0, 1 / 24  # at most, and of the pause


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
    # Budget of devices times hours in a calendar month; 0: none
    gpu_hours_per_month: Annotated[float, Range(ge=0, unit="h")] = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="retrain.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """One retraining as it is remembered; `ended_at` is empty while it runs, and for ever if it was killed."""

    began_at: str  # UTC, ISO 8601, as all times here
    ended_at: str = ""
    devices: int = 0  # GPUs that it held
    champion: str = ""  # the champion's version when it ended
    reason: str = ""
    run: str = ""  # the flow run that does it
    due_at: str = ""  # when that was scheduled for, before it waited and brought the dataset up to date
    occasion: str = ""  # what called for it, as `Judgement` has it
    dataset: str = ""  # digest of the songs
    recipe: str = ""  # digest of settings and code
    seed: int | None = None  # of its training; None for one that was noted before each had its own
    run_key: str = ""  # of its training


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a judgement rests on."""

    now: str
    hours: float = 0.0  # of clean songs to learn from: those on the train side of the newest dataset
    champion: str = ""  # its version; empty where there is none
    champion_hours: float | None = None  # of these that it learned from; None where its dataset is gone
    champion_at: str = ""  # when it was promoted, or rolled back to
    rolled_back: bool = False  # it is the champion by a rollback
    canary: Sequence[float] = ()  # the champion's scores on the canary songs, in dB, the oldest first
    expected_alias: str = ""  # the champion's version when the last retraining ended
    done: Sequence[Retraining] = ()  # the oldest first
    due: str = ""  # when this look was scheduled for; now where empty
    dataset: str = ""  # digest of the songs
    recipe: str = ""  # digest of settings and code


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What follows from the facts; the sentence is for people.

    The occasion names what calls for a retraining. It stays the same as long as the same calls for it, and a training
    on the same occasion with the same songs, settings and code would give the same model.
    """

    retrain: bool
    sentence: str
    occasion: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trigger:
    """How a trigger that is on stands; `occasion` changes with what it calls for."""

    words: str
    fires: bool
    occasion: str = ""


def judge(facts: Facts, config: RetrainConfig) -> Judgement:
    """Retrain if something calls for it and nothing stands against it."""
    if facts.hours == 0:
        return Judgement(retrain=False, sentence="No: there are no clean songs to learn from yet.")
    triggers = list(_triggers(facts, config))
    calls = [one for one in triggers if one.fires]
    if not calls:
        quiet = "; ".join(one.words for one in triggers) or "every trigger is off"
        return Judgement(retrain=False, sentence=f"No: {quiet}.")
    words = " and ".join(one.words for one in calls)
    occasion = "; ".join([f"version {facts.champion or 'none'}", *(one.occasion for one in calls)])
    against = next(_objections(facts, config, occasion), None)
    if against:
        return Judgement(retrain=False, sentence=f"Not now: {against}, though {words}.", occasion=occasion)
    return Judgement(retrain=True, sentence=f"Yes: {words}.", occasion=occasion)


def _triggers(facts: Facts, config: RetrainConfig) -> Iterator[_Trigger]:
    """Each trigger that is on."""
    if not facts.champion:
        yield _Trigger(words="there is no champion yet", fires=True, occasion="no champion")
        return
    if config.new_hours and facts.champion_hours is not None:
        new = facts.hours - facts.champion_hours
        words = f"{new:.1f} new clean hours of {config.new_hours:g}"
        yield _Trigger(words=words, fires=new >= config.new_hours, occasion="new songs")
    elif config.new_hours:
        words = f"the dataset of version {facts.champion} is gone, so new hours cannot be counted"
        yield _Trigger(words=words, fires=False)
    if config.max_age_days and facts.champion_at:
        days = _hours_between(facts.champion_at, facts.now) / 24
        words = f"version {facts.champion} is {days:.1f} of {config.max_age_days:g} days old"
        age = f"{_times(days, config.max_age_days)} times old since {facts.champion_at}"
        yield _Trigger(words=words, fires=days >= config.max_age_days, occasion=age)
    if config.canary_drop_db and len(facts.canary) > 1:
        drop = facts.canary[0] - facts.canary[-1]
        words = f"the canary songs lost {drop:.2f} dB of {config.canary_drop_db:g}"
        drift = f"drift {_times(drop, config.canary_drop_db)} times"
        yield _Trigger(words=words, fires=drop >= config.canary_drop_db, occasion=drift)
    if config.on_manual_promotion and facts.expected_alias:
        yield _moved(facts)


def _times(value: float, limit: float) -> float:
    """How often a limit is reached; what is no number, as a broken champion scores, stays as it is."""
    times = value / limit + 1e-9
    return int(times) if math.isfinite(times) else times


def _moved(facts: Facts) -> _Trigger:
    if facts.champion == facts.expected_alias:
        return _Trigger(words=f"the champion is still version {facts.champion}", fires=False)
    if facts.rolled_back:  # by us: to train again would undo it
        return _Trigger(words=f"the champion was rolled back to version {facts.champion}", fires=False)
    words = f"the champion was moved from version {facts.expected_alias} to {facts.champion}"
    return _Trigger(words=words, fires=True, occasion=f"moved from {facts.expected_alias}")


def _objections(facts: Facts, config: RetrainConfig, occasion: str) -> Iterator[str]:
    """What stands against a retraining, the strongest first."""
    if facts.done:
        last = facts.done[-1]
        running = _hours_between(last.began_at, facts.now)
        if not last.ended_at and running < ABANDONED_H:
            yield f"one that began {running:.1f} h ago is still at work"
        ago = _hours_between(last.due_at or last.began_at, facts.due or facts.now)
        if ago < config.min_interval_h - min(JITTER_H, JITTER * config.min_interval_h):
            yield f"the last one began {max(0.0, ago):.1f} h ago; the minimum interval is {config.min_interval_h:g} h"
    for one in facts.done:
        if one.ended_at and (one.occasion, one.dataset, one.recipe) == (occasion, facts.dataset, facts.recipe):
            yield nothing_to_train(one)
    if config.gpu_hours_per_month:
        spent = sum(_gpu_hours(one, facts.now) for one in facts.done if _same_month(one.began_at, facts.now))
        usual = statistics.median([_gpu_hours(one, facts.now) for one in facts.done if one.ended_at] or [0.0])
        if spent + usual > config.gpu_hours_per_month:
            yield (
                f"{spent:.1f} GPU hours of {config.gpu_hours_per_month:g} are spent this month, "
                f"and one takes about {usual:.1f}"
            )


def nothing_to_train(before: Retraining) -> str:
    """Why a training that would repeat an earlier one is none."""
    return f"there is nothing to train: the retraining of {before.began_at[:16]} had the same songs, settings and code"


def seed_of(seed: int, occasion: str) -> int:
    """The seed of a retraining: its own on each occasion, and the same again where it was killed on the way."""
    return int(digest(seed, occasion)[:7], 16)


def _gpu_hours(one: Retraining, now: str) -> float:
    """What a retraining cost; one that never ended counts until now, at most until it is given up for dead."""
    hours = _hours_between(one.began_at, one.ended_at or now)
    return one.devices * (hours if one.ended_at else min(hours, ABANDONED_H))


def _same_month(first: str, second: str) -> bool:
    return first[:7] == second[:7]


def _hours_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)) / timedelta(hours=1)
