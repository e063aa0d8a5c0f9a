"""The facts by which it is decided whether to train again, read from store and registry."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets.schema import ShardSet
from datasets.shards import dataset_versions
from datasets.shards.manifests import Song, address_of, read_manifest, read_songs
from flows.retrain_policy import DONE, Facts
from flows.retraining.retrain_log import canary_scores, now, read_log, utc
from pipelines.runtime.step_keys import Step

if TYPE_CHECKING:
    from flows.config import RunConfig
    from pipelines.registry import ModelVersion, Promotion

RECIPE = Step(name="recipe", version=1)


def gather_facts(config: "RunConfig", songs: ShardSet | None = None, *, due: str = "") -> Facts:
    """What store and registry say now about the dataset `songs`, by default the newest of the store."""
    from pipelines import registry

    champion = registry.champion(config.registry, store=config.store.root)
    history = registry.history(config.registry, store=config.store.root)
    promotion = next((entry for entry in history[::-1] if champion and entry.version == champion.version), None)
    newest = songs or _newest(config.store.tables)
    learnable = [song for song in read_songs(newest) if song.split == "train"] if newest else []
    learned = _learned_from(config, champion, history, newest) if champion and newest else None
    log, at = read_log(config.store.tables), now()
    ended = [entry for entry in log.retrainings if entry.status == DONE and entry.champion and entry.began_at <= at]
    return Facts(
        now=at,
        due=due,
        hours=_hours(learnable),
        champion=champion.version if champion else "",
        champion_hours=None if learned is None else _hours(song for song in learnable if song.audio in learned),
        champion_at=utc(promotion.at) if promotion else "",
        rolled_back=promotion is not None and promotion == history[-1] and promotion.kind == "rollback",
        canary=canary_scores(config.store.tables, champion.digest) if champion else (),
        expected_alias=ended[-1].champion if ended else "",
        done=log.retrainings,
        unreadable=log.unreadable,
        dataset=newest.digest if newest else "",
        recipe=recipe(config),
    )


def _newest(tables: str) -> ShardSet | None:
    curated = [version for version in dataset_versions.list_versions(tables) if version.step == "curate"]
    return address_of(read_manifest(curated[0].manifest)) if curated else None


def _learned_from(
    config: "RunConfig", champion: "ModelVersion", history: "Sequence[Promotion]", newest: ShardSet
) -> Collection[str] | None:
    """Digests of audio that the champion, or a version it was rolled back from, has learned from: not new songs.

    Copies of these among the newest songs count too. None where the champion's own dataset is gone.
    """
    from pipelines.lineage import training_recordings

    tables = config.store.tables
    if training_recordings.find_dataset(champion.dataset_uri, tables=tables) is None:
        return None
    ancestors = training_recordings.Ancestors(config.store.root, tables)
    origin = ancestors.of_version(champion.uri)
    for entry in history[::-1]:
        if entry.kind != "rollback":
            break
        if entry.before:
            origin |= ancestors.of_version(f"models:/{champion.name}/{entry.before}")
    learned = {recording.audio for recording in origin.recordings if recording.split == "train"}
    others = {song.audio for song in read_songs(newest)} - learned
    if not others:
        return learned
    stored = {**origin.signatures, **training_recordings.signatures_of(read_manifest(newest))}
    signatures = {audio: stored[audio] for audio in learned | others if audio in stored}
    return training_recordings.same_recordings(learned, signatures, min_similarity=config.curate.min_similarity)


def _hours(songs: Iterable[Song]) -> float:
    return sum(song.num_samples / song.sample_rate for song in songs) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeInputs:
    """All that shapes a model besides its settings, its songs and the seed of a retraining."""

    sources: tuple[str, ...]
    start: Mapping[str, str]  # the weights that it starts from
    versions: Mapping[str, int]  # of the steps that make its mixes and its weights


def recipe(config: "RunConfig") -> str:
    """The key of a retraining but for its songs: it changes with settings and with versions of steps."""
    from pipelines.lineage import training_ancestry
    from pipelines.preparation import analyze, automix
    from pipelines.training import train

    inputs = RecipeInputs(
        sources=tuple(config.corpus.sources),
        start=training_ancestry.start_of(config.model.init_from, store=config.store.root)
        if config.model.init_from
        else {},
        versions={
            **analyze.STEP.versions,
            **automix.PLAN.versions,
            **automix.STEP.versions,
            **train.STEP.versions,
        },
    )
    settings = [config.analyze, config.automix, config.automix_weight, config.model, config.train]
    return RECIPE.key(inputs, settings)
