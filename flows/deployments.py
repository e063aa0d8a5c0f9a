"""The road as Prefect's workers walk it: flows with a form for parameters, one run of a store at a time.

`infra/prefect.yaml` names them; `stemline deploy` sends that to a server. What a flow says is its run's log.
"""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from rich.console import Console

from datasets.corpus.removed_songs import read_forgotten, write_forgotten
from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.shards.manifests import read_songs
from datasets.store.ownership import claim_store
from flows import build_corpus as corpus_road
from flows import config as door
from flows import report_model as presentation
from flows import train_model as model_road
from flows.config import RunConfig
from flows.console.progress_display import Screen
from flows.retraining import retrain_policy
from flows.retraining.retrain_policy import Facts, Judgement, Retraining
from flows.tasks.prefect_step import resumable
from flows.tasks.store_lock import held
from pipelines.evaluation.evaluate import SongScore
from pipelines.runtime import ray_jobs

STORE_PATIENCE_S = 86_400.0  # a scheduled run has time; and one that was started twice must not fail the other
MAX_STARTS = 5  # of one run, after crashes


class _Choice:
    """Shows a text parameter as a choice in Prefect's form; the server refuses anything else."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(schema), "enum": door.presets()}


Preset = Annotated[str, _Choice()]


def stop_jobs(flow: Any, flow_run: Any, state: Any) -> None:
    """Called when a run is cancelled: nothing that it started in a cluster goes on."""
    if address := ray_jobs.server():
        stopped = ray_jobs.stop(address, str(flow_run.id))
        logging.getLogger("flows.deployments").info("cancelled: stopped %s", ", ".join(stopped) or "no job")


@flow(name="build-corpus", on_cancellation=[stop_jobs])
def build_corpus(
    preset: Preset = "smoke", songs: str = "", store: str = "stemline-store", overrides: list[str] | None = None
) -> dict[str, Any]:
    """From a folder of songs to a dataset: ingest, curate, analyze, automix.

    Args:
        preset: The settings to begin with.
        songs: The folder of songs, as the workers see it; that of the preset where empty.
        store: The folder where everything is kept, as the workers see it.
        overrides: Settings to change, such as train.steps=20.
    """
    with _walking("ingest", preset, songs, store, overrides) as config:
        made = corpus_road.build_corpus.fn(config)
        return {"dataset": made.songs.uri, "digest": made.songs.digest}


@flow(name="train-model", on_cancellation=[stop_jobs])
def train_model(
    preset: Preset = "smoke", songs: str = "", store: str = "stemline-store", overrides: list[str] | None = None
) -> dict[str, Any]:
    """From songs to a champion: the dataset brought up to date, then train, score, register, decide, promote.

    Args:
        preset: The settings to begin with.
        songs: The folder of songs, as the workers see it; that of the preset where empty.
        store: The folder where everything is kept, as the workers see it.
        overrides: Settings to change, such as train.steps=20.
    """
    with _walking("train", preset, songs, store, overrides) as config:
        made = model_road.train_model.fn(config, corpus_road.build_corpus.fn(config))
        return _told(made)


@flow(name="evaluate", on_cancellation=[stop_jobs])
def evaluate(
    preset: Preset = "smoke", songs: str = "", store: str = "stemline-store", overrides: list[str] | None = None
) -> dict[str, Any]:
    """Score the trained model and the champion on every held-out song; nothing is registered.

    Args:
        preset: The settings to begin with.
        songs: The folder of songs, as the workers see it; that of the preset where empty.
        store: The folder where everything is kept, as the workers see it.
        overrides: Settings to change, such as train.steps=20.
    """
    with _walking("evaluate", preset, songs, store, overrides) as config:
        return _told(model_road.train_model.fn(config, corpus_road.build_corpus.fn(config), until="evaluate"))


@flow(name="full-run", on_cancellation=[stop_jobs])
def full_run(
    preset: Preset = "smoke", songs: str = "", store: str = "stemline-store", overrides: list[str] | None = None
) -> dict[str, Any]:
    """The whole road: from a folder of songs to a registered, gated model and a report.

    Args:
        preset: The settings to begin with.
        songs: The folder of songs, as the workers see it; that of the preset where empty.
        store: The folder where everything is kept, as the workers see it.
        overrides: Settings to change, such as train.steps=20.
    """
    with _walking("run", preset, songs, store, overrides) as config:
        return _walked(config)


@flow(name="retrain", on_cancellation=[stop_jobs])
def retrain(
    preset: Preset = "smoke", songs: str = "", store: str = "stemline-store", overrides: list[str] | None = None
) -> dict[str, Any]:
    """Bring the dataset up to date, judge whether that is worth a training, and train only then.

    Args:
        preset: The settings to begin with.
        songs: The folder of songs, as the workers see it; that of the preset where empty.
        store: The folder where everything is kept, as the workers see it.
        overrides: Settings to change, such as retrain.new_hours=5.
    """
    from pipelines import registry

    with _walking("retrain", preset, songs, store, overrides) as config:
        begun = retrain_policy.unfinished(config.store.tables, str(runtime.flow_run.id))
        if begun is None:
            dataset = corpus_road.build_corpus.fn(config, until="curate").songs
            if config.retrain.canary:
                _watch_canary(config)
            facts = retrain_policy.look(config, dataset, due=_due())
            judged = retrain_policy.judge(facts, config.retrain)
            if judged.retrain:
                begun, judged = _begin(config, facts, judged)
            get_run_logger().info(judged.sentence)
            create_markdown_artifact(markdown=judged.sentence, key="retrain-why", description="whether to train again")
            if begun is None:
                return {"retrained": False, "why": judged.sentence}
        told = _walked(_seeded(config, begun))
        present = registry.champion(config.registry, store=config.store.root)
        ended = replace(begun, ended_at=retrain_policy.now(), champion=present.version if present else "")
        retrain_policy.note(config.store.tables, ended)
        return {"retrained": True, "why": begun.reason, **told}


def _begin(config: RunConfig, facts: Facts, judged: Judgement) -> tuple[Retraining | None, Judgement]:
    """A retraining that is remembered from now on; should this process die, the next one of the same run goes on.

    None, and why, where the very same training ended before.
    """
    begun = Retraining(
        began_at=retrain_policy.now(),
        due_at=facts.due,
        devices=config.train.num_workers if config.train.use_gpu else 0,
        reason=judged.sentence,
        run=str(runtime.flow_run.id),
        occasion=judged.occasion,
        dataset=facts.dataset,
        recipe=facts.recipe,
        seed=retrain_policy.seed_of(config.train.seed, judged.occasion),
    )
    config = _seeded(config, begun)
    key = model_road.run_key(config, corpus_road.build_corpus.fn(config))
    same = next((one for one in facts.done if one.ended_at and one.run_key == key), None)
    if same is not None:
        why = f"Not now: {retrain_policy.nothing_to_train(same)}, though {judged.sentence.removeprefix('Yes: ')}"
        return None, replace(judged, retrain=False, sentence=why)
    begun = replace(begun, run_key=key)
    retrain_policy.note(config.store.tables, begun)
    return begun, judged


def _seeded(config: RunConfig, begun: Retraining) -> RunConfig:
    """The configuration with the seed of a retraining: with another's it would find that model again."""
    return config if begun.seed is None else replace(config, train=replace(config.train, seed=begun.seed))


