"""Batches for a training worker, decoded ahead: its rows of every step, as pure functions of seed, step and row."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from datasets.segments import SegmentIndex, batch

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.train_loop import Job


def open_index(job: "Job", sources: Sequence[str]) -> SegmentIndex:
    """The train songs of a job; InputError for what can be known to fail, before any worker starts."""
    keep = None if job.keep is None else set(job.keep)
    return SegmentIndex.open(list(job.chunks), sources=sources, split="train", keep=keep)


class Feed:
    """Some rows of the global batch for each step from `start` on, as (step, batch_BSCT), decoded ahead by a thread."""

    def __init__(
        self, job: "Job", *, sources: Sequence[str], num_samples: int, rows: Sequence[int], start: int
    ) -> None:
        self.job, self.rows, self.num_samples, self.start = job, rows, num_samples, start
        self.index = open_index(job, sources)
        self.stalled_s = 0.0  # spent waiting for batches so far

    def __iter__(self) -> "Iterator[tuple[int, Tensor]]":
        config = self.job.config
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as pool:
            ahead: deque[Future[Tensor]] = deque()
            for step in range(self.start, config.steps):
                wanted = range(step + len(ahead), min(config.steps, step + 1 + config.prefetch_batches))
                ahead.extend(pool.submit(self._load, later) for later in wanted)
                began = time.monotonic()
                batch_BSCT = ahead.popleft().result()
                self.stalled_s += time.monotonic() - began
                yield step, batch_BSCT

    def _load(self, step: int) -> "Tensor":
        import torch

        seed = self.job.config.seed
        return torch.from_numpy(batch(self.index, seed=seed, step=step, rows=self.rows, num_samples=self.num_samples))
