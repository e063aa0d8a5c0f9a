"""Published datasets that say in files of their own what each stem is."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from datasets.corpus.layouts.found_song import FoundSong, Search, as_text, named, song_of, stated_kind, unreadable
from datasets.corpus.listing import upwards
from datasets.corpus.musdb18 import stem_streams
from datasets.corpus.splits import title_of
from datasets.errors import Unavailable
from datasets.schema import StemFile

STEM_FILE = ".stem.mp4"
# What MoisesDB's stems are in the default taxonomy. Its own four stems count percussion as other; so do we there.
MOISES_KINDS = {
    "vocals": "vocals", "bass": "bass", "drums": "drums", "guitar": "guitar", "piano": "piano", "other": "other",
    "percussion": "other", "other_keys": "keys", "bowed_strings": "strings", "wind": "wind", "other_plucked": "plucked",
}  # fmt: skip


def stem_file_songs(search: Search) -> Iterator[FoundSong]:
    for folder, files in search.listing.folders.items():
        for file in files:
            if file.lower().endswith(STEM_FILE):
                path = f"{folder}/{file}".lstrip("/")
                address = search.listing.address(path)
                parts = [
                    (stated_kind(search, kind, kind), StemFile(path=address, stream=stream))
                    for kind, stream in stem_streams().items()
                ]
                song = song_of(search, path[: -len(STEM_FILE)], "musdb18", parts)
                yield replace(song, mixture=(StemFile(path=address, stream=0),))


# --- MoisesDB -----------------------------------------------------------------------------------------------


def moises_songs(search: Search) -> tuple[list[FoundSong], set[str]]:
    """Songs of folders with a data.json that lists stems and their tracks, and all folders that are theirs."""
    songs: dict[str, FoundSong] = {}
    for folder, files in search.listing.folders.items():
        if "data.json" not in files or not folder:
            continue
        try:
            about = json.loads(search.listing.text(f"{folder}/data.json"))
            tracks = [
                (str(stem["stemName"]), f"{track['id']}.{track['extension']}")
                for stem in about["stems"]
                for track in stem["tracks"]
            ]
        except Unavailable as error:
            songs[folder] = replace(unreadable(folder, ""), layout="moisesdb", detail=str(error))
            continue
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # some other program's data.json
        songs[folder] = _moises_song(search, folder, about, tracks)
    taken = {other for other in search.listing.folders if any(above in songs for above in upwards(other))}
    return list(songs.values()), taken


def _moises_song(search: Search, folder: str, about: Mapping[str, Any], tracks: Sequence[tuple[str, str]]) -> FoundSong:
    title = " - ".join(str(about[key]) for key in ("artist", "song") if about.get(key)) or title_of(folder)
    parts = []
    for stem, file in sorted(tracks):
        path = f"{stem}/{file}"
        if len(PurePosixPath(path).parts) != 2 or ".." in PurePosixPath(path).parts:
            return named(
                FoundSong(
                    name=folder, title=title, layout="moisesdb", reason="unsafe_name",
                    detail=f"its data.json names {path!r}, which leads out of its folder",
                )
            )  # fmt: skip
        kind = MOISES_KINDS.get(stem, stem)
        parts.append((stated_kind(search, path, kind), StemFile(path=search.listing.address(f"{folder}/{path}"))))
    song = song_of(search, folder, "moisesdb", parts)
    return replace(song, title=unicodedata.normalize("NFC", as_text(title)))
