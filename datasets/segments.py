"""Training windows out of stored chunks: which, from where, and as arrays.

Row b of step k is a pure function of (seed, k, b): it does not matter how many workers share the rows of a
step, in which order they read them, or where a run was interrupted.

A crop is read by byte ranges, without Parquet: a shard's footer, read once, says where every FLAC ends, and the
column `<source>_frames` where its frames begin. On a disk that is one read of some kilobytes and one per stem; from
an object store it is one request for the row or the two rows that the crop touches.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datasets.audio import Samples
from datasets.chunks import offsets_in
from datasets.dice import dice
from datasets.errors import AudioError, InputError
from datasets.frames import FRAME_SAMPLES, decode_frames, frames_around
from datasets.schema import ShardSet
from datasets.shards import Song, open_parquet, read_songs, stored_sources
from datasets.storage import has_cheap_reads, read_range

_KNOWN_SHARDS = 4096  # whose footers are remembered: about 100 bytes a row, 8 kB a shard of 512 MB


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
                for song in sorted(read_songs(address), key=lambda song: song.track_id)
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
        read_crop(sources_BSCT[position], song, start, index.sources)
    return sources_BSCT


def draw(index: SegmentIndex, *, seed: int, step: int, row: int, num_samples: int) -> tuple[Song, int]:
    """The song and the first sample of one row."""
    rng = dice(seed, "segment", step, row)
    song = index.songs[min(bisect_right(index.cumulative, rng.random()), len(index.songs) - 1)]
    start = int(rng.integers(0, max(0, song.num_samples - num_samples) + 1))
    return song, start


def read_crop(out_SCT: Samples, song: Song, start: int, sources: Sequence[str]) -> int:
    """Fill out_SCT with the song from `start` on, as far as the song goes; the number of bytes read for it.

    InputError that names the shard when a bit of what is read is not as it was written.
    """
    wanted = min(out_SCT.shape[2], song.num_samples - start)
    if wanted <= 0:
        return 0
    layout = _layout(song.path)
    missing = [source for source in sources if source not in layout.sources]
    if missing:
        raise InputError(f"shard {song.path} holds {', '.join(layout.sources)}, and no {', '.join(missing)}")
    columns = [layout.sources.index(source) for source in sources]
    first, last = start // song.chunk_samples, (start + wanted - 1) // song.chunk_samples
    rows, done = range(song.first_row + first, song.first_row + last + 1), 0
    try:
        ranges = _Ranges(song.path, int(layout.begins[rows[0]]), int(layout.ends[rows[-1]].max()))
        for row in rows:
            skip = (start + done) % song.chunk_samples
            take = min(song.chunk_samples - skip, wanted - done)
            _read_row(out_SCT[:, :, done : done + take], layout, ranges, row=row, skip=skip, columns=columns)
            done += take
    except OSError as error:
        raise InputError(f"shard {song.path} cannot be read ({error}); run ingest again") from None
    except (AudioError, IndexError) as error:
        where = f"shard {song.path} is damaged in {song.track_id!r}"
        raise InputError(f"{where}: {error}; delete it and run ingest again") from None
    return ranges.num_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the values of each row of a shard lie in its file, by its footer alone: byte positions, int64."""

    sources: tuple[str, ...]
    num_samples: NDArray[np.int64]  # (rows,)
    scale: NDArray[np.float64]  # (rows,)
    begins: NDArray[np.int64]  # (rows,), of the first column of frames
    frames_ends: NDArray[np.int64]  # (rows, S)
    ends: NDArray[np.int64]  # (rows, S), of the FLAC


class _Ranges:
    """Byte ranges of one file, counted; where requests are dear, all of them out of one for [begin, end)."""

    def __init__(self, path: str, begin: int, end: int) -> None:
        self._path, self._begin = path, begin
        self.num_bytes = 0
        self._whole = None if has_cheap_reads(path) else self._read(begin, end)

    def read(self, begin: int, end: int) -> bytes:
        if self._whole is None:
            return self._read(begin, end)
        return self._whole[begin - self._begin : end - self._begin]

    def _read(self, begin: int, end: int) -> bytes:
        self.num_bytes += end - begin
        return read_range(self._path, begin, end)


def _read_row(
    out_SCT: Samples, layout: _Layout, ranges: _Ranges, *, row: int, skip: int, columns: Sequence[int]
) -> None:
    first, stop, skip_in_frame = frames_around(skip, out_SCT.shape[2])
    num_offsets = -(-int(layout.num_samples[row]) // FRAME_SAMPLES) + 1
    ends = [int(layout.frames_ends[row, column]) for column in columns]
    begin = min(ends) - 4 * num_offsets
    tables = ranges.read(begin, max(ends))
    for stem_CT, column, end in zip(out_SCT, columns, ends, strict=True):
        offsets = offsets_in(tables[end - begin - 4 * num_offsets : end - begin])
        flac_begin = int(layout.ends[row, column]) - int(offsets[-1])
        if flac_begin < layout.frames_ends[row, -1] or np.any(offsets[1:] <= offsets[:-1]):
            raise AudioError("undecodable", f"where the frames of {layout.sources[column]} begin is not as written")
        frames = ranges.read(flac_begin + int(offsets[first]), flac_begin + int(offsets[stop]))
        decode_frames(frames, stem_CT, first=first, skip=skip_in_frame, scale=float(layout.scale[row]))


@lru_cache(maxsize=_KNOWN_SHARDS)
def _layout(path: str) -> _Layout:
    """The layout of a shard. A required, plain, uncompressed value is the last thing in its column of a row group."""
    try:
        with open_parquet(path) as file:
            return _layout_of(stored_sources(file.schema_arrow), file.metadata)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"shard {path} cannot be read ({error}); run ingest again") from None
    except (LookupError, AttributeError, TypeError, ValueError) as error:  # of a footer with a flipped bit
        raise InputError(f"shard {path} is damaged: {error} in its footer; delete it and run ingest again") from None


def _layout_of(sources: tuple[str, ...], meta: pq.FileMetaData) -> _Layout:
    at = {meta.schema.column(k).path: k for k in range(meta.num_columns)}
    frames, flacs = [at[f"{source}_frames"] for source in sources], [at[source] for source in sources]
    groups = [meta.row_group(k) for k in range(meta.num_row_groups)]
    return _Layout(
        sources=sources,
        num_samples=np.array([_only(group.column(at["num_samples"])) for group in groups], np.int64),
        scale=np.array([_only(group.column(at["scale"])) for group in groups], np.float64),
        begins=np.array([group.column(frames[0]).data_page_offset for group in groups], np.int64),
        frames_ends=np.array([[_end(group.column(k)) for k in frames] for group in groups], np.int64),
        ends=np.array([[_end(group.column(k)) for k in flacs] for group in groups], np.int64),
    )


def _only(column: pq.ColumnChunkMetaData) -> float:
    """The one value of a column of one row, which the footer holds twice; ValueError where the two differ."""
    if column.statistics.min != column.statistics.max:
        raise ValueError(f"two values of {column.path_in_schema}")
    return float(column.statistics.max)


def _end(column: pq.ColumnChunkMetaData) -> int:
    return int(column.data_page_offset) + int(column.total_compressed_size)
