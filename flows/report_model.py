"""From a champion to its report: a held-out song is separated with it and scored, and the report is written."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task

from datasets.errors import InputError
from datasets.schema import Score, Verdict
from datasets.shards.arrow_tables import read_objects
from datasets.shards.manifests import read_songs
from datasets.store import storage
from datasets.store.scratch import hold, scratch
from flows import config as settings
from flows.build_corpus import Corpus
from flows.config import RunConfig
from flows.console.version_card import describe_version
from flows.gate_decision import Trained, candidate_ancestry, contamination_of
from flows.tasks.prefect_step import RUN_NAME, step
from pipelines import registry
from pipelines.inference import example_song, separate_songs
from pipelines.inference.example_song import SongFiles
from pipelines.inference.stem_files import SeparatedSong
from pipelines.lineage import song_licenses
from pipelines.lineage.contamination import Contamination
from pipelines.lineage.training_recordings import Ancestors
from pipelines.registry import ModelVersion
from pipelines.report import model_report
from pipelines.report.audio_players import SongAudio
from pipelines.report.examples import augmentation_examples, automix_examples
from pipelines.report.examples.automix_examples import MixExample
from pipelines.report.report_input import ReportInput
from pipelines.training import train_result


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """The separated song, its scores where its true stems are known, and the path of the report."""

    song: SongFiles
    separated: SeparatedSong
    scores: tuple[Score, ...]
    report: str


@flow(name="report-model", flow_run_name=RUN_NAME, validate_parameters=False)
def report_model(config: RunConfig, corpus: Corpus, model: Trained, song: SongFiles | None = None) -> Presentation:
    """Without a song, the first held-out one is extracted from its shards."""
    song = song or extract_song(config, corpus)
    separated = separate_song(config, model, song)
    scores = tuple(example_song.score(song, separated.files))
    page = write_report(config, corpus, model, song, separated)
    return Presentation(song=song, separated=separated, scores=scores, report=page)


@task(name="extract-song")
def extract_song(config: RunConfig, corpus: Corpus) -> SongFiles:
    return example_song.held_out_song(
        corpus.songs,
        split=config.evaluate.split,
        sources=config.corpus.sources,
        out=hold(scratch(config.store.root) / "separated") / "references",
    )


@task(name="separate")
def separate_song(config: RunConfig, model: Trained, song: SongFiles) -> SeparatedSong:
    """Through the registry, as a consumer would."""
    assert model.version is not None, "promote has not run"
    checkpoint = registry.fetch(model.version.uri, store=config.store.root)
    out = hold(scratch(config.store.root) / "separated")
    result = step(
        "separate",
        lambda progress: separate_songs.run(
            config.separate, [song.mixture.path], model=str(checkpoint), out=str(out), progress=progress
        ),
        summary=lambda result: f"{song.title}: {len(result.songs[0].files) if result.songs else 0} stems",
    )
    if result.failed:
        raise InputError(f"{result.failed[0].song}: {result.failed[0].reason}")
    settings.write(config, f"{result.songs[0].folder}.toml")
    return result.songs[0]


@task(name="report")
def write_report(config: RunConfig, corpus: Corpus, model: Trained, song: SongFiles, separated: SeparatedSong) -> str:
    assert corpus.curated is not None
    assert model.candidate is not None
    assert model.version is not None
    verdicts = read_objects(corpus.curated.verdicts, Verdict)
    report_input = ReportInput(
        name=model.version.name,
        version=model.version.version,
        promoted=model.version.alias == registry.CHAMPION,
        reason=model.decision.reason if model.decision else "",
        champion_gain_db=model.decision.gain.mean if model.decision and model.decision.gain else None,
        verdicts=verdicts,
        licenses={
            license: group.num_songs
            for license, group in song_licenses.of_songs(read_songs(corpus.songs)).songs.items()
        },
        scores=read_objects(model.candidate.scores, Score),
        split=config.evaluate.split,
        contamination=_contamination(config, corpus, model),
        history=curves(train_result.read_history(model.trained), config.corpus.sources),
        sources=config.corpus.sources,
        song=SongAudio(
            title=song.title,
            mixture=song.mixture,
            estimates=separated.files,
            references=song.references,
            license=song.license,
        ),
        mixes=_mixes(config, corpus),
        sounds=augmentation_examples.examples(
            corpus.songs,
            config.train.learner.augment,
            sources=config.corpus.sources,
            seconds=config.report.augment_s,
        ),
        lineage={
            "Songs": corpus.ingested.chunks.digest,
            "Dataset": corpus.songs.digest,
            "Run": model.trained.run_key,
            "Weights": model.trained.model_digest,
            "Scores": model.candidate.scores.digest,
        },
        config=settings.to_toml(config),
    )
    page = step(
        "report",
        lambda progress: model_report.run(config.report, report_input, store=config.store.root, progress=progress),
        summary=lambda path: path,
    )
    _keep_with_version(config, model.version, page)
    return page


def _keep_with_version(config: RunConfig, version: ModelVersion, page: str) -> None:
    """The report among the files of the version, whose card links to it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "report.html")
        copy.write_bytes(storage.read(page))
        registry.attach(version.uri, copy, store=config.store.root, kind="report")
    describe_version(config, version)


def _contamination(config: RunConfig, corpus: Corpus, model: Trained) -> Contamination:
    ancestors = Ancestors(config.store.root, config.store.tables)
    return contamination_of(config, corpus.songs, [candidate_ancestry(config, corpus, model.trained, ancestors)])


def _mixes(config: RunConfig, corpus: Corpus) -> tuple[MixExample, ...]:
    """The automixes that the report shows; none where there are none."""
    if corpus.automixes is None or corpus.profiles is None or not config.report.mixes:
        return ()
    return automix_examples.sample(
        corpus.automixes.plans,
        corpus.profiles,
        corpus.songs,
        count=config.report.mixes,
        seconds=config.report.mix_s,
    )


def curves(history: Sequence[Mapping[str, float]], sources: Sequence[str]) -> list[dict[str, Any]]:
    """The loss curve as the report draws it: losses of the sources in a list, scores of the weights by name.

    A point whose steps were all skipped has no loss.
    """
    prefix = "valid_nsdr_"
    points: list[dict[str, Any]] = []
    for point in history:
        losses = {name: point[name] for name in ("loss", *(f"loss_{source}" for source in sources)) if name in point}
        loss = {"loss": losses.pop("loss"), "per_source": list(losses.values())} if len(losses) > len(sources) else {}
        scores = {name.removeprefix(prefix): value for name, value in point.items() if name.startswith(prefix)}
        points.append({"step": point["step"], **loss, "valid_nsdr": scores})
    return points
