"""A song as it was found, with a file per source, or the reason why it cannot be one."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from datasets.corpus.file_listing import Listing
from datasets.corpus.splits import song_title
from datasets.corpus.stem_names import STATUSES, FileNote
from datasets.corpus.taxonomy import DEFAULT, Taxonomy
from datasets.schema import StemFile

_SHOWN = 4  # names in a verdict


class LayoutPlugin(Protocol):
    """A layout of somebody else's: a function under a name, and the error that names it; see `plugin_songs.py`."""

    @property
    def name(self) -> str: ...

    def call(self, *arguments: Any, **named: Any) -> Any: ...

    def failure(self, message: str) -> ValueError: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRules:
    """How names become sources; the fields are explained in `pipelines.preparation.ingest.CorpusConfig`."""

    taxonomy: str = DEFAULT
    unknown: str = "refuse"  # or "leave_out"
    pad_s: float = 5.0
    allow_outside: bool = False
    plugins: tuple[LayoutPlugin, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSong:
    """A song as it stands in the folder: its name under the root, and files per source or the reason why not."""

    name: str
    title: str
    layout: str
    files: Mapping[str, tuple[StemFile, ...]] = field(default_factory=dict)
    mixture: tuple[StemFile, ...] = ()
    versions: tuple[tuple[str, int, int], ...] = ()  # as in `schema.Track`
    notes: tuple[FileNote, ...] = ()
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What the songs are read with."""

    listing: Listing
    sources: tuple[str, ...]
    taxonomy: Taxonomy
    rules: LayoutRules


def song_of(
    search: Search,
    name: str,
    layout: str,
    parts: Sequence[tuple[FileNote, StemFile]],
    *,
    one_each: bool = False,
    foreign: Sequence[str] = (),
) -> FoundSong:
    """A song of its files, or refused with the reason; `one_each` asks for one file per source at most.

    `foreign` are files beside them that are not read, and named where a source has none.
    """
    files: dict[str, list[StemFile]] = {source: [] for source in search.sources}
    positions: dict[str, tuple[str, int]] = {}  # of each file among those of its source, by the path of its note
    taken: dict[tuple[str, int | None], str] = {}  # the source that a file, or a stream in it, is used for
    for note, file in parts:
        if note.status == "used" and taken.setdefault((file.path, file.stream), note.source) != note.source:
            both = f"{note.path} is listed as {taken[file.path, file.stream]} and as {note.source}"
            return named(
                FoundSong(name=name, title=song_title(name), layout=layout, reason="ambiguous_stem", detail=both)
            )
        if note.status == "used" and note.path not in positions:  # a list may name a file twice
            positions[note.path] = note.source, len(files[note.source])
            files[note.source].append(replace(file, apart=note.apart))
    versions = [
        (note.source, positions[note.path][1], positions[note.version_of][1])
        for note, _ in parts
        if note.version_of in positions and positions[note.version_of][0] == note.source
    ]
    reason, detail = _verdict(search, [note for note, _ in parts], files, foreign)
    doubled = [source for source, several in files.items() if len(several) > 1]
    if not reason and one_each and doubled:
        reason = "ambiguous_stem"
        detail = "; ".join(" and ".join(os.path.basename(file.path) for file in files[source]) for source in doubled)
    return named(
        FoundSong(
            name=name, title=song_title(name), layout=layout, files={key: tuple(value) for key, value in files.items()},
            versions=tuple(versions), notes=tuple(note for note, _ in parts), reason=reason, detail=detail,
        )
    )  # fmt: skip


def _verdict(
    search: Search, notes: Sequence[FileNote], files: Mapping[str, Sequence[StemFile]], foreign: Sequence[str]
) -> tuple[str, str]:
    """The reason to refuse a song and what would mend it; both empty for a good one."""
    broken = [note.path for note in notes if not _is_text(note.path)]
    if broken:
        return "unsafe_name", f"{shown(map(as_text, broken))}: a file name that is no valid text"
    unknown = [note for note in notes if note.status == "unknown"]
    if unknown and search.rules.unknown == "refuse":
        names = shown(note.path for note in unknown)
        return "unknown_stem", f"{names}: no word of the name is in the taxonomy; {ADVICE['unknown']}"
    doubtful = [note for note in notes if note.status == "ambiguous"]
    if doubtful:
        details = list(dict.fromkeys(note.detail for note in doubtful))
        return "ambiguous_stem", "; ".join(details[:_SHOWN]) + (" and more" if len(details) > _SHOWN else "")
    coarse = "; ".join(note.detail for note in notes if note.status == "coarse")
    missing = [source for source, several in files.items() if not several]
    if missing:
        unused = [f"{note.path} ({STATUSES[note.status]})" for note in notes if note.status in ("unknown", "muted")]
        unused += [f"{file} (a format that is not read)" for file in foreign]
        beside = f"; not used: {shown(unused)}" if unused else ""
        return "missing_stem", f"no file for {', '.join(missing)}" + (f"; {coarse}" if coarse else "") + beside
    return ("ambiguous_stem", coarse) if coarse else ("", "")


ADVICE = {
    "unknown": "list a word of the name under a source or under [ignore] in the file that corpus.taxonomy names, or "
    "leave such files out with corpus.unknown=leave_out",
    "ambiguous": "list the word under one kind only, or under [ignore], in the file that corpus.taxonomy names; or "
    "rename the file",
    "coarse": "ask for fewer sources with corpus.sources",
}


def shown(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def named(song: FoundSong) -> FoundSong:
    """The song under its name in NFC, refused when that is no text at all or would lead out of the folder."""
    if not _is_text(song.name):
        shown = as_text(song.name)
        return FoundSong(
            name=shown, title=song_title(shown), layout=song.layout, reason="unsafe_name",
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


def stated_kind(search: Search, path: str, kind: str) -> FileNote:
    """The note of a file whose kind is stated by more than its name."""
    source = search.taxonomy.source_of(kind, search.sources)
    if kind not in search.taxonomy.parents and kind not in search.sources:
        return FileNote(path=path, status="unknown", words=kind, detail=f"{kind} is no kind of sound in the taxonomy")
    if source is None:
        below = ", ".join(name for name in search.sources if search.taxonomy.holds(kind, name))
        return FileNote(path=path, status="coarse", kind=kind, words=kind, detail=f"{path} holds {below} in one")
    return FileNote(path=path, status="used" if source else "unused", source=source, kind=kind, words=kind)


def unreadable(folder: str, why: str) -> FoundSong:
    """A folder that may hold songs for all we know."""
    detail = f"the folder cannot be looked into: {why}"
    return named(
        FoundSong(name=folder, title=song_title(folder), layout="folders", reason="unavailable", detail=detail)
    )
