"""Whether a model is worth training again: what is known, what follows from it, and the sentence that says why.

`judge` is a pure function of facts; `look` gathers them from the store and the registry; somebody else acts
(`deployed.retrain`). What was done is kept as one small file per retraining, which is also what a budget is counted by.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from datasets import storage, versions
from datasets.errors import InputError
from datasets.ranges import NonNegativeFloat, Range, check_ranges

if TYPE_CHECKING:
    from flows.config import RunConfig

ABANDONED_H = 48.0  # a retraining that began that long ago and never ended was killed


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainConfig:
    """When a model is trained again. A trigger at 0 never fires."""

    new_hours: NonNegativeFloat = 10.0  # of clean songs that the champion has not learned from
    max_age_days: NonNegativeFloat = 60.0  # since the champion was promoted
    canary: str = ""  # a folder of songs with stems on which the champion is scored every time; none where empty
    canary_drop_db: NonNegativeFloat = 0.3  # of nSDR, against the champion's first score there
    moved_alias: bool = True  # somebody made another version the champion since the last retraining
    pause_h: NonNegativeFloat = 24.0  # at least this long from one retraining's beginning to the next
    gpu_hours_per_month: Annotated[float, Range(ge=0, unit="h")] = 0.0  # 0: not counted

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a judgement rests on."""

    now: str
    hours: float = 0.0  # of clean songs in the newest dataset
    champion: str = ""  # its version; empty where there is none
    champion_hours: float | None = None  # that it learned from; None where its dataset is gone
    champion_at: str = ""  # when it was promoted
    canary: Sequence[float] = ()  # the champion's scores on the canary songs, in dB, the oldest first
    expected_alias: str = ""  # the champion's version when the last retraining ended
    done: Sequence[Retraining] = ()  # the oldest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What follows from the facts; the sentence is for people."""

    retrain: bool
    sentence: str


def judge(facts: Facts, config: RetrainConfig) -> Judgement:
    """Retrain if something calls for it and nothing stands against it."""
    if facts.hours == 0:
        return Judgement(retrain=False, sentence="No: there are no clean songs to learn from yet.")
    calls = [words for words, fires in _triggers(facts, config) if fires]
    if not calls:
        quiet = "; ".join(words for words, _ in _triggers(facts, config)) or "every trigger is off"
        return Judgement(retrain=False, sentence=f"No: {quiet}.")
    against = next(_objections(facts, config), None)
    if against:
        return Judgement(retrain=False, sentence=f"Not now: {against}, though {' and '.join(calls)}.")
    return Judgement(retrain=True, sentence=f"Yes: {' and '.join(calls)}.")


def _triggers(facts: Facts, config: RetrainConfig) -> Iterator[tuple[str, bool]]:
    """Each trigger that is on: how it stands, and whether it fires."""
    if not facts.champion:
        yield "there is no champion yet", True
        return
    if config.new_hours and facts.champion_hours is not None:
        new = facts.hours - facts.champion_hours
        yield f"{new:.1f} new clean hours of {config.new_hours:g}", new >= config.new_hours
    elif config.new_hours:
        yield f"the dataset of version {facts.champion} is gone, so new hours cannot be counted", False
    if config.max_age_days and facts.champion_at:
        days = _hours_between(facts.champion_at, facts.now) / 24
        yield f"version {facts.champion} is {days:.1f} of {config.max_age_days:g} days old", days >= config.max_age_days
    if config.canary_drop_db and len(facts.canary) > 1:
        drop = facts.canary[0] - facts.canary[-1]
        words = f"the canary songs lost {drop:.2f} dB of {config.canary_drop_db:g}"
        yield words, drop >= config.canary_drop_db
    if config.moved_alias and facts.expected_alias:
        moved = facts.champion != facts.expected_alias
        words = f"the champion was moved from version {facts.expected_alias} to {facts.champion}"
        yield (words if moved else f"the champion is still version {facts.champion}"), moved


