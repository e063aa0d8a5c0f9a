"""Batches for a training worker: its rows of every step, pure functions of seed, step and row, decoded ahead."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from datasets.loading.loader import Loader
from datasets.loading.segment_sampler import SegmentIndex

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.training.train_config import Job


def open_index(job: "Job", sources: Sequence[str], *, num_samples: int = 0) -> SegmentIndex:
    """The train songs of a job; InputError for what can be known to fail, before any worker starts.

    `num_samples` is the length of a row: not every song may be shorter.
    """
    return SegmentIndex.open(
        list(job.chunks),
        sources=sources,
        split="train",
        keep=None if job.keep is None else set(job.keep),
        silence_weight=job.config.silence_weight,
        segment_samples=num_samples,
    )


class Feed:
    """Some rows of the global batch for each step from `start` on, as (step, batch_BSCT).

    `stalled_s` is how long its consumer has waited for them so far.
    """

    def __init__(
        self,
        job: "Job",
        *,
        sources: Sequence[str],
        num_samples: int,
        rows: Sequence[int],
        start: int,
        normalize: bool = False,
    ) -> None:
        self.config, self.rows, self.start = job.config, rows, start
        self.loader = Loader(
            open_index(job, sources, num_samples=num_samples),
            job.config.loader,
            seed=job.config.seed,
            num_samples=num_samples,
            remix_all=job.config.learner.augment.remix_all,
            normalize=normalize,
            threads=job.config.cpus_per_worker,
            prefetch_batches=job.config.prefetch_batches,
        )

    @property
    def stalled_s(self) -> float:
        return self.loader.stalled_s

    def __iter__(self) -> "Iterator[tuple[int, Tensor]]":
        import torch

        steps = range(self.start, self.config.steps)
        # The number of a row counts over the whole run, whoever reads it.
        numbers = ([step * self.config.batch_size + row for row in self.rows] for step in steps)
        for step, batch_BSCT in zip(steps, self.loader.batches(numbers), strict=True):
            yield step, torch.from_numpy(batch_BSCT)
