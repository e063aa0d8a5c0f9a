"""A folder per song, with the folders inside that only sort its files."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from datasets.corpus.file_listing import is_audio, is_foreign
from datasets.corpus.layouts.found_song import FoundSong, Search, named, shown, song_of
from datasets.corpus.splits import song_title, split_alias, stated_split
from datasets.corpus.stem_file_versions import is_container, is_format
from datasets.corpus.stem_names import read_song
from datasets.schema import StemFile

NO_STEMS = "no stems"  # in place of a layout, for a folder that holds a mixture alone


def folder_songs(search: Search, taken: set[str]) -> Iterator[FoundSong]:
    """Songs of folders that hold audio, together with the folders inside that only sort a song's files."""
    audio = {
        folder: [file for file in files if is_audio(file)]
        for folder, files in search.listing.folders.items()
        if folder and folder not in taken and any(map(is_audio, files))
    }
    members: dict[str, list[str]] = defaultdict(list)
    tops = _song_tops(search, audio)
    for folder, files in audio.items():
        top = tops[folder]
        members[top] += [f"{folder}/{file}"[len(top) + 1 :] for file in files]
    for top, paths in members.items():
        yield _folder_song(search, top, sorted(paths))


def _song_tops(search: Search, audio: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The folder that is the song, for each folder with audio.

    A folder inside a song is told by its name, all of whose words the taxonomy knows ("Drums", "Lead Vox", "Stems"),
    and by its company: its parent holds audio itself, or only folders of such names. One that holds a file for every
    source by itself is a song, as "Intro" and "Piano" of an album are, unless its name speaks of files alone.
    """
    children: dict[str, set[str]] = defaultdict(set)
    for folder in audio:
        path = folder
        while path:
            path, _, name = path.rpartition("/")
            children[path].add(name)

    def is_known(name: str) -> bool:
        return search.taxonomy.explains(name) or is_format(name)

    def is_inside(folder: str) -> bool:
        parent, _, name = folder.rpartition("/")
        if not parent or ("/" not in parent and split_alias(parent)) or not is_known(name):
            return False
        if not is_container(name, search.taxonomy) and _is_whole(search, audio.get(folder, ())):
            return False
        return parent in audio or all(map(is_known, children[parent]))

    tops = {}
    for folder in audio:
        top = folder
        while is_inside(top):
            top = top.rpartition("/")[0]
        tops[folder] = top
    return tops


def _is_whole(search: Search, files: Sequence[str]) -> bool:
    """Whether the names of files alone give every source that is asked for."""
    notes = read_song(files, taxonomy=search.taxonomy, sources=search.sources)
    return len(search.sources) > 1 and {note.source for note in notes} >= set(search.sources)


def _folder_song(search: Search, folder: str, paths: Sequence[str]) -> FoundSong:
    """The song of a folder, refused where it holds mixtures and the like alone."""
    notes = read_song(paths, taxonomy=search.taxonomy, sources=search.sources)
    if all(note.status == "ignored" for note in notes):
        return named(
            FoundSong(
                name=folder, title=song_title(folder), layout=NO_STEMS, notes=tuple(notes), reason="missing_stem",
                detail=f"no stems, only {shown(paths)}",
            )
        )  # fmt: skip
    parts = [(note, StemFile(path=search.listing.address(f"{folder}/{note.path}"), side=note.side)) for note in notes]
    used = [note for note in notes if note.status == "used"]
    exact = {os.path.splitext(note.path)[0].lower() for note in used}
    whole = len(used) == len(search.sources) and exact == set(search.sources)
    layout = ("musdb18-hq" if "mixture.wav" in paths and stated_split(folder) else "folders") if whole else "multitrack"
    foreign = [file for file in search.listing.folders[folder] if is_foreign(file)]
    song = song_of(search, folder, layout, parts, foreign=foreign)
    mixtures = [path for path in paths if os.path.splitext(path)[0].lower() == "mixture"]
    return replace(
        song, mixture=tuple(StemFile(path=search.listing.address(f"{folder}/{path}")) for path in mixtures[:1])
    )
