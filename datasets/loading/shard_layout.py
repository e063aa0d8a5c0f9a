"""Where the values of a shard's rows lie in its file, and the decoding of one row from byte ranges.

A shard's footer, read once, says where every FLAC ends, and the column `<source>_frames` where its frames begin. What
`crop_reader.py` and `row_cache.py` both need.
"""

from collections.abc import Iterable, Sequence
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

    def span(self, first: int, last: int) -> tuple[int, int]:
        """From where to where all that a crop of these rows needs lies in the file."""
        return int(self.begins[first]), int(self.ends[last].max())


class ByteRanges:
    """Byte ranges of one file, counted; where requests are dear, all of them out of one for [begin, end).

    Positions are those of the shard; `at` is the one that the file begins with, where it is a copy of a part.
    """

    def __init__(self, path: str, begin: int, end: int, *, at: int = 0) -> None:
        self._path, self._begin, self._at = path, begin, at
        self.num_bytes = 0
        self._whole = None if has_cheap_reads(path) else self._read(begin, end)

    def read(self, begin: int, end: int) -> bytes:
        if self._whole is None:
            return self._read(begin, end)
        return self._whole[begin - self._begin : end - self._begin]

    def _read(self, begin: int, end: int) -> bytes:
        self.num_bytes += end - begin
        return read_range(self._path, begin - self._at, end - self._at)


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


def decode_row(
    out_SCT: Samples, layout: ShardLayout, ranges: ByteRanges, *, row: int, skip: int, columns: Sequence[int]
) -> None:
    """Fill out_SCT with a part of a row, from sample `skip` of it on, one stem for each of `columns`."""
    from datasets.audio.flac_decoder import decode_frames  # compiles itself when it is first imported

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
        starts, scale = offsets[first : stop + 1], float(layout.scale[row])
        decode_frames(frames, starts, stem_CT, first=first, skip=skip_in_frame, scale=scale)
