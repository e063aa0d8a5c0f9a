"""A stretch of a song out of its shard, by byte ranges, without Parquet and without the rest of the song.

A crop is one read of some kilobytes for each row that it touches, and one per stem; from an object store the first are
asked for at once, and then the others (`row_cache.py` keeps whole rows). `shard_layout.py` says which bytes these are.
"""

import math
from collections.abc import Sequence

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.errors import AudioError, InputError
from datasets.loading.row_cache import RowCache
from datasets.loading.shard_layout import ByteRanges, RowPart, columns_of, decode_parts, layout_of
from datasets.shards.manifests import Song


def read_crop(out_SCT: Samples, song: Song, start: int, sources: Sequence[str], cache: RowCache | None = None) -> int:
    """Fill out_SCT with the song from `start` on, as far as the song goes; the number of bytes read from the store.

    InputError that names the shard when a bit of what is read is not as it was written.
    """
    parts = row_parts(out_SCT, song, start)
    if not parts:
        return 0
    layout = layout_of(song.path)
    columns = columns_of(layout, song.path, sources)
    try:
        if cache is not None:
            return sum(cache.read(part, song, layout, columns=columns) for part in parts)
        ranges = ByteRanges(song.path)
        decode_parts(parts, layout, ranges, columns=columns)
        return ranges.num_bytes
    except OSError as error:
        raise InputError(f"shard {song.path} cannot be read ({error}); run ingest again") from None
    except (AudioError, IndexError) as error:
        where = f"shard {song.path} is damaged in {song.track_id!r}"
        raise InputError(f"{where}: {error}; delete it and run ingest again") from None


def row_parts(out_SCT: Samples, song: Song, start: int) -> list[RowPart]:
    """The parts of rows that fill out_SCT with the song from `start` on; none behind its end."""
    parts, done = list[RowPart](), 0
    wanted = min(out_SCT.shape[2], song.num_samples - start)
    while done < wanted:
        chunk, skip = divmod(start + done, song.chunk_samples)
        take = min(song.chunk_samples - skip, wanted - done)
        parts.append(RowPart(out_SCT=out_SCT[:, :, done : done + take], row=song.first_row + chunk, skip=skip))
        done += take
    return parts


def song_level(song: Song, sources: Sequence[str]) -> float:
    """RMS of a song's mixture as the levels of its stored stems tell it, as if they were unrelated; full scale is 1."""
    layout = layout_of(song.path)
    rows = slice(song.first_row, song.first_row + song.num_chunks)
    power_R = (10 ** (layout.rms_db[rows][:, columns_of(layout, song.path, sources)] / 10)).sum(axis=1)
    return math.sqrt(float(np.average(power_R, weights=layout.num_samples[rows])))
