"""Recordings that a store is to forget: one small file each in its data folder, which ingest and curation always obey.

They are known by the digest of their stored audio and by what they sound like, so that a copy under another name, in
another master or at another rate is refused as well, in every later run and deployment of the store and of every store
that shares its data. A file is written whole, nothing is ever changed in it, and all may be written again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets.errors import InputError
from datasets.quality.fingerprint import Signature, find_matches, unpack
from datasets.store import storage
from datasets.store.atomic_json import write_json

FOLDER = "forgotten"  # beside chunks, tables and manifests
REASON = "forgotten"
SAME = 0.5  # share of the shorter of two songs that must be one recording


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedSong:
    """A song that was to be forgotten."""

    track_id: str
    title: str
    audio: str  # digest of what was stored of it
    signature: str  # as `fingerprint.pack` writes it; empty where its audio was gone before it could be heard
    at: str  # UTC, ISO 8601


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedSongs:
    """All of a store."""

    songs: tuple[RemovedSong, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.songs)

    @property
    def names(self) -> list[str]:
        """The digests of their audio, in order: what decides on a dataset."""
        return [song.audio for song in self.songs]

    def recognized(self, audio: Mapping[str, str], sounds: Mapping[str, Signature]) -> dict[str, str]:
        """Those of some songs that are to be forgotten, with the evidence; `audio` and `sounds` are by their ids."""
        if not self.songs:
            return {}
        known = {song.audio: song for song in self.songs}
        found = {
            name: f"the same audio as {known[one].track_id}, which is to be forgotten"
            for name, one in audio.items()
            if one in known
        }
        # A match tells of the later name: so songs asked about sort behind those forgotten.
        asked = {f"song {name}": name for name in audio if name in sounds and name not in found}
        kept = {f"(forgotten) {song.track_id}": unpack(song.signature) for song in self.songs if song.signature}
        both = {**kept, **{key: sounds[name] for key, name in asked.items()}}
        for match in find_matches(both, min_similarity=SAME) if kept and asked else ():
            if match.later in asked and match.first in kept:
                found.setdefault(asked[match.later], match.words)
        return found


NOTHING = RemovedSongs()


def read_removed_songs(store: str | Path) -> RemovedSongs:
    """What a store is to forget; InputError for a file that cannot be read, since nobody knows what it forbids."""
    folder = storage.join(storage.absolute(store), FOLDER)
    songs = []
    for name in storage.names(folder):
        if not name.endswith(".json") or name.startswith("."):
            continue
        try:
            songs.append(RemovedSong(**json.loads(storage.read(storage.join(folder, name)))))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{storage.join(folder, name)} says which song is to be forgotten, and cannot be read ({error}): "
                "restore it from a backup, or remove it and run `stemline forget` for that song again"
            ) from None
    return RemovedSongs(songs=tuple(sorted(songs, key=lambda song: song.audio)))


def write_removed_songs(store: str | Path, songs: Iterable[RemovedSong]) -> None:
    """Add songs to those that a store is to forget; one that is there already stays as it is."""
    folder = storage.join(storage.absolute(store), FOLDER)
    for song in songs:
        address = storage.join(folder, f"{song.audio}.json")
        if storage.stamp(address) is None:
            write_json(address, asdict(song))
