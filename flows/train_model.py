"""From a dataset to a champion: train, score, register, decide, promote."""

import math
from collections import Counter
from dataclasses import asdict
from typing import Literal

from prefect import flow, task

from datasets.errors import InputError
from datasets.schema import Score, ShardSet
from datasets.shards.arrow_tables import read_objects
from datasets.shards.manifests import read_songs
from datasets.store import storage
from datasets.store.strict_json import dumps
from flows import config as settings
from flows.build_corpus import Corpus, build_corpus
from flows.config import RunConfig
from flows.console import notifications
from flows.console.progress_display import decibels
from flows.console.version_card import describe_version
from flows.gate_decision import Trained, candidate_ancestry, decide, origin_tags, split_of
from flows.tasks.approval import with_approval
from flows.tasks.prefect_step import RUN_NAME, resumable, run_quick, step
from pipelines import registry
from pipelines.evaluation import evaluate
from pipelines.evaluation.evaluate import EvaluateResult
from pipelines.evaluation.evaluate_config import with_subfolder
from pipelines.evaluation.gate import GateDecision
from pipelines.evaluation.gate.rules import license_rule
from pipelines.evaluation.score_tables import song_table
from pipelines.evaluation.summary import ScoreSummary, extra_scores
from pipelines.lineage import song_licenses, training_ancestry
from pipelines.lineage.training_recordings import Ancestors, Ancestry
from pipelines.preparation.ingest import layout_plugins
from pipelines.registry import Candidate, DatasetUse, ModelVersion
from pipelines.runs import stored_model
from pipelines.runs.run_place import RunPlace
from pipelines.runtime.step_keys import code_commit
from pipelines.training import train, train_result
from pipelines.training.train_result import TrainResult

STEPS = ("train", "evaluate", "promote")
# Of a source and of their mean, that MLflow shows, beside extra metrics: score by its name there
_METRICS = {
    "nsdr": "nsdr", "nsdr_improvement": "improvement", "leakage_db": "leakage_db",
    "sdr": "sdr", "isr": "isr", "sir": "sir", "sar": "sar",
}  # fmt: skip


@flow(name="train-model", flow_run_name=RUN_NAME, validate_parameters=False)
def train_model(config: RunConfig, corpus: Corpus, *, until: str = "promote") -> Trained:
    """Runs the steps up to and including `until`."""
    refuse_licenses(config, corpus)
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


def refuse_licenses(config: RunConfig, corpus: Corpus) -> None:
    """InputError before hours of training whose model `gate.refuse_non_commercial` would refuse for its songs.

    A training that is finished goes to the gate.
    """
    if not config.gate.refuse_non_commercial:
        return
    place = RunPlace(store=storage.absolute(config.store.root), name=run_key(config, corpus))
    if train_result.find_result(place.kept) is not None:
        return
    rule = license_rule(song_licenses.of_ancestry(_ancestry_to_be(config, corpus)))
    if not rule.met:
        raise InputError(
            f"gate.refuse_non_commercial would refuse the model, so it is not trained. {rule.message} State licences "
            "in licenses.csv or corpus.license, take those songs out of the corpus, and those whose stems were "
            "estimated by a model that learned from such, or set gate.refuse_non_commercial=false"
        )


def _ancestry_to_be(config: RunConfig, corpus: Corpus) -> Ancestry:
    """What the model that is to be trained will have learned from."""
    datasets = [table.uri for table, weight in corpus.training_data(config.automix_weight) if weight]
    start = training_ancestry.start_of(config.model.init_from, store=config.store.root)
    return Ancestors(config.store.root, config.store.tables).of_training(datasets, start, of="the model")


@flow(name="compare-models", flow_run_name=RUN_NAME, validate_parameters=False)
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
            **_plugin_tags(config),
            **origin_tags(config, corpus, trained),
            **_license_tags(config, corpus, trained),
            **({"stopped": trained.stopped} if trained.stopped else {}),
        },
        documents={"config.toml": settings.to_toml(config)},
        uses=_uses(config, corpus),
        songs=song_table.rows_of(read_objects(scored.scores, Score)),
        title=f"{config.model.preset}, {_splits(corpus)['train']} songs, {trained.steps} steps",
    )
    return run_quick(
        "register",
        lambda: registry.register(config.registry, candidate, store=config.store.root),
        summary=lambda version: version.uri,
    )


def _plugin_tags(config: RunConfig) -> dict[str, str]:
    versions = train.plugin_versions(config.train, config.model).get("plugins", [])
    versions = [
        *(f"{layout.kind.noun} {layout.version}" for layout in layout_plugins(config.corpus.plugins)),
        *versions,
    ]
    return {"plugins": "; ".join(versions)} if versions else {}


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


def _flat_scores(scored: EvaluateResult) -> dict[str, float]:
    split = split_of(scored.summary)
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


def _splits(corpus: Corpus) -> Counter[str]:
    return Counter(song.split for song in read_songs(corpus.songs))


def _uses(config: RunConfig, corpus: Corpus) -> list[DatasetUse]:
    """The songs by what they were used for: songs and automixes trained with, songs selected and scored with."""
    songs = corpus.songs
    parts: list[tuple[Literal["training", "validation", "evaluation"], ShardSet, str]] = [
        *(("training", table, "train") for table, weight in corpus.training_data(config.automix_weight) if weight),
        ("validation", songs, "valid"),
        ("evaluation", songs, config.evaluate.split),
    ]
    uses = []
    for context, table, split in parts:
        members = [song for song in read_songs(table) if song.split == split]
        name = "songs" if table == songs else "automixes"
        hours = sum(song.num_samples / song.sample_rate for song in members) / 3600
        uses.append(
            DatasetUse(
                context=context, table=f"{name}, {split}", digest=table.digest, uri=table.uri,
                num_songs=len(members), hours=hours,
            )
        )  # fmt: skip
    return [use for use in uses if use.num_songs]


def _license_tags(config: RunConfig, corpus: Corpus, trained: TrainResult) -> dict[str, str]:
    """What the licences of its songs are, and whether they forbid commercial use."""
    ancestors = Ancestors(config.store.root, config.store.tables)
    licenses = song_licenses.of_ancestry(candidate_ancestry(config, corpus, trained, ancestors))
    return {"licenses": licenses.summary, "commercial_use": licenses.commercial_use}


@task(name="promote")
def promote(config: RunConfig, version: ModelVersion, decision: GateDecision) -> ModelVersion:
    problems: list[str] = []

    def act() -> ModelVersion:
        before = registry.lineage(version.uri, store=config.store.root).decisions
        promoted = registry.promote(version, asdict(decision), store=config.store.root, rules=asdict(config.gate))
        after = registry.lineage(version.uri, store=config.store.root).decisions
        if len(after) > len(before):  # a rerun decides nothing anew
            yes = promoted.alias == registry.CHAMPION
            notice = notifications.of_decision(config, promoted, promoted=yes, reason=after[-1].reason)
            problems.append(notifications.send(config.notify, notice))
        describe_version(config, promoted)  # last: where it fails, a rerun mends it, and would tell nobody
        return promoted

    return run_quick("promote", act, summary=lambda promoted: "; ".join(filter(None, [decision.reason, *problems])))
