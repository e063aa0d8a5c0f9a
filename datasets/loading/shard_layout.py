"""Where the values of a shard's rows lie in its file, and the decoding of one row from byte ranges.

A shard's footer, read once, says where every FLAC ends, and the column `<source>_frames` where its frames begin. What
`crop_reader.py` and `row_cache.py` both need.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.audio.flac_frames import FRAME_SAMPLES, frames_around
from datasets.errors import AudioError, InputError
from datasets.shards.chunks import offsets_in
from datasets.shards.manifests import Song
from datasets.shards.shards import open_parquet, stored_sources
from datasets.store.storage import has_cheap_reads, read_range

_KNOWN_SHARDS = 4096  # whose footers are remembered: about 100 bytes a row, 8 kB a shard of 512 MB
_FOOTERS_AT_ONCE = 16  # threads: from an object store each waits for two requests
_REQUESTS_AT_ONCE = 32  # of a process; four stems each of eight threads that read
_GAP_BYTES = 64_000  # between two ranges, read rather than asked for apart: a request takes as long as some of them


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLayout:
    """Where the values of each row of a shard lie in its file, by its footer alone: byte positions, int64."""

    sources: tuple[str, ...]
    num_samples: NDArray[np.int64]  # (rows,)
    bits: NDArray[np.int64]  # (rows,)
    scale: NDArray[np.float64]  # (rows,)
    begins: NDArray[np.int64]  # (rows,), of the first column of frames
    frames_ends: NDArray[np.int64]  # (rows, S)
    ends: NDArray[np.int64]  # (rows, S), of the FLAC
    activity: NDArray[np.float64]  # (rows, S)
    rms_db: NDArray[np.float64]  # (rows, S), dBFS

    def span(self, row: int) -> tuple[int, int]:
        """From where to where all that crops of a row need lies in the file."""
        return int(self.begins[row]), int(self.ends[row].max())


class ByteRanges:
    """Byte ranges of one file, counted; where requests are dear, several at once and near ones as one.

    Positions are those of the shard; `at` is the one that the file begins with, where it is a copy of a part.
    """

    def __init__(self, path: str, *, at: int = 0) -> None:
        self._path, self._at = path, at
        self.num_bytes = 0
        self._ahead: list[tuple[int, bytes]] = []  # where they begin, and what was read there

    def read_ahead(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Ask for ranges that are about to be read, all at the same time; on a disk nothing is to be gained."""
        if has_cheap_reads(self._path):
            return
        joined = join_ranges(one for one in ranges if self._held(*one) is None)
        self.num_bytes += sum(end - begin for begin, end in joined)
        asked = [(begin, _requests().submit(self._read, begin, end)) for begin, end in joined[1:]]
        self._ahead += [(begin, self._read(begin, end)) for begin, end in joined[:1]]
        self._ahead += [(begin, request.result()) for begin, request in asked]

    def read(self, begin: int, end: int) -> bytes:
        held = self._held(begin, end)
        if held is not None:
            return held
        self.num_bytes += end - begin
        return self._read(begin, end)

    def _held(self, begin: int, end: int) -> bytes | None:
        for start, data in self._ahead:
            if start <= begin and end <= start + len(data):
                return data[begin - start : end - start]
        return None

    def _read(self, begin: int, end: int) -> bytes:
        return read_range(self._path, begin - self._at, end - self._at)


@lru_cache(maxsize=1)
def _requests() -> ThreadPoolExecutor:
    """Threads that wait for answers of an object store, shared by all readers of this process."""
    return ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="requests")


def join_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges in order, those as one between which little would be read in vain."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if joined and begin - joined[-1][1] <= _GAP_BYTES:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def load_layouts(songs: Iterable[Song]) -> None:
    """Read the footers of all their shards, many at once; later looks find them."""
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
        list(pool.map(layout_of, sorted({song.path for song in songs})))


def columns_of(layout: "ShardLayout", path: str, sources: Sequence[str]) -> list[int]:
    missing = [source for source in sources if source not in layout.sources]
    if missing:
        raise InputError(f"shard {path} holds {', '.join(layout.sources)}, and no {', '.join(missing)}")
    return [layout.sources.index(source) for source in sources]


@lru_cache(maxsize=_KNOWN_SHARDS)
def layout_of(path: str) -> ShardLayout:
    """The layout of a shard. A required, plain, uncompressed value is the last thing in its column of a row group."""
    try:
        with open_parquet(path) as file:
            return _laid_out(stored_sources(file.schema_arrow), file.metadata)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"shard {path} cannot be read ({error}); run ingest again") from None
    except (LookupError, AttributeError, TypeError, ValueError) as error:  # of a footer with a flipped bit
        raise InputError(f"shard {path} is damaged: {error} in its footer; delete it and run ingest again") from None


