"""From a dataset to a champion: train, score, register, decide, promote."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from prefect import flow, task

from datasets.schema import ShardSet
from datasets.store import storage
from datasets.store.strict_json import dumps
from flows import config as settings
from flows.build_corpus import Corpus, build_corpus
from flows.config import RunConfig
from flows.tasks.approval import with_approval
from flows.tasks.prefect_step import resumable, run_quick, step
from pipelines import registry
from pipelines.evaluation import evaluate, gate
from pipelines.evaluation.evaluate import EvaluateResult
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import Check, GateDecision
from pipelines.evaluation.seed_noise import SeedNoise, seed_noise
from pipelines.evaluation.summary import ScoreSummary
from pipelines.lineage import ancestry, contamination
from pipelines.lineage.ancestry import Ancestors, Ancestry
from pipelines.lineage.contamination import Contamination
from pipelines.preparation.curate_config import CurateConfig
from pipelines.registry import Candidate, ModelVersion
from pipelines.registry.bundle import checkpoint_digest
from pipelines.runtime.step_keys import code_commit
from pipelines.training import train, train_result
from pipelines.training.train_result import TrainResult

STEPS = ("train", "evaluate", "decide", "promote")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training came to; None for steps that were not asked for."""

    trained: TrainResult
    candidate: EvaluateResult | None = None
    champion: EvaluateResult | None = None  # None as well where there is no champion yet
    decision: GateDecision | None = None
    version: ModelVersion | None = None


@flow(name="train-model", validate_parameters=False)
def train_model(config: RunConfig, corpus: Corpus, *, until: str = "promote") -> Trained:
    """Runs the steps up to and including `until`."""
    trained = train_candidate(config, corpus)
    if until == "train":
        return Trained(trained=trained)
    candidate = score_candidate(config, corpus, trained)
    champion = score_champion(config, corpus)
    if until == "evaluate":
        return Trained(trained=trained, candidate=candidate, champion=champion)
    if until == "decide":
        decision = _decide(config, corpus, trained, candidate, champion)
        return Trained(trained=trained, candidate=candidate, champion=champion, decision=decision)
    version = register(config, corpus, trained, candidate)
    decision = _kept(config, version) or with_approval(config, _decide(config, corpus, trained, candidate, champion))
    version = promote(config, version, decision)
    return Trained(trained=trained, candidate=candidate, champion=champion, decision=decision, version=version)


@flow(name="compare-models", validate_parameters=False)
def compare_models(config: RunConfig, first: str, second: str) -> tuple[ScoreSummary, ScoreSummary]:
    """Scores of two models on the held-out songs of the corpus; no gate, and nothing registered."""
    return score_two(config, build_corpus(config, until="curate").songs, first, second)


def score_two(config: RunConfig, songs: ShardSet, first: str, second: str) -> tuple[ScoreSummary, ScoreSummary]:
    """Scores of two models, named as `stemline compare` names them, on the held-out songs."""
    checkpoints = {ref: str(registry.resolve(ref, store=config.store.root)) for ref in (first, second)}
    for checkpoint in checkpoints.values():  # both before hours are spent on one
        evaluate.check(config.evaluate, checkpoint, songs)
    one, other = (
        score(config, songs, checkpoints[ref], who=f"{ref}: ", place=place).summary
        for ref, place in ((first, "first"), (second, "second"))
    )
    return one, other


def scoring_in(config: EvaluateConfig, place: str) -> EvaluateConfig:
    """The same scoring with museval's files in a folder of their own, so that no model's replace another's."""
    if not config.museval_json or not place:
        return config
    return replace(config, museval_json=storage.join(config.museval_json, place))


def run_key(config: RunConfig, corpus: Corpus) -> str:
    """The name of the training that `train_candidate` would carry out, or find finished."""
    material = corpus.material(config.automix_weight)
    return train.key_of(
        train.job_of(config.train, config.model, material, sources=config.corpus.sources, store=config.store.root)
    )


