"""Published datasets that say in files of their own what each stem is: MUSDB18, MoisesDB, Slakh2100 and MedleyDB.

MUSDB18-HQ and MUSDB-XL need none: they are song folders with a file per source. A dataset's mixtures are the sums of
what it lists, so its files are not compared with each other (`shards/duplicate_stems.py`).
"""

import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from datasets.corpus.file_listing import is_audio, upwards
from datasets.corpus.layouts.found_song import FoundSong, Search, as_text, named, song_of, stated_kind, unreadable
from datasets.corpus.musdb18_metadata import stem_streams
from datasets.corpus.splits import song_title
from datasets.corpus.stem_names import FileNote, read_label
from datasets.errors import Unavailable
from datasets.schema import StemFile

STEM_FILE = ".stem.mp4"
MAX_BYTES = 1 << 20  # of a file about one song
# What their classes are in the default taxonomy. MoisesDB's four stems count percussion as other, Slakh2100's drums are
# its drum tracks alone; so do we there.
MOISES_KINDS = {
    "vocals": "vocals", "bass": "bass", "drums": "drums", "guitar": "guitar", "piano": "piano", "other": "other",
    "percussion": "other", "other_keys": "keys", "bowed_strings": "strings", "wind": "wind", "other_plucked": "plucked",
}  # fmt: skip
SLAKH_KINDS = {
    "bass": "bass", "brass": "wind", "chromatic percussion": "mallets", "drums": "drums", "ensemble": "strings",
    "ethnic": "plucked", "guitar": "guitar", "organ": "keys", "percussive": "other", "piano": "piano", "pipe": "wind",
    "reed": "wind", "sound effects": "fx", "strings": "strings", "strings (continued)": "strings",
    "synth effects": "fx", "synth lead": "synth", "synth pad": "synth",
}  # fmt: skip
# Instruments of MedleyDB that are no words of the taxonomy.
MEDLEY_KINDS = {
    "male speaker": "speech", "female speaker": "speech", "crowd": "fx", "laughter": "fx", "water": "fx",
    "theremin": "synth", "gu": "percussion", "chimes": "percussion", "rattle": "percussion", "castanet": "percussion",
    "gong": "percussion", "doumbek": "percussion", "darbuka": "percussion", "dizi": "wind", "panpipes": "wind",
    "piccolo": "wind", "euphonium": "wind", "cornet": "wind", "erhu": "strings", "dilruba": "strings",
    "guzheng": "plucked", "yangqin": "plucked", "zhongruan": "plucked", "liuqin": "plucked", "pipa": "plucked",
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


# --- songs that a file describes -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedSong:
    """What a dataset's file says of one song; paths are under its folder, kinds those of the taxonomy or words."""

    layout: str
    title: str
    stems: Sequence[tuple[str, Sequence[str]]]  # path of each file, and the kinds of sound in it
    mixture: str = ""


def described_songs(search: Search) -> tuple[list[FoundSong], set[str]]:
    """Songs of folders with a file that describes their stems, and all folders that are theirs."""
    songs: dict[str, FoundSong] = {}
    for folder, files in search.listing.folders.items():
        for file in files if folder else ():
            describe = _reader_of(file)
            if describe is None:
                continue
            try:
                described = describe(search, folder, file)
            except Unavailable as error:
                songs[folder] = replace(unreadable(folder, ""), detail=str(error))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
                continue  # some other program's file of this name
            else:
                songs[folder] = _described(search, folder, file, described)
    taken = {other for other in search.listing.folders if any(above in songs for above in upwards(other))}
    return list(songs.values()), taken


def _reader_of(file: str) -> Callable[[Search, str, str], DescribedSong] | None:
    if file == "data.json":
        return _moises_song
    if file in ("metadata.yaml", "metadata.yml"):
        return _slakh_song
    return _medley_song if file.endswith("_METADATA.yaml") else None


def _moises_song(search: Search, folder: str, file: str) -> DescribedSong:
    about = json.loads(_text(search, folder, file))
    stems = [
        (
            f"{stem['stemName']}/{track['id']}.{track['extension']}",
            [MOISES_KINDS.get(stem["stemName"], stem["stemName"])],
        )
        for stem in about["stems"]
        for track in stem["tracks"]
    ]
    return DescribedSong(layout="moisesdb", title=_title(about, "artist", "song"), stems=sorted(stems))


def _slakh_song(search: Search, folder: str, file: str) -> DescribedSong:
    """Tracks without audio, which Slakh2100 has some of, are in no mixture of it."""
    about = yaml.safe_load(_text(search, folder, file))
    audio = f"{about['audio_dir']}"
    present = {os.path.splitext(name)[0]: name for name in search.listing.folders.get(f"{folder}/{audio}", ())}
    stems = []
    for name, stem in sorted(about["stems"].items()):
        kind = "drums" if stem["is_drum"] else SLAKH_KINDS.get(str(stem["inst_class"]).lower(), str(stem["inst_class"]))
        if stem.get("audio_rendered", True):
            stems.append((f"{audio}/{present.get(name, f'{name}.flac')}", [kind]))
    mixtures = [name for name in search.listing.folders[folder] if is_audio(name) and name.startswith("mix.")]
    return DescribedSong(layout="slakh2100", title="", stems=stems, mixture=mixtures[0] if mixtures else "")


def _medley_song(search: Search, folder: str, file: str) -> DescribedSong:
    """The stems of a song; its raw files, of which the stems are made, are left alone."""
    about = yaml.safe_load(_text(search, folder, file))
    stems = []
    for _, stem in sorted(about["stems"].items()):
        words = stem["instrument"] if isinstance(stem["instrument"], list) else [stem["instrument"]]
        kinds = [MEDLEY_KINDS.get(str(word).lower(), str(word)) for word in words]
        stems.append((f"{about['stem_dir']}/{stem['filename']}", kinds))
    mixture = str(about.get("mix_filename", ""))
    here = mixture in search.listing.folders[folder]
    title = _title(about, "artist", "title")
    return DescribedSong(layout="medleydb", title=title, stems=stems, mixture=mixture if here else "")


def _text(search: Search, folder: str, file: str) -> str:
    content = search.listing.content(f"{folder}/{file}", MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{file} has more than {MAX_BYTES} bytes")
    return content.decode("utf-8-sig")


def _title(about: Mapping[str, Any], *keys: str) -> str:
    return " - ".join(str(about[key]) for key in keys if about.get(key))


def _described(search: Search, folder: str, file: str, described: DescribedSong) -> FoundSong:
    title = unicodedata.normalize("NFC", as_text(described.title)) or song_title(folder)
    refused = FoundSong(name=folder, title=title, layout=described.layout, reason="unsafe_name")
    parts = []
    for path, kinds in described.stems:
        pure = PurePosixPath(path)
        if len(pure.parts) != 2 or ".." in pure.parts or "\\" in path:
            return named(replace(refused, detail=f"its {file} names {path!r}, which leads out of its folder"))
        if pure.name not in search.listing.folders.get(f"{folder}/{pure.parent}", ()):
            return named(replace(refused, reason="missing_stem", detail=f"{path}, which {file} names, is not there"))
        parts.append((_note_of(search, path, kinds), StemFile(path=search.listing.address(f"{folder}/{path}"))))
    song = song_of(search, folder, described.layout, parts)
    mixture = [StemFile(path=search.listing.address(f"{folder}/{described.mixture}"))] if described.mixture else []
    return replace(song, title=title, mixture=tuple(mixture))


def _note_of(search: Search, path: str, kinds: Sequence[str]) -> FileNote:
    """The note of a file whose kinds are stated; several of one source are that source."""
    notes = [
        stated_kind(search, path, kind)
        if kind in search.taxonomy.parents or kind in search.sources
        else replace(read_label(kind, taxonomy=search.taxonomy, sources=search.sources), path=path)
        for kind in kinds
    ]
    if len({(note.status, note.source) for note in notes}) == 1:
        return replace(
            notes[0], detail=notes[0].detail or f"{path}: {', '.join(kinds)}" * (notes[0].status == "unknown")
        )
    return FileNote(path=path, status="coarse", words=" ".join(kinds), detail=f"{path} holds {', '.join(kinds)} in one")
