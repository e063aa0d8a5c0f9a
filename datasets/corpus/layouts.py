"""The songs of a corpus folder in any layout known here, with a file per source or the reason why not.

`find_songs` sees only a `Listing` of names and opens no audio, so it takes seconds for thousands of songs. What a
file's name means is decided in `stemnames.py`; what is inside the files is found out at ingest (`chunks.py`).
"""

import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.corpus.csv_index import group_rows, read_rows
from datasets.corpus.listing import Listing, is_audio, upwards
from datasets.corpus.musdb18 import stem_streams
from datasets.corpus.splits import last_part, split_alias, stated_split
from datasets.corpus.stem_names import FileNote, read_label, read_song
from datasets.corpus.taxonomy import DEFAULT, Taxonomy, load
from datasets.errors import Unavailable
from datasets.schema import SPLITS, StemFile
from datasets.store import storage

LAYOUTS = {
    "musdb18": "MUSDB18: *.stem.mp4 files, in train/ and test/ or together",
    "musdb18-hq": "MUSDB18-HQ: train/ and test/ with a folder per song holding mixture.wav and SOURCE.wav",
    "moisesdb": "MoisesDB: a folder per song holding data.json and a folder per stem",
    "folders": "song folders: a folder per song holding SOURCE.wav (or .flac, .ogg, .mp3, .m4a, .aiff), "
    "in train/, valid/ and test/ or together",
    "multitrack": "song folders with the files of a production, named as producers do: the taxonomy says what "
    "each is (docs/how-to/prepare-songs.md)",
    "stem-folders": "a folder per source, whose files of one name are one song",
    "csv": "CSV files with the columns `instrum` and `path`, and `song` if need be",
}
STEM_FILE = ".stem.mp4"
# What MoisesDB's stems are in the default taxonomy. Its own four stems count percussion as other; so do we there.
MOISES_KINDS = {
    "vocals": "vocals", "bass": "bass", "drums": "drums", "guitar": "guitar", "piano": "piano", "other": "other",
    "percussion": "other", "other_keys": "keys", "bowed_strings": "strings", "wind": "wind", "other_plucked": "plucked",
}  # fmt: skip
_SHOWN = 4  # names in a verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRules:
    """How names become sources; the fields are explained in `pipelines.preparation.ingest.CorpusConfig`."""

    taxonomy: str = DEFAULT
    unknown: str = "refuse"  # or "leave_out"
    pad_s: float = 5.0
    allow_outside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSong:
    """A song as it stands in the folder: its name under the root, and files per source or the reason why not."""

    name: str
    title: str
    layout: str
    files: Mapping[str, tuple[StemFile, ...]] = field(default_factory=dict)
    mixture: tuple[StemFile, ...] = ()
    pad_s: float | None = None  # as in `schema.Track`
    notes: tuple[FileNote, ...] = ()
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the songs are read with."""

    listing: Listing
    sources: tuple[str, ...]
    taxonomy: Taxonomy
    rules: LayoutRules


def find_songs(listing: Listing, *, sources: Sequence[str], rules: LayoutRules) -> list[FoundSong]:
    """Every song of a listing, sorted by name; a CSV at the top lists all there is, else each layout finds its own."""
    asked = _Asked(listing=listing, sources=tuple(sources), taxonomy=load(rules.taxonomy), rules=rules)
    found = list(_csv_songs(asked))
    if not found:
        found = list(_stem_file_songs(asked))
        taken: set[str] = set()
        for songs, folders in (_moises_songs(asked), _stem_folder_songs(asked)):
            found += songs
            taken |= folders
        found += _folder_songs(asked, taken)
        found = _once(listing, found)
        found += [_unreadable(folder, why) for folder, why in listing.unreadable.items()]
    return _refuse_name_clashes(sorted(found, key=lambda song: song.name))


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


def _unreadable(folder: str, why: str) -> FoundSong:
    """A folder that may hold songs for all we know."""
    detail = f"the folder cannot be looked into: {why}"
    return _named(
        FoundSong(name=folder, title=last_part(folder), layout="folders", reason="unavailable", detail=detail)
    )


def stray_files(listing: Listing, found: Sequence[FoundSong]) -> tuple[str, ...]:
    """Audio files at the top of the root, where they belong to no song; a CSV may use them."""
    if any(song.layout == "csv" for song in found):
        return ()
    return tuple(filter(is_audio, listing.folders.get("", ())))


# --- MUSDB18 ------------------------------------------------------------------------------------------------


def _stem_file_songs(asked: _Asked) -> Iterator[FoundSong]:
    for folder, files in asked.listing.folders.items():
        for file in files:
            if file.lower().endswith(STEM_FILE):
                path = f"{folder}/{file}".lstrip("/")
                address = asked.listing.address(path)
                parts = [
                    (_stated_kind(asked, kind, kind), StemFile(path=address, stream=stream))
                    for kind, stream in stem_streams().items()
                ]
                song = _song(asked, path[: -len(STEM_FILE)], "musdb18", parts)
                yield replace(song, mixture=(StemFile(path=address, stream=0),))


def _stated_kind(asked: _Asked, path: str, kind: str) -> FileNote:
    """The note of a file whose kind is stated by more than its name."""
    source = asked.taxonomy.source_of(kind, asked.sources)
    if kind not in asked.taxonomy.parents and kind not in asked.sources:
        return FileNote(path=path, status="unknown", words=kind, detail=f"{kind} is no kind of sound in the taxonomy")
    if source is None:
        below = ", ".join(name for name in asked.sources if asked.taxonomy.holds(kind, name))
        return FileNote(path=path, status="coarse", kind=kind, words=kind, detail=f"{path} holds {below} in one")
    return FileNote(path=path, status="used" if source else "unused", source=source, kind=kind, words=kind)


# --- MoisesDB -----------------------------------------------------------------------------------------------


def _moises_songs(asked: _Asked) -> tuple[list[FoundSong], set[str]]:
    """Songs of folders with a data.json that lists stems and their tracks, and all folders that are theirs."""
    songs: dict[str, FoundSong] = {}
    for folder, files in asked.listing.folders.items():
        if "data.json" not in files or not folder:
            continue
        try:
            about = json.loads(asked.listing.text(f"{folder}/data.json"))
            tracks = [
                (str(stem["stemName"]), f"{track['id']}.{track['extension']}")
                for stem in about["stems"]
                for track in stem["tracks"]
            ]
        except Unavailable as error:
            songs[folder] = replace(_unreadable(folder, ""), layout="moisesdb", detail=str(error))
            continue
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # some other program's data.json
        songs[folder] = _moises_song(asked, folder, about, tracks)
    taken = {other for other in asked.listing.folders if any(above in songs for above in upwards(other))}
    return list(songs.values()), taken


def _moises_song(asked: _Asked, folder: str, about: Mapping[str, Any], tracks: Sequence[tuple[str, str]]) -> FoundSong:
    title = " - ".join(str(about[key]) for key in ("artist", "song") if about.get(key)) or last_part(folder)
    parts = []
    for stem, file in sorted(tracks):
        path = f"{stem}/{file}"
        if len(PurePosixPath(path).parts) != 2 or ".." in PurePosixPath(path).parts:
            return _named(
                FoundSong(
                    name=folder, title=title, layout="moisesdb", reason="unsafe_name",
                    detail=f"its data.json names {path!r}, which leads out of its folder",
                )
            )  # fmt: skip
        kind = MOISES_KINDS.get(stem, stem)
        parts.append((_stated_kind(asked, path, kind), StemFile(path=asked.listing.address(f"{folder}/{path}"))))
    song = _song(asked, folder, "moisesdb", parts)
    return replace(song, title=unicodedata.normalize("NFC", as_text(title)), pad_s=asked.rules.pad_s)


# --- one folder per stem --------------------------------------------------------------------------------------


def _stem_folder_songs(asked: _Asked) -> tuple[list[FoundSong], set[str]]:
    """Songs of files that bear one name in several folders called like sources, at the top or in split folders."""
    songs: list[FoundSong] = []
    taken: set[str] = set()
    tops = {""} | {folder for folder in asked.listing.folders if "/" not in folder and split_alias(folder)}
    for top in sorted(tops):
        base = f"{top}/" if top else ""
        below = [
            folder
            for folder, files in asked.listing.folders.items()
            if folder.startswith(base) and "/" not in folder[len(base) :] and any(map(is_audio, files))
        ]
        if sum(folder[len(base) :].lower() in asked.sources for folder in below) < 2:
            continue
        stems = [folder for folder in below if _is_label(asked, folder[len(base) :])]
        songs += _songs_across(asked, base, stems)
        taken |= {other for other in asked.listing.folders for stem in stems if f"{other}/".startswith(f"{stem}/")}
    return songs, taken


def _is_label(asked: _Asked, name: str) -> bool:
    return name.lower() in asked.sources or asked.taxonomy.explains(name)


def _songs_across(asked: _Asked, base: str, stems: Sequence[str]) -> Iterator[FoundSong]:
    by_name: dict[str, list[tuple[FileNote, StemFile]]] = defaultdict(list)
    for stem in stems:
        note = read_label(stem[len(base) :], taxonomy=asked.taxonomy, sources=asked.sources)
        for folder, files in asked.listing.folders.items():
            if not f"{folder}/".startswith(f"{stem}/"):
                continue
            for file in filter(is_audio, files):
                path = f"{folder}/{file}"
                key = os.path.splitext(path[len(stem) + 1 :])[0]
                by_name[key].append((replace(note, path=path[len(base) :]), StemFile(path=asked.listing.address(path))))
    for key, parts in by_name.items():
        song = _song(asked, f"{base}{key}", "stem-folders", parts, one_each=True)
        if song.reason == "missing_stem":
            song = replace(
                song, detail=f"{song.detail} of this name; only files that bear one name in all folders can be joined "
                "into a song, and training needs all stems of a song"
            )  # fmt: skip
        yield song


# --- CSV ----------------------------------------------------------------------------------------------------


def _csv_songs(asked: _Asked) -> Iterator[FoundSong]:
    """Songs of all CSV files at the top together; those of train.csv, valid.csv and test.csv know their split."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for file in asked.listing.folders.get("", ()):
        if file.lower().endswith(".csv"):
            rows[split_alias(os.path.splitext(file)[0])] += read_rows(file, asked.listing.text(file))
    for split, listed in rows.items():
        for key, group in group_rows(listed).items():
            yield _csv_song(asked, f"{split}/{key}" if split else key, group)


