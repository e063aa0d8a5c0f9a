"""The versions of a dataset: listed with what changed, compared, and searched for a song.

A version is a manifest of table CHUNKS; `shard_planning.py` says which songs a new one shares with the older ones.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.schema import SPLITS
from datasets.shards.manifests import (
    Manifest,
    Song,
    address_of,
    read_manifest,
    settings_of,
)
from datasets.store import storage
from datasets.store.atomic_json import read_json


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
    return difference(find_version(store, first).songs, find_version(store, second).songs)


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


def find_version(store: str | Path, name: str) -> Manifest:
    """The version that a user means by an id, the first digits of one, or `step-key` as its file is called.

    InputError where there is none, or more than one.
    """
    manifests = [manifest for _, manifest in _manifests(store)]
    found = [m for m in manifests if m.key.startswith(name) or f"{m.step}-{m.key}".startswith(name)] if name else []
    if len(found) == 1:
        return found[0]
    ids = _short([manifest.key for manifest in manifests])
    listed = ", ".join(f"{ids[m.key]} ({m.step})" for m in (found or manifests)) or "none"
    what = f"{len(found)} datasets are called {name!r}" if found else f"no dataset is called {name!r}"
    raise InputError(f"{what} in {store}; there are: {listed}")


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
