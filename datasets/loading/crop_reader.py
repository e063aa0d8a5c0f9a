"""A stretch of a song out of its shard, by byte ranges, without Parquet and without the rest of the song.

On a disk a crop is one read of some kilobytes and one per stem; from an object store it is one request for the row or
the two rows that the crop touches (`row_cache.py` keeps them). `shard_layout.py` says which bytes these are.
"""

import math
from collections.abc import Sequence

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.errors import AudioError, InputError
from datasets.loading.row_cache import RowCache
from datasets.loading.shard_layout import ByteRanges, columns_of, decode_row, layout_of
from datasets.shards.manifests import Song


def read_crop(out_SCT: Samples, song: Song, start: int, sources: Sequence[str], cache: RowCache | None = None) -> int:
    """Fill out_SCT with the song from `start` on, as far as the song goes; the number of bytes read from the store.

    InputError that names the shard when a bit of what is read is not as it was written.
    """
    wanted = min(out_SCT.shape[2], song.num_samples - start)
    if wanted <= 0:
        return 0
    layout = layout_of(song.path)
    columns = columns_of(layout, song.path, sources)
    first, last = start // song.chunk_samples, (start + wanted - 1) // song.chunk_samples
    rows, done = range(song.first_row + first, song.first_row + last + 1), 0
    try:
        shared = ByteRanges(song.path, *layout.span(rows[0], rows[-1])) if cache is None else None
        num_bytes = 0
        for row in rows:
            skip = (start + done) % song.chunk_samples
            take = min(song.chunk_samples - skip, wanted - done)
            piece_SCT = out_SCT[:, :, done : done + take]
            if cache is not None:
                num_bytes += cache.read(piece_SCT, song, layout, row=row, skip=skip, columns=columns)
            elif shared is not None:
                decode_row(piece_SCT, layout, shared, row=row, skip=skip, columns=columns)
            done += take
    except OSError as error:
        raise InputError(f"shard {song.path} cannot be read ({error}); run ingest again") from None
    except (AudioError, IndexError) as error:
        where = f"shard {song.path} is damaged in {song.track_id!r}"
        raise InputError(f"{where}: {error}; delete it and run ingest again") from None
    return num_bytes if shared is None else shared.num_bytes


def song_level(song: Song, sources: Sequence[str]) -> float:
    """RMS of a song's mixture as the levels of its stored stems tell it, as if they were unrelated; full scale is 1."""
    layout = layout_of(song.path)
    rows = slice(song.first_row, song.first_row + song.num_chunks)
    power_R = (10 ** (layout.rms_db[rows][:, columns_of(layout, song.path, sources)] / 10)).sum(axis=1)
    return math.sqrt(float(np.average(power_R, weights=layout.num_samples[rows])))
