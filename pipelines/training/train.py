"""Songs in shards to a trained model: starts the loop of `train_loop.py` on Ray workers, and resumes it.

A run is named by a digest of everything that decides on its weights, so the same command finds a finished run and
returns it, goes on with an interrupted one, and never mixes two. `runs/<run_key>/` holds what `resume.py` keeps for
another start; `model/` is the result and `result.json`, written last, says that it is whole.
"""

import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import audio, loading
from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.shards.manifests import read_songs
from datasets.store.json_files import write_json
from models import inference, learning, networks, scores
from models.errors import ModelError
from pipelines.lineage import ancestry
from pipelines.runs import run_folder
from pipelines.runtime.cluster import connect
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step
from pipelines.training import train_loop
from pipelines.training.batches import open_index
from pipelines.training.train_loop import Job, ModelConfig, TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from pipelines.registry import RegistryConfig
    from pipelines.registry.live_metrics import Pump

__all__ = ["Job", "ModelConfig", "TrainConfig", "TrainResult", "job_of", "key_of", "read_history", "run"]

_LOG = logging.getLogger(__name__)

# Decide on speed and survival only: a run may go on with others.
# Raise it when the same songs and settings give other weights (CONTRIBUTING.md)
VERSION = 1
STEP = Step(
    name="train",
    version=VERSION,
    uses={
        "audio": audio.VERSION,
        "inference": inference.VERSION,  # of the validation, which chooses among weights
        "learning": learning.VERSION,
        "loading": loading.VERSION,
        "networks": networks.VERSION,
        "scores": scores.VERSION,
    },
)
_FREE = {
    "num_workers", "min_workers", "elastic_look_s", "micro_batch", "cpus_per_worker", "use_gpu", "max_failures",
    "hang_s", "keep_checkpoints", "copy_to", "prefetch_batches", "loader", "example_s",
}  # fmt: skip
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished training. `checkpoint` and `history` are addresses."""

    checkpoint: str  # the folder of the best model, for `models.weights.checkpoint.load_model`
    run_key: str
    model_digest: str  # SHA-256 of its weights
    history: str  # the loss curve, for `read_history`
    steps: int
    best_step: int
    best_weights: str  # "raw", or "ema-" and the decay of the average
    best_nsdr: float | None  # dB, mean over the valid split; None where it is empty
    stopped: str = ""  # why it stopped before its last step; empty where it did not
    troubles: tuple[str, ...] = ()  # what was done on the way, such as "step 800: rollback: the loss rose ..."
    seconds: float  # in training, this time and before interruptions not counted


def run(
    config: TrainConfig,
    model: ModelConfig,
    chunks: Sequence[tuple[ShardSet, float]],
    *,
    sources: Sequence[str],
    store: str,
    keep: Collection[str] | None = None,
    progress: Progress | None = None,
    live: "RegistryConfig | None" = None,
) -> TrainResult:
    """Train on the train split of these tables, drawn from by weight; validate on their valid split.

    A finished run with the same settings, songs and code is returned without starting a worker, an interrupted
    one goes on from its last checkpoint. With `live` the curve is in MLflow while it grows.
    """
    job = job_of(config, model, chunks, sources=sources, store=store, keep=keep)
    name = key_of(job)
    folder = Path(store).expanduser().absolute() / "runs" / name
    if (finished := _finished(folder)) is not None:
        if live:
            from pipelines.registry.live_metrics import deliver_rest

            deliver_rest(live, folder, store=store, stopped=finished.stopped)
        return finished
    _check(job)
    folder.mkdir(parents=True, exist_ok=True)
    ancestry.note(folder, start=model.start, datasets=[table.uri for table, _ in job.chunks], store=store)
    if config.copy_to:
        _bring_back(folder, config)
    started = time.monotonic()
    with stage(progress, "train", config.steps, "steps") as heard, _told_live(live, folder, store) as pump:
        outcome = _train_here(job, folder, heard) if config.num_workers == 0 else _train_on_ray(job, folder, heard)
        if "diverged" in outcome:
            raise InputError(
                f"training diverged at step {outcome['diverged']}, after {config.trouble.max_rollbacks} rollbacks: "
                f"{outcome['why']}; a lower train.learner.learning_rate than {config.learner.learning_rate}, or "
                "train.learner.max_grad_norm=5 would do"
            )
        # The last step was taken all the same where the curve went flat there.
        stopped = str(outcome.get("stopped", "")) if outcome.get("step", config.steps) < config.steps else ""
        result = _conclude(folder, name, seconds=time.monotonic() - started, stopped=stopped)
        if pump:
            pump.stopped = stopped
        heard.finish(_summary(result))
    return result


def job_of(
    config: TrainConfig,
    model: ModelConfig,
    chunks: Sequence[tuple[ShardSet, float]],
    *,
    sources: Sequence[str],
    store: str,
    keep: Collection[str] | None = None,
) -> Job:
    """What `run` would carry out, or find finished under the name that `key_of` gives, with the same arguments."""
    model.check()
    return Job(
        config=config,
        model=_resolved(model, store),
        sources=tuple(sources),
        chunks=tuple((table, weight) for table, weight in chunks if weight),  # of what is never drawn nothing is read
        keep=None if keep is None else tuple(sorted(keep)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that decides on a training besides its settings."""

    preset: str
    options: Mapping[str, Any]
    start: str  # the digest of the weights to begin with; empty for random ones
    sources: tuple[str, ...]
    songs: tuple[tuple[str, float], ...]  # digests of datasets, and how often each is drawn from
    keep: tuple[str, ...] | None


