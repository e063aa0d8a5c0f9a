"""The loop every training worker runs: everything that decides on the weights, and nothing of where it runs.

The global batch of step k is rows 0 to batch_size - 1; each worker takes an equal, consecutive share. Rows and their
augmentation are pure functions of (seed, step, row), so the number of workers changes who computes and nothing else.
`train.py` starts it, on Ray or in its own process.
"""

import copy
import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from datasets.errors import InputError
from datasets.schema import ShardSet
from models.recipe import LearnerConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from datasets.shards import Song
    from models.learner import Learner, StepMetrics
    from models.quantize import Packing

CURRENT, BEST, HISTORY = "current", "best", "history.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which network, by the name of a preset of `models/catalog.py`, and what to change in it."""

    preset: str = "htdemucs"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How long, on how much, and by whom."""

    steps: int = 288_000
    batch_size: int = 32  # rows of the global batch, shared by the workers; a row is one segment of the model
    seed: int = 0
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    checkpoint_every: int = 800  # steps; each checkpoint validates too
    log_every: int = 10  # steps averaged into one point of the loss curve
    valid_songs: int = 16  # of the valid split, the first by id; 0 validates nothing
    valid_s: float = 30.0  # from the middle of each; 0 takes the whole song
    num_workers: int = 2  # 0 trains in the calling process, without Ray
    cpus_per_worker: int = 1
    use_gpu: bool = False  # one GPU per worker
    max_failures: int = 3  # restarts of the workers before giving up
    keep_checkpoints: int = 2
    prefetch_batches: int = 2  # decoded ahead by a thread of each worker

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "log_every", "cpus_per_worker", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name}={getattr(self, name)}; 1 or more would do")
        for name in ("num_workers", "max_failures", "prefetch_batches", "valid_songs", "valid_s"):
            if getattr(self, name) < 0:
                raise InputError(f"train.{name}={getattr(self, name)}; 0 or more would do")
        workers, group = max(1, self.num_workers), self.learner.augment.remix_group
        if self.batch_size % workers:
            raise InputError(
                f"train.batch_size={self.batch_size} does not divide among train.num_workers={workers}; "
                f"{-(-self.batch_size // workers) * workers} would do"
            )
        if self.learner.augment.remix_probability and self.batch_size // workers % group:
            raise InputError(
                f"each worker's {self.batch_size // workers} rows are no whole number of remix groups of {group}; "
                f"train.batch_size={workers * group} or train.learner.augment.remix_group=1 would do"
            )


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

    def prepare(self, model: "nn.Module") -> "nn.Module":
        """The model on its device, its gradients averaged over the workers."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """The folder of the last committed checkpoint, while the context lasts."""

    def commit(self, step: int, metrics: Mapping[str, Any]) -> AbstractContextManager[Path | None]:
        """A folder to write a checkpoint into, kept when the context ends; None for all ranks but the first."""

    def tell(self, step: int, text: str) -> None:
        """How far the training is, for whoever watches."""


def train(job: Job, session: Session) -> dict[str, Any]:
    """Train to the last step, from the last checkpoint if there is one; says where it stopped and why."""
    import torch

    from models.learner import Learner
    from models.separate import layout

    config = job.config
    torch.manual_seed(config.seed)  # the same first weights on every worker
    network = build_model(job)
    learner = Learner(
        session.prepare(network),
        config.learner,
        device=session.device,
        sample_rate=layout(network).sample_rate,
        total_steps=config.steps,
        seed=config.seed,
    )
    run = _Run(job, session, learner)
    start = run.restore()
    for step, batch_BSCT in run.batches(start):
        # Dropout draws from torch's global generator: seeded by step, a resumed run drops what it would have dropped.
        torch.manual_seed(config.seed * 1_000_003 + step * session.world_size + session.rank)
        run.note(step, learner.step(batch_BSCT, step=step, rows=run.rows))
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            run.commit(step + 1)
        if not run.finite:
            return {"diverged": step + 1}
    return {"step": config.steps}


def build_model(job: Job) -> "nn.Module":
    """The network of the job, for the sources, rate and channels of the songs unless the options say otherwise."""
    from datasets.shards import read_songs
    from models.catalog import build

    songs = read_songs(job.chunks[0][0])
    described = {
        "sources": job.sources,
        "sample_rate": songs[0].sample_rate,
        "audio_channels": songs[0].channels,
    }
    return build(job.model.preset, **(described | job.model.options))


class _Run:
    """The state of one worker's training beside the learner: data, loss curve, best weights so far."""

    def __init__(self, job: Job, session: Session, learner: "Learner") -> None:
        from models.learner import unwrap
        from models.separate import layout

        self.job, self.session, self.learner = job, session, learner
        self.network = unwrap(learner.model)
        self.layout = layout(self.network)
        share = job.config.batch_size // session.world_size
        self.rows = range(session.rank * share, (session.rank + 1) * share)
        self.history: list[dict[str, float]] = []
        self.unread: list[StepMetrics] = []
        self.finite = True
        self.best: nn.Module | None = None
        self.best_info: dict[str, Any] = {}
        self.best_packing: Packing | None = None

    def restore(self) -> int:
        """Take up the last checkpoint; the number of steps done."""
        from models import checkpoint

        with self.session.latest() as folder:
            if folder is None:
                return 0
            current = checkpoint.load_model(folder / CURRENT)
            checkpoint.load_state(self.network, current.state_dict(), origin=str(folder))
            self.learner.load_state(checkpoint.load_learner(folder / CURRENT))
            self.history = json.loads((folder / HISTORY).read_text())
            self.best = checkpoint.load_model(folder / BEST)
            self.best_packing = checkpoint.load_packing(folder / BEST)
            self.best_info = checkpoint.read_config(folder / BEST)["extra"]
            return int(checkpoint.read_config(folder / CURRENT)["extra"]["step"])

    def batches(self, start: int) -> "Iterator[tuple[int, Tensor]]":
        """This worker's rows of every step from `start` on, decoded ahead by a thread."""
        import torch

        from datasets.segments import SegmentIndex, batch

        config = self.job.config
        index = SegmentIndex.open(
            list(self.job.chunks),
            sources=self.layout.sources,
            split="train",
            keep=None if self.job.keep is None else set(self.job.keep),
        )
        num_samples = self.layout.segment_samples + self.learner.shift_samples

        def load(step: int) -> "Tensor":
            rows_BSCT = batch(index, seed=config.seed, step=step, rows=self.rows, num_samples=num_samples)
            return torch.from_numpy(rows_BSCT)

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as pool:
            ahead: deque[Future[Tensor]] = deque()
            for step in range(start, config.steps):
                wanted = range(step + len(ahead), min(config.steps, step + 1 + config.prefetch_batches))
                ahead.extend(pool.submit(load, later) for later in wanted)
                yield step, ahead.popleft().result()

    def note(self, step: int, metrics: "StepMetrics") -> None:
        """Remember a step; every `log_every` of them become a point of the loss curve."""
        self.unread.append(metrics)
        if len(self.unread) >= self.job.config.log_every:
            self._read(step + 1)

    def commit(self, step: int) -> None:
        """Validate and keep a checkpoint of everything that matters."""
        from models import checkpoint

        self._read(step)
        if not self.finite:
            return
        scores = self._validate(step)
        with self.session.commit(step, {"step": step, **scores}) as folder:
            if folder is None:
                return
            checkpoint.save(folder / CURRENT, self.network, learner=self.learner.state(), extra={"step": step})
            assert self.best is not None
            checkpoint.save(folder / BEST, self.best, extra=self.best_info, packing=self.best_packing)
            (folder / HISTORY).write_text(json.dumps(self.history))

    def _read(self, step: int) -> None:
        """Average the steps since the last point over themselves and the workers."""
        import torch

        if not self.unread:
            return
        rows = [torch.cat([seen.loss[None], seen.per_source, seen.grad_norm[None]]) for seen in self.unread]
        mean = self._mean_over_workers(torch.stack(rows).mean(dim=0)).tolist()
        point = {"step": step, "loss": mean[0], "grad_norm": mean[-1], "learning_rate": self.unread[-1].learning_rate}
        point |= {f"loss_{source}": loss for source, loss in zip(self.layout.sources, mean[1:-1], strict=True)}
        if (size_mib := self.unread[-1].size_mib) is not None:
            point["size_mib"] = size_mib.item()
        self.unread = []
        self.finite = all(math.isfinite(value) for value in mean)
        self.history.append(point)
        self.session.tell(step, f"loss {mean[0]:.4f}")

    def _mean_over_workers(self, values: "Tensor") -> "Tensor":
        import torch.distributed

        if self.session.world_size > 1:
            torch.distributed.all_reduce(values)
        return values / self.session.world_size

    def _validate(self, step: int) -> dict[str, Any]:
        """Score the present weights and their averages, and remember the best seen so far."""
        songs = self._valid_songs()
        candidates = {f"ema-{average.decay}": average.swap(self.network) for average in self.learner.averages}
        if not songs:
            # Nothing to choose by: the fastest average, listed first, or else the weights as they are.
            name = next(iter(candidates), "raw")
            with candidates.get(name, nullcontext()), self.learner.as_stored():
                self._remember(step, name, None)
            return {}
        scores = {}
        for name in ("raw", *candidates):
            with candidates.get(name, nullcontext()), self.learner.as_stored():
                scores[name] = self._score(songs)
                if self.best is None or scores[name] > self.best_info["nsdr"]:
                    self._remember(step, name, scores[name])
        self.history[-1] |= {f"valid_nsdr_{name}": nsdr for name, nsdr in scores.items()}
        self.history[-1]["valid_nsdr"] = max(scores.values())
        self.session.tell(step, f"valid nSDR {max(scores.values()):.2f} dB")
        return {"valid_nsdr": max(scores.values())}

    def _remember(self, step: int, name: str, nsdr: float | None) -> None:
        self.best = copy.deepcopy(self.network).cpu()
        self.best_info = {"step": step, "weights": name, "nsdr": nsdr}
        self.best_packing = self.learner.packing()

    def _valid_songs(self) -> "list[tuple[Song, int, int]]":
        """Songs of the valid split with the part to score of each, as first sample and number of samples."""
        from datasets.shards import read_songs

        config, keep = self.job.config, self.job.keep
        songs = {
            song.track_id: song
            for chunks, _ in self.job.chunks
            for song in read_songs(chunks)
            if song.split == "valid" and (keep is None or song.track_id in keep)
        }
        parts = []
        for track_id in sorted(songs)[: config.valid_songs]:
            song = songs[track_id]
            asked = round(config.valid_s * song.sample_rate) or song.num_samples
            num_samples = min(asked, song.num_samples)
            parts.append((song, (song.num_samples - num_samples) // 2, num_samples))
        return parts

    def _score(self, songs: "Sequence[tuple[Song, int, int]]") -> float:
        """Mean nSDR over songs and sources, without the shift trick: the same weights always score the same."""
        import torch

        from datasets.shards import read_song
        from models.metrics import nsdr
        from models.separate import separate

        total = torch.zeros((), dtype=torch.float64)
        for song, start, num_samples in songs[self.session.rank :: self.session.world_size]:
            stems = read_song(song, sources=self.layout.sources, start=start, num_samples=num_samples)
            stems_SCT = torch.from_numpy(stems)
            estimates_SCT = separate(self.network, stems_SCT.sum(dim=0), device=self.session.device)
            total += nsdr(stems_SCT, estimates_SCT).mean()
        total = self._mean_over_workers(total.to(self.session.device)) * self.session.world_size
        return total.item() / len(songs)
