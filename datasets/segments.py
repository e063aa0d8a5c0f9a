"""Training windows out of stored chunks: which, from where, and as arrays.

Row b of step k is a pure function of (seed, k, b): it does not matter how many workers share the rows of a
step, in which order they read them, or where a run was interrupted. Reading is one column of one or two row
groups per stem, with a FLAC seek inside.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import get_ident

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.audio import Samples, decode_flac
from datasets.dice import dice
from datasets.errors import AudioError, InputError
from datasets.schema import ShardSet
from datasets.shards import Song, read_songs

_OPEN_FILES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentIndex:
    """The songs to draw from, and the running sum of their chances; cheap to send to a worker."""

    songs: tuple[Song, ...]
    cumulative: tuple[float, ...]  # ends at 1
    sources: tuple[str, ...]

    @classmethod
    def open(
        cls,
        shard_sets: Iterable[tuple[ShardSet, float]],
        *,
        sources: Sequence[str],
        split: str,
        keep: Collection[str] | None = None,
    ) -> "SegmentIndex":
        """Songs of one split. Each chunk table gets its weight's share of the draws, each song its duration's.

        `keep` limits the songs further, by id. InputError when no song is left, or when songs differ in rate or
        channel count.
        """
        songs: list[Song] = []
        chances: list[float] = []
        for address, weight in shard_sets:
            if weight < 0:
                raise InputError(f"the weight of {address.uri} is {weight}; 0 or more would do")
            chosen = [
                song
                for song in read_songs(address)
                if weight > 0 and song.split == split and (keep is None or song.track_id in keep)
            ]
            total = sum(song.num_samples for song in chosen)
            songs += chosen
            chances += [weight * song.num_samples / total for song in chosen]
        if not songs:
            raise InputError(f"no stored song is in split {split!r}; more songs, or gentler curate rules, would do")
        kinds = {(song.sample_rate, song.channels) for song in songs}
        if len(kinds) > 1:
            raise InputError(
                f"songs differ in (rate, channels): {sorted(kinds)}; ingest them with one ingest.sample_rate"
            )
        cumulative = np.array(list(accumulate(chances))) / sum(chances)
        return cls(songs=tuple(songs), cumulative=tuple(cumulative.tolist()), sources=tuple(sources))

    @property
    def sample_rate(self) -> int:
        return self.songs[0].sample_rate

    @property
    def channels(self) -> int:
        return self.songs[0].channels

    @property
    def duration_s(self) -> float:
        return sum(song.num_samples for song in self.songs) / self.sample_rate


def batch(index: SegmentIndex, *, seed: int, step: int, rows: Sequence[int], num_samples: int) -> Samples:
    """The given rows of a step as sources_BSCT; songs shorter than a segment are followed by silence."""
    shape = (len(rows), len(index.sources), index.channels, num_samples)
    sources_BSCT = np.zeros(shape, np.float32)
    for position, row in enumerate(rows):
        song, start = draw(index, seed=seed, step=step, row=row, num_samples=num_samples)
        _read_into(sources_BSCT[position], song, start, index.sources)
    return sources_BSCT


def draw(index: SegmentIndex, *, seed: int, step: int, row: int, num_samples: int) -> tuple[Song, int]:
    """The song and the first sample of one row."""
    rng = dice(seed, "segment", step, row)
    song = index.songs[min(bisect_right(index.cumulative, rng.random()), len(index.songs) - 1)]
    start = int(rng.integers(0, max(0, song.num_samples - num_samples) + 1))
    return song, start


def _read_into(out_SCT: Samples, song: Song, start: int, sources: Sequence[str]) -> None:
    """Fill out_SCT with the song from `start` on, as far as the song goes."""
    file = _open(song.path, get_ident())
    wanted = min(out_SCT.shape[2], song.num_samples - start)
    done = 0
    while done < wanted:
        chunk, skip = divmod(start + done, song.chunk_samples)
        take = min(song.chunk_samples - skip, wanted - done)
        try:
            row = file.read_row_group(song.first_row + chunk, columns=["scale", *sources])
            scale = np.float32(row.column("scale")[0].as_py())
            for position, source in enumerate(sources):
                samples_CT = decode_flac(row.column(source)[0].as_py(), start=skip, num_samples=take)
                np.multiply(samples_CT, scale, out=out_SCT[position, :, done : done + take])
        except (AudioError, OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"shard {song.path} is damaged: {error}; delete it and run ingest again") from None
        done += take


@lru_cache(maxsize=_OPEN_FILES)
def _open(path: str, thread: int) -> pq.ParquetFile:
    """An open shard; one per thread, since a Parquet reader is not safe to share."""
    try:
        # Not mapped into memory: a file that is cut short under a mapping kills the process without a word.
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"shard {Path(path)} cannot be read ({error}); run ingest again") from None