@resumable("train")
def train_candidate(config: RunConfig, corpus: Corpus) -> TrainResult:
    result = step(
        "train",
        lambda progress: train.run(
            config.train,
            config.model,
            corpus.material(config.automix_weight),
            sources=config.corpus.sources,
            store=config.store.root,
            progress=progress,
            live=config.registry,
        ),
        summary=lambda trained: (
            f"{trained.steps} steps, best at {trained.best_step}"
            + (f"; stopped early: {trained.stopped}" if trained.stopped else "")
        ),
    )
    settings.write(config, f"{result.checkpoint}.toml")
    return result


@resumable("evaluate")
def score_candidate(config: RunConfig, corpus: Corpus, trained: TrainResult) -> EvaluateResult:
    return score(config, corpus.songs, trained.checkpoint, who="")


@resumable("evaluate-champion")
def score_champion(config: RunConfig, corpus: Corpus) -> EvaluateResult | None:
    """The present champion's scores on the same songs; None where there is no champion."""
    present = registry.champion(config.registry, store=config.store.root)
    if present is None:
        return None
    checkpoint = registry.fetch(present.uri, store=config.store.root)
    return score(config, corpus.songs, str(checkpoint), who="the champion: ", place="champion")


def score(config: RunConfig, songs: ShardSet, checkpoint: str, *, who: str, place: str = "") -> EvaluateResult:
    """The scores of a checkpoint on the held-out songs; found again where they are known.

    `place` is the folder in `evaluate.museval_json` for what is not the candidate's.
    """
    scoring = scoring_in(config.evaluate, place)

    def summary(result: EvaluateResult) -> str:
        return f"{who}{len(result.summary.songs)} songs, mean nSDR {result.summary.overall.nsdr:.2f} dB"

    return step(
        "evaluate",
        lambda progress: evaluate.run(scoring, checkpoint, songs, store=config.store.tables, progress=progress),
        summary=lambda result: (
            f"{who}{len(result.summary.songs)} songs, mean nSDR {result.summary.overall.nsdr:.2f} dB"
        ),
    )


@task(name="register")
def register(config: RunConfig, corpus: Corpus, trained: TrainResult, scored: EvaluateResult) -> ModelVersion:
    """One version per run key and weights: a rerun finds it."""
    candidate = Candidate(
        run_key=trained.run_key,
        checkpoint=trained.checkpoint,
        dataset=corpus.songs,
        config=train.key_settings(
            config.train, config.model, corpus.material(config.automix_weight), sources=config.corpus.sources
        ),
        evaluation={"evaluate": asdict(config.evaluate)},
        history=train_result.read_history(trained),
        scores=_flat_scores(scored),
        lineage={
            "corpus_digest": corpus.ingested.chunks.digest,
            "dataset_digest": corpus.songs.digest,
            "dataset_uri": corpus.songs.uri,
            "scores_digest": scored.scores.digest,
            "weights_digest": scored.summary.model_digest,
            "protocol": scored.summary.protocol,
            "train_version": train.STEP.words,
            "commit": code_commit() or "unknown",
            **_origins(config, corpus, trained),
            **({"stopped": trained.stopped} if trained.stopped else {}),
        },
        documents={"config.toml": settings.to_toml(config)},
    )
    return run_quick(
        "register",
        lambda: registry.register(config.registry, candidate, store=config.store.root),
        summary=lambda version: version.uri,
    )


def _kept(config: RunConfig, version: ModelVersion) -> GateDecision | None:
    """The decision that made this version the champion, on a rerun: comparing it with itself says nothing."""
    if version.alias != registry.CHAMPION:
        return None
    kept = registry.decision_of(version, store=config.store.root)
    if kept is None:
        return None
    try:
        decision: GateDecision = settings.parse(GateDecision, dumps(kept))
    except ValueError:  # an older stemline's, with other fields
        promoted, why = bool(kept["promote"]), str(kept["reason"])
        decision = GateDecision(promote=promoted, reason=why, improvement=math.nan, checks=(), num_songs=0)
    return decision