def _due() -> str:
    """When this run was to begin: how long it waited, and how long songs took, is not for a pause to count."""
    due: datetime = runtime.flow_run.scheduled_start_time
    return due.astimezone(UTC).isoformat(timespec="seconds")


def _watch_canary(config: RunConfig) -> None:
    """One more score of the champion on the canary songs, which have a store of their own inside this one."""
    from pipelines import registry

    present = registry.champion(config.registry, store=config.store.root)
    if present is not None:
        apart = _canary_of(config)
        claim_store(apart.store.root, setting="the canary's store")
        write_forgotten(apart.store.tables, read_forgotten(config.store.tables).songs)
        songs = corpus_road.build_corpus.fn(apart, until="curate").songs
        retrain_policy.note_canary(config.store.tables, present.digest, score_canary(config, songs))


@resumable("canary")
def score_canary(config: RunConfig, songs: ShardSet) -> float:
    """The champion's mean nSDR in dB on all songs of the canary folder, whichever split they were dealt to."""
    from pipelines import registry

    present = registry.champion(config.registry, store=config.store.root)
    assert present is not None, "there was a champion a moment ago"
    checkpoint = registry.fetch(present.uri, store=config.store.root)
    apart, scored = _canary_of(config), list[SongScore]()
    for split in sorted({song.split for song in read_songs(songs)}):
        of_split = replace(apart, evaluate=replace(apart.evaluate, split=split))
        scored += model_road.score(
            of_split, songs, str(checkpoint), who="canary: ", place="canary"
        ).summary.songs.values()
    return fmean(nsdr for song in scored for nsdr in song.nsdr.values())


