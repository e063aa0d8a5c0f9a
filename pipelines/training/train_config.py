"""What is trained, for how long and by whom: what the driver, the loop, its batches and its validation share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from datasets.errors import InputError
from datasets.field_constraints import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    check_ranges,
)
from datasets.loading.loader import LoaderConfig
from datasets.schema import ShardSet
from models.errors import ModelError
from models.learner_config import COMPILE_MODES, TF32_MODES, LearnerConfig
from pipelines.runs.run_place import RunPlace
from pipelines.runs.stored_model import on_this_machine
from pipelines.training.divergence_recovery import RecoveryConfig

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which network, by the name of a preset of `models/networks/catalog.py`, and what to change in it."""

    preset: str = "htdemucs"  # which network, by the name of a preset of models/networks/catalog.py
    # What to change in it: fields of its configuration, such as model.options.segment_s=12.2
    options: dict[str, Any] = field(default_factory=dict)
    init_from: str = ""  # weights to begin with: a checkpoint, a file, or models:/NAME@ALIAS; random ones where empty
    fine_tune: bool = False  # the recipe changes trained weights: without `start` it is refused

    def check(self) -> None:
        """InputError where no such network can be built, or a fine-tuning has nothing to begin with.

        Checked before any step of a run: songs are not ingested for hours for a model that cannot be built.
        """
        self.check_network()
        if self.fine_tune and not self.init_from:
            raise InputError(
                "model.init_from must name the weights to fine-tune (model.fine_tune is true), got none; for example "
                "model.init_from=models:/stemline@champion, or model.init_from=FOLDER of a checkpoint"
            )

    def check_network(self) -> None:
        """InputError where there is no such network, or where it takes no such option or value."""
        import torch

        from models.networks.catalog import build

        try:
            with torch.device("meta"):
                build(self.preset, **self.options)
        except ModelError as error:
            message = str(error)
            is_option = message.split(" ")[0].split("=")[0] in self.options
            raise InputError(
                f"model.options.{message}" if is_option else f"model.preset={self.preset}: {message}"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How long, on how much, and on which workers."""

    steps: PositiveInt = 288_000  # optimization steps of the whole training
    batch_size: PositiveInt = 32  # rows of the global batch, shared by the workers; a row is one segment of the model
    seed: NonNegativeInt = 0  # seed of first weights, rows, augmentation and dropout
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    checkpoint_every: PositiveInt = 800  # steps; each checkpoint validates too
    log_every: PositiveInt = 10  # steps averaged into one point of the loss curve
    # Songs from all over the valid split that choose the best weights; 0: none, the last weights win
    valid_songs: NonNegativeInt = 16
    valid_s: NonNegativeFloat = 30.0  # how much of each of them is scored, from its middle; 0 takes the whole song
    # How much of the first of them is kept as FLAC with what better weights make of it; 0: none
    example_s: NonNegativeFloat = 4.0
    num_workers: NonNegativeInt = 2  # 0 trains in the calling process, without Ray
    min_workers: NonNegativeInt = 0  # go on with as few when machines are lost, and take more again; 0: num_workers
    elastic_check_s: PositiveFloat = 60.0  # time between two looks whether there are machines for more workers
    micro_batch: NonNegativeInt = 0  # rows that a worker computes at once, where memory is short; 0: all of its share
    # "off", "on" or "reduce-overhead" (CUDA graphs): torch's compiler, left out where it computes anything else
    compile: str = "off"
    # float32 products of GPUs in TF32: "off", "convolutions" (as in published trainings) or "on" for all of them
    tf32: str = "convolutions"
    # Compute activations again for the gradients instead of keeping them: less memory, more time
    activation_checkpointing: bool = False
    cpus_per_worker: PositiveInt = 1  # CPUs that Ray sets aside for each worker
    use_gpu: bool = False  # one GPU per worker
    max_failures: NonNegativeInt = 3  # how often workers are started again before the training gives up
    # How long one worker may keep the others waiting before all are started again
    worker_timeout_s: PositiveFloat = 900.0
    keep_checkpoints: PositiveInt = 2  # newest checkpoints that stay on the disk
    # A folder or s3://BUCKET/FOLDER for a copy of each checkpoint, in case the run's folder is lost
    backup_uri: str = ""
    # A folder in which the curve is kept for TensorBoard too, in one of the run's name; empty: none
    tensorboard: str = ""
    wandb: str = ""  # a project of Weights & Biases that the curve goes to as well, by WANDB_API_KEY; empty: none
    # How long training waits at a checkpoint for the upload of the one before, where checkpoints go to an address; then
    # it goes on, and the newest is uploaded once that is done
    upload_wait_s: NonNegativeFloat = 60.0
    prefetch_batches: NonNegativeInt = 2  # batches that each worker decodes ahead
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    # Weight of the time in which sources are silent, when segments are drawn; 1 draws evenly
    silence_weight: Probability = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="train.")
        for name, modes in (("compile", COMPILE_MODES), ("tf32", TF32_MODES)):
            if getattr(self, name) not in modes:
                raise InputError(f"train.{name} must be one of {', '.join(modes)}, got {getattr(self, name)!r}")
        if self.activation_checkpointing and self.compile != "off":
            raise InputError(
                f"train.activation_checkpointing=true needs train.compile=off, got {self.compile!r}: the compiler "
                "chooses by itself what it computes again"
            )
        if self.min_workers > self.num_workers:
            raise InputError(
                f"train.min_workers must be <= train.num_workers ({self.num_workers}), got {self.min_workers}"
            )
        self._check_groups()

    def _check_groups(self) -> None:
        workers, group = max(1, self.num_workers), self.row_group
        if self.batch_size % group:
            raise InputError(
                f"train.batch_size must be divisible by {group}, the rows that are remixed or compared together, got "
                f"{self.batch_size}; use {-(-self.batch_size // group) * group}, or a smaller "
                "train.learner.augment.remix_group or trim_loss_group"
            )
        if self.batch_size // group < workers:
            raise InputError(
                f"train.batch_size must be >= {workers * group}, {group} rows for each of train.num_workers={workers}, "
                f"got {self.batch_size}; or use train.num_workers={self.batch_size // group}"
            )
        if self.learner.trim_loss_drop and self.micro_batch % self.learner.trim_loss_group:
            raise InputError(
                f"train.micro_batch must be divisible by train.learner.trim_loss_group={self.learner.trim_loss_group}, "
                f"got {self.micro_batch}"
            )

    @property
    def row_group(self) -> int:
        """Rows of the global batch that stay with one worker."""
        augment = self.learner.augment
        remixed = augment.remix_group if augment.remix_probability or augment.mixup_probability else 1
        return math.lcm(remixed, self.learner.compared_rows)

    def rows_of(self, rank: int, world_size: int) -> range:
        """A worker's share of the global batch: whole groups, as evenly as they go."""
        groups = self.batch_size // self.row_group
        first, last = (groups * place // world_size for place in (rank, rank + 1))
        return range(first * self.row_group, last * self.row_group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker needs, as values."""

    config: TrainConfig
    model: ModelConfig
    sources: tuple[str, ...]  # of the songs; the model separates them in this order
    chunks: tuple[tuple[ShardSet, float], ...]  # tables of chunks and how often each is drawn from
    keep: tuple[str, ...] | None  # track ids; None keeps all


class Session(Protocol):
    """What the loop asks of whoever runs it."""

    rank: int
    world_size: int
    device: "torch.device"
    folder: Path  # of the run, on this machine
    place: RunPlace

    def prepare(self, model: "nn.Module") -> "nn.Module":
        """The model on its device, its gradients averaged over the workers."""

    def report_progress(self, step: int, text: str) -> None:
        """How far the training is, for the driver."""

    def report_metrics(self, metrics: Mapping[str, float]) -> None:
        """Finite values for monitoring, by name; those of the first worker."""


def build_model(job: Job) -> "nn.Module":
    """The network of the job, for the sources, rate and channels of the songs unless the options say otherwise."""
    from datasets.shards.manifests import read_songs
    from models.learning import warm_start
    from models.networks.catalog import build
    from models.weights.loading import load_model

    songs = read_songs(job.chunks[0][0])
    described = {
        "sources": job.sources,
        "sample_rate": songs[0].sample_rate,
        "audio_channels": songs[0].channels,
    }
    network = build(job.model.preset, **(described | job.model.options))
    if job.model.init_from:
        warm_start.begin(
            network, load_model(on_this_machine(job.model.init_from)), origin=f"model.init_from={job.model.init_from}"
        )
    return network
