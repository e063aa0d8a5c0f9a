"""From a dataset to a champion: train, score, register, decide, promote."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from prefect import flow, task

from datasets.schema import ShardSet
from datasets.store import storage
from datasets.store.strict_json import dumps
from flows import config as settings
from flows.build_corpus import Corpus, TrainingData, build_corpus
from flows.config import RunConfig
from flows.console.progress_display import decibels
from flows.tasks.approval import with_approval
from flows.tasks.prefect_step import resumable, run_quick, step
from pipelines import registry
from pipelines.evaluation import evaluate, gate
from pipelines.evaluation.evaluate import EvaluateResult
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import Check, GateDecision
from pipelines.evaluation.seed_noise import SeedNoise, seed_noise
from pipelines.evaluation.summary import ScoreSummary, extra_scores
from pipelines.lineage import contamination, training_ancestry
from pipelines.lineage.contamination import Contamination
from pipelines.lineage.training_recordings import Ancestors, Ancestry
from pipelines.preparation.curate_config import CurateConfig
from pipelines.registry import Candidate, ModelVersion
from pipelines.registry.bundle import checkpoint_digest
from pipelines.runs import stored_model
from pipelines.runtime.step_keys import code_commit
from pipelines.training import train, train_result
from pipelines.training.train_result import TrainResult

STEPS = ("train", "evaluate", "promote")
# Of a source and of their mean, that MLflow shows, beside extra metrics: score by its name there
_METRICS = {
    "nsdr": "nsdr", "nsdr_improvement": "improvement", "leakage_db": "leakage_db",
    "sdr": "sdr", "isr": "isr", "sir": "sir", "sar": "sar",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The results of the steps; None for those that were not run."""

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
    version = register(config, corpus, trained, candidate)
    decision = _earlier_decision(config, version) or with_approval(
        config, decide(config, corpus, trained, candidate, champion)
    )
    version = promote(config, version, decision)
    return Trained(trained=trained, candidate=candidate, champion=champion, decision=decision, version=version)


@flow(name="compare-models", validate_parameters=False)
def compare_models(config: RunConfig, first: str, second: str) -> tuple[ScoreSummary, ScoreSummary]:
    """Scores of two models on the held-out songs of the corpus; no gate, and nothing registered."""
    return score_both(config, build_corpus(config, until="curate").songs, first, second)


def score_both(config: RunConfig, songs: ShardSet, first: str, second: str) -> tuple[ScoreSummary, ScoreSummary]:
    """Scores of two models, named as `stemline compare` names them, on the held-out songs."""
    store = config.store.root
    checkpoints = {ref: stored_model.share(registry.resolve(ref, store=store), store) for ref in (first, second)}
    for checkpoint in checkpoints.values():  # both before hours are spent on one
        evaluate.check(config.evaluate, checkpoint, songs)
    results = (
        score(config, songs, checkpoints[ref], label=f"{ref}: ", subfolder=subfolder)
        for ref, subfolder in ((first, "first"), (second, "second"))
    )
    summary_a, summary_b = (result.summary for result in results)
    return summary_a, summary_b


def with_subfolder(config: EvaluateConfig, subfolder: str) -> EvaluateConfig:
    """The same scoring with museval's files in a folder of their own, so that no model's replace another's."""
    if not config.museval_json or not subfolder:
        return config
    return replace(config, museval_json=storage.join(config.museval_json, subfolder))


def run_key(config: RunConfig, corpus: Corpus) -> str:
    """The name of the training that `train_candidate` would run, or find finished."""
    data = corpus.training_data(config.automix_weight)
    return train.key_of(
        train.job_of(config.train, config.model, data, sources=config.corpus.sources, store=config.store.root)
    )


