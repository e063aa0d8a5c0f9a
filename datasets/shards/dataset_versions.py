"""Dataset versions: which songs of a corpus are stored already, how the others become shards, how versions differ.

A version is a manifest of table CHUNKS. Its shards are never touched again: a later version lists the songs that it
shares with earlier ones where they lie, and only songs with a new key are decoded, into new shards. So adding ten
songs decodes ten, replacing a file one, and leaving songs out none; and every older version stays readable.
"""

import difflib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.schema import SPLITS, Track
from datasets.shards.manifests import (
    Manifest,
    Shard,
    Song,
    SongOrigin,
    address_of,
    read_manifest,
    settings_of,
    stored_songs,
)
from datasets.shards.shards import find_shard
from datasets.store import storage
from datasets.store.json_files import read_json

# Bytes of 16-bit FLAC per byte of a file, roughly: shards need no better. The rest of the lossless formats, and 1.
_GROWTH = {".wav": 0.6, ".aif": 0.6, ".aiff": 0.6, ".mp3": 3.5, ".m4a": 3.5, ".mp4": 3.5, ".ogg": 4.0, ".opus": 5.0}
_AT_ONCE = 16  # sidecars: in an object store each is a request or two of waiting


# --- what is stored, and what is to be ------------------------------------------------------------------------


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


def drawn_sides(store: str | Path, rule: Mapping[str, Any], *, step: str = "ingest") -> dict[str, str]:
    """The side on which each song stood last in a version of this step that was drawn by the same rule, by song.

    So a song that was drawn once keeps its side, also where the corpus grows or the way of drawing changes. Damaged
    manifests, and those of other program versions, say nothing.
    """
    sides: dict[str, str] = {}
    folder = storage.join(storage.absolute(store), "manifests")
    paths = [storage.join(folder, name) for name in storage.names(folder) if name.startswith(f"{step}-")]
    for path in sorted(paths, key=lambda path: (_changed_ns(path), path)):
        try:
            data = storage.read(path) if path.endswith(".json") else b"{}"
        except FileNotFoundError:
            continue
        try:
            content = json.loads(data)
            if content["extra"].get("split_rule") == rule:
                sides |= {song["track_id"]: song["split"] for song in content["songs"]}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return sides


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


