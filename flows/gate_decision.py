"""What the gate decides on a trained model, from its scores, the champion's, and what both have learned from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datasets.schema import ShardSet
from flows.config import RunConfig
from pipelines import registry
from pipelines.evaluation import gate
from pipelines.evaluation.evaluate import EvaluateResult
from pipelines.evaluation.gate import Check, GateDecision
from pipelines.evaluation.seed_noise import SeedNoise, seed_noise
from pipelines.evaluation.summary import ScoreSummary
from pipelines.lineage import contamination, song_licenses, training_ancestry
from pipelines.lineage.contamination import Contamination
from pipelines.lineage.training_recordings import Ancestors, Ancestry
from pipelines.preparation.curate_config import CurateConfig
from pipelines.registry import ModelVersion
from pipelines.registry.bundle import checkpoint_digest
from pipelines.runs import stored_model
from pipelines.training.train_result import TrainResult

if TYPE_CHECKING:
    from flows.build_corpus import TrainingData


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The results of the steps; None for those that were not run."""

    trained: TrainResult
    candidate: EvaluateResult | None = None
    champion: EvaluateResult | None = None  # None as well where there is no champion yet
    decision: GateDecision | None = None
    version: ModelVersion | None = None


def decide(
    config: RunConfig,
    corpus: "TrainingData",
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
    corpus: "TrainingData",
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
    return gate.decide(
        candidate.summary,
        summary,
        gate.with_tags(config.gate),
        contamination=contaminated,
        noise=noise,
        licenses=song_licenses.of_ancestry(models[0]),
    )


def seed_noise_of(config: RunConfig, candidate: ScoreSummary) -> SeedNoise:
    """By how much seeds of one recipe differ, from the retrainings in the registry that were scored like this one."""
    if not config.gate.seed_noise_db:
        return seed_noise((), 0.0)  # no allowance is asked for, and the registry need not be
    scores = registry.scores_by_recipe(
        config.registry,
        store=config.store.root,
        protocol=candidate.protocol,
        metric=f"{split_of(candidate)}/nsdr/mean",
        but=candidate.model_digest,
    )
    return seed_noise(scores, config.gate.seed_noise_db)


def candidate_ancestry(
    config: RunConfig, corpus: "TrainingData", trained: TrainResult, ancestors: Ancestors
) -> Ancestry:
    """The recordings that the model that was just trained has learned from."""
    datasets = [table.uri for table, weight in corpus.training_data(config.automix_weight) if weight]
    return ancestors.of_training(datasets, origin_tags(config, corpus, trained), of="the candidate")


def origin_tags(config: RunConfig, corpus: "TrainingData", trained: TrainResult) -> dict[str, str]:
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


def split_of(summary: ScoreSummary) -> str:
    """The split that was scored."""
    return summary.protocol.split(",")[0]
