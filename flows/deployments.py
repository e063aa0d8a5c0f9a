"""The flows that Prefect's workers run: one form of parameters for all, one run of a store at a time.

`infra/prefect.yaml` names them; `stemline deploy` sends that to a server. What a flow prints is its run's log.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Annotated, Any

from prefect import Flow, flow, runtime
from prefect.context import FlowRunContext

from datasets.errors import InputError
from datasets.store import scratch
from flows import build_corpus as corpus_flow
from flows import config as settings
from flows import full_run as whole_pipeline
from flows import train_model as model_flow
from flows.config import RunConfig
from flows.console import notifications
from flows.console.stop_signals import end_now, ended_in_time
from flows.full_run import FullRun
from flows.gate_decision import Trained
from flows.retrain_policy import MAX_STARTS
from flows.retraining import retrain_log, retrain_model
from flows.retraining.late_runs import skip_late_runs
from flows.tasks.early_checks import check_run
from flows.tasks.lost_cancellations import ended_when_cancelled, note_cancelled
from flows.tasks.open_store import store_lock
from flows.tasks.prefect_log import RunScreen
from pipelines.runtime import ray_jobs

STORE_PATIENCE_S = 86_400.0  # a scheduled run may wait; and of two, the second must not fail the first
_FORM = """
    Args:
        preset: The settings to begin with.
        songs: The folder of songs, as the workers see it; the preset's where empty.
        store: The folder where everything is kept, as the workers see it.
        overrides: Settings to change, such as train.steps=20 or retrain.new_hours=5.
"""


class _Choice:
    """Shows a text parameter as a choice in Prefect's form; the server refuses anything else."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(schema), "enum": settings.presets()}


Preset = Annotated[str, _Choice()]


def stop_jobs(flow: Any, flow_run: Any, state: Any) -> None:
    """Called when a run is cancelled: stops the jobs that it started in a cluster."""
    if address := ray_jobs.server():
        stopped = ray_jobs.stop(address, str(flow_run.id))
        logging.getLogger("flows.deployments").info("cancelled: stopped %s", ", ".join(stopped) or "no job")


def note_cancellation(flow: Any, flow_run: Any, state: Any) -> None:
    """Called when a run is cancelled: its process may have been killed before it noted that in the log."""
    retrain_log.cancel(_config_of(flow_run).store.tables, str(flow_run.id))


def tell_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Called when a run failed or crashed: tells people, and where its form was refused, those of STEMLINE_NOTIFY."""
    try:
        config = _config_of(flow_run)
    except InputError:
        config = RunConfig()
    notice = notifications.of_failure(config, f"{flow.name}, run {flow_run.name},", str(state.message))
    if problem := notifications.send(config.notify, notice):
        logging.getLogger("flows.deployments").warning(problem)


def _config_of(flow_run: Any) -> RunConfig:
    """The configuration of the form that a run was started with."""
    form = {"preset": "smoke", "songs": "", "store": "stemline-store"} | flow_run.parameters
    return resolved(**{**form, "overrides": form.get("overrides") or []})


def _end_cancelled(flow_run: Any) -> None:
    """What the runner does with a run that was cancelled, by the run's own process."""
    stop_jobs(None, flow_run, None)
    note_cancellation(None, flow_run, None)
    note_cancelled(flow_run.id)
    end_now()


def deployed(name: str, *, verb: str) -> Callable[[Callable[[RunConfig], dict[str, Any]]], Flow[Any, dict[str, Any]]]:
    """A flow with the form of parameters that all deployments share, around a function of the configuration.

    The steps are called as `.fn` of the flows that the command line calls: subflows would stay "running" after a crash.
    `verb` is named in the lock of the store.
    """

    def decorate(job: Callable[[RunConfig], dict[str, Any]]) -> Flow[Any, dict[str, Any]]:
        def run(
            preset: Preset = "smoke", songs: str = "", store: str = "stemline-store", overrides: list[str] | None = None
        ) -> dict[str, Any]:
            with _prepared(verb, resolved(preset, songs, store, overrides or [])) as config:
                return job(config)

        run.__name__, run.__qualname__, run.__doc__ = job.__name__, job.__qualname__, f"{job.__doc__}\n{_FORM}"
        return flow(
            name=name,
            flow_run_name="{preset}, store {store}",
            on_cancellation=[stop_jobs, note_cancellation],
            on_failure=[tell_failure],
            on_crashed=[tell_failure],
        )(run)

    return decorate


