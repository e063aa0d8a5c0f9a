"""Which songs of a corpus are stored already, and how the others become shards.

Shards are never touched again: a later dataset version lists the songs that it shares with earlier ones where they lie,
and only songs with a new key are decoded, into new shards. So adding ten songs decodes ten, replacing a file one, and
leaving songs out none; and every older version stays readable.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.schema import Track
from datasets.shards.manifests import Shard, Song, SongOrigin, stored_songs
from datasets.shards.shards import find_shard
from datasets.store import storage

# Bytes of 16-bit FLAC per byte of a file, roughly: shards need no better. The rest of the lossless formats, and 1.
_GROWTH = {".wav": 0.6, ".aif": 0.6, ".aiff": 0.6, ".mp3": 3.5, ".m4a": 3.5, ".mp4": 3.5, ".ogg": 4.0, ".opus": 5.0}
_AT_ONCE = 16  # sidecars: in an object store each is a request or two of waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """The tracks that go into one new shard, and the digest that names it."""

    spec: str
    tracks: tuple[Track, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSongs:
    """What earlier jobs made of songs, by song key: where they lie, or the verdict that refused them."""

    songs: Mapping[str, tuple[Shard, Song]]
    refused: Mapping[str, Mapping[str, Any]]
    origins: Mapping[str, SongOrigin]

    def __contains__(self, key: str) -> bool:
        return key in self.songs or key in self.refused


def read_store(store: str | Path) -> StoredSongs:
    """The songs of every whole shard that ingest wrote into a store; of two shards with one song, the first by name."""
    songs: dict[str, tuple[Shard, Song]] = {}
    refused: dict[str, Mapping[str, Any]] = {}
    origins: dict[str, SongOrigin] = {}
    names = storage.names(storage.join(store, "chunks"))
    specs = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for shard, members, extra in filter(None, pool.map(lambda spec: _ingested(store, spec), specs)):
            keys: Mapping[str, str] = extra["keys"]
            for song in members:
                songs.setdefault(keys[song.track_id], (shard, song))
            for verdict in extra["rejected"]:
                refused.setdefault(keys[verdict["track_id"]], verdict)
            for track_id, origin in extra.get("origins", {}).items():
                origins.setdefault(keys[track_id], origin_of(origin))
    return StoredSongs(songs=songs, refused=refused, origins=origins)


def origin_of(fields: Mapping[str, Any]) -> SongOrigin:
    """An origin as it is noted in sidecars and manifests."""
    return SongOrigin(**{**fields, "remarks": tuple(fields["remarks"])})


def _ingested(store: str | Path, spec: str) -> tuple[Shard, list[Song], Mapping[str, Any]] | None:
    """A whole shard that ingest wrote, its songs, and what it noted beside them."""
    found = find_shard(store, spec)
    if found is None or "keys" not in found[1]:
        return None
    return found[0], stored_songs(store, found[0]), found[1]


def plan_shards(tracks: Iterable[Track], *, keys: Mapping[str, str], shard_bytes: int) -> list[ShardPlan]:
    """Tracks grouped for writing, in the order of their ids; `keys` are their song keys.

    A shard ends with the song that takes it to `shard_bytes`. So where a killed job left some of these shards behind,
    planning what is missing gives the others as they were planned before.
    """
    plans: list[ShardPlan] = []
    members: list[Track] = []
    num_bytes = 0
    for track in sorted(tracks, key=lambda track: track.track_id):
        members.append(track)
        num_bytes += stored_bytes(track)
        if num_bytes >= shard_bytes:
            plans.append(_plan(members, keys))
            members, num_bytes = [], 0
    return [*plans, _plan(members, keys)] if members else plans


def _plan(members: Sequence[Track], keys: Mapping[str, str]) -> ShardPlan:
    # Everything that rows hold is in the name, so that one name never stands for two files.
    made_from = [[keys[track.track_id], track.title, track.split, track.license] for track in members]
    return ShardPlan(spec=_digest(made_from), tracks=tuple(members))


def stored_bytes(track: Track) -> int:
    """About how many bytes the track will take in a shard, from the sizes and the kinds of its files."""
    shares = Counter((file.path, file.num_bytes) for files in track.stems.values() for file in files)
    total = 0.0
    for (path, size), num_streams in shares.items():
        streams = 5 if path.lower().endswith(".stem.mp4") else num_streams
        total += size * num_streams / streams * _GROWTH.get(os.path.splitext(path)[1].lower(), 1.0)
    return round(total)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:24]