def _canary_of(config: RunConfig) -> RunConfig:
    return replace(
        config,
        corpus=replace(config.corpus, root=config.retrain.canary),
        store=replace(config.store, root=str(Path(config.store.root) / "canary"), data=""),
    )


def _walked(config: RunConfig) -> dict[str, Any]:
    """The parts of `full_run.full_run` as one run: parts of their own would stay behind as running after a crash."""
    corpus = corpus_road.build_corpus.fn(config)
    model = model_road.train_model.fn(config, corpus)
    shown = presentation.present_model.fn(config, corpus, model)
    return {**_told(model), "dataset": corpus.songs.uri, "report": shown.report}


def _told(made: model_road.Trained) -> dict[str, Any]:
    told: dict[str, Any] = {"run_key": made.trained.run_key}
    if made.candidate:
        told["nsdr"] = made.candidate.summary.overall.nsdr
    if made.version:
        told |= {"version": made.version.uri, "alias": made.version.alias}
    return told


@contextmanager
def _walking(verb: str, preset: str, songs: str, store: str, overrides: list[str] | None) -> Iterator[RunConfig]:
    """The configuration, with the store held, one Ray for all steps, and the screen in the run's log."""
    from pipelines import registry
    from pipelines.registry.server_check import check_address
    from pipelines.runtime.cluster import session

    if (runtime.flow_run.run_count or 1) > MAX_STARTS:
        raise InputError(f"this run crashed {MAX_STARTS} times; see its log, then start another")
    config = resolved(preset, songs, store, overrides or [])
    if verb != "ingest":
        config.model.check()
    holding = held(config.store.root, verb=verb, data=config.store.data, patience_s=STORE_PATIENCE_S)
    with holding as folder, RunScreen(), session():
        check_address(registry.address(str(folder)))
        door.write(config, folder / "cache" / "flows" / f"{runtime.flow_run.id}.toml")
        yield config


def resolved(preset: str, songs: str, store: str, overrides: Sequence[str]) -> RunConfig:
    """The configuration that the fields of the form mean; the last fields win."""
    given = [door.override("store.root", store), *([door.override("corpus.root", songs)] if songs else [])]
    return door.load(preset, [*given, *overrides])


class RunScreen(Screen):
    """A screen whose lines are a flow run's log, and whose bar is on its page."""

    def __init__(self) -> None:
        super().__init__(Console(file=_Lines(), width=110))
        self._bar: UUID | None = None

    def start(self, name: str, total: float, unit: str) -> None:
        super().start(name, total, unit)
        key = "progress-" + "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        self._bar = None
        with suppress(Exception):  # a server that is away for a moment stops no step
            made = create_progress_artifact(progress=0.0, key=key, description=name) if total else None
            self._bar = made if isinstance(made, UUID) else None

    def finish(self, summary: str) -> None:
        super().finish(summary)
        if summary:
            self._move(100.0)
        self._bar = None

    def _say_now_and_then(self) -> None:
        before = self._said_s
        super()._say_now_and_then()
        if self._total and self._said_s != before:
            self._move(min(100.0, 100 * self._done / self._total))

    def _move(self, percent: float) -> None:
        if self._bar is not None:
            with suppress(Exception):
                update_progress_artifact(self._bar, progress=percent)


class _Lines(io.StringIO):
    """Text that is written becomes lines of the log of the run that is under way."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                get_run_logger().info(line.rstrip())
        return len(text)