def _csv_song(asked: _Asked, name: str, rows: Sequence[Mapping[str, str]]) -> FoundSong:
    parts = []
    for row in sorted(rows, key=lambda row: (row["instrum"], row["path"])):
        path, inside = _located(asked.listing.root, row["path"])
        if not inside and not asked.rules.allow_outside:
            return _named(
                FoundSong(
                    name=name, title=last_part(name), layout="csv", reason="unsafe_name",
                    detail=f"{row['path']} lies outside the corpus folder; corpus.allow_outside=true allows that",
                )
            )  # fmt: skip
        note = read_label(row["instrum"], taxonomy=asked.taxonomy, sources=asked.sources)
        parts.append((replace(note, path=row["path"]), StemFile(path=path)))
    stated = all(row.get("song") for row in rows)  # then several files of one source were meant
    return _song(asked, name, "csv", parts, one_each=not stated)


def _located(root: str, path: str) -> tuple[str, bool]:
    """The address that a path in a CSV means, and whether it lies below the root."""
    if not storage.is_remote(root):
        address = os.path.normpath(Path(root, os.path.expanduser(path)))
        return address, Path(address).is_relative_to(root)
    if storage.is_remote(path):
        return path, path.startswith(f"{root}/") and ".." not in path.split("/")
    normal = os.path.normpath(path)
    return storage.join(root, normal), not normal.startswith(("..", "/"))