def key_of(job: Job) -> str:
    """The name of the run."""
    inputs = Inputs(
        preset=job.model.preset,
        options=job.model.options,
        start=_start_digest(job.model),
        sources=job.sources,
        songs=tuple((chunks.digest, weight) for chunks, weight in job.chunks),
        keep=job.keep,
    )
    return STEP.key(inputs, {name: value for name, value in asdict(job.config).items() if name not in _FREE})


def key_settings(
    config: TrainConfig, model: ModelConfig, chunks: Sequence[tuple[ShardSet, float]], *, sources: Sequence[str]
) -> dict[str, Any]:
    """What the name of the run is a digest of, for people to read; what a run may go on with otherwise is not in it."""
    return {
        "corpus": {"sources": list(sources)},
        "model": {"preset": model.preset, "options": model.options},
        "train": {name: value for name, value in asdict(config).items() if name not in _FREE},
        "songs": [{"digest": table.digest, "weight": weight} for table, weight in chunks],
    }


def _bring_back(folder: Path, config: TrainConfig) -> None:
    """Begin with the newest whole copy where the folder has no whole checkpoint of its own."""
    from pipelines.runs import checkpoint_backup

    checkpoint_backup.check(config.copy_to)
    if run_folder.find(folder).newest is None:
        for passed in checkpoint_backup.get(folder, config.copy_to):
            _LOG.warning("a copy of a checkpoint in %s was passed over: %s", config.copy_to, passed)


def _told_live(live: "RegistryConfig | None", folder: Path, store: str) -> "AbstractContextManager[Pump | None]":
    """Inside, the curve in the folder is followed and told to MLflow."""
    if live is None:
        return nullcontext()
    from pipelines.registry import used_registries
    from pipelines.registry.live_metrics import Pump

    used_registries.record(store)
    return Pump(live, folder, store=store).running()


def _resolved(model: ModelConfig, store: str) -> ModelConfig:
    """With a path where a registered model was named as the start."""
    if not model.start:
        return model
    from pipelines import registry

    return replace(model, start=str(registry.resolve(model.start, store=store)))


def _start_digest(model: ModelConfig) -> str:
    """Of the weights themselves: it does not matter where they lie."""
    from models.weights import model_ref

    return model_ref.describe(model.start).digest if model.start else ""


def read_history(result: TrainResult) -> list[dict[str, float]]:
    """The loss curve: points with step, loss, loss_SOURCE, grad_norm, learning_rate.

    A point whose steps were all skipped has neither loss nor grad_norm. Points at a checkpoint also have
    valid_nsdr_WEIGHTS for each candidate, in dB, and the best of them as valid_nsdr; train_nsdr_WEIGHTS where no song
    was held out. `skipped` counts steps that were left out.
    """
    return run_folder.merged(run_folder.Lines(Path(result.history)).read())


def _check(job: Job) -> None:
    """Find out on the driver, before any worker starts, what can be known to fail."""
    if not job.chunks:
        raise InputError("there are no songs to train on: give at least one table of chunks")
    kept = None if job.keep is None else set(job.keep)
    songs = [
        song
        for chunks, _ in job.chunks
        for song in read_songs(chunks)
        if song.split in ("train", "valid") and (kept is None or song.track_id in kept)
    ]
    if all(song.split != "train" for song in songs):
        raise InputError(
            "no song stands in the train split; a corpus with a train folder, or smaller corpus.valid_fraction and "
            "corpus.test_fraction would do"
        )
    rates, channels = {song.sample_rate for song in songs}, {song.channels for song in songs}
    if len(rates) > 1 or len(channels) > 1:
        raise InputError(
            f"songs of several sample rates or channel counts cannot be mixed: {sorted(rates)} Hz, {sorted(channels)} "
            "channels"
        )
    from models.inference.separate import layout

    wanted = layout(train_loop.build_model(job))
    if wanted.sources != job.sources:
        raise InputError(f"the model separates {list(wanted.sources)}, the songs have {list(job.sources)}")
    if wanted.sample_rate not in rates:
        raise InputError(
            f"the songs have {rates.pop()} Hz, the model wants {wanted.sample_rate} Hz; "
            f"no model.options.sample_rate, or ingest.sample_rate={wanted.sample_rate} would do"
        )
    if wanted.audio_channels not in channels:
        raise InputError(
            f"the songs have {channels.pop()} channels, the model wants {wanted.audio_channels}; no "
            f"model.options.audio_channels, or ingest.channels={wanted.audio_channels} would do"
        )
    num_samples = job.config.learner.augment.input_samples(wanted.segment_samples, wanted.sample_rate)
    open_index(job, wanted.sources, num_samples=num_samples)