# --- versions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One dataset of a store, in the words of `stemline datasets`."""

    id: str  # enough of the key to tell it from the others
    step: str  # "ingest", "curate" or "automix"
    made_at: str  # UTC
    num_songs: int
    hours: float
    splits: Mapping[str, int]
    num_bytes: int  # of FLAC; versions share it
    num_left_out: int  # songs refused or dropped on the way
    made_from: str  # the corpus folder, or the version that it was selected from
    changed_settings: Mapping[str, tuple[Any, Any]]  # before and now, against the version before it of the same step
    digest: str  # of the content: track ids, splits and audio
    manifest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDiff:
    """What a second version holds otherwise than a first; ids in order."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed_audio: tuple[str, ...]
    changed_split: Mapping[str, tuple[str, str]]  # before and after
    changed_license: Mapping[str, tuple[str, str]]
    unchanged: int


def list_versions(store: str | Path) -> list[Version]:
    """The dataset versions of a store, the newest first; InputError when there is no such store."""
    manifests = _manifests(store)
    ids = _short([manifest.key for _, manifest in manifests])
    versions: list[Version] = []
    before: dict[str, Mapping[str, Any]] = {}
    for path, manifest in manifests:
        settings = dict(_leaves(settings_of(manifest)))
        versions.append(_version(path, manifest, ids, settings, before.get(manifest.step)))
        if settings:
            before[manifest.step] = settings
    return versions[::-1]


def diff(store: str | Path, first: str, second: str) -> VersionDiff:
    """How the second version differs from the first; each is named by its id, or by the first digits of it."""
    return difference(_resolve(store, first).songs, _resolve(store, second).songs)


def difference(first: Iterable[Song], second: Iterable[Song]) -> VersionDiff:
    """What the second of two lists of songs holds otherwise than the first."""
    one, two = ({song.track_id: song for song in songs} for songs in (first, second))
    both = sorted(set(one) & set(two))
    splits = {name: (one[name].split, two[name].split) for name in both}
    licenses = {name: (one[name].license, two[name].license) for name in both}
    audio = tuple(name for name in both if one[name].audio != two[name].audio)
    changed_split = {name: pair for name, pair in splits.items() if pair[0] != pair[1]}
    return VersionDiff(
        added=tuple(sorted(set(two) - set(one))),
        removed=tuple(sorted(set(one) - set(two))),
        changed_audio=audio,
        changed_split=changed_split,
        changed_license={name: pair for name, pair in licenses.items() if pair[0] != pair[1]},
        unchanged=len(set(both) - set(audio) - set(changed_split)),
    )


def find(store: str | Path, name: str) -> dict[str, tuple[Song, ...]]:
    """The songs called `name` in each version that holds one, by version id, the newest first.

    A song is called by its id, its title or a part of either, in this order; InputError with near names when none is.
    """
    manifests = _manifests(store)
    ids = _short([manifest.key for _, manifest in manifests])
    wanted = name.casefold()
    tests = (
        lambda song: song.track_id == name,
        lambda song: wanted in (song.track_id.casefold(), song.title.casefold()),
        lambda song: wanted in song.track_id.casefold() or wanted in song.title.casefold(),
    )
    for test in tests:
        found = {
            ids[manifest.key]: songs
            for _, manifest in reversed(manifests)
            if (songs := tuple(song for song in manifest.songs if test(song)))
        }
        if found:
            return found
    titles = sorted({song.title for _, manifest in manifests for song in manifest.songs})
    near = difflib.get_close_matches(name, titles, n=3, cutoff=0.4)
    advice = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
    raise InputError(f"none of the {len(manifests)} datasets of {store} has a song called {name!r}{advice}")


def _version(
    path: str,
    manifest: Manifest,
    ids: Mapping[str, str],
    settings: Mapping[str, Any],
    before: Mapping[str, Any] | None,
) -> Version:
    songs = manifest.songs
    sides = Counter(song.split for song in songs)
    step, _, parent = str(manifest.extra.get("made_from", "")).partition("-")
    summary = manifest.extra.get("summary", {})
    return Version(
        id=ids[manifest.key],
        step=manifest.step,
        made_at=datetime.fromtimestamp(_changed_ns(path) / 1e9, UTC).isoformat(timespec="seconds"),
        num_songs=len(songs),
        hours=sum(song.num_samples / song.sample_rate for song in songs) / 3600,
        splits={split: sides[split] for split in SPLITS},
        num_bytes=sum(song.num_bytes for song in songs),
        num_left_out=len(manifest.extra.get("rejected", ())) + sum(summary.get("dropped", {}).values()),
        made_from=f"{step} {ids.get(parent, parent)}" if parent else str(settings.get("corpus.root", "")),
        changed_settings=_changes(before, settings) if before and settings else {},
        digest=address_of(manifest).digest,
        manifest=path,
    )


def _manifests(store: str | Path) -> list[tuple[str, Manifest]]:
    """The readable manifests of chunk tables, the oldest first."""
    folder = storage.absolute(store)
    if not storage.is_remote(folder) and not Path(folder).is_dir():
        raise InputError(f"there is no store at {folder}; store.root=DIR names the folder of one")
    paths = [storage.join(folder, "manifests", name) for name in storage.names(storage.join(folder, "manifests"))]
    found = [
        (path, read_manifest(path))
        for path in paths
        if path.endswith(".json") and (read_json(path) or {}).get("table") == "chunks"
    ]
    return sorted(found, key=lambda pair: (_changed_ns(pair[0]), pair[0]))


def _changed_ns(path: str) -> int:
    stamp = storage.stamp(path)
    return stamp.changed_ns if stamp else 0


def _short(keys: Sequence[str]) -> dict[str, str]:
    """Every key with as many of its first digits as tell it from the others, at least six."""
    length = next(n for n in range(6, 65) if len({key[:n] for key in keys}) == len(set(keys)))
    return {key: key[:length] for key in keys}


def _resolve(store: str | Path, name: str) -> Manifest:
    """The version that a user means by an id, the first digits of one, or `step-key` as its file is called."""
    manifests = [manifest for _, manifest in _manifests(store)]
    found = [m for m in manifests if m.key.startswith(name) or f"{m.step}-{m.key}".startswith(name)] if name else []
    if len(found) == 1:
        return found[0]
    ids = _short([manifest.key for manifest in manifests])
    listed = ", ".join(f"{ids[m.key]} ({m.step})" for m in (found or manifests)) or "none"
    what = f"{len(found)} datasets are called {name!r}" if found else f"no dataset is called {name!r}"
    raise InputError(f"{what} in {store}; there are: {listed}")


def _leaves(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name; None is left out, as TOML leaves it out."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}{key}.")
        elif value is not None:
            yield f"{at}{key}", value


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(set(before) | set(now))
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}
