"""Train again where that is worth it: bring the dataset up to date, decide, and run the whole pipeline only then."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from datasets.corpus.removed_songs import read_removed_songs, write_removed_songs
from datasets.schema import ShardSet
from datasets.shards.manifests import read_songs
from datasets.store.ownership import claim_store
from flows import build_corpus, retrain_policy, train_model
from flows.config import RunConfig
from flows.full_run import FullRun, run_all
from flows.retrain_policy import Facts, Judgement, Retraining
from flows.retraining import retrain_log
from flows.tasks.prefect_step import resumable
from pipelines import registry
from pipelines.evaluation.summary import SongScore


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainResult:
    """Why it was trained again or not, and what came of it; None where nothing was trained."""

    reason: str
    full_run: FullRun | None = None


@flow(name="retrain-model", validate_parameters=False)
def retrain_model(config: RunConfig, *, run: str, due: str) -> RetrainResult:
    """Trains again if a trigger fires and nothing stands against it.

    `run` names who does it: after a kill, the same one continues what it began. `due` is when it was to begin (UTC,
    ISO 8601): how long it waited, and how long songs took, does not count for the minimum interval.
    """
    begun = retrain_log.unfinished(config.store.tables, run)
    if begun is None:
        dataset = build_corpus.build_corpus.fn(config, until="curate").songs
        if config.retrain.canary:
            _watch_canary(config)
        facts = retrain_log.look(config, dataset, due=due)
        judged = retrain_policy.judge(facts, config.retrain)
        if judged.retrain:
            begun, judged = _begin(config, facts, judged, run=run)
        get_run_logger().info(judged.sentence)
        create_markdown_artifact(markdown=judged.sentence, key="retrain-why", description="whether to train again")
        if begun is None:
            return RetrainResult(reason=judged.sentence)
    result = run_all(_seeded(config, begun))
    present = registry.champion(config.registry, store=config.store.root)
    ended = replace(begun, ended_at=retrain_log.now(), champion=present.version if present else "")
    retrain_log.note(config.store.tables, ended)
    return RetrainResult(reason=begun.reason, full_run=result)


def _begin(config: RunConfig, facts: Facts, judged: Judgement, *, run: str) -> tuple[Retraining | None, Judgement]:
    """A retraining that is remembered from now on; should this process die, the next one of the same run goes on.

    None, and why, where the very same training ended before.
    """
    begun = Retraining(
        began_at=retrain_log.now(),
        due_at=facts.due,
        devices=config.train.num_workers if config.train.use_gpu else 0,
        reason=judged.sentence,
        run=run,
        occasion=judged.occasion,
        dataset=facts.dataset,
        recipe=facts.recipe,
        seed=retrain_policy.seed_of(config.train.seed, judged.occasion),
    )
    config = _seeded(config, begun)
    key = train_model.run_key(config, build_corpus.build_corpus.fn(config))
    same = next((one for one in facts.done if one.ended_at and one.run_key == key), None)
    if same is not None:
        why = f"Not now: {retrain_policy.nothing_to_train(same)}, though {judged.sentence.removeprefix('Yes: ')}"
        return None, replace(judged, retrain=False, sentence=why)
    begun = replace(begun, run_key=key)
    retrain_log.note(config.store.tables, begun)
    return begun, judged


def _seeded(config: RunConfig, begun: Retraining) -> RunConfig:
    """The configuration with the seed of a retraining: with another's it would find that model again."""
    return config if begun.seed is None else replace(config, train=replace(config.train, seed=begun.seed))


def _watch_canary(config: RunConfig) -> None:
    """One more score of the champion on the canary songs, which have a store of their own inside this one."""
    present = registry.champion(config.registry, store=config.store.root)
    if present is not None:
        apart = _canary_of(config)
        claim_store(apart.store.root, setting="the canary's store")
        write_removed_songs(apart.store.tables, read_removed_songs(config.store.tables).songs)
        songs = build_corpus.build_corpus.fn(apart, until="curate").songs
        retrain_log.note_canary(config.store.tables, present.digest, score_canary(config, songs))


@resumable("canary")
def score_canary(config: RunConfig, songs: ShardSet) -> float:
    """The champion's mean nSDR in dB on all songs of the canary folder, whichever split they were dealt to."""
    present = registry.champion(config.registry, store=config.store.root)
    assert present is not None, "there was a champion a moment ago"
    checkpoint = registry.fetch(present.uri, store=config.store.root)
    apart, scored = _canary_of(config), list[SongScore]()
    for split in sorted({song.split for song in read_songs(songs)}):
        of_split = replace(apart, evaluate=replace(apart.evaluate, split=split))
        scored += train_model.score(
            of_split, songs, str(checkpoint), who="canary: ", place="canary"
        ).summary.songs.values()
    return fmean(nsdr for song in scored for nsdr in song.nsdr.values())


def _canary_of(config: RunConfig) -> RunConfig:
    return replace(
        config,
        corpus=replace(config.corpus, root=config.retrain.canary),
        store=replace(config.store, root=str(Path(config.store.root) / "canary"), data=""),
    )
