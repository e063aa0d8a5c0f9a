"""Retraining: bring the dataset up to date, decide whether to train, and only then run the whole pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from datasets.corpus.removed_songs import read_removed_songs, write_removed_songs
from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.shards.manifests import read_songs
from datasets.store import storage
from datasets.store.ownership import claim_store
from flows import build_corpus, retrain_policy, train_model
from flows.config import RunConfig
from flows.console import notifications
from flows.console.markdown import literal
from flows.console.progress_display import current
from flows.full_run import FullRun, run_all
from flows.retrain_policy import DONE, Facts, Judgement, Retraining
from flows.retraining import retrain_log
from flows.retraining.facts import gather_facts, recipe
from flows.retraining.running_entry import recorded
from flows.tasks.prefect_step import RUN_NAME, resumable
from pipelines import registry
from pipelines.evaluation.summary import SongScore
from pipelines.runs import stored_model


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainResult:
    """Why it was trained again or not, and the run; None where nothing was trained."""

    reason: str
    full_run: FullRun | None = None


@flow(name="retrain-model", flow_run_name=RUN_NAME, validate_parameters=False)
def retrain_model(config: RunConfig, *, run: str, due: str) -> RetrainResult:
    """Trains again if a trigger fires and nothing forbids it.

    `run` names the run: after a kill or Ctrl-C, the same run continues what it began. `due` is when it was scheduled
    (UTC, ISO 8601): the minimum interval counts from there, whatever waiting and ingesting took.
    """
    tables = config.store.tables
    retrain_log.settle(tables, alone=storage.is_remote(config.store.root))
    begun = retrain_log.unfinished(tables, run, recipe(config))
    if begun is not None:
        log_so_far, at = retrain_log.read_log(tables).retrainings, retrain_log.now()
        if over := retrain_policy.over_budget(log_so_far, config.retrain, at, unfinished=begun):
            return RetrainResult(reason=_show([f"Not now: {over}."]))
    else:
        dataset = build_corpus.build_corpus.fn(config, until="curate").songs
        if config.retrain.canary:
            _score_canary_songs(config)
        facts = gather_facts(config, dataset, due=due)
        judgement = retrain_policy.judge(facts, config.retrain)
        if judgement.drift:
            _log_problem(notifications.send(config.notify, notifications.of_drift(config, judgement.sentence)))
        if judgement.retrain:
            begun, judgement = _begin(config, facts, judgement, run=run)
        reason = _show([judgement.sentence, *retrain_policy.remarks(facts)])
        if begun is None:
            return RetrainResult(reason=reason)
    with recorded(tables, begun, current(), gpus=_gpus(config)) as recording:
        result = run_all(_seeded(config, begun))
        champion = registry.champion(config.registry, store=config.store.root)
        recording.end(DONE, champion=champion.version if champion else "")
    return RetrainResult(reason=begun.reason, full_run=result)


def _log_problem(problem: str) -> None:
    if problem:
        get_run_logger().warning(problem)


def _show(sentences: Sequence[str]) -> str:
    """The same in one text; they are in the log of the run and on its page."""
    get_run_logger().info("\n".join(sentences))
    page = "\n\n".join(map(literal, sentences))
    create_markdown_artifact(markdown=page, key="retrain-why", description="whether to train again")
    return "\n".join(sentences)


def _gpus(config: RunConfig) -> dict[str, int]:
    """How many GPUs each stage of a run has at work."""
    return {
        stage: max(1, settings.num_workers)
        for stage, settings in (("train", config.train), ("evaluate", config.evaluate))
        if settings.use_gpu
    }


def _begin(config: RunConfig, facts: Facts, judgement: Judgement, *, run: str) -> tuple[Retraining | None, Judgement]:
    """A retraining to carry out.

    None, and a judgement that says why, where the very same training ended before.
    """
    begun = Retraining(
        began_at=retrain_log.now(),
        due_at=facts.due,
        devices=_gpus(config).get("train", 0),
        reason=judgement.sentence,
        run=run,
        occasion=judgement.occasion,
        dataset=facts.dataset,
        recipe=facts.recipe,
        seed=retrain_policy.seed_of(config.train.seed, judgement.occasion),
    )
    config = _seeded(config, begun)
    key = train_model.run_key(config, build_corpus.build_corpus.fn(config))
    same = next((earlier for earlier in facts.done if earlier.status == DONE and earlier.run_key == key), None)
    if same is not None:
        why = f"Not now: {retrain_policy.nothing_to_train(same)}, though {judgement.sentence.removeprefix('Yes: ')}"
        return None, replace(judgement, retrain=False, sentence=why)
    return replace(begun, run_key=key), judgement


def _seeded(config: RunConfig, begun: Retraining) -> RunConfig:
    """The configuration with the seed of a retraining: with that of another one it would find its model again."""
    return config if begun.seed is None else replace(config, train=replace(config.train, seed=begun.seed))


def _score_canary_songs(config: RunConfig) -> None:
    """One more score of the champion on the canary songs, which have a store of their own inside this one."""
    champion = registry.champion(config.registry, store=config.store.root)
    if champion is not None:
        canary = _canary_config(config)
        claim_store(canary.store.root, setting="the canary's store")
        write_removed_songs(canary.store.tables, read_removed_songs(config.store.tables).songs)
        songs = build_corpus.build_corpus.fn(canary, until="curate").songs
        retrain_log.add_canary_score(config.store.tables, champion.digest, score_canary(config, songs))


@resumable("canary")
def score_canary(config: RunConfig, songs: ShardSet) -> float:
    """The champion's mean nSDR in dB on all songs of the canary folder, whichever split they are in."""
    champion = registry.champion(config.registry, store=config.store.root)
    assert champion is not None, "there was a champion a moment ago"
    checkpoint = stored_model.share(registry.fetch(champion.uri, store=config.store.root), config.store.root)
    canary, scores = _canary_config(config), list[SongScore]()
    for split in sorted({song.split for song in read_songs(songs)}):
        of_split = replace(canary, evaluate=replace(canary.evaluate, split=split))
        result = train_model.score(of_split, songs, checkpoint, label="canary: ", subfolder="canary")
        scores += result.summary.songs.values()
    values = [nsdr for song in scores for nsdr in song.nsdr.values()]
    if not values:
        raise InputError("no stem sounds in any song of retrain.canary: choose songs whose stems are above -60 dBFS")
    return fmean(values)


def _canary_config(config: RunConfig) -> RunConfig:
    return replace(
        config,
        corpus=replace(config.corpus, root=config.retrain.canary),
        store=replace(config.store, root=storage.join(config.store.root, "canary"), data=""),
    )
