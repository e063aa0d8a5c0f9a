"""Songs in shards to a trained model: starts the loop of `train_loop.py` on Ray workers, and resumes it.

A run is named by a digest of everything that decides on its weights, so the same command finds a finished run and
returns it, resumes an interrupted one, and never mixes two. `runs/<run_key>/` holds what `runs/run_folder.py` keeps to
resume; `model/` is the result and `result.json`, written last, says that it is whole.
"""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from datasets import audio, loading
from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.shards.manifests import read_songs
from datasets.store import scratch, storage
from datasets.store.disk_errors import disk_errors
from models import inference, learning, networks, scores
from pipelines.lineage import training_ancestry
from pipelines.runs import run_folder, stored_model
from pipelines.runs.run_place import RunPlace
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step
from pipelines.training.batches import open_index
from pipelines.training.train_config import Job, ModelConfig, TrainConfig, build_model
from pipelines.training.train_result import TrainResult, conclude, find_result, summary
from pipelines.training.workers import train_here, train_on_ray

if TYPE_CHECKING:
    from pipelines.registry import RegistryConfig
    from pipelines.registry.live_metrics import MetricsForwarder
_LOG = logging.getLogger(__name__)
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
# Decide on speed and survival only: a run may go on with others.
_FREE = {
    "num_workers", "min_workers", "elastic_check_s", "micro_batch", "compile", "tf32", "activation_checkpointing",
    "cpus_per_worker", "use_gpu", "max_failures", "worker_timeout_s", "keep_checkpoints", "backup_uri", "upload_wait_s",
    "prefetch_batches", "loader", "example_s", "tensorboard", "wandb",
}  # fmt: skip

# Settings that are younger than some keys: their section, their name, and what was there before
_ADDED_LATER = (
    (("learner",), "loss", "l1"),
    (("learner",), "optimizer", "adam"),
    (("learner",), "matrix_learning_rate", 0.02),
    (("learner",), "matrix_momentum", 0.95),
    (("learner", "augment"), "plugins", ()),
)


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
    one goes on from its last checkpoint. With `live` the curve is in MLflow while it grows, and in TensorBoard and
    Weights & Biases where the settings ask for them.
    """
    job = job_of(config, model, chunks, sources=sources, store=store, keep=keep)
    name = key_of(job)
    place = RunPlace(store=storage.absolute(store), name=name)
    if (finished := find_result(place.kept)) is not None:
        if live:
            from pipelines.registry.live_metrics import deliver_rest

            scratch.hold(place.folder)
            deliver_rest(live, place, stopped=finished.stopped)
        with _curve_exports(job, place):  # one that was asked for since
            pass
        _leave(place)
        return finished
    _check(job)
    with disk_errors(place.folder):
        scratch.hold(place.folder).mkdir(parents=True, exist_ok=True)
    datasets = [table.uri for table, _ in job.chunks]
    training_ancestry.write(place.kept, start=model.init_from, datasets=datasets, store=store)
    if config.backup_uri:
        _bring_back(place, config)
    started = time.monotonic()
    with (
        stage(progress, "train", config.steps, "steps") as progress,
        _live_metrics(live, place) as forwarder,
        _curve_exports(job, place),
    ):
        outcome = train_here(job, place, progress) if config.num_workers == 0 else train_on_ray(job, place, progress)
        if "diverged" in outcome:
            raise InputError(
                f"training diverged at step {outcome['diverged']}, after {config.recovery.max_rollbacks} rollbacks: "
                f"{outcome['why']}; use a lower train.learner.learning_rate than {config.learner.learning_rate}, or "
                "train.learner.max_grad_norm=5"
            )
        # The last step was taken all the same where the curve went flat there.
        stopped = str(outcome.get("stopped", "")) if outcome.get("step", config.steps) < config.steps else ""
        result = conclude(place, seconds=time.monotonic() - started, stopped=stopped)
        if forwarder:
            forwarder.stopped = stopped
        progress.finish(summary(result))
    _leave(place)
    return result


def _leave(place: RunPlace) -> None:
    """Remove what a finished training has on this machine, where all of it is in an object store."""
    if place.address:
        scratch.let_go(place.folder)
        scratch.remove(place.folder)


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
class TrainInputs:
    """All that decides on a training besides its settings."""

    preset: str
    options: Mapping[str, Any]
    start: str  # the digest of the weights to begin with; empty for random ones
    sources: tuple[str, ...]
    songs: tuple[tuple[str, float], ...]  # digests of datasets, and how often each is drawn from
    keep: tuple[str, ...] | None


def key_of(job: Job) -> str:
    """The name of the run."""
    inputs = TrainInputs(
        preset=job.model.preset,
        options=job.model.options,
        start=_start_digest(job.model),
        sources=job.sources,
        songs=tuple((chunks.digest, weight) for chunks, weight in job.chunks),
        keep=job.keep,
    )
    return STEP.key(inputs, {**decisive_settings(job.config), **plugin_versions(job.config, job.model)})


def key_settings(
    config: TrainConfig, model: ModelConfig, chunks: Sequence[tuple[ShardSet, float]], *, sources: Sequence[str]
) -> dict[str, Any]:
    """What the name of the run is a digest of, for people to read; what a run may go on with otherwise is not in it."""
    return {
        "corpus": {"sources": list(sources)},
        "model": {"preset": model.preset, "options": model.options},
        "train": decisive_settings(config),
        **plugin_versions(config, model),
        "songs": [{"digest": table.digest, "weight": weight} for table, weight in chunks],
    }


def decisive_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide on the weights; those that came later count where they are set."""
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
    for section, name, before in _ADDED_LATER:
        own = settings
        for part in section:
            own = own[part]
        if own[name] == before:
            del own[name]
    return settings