@deployed("build-corpus", verb="ingest")
def build_corpus(config: RunConfig) -> dict[str, Any]:
    """From a folder of songs to a dataset: ingest, curate, analyze, automix."""
    corpus = corpus_flow.build_corpus.fn(config)
    return {"dataset": corpus.songs.uri, "digest": corpus.songs.digest}


@deployed("train-model", verb="train")
def train_model(config: RunConfig) -> dict[str, Any]:
    """From songs to a champion: the dataset brought up to date, then train, score, register, decide, promote."""
    return _model_summary(model_flow.train_model.fn(config, corpus_flow.build_corpus.fn(config)))


@deployed("evaluate", verb="evaluate")
def evaluate(config: RunConfig) -> dict[str, Any]:
    """Score the trained model and the champion on every held-out song; nothing is registered."""
    return _model_summary(model_flow.train_model.fn(config, corpus_flow.build_corpus.fn(config), until="evaluate"))


@deployed("full-run", verb="run")
def full_run(config: RunConfig) -> dict[str, Any]:
    """The whole pipeline: from a folder of songs to a registered, gated model and a report."""
    return _run_summary(whole_pipeline.run_all(config))


@deployed("retrain", verb="retrain")
def retrain(config: RunConfig) -> dict[str, Any]:
    """Bring the dataset up to date, decide whether that is worth a training, and train only then."""
    run, context = runtime.flow_run, FlowRunContext.get()
    if (run.run_count or 1) > 1:
        retrain_log.wait_for_earlier_start(config.store.tables, str(run.id))
    due = skip_late_runs(context.flow_run if context else None) or run.scheduled_start_time
    late = run.scheduled_start_time and due > run.scheduled_start_time
    if late and (problem := notifications.send(config.notify, notifications.of_missed(config, due))):
        logging.getLogger("flows.deployments").warning(problem)
    due_at = due.astimezone(UTC).isoformat(timespec="seconds")
    result = retrain_model.retrain_model.fn(config, run=str(run.id), due=due_at)
    summary = {"retrained": result.full_run is not None, "why": result.reason}
    return summary if result.full_run is None else {**summary, **_run_summary(result.full_run)}


def _run_summary(result: FullRun) -> dict[str, Any]:
    summary = _model_summary(result.model)
    return {**summary, "dataset": result.corpus.songs.uri, "report": result.presented.report}


def _model_summary(model: Trained) -> dict[str, Any]:
    summary: dict[str, Any] = {"run_key": model.trained.run_key}
    if model.candidate:
        summary["nsdr"] = model.candidate.summary.overall.nsdr
    if model.version:
        summary |= {"version": model.version.uri, "alias": model.version.alias}
    return summary


@contextmanager
def _prepared(verb: str, config: RunConfig) -> Iterator[RunConfig]:
    """The configuration, with the store locked, one Ray session for all steps, and progress in the run's log."""
    from pipelines.runtime.cluster import remove_session_folders, session

    if (runtime.flow_run.run_count or 1) > MAX_STARTS:
        raise InputError(f"this run crashed {MAX_STARTS} times; see its log, then start a new run")
    scratch.use(config.store.scratch, limit_gb=config.store.scratch_gb)
    check_run(config, verb=verb)
    lock = store_lock(config.store.root, verb=verb, data=config.store.data, patience_s=STORE_PATIENCE_S)
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    assert flow_run is not None, "a deployment's flow runs in a run of its own"
    ended = ended_when_cancelled(flow_run.id, lambda: _end_cancelled(flow_run))
    with ended_in_time(remove_session_folders), ended, lock as folder, RunScreen(), session():
        settings.write(config, folder / "cache" / "flows" / f"{flow_run.id}.toml")
        yield config


def resolved(preset: str, songs: str, store: str, overrides: Sequence[str]) -> RunConfig:
    """The configuration that the fields of the form give; `overrides` win."""
    given = [settings.override("store.root", store), *([settings.override("corpus.root", songs)] if songs else [])]
    return settings.load(preset, [*given, *overrides])
