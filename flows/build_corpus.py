"""From a folder of songs to a dataset: ingest, curate, analyze, automix. Steps pass addresses, never audio."""

from dataclasses import dataclass
from typing import Protocol

from prefect import flow

from datasets.schema import Funnel, ShardSet
from flows.config import RunConfig
from flows.console.progress_display import current
from flows.tasks.prefect_step import RUN_NAME, resumable, step
from pipelines.preparation import analyze, automix, curate, ingest, relaxed_rules
from pipelines.preparation.automix import AutomixResult
from pipelines.preparation.curate import CurateResult
from pipelines.preparation.ingest import IngestResult


class TrainingData(Protocol):
    """What a training draws from, and the songs that its model is scored on."""

    @property
    def songs(self) -> ShardSet: ...

    def training_data(self, automix_weight: float) -> list[tuple[ShardSet, float]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The results of the steps; None for those that were not run."""

    ingested: IngestResult
    curated: CurateResult | None = None
    profiles: ShardSet | None = None
    automixes: AutomixResult | None = None

    @property
    def funnel(self) -> Funnel:
        """From the songs found to those that came through the last step."""
        return self.curated.funnel if self.curated else self.ingested.funnel

    @property
    def songs(self) -> ShardSet:
        """The kept songs, as chunks."""
        assert self.curated is not None, "curate has not run"
        return self.curated.chunks

    def training_data(self, automix_weight: float) -> list[tuple[ShardSet, float]]:
        """The tables that training draws from, each with its weight: songs, and automixes where there are any."""
        mixes = self.automixes.chunks if self.automixes else None
        if mixes is None or mixes.num_rows == 0 or automix_weight == 0:
            return [(self.songs, 1.0)]
        return [(self.songs, 1.0), (mixes, automix_weight)]


@flow(name="build-corpus", flow_run_name=RUN_NAME, validate_parameters=False)
def build_corpus(config: RunConfig, *, until: str = "automix") -> Corpus:
    """Runs the steps up to and including `until`; the last two, which serve automixes, only if training draws some."""
    ingested = ingest_songs(config)
    if until == "ingest":
        return Corpus(ingested=ingested)
    curated = curate_songs(config, ingested)
    if until == "curate":
        return Corpus(ingested=ingested, curated=curated)
    if until == "automix" and not config.wants_automixes:
        current().detail("no automixes: automix_weight or automix.mixes_per_track is 0")
        return Corpus(ingested=ingested, curated=curated)
    profiles = analyze_songs(config, curated)
    if until == "analyze":
        return Corpus(ingested=ingested, curated=curated, profiles=profiles)
    automixes = automix_songs(config, curated, profiles)
    return Corpus(ingested=ingested, curated=curated, profiles=profiles, automixes=automixes)


@resumable("ingest")
def ingest_songs(config: RunConfig) -> IngestResult:
    result = step(
        "ingest",
        lambda progress: ingest.run(config.corpus, config.ingest, store=config.store.tables, progress=progress),
        summary=lambda result: f"{result.funnel.words}, {result.chunks.num_rows} chunks",
    )
    for remark in result.remarks:
        current().detail(remark)
    return result


@resumable("curate")
def curate_songs(config: RunConfig, ingested: IngestResult) -> CurateResult:
    result = step(
        "curate",
        lambda progress: curate.run(
            config.curate, ingested, store=config.store.tables, home=config.store.root, progress=progress
        ),
        summary=lambda result: result.funnel.words,
    )
    if dropped := result.summary["dropped"]:
        current().detail("dropped: " + ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items())))
    for line in relaxed_rules.in_words(result.summary.get("would_keep", {})):
        current().detail(line)
    current().detail(f"reasons and audio: {result.page}")
    return result


@resumable("analyze")
def analyze_songs(config: RunConfig, curated: CurateResult) -> ShardSet:
    return step(
        "analyze",
        lambda progress: analyze.run(config.analyze, curated.chunks, store=config.store.tables, progress=progress),
        summary=lambda profiles: f"{profiles.num_rows} profiles",
    )


@resumable("automix")
def automix_songs(config: RunConfig, curated: CurateResult, profiles: ShardSet) -> AutomixResult:
    return step(
        "automix",
        lambda progress: automix.run(
            config.automix, curated.chunks, profiles, store=config.store.tables, progress=progress
        ),
        summary=AutomixResult.in_words,
    )
