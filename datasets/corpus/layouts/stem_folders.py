"""One folder per stem: files that bear one name in several folders called like sources are one song."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from datasets.corpus.file_listing import is_audio
from datasets.corpus.layouts.found_song import FoundSong, Search, song_of
from datasets.corpus.splits import split_alias
from datasets.corpus.stem_names import FileNote, read_label
from datasets.schema import StemFile


def stem_folder_songs(search: Search) -> tuple[list[FoundSong], set[str]]:
    """Songs of files that bear one name in several folders called like sources, at the top or in split folders."""
    songs: list[FoundSong] = []
    taken: set[str] = set()
    tops = {""} | {folder for folder in search.listing.folders if "/" not in folder and split_alias(folder)}
    for top in sorted(tops):
        base = f"{top}/" if top else ""
        below = [
            folder
            for folder, files in search.listing.folders.items()
            if folder.startswith(base) and "/" not in folder[len(base) :] and any(map(is_audio, files))
        ]
        if sum(folder[len(base) :].lower() in search.sources for folder in below) < 2:
            continue
        stems = [folder for folder in below if _is_label(search, folder[len(base) :])]
        songs += _songs_across(search, base, stems)
        taken |= {other for other in search.listing.folders for stem in stems if f"{other}/".startswith(f"{stem}/")}
    return songs, taken


def _is_label(search: Search, name: str) -> bool:
    return name.lower() in search.sources or search.taxonomy.explains(name)


def _songs_across(search: Search, base: str, stems: Sequence[str]) -> Iterator[FoundSong]:
    by_name: dict[str, list[tuple[FileNote, StemFile]]] = defaultdict(list)
    for stem in stems:
        note = read_label(stem[len(base) :], taxonomy=search.taxonomy, sources=search.sources)
        for folder, files in search.listing.folders.items():
            if not f"{folder}/".startswith(f"{stem}/"):
                continue
            for file in filter(is_audio, files):
                path = f"{folder}/{file}"
                key = os.path.splitext(path[len(stem) + 1 :])[0]
                by_name[key].append(
                    (replace(note, path=path[len(base) :]), StemFile(path=search.listing.address(path)))
                )
    for key, parts in by_name.items():
        song = song_of(search, f"{base}{key}", "stem-folders", parts, one_each=True)
        if song.reason == "missing_stem":
            song = replace(
                song, detail=f"{song.detail} of this name; only files that bear one name in all folders can be joined "
                "into a song, and training needs all stems of a song"
            )  # fmt: skip
        yield song