# --- in this process ----------------------------------------------------------------------------------------


class LocalSession:
    """One worker in the calling process."""

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, config: TrainConfig, progress: Progress) -> None:
        import torch

        self.folder = folder
        self.device = torch.device("cuda" if config.use_gpu else "cpu")
        self.board = _Board()
        self.watch = _Watch(progress, self.board.read)

    def prepare(self, model: "nn.Module") -> "nn.Module":
        return model.to(self.device)

    def tell(self, step: int, text: str) -> None:
        self.board.tell(step, text)
        self.watch.look()

    def show(self, figures: Mapping[str, float]) -> None:
        """Nothing collects figures here; they are in the run's folder."""


def _train_here(job: Job, folder: Path, progress: Progress) -> dict[str, Any]:
    session = LocalSession(folder, job.config, progress)
    return train_loop.train(job, session)


# --- on Ray -------------------------------------------------------------------------------------------------


class RaySession:
    """One worker of a Ray Train group."""

    def __init__(self, folder: Path, config: TrainConfig, board: Any) -> None:
        import ray.train
        import ray.train.torch
        import torch

        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.folder = folder
        self.device = ray.train.torch.get_device()
        self.board = board
        if self.device.type == "cpu":
            torch.set_num_threads(config.cpus_per_worker)  # workers on one machine would fight for its cores

    def prepare(self, model: "nn.Module") -> "nn.Module":
        import ray.train.torch

        prepared: nn.Module = ray.train.torch.prepare_model(model)
        return prepared

    def tell(self, step: int, text: str) -> None:
        if self.rank == 0 and self.board is not None:
            self.board.tell.remote(step, text)

    def show(self, figures: Mapping[str, float]) -> None:
        show(self.folder.name, figures)


def show(run_key: str, figures: Mapping[str, float]) -> None:
    """Hand figures to Ray, whose nodes offer them to Prometheus as `ray_stemline_training_NAME{run="RUN_KEY"}`."""
    for name, value in figures.items():
        _gauge("stemline_training_" + re.sub(r"\W", "_", name)).set(value, tags={"run": run_key})


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, description="of the newest point of a training", tag_keys=("run",))


def _work(settings: dict[Any, Any]) -> Any:
    """What each Ray worker runs."""
    job: Job = settings["job"]
    return train_loop.train(job, RaySession(settings["folder"], job.config, settings["board"]))


def _train_on_ray(job: Job, folder: Path, progress: Progress) -> dict[str, Any]:
    # How long Ray waits for places for its workers. What it knows of machines may be 20 s old: just after one was lost
    # an elastic group is planned for the old number, and must not wait for long before it is planned again.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30" if job.config.min_workers else "180")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # a report waits for the controller's next look
    with connect() as ray:
        if run_folder.find(folder).step >= job.config.steps:
            return {"step": job.config.steps}
        _check_cores(job.config, ray)
        # An actor tells the driver how far rank 0 is: reports to Ray Train are a barrier for all workers. It stands on
        # the driver's machine, since others may be lost.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        board = ray.remote(num_cpus=0, label_selector=here)(_Board).remote()
        watch = _Watch(progress, lambda: ray.get(board.read.remote(), timeout=10))
        try:
            with watch.running():
                return _fit(job, folder, board)
        finally:
            ray.kill(board)


def _check_cores(config: TrainConfig, ray: Any) -> None:
    """InputError where workers ask this machine for more cores than it has; a cluster may grow, and is waited for."""
    if "RAY_ADDRESS" in os.environ:
        return
    cores, workers = int(ray.cluster_resources().get("CPU", 0)), config.min_workers or config.num_workers
    if workers > cores:
        raise InputError(f"train.num_workers must be <= {cores}, the cores of this machine, got {workers}")
    if workers * config.cpus_per_worker > cores:
        raise InputError(
            f"train.cpus_per_worker must be <= {cores // workers} with {workers} workers on the {cores} cores of this "
            f"machine, got {config.cpus_per_worker}; `stemline plan` says how long training waits for songs then"
        )


