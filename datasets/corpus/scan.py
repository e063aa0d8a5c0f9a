"""The songs of a corpus folder, with those it cannot use and why, each on one side of a split.

What stands in the folder is found by `layouts/find.py`, which opens no audio; here songs get their split and the
fingerprint of their files. What is inside the files is found out at ingest (`shards/chunks.py`).
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.corpus.file_digests import Digesting, FileDigests
from datasets.corpus.file_listing import list_folder
from datasets.corpus.layouts.csv_listed_songs import CsvFile
from datasets.corpus.layouts.find import LAYOUTS, find_songs, stray_files
from datasets.corpus.layouts.found_song import FoundSong, LayoutRules, as_text
from datasets.corpus.layouts.separated_stems import Teacher, teachers_beside
from datasets.corpus.layouts.separated_stems import remarks as teacher_remarks
from datasets.corpus.layouts.song_folders import NO_STEMS
from datasets.corpus.licenses import one_line, stated_licenses
from datasets.corpus.splits import (
    NO_SIDES,
    DrawnShare,
    assign_splits,
    drawn_shares,
    nothing_to_train_on,
    stated_sides,
)
from datasets.corpus.stem_names import STATUSES
from datasets.errors import InputError, Unavailable
from datasets.schema import SOURCES, StemFile, Track, Verdict
from datasets.store import storage

STANDARD = LayoutRules()
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
MAX_NAME_BYTES = 120  # of what `safe_name` makes, without its digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a corpus folder holds: usable tracks and refused songs, each in the order of their ids."""

    tracks: tuple[Track, ...]
    rejected: tuple[Verdict, ...]
    layout: str
    drawn_splits: tuple[str, ...]  # the splits that no folder states
    remarks: tuple[str, ...] = ()  # what its owner should know of the folder as a whole
    teachers: Mapping[str, Teacher] = field(default_factory=dict)  # models that estimated stems, by track id


@dataclass(frozen=True, slots=True, kw_only=True)
class SongSurvey:
    """The songs of a folder as their names have it, before any file is opened."""

    stamps: Mapping[str, storage.Stamp]  # of the files in S3, by address
    songs: tuple[FoundSong, ...]
    sides: Mapping[str, tuple[str, str]]  # name -> split, group
    layout: str  # of most songs
    drawn_splits: tuple[str, ...]  # the splits that no folder states
    stray: tuple[str, ...]  # audio files at the top, which belong to no song
    csv_files: tuple[CsvFile, ...]  # at the top, used or not
    shares: tuple[DrawnShare, ...]  # what came of the draw
    licenses: Mapping[str, str]  # that the folder states, by song; see `licenses.py`
    teachers: Mapping[str, Teacher]  # models that estimated stems, by song; see `layouts/separated_stems.py`

    @property
    def remarks(self) -> tuple[str, ...]:
        """What its owner should know of the folder as a whole."""
        nothing = nothing_to_train_on(list(self.sides))
        far_off = [share.words for share in self.shares if share.is_far_off]
        found = (*_remarks(self.csv_files, self.stray), *teacher_remarks(self.teachers))
        return (*found, *far_off, *([nothing] if nothing else []))


def survey(
    root: str | Path,
    *,
    sources: Sequence[str] = SOURCES,
    split_seed: int = 0,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
    known: Mapping[str, str] = NO_SIDES,
    rules: LayoutRules = STANDARD,
) -> SongSurvey:
    """Every song under `root` with how its files were read and its split; InputError where there is none.

    `known` are sides that were drawn before, by song; see `splits.assign_splits`.
    """
    folder = storage.absolute(root)
    listing = list_folder(folder)
    found, csv_files = find_songs(listing, sources=sources, rules=rules)
    stray = stray_files(listing, found)
    bare = [song for song in found if song.layout == NO_STEMS]
    if len(bare) == len(found):
        raise InputError(
            f"{folder} holds no songs in a layout known here. Looked for sources {', '.join(sources)} in:\n"
            + "\n".join(f"  - {text}" for text in LAYOUTS.values())
            + "".join(f"\n{song.name} holds {song.detail}" for song in bare[:3])
            + "".join(f"\n{remark}" for remark in _remarks(csv_files, stray))
        )
    sides = assign_splits(
        [song.name for song in found],
        seed=split_seed,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        titles={song.name: song.title for song in found},
        known=known,
    )
    drawn = stated_sides([song.name for song in found])[1]
    return SongSurvey(
        stamps=listing.stamps,
        songs=tuple(found),
        sides=sides,
        layout=Counter(song.layout for song in found).most_common(1)[0][0],
        drawn_splits=tuple(drawn),
        shares=tuple(drawn_shares(sides, drawn, valid_fraction=valid_fraction, test_fraction=test_fraction)),
        stray=stray,
        csv_files=tuple(csv_files),
        licenses=stated_licenses(listing, [(song.name, song.title) for song in found]),
        teachers=teachers_beside(listing, found),
    )


def _remarks(csv_files: Sequence[CsvFile], stray: Sequence[str]) -> tuple[str, ...]:
    lists = [f"{file.name} is the list of songs" for file in csv_files if file.is_list and not file.detail]
    lists += [f"{file.name} is the list of songs, {file.detail}" for file in csv_files if file.is_list and file.detail]
    others = [f"{file.name} is not used: {file.detail}" for file in csv_files if not file.is_list]
    if not stray:
        return (*lists, *others)
    count = "1 audio file is" if len(stray) == 1 else f"{len(stray)} audio files are"
    loose = f"{count} directly in the corpus folder, such as {as_text(stray[0])}"
    return (*lists, *others, f"{loose}: give each song a folder of its own")


