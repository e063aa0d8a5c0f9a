"""Songs that plug-ins find: layouts of other people's, which are asked before those known here."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets.corpus.file_listing import is_audio
from datasets.corpus.layouts.found_song import FoundSong, LayoutPlugin, Search, song_of, stated_kind
from datasets.schema import StemFile

MIXTURE = "mixture"  # the kind of a file that is no stem


def plugin_songs(search: Search) -> tuple[list[FoundSong], Search]:
    """The songs of all plug-ins, and the search without what is theirs.

    A plug-in is called with the paths of all files, below the root, and `read`, which gives the bytes of one. It gives
    {song: {path: kind}}. The folders of its songs' files are no longer looked into, nor are such files at the top.
    """
    songs: list[FoundSong] = []
    owners: dict[str, str] = {}  # song by file
    files = tuple(f"{folder}/{name}".lstrip("/") for folder, names in search.listing.folders.items() for name in names)
    present = frozenset(files)
    for plugin in search.rules.plugins:
        result = plugin.call(files, read=search.listing.content)
        if not isinstance(result, Mapping):
            raise plugin.failure(f"returned {type(result).__name__}: want {{song: {{path: kind}}}}")
        for name, kinds in result.items():
            _check(plugin, search, name, kinds, present, owners)
            owners |= dict.fromkeys(kinds, name)
            songs.append(_song(search, plugin, name, kinds))
    folders = {path.rpartition("/")[0] for path in owners} - {""}
    left = {
        folder: tuple(name for name in names if f"{folder}/{name}".lstrip("/") not in owners)
        for folder, names in search.listing.folders.items()
        if folder not in folders
    }
    return songs, replace(search, listing=replace(search.listing, folders=left))


def _check(
    plugin: LayoutPlugin, search: Search, name: Any, kinds: Any, files: frozenset[str], owners: Mapping[str, str]
) -> None:
    """The plug-in's error where a song is not of files that are there, each of one song and one kind of sound."""
    if not isinstance(name, str) or not name.strip("/") or name != name.strip("/"):
        raise plugin.failure(f"named a song {name!r:.60}: want text, such as 'train/Song', without / at its ends")
    if not isinstance(kinds, Mapping) or not kinds:
        raise plugin.failure(f"returned {kinds!r:.60} for {name!r}: want {{path: kind}} of its files")
    for path, kind in kinds.items():
        if path not in files or not is_audio(path):
            raise plugin.failure(
                f"gave {name!r} the file {path!r:.120}: want audio files among those it was called with"
            )
        if path in owners:
            raise plugin.failure(f"gave {path!r} to {owners[path]!r} and {name!r}: a file belongs to one song")
        if not isinstance(kind, str) or kind not in {MIXTURE, *search.sources, *search.taxonomy.parents}:
            raise plugin.failure(
                f"called {path!r} {kind!r:.60}: want one of {', '.join(search.sources)}, a kind of the taxonomy, or "
                f"{MIXTURE}"
            )
    if (num_mixtures := list(kinds.values()).count(MIXTURE)) > 1:
        raise plugin.failure(f"gave {name!r} {num_mixtures} mixtures: want one at most")


def _song(search: Search, plugin: LayoutPlugin, name: str, kinds: Mapping[str, str]) -> FoundSong:
    parts = [
        (stated_kind(search, path, kind), StemFile(path=search.listing.address(path)))
        for path, kind in sorted(kinds.items())
        if kind != MIXTURE
    ]
    song = song_of(search, name, plugin.name, parts)
    mixture = (StemFile(path=search.listing.address(path)) for path, kind in kinds.items() if kind == MIXTURE)
    return replace(song, mixture=tuple(mixture))
