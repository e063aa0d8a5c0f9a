"""Finished tables on disk: Parquet shards named by what they were made from, and the manifests that vouch for them.

A store is one folder, on a disk or in S3: `chunks/<spec>.parquet` with its sidecar `<spec>.json`,
`tables/<table>-<key>.parquet`, `manifests/<step>-<key>.json`. Files get their names when they are written whole
(`storage.py`); the sidecar follows its shard and the manifest comes last, so whatever has a name is finished. Chunk
files have one row per row group, no compression and no dictionary: a crop is a few byte ranges (`segments.py`).

Chunk files never change and are shared: a manifest of table CHUNKS lists its songs, in the order of their ids,
and where each lies. What may change without the audio (split, title, license) is read from that list, never
from the rows. `versions.py` says how a new version reuses the shards of older ones.
"""

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.audio.files import Samples
from datasets.errors import AudioError, InputError, Unavailable
from datasets.schema import SCHEMA_VERSION, Part, ShardSet, chunks_schema
from datasets.shards.chunks import stems_of
from datasets.store import storage

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One Parquet file of a finished table; `file` is relative to the store."""

    file: str
    num_rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a manifest says: the shards of a table in order, and what the step wants remembered of the run."""

    store: str
    table: str
    step: str
    key: str
    shards: tuple[Shard, ...]
    songs: "tuple[Song, ...]"  # of a chunk table, in the order of their ids
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Song:
    """Where the chunks of one song are: row groups `first_row` to `first_row + num_chunks` of `path`."""

    track_id: str
    title: str
    split: str
    license: str = ""
    audio: str = ""  # digest of what is stored of the song: equal digests are equal samples
    num_bytes: int = 0  # of its FLAC
    sample_rate: int
    channels: int
    num_samples: int
    chunk_samples: int  # of every chunk but the last
    first_row: int
    num_chunks: int
    path: str


# --- writing ------------------------------------------------------------------------------------------------


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
        _Measured(file) as measured,
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


def is_whole(store: str | Path, shard: Shard) -> bool:
    """Whether the file of a shard is there and as long as it was."""
    seen = storage.stamp(storage.join(store, shard.file))
    return seen is not None and seen.size == shard.num_bytes


