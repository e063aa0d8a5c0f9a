"""What store and registry know of retrainings, and the note that each of them leaves.

`look` gathers the facts that `retrain_policy.judge` decides by. What was done is kept as one small file per
retraining, which is also what a budget is counted by.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from datasets.schema import ShardSet
from datasets.shards import versions
from datasets.shards.manifests import Song, address_of, read_manifest, read_songs
from datasets.store import storage
from flows.retrain_policy import Facts, Retraining
from pipelines.runtime.step_keys import Step

if TYPE_CHECKING:
    from flows.config import RunConfig
    from pipelines.registry import ModelVersion, Promotion

RECIPE = Step(name="recipe", version=1)


def now() -> str:
    """The present time as it is kept here."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def look(config: "RunConfig", songs: ShardSet | None = None, *, due: str = "") -> Facts:
    """What store and registry know at this moment; of the dataset `songs`, by default the newest of the store."""
    from pipelines import registry

    present = registry.champion(config.registry, store=config.store.root)
    moves = registry.history(config.registry, store=config.store.root)
    held = next((one for one in moves[::-1] if present and one.version == present.version), None)
    newest = songs or _newest(config.store.tables)
    learnable = [song for song in read_songs(newest) if song.split == "train"] if newest else []
    learned = _learned_from(config, present, moves, newest) if present and newest else None
    done = retrainings(config.store.tables)
    ended = [one for one in done if one.ended_at and one.champion]
    return Facts(
        now=now(),
        due=due,
        hours=_hours(learnable),
        champion=present.version if present else "",
        champion_hours=None if learned is None else _hours(song for song in learnable if song.audio in learned),
        champion_at=_utc(held.at) if held else "",
        rolled_back=held is not None and held == moves[-1] and held.kind == "rollback",
        canary=canary_scores(config.store.tables, present.digest) if present else (),
        expected_alias=ended[-1].champion if ended else "",
        done=done,
        dataset=newest.digest if newest else "",
        recipe=recipe(config),
    )


def _newest(tables: str) -> ShardSet | None:
    found = [one for one in versions.list_versions(tables) if one.step == "curate"]
    return address_of(read_manifest(found[0].manifest)) if found else None


def _learned_from(
    config: "RunConfig", present: "ModelVersion", moves: "Sequence[Promotion]", newest: ShardSet
) -> Collection[str] | None:
    """Digests of audio that the champion has learned from, and what it was rolled back from: those are no news.

    Copies of these among the newest songs count too. None where the champion's own dataset is gone.
    """
    from pipelines.lineage import ancestry

    tables = config.store.tables
    if ancestry.find_dataset(present.dataset_uri, tables=tables) is None:
        return None
    ancestors = ancestry.Ancestors(config.store.root, tables)
    met = ancestors.of_version(present.uri)
    for move in moves[::-1]:
        if move.kind != "rollback":
            break
        met |= ancestors.of_version(f"models:/{present.name}/{move.before}") if move.before else ancestry.Ancestry()
    learned = {one.audio for one in met.recordings if one.split == "train"}
    unknown = {song.audio for song in read_songs(newest)} - learned
    if not unknown:
        return learned
    kept = {**met.signatures, **ancestry.signatures_of(read_manifest(newest))}
    sounds = {audio: kept[audio] for audio in learned | unknown if audio in kept}
    return ancestry.same_recordings(learned, sounds, min_similarity=config.curate.min_similarity)


def _hours(songs: Iterable[Song]) -> float:
    return sum(song.num_samples / song.sample_rate for song in songs) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeInputs:
    """All but songs, and seeds of a retraining's own, that shapes a model besides its settings."""

    sources: tuple[str, ...]
    start: Mapping[str, str]  # the weights that it begins with
    versions: Mapping[str, int]  # of the steps that make its mixes and its weights


def recipe(config: "RunConfig") -> str:
    """The key of what a retraining does with the same songs: it changes with settings and versions of steps."""
    from pipelines.lineage import ancestry
    from pipelines.preparation import analyze, automix
    from pipelines.training import train

    inputs = RecipeInputs(
        sources=tuple(config.corpus.sources),
        start=ancestry.start_of(config.model.init_from, store=config.store.root) if config.model.init_from else {},
        versions={
            **analyze.STEP.versions,
            **automix.PLAN.versions,
            **automix.STEP.versions,
            **train.STEP.versions,
        },
    )
    settings = [config.analyze, config.automix, config.automix_weight, config.model, config.train]
    return RECIPE.key(inputs, settings)


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