def _objections(facts: Facts, config: RetrainConfig) -> Iterator[str]:
    """What stands against a retraining, the strongest first."""
    if facts.done:
        last = facts.done[-1]
        ago = _hours_between(last.began_at, facts.now)
        if not last.ended_at and ago < ABANDONED_H:
            yield f"one that began {ago:.1f} h ago is still at work"
        if ago < config.pause_h:
            yield f"the last one began {ago:.1f} h ago, and {config.pause_h:g} h shall lie between"
    if config.gpu_hours_per_month:
        spent = sum(_gpu_hours(one, facts.now) for one in facts.done if _same_month(one.began_at, facts.now))
        usual = statistics.median([_gpu_hours(one, facts.now) for one in facts.done if one.ended_at] or [0.0])
        if spent + usual > config.gpu_hours_per_month:
            yield (
                f"{spent:.1f} GPU hours of {config.gpu_hours_per_month:g} are spent this month, "
                f"and one takes about {usual:.1f}"
            )


def _gpu_hours(one: Retraining, now: str) -> float:
    """What a retraining cost; one that never ended counts until now, at most until it is given up for dead."""
    hours = _hours_between(one.began_at, one.ended_at or now)
    return one.devices * (hours if one.ended_at else min(hours, ABANDONED_H))


def _same_month(first: str, second: str) -> bool:
    return first[:7] == second[:7]


def _hours_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)) / timedelta(hours=1)


# --- facts and records --------------------------------------------------------------------------------------


def now() -> str:
    """The present time as it is kept here."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def look(config: "RunConfig") -> Facts:
    """What store and registry know at this moment."""
    from pipelines import registry

    present = registry.champion(config.registry, store=config.store.root)
    promoted = registry.history(config.registry, store=config.store.root)
    found = [one for one in versions.list_versions(config.store.tables) if one.step == "curate"]
    learned = next((one.hours for one in found if present and one.manifest == present.dataset_uri), None)
    done = retrainings(config.store.tables)
    ended = [one for one in done if one.ended_at and one.champion]
    return Facts(
        now=now(),
        hours=found[0].hours if found else 0.0,
        champion=present.version if present else "",
        champion_hours=learned,
        champion_at=_utc(promoted[-1].at) if promoted else "",
        canary=canary_scores(config.store.tables, present.digest) if present else (),
        expected_alias=ended[-1].champion if ended else "",
        done=done,
    )


def _utc(at: str) -> str:
    """A time of the registry, which says UTC by name or not at all."""
    read = datetime.fromisoformat(at)
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).isoformat(timespec="seconds")


def retrainings(store: str) -> list[Retraining]:
    """Every retraining that was noted, the oldest first."""
    folder = storage.join(store, "retrainings")
    notes = [name for name in storage.names(folder) if name.endswith(".json")]
    told = (json.loads(storage.read(storage.join(folder, name))) for name in notes)
    return sorted((Retraining(**one) for one in told), key=lambda one: one.began_at)


def unfinished(store: str, run: str) -> Retraining | None:
    """What this very run began, as where its process was killed and started again; None where it began nothing."""
    return next((one for one in retrainings(store) if one.run == run and not one.ended_at), None)


def note(store: str, retraining: Retraining) -> None:
    """Remember a retraining; noted again at its end under the same name."""
    name = retraining.began_at.replace(":", "").replace("+", "Z")
    storage.write(storage.join(store, "retrainings", f"{name}.json"), _json(asdict(retraining)))


def canary_scores(store: str, champion_digest: str) -> list[float]:
    """The scores of a champion on the canary songs, the oldest first."""
    try:
        return list(json.loads(storage.read(_canary_file(store, champion_digest))))
    except FileNotFoundError:
        return []


def note_canary(store: str, champion_digest: str, score_db: float) -> None:
    """Remember one more score of a champion on the canary songs."""
    scores = [*canary_scores(store, champion_digest), score_db]
    storage.write(_canary_file(store, champion_digest), _json(scores))


def _canary_file(store: str, champion_digest: str) -> str:
    return storage.join(store, "retrainings", "canary", f"{champion_digest[:16]}.json")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
