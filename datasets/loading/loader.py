"""The rows of coming batches, decoded ahead by threads while the present one is learnt from.

The threads run side by side: reading and decoding hold no lock of the interpreter (`audio/flac_decoder.py`). What the
consumer still had to wait for is counted, since a GPU that waits for songs is the one thing that a loader can be
blamed for.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.errors import InputError
from datasets.field_constraints import NonNegativeFloat, NonNegativeInt, check_ranges
from datasets.loading.row_cache import FORMS, RowCache
from datasets.loading.segment_sampler import SegmentIndex, read_row
from datasets.store.storage import is_remote

# Threads for each CPU where an object store is read: a crop decodes for some 20 ms, and waits twice for an answer
_WAITING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How rows get from the store into memory; nothing here changes what they are."""

    # Threads that read and decode, per worker; 0 takes as many as the worker has CPUs, and four times as many where
    # songs are in an object store, since most of them wait for it
    threads: NonNegativeInt = 0
    cache: str = ""  # a folder on a local disk for rows already read, shared by all workers of a machine; empty: none
    cache_gb: NonNegativeFloat = 50.0  # how much of the disk the cache may fill, in 1e9 bytes
    cache_form: str = "flac"  # "flac" keeps rows as stored; "pcm" keeps them decoded, at two to three times the room

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="train.loader.")
        if is_remote(self.cache):
            raise InputError(
                f"train.loader.cache must be a folder of this machine, such as /SCRATCH/rows, got {self.cache}"
            )
        if self.cache_form not in FORMS:
            raise InputError(f"train.loader.cache_form must be one of {', '.join(FORMS)}, got {self.cache_form!r}")

    def open_cache(self, index: SegmentIndex) -> RowCache | None:
        """The cache for the songs of an index; None where no folder is named."""
        if not self.cache:
            return None
        return RowCache.open(self.cache, index.songs, limit_bytes=int(self.cache_gb * 1e9), form=self.cache_form)


class Loader:
    """Batches of rows as sources_BSCT, in order, and what waiting for them cost."""

    def __init__(
        self,
        index: SegmentIndex,
        config: LoaderConfig,
        *,
        seed: int,
        num_samples: int,
        remix_all: float = 0.0,
        normalize: bool = False,
        threads: int = 1,
        prefetch_batches: int = 2,
    ) -> None:
        """`threads` counts where the configuration leaves it open; `prefetch_batches` wait beside the one in use.

        `remix_all` and `normalize` are those of `read_row`.
        """
        self.index, self.seed, self.num_samples = index, seed, num_samples
        self.remix_all, self.normalize = remix_all, normalize
        waiting = _WAITING if any(is_remote(song.path) for song in index.songs) else 1
        self.threads, self.prefetch_batches = config.threads or threads * waiting, prefetch_batches
        self.cache = config.open_cache(index)
        self.stalled_s = 0.0  # the consumer has waited so far
        self.num_bytes = 0  # read from the store for the batches handed out

    def batches(self, wanted: Iterable[Sequence[int]]) -> Iterator[Samples]:
        """One batch for each sequence of row numbers; an error in a thread is raised where its batch is due."""
        coming = iter(wanted)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            ahead: deque[tuple[Samples, list[Future[int]]]] = deque()
            try:
                while True:
                    due = 1 + self.prefetch_batches - len(ahead)
                    ahead.extend(self._begin(pool.submit, numbers) for numbers in islice(coming, due))
                    if not ahead:
                        return
                    began = time.perf_counter()
                    sources_BSCT, reads = ahead.popleft()
                    self.num_bytes += sum(read.result() for read in reads)
                    self.stalled_s += time.perf_counter() - began
                    del reads
                    yield sources_BSCT
            finally:
                pool.shutdown(cancel_futures=True)

    def _begin(self, submit: Callable[..., Future[int]], numbers: Sequence[int]) -> tuple[Samples, list[Future[int]]]:
        shape = (len(numbers), len(self.index.sources), self.index.channels, self.num_samples)
        sources_BSCT = np.zeros(shape, np.float32)
        settings: dict[str, Any] = {
            "seed": self.seed, "remix_all": self.remix_all, "normalize": self.normalize, "cache": self.cache
        }  # fmt: skip
        reads = [
            submit(read_row, row_SCT, self.index, number=number, **settings)
            for row_SCT, number in zip(sources_BSCT, numbers, strict=True)
        ]
        return sources_BSCT, reads
