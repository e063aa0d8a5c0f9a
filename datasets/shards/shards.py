"""The audio of a dataset on disk: Parquet shards of FLAC chunks, named by what they were made from.

Chunk files have one row per row group, no compression and no dictionary: a crop is a few byte ranges
(`loading/crop_reader.py`). `manifests.py` says how shards become datasets, `chunks.py` how rows become samples.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.audio.audio_types import Samples
from datasets.errors import AudioError, InputError, Unavailable
from datasets.schema import SCHEMA_VERSION, ShardSet, chunks_schema
from datasets.shards.chunks import stems_of
from datasets.shards.manifests import Shard, Song, find_song, is_whole
from datasets.store import storage
from datasets.store.atomic_json import write_json


def cut_points(ids: Sequence[str], *, per_shard: int) -> list[tuple[int, int]]:
    """Ranges over sorted ids, `per_shard` long on average and at most four times that."""
    ranges: list[tuple[int, int]] = []
    start = 0
    for position, name in enumerate(ids):
        chance = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        if chance % per_shard == 0 or position + 1 - start >= 4 * per_shard:
            ranges.append((start, position + 1))
            start = position + 1
    if start < len(ids):
        ranges.append((start, len(ids)))
    return ranges


def write_shard(
    store: str | Path,
    spec: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    sources: Sequence[str],
    extra: Callable[[], Mapping[str, Any]] = dict,
) -> Shard:
    """Write the shard `spec` of table CHUNKS, then its sidecar; `extra` is asked for once all rows are written."""
    schema = chunks_schema(sources)
    small = [field.name for field in schema if not pa.types.is_binary(field.type) and field.name not in sources]
    name = f"chunks/{spec}.parquet"
    songs: list[dict[str, Any]] = []
    num_rows = num_bytes = 0
    with (
        storage.replacing(storage.join(store, name), needed=lambda: num_bytes) as file,
        DigestingFile(file) as measured,
        pq.ParquetWriter(
            measured,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=small,
            version="2.6",
            write_page_checksum=True,
        ) as writer,
    ):
        for row in rows:
            num_bytes += sum(len(row[source]) for source in sources)
            writer.write_table(pa.Table.from_pylist([row], schema=schema), row_group_size=1)
            _note_chunk(songs, row, num_rows, sources=sources)
            num_rows += 1
    shard = measured.shard(name, num_rows)
    sidecar = {"schema_version": SCHEMA_VERSION, "spec": spec, "sources": list(sources), "shard": asdict(shard)}
    write_json(storage.join(store, f"chunks/{spec}.json"), {**sidecar, "songs": songs, "extra": dict(extra())})
    return shard


def _note_chunk(songs: list[dict[str, Any]], row: Mapping[str, Any], position: int, *, sources: Sequence[str]) -> None:
    if not songs or songs[-1]["track_id"] != row["track_id"]:
        same = ("track_id", "title", "split", "license", "sample_rate", "channels")
        begun = {"audio": " ".join(sources), "num_samples": 0, "num_bytes": 0, "num_chunks": 0}
        songs.append(
            {name: row[name] for name in same} | begun | {"chunk_samples": row["num_samples"], "first_row": position}
        )
    song = songs[-1]
    content = hashlib.sha256(json.dumps([song["audio"], row["scale"]]).encode())
    for source in sources:
        content.update(row[source])
    song["audio"] = content.hexdigest()[:32]
    song["num_samples"] += row["num_samples"]
    song["num_bytes"] += sum(len(row[source]) for source in sources)
    song["num_chunks"] += 1


def audio_digest(rows: Sequence[Mapping[str, Any]], *, sources: Sequence[str]) -> str:
    """The digest that a song has once these rows of it are stored."""
    songs: list[dict[str, Any]] = []
    for position, row in enumerate(rows):
        _note_chunk(songs, row, position, sources=sources)
    return str(songs[0]["audio"])


def find_shard(store: str | Path, spec: str) -> tuple[Shard, Mapping[str, Any]] | None:
    """A finished shard and the extra of its sidecar; None where it must be written (again)."""
    try:
        sidecar = json.loads(storage.read(storage.join(store, f"chunks/{spec}.json")))
        shard = Shard(**sidecar["shard"])
        whole = is_whole(store, shard)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (shard, sidecar["extra"]) if whole else None


def read_track(
    address: ShardSet,
    track_id: str,
    *,
    sources: Sequence[str] | None = None,
    start: int = 0,
    num_samples: int | None = None,
) -> Samples:
    """Stems_SCT of a song, or of the part of it from sample `start` on."""
    return read_song(find_song(address, track_id), sources=sources, start=start, num_samples=num_samples)


def read_song(
    song: Song, *, sources: Sequence[str] | None = None, start: int = 0, num_samples: int | None = None
) -> Samples:
    """Stems_SCT of a song from sample `start` on; fewer samples than asked for where it ends."""
    stop = song.num_samples if num_samples is None else min(song.num_samples, start + num_samples)
    blocks = list(read_song_blocks(song, sources=sources, start=start, num_samples=num_samples))
    if not blocks or stop <= start:
        return np.zeros((len(sources or sources_of(song)), song.channels, 0), np.float32)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=2)


def read_song_blocks(
    song: Song, *, sources: Sequence[str] | None = None, start: int = 0, num_samples: int | None = None
) -> Iterator[Samples]:
    """Stems_SCT of a song chunk by chunk; InputError that names shard and song where they are not as written."""
    stop = song.num_samples if num_samples is None else min(song.num_samples, start + num_samples)
    try:
        with open_parquet(song.path) as file:
            stored = stored_sources(file.schema_arrow)
            chosen = tuple(sources or stored)
            if absent := [source for source in chosen if source not in stored]:
                raise InputError(
                    f"{song.track_id!r} has {', '.join(stored)}, and was asked for {', '.join(absent)}: ingest the "
                    "songs with these among corpus.sources, or ask for what is there"
                )
            columns = ["track_id", "index", "num_samples", "channels", "scale", *chosen]
            columns += [f"{source}_frames" for source in chosen]
            for index in range(start // song.chunk_samples, song.num_chunks):
                begin = index * song.chunk_samples
                if begin >= stop:
                    return
                row = file.read_row_group(song.first_row + index, columns=columns).to_pylist()[0]
                skip = max(0, start - begin)
                yield stems_of(row, chosen, start=skip, num_samples=stop - begin - skip)
    except (AudioError, OSError, pa.ArrowException, KeyError) as error:
        if isinstance(error, OSError) and "CRC" not in str(error):  # so says Arrow of a page that fails its checksum
            raise Unavailable(f"shard {song.path} cannot be read ({error}); run the step again") from None
        where = f"shard {song.path} is damaged in {song.track_id!r}"
        raise InputError(f"{where}: {error}; delete it and run the step again") from None


def sources_of(song: Song) -> tuple[str, ...]:
    """The sources that a stored song has, in their order."""
    with open_parquet(song.path) as file:
        return stored_sources(file.schema_arrow)


def stored_sources(schema: pa.Schema) -> tuple[str, ...]:
    """The sources that a chunk file holds, in its order."""
    return tuple(field.name for field in schema if field.type == pa.large_binary())


class DigestingFile(io.RawIOBase):
    """A file that counts and digests what is written to it, so that nothing has to be read back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        size = memoryview(data).nbytes
        self._num_bytes += size
        self._file.write(data)
        return size

    def shard(self, file: str, num_rows: int) -> Shard:
        return Shard(file=file, num_rows=num_rows, num_bytes=self._num_bytes, sha256=self._digest.hexdigest())


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """A Parquet file of the store, open for reading; close it or use it in a `with`.

    OSError where it cannot be read, ArrowInvalid where its footer makes no sense.
    """
    # Not mapped into memory: a file that is cut short under a mapping kills the process without a word.
    source = storage.open_reader(path) if storage.is_remote(path) else path
    try:
        return pq.ParquetFile(source, page_checksum_verification=True)
    except (UnicodeDecodeError, KeyError, TypeError) as error:  # what pyarrow makes of a flipped bit
        raise pa.ArrowInvalid(f"its footer is damaged: {error}") from None
