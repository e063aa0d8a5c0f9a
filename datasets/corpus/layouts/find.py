"""The songs of a corpus folder in any layout known here, with a file per source or the reason why not.

`find_songs` sees only a `Listing` of names and opens no audio, so it takes seconds for thousands of songs. What a
file's name means is decided in `corpus/stem_names.py`; what is inside the files is found out at ingest
(`shards/chunks.py`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets.corpus.file_listing import Listing, is_audio
from datasets.corpus.layouts.csv_listed_songs import CsvFile, csv_songs
from datasets.corpus.layouts.found_song import FoundSong, LayoutRules, Search, unreadable
from datasets.corpus.layouts.plugin_songs import plugin_songs
from datasets.corpus.layouts.research_datasets import described_songs, stem_file_songs
from datasets.corpus.layouts.song_folders import folder_songs
from datasets.corpus.layouts.stem_folders import stem_folder_songs
from datasets.corpus.splits import stated_split
from datasets.corpus.taxonomy import load
from datasets.schema import SPLITS, StemFile

LAYOUTS = {
    "musdb18": "MUSDB18: *.stem.mp4 files, in train/ and test/ or together",
    "musdb18-hq": "MUSDB18-HQ and MUSDB-XL: train/ and test/ with a folder per song holding mixture.wav and SOURCE.wav",
    "moisesdb": "MoisesDB: a folder per song holding data.json and a folder per stem",
    "slakh2100": "Slakh2100: a folder per song holding metadata.yaml and stems/",
    "medleydb": "MedleyDB: a folder per song holding *_METADATA.yaml and *_STEMS/",
    "folders": "song folders: a folder per song holding SOURCE.wav (or .flac, .ogg, .mp3, .m4a, .aiff), "
    "in train/, valid/ and test/ or together",
    "multitrack": "song folders with the files of a production, named as producers do: the taxonomy says what "
    "each is (docs/how-to/name-files.md)",
    "stem-folders": "a folder per source, whose files of one name are one song",
    "csv": "CSV files with the columns `instrum` and `path`, and `song` if need be",
}


def find_songs(
    listing: Listing, *, sources: Sequence[str], rules: LayoutRules
) -> tuple[list[FoundSong], list[CsvFile]]:
    """Every song of a listing, sorted by name, and the CSV files at the top, used or not.

    Plug-ins come first, and no list is read where they find any. Where one of the CSV files is a list, what it lists is
    all there is; else each layout finds its own.
    """
    search = Search(listing=listing, sources=tuple(sources), taxonomy=load(rules.taxonomy), rules=rules)
    found, search = plugin_songs(search)
    listed, csv_files = ([], []) if found else csv_songs(search)
    if listed:
        found = listed
    else:
        found += stem_file_songs(search)
        taken: set[str] = set()
        for songs, folders in (described_songs(search), stem_folder_songs(search)):
            found += songs
            taken |= folders
        found += folder_songs(search, taken)
        found = _once(listing, found)
        found += [unreadable(folder, why) for folder, why in listing.unreadable.items()]
    return _refuse_name_clashes(sorted(found, key=lambda song: song.name)), csv_files


def _once(listing: Listing, found: Sequence[FoundSong]) -> list[FoundSong]:
    """The songs without second names: of those that links make one, the name that a split folder states is believed.

    Of several such the stricter side, which no model may learn from; else the name that leads over no link.
    """
    if not listing.real:
        return list(found)
    same: dict[Any, list[FoundSong]] = defaultdict(list)
    for song in found:
        files = [
            (source, _real_path(listing, file), file.stream) for source in song.files for file in song.files[source]
        ]
        same[tuple(files) or listing.real_path(song.name)].append(song)

    def rank(song: FoundSong) -> tuple[int, bool, str]:
        side = stated_split(song.name)
        return -(1 + SPLITS.index(side)) if side else 0, _over_link(listing, song), song.name

    kept = []
    for several in same.values():
        linked = any(_over_link(listing, song) for song in several)
        kept += [min(several, key=rank)] if linked else several
    return kept


def _over_link(listing: Listing, song: FoundSong) -> bool:
    """Whether a link leads to a song or to any of its files."""
    paths = [file.path[len(listing.root) + 1 :] for files in song.files.values() for file in files]
    return any(map(listing.is_linked, [song.name, *paths]))


def _real_path(listing: Listing, file: StemFile) -> str:
    """Where a file lies; one outside the root, which a CSV may name, where it is said to be."""
    inside = file.path.startswith(f"{listing.root}/")
    return listing.real_path(file.path[len(listing.root) + 1 :]) if inside else file.path


def stray_files(listing: Listing, found: Sequence[FoundSong]) -> tuple[str, ...]:
    """Audio files at the top of the root, where they belong to no song; a CSV may use them."""
    if any(song.layout == "csv" for song in found):
        return ()
    used = {file.path for song in found for files in (*song.files.values(), song.mixture) for file in files}
    top = filter(is_audio, listing.folders.get("", ()))
    return tuple(name for name in top if listing.address(name) not in used)


def _refuse_name_clashes(found: Sequence[FoundSong]) -> list[FoundSong]:
    """Two spellings of one name (Unicode allows several) cannot both be that song: the second is refused."""
    seen: dict[str, int] = defaultdict(int)
    kept: list[FoundSong] = []
    for song in found:
        seen[song.name] += 1
        if seen[song.name] > 1:
            song = replace(
                song,
                name=f"{song.name} [{seen[song.name]}]",
                reason="unsafe_name",
                detail="its name is another song's, in another spelling or another layout",
            )
        kept.append(song)
    return kept
