"""A small store for tests of what reads crops: songs of noise at 1 kHz, cut into chunks of two seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.loading.segment_sampler import SegmentIndex, read_row
from datasets.schema import ShardSet
from datasets.seeding import row_rng
from datasets.shards import manifests, shards
from datasets.shards.chunks import SongHeader, song_rows

RATE = 1000
SOURCES = ("drums", "bass")


def stems(name: str, num_samples: int) -> Samples:
    """Two stems of noise, of 16 bits, that differ from song to song."""
    ints = row_rng(0, name).integers(-(1 << 14), 1 << 14, (2, 2, num_samples))
    return (ints / (1 << 15)).astype(np.float32)


def store(
    folder: Path, songs: Mapping[str, tuple[str, int]], *, key: str = "k", bits: int = 24, root: str | None = None
) -> ShardSet:
    """A table of chunks with songs of these splits and lengths, in `root` if that is another address."""
    rows = []
    for name, (split, num_samples) in songs.items():
        header = SongHeader(track_id=name, title=name, split=split, license="", origin="corpus", sample_rate=RATE)
        rows += song_rows(stems(name, num_samples), header, sources=SOURCES, chunk_s=2, bits=bits)
    shard = shards.write_shard(root or folder, key, rows, sources=SOURCES)
    return manifests.write_manifest(root or folder, table="chunks", step="ingest", key=key, shards=[shard])


def batch(
    index: SegmentIndex,
    numbers: Sequence[int],
    *,
    num_samples: int,
    seed: int = 0,
    remix_all: float = 0.0,
    normalize: bool = False,
) -> Samples:
    """The rows of these numbers, read one after the other."""
    sources_BSCT = np.zeros((len(numbers), len(index.sources), index.channels, num_samples), np.float32)
    for row_SCT, number in zip(sources_BSCT, numbers, strict=True):
        read_row(row_SCT, index, seed=seed, number=number, remix_all=remix_all, normalize=normalize)
    return sources_BSCT