def write_table(
    folder: str | Path,
    name: str,
    table: pa.Table,
    *,
    key: str,
    step: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> ShardSet:
    """Write a small table ("verdicts", "profiles", "plans", "scores") into the store `folder`, then its manifest.

    `key` digests everything the table was made from; `step` is the job's name where it is not the table's.
    """
    file_name = f"tables/{name}-{key}.parquet"
    with storage.replacing(storage.join(folder, file_name)) as file, _Measured(file) as measured:
        pq.write_table(table, measured, compression="zstd", version="2.6")
    shard = measured.shard(file_name, table.num_rows)
    return write_manifest(folder, table=name, step=step or name, key=key, shards=[shard], extra=extra)


def write_manifest(
    store: str | Path,
    *,
    table: str,
    step: str,
    key: str,
    shards: Sequence[Shard],
    songs: Iterable[Song] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> ShardSet:
    """Declare a table finished. `extra` is anything JSON-sized to be found again by `read_manifest`.

    `songs` says which songs of its shards a chunk table has, and on which sides (all, as they were written,
    without it); shards in which it has none are left out.
    """
    path = _manifest_path(store, step, key)
    members: list[Song] = []
    if table == "chunks":
        chosen = [song for shard in shards for song in stored_songs(store, shard)] if songs is None else songs
        members = sorted(chosen, key=lambda song: song.track_id)
        used = {storage.absolute(song.path) for song in members}  # they may come from a store named by a relative path
        shards = [shard for shard in shards if storage.join(storage.absolute(store), shard.file) in used]
    content = {
        "schema_version": SCHEMA_VERSION,
        "table": table,
        "step": step,
        "key": key,
        "shards": [asdict(shard) for shard in shards],
        "songs": [_without_folder(song, storage.absolute(store)) for song in members],
        "extra": dict(extra or {}),
    }
    write_json(path, content)
    return address_of(read_manifest(path))


def stored_songs(store: str | Path, shard: Shard) -> list[Song]:
    """The songs of a shard as they were written, in the order of its rows; InputError when its sidecar is lost."""
    path = storage.join(storage.absolute(store), shard.file)
    sidecar = read_json(path.removesuffix(".parquet") + ".json")
    if sidecar is None:
        raise InputError(f"the sidecar of shard {path} cannot be read; run ingest again")
    return [Song(**song, path=path) for song in sidecar["songs"]]


def _without_folder(song: Song, store: str) -> dict[str, Any]:
    path = storage.absolute(song.path) if song.path else ""
    return {**asdict(song), "path": path.removeprefix(store).lstrip("/")}


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    storage.write(path, (json.dumps(content, indent=1, ensure_ascii=True, sort_keys=True) + "\n").encode())


def read_json(path: str | Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None when it is missing or damaged."""
    try:
        content = json.loads(storage.read(path))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def clear_leftovers(store: str | Path) -> int:
    """Remove temporary files of killed jobs; the number removed. Only for the holder of `exclusive(store)`."""
    leftovers = [
        storage.join(store, folder, name)
        for folder in ("chunks", "tables", "manifests")
        for name in storage.names(storage.join(store, folder))
        if name.startswith(storage.TEMPORARY)
    ]
    for path in leftovers:
        storage.remove(path)
    return len(leftovers)


@contextmanager
def exclusive(store: str | Path) -> Iterator[None]:
    """Hold the store against other jobs that write shards; InputError when one is at work in it.

    The lock goes with the process, so a killed job leaves none behind. Jobs on one store in S3 need none: equal
    names stand for equal bytes there, and an object is replaced as a whole.
    """
    if storage.is_remote(store):
        yield
        return
    path = Path(store) / "chunks" / ".lock"
    with storage.disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"process {file.read().strip() or 'unknown'} is writing to the store {store}; "
                "wait for it, or choose another folder with store.root=DIR"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


# --- reading ------------------------------------------------------------------------------------------------


def find_manifest(store: str | Path, *, step: str, key: str) -> ShardSet | None:
    """The finished table of an earlier run; None when there is none or one of its files is not as it was left."""
    path = _manifest_path(store, step, key)
    if storage.stamp(path) is None:
        return None
    try:
        manifest = read_manifest(path)
    except InputError:
        return None
    return address_of(manifest) if all(is_whole(manifest.store, shard) for shard in manifest.shards) else None


def read_manifest(address: ShardSet | str) -> Manifest:
    """What stands in a manifest; InputError when it is missing or of an unknown schema."""
    path = address.uri if isinstance(address, ShardSet) else address
    store = path.rsplit("/", 2)[0]
    try:
        content = json.loads(storage.read(path))
    except FileNotFoundError:
        raise InputError(f"no manifest at {path}; run the step that makes it again") from None
    except (OSError, ValueError) as error:
        raise InputError(f"the manifest {path} cannot be read: {error}") from None
    _check_version(content.get("schema_version"), path)
    return Manifest(
        store=store,
        table=content["table"],
        step=content["step"],
        key=content["key"],
        shards=tuple(Shard(**shard) for shard in content["shards"]),
        songs=tuple(Song(**{**song, "path": storage.join(store, song["path"])}) for song in content["songs"]),
        extra=content["extra"],
    )


def read_table(address: ShardSet) -> pa.Table:
    """A whole table other than CHUNKS."""
    assert address.table != "chunks", "chunk tables are read row by row"
    manifest = read_manifest(address)
    return pa.concat_tables(_open_shard(manifest, shard).read() for shard in manifest.shards)


def read_rows(
    address: ShardSet, *, columns: Sequence[str] | None = None, where: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows in stored order; `where` maps columns to the value, or the collection of values, that they must have.

    Rows of a chunk table carry the split, the title and the license that the manifest gives their song.
    """
    manifest = read_manifest(address)
    for shard in manifest.shards:
        try:
            yield from _rows_of(manifest, shard, columns=columns, where=where)
        except (OSError, pa.ArrowException, KeyError) as error:  # what pyarrow makes of a flipped bit
            path = storage.join(manifest.store, shard.file)
            raise InputError(f"shard {path} is damaged: {error}; delete it and run the step again") from None


def _rows_of(
    manifest: Manifest, shard: Shard, *, columns: Sequence[str] | None, where: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    file = _open_shard(manifest, shard)
    if absent := [name for name in (*(columns or ()), *(where or ())) if name not in file.schema_arrow.names]:
        raise InputError(f"the table {manifest.table} in {manifest.store} has no column {', '.join(absent)}")
    for group, facts in _groups_of(manifest, shard, file):
        if where:
            small = file.read_row_group(group, columns=list(where)).to_pylist()
            if not any(_matches({**row, **facts}, where) for row in small):
                continue
        wanted = None if columns is None else [*dict.fromkeys([*columns, *(where or {})])]
        for stored in file.read_row_group(group, columns=wanted).to_pylist():
            row = {**stored, **{name: fact for name, fact in facts.items() if name in stored}}
            if not where or _matches(row, where):
                yield row if columns is None else {name: row[name] for name in columns}


def _groups_of(manifest: Manifest, shard: Shard, file: pq.ParquetFile) -> Iterator[tuple[int, dict[str, str]]]:
    """The row groups of a shard that belong to the table, and what its manifest says of them."""
    if manifest.table != "chunks":
        yield from ((group, {}) for group in range(file.num_row_groups))
        return
    path = storage.join(manifest.store, shard.file)
    for song in sorted((song for song in manifest.songs if song.path == path), key=lambda song: song.first_row):
        facts = {"split": song.split, "title": song.title, "license": song.license}
        yield from ((group, facts) for group in range(song.first_row, song.first_row + song.num_chunks))


def read_songs(address: ShardSet) -> tuple[Song, ...]:
    """Every song of a chunk table, in the order of their ids: the same for one content, however it came about."""
    return read_manifest(address).songs


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


def find_song(address: ShardSet, track_id: str) -> Song:
    """A song of a chunk table by its id."""
    for song in read_songs(address):
        if song.track_id == track_id:
            return song
    raise InputError(f"no song {track_id!r} in {address.uri}")


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


def verify(address: ShardSet) -> None:
    """Read every byte of a table; InputError that names the first shard that is not as it was written."""
    manifest = read_manifest(address)
    for shard in manifest.shards:
        path = storage.join(manifest.store, shard.file)
        try:
            with storage.open_reader(path) as file:
                seen = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"shard {path} cannot be read: {error}") from None
        if seen != shard.sha256:
            raise InputError(f"shard {path} is damaged: its checksum does not match; delete it and run the step again")


def sources_of(song: Song) -> tuple[str, ...]:
    """The sources that a stored song has, in their order."""
    with open_parquet(song.path) as file:
        return stored_sources(file.schema_arrow)


def stored_sources(schema: pa.Schema) -> tuple[str, ...]:
    """The sources that a chunk file holds, in its order."""
    return tuple(field.name for field in schema if field.type == pa.large_binary())


# --- rows and dataclasses -----------------------------------------------------------------------------------


def table_of(rows: Iterable[Any], schema: pa.Schema) -> pa.Table:
    """An Arrow table of border values (`Verdict`, `Profile`, `MixPlan`, `Score`), in the given order."""
    plain = []
    for row in rows:
        values = {name: list(v.items()) if isinstance(v, Mapping) else v for name, v in asdict(row).items()}
        plain.append({"schema_version": SCHEMA_VERSION, **values})
    return pa.Table.from_pylist(plain, schema=schema)


def read_objects(address: ShardSet, kind: type[Row]) -> list[Row]:
    """The rows of a small table as border values of class `kind`."""
    table = read_table(address)
    maps = {field.name for field in table.schema if pa.types.is_map(field.type)}
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    objects = []
    for row in table.select(names).to_pylist():
        for name, value in row.items():
            if name in maps:
                row[name] = dict(value or ())
            elif isinstance(value, list):
                row[name] = tuple(_item(item) for item in value)
        objects.append(kind(**row))
    return objects


def _item(value: Any) -> Any:
    if isinstance(value, dict):
        return Part(**value)
    return tuple(value) if isinstance(value, list) else value


# --- files --------------------------------------------------------------------------------------------------


def _manifest_path(store: str | Path, step: str, key: str) -> str:
    return storage.join(storage.absolute(store), "manifests", f"{step}-{key}.json")


def address_of(manifest: Manifest) -> ShardSet:
    """The address of a finished table. The digest of a chunk table says nothing of its shards, only of its songs."""
    songs = [[song.track_id, song.split, song.audio] for song in manifest.songs]
    content = songs if manifest.table == "chunks" else [shard.sha256 for shard in manifest.shards]
    return ShardSet(
        uri=_manifest_path(manifest.store, manifest.step, manifest.key),
        table=manifest.table,
        num_rows=sum(part.num_chunks for part in manifest.songs)
        if manifest.table == "chunks"
        else sum(shard.num_rows for shard in manifest.shards),
        digest=_digest(content)[:16],
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


class _Measured(io.RawIOBase):
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


def _check_version(version: Any, path: str) -> None:
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}; this program reads version {SCHEMA_VERSION}. "
            "Build the store again, or use the program version that wrote it"
        )


def _open_shard(manifest: Manifest, shard: Shard) -> pq.ParquetFile:
    path = storage.join(manifest.store, shard.file)
    try:
        seen = storage.stamp(path)
        if seen and seen.size != shard.num_bytes:
            raise InputError(
                f"shard {path} is damaged: it has {seen.size} bytes instead of {shard.num_bytes}; run the step again"
            )
        file = open_parquet(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"shard {path} cannot be read ({error}); run the step again") from None
    if file.num_row_groups and "schema_version" in file.schema_arrow.names:
        first = file.read_row_group(0, columns=["schema_version"]).column(0)
        if len(first):
            _check_version(first[0].as_py(), path)
    return file


def _matches(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(
        row[name] in wanted if isinstance(wanted, Collection) and not isinstance(wanted, str) else row[name] == wanted
        for name, wanted in where.items()
    )


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