def _laid_out(sources: tuple[str, ...], meta: pq.FileMetaData) -> ShardLayout:
    at = {meta.schema.column(k).path: k for k in range(meta.num_columns)}
    frames, flacs = [at[f"{source}_frames"] for source in sources], [at[source] for source in sources]
    heard, levels = ([at[f"{source}_{what}"] for source in sources] for what in ("activity", "rms_db"))
    groups = [meta.row_group(k) for k in range(meta.num_row_groups)]
    return ShardLayout(
        sources=sources,
        num_samples=np.array([_only(group.column(at["num_samples"])) for group in groups], np.int64),
        bits=np.array([_only(group.column(at["bits"])) for group in groups], np.int64),
        scale=np.array([_only(group.column(at["scale"])) for group in groups], np.float64),
        begins=np.array([group.column(frames[0]).data_page_offset for group in groups], np.int64),
        frames_ends=np.array([[_end(group.column(k)) for k in frames] for group in groups], np.int64),
        ends=np.array([[_end(group.column(k)) for k in flacs] for group in groups], np.int64),
        activity=np.array([[_only(group.column(k)) for k in heard] for group in groups], np.float64),
        rms_db=np.array([[_only(group.column(k)) for k in levels] for group in groups], np.float64),
    )


def _only(column: pq.ColumnChunkMetaData) -> float:
    """The one value of a column of one row, which the footer holds twice; ValueError where the two differ."""
    if column.statistics.min != column.statistics.max:
        raise ValueError(f"two values of {column.path_in_schema}")
    return float(column.statistics.max)


def _end(column: pq.ColumnChunkMetaData) -> int:
    return int(column.data_page_offset) + int(column.total_compressed_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """A part of a row, from its sample `skip` on, and where it is to go: (S, C, T), one stem for each column asked."""

    out_SCT: Samples
    row: int
    skip: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _StemFrames:
    """The frames of a stem that a part of a row takes, and where in the file they are."""

    out_CT: Samples
    begin: int
    end: int
    starts: NDArray[np.uint32]  # of the frames, and the end of the last, from any origin
    first: int  # number of the first frame
    skip: int  # samples of it that are not asked for
    scale: float


def decode_parts(parts: Sequence[RowPart], layout: ShardLayout, ranges: ByteRanges, *, columns: Sequence[int]) -> None:
    """Fill each part's array: one look at where all frames begin, and one at the frames."""
    from datasets.audio.flac_decoder import decode_frames  # compiles itself when it is first imported

    tables = [_tables_of(layout, part.row, columns) for part in parts]
    ranges.read_ahead(tables)
    stems = [
        stem
        for part, (begin, end) in zip(parts, tables, strict=True)
        for stem in _stems_of(part, layout, ranges.read(begin, end), begin, columns)
    ]
    ranges.read_ahead((stem.begin, stem.end) for stem in stems)
    for stem in stems:
        frames = ranges.read(stem.begin, stem.end)
        decode_frames(frames, stem.starts, stem.out_CT, first=stem.first, skip=stem.skip, scale=stem.scale)


def _num_offsets(layout: ShardLayout, row: int) -> int:
    return -(-int(layout.num_samples[row]) // FRAME_SAMPLES) + 1


def _tables_of(layout: ShardLayout, row: int, columns: Sequence[int]) -> tuple[int, int]:
    """From where to where a row's file says where the frames of these stems begin."""
    ends = layout.frames_ends[row, columns]
    return int(ends.min()) - 4 * _num_offsets(layout, row), int(ends.max())


def _stems_of(
    part: RowPart, layout: ShardLayout, tables: bytes, begin: int, columns: Sequence[int]
) -> Iterator[_StemFrames]:
    """What of each stem a part takes, by its row's `tables`, which begin at `begin` in the file."""
    first, stop, skip = frames_around(part.skip, part.out_SCT.shape[2])
    for stem_CT, column in zip(part.out_SCT, columns, strict=True):
        end = int(layout.frames_ends[part.row, column]) - begin
        offsets = offsets_in(tables[end - 4 * _num_offsets(layout, part.row) : end])
        flac_begin = int(layout.ends[part.row, column]) - int(offsets[-1])
        if flac_begin < layout.frames_ends[part.row, -1] or np.any(offsets[1:] <= offsets[:-1]):
            raise AudioError("undecodable", f"where the frames of {layout.sources[column]} begin is not as written")
        yield _StemFrames(
            out_CT=stem_CT,
            begin=flac_begin + int(offsets[first]),
            end=flac_begin + int(offsets[stop]),
            starts=offsets[first : stop + 1],
            first=first,
            skip=skip,
            scale=float(layout.scale[part.row]),
        )