@resumable("train")
def train_candidate(config: RunConfig, corpus: Corpus) -> TrainResult:
    result = step(
        "train",
        lambda progress: train.run(
            config.train,
            config.model,
            corpus.training_data(config.automix_weight),
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
    settings.rewrite(config, f"{result.checkpoint}.toml")  # promote --dry-run asks which run was the last
    return result


@resumable("evaluate")
def score_candidate(config: RunConfig, corpus: Corpus, trained: TrainResult) -> EvaluateResult:
    return score(config, corpus.songs, trained.checkpoint)


@resumable("evaluate-champion")
def score_champion(config: RunConfig, corpus: Corpus) -> EvaluateResult | None:
    """The champion's scores on the same songs; None where there is no champion."""
    champion = registry.champion(config.registry, store=config.store.root)
    if champion is None:
        return None
    checkpoint = stored_model.share(registry.fetch(champion.uri, store=config.store.root), config.store.root)
    return score(config, corpus.songs, checkpoint, label="the champion: ", subfolder="champion")


def score(
    config: RunConfig, songs: ShardSet, checkpoint: str, *, label: str = "", subfolder: str = ""
) -> EvaluateResult:
    """The scores of a checkpoint on the held-out songs; an earlier result is reused.

    `label` begins the line on the screen. `subfolder` is the folder in `evaluate.museval_json` of all models but the
    candidate.
    """
    scoring = with_subfolder(config.evaluate, subfolder)

    def summary(result: EvaluateResult) -> str:
        return f"{label}{len(result.summary.songs)} songs, mean nSDR {decibels(result.summary.overall.nsdr)} dB"

    return step(
        "evaluate",
        lambda progress: evaluate.run(scoring, checkpoint, songs, store=config.store.tables, progress=progress),
        summary=summary,
    )


@task(name="register")
def register(config: RunConfig, corpus: Corpus, trained: TrainResult, scored: EvaluateResult) -> ModelVersion:
    """One version per run key and weights: a rerun finds it."""
    candidate = Candidate(
        run_key=trained.run_key,
        checkpoint=str(stored_model.on_this_machine(trained.checkpoint)),
        dataset=corpus.songs,
        config=train.key_settings(
            config.train, config.model, corpus.training_data(config.automix_weight), sources=config.corpus.sources
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
            **_origin_tags(config, corpus, trained),
            **({"stopped": trained.stopped} if trained.stopped else {}),
        },
        documents={"config.toml": settings.to_toml(config)},
    )
    return run_quick(
        "register",
        lambda: registry.register(config.registry, candidate, store=config.store.root),
        summary=lambda version: version.uri,
    )


def _earlier_decision(config: RunConfig, version: ModelVersion) -> GateDecision | None:
    """The decision that made this version the champion, on a rerun: it is not compared with itself."""
    if version.alias != registry.CHAMPION:
        return None
    stored = registry.decision_of(version, store=config.store.root)
    if stored is None:
        return None
    try:
        decision: GateDecision = settings.parse(GateDecision, dumps(stored))
    except ValueError:  # an older stemline's, with other fields
        promoted, why = bool(stored["promote"]), str(stored["reason"])
        decision = GateDecision(promote=promoted, reason=why, improvement=math.nan, checks=(), num_songs=0)
    return decision


def decide(
    config: RunConfig,
    corpus: TrainingData,
    trained: TrainResult,
    candidate: EvaluateResult,
    champion: EvaluateResult | None,
) -> GateDecision:
    """The gate's decision on the trained model; a refusal if this model was rolled back before."""
    decision = _gate_decision(config, corpus, trained, candidate, champion)
    why = registry.rolled_back(config.registry, _digests(trained), store=config.store.root) if decision.promote else ""
    if not why:
        return decision
    return replace(
        decision, promote=False, reason=why, checks=(*decision.checks, Check(rule="rollback", met=False, message=why))
    )


def _digests(trained: TrainResult) -> dict[str, str]:
    """The digests by which the registry recognizes a model under any version number."""
    model = stored_model.on_this_machine(trained.checkpoint)
    return {"checkpoint_digest": checkpoint_digest(model), "weights_digest": trained.model_digest}


def _gate_decision(
    config: RunConfig,
    corpus: TrainingData,
    trained: TrainResult,
    candidate: EvaluateResult,
    champion: EvaluateResult | None,
) -> GateDecision:
    ancestors = Ancestors(config.store.root, config.store.tables)
    models = [candidate_ancestry(config, corpus, trained, ancestors)]
    version = registry.champion(config.registry, store=config.store.root) if champion else None
    if version is not None:
        models.append(ancestors.of_version(version.uri))
    contaminated = contamination_of(config, corpus.songs, models)
    summary = champion.summary if champion else None
    noise = seed_noise_of(config, candidate.summary)
    return gate.decide(candidate.summary, summary, gate.with_tags(config.gate), contamination=contaminated, noise=noise)


def seed_noise_of(config: RunConfig, candidate: ScoreSummary) -> SeedNoise:
    """By how much seeds of one recipe differ, from the retrainings in the registry that were scored like this one."""
    if not config.gate.seed_noise_db:
        return seed_noise((), 0.0)  # no allowance is asked for, and the registry need not be
    scores = registry.scores_by_recipe(
        config.registry,
        store=config.store.root,
        protocol=candidate.protocol,
        metric=f"{_split(candidate)}/nsdr/mean",
        but=candidate.model_digest,
    )
    return seed_noise(scores, config.gate.seed_noise_db)


def candidate_ancestry(config: RunConfig, corpus: TrainingData, trained: TrainResult, ancestors: Ancestors) -> Ancestry:
    """The recordings that the model that was just trained has learned from."""
    datasets = [table.uri for table, weight in corpus.training_data(config.automix_weight) if weight]
    return ancestors.of_training(datasets, _origin_tags(config, corpus, trained), of="the candidate")


def _origin_tags(config: RunConfig, corpus: TrainingData, trained: TrainResult) -> dict[str, str]:
    """Tags for the version that a training started from, and the automixes that it drew from."""
    return training_ancestry.tags(
        trained.checkpoint.rpartition("/")[0],
        start=config.model.init_from,
        datasets=[table.uri for table, weight in corpus.training_data(config.automix_weight) if weight],
        store=config.store.root,
    )


def contamination_of(config: RunConfig, songs: ShardSet, models: Sequence[Ancestry]) -> Contamination:
    """The held-out songs among `songs` that are in the train split too, or that one of the models learned from."""
    # curate.min_similarity > 1 keeps copies in a corpus; held-out copies of training songs are looked for even then.
    similarity = config.curate.min_similarity if config.curate.min_similarity <= 1 else CurateConfig().min_similarity
    return contamination.find(songs, models, split=config.evaluate.split, min_similarity=similarity)


def _flat_scores(scored: EvaluateResult) -> dict[str, float]:
    split = _split(scored.summary)
    rows = {**scored.summary.sources, "mean": scored.summary.overall}
    flat = {f"{split}/num_songs/{source}": float(score.num_songs) for source, score in rows.items()}
    values = {
        f"{split}/{metric}/{source}": getattr(score, name)
        for metric, name in _METRICS.items()
        for source, score in rows.items()
    }
    extra = {
        f"{split}/{name}/{source}": value
        for source, own in extra_scores(scored.summary).items()
        for name, value in own.items()
    }
    return flat | {name: value for name, value in {**values, **extra}.items() if value is not None}


def _split(summary: ScoreSummary) -> str:
    return summary.protocol.split(",")[0]


@task(name="promote")
def promote(config: RunConfig, version: ModelVersion, decision: GateDecision) -> ModelVersion:
    return run_quick(
        "promote",
        lambda: registry.promote(version, asdict(decision), store=config.store.root, rules=asdict(config.gate)),
        summary=lambda promoted: decision.reason,
    )
