"""Rows of shards on a local disk, so that crops from an object store are asked for once, or decoded once.

Which rows are kept is fixed beforehand: in the order of a digest, as many as the limit holds. So all workers of a
machine share one folder without speaking to each other, the limit is never passed, and nothing is ever replaced. For
rows that come round once an epoch that is the best there is: whatever the last ones asked for replaced would be gone
before its turn.

As "flac" a row is the bytes of its part of the shard. As "pcm" it is its samples, which take two to three times the
room and a tenth of the time of decoding.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.errors import AudioError, InputError
from datasets.loading.shard_layout import ByteRanges, RowPart, ShardLayout, decode_parts, layout_of, load_layouts
from datasets.shards.manifests import Song
from datasets.store import storage
from datasets.store.disk_errors import disk_errors

FORMS = ("flac", "pcm")
_ROW = re.compile(rf"[0-9a-f]{{32}}-\d+\.({'|'.join(FORMS)})")  # as `_name` gives them
_ABANDONED_S = 3600  # age of a temporary file whose writer is taken for dead
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class RowCache:
    """A folder of rows. Reads and fills it from any number of threads and processes."""

    folder: Path
    form: str
    kept: frozenset[str]  # names of the rows that have a place
    full: bool = field(default=False)  # the disk was, before the limit was reached

    @classmethod
    def open(cls, folder: str, songs: Sequence[Song], *, limit_bytes: int, form: str = "flac") -> "RowCache":
        """Rows of these songs up to a limit; rows of other songs, left there by other runs, are removed.

        Rows are known by their names; files of others in the folder stay.
        """
        load_layouts(songs)
        sizes = {}
        for song in songs:
            layout = layout_of(song.path)
            for row in range(song.first_row, song.first_row + song.num_chunks):
                sizes[_name(song, row, form)] = _size(song, layout, row, form)
        kept, used = set(), 0
        for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
            used += sizes[name]
            if used > limit_bytes:
                break
            kept.add(name)
        cache = cls(folder=Path(folder).expanduser(), form=form, kept=frozenset(kept))
        with disk_errors(cache.folder):
            cache.folder.mkdir(parents=True, exist_ok=True)
            cache._clear()
        return cache

    def read(self, part: RowPart, song: Song, layout: ShardLayout, *, columns: Sequence[int]) -> int:
        """Fill a part of a row; the number of bytes read from the shard for it."""
        name = _name(song, part.row, self.form)
        path = self.folder / name
        if name not in self.kept:
            return _from_shard(part, song, layout, columns=columns)
        if self.form == "flac":
            return self._through_flac(part, song, layout, columns=columns)
        if _read_ints(part, path, layout, columns=columns):
            return 0
        shape = len(layout.sources), song.channels, int(layout.num_samples[part.row])
        whole = RowPart(out_SCT=np.empty(shape, np.float32), row=part.row, skip=0)
        ranges = ByteRanges(song.path)
        ranges.read_ahead([layout.span(part.row)])
        decode_parts([whole], layout, ranges, columns=range(len(layout.sources)))
        part.out_SCT[:] = whole.out_SCT[columns, :, part.skip : part.skip + part.out_SCT.shape[2]]
        ints_SCT = np.rint(whole.out_SCT / _step(layout, part.row)).astype(_kind(layout, part.row))
        self._keep(path, ints_SCT.tobytes())
        return ranges.num_bytes

    def _through_flac(self, part: RowPart, song: Song, layout: ShardLayout, *, columns: Sequence[int]) -> int:
        path, (begin, end) = self.folder / _name(song, part.row, self.form), layout.span(part.row)
        if not path.is_file() and not self.full:
            ranges = ByteRanges(song.path)
            self._keep(path, ranges.read(begin, end))
            num_bytes = ranges.num_bytes
        else:
            num_bytes = 0
        try:
            decode_parts([part], layout, ByteRanges(str(path), at=begin), columns=columns)
        except (OSError, AudioError, IndexError):  # not kept, or damaged: the shard is the truth
            path.unlink(missing_ok=True)
            num_bytes += _from_shard(part, song, layout, columns=columns)
        return num_bytes

    def _keep(self, path: Path, data: bytes) -> None:
        if self.full:
            return
        try:
            storage.write(path, data)
        except InputError as error:  # training goes on without
            self.full = True
            _log.warning("nothing more is kept in the cache: %s", error)

    def _clear(self) -> None:
        entries = [entry for entry in os.scandir(self.folder) if entry.is_file(follow_symlinks=False)]
        rows = [entry for entry in entries if _ROW.fullmatch(entry.name)]
        for entry in rows:
            if entry.name not in self.kept:
                Path(entry.path).unlink(missing_ok=True)
        for entry in entries if rows else ():  # without rows they are not of a cache
            stale = entry.name.startswith(storage.TEMPORARY) and entry.stat().st_mtime < time.time() - _ABANDONED_S
            if stale:
                Path(entry.path).unlink(missing_ok=True)


def _from_shard(part: RowPart, song: Song, layout: ShardLayout, *, columns: Sequence[int]) -> int:
    ranges = ByteRanges(song.path)
    decode_parts([part], layout, ranges, columns=columns)
    return ranges.num_bytes


def _name(song: Song, row: int, form: str) -> str:
    """By content, so that every dataset version finds the rows that it shares with others."""
    return f"{song.audio}-{row - song.first_row}.{form}"


def _size(song: Song, layout: ShardLayout, row: int, form: str) -> int:
    begin, end = layout.span(row)
    if form == "flac":
        return end - begin
    return len(layout.sources) * song.channels * int(layout.num_samples[row]) * _kind(layout, row).itemsize


def _kind(layout: ShardLayout, row: int) -> np.dtype[np.signedinteger]:
    return np.dtype(np.int16 if layout.bits[row] == 16 else np.int32)


def _step(layout: ShardLayout, row: int) -> np.float32:
    """What one of the whole numbers is worth: a power of two."""
    return np.float32(layout.scale[row] / (1 << int(layout.bits[row]) - 1))


def _read_ints(part: RowPart, path: Path, layout: ShardLayout, *, columns: Sequence[int]) -> bool:
    """Fill a part of a row from a file of samples (S, C, T); False where there is none."""
    kind, step = _kind(layout, part.row), _step(layout, part.row)
    total = int(layout.num_samples[part.row])
    try:
        file = path.open("rb", buffering=0)
    except OSError:
        return False
    with file:
        for stem_CT, column in zip(part.out_SCT, columns, strict=True):
            for channel, out_T in enumerate(stem_CT):
                at = ((column * len(stem_CT) + channel) * total + part.skip) * kind.itemsize
                data = os.pread(file.fileno(), len(out_T) * kind.itemsize, at)
                if len(data) < len(out_T) * kind.itemsize:
                    return False
                np.multiply(np.frombuffer(data, kind), step, out=out_T)
    return True