def plugin_versions(config: TrainConfig, model: ModelConfig) -> dict[str, Any]:
    """The versions of the code of all plug-ins that decide on the weights, as "plugins"; nothing where none does."""
    from models.learning import learner_plugins
    from models.networks import catalog

    network = catalog.plugin_of(catalog.preset_config(model.preset))
    plugins = [*([network] if network else []), *learner_plugins.of_config(config.learner)]
    return {"plugins": [f"{plugin.kind.noun} {plugin.version}" for plugin in plugins]} if plugins else {}


def _bring_back(place: RunPlace, config: TrainConfig) -> None:
    """Begin with the newest whole copy where the run has no whole checkpoint of its own."""
    from pipelines.runs import remote_checkpoints

    remote_checkpoints.check(config.backup_uri, setting="train.backup_uri")
    if place.address:
        return  # what is kept in an object store is not lost with a machine
    if run_folder.find(place.folder).newest is None:
        copies = storage.join(storage.absolute(config.backup_uri), place.name)
        for name, why in remote_checkpoints.fetch_newest(place.folder, copies).passed:
            _LOG.warning("a copy of a checkpoint in %s was passed over: %s: %s", config.backup_uri, name, why)


def _live_metrics(live: "RegistryConfig | None", place: RunPlace) -> "AbstractContextManager[MetricsForwarder | None]":
    """Inside, the curve in the folder is followed and sent to MLflow."""
    if live is None:
        return nullcontext()
    from pipelines.registry import used_registries
    from pipelines.registry.live_metrics import MetricsForwarder

    used_registries.record(place.store)
    return MetricsForwarder(live, place).running()


@contextmanager
def _curve_exports(job: Job, place: RunPlace) -> Iterator[None]:
    """Inside, TensorBoard and Weights & Biases get the curve, where they are asked for."""
    if not job.config.tensorboard and not job.config.wandb:
        yield
        return
    from pipelines.registry import flatten
    from pipelines.runs import curve_export

    settings = flatten(key_settings(job.config, job.model, job.chunks, sources=job.sources))
    with ExitStack() as running:
        for export in curve_export.exports(place, settings, tensorboard=job.config.tensorboard, wandb=job.config.wandb):
            running.enter_context(export.running())
        yield


def _resolved(model: ModelConfig, store: str) -> ModelConfig:
    """With the path of the weights that were named as the start, or an address that all machines of a store read."""
    if not model.init_from:
        return model
    from pipelines import registry

    return replace(model, init_from=stored_model.share(registry.resolve(model.init_from, store=store), store))


def _start_digest(model: ModelConfig) -> str:
    """Of the weights themselves: it does not matter where they lie."""
    from models.weights import model_identity

    return model_identity.describe(stored_model.on_this_machine(model.init_from)).digest if model.init_from else ""


def _check(job: Job) -> None:
    """Find out on the driver, before any worker starts, what can be known to fail."""
    if job.config.wandb:
        from pipelines.runs import curve_export

        curve_export.check_account(job.config.wandb)
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
            "the train split is empty: use a corpus with a train folder, or smaller corpus.valid_fraction and "
            "corpus.test_fraction"
        )
    rates, channels = {song.sample_rate for song in songs}, {song.channels for song in songs}
    if len(rates) > 1 or len(channels) > 1:
        raise InputError(
            f"songs of several sample rates or channel counts cannot be mixed: {sorted(rates)} Hz, {sorted(channels)} "
            "channels"
        )
    from models.networks.bag import interface
    from models.networks.catalog import require_usable

    network = build_model(job)
    require_usable(network)
    wanted = interface(network)
    if wanted.sources != job.sources:
        raise InputError(f"the model separates {list(wanted.sources)}, the songs have {list(job.sources)}")
    if wanted.sample_rate not in rates:
        raise InputError(
            f"the songs have {rates.pop()} Hz, the model wants {wanted.sample_rate} Hz: remove "
            f"model.options.sample_rate, or set ingest.sample_rate={wanted.sample_rate}"
        )
    if wanted.audio_channels not in channels:
        raise InputError(
            f"the songs have {channels.pop()} channels, the model wants {wanted.audio_channels}: remove "
            f"model.options.audio_channels, or set ingest.channels={wanted.audio_channels}"
        )
    num_samples = job.config.learner.augment.input_samples(wanted.segment_samples, wanted.sample_rate)
    open_index(job, wanted.sources, num_samples=num_samples)