# --- song folders -------------------------------------------------------------------------------------------


def _folder_songs(asked: _Asked, taken: set[str]) -> Iterator[FoundSong]:
    """Songs of folders that hold audio, together with the folders inside that only sort a song's files."""
    audio = {
        folder: [file for file in files if is_audio(file)]
        for folder, files in asked.listing.folders.items()
        if folder and folder not in taken and any(map(is_audio, files))
    }
    members: dict[str, list[str]] = defaultdict(list)
    tops = _song_tops(asked, audio)
    for folder, files in audio.items():
        top = tops[folder]
        members[top] += [f"{folder}/{file}"[len(top) + 1 :] for file in files]
    for top, paths in members.items():
        song = _folder_song(asked, top, sorted(paths))
        if song is not None:
            yield song


def _song_tops(asked: _Asked, audio: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The folder that is the song, for each folder with audio.

    A folder inside a song is told by its name, all of whose words the taxonomy knows ("Drums", "Lead Vox", "Stems"),
    and by its company: its parent holds audio itself, or only folders of such names.
    """
    children: dict[str, set[str]] = defaultdict(set)
    for folder in audio:
        path = folder
        while path:
            path, _, name = path.rpartition("/")
            children[path].add(name)

    def is_inside(folder: str) -> bool:
        parent, _, name = folder.rpartition("/")
        if not parent or ("/" not in parent and split_alias(parent)) or not asked.taxonomy.explains(name):
            return False
        return parent in audio or all(asked.taxonomy.explains(other) for other in children[parent])

    tops = {}
    for folder in audio:
        top = folder
        while is_inside(top):
            top = top.rpartition("/")[0]
        tops[folder] = top
    return tops


def _folder_song(asked: _Asked, folder: str, paths: Sequence[str]) -> FoundSong | None:
    """The song of a folder; None when all its files are mixtures and the like."""
    notes = read_song(paths, taxonomy=asked.taxonomy, sources=asked.sources)
    if all(note.status == "ignored" for note in notes):
        return None
    parts = [(note, StemFile(path=asked.listing.address(f"{folder}/{note.path}"), side=note.side)) for note in notes]
    used = [note for note in notes if note.status == "used"]
    exact = {os.path.splitext(note.path)[0].lower() for note in used}
    whole = len(used) == len(asked.sources) and exact == set(asked.sources)
    layout = ("musdb18-hq" if "mixture.wav" in paths and stated_split(folder) else "folders") if whole else "multitrack"
    song = _song(asked, folder, layout, parts)
    mixtures = [path for path in paths if os.path.splitext(path)[0].lower() == "mixture"]
    return replace(
        song,
        mixture=tuple(StemFile(path=asked.listing.address(f"{folder}/{path}")) for path in mixtures[:1]),
        pad_s=None if whole else asked.rules.pad_s,
    )


# --- verdicts -----------------------------------------------------------------------------------------------


def _song(
    asked: _Asked, name: str, layout: str, parts: Sequence[tuple[FileNote, StemFile]], *, one_each: bool = False
) -> FoundSong:
    """A song of its files, or refused with the reason; `one_each` asks for one file per source at most."""
    files: dict[str, list[StemFile]] = {source: [] for source in asked.sources}
    for note, file in parts:
        if note.status == "used":
            files[note.source].append(file)
    reason, detail = _verdict(asked, [note for note, _ in parts], files)
    doubled = [source for source, several in files.items() if len(several) > 1]
    if not reason and one_each and doubled:
        reason = "ambiguous_stem"
        detail = "; ".join(" and ".join(os.path.basename(file.path) for file in files[source]) for source in doubled)
    return _named(
        FoundSong(
            name=name, title=last_part(name), layout=layout, files={key: tuple(value) for key, value in files.items()},
            notes=tuple(note for note, _ in parts), reason=reason, detail=detail,
        )
    )  # fmt: skip


def _verdict(asked: _Asked, notes: Sequence[FileNote], files: Mapping[str, Sequence[StemFile]]) -> tuple[str, str]:
    """The reason to refuse a song and what would mend it; both empty for a good one."""
    broken = [note.path for note in notes if not _is_text(note.path)]
    if broken:
        return "unsafe_name", f"{_shown(map(as_text, broken))}: a file name that is no valid text"
    unknown = [note for note in notes if note.status == "unknown"]
    if unknown and asked.rules.unknown == "refuse":
        names = _shown(note.path for note in unknown)
        return "unknown_stem", f"{names}: no word of the name is in the taxonomy; {ADVICE['unknown']}"
    doubtful = [note for note in notes if note.status == "ambiguous"]
    if doubtful:
        details = list(dict.fromkeys(note.detail for note in doubtful))
        return "ambiguous_stem", "; ".join(details[:_SHOWN]) + (" and more" if len(details) > _SHOWN else "")
    coarse = "; ".join(note.detail for note in notes if note.status == "coarse")
    missing = [source for source, several in files.items() if not several]
    if missing:
        return "missing_stem", f"no file for {', '.join(missing)}" + (f"; {coarse}" if coarse else "")
    return ("ambiguous_stem", coarse) if coarse else ("", "")


ADVICE = {
    "unknown": "list a word of the name under a source or under [ignore] in the file that corpus.taxonomy names, or "
    "leave such files out with corpus.unknown=leave_out",
    "ambiguous": "list the word under one kind only, or under [ignore], in the file that corpus.taxonomy names; or "
    "rename the file",
    "coarse": "ask for fewer sources with corpus.sources",
}


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _named(song: FoundSong) -> FoundSong:
    """The song under its name in NFC, refused when that is no text at all or would lead out of the folder."""
    if not _is_text(song.name):
        shown = as_text(song.name)
        return FoundSong(
            name=shown, title=last_part(shown), layout=song.layout, reason="unsafe_name",
            detail="its name is not valid Unicode",
        )  # fmt: skip
    if ".." in song.name.split("/"):
        return replace(song, files={}, reason="unsafe_name", detail="its name leads out of the folder")
    name = unicodedata.normalize("NFC", song.name)
    return replace(song, name=name, title=unicodedata.normalize("NFC", song.title))


def _is_text(name: str) -> bool:
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


def as_text(name: str) -> str:
    """A name as it can be shown and stored; what is no text is written out."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()


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