def _decide(
    config: RunConfig,
    corpus: Corpus,
    trained: TrainResult,
    candidate: EvaluateResult,
    champion: EvaluateResult | None,
) -> GateDecision:
    """The gate's word on what was trained with this corpus; a no where it was rolled back from."""
    decision = _judge(config, corpus, trained, candidate, champion)
    why = registry.rolled_back(config.registry, _digests(trained), store=config.store.root) if decision.promote else ""
    if not why:
        return decision
    return replace(
        decision, promote=False, reason=why, checks=(*decision.checks, Check(rule="rollback", met=False, message=why))
    )


def _digests(trained: TrainResult) -> dict[str, str]:
    """By which the registry knows a model under whatever number."""
    return {"checkpoint_digest": checkpoint_digest(Path(trained.checkpoint)), "weights_digest": trained.model_digest}


def _judge(
    config: RunConfig,
    corpus: Corpus,
    trained: TrainResult,
    candidate: EvaluateResult,
    champion: EvaluateResult | None,
) -> GateDecision:
    ancestors = Ancestors(config.store.root, config.store.tables)
    rivals = [of_candidate(config, corpus, trained, ancestors)]
    present = registry.champion(config.registry, store=config.store.root) if champion else None
    if present is not None:
        rivals.append(ancestors.of_version(present.uri))
    heard = heard_in(config, corpus.songs, rivals)
    summary = champion.summary if champion else None
    noise = seed_noise_of(config, candidate.summary)
    return gate.decide(candidate.summary, summary, gate.with_tags(config.gate), contamination=heard, noise=noise)


def seed_noise_of(config: RunConfig, candidate: ScoreSummary) -> SeedNoise:
    """By how much seeds of one recipe differ, from the retrainings in the registry that were scored like this one."""
    scores = registry.scores_by_recipe(
        config.registry,
        store=config.store.root,
        protocol=candidate.protocol,
        metric=f"{_split(candidate)}/nsdr/mean",
        but=candidate.model_digest,
    )
    return seed_noise(scores, config.gate.seed_noise_db)


def of_candidate(config: RunConfig, corpus: Corpus, trained: TrainResult, ancestors: Ancestors) -> Ancestry:
    """What the model that was just trained has heard."""
    material = [table.uri for table, weight in corpus.material(config.automix_weight) if weight]
    return ancestors.of_training(material, _origins(config, corpus, trained), of="the candidate")


def _origins(config: RunConfig, corpus: Corpus, trained: TrainResult) -> dict[str, str]:
    """Tags that say from which version a training began, and which automixes it drew from."""
    return ancestry.tags(
        Path(trained.checkpoint).parent,
        start=config.model.init_from,
        datasets=[table.uri for table, weight in corpus.material(config.automix_weight) if weight],
        store=config.store.root,
    )


def heard_in(config: RunConfig, songs: ShardSet, models: Sequence[Ancestry]) -> Contamination:
    """The held-out songs among `songs` that were learnt from, there or by one of the models."""
    # A corpus may keep copies, as published ones do; which of them a model has heard is asked all the same.
    similarity = config.curate.min_similarity if config.curate.min_similarity <= 1 else CurateConfig().min_similarity
    return contamination.find(songs, models, split=config.evaluate.split, min_similarity=similarity)


def _flat_scores(scored: EvaluateResult) -> dict[str, float]:
    split = _split(scored.summary)
    rows = {**scored.summary.sources, "mean": scored.summary.overall}
    flat = {f"{split}/nsdr/{source}": score.nsdr for source, score in rows.items()}
    flat |= {f"{split}/nsdr_improvement/{source}": score.improvement for source, score in rows.items()}
    for name in ("sdr", "isr", "sir", "sar"):
        known = {source: getattr(score, name) for source, score in rows.items()}
        flat |= {f"{split}/{name}/{source}": value for source, value in known.items() if value is not None}
    return flat


def _split(summary: ScoreSummary) -> str:
    return summary.protocol.split(",")[0]


@task(name="promote")
def promote(config: RunConfig, version: ModelVersion, decision: GateDecision) -> ModelVersion:
    return run_quick(
        "promote",
        lambda: registry.promote(version, asdict(decision), store=config.store.root, rules=asdict(config.gate)),
        summary=lambda promoted: decision.reason,
    )