def scan(
    root: str | Path,
    *,
    sources: Sequence[str] = SOURCES,
    split_seed: int = 0,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
    known: Mapping[str, str] = NO_SIDES,
    license: str = "unknown",
    rules: LayoutRules = STANDARD,
    cache: str | Path | None = None,
    advance: Callable[[float], None] | None = None,
    digest: Digesting | None = None,
) -> Scan:
    """Every song under `root`, with its split and the fingerprint of its files.

    `cache` is a JSON file that remembers fingerprints by path, size and time of change. `advance` is called
    with the bytes of each file fingerprinted. `license` is that of songs of which the folder states none.
    `digest` reads files elsewhere where they are many, else they are read here. See `splits.assign_splits` for
    the split rule and `known`.
    """
    seen = survey(
        root, sources=sources, split_seed=split_seed, valid_fraction=valid_fraction, test_fraction=test_fraction,
        known=known, rules=rules,
    )  # fmt: skip
    prints = FileDigests(cache, advance, seen.stamps, root=storage.absolute(root))
    tracks, rejected = [], []
    try:
        if digest:
            prints.read_ahead(_files_of(seen.songs), digest)
        for song in seen.songs:
            split, group = seen.sides[song.name]
            if song.reason:
                rejected.append(_refused(song, split, song.reason, song.detail))
                continue
            try:
                stated = seen.licenses.get(song.name) or one_line(license)
                tracks.append(_track(song, split, group, stated, sources, rules, prints))
            except Unavailable as error:
                rejected.append(_refused(song, split, "unavailable", str(error).replace(f"{prints.root}/", "")))
    finally:
        prints.save()
    return Scan(
        tracks=tuple(tracks),
        rejected=tuple(rejected),
        layout=seen.layout,
        drawn_splits=seen.drawn_splits,
        remarks=seen.remarks,
        teachers={track.track_id: seen.teachers[track.track_id] for track in tracks if track.track_id in seen.teachers},
    )


def safe_name(text: str) -> str:
    """A file name made from any text: unique to the text, on every file system, and never a path.

    Harmless text is kept; where something had to change, a digest of the text is appended.
    """
    encoded = text.encode("utf-8", "surrogateescape")
    name = unicodedata.normalize("NFC", encoded.decode("utf-8", "replace"))
    name = _UNSAFE.sub("_", name).strip(" .")
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    short = name.encode()[:MAX_NAME_BYTES].decode("utf-8", "ignore").rstrip(" .")
    if short and short == text:
        return short
    return f"{short}~{hashlib.sha256(encoded).hexdigest()[:8]}".lstrip("~")


def distinct_names(names: Iterable[str], *, taken: Iterable[str] = ()) -> list[str]:
    """The names, equal ones with " (2)", " (3)" behind them, also where only upper and lower case differ."""
    used = {name.casefold() for name in taken}
    made: list[str] = []
    for wanted in names:
        name, count = wanted, 1
        while name.casefold() in used:
            count += 1
            name = f"{wanted} ({count})"
        used.add(name.casefold())
        made.append(name)
    return made


# --- songs -------------------------------------------------------------------------------------------------


def _files_of(songs: Sequence[FoundSong]) -> Iterator[str]:
    """The files that become part of a usable track."""
    for song in songs:
        if not song.reason:
            yield from (file.path for files in (*song.files.values(), song.mixture) for file in files)


def _refused(song: FoundSong, split: str, reason: str, detail: str) -> Verdict:
    return Verdict.refused(song.name, title=song.title, split=split, reason=reason, detail=detail)


def _track(
    song: FoundSong,
    split: str,
    group: str,
    license: str,
    sources: Sequence[str],
    rules: LayoutRules,
    prints: FileDigests,
) -> Track:
    fingerprint = _content(song.files, sources, prints)
    return Track(
        track_id=song.name,
        title=song.title,
        group=group,
        split=split,
        license=license,
        layout=song.layout,
        stems={source: tuple(map(prints.stamped, files)) for source, files in song.files.items()},
        fingerprint=fingerprint,
        pad_s=rules.pad_s,
        versions=song.versions,
        remarks=tuple(
            f"{as_text(note.path)} is left out: {STATUSES[note.status]}"
            for note in song.notes
            if note.status in ("muted", "lossy")
        ),
        mixture=tuple(map(prints.with_content, song.mixture)),
    )


def is_listed(track: Track, sources: Sequence[str]) -> bool:
    """Whether the files of a track hold what they held when they were listed; they are read for it."""
    return _content(track.stems, sources, FileDigests()) == track.fingerprint


def _content(stems: Mapping[str, Sequence[StemFile]], sources: Sequence[str], prints: FileDigests) -> str:
    """The fingerprint of a track."""
    content = hashlib.sha256()
    for source in sources:
        for file in stems[source]:
            side = f"\x1f{file.side}" if file.side else ""
            content.update(f"{source}\x1f{file.stream}{side}\x1f{prints.of(file.path)}\n".encode())
    return content.hexdigest()