def _fit(job: Job, folder: Path, board: Any) -> dict[str, Any]:
    """Ray Train starts the workers, and starts them again when one is lost; checkpoints are ours, see `resume.py`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    config = job.config
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job, "folder": folder, "board": board},
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo", timeout_s=round(config.hang_s)),
        scaling_config=ScalingConfig(
            num_workers=_workers(config),
            elastic_resize_monitor_interval_s=config.elastic_look_s,  # type: ignore[call-arg]  # V2's, not V1's
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[_no_second_try()],
        ),
    )
    try:
        outcome: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]  # V2's, not V1's
    except TrainingFailedError as error:
        if isinstance(refused := getattr(error, "controller_failure", None), InputError):
            raise InputError(str(refused)) from error
        raise
    return outcome


def _workers(config: TrainConfig) -> Any:
    """A number, or the least and the most: an elastic group, which V2 takes and the types of V1 do not know."""
    return (config.min_workers, config.num_workers) if config.min_workers else config.num_workers


def _no_second_try() -> Any:
    """What the user has to mend fails again however often workers are restarted: it ends the run at once."""
    from ray.train import UserCallback

    class NoSecondTry(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for failure in worker_exceptions.values():
                cause = getattr(failure, "_base_exc", failure)  # Ray wraps what the loop raised
                if isinstance(cause, InputError | ModelError):
                    raise InputError(str(cause))

    return NoSecondTry()


class _Board:
    """The last thing the first worker said."""

    def __init__(self) -> None:
        self.said = (0, "")

    def tell(self, step: int, text: str) -> None:
        self.said = (step, text)

    def read(self) -> tuple[int, str]:
        return self.said


class _Watch:
    """Passes what is on the board to a listener."""

    def __init__(self, progress: Progress, ask: Callable[[], tuple[int, str]]) -> None:
        self.progress, self.ask = progress, ask
        self.seen = 0

    def look(self) -> None:
        step, text = self.ask()
        if step > self.seen:
            self.progress.advance(step - self.seen)
            self.seen = step
        if text:
            self.progress.note(text)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look now and then, from a thread, while the body runs."""
        over = threading.Event()

        def look_on() -> None:
            while not over.wait(_POLL_S):
                # A board that does not answer, on a loaded or a dying cluster, must not stop the training.
                with suppress(Exception):
                    self.look()

        thread = threading.Thread(target=look_on, name="training-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=10)


# --- the result ---------------------------------------------------------------------------------------------


def _conclude(folder: Path, run_key: str, *, seconds: float, stopped: str) -> TrainResult:
    """Copy the best model out of the last checkpoint; `result.json` comes last."""
    from models.errors import ModelError
    from models.weights import checkpoint

    found = run_folder.find(folder)
    assert found.newest is not None
    target = folder / "model"
    try:
        checkpoint.require_replaceable(target)
    except ModelError as error:
        raise InputError(f"the trained model has no place: {error}; then run the same command again") from error
    temporary = Path(tempfile.mkdtemp(prefix=".model-", dir=folder))
    shutil.copytree(found.newest / run_folder.BEST, temporary, dirs_exist_ok=True)
    checkpoint.load_model(temporary)  # a damaged copy must not become a result
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    saved = checkpoint.read_config(target)
    events = run_folder.Lines(folder / run_folder.EVENTS).read()
    result = TrainResult(
        checkpoint=str(target),
        run_key=run_key,
        model_digest=saved["weights_sha256"],
        history=str(folder / run_folder.HISTORY),
        steps=found.step,
        best_step=saved["extra"]["step"],
        best_weights=saved["extra"]["weights"],
        best_nsdr=saved["extra"]["nsdr"],
        stopped=stopped,
        troubles=tuple(f"step {event['step']}: {event['did']}: {event['why']}" for event in events),
        seconds=round(seconds, 3),
    )
    write_json(folder / "result.json", asdict(result))
    return result


def _finished(folder: Path) -> TrainResult | None:
    """The result of a finished run; its addresses are those of this store, wherever it stood when it was written."""
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    here = {"checkpoint": str(folder / "model"), "history": str(folder / run_folder.HISTORY)}
    return TrainResult(**(content | here | {"troubles": tuple(content["troubles"])}))


def _summary(result: TrainResult) -> str:
    score = "" if result.best_nsdr is None else f", valid nSDR {result.best_nsdr:.2f} dB"
    troubles = f"; stopped early: {result.stopped}" if result.stopped else ""
    troubles += f"; {result.troubles[-1]}" if result.troubles else ""
    return (
        f"{result.steps} steps in {result.seconds:.0f} s, best at {result.best_step} ({result.best_weights}){score}"
        f"{troubles}"
    )
