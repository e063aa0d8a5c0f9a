"""The loop every training worker runs: everything that decides on the weights, and nothing of where it runs.

The global batch of step k is rows 0 to batch_size - 1; each worker takes a consecutive share. Rows and their
augmentation are pure functions of (seed, step, row), so the number of workers changes who computes and nothing else.
`train.py` starts it, on Ray or in its own process; `feed.py` reads batches, `validate.py` chooses among weights,
`trouble.py` decides what to do when it goes wrong, and `resume.py` keeps what another start needs.
"""

import copy
import math
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from datasets.errors import InputError
from datasets.loading.loader import LoaderConfig
from datasets.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability, check_ranges
from datasets.schema import ShardSet
from models.errors import ModelError
from models.learner_config import LearnerConfig
from pipelines.runs import examples, run_folder
from pipelines.training import divergence_recovery
from pipelines.training.divergence_recovery import Decision, TroubleConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.learning.bit_widths import Packing
    from models.learning.learner import StepMetrics
    from pipelines.training.batches import Feed

_LOSSES_KEPT = 500  # points of the curve that a decision may look back on


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which network, by the name of a preset of `models/networks/catalog.py`, and what to change in it."""

    preset: str = "htdemucs"  # which network, by the name of a preset of models/catalog.py
    # What to change in it: fields of its configuration, such as model.options.segment_s=12.2
    options: dict[str, Any] = field(default_factory=dict)
    start: str = ""  # weights to begin with: a checkpoint, a file, or models:/NAME@ALIAS; random ones where empty
    fine_tune: bool = False  # the recipe changes trained weights: without `start` it is refused

    def check(self) -> None:
        """InputError where no such network can be built, or a fine-tuning has nothing to begin with.

        Asked before any step of the road: songs are not ingested for hours for a model that cannot be.
        """
        import torch

        from models.networks.catalog import build

        try:
            with torch.device("meta"):
                build(self.preset, **self.options)
        except ModelError as error:
            about = str(error)
            named = about.split(" ")[0].split("=")[0] in self.options
            raise InputError(f"model.options.{about}" if named else f"model.preset={self.preset}: {about}") from error
        if self.fine_tune and not self.start:
            raise InputError(
                "model.start must name the weights to fine-tune (model.fine_tune is true), got none; for example "
                "model.start=models:/stemline@champion, or model.start=FOLDER of a checkpoint"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How long, on how much, and by whom."""

    steps: PositiveInt = 288_000  # optimization steps of the whole training
    batch_size: PositiveInt = 32  # rows of the global batch, shared by the workers; a row is one segment of the model
    seed: NonNegativeInt = 0  # seed of first weights, rows, augmentation and dropout
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    trouble: TroubleConfig = field(default_factory=TroubleConfig)
    checkpoint_every: PositiveInt = 800  # steps; each checkpoint validates too
    log_every: PositiveInt = 10  # steps averaged into one point of the loss curve
    # Songs from all over the valid split that choose the best weights; 0: none, the last weights win
    valid_songs: NonNegativeInt = 16
    valid_s: NonNegativeFloat = 30.0  # how much of each of them is scored, from its middle; 0 takes the whole song
    # How much of the first of them is kept as FLAC with what better weights make of it; 0: none
    example_s: NonNegativeFloat = 4.0
    num_workers: NonNegativeInt = 2  # 0 trains in the calling process, without Ray
    min_workers: NonNegativeInt = 0  # go on with as few when machines are lost, and take more again; 0: num_workers
    elastic_look_s: PositiveFloat = 60.0  # time between two looks whether there are machines for more workers
    micro_batch: NonNegativeInt = 0  # rows that a worker computes at once, where memory is short; 0: all of its share
    cpus_per_worker: PositiveInt = 1  # CPUs that Ray sets aside for each worker
    use_gpu: bool = False  # one GPU per worker
    max_failures: NonNegativeInt = 3  # how often workers are started again before the training gives up
    hang_s: PositiveFloat = 900.0  # how long one worker may keep the others waiting before all are started again
    keep_checkpoints: PositiveInt = 2  # newest checkpoints that stay on the disk
    copy_to: str = ""  # a folder or s3://BUCKET/FOLDER for a copy of each checkpoint, in case the run's folder is lost
    prefetch_batches: NonNegativeInt = 2  # batches that each worker decodes ahead
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    # Weight of the time in which sources are silent, when segments are drawn; 1 draws evenly
    silence_weight: Probability = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="train.")
        if self.min_workers > self.num_workers:
            raise InputError(
                f"train.min_workers must be <= train.num_workers ({self.num_workers}), got {self.min_workers}"
            )
        self._check_groups()

    def _check_groups(self) -> None:
        workers, group = max(1, self.num_workers), self.row_group
        if self.batch_size % group:
            raise InputError(
                f"train.batch_size={self.batch_size} is no whole number of groups of {group} rows, which are remixed "
                f"or judged together; {-(-self.batch_size // group) * group} would do, or a smaller "
                "train.learner.augment.remix_group or robust_group"
            )
        if self.batch_size // group < workers:
            raise InputError(
                f"train.batch_size={self.batch_size} does not divide among train.num_workers={workers}, each of which "
                f"takes at least {group}; {workers * group} would do, or train.num_workers={self.batch_size // group}"
            )
        if self.learner.robust_drop and self.micro_batch % self.learner.robust_group:
            raise InputError(
                f"train.micro_batch={self.micro_batch} splits groups of train.learner.robust_group="
                f"{self.learner.robust_group} rows; a multiple of that would do"
            )

    @property
    def row_group(self) -> int:
        """Rows of the global batch that stay with one worker."""
        augment = self.learner.augment
        remixed = augment.remix_group if augment.remix_probability or augment.mixup_probability else 1
        return math.lcm(remixed, self.learner.robust_group if self.learner.robust_drop else 1)

    def rows_of(self, rank: int, world_size: int) -> range:
        """A worker's share of the global batch: whole groups, as evenly as they go."""
        groups = self.batch_size // self.row_group
        first, last = (groups * place // world_size for place in (rank, rank + 1))
        return range(first * self.row_group, last * self.row_group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker needs to know, as values."""

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
    folder: Path  # of the run, seen by all workers

    def prepare(self, model: "nn.Module") -> "nn.Module":
        """The model on its device, its gradients averaged over the workers."""

    def tell(self, step: int, text: str) -> None:
        """How far the training is, for whoever watches."""

    def show(self, figures: Mapping[str, float]) -> None:
        """Finite figures for monitoring, by name; those of the first worker."""


def train(job: Job, session: Session) -> dict[str, Any]:
    """Train to the last step, from the last whole checkpoint if there is one; says where it stopped and why."""
    while True:
        run = _Run(job, session)
        with run.writer:
            decision = run.go()
        if decision.do != "rollback":
            return {"step": run.step, "stopped": decision.why}
        if run.rollbacks >= job.config.trouble.max_rollbacks:
            return {"diverged": run.step, "why": decision.why}
        run.record("rollback", decision.why)
        del run  # before the next takes a device's memory


def build_model(job: Job) -> "nn.Module":
    """The network of the job, for the sources, rate and channels of the songs unless the options say otherwise."""
    from datasets.shards.manifests import read_songs
    from models.learning import start
    from models.networks.catalog import build
    from models.weights import checkpoint

    songs = read_songs(job.chunks[0][0])
    described = {
        "sources": job.sources,
        "sample_rate": songs[0].sample_rate,
        "audio_channels": songs[0].channels,
    }
    network = build(job.model.preset, **(described | job.model.options))
    if job.model.start:
        start.begin(network, checkpoint.load_model(job.model.start), origin=f"model.start={job.model.start}")
    return network


class _Run:
    """One worker's training from the newest checkpoint on, until it ends or is to be taken back."""

    def __init__(self, job: Job, session: Session) -> None:
        import torch

        from models.inference.separate import layout
        from models.learning.learner import Learner

        config = job.config
        torch.manual_seed(config.seed)  # the same first weights on every worker
        self.job, self.session = job, session
        self.network = build_model(job)
        self.layout = layout(self.network)
        self.learner = Learner(
            session.prepare(self.network),
            config.learner,
            device=session.device,
            sample_rate=self.layout.sample_rate,
            total_steps=config.steps,
            seed=config.seed,
            rows_at_once=config.micro_batch,
            normalized=True,  # by the feed, which knows the whole songs
        )
        self.rows = config.rows_of(session.rank, session.world_size)
        self.share = len(self.rows) * session.world_size / config.batch_size
        names = (run_folder.HISTORY, run_folder.EVENTS, run_folder.SPEED)
        self.history, self.events, self.speed = (run_folder.Lines(session.folder / name) for name in names)
        self.writer = run_folder.Writer(session.folder, keep=config.keep_checkpoints, copy=self._copier())
        self.step = 0  # steps done
        self.rollbacks = 0
        self.unread: list[StepMetrics] = []
        self.skipped_in_a_row = 0
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.best: nn.Module | None = None
        self.best_info: dict[str, Any] = {}
        self.best_packing: Packing | None = None

    def go(self) -> Decision:
        """Train until the last step or a decision."""
        import torch

        config, session = self.job.config, self.session
        self._restore()
        if self.scores and (decision := divergence_recovery.after_score(config.trouble, self.scores)).do == "stop":
            return decision
        self.feed = self._open_feed()
        self.clock = (time.monotonic(), 0.0)  # when, and stalled until then
        for step, batch_BSCT in self.feed:
            # Dropout draws from torch's global generator: seeded by step, a resumed run drops what it would have.
            torch.manual_seed(config.seed * 1_000_003 + step * session.world_size + session.rank)
            self.learner.rate_factor = divergence_recovery.rate_factor(
                config.trouble, rollbacks=self.rollbacks, scores=self.scores
            )
            decision = self._note(self.learner.step(batch_BSCT, step=step, rows=self.rows, share=self.share))
            if decision.do == "go" and (self.step % config.checkpoint_every == 0 or self.step == config.steps):
                decision = self._commit()
            if decision.do != "go":
                return decision
        return divergence_recovery.GO

    def _copier(self) -> Callable[[int], None] | None:
        from pipelines.runs import checkpoint_backup

        config, folder = self.job.config, self.session.folder
        if not config.copy_to:
            return None
        return lambda step: checkpoint_backup.put(folder, step, config.copy_to, keep=config.keep_checkpoints)

    def _open_feed(self) -> "Feed":
        from pipelines.training.batches import Feed

        layout, augment = self.layout, self.job.config.learner.augment
        num_samples = augment.input_samples(layout.segment_samples, layout.sample_rate)
        return Feed(
            self.job,
            sources=layout.sources,
            num_samples=num_samples,
            rows=self.rows,
            start=self.step,
            normalize=layout.normalize == "track",
        )

    def record(self, what: str, why: str) -> None:
        """Write down what was done, and tell it."""
        if self.session.rank == 0:
            self.events.append({"step": self.step, "did": what, "why": why})
            self.session.tell(self.step, f"{what}: {why}")

    def _restore(self) -> None:
        """Take up the newest whole checkpoint, which the first worker finds for all."""
        from models.weights import checkpoint

        if self.session.rank == 0:
            found = run_folder.find(self.session.folder)
            run_folder.tidy(self.session.folder, found)
            examples.forget_after(self.session.folder, found.step)
            self.step = found.step
            for path, why in found.damaged:
                self.record("passed over a damaged checkpoint", f"{path.name}: {why}")
            self.rollbacks = sum(event["did"] == "rollback" for event in self.events.read())
        self.step, self.rollbacks = self._as_first_worker(self.step, self.rollbacks)
        if not self.step:
            return
        folder = self.session.folder / run_folder.checkpoint_name(self.step)
        current = checkpoint.load_model(folder / run_folder.CURRENT)
        checkpoint.load_state(self.network, current.state_dict(), origin=str(folder))
        self.learner.load_state(checkpoint.load_learner(folder / run_folder.CURRENT))
        extra = checkpoint.read_config(folder / run_folder.CURRENT)["extra"]
        self.losses, self.scores = list(extra["losses"]), list(extra["scores"])
        self.skipped_in_a_row = int(extra["skipped_in_a_row"])
        self.best = checkpoint.load_model(folder / run_folder.BEST)
        self.best_packing = checkpoint.load_packing(folder / run_folder.BEST)
        self.best_info = checkpoint.read_config(folder / run_folder.BEST)["extra"]

    def _as_first_worker(self, *numbers: int) -> list[int]:
        import torch
        import torch.distributed

        values = torch.tensor(numbers, device=self.session.device)
        if self.session.world_size > 1:
            torch.distributed.broadcast(values, 0)
        return [int(value) for value in values.tolist()]

    def _note(self, metrics: "StepMetrics") -> Decision:
        """Take in a step; every `log_every` of them become a point of the loss curve."""
        self.step += 1
        self.unread.append(metrics)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if metrics.skipped else 0
        decision = divergence_recovery.after_steps(self.job.config.trouble, skipped_in_a_row=self.skipped_in_a_row)
        if decision.do == "go" and len(self.unread) >= self.job.config.log_every:
            decision = self._point()
        return decision

    def _point(self) -> Decision:
        """Average the steps since the last point over themselves and the workers, skipped ones left out."""
        import torch

        steps, self.unread = self.unread, []
        if not steps:
            return divergence_recovery.GO
        good = [seen for seen in steps if not seen.skipped]
        rows = [torch.cat([seen.loss[None], seen.per_source, seen.grad_norm[None]]) for seen in good]
        mean = torch.stack(rows).mean(dim=0) if rows else torch.full((len(self.layout.sources) + 2,), math.nan)
        values = self._mean_over_workers(mean.to(self.session.device)).tolist()
        point = {"step": self.step, "loss": values[0], "grad_norm": values[-1]}
        point["learning_rate"] = steps[-1].learning_rate
        point |= {f"loss_{source}": loss for source, loss in zip(self.layout.sources, values[1:-1], strict=True)}
        if (size_mib := steps[-1].size_mib) is not None:
            point["size_mib"] = size_mib.item()
        if len(good) < len(steps):
            point["skipped"] = len(steps) - len(good)
        self._write(point)
        self.losses = [*self.losses, values[0]][-_LOSSES_KEPT:]
        self._clock(len(steps))
        self.session.tell(self.step, f"loss {values[0]:.4f}")
        return divergence_recovery.after_point(self.job.config.trouble, self.losses)

    def _write(self, point: dict[str, float]) -> None:
        """One line of the curve; what is no number, since JSON has none for it, is left out."""
        if self.session.rank == 0:
            known = {name: value for name, value in point.items() if math.isfinite(value)}
            self.history.append(known)
            self.session.show(known)

    def _clock(self, num_steps: int) -> None:
        """One line on speed; apart from the curve, which a kill leaves as it would have been."""
        import torch

        if self.session.rank:
            return
        now, stalled_s = time.monotonic(), self.feed.stalled_s
        seconds = max(now - self.clock[0], 1e-9)
        row = {
            "step": self.step,
            "workers": self.session.world_size,
            "rows_per_s": num_steps * self.job.config.batch_size / seconds,
            "stall": (stalled_s - self.clock[1]) / seconds,
        }
        row["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if self.session.device.type == "cuda":
            row["memory_gib"] = torch.cuda.max_memory_allocated(self.session.device) / 2**30
            with suppress(ModuleNotFoundError, RuntimeError):  # pynvml, or a driver that will not say
                row["gpu"] = torch.cuda.utilization(self.session.device) / 100
        self.speed.append(row)
        self.session.show(row)
        self.clock = (now, stalled_s)

    def _mean_over_workers(self, values: "Tensor") -> "Tensor":
        """By the rows that each had."""
        import torch.distributed

        if self.session.world_size > 1:
            values = values * self.share
            torch.distributed.all_reduce(values)
        return values / self.session.world_size

    def _commit(self) -> Decision:
        """Validate, decide, and begin to write a checkpoint of everything that matters."""
        from models.weights import checkpoint

        if (decision := self._point()).do != "go":
            return decision
        began_s = time.monotonic()
        decision = self._validate()
        self.clock = (self.clock[0] + time.monotonic() - began_s, self.clock[1])  # it is no time of training
        if decision.do == "rollback":
            return decision
        if self.session.rank == 0:
            assert self.best is not None
            model, learner = copy.deepcopy(self.network).cpu(), _frozen(self.learner.state())
            best, best_info, best_packing = self.best, dict(self.best_info), self.best_packing
            extra = {
                "step": self.step,
                "losses": self.losses,
                "scores": list(self.scores),
                "skipped_in_a_row": self.skipped_in_a_row,
            }

            def fill(folder: Path) -> None:
                checkpoint.save(folder / run_folder.CURRENT, model, learner=learner, extra=extra)
                checkpoint.save(folder / run_folder.BEST, best, extra=best_info, packing=best_packing)

            self.writer.wait()
            if self.writer.complaint:
                self.record("went on without a copy of a checkpoint", self.writer.complaint)
            self.writer.submit(self.step, fill)
        return decision

    def _validate(self) -> Decision:
        """Score the present weights and their averages, and remember the best seen so far.

        Without songs on the valid side the best of now is remembered, whatever was before: they are scored on songs
        that they saw. Without any songs to score it is the present weights.
        """
        from pipelines.training import validate

        material = validate.material(self.job)
        if not material.parts:
            self._remember("raw", None)
            return divergence_recovery.GO
        example_s = self.job.config.example_s if material.held_out else 0.0
        scored = validate.candidates(self.learner, material.parts, self.session, example_s=example_s)
        scores = {name: found.nsdr for name, found in scored.items()}
        name = max(scores, key=lambda key: scores[key] if math.isfinite(scores[key]) else -math.inf)
        side = "valid" if material.held_out else "train"
        point = {f"{side}_nsdr_{key}": score for key, score in scores.items()} | {f"{side}_nsdr": scores[name]}
        self._write({"step": self.step, **point})
        self.session.tell(self.step, f"{side} nSDR {scores[name]:.2f} dB")
        self.scores.append(scores[name])
        decision = divergence_recovery.after_score(self.job.config.trouble, self.scores)
        better = self.best is None or not material.held_out or scores[name] > self.best_info["nsdr"]
        if decision.do != "rollback" and better:
            self._remember(name, scores[name] if material.held_out else None)
            example = scored[name].example
            if example is not None and examples.due(self.session.folder, self.step):
                examples.write(self.session.folder, self.step, example)
        return decision

    def _remember(self, name: str, nsdr: float | None) -> None:
        """Keep a copy of the present weights or of an average, as it will be stored."""
        averages = {average.name: average for average in self.learner.averages}
        with averages[name].swap(self.network) if name in averages else nullcontext(), self.learner.as_stored():
            self.best = copy.deepcopy(self.network).cpu()
        self.best_info = {"step": self.step, "weights": name, "nsdr": nsdr}
        self.best_packing = self.learner.packing()


def _frozen(value: Any) -> Any:
    """A copy, on the CPU, of a state of tensors and numbers, which training goes on to change."""
    import torch

    match value:
        case torch.Tensor():
            return value.detach().to("cpu", copy=True)
        case dict():
            return {key: _frozen(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_frozen(item) for item in value)
    return value
