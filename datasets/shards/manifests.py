"""Manifests: the JSON files that declare a table finished, list its shards, and say where the songs of a dataset lie.

A store is one folder, on a disk or in S3: `chunks/<spec>.parquet` with its sidecar `<spec>.json`,
`tables/<table>-<key>.parquet`, `manifests/<step>-<key>.json`. Files get their names when they are written whole
(`store/storage.py`); the sidecar follows its shard and the manifest comes last, so whatever has a name is finished.

Chunk files never change and are shared: a manifest of table CHUNKS lists its songs, in the order of their ids,
and where each lies. What may change without the audio (split, title, license) is read from that list, never
from the rows. `shard_planning.py` says how a new version reuses the shards of older ones.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.schema import SCHEMA_VERSION, ShardSet
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json

# The sections of a stored configuration that decide on a table, by the step of its manifest.
_CORPUS = ("corpus", "ingest", "curate", "analyze", "automix")
_SECTIONS = {
    "ingest": _CORPUS[:2],
    "curate": _CORPUS[:3],
    "verdicts": _CORPUS[:3],
    "profiles": _CORPUS[:4],
    "plans": _CORPUS,
    "automix": _CORPUS,
    "evaluate": (*_CORPUS[:3], "evaluate"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One Parquet file of a finished table; `file` is relative to the store."""

    file: str
    num_rows: int
    num_bytes: int
    sha256: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SongOrigin:
    """What the files were that a song was stored from."""

    lossless: bool  # the codec of each of them
    bits: int  # 16 or 24: of the deepest
    sample_rate: int  # Hz
    remarks: tuple[str, ...] = ()  # what was left out or changed on the way, in words


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
    settings: Mapping[str, Any]  # by section, of the step and of those before it; see `settings_of`


def write_manifest(
    store: str | Path,
    *,
    table: str,
    step: str,
    key: str,
    shards: Sequence[Shard],
    songs: Iterable[Song] | None = None,
    extra: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ShardSet:
    """Declare a table finished. `extra` is anything JSON-sized to be found again by `read_manifest`.

    `settings` are the resolved ones, by section, of the step and of those before it.

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
        "settings": dict(settings or {}),
    }
    write_json(path, content)
    return address_of(read_manifest(path))


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
    check_version(content.get("schema_version"), path)
    return Manifest(
        store=store,
        table=content["table"],
        step=content["step"],
        key=content["key"],
        shards=tuple(Shard(**shard) for shard in content["shards"]),
        songs=tuple(Song(**{**song, "path": storage.join(store, song["path"])}) for song in content["songs"]),
        extra=content["extra"],
        settings=content.get("settings", {}),
    )


def named_table(manifest: Manifest, name: str) -> ShardSet | None:
    """The table that the `extra` of a manifest names, None if it names none.

    It lies beside the manifest, wherever the store stood when it was written.
    """
    noted = manifest.extra.get(name)
    if not noted:
        return None
    return ShardSet(**{**noted, "uri": storage.join(manifest.store, "manifests", noted["uri"].rsplit("/", 1)[-1])})


def settings_of(manifest: Manifest) -> Mapping[str, Any]:
    """The settings that decided on a table, by section: those of its step and of the steps before it.

    Version 0.1 kept them in a TOML file beside the manifest. Empty where neither holds any.
    """
    if manifest.settings:
        return manifest.settings
    path = _manifest_path(manifest.store, manifest.step, manifest.key)
    try:
        stored = tomllib.loads(storage.read(path.removesuffix(".json") + ".toml").decode())
    except (OSError, ValueError):
        return {}
    return {name: stored[name] for name in _SECTIONS.get(manifest.step, ()) if name in stored}


def read_songs(address: ShardSet) -> tuple[Song, ...]:
    """Every song of a chunk table, in the order of their ids: the same for one content, however it came about."""
    return read_manifest(address).songs


def find_song(address: ShardSet, track_id: str) -> Song:
    """A song of a chunk table by its id."""
    for song in read_songs(address):
        if song.track_id == track_id:
            return song
    raise InputError(f"no song {track_id!r} in {address.uri}")


def stored_songs(store: str | Path, shard: Shard) -> list[Song]:
    """The songs of a shard as they were written, in the order of its rows; InputError when its sidecar is lost."""
    path = storage.join(storage.absolute(store), shard.file)
    sidecar = read_json(path.removesuffix(".parquet") + ".json")
    if sidecar is None:
        raise InputError(f"the sidecar of shard {path} cannot be read; run ingest again")
    return [Song(**song, path=path) for song in sidecar["songs"]]


def is_whole(store: str | Path, shard: Shard) -> bool:
    """Whether the file of a shard is there and as long as it was."""
    seen = storage.stamp(storage.join(store, shard.file))
    return seen is not None and seen.size == shard.num_bytes


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


def _without_folder(song: Song, store: str) -> dict[str, Any]:
    path = storage.absolute(song.path) if song.path else ""
    return {**asdict(song), "path": path.removeprefix(store).lstrip("/")}


def _manifest_path(store: str | Path, step: str, key: str) -> str:
    return storage.join(storage.absolute(store), "manifests", f"{step}-{key}.json")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def check_version(version: Any, path: str) -> None:
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}; this program reads version {SCHEMA_VERSION}. "
            "Build the store again, or use the program version that wrote it"
        )
