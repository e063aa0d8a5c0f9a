"""The songs of a corpus folder, with those it cannot use and why, each on one side of a split.

What stands in the folder is found by `layouts.py`, which opens no audio; here songs get their split and the
fingerprint of their files. What is inside the files is found out at ingest (`chunks.py`).
"""

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import storage
from datasets.errors import InputError
from datasets.layouts import LAYOUTS, FoundSong, Rules, find_songs, stray_files
from datasets.listing import list_folder
from datasets.schema import SOURCES, StemFile, Track, Verdict
from datasets.shards import read_json, write_json
from datasets.splits import NO_SIDES, assign_splits, stated_sides

STANDARD = Rules()
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_NAME_BYTES = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a corpus folder holds: usable tracks and refused songs, each in the order of their ids."""

    tracks: tuple[Track, ...]
    rejected: tuple[Verdict, ...]
    layout: str
    drawn: tuple[str, ...]  # the splits that no folder states


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The songs of a folder as their names have it, before any file is opened."""

    stamps: Mapping[str, storage.Stamp]  # of the files in S3, by address
    songs: tuple[FoundSong, ...]
    sides: Mapping[str, tuple[str, str]]  # name -> split, group
    layout: str  # of most songs
    drawn: tuple[str, ...]  # the splits that no folder states
    stray: tuple[str, ...]  # audio files at the top, which belong to no song


def survey(
    root: str | Path,
    *,
    sources: Sequence[str] = SOURCES,
    split_seed: int = 0,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
    known: Mapping[str, str] = NO_SIDES,
    rules: Rules = STANDARD,
) -> Survey:
    """Every song under `root` with how its files were read and its split; InputError where there is none.

    `known` are sides that were drawn before, by song; see `splits.assign_splits`.
    """
    folder = storage.absolute(root)
    listing = list_folder(folder)
    found = find_songs(listing, sources=sources, rules=rules)
    stray = stray_files(listing, found)
    if not found:
        raise InputError(
            f"{folder} holds no songs in a layout known here. Looked for sources {', '.join(sources)} in:\n"
            + "\n".join(f"  - {text}" for text in LAYOUTS.values())
            + (f"\n{len(stray)} audio files stand in it directly; a folder for each song would do" if stray else "")
        )
    sides = assign_splits(
        [song.name for song in found],
        seed=split_seed,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        titles={song.name: song.title for song in found},
        known=known,
    )
    return Survey(
        stamps=listing.stamps,
        songs=tuple(found),
        sides=sides,
        layout=Counter(song.layout for song in found).most_common(1)[0][0],
        drawn=tuple(stated_sides([song.name for song in found])[1]),
        stray=stray,
    )


def scan(
    root: str | Path,
    *,
    sources: Sequence[str] = SOURCES,
    split_seed: int = 0,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
    known: Mapping[str, str] = NO_SIDES,
    license: str = "unknown",
    rules: Rules = STANDARD,
    cache: str | Path | None = None,
    advance: Callable[[float], None] | None = None,
) -> Scan:
    """Every song under `root`, with its split and the fingerprint of its files.

    `cache` is a JSON file that remembers fingerprints by path, size and time of change. `advance` is called
    with the bytes of each file fingerprinted. See `splits.assign_splits` for the split rule and `known`.
    """
    seen = survey(
        root, sources=sources, split_seed=split_seed, valid_fraction=valid_fraction, test_fraction=test_fraction,
        known=known, rules=rules,
    )  # fmt: skip
    prints = _Fingerprints(cache, advance, seen.stamps)
    tracks, rejected = [], []
    try:
        for song in seen.songs:
            split, group = seen.sides[song.name]
            if song.reason:
                rejected.append(_refused(song, split))
            else:
                tracks.append(_track(song, split, group, license, sources, prints))
    finally:
        prints.save()
    return Scan(tracks=tuple(tracks), rejected=tuple(rejected), layout=seen.layout, drawn=seen.drawn)


def safe_name(text: str) -> str:
    """A file name made from any text: unique to the text, on every file system, and never a path.

    Harmless text is kept; where something had to change, a digest of the text is appended.
    """
    encoded = text.encode("utf-8", "surrogateescape")
    name = unicodedata.normalize("NFC", encoded.decode("utf-8", "replace"))
    name = _UNSAFE.sub("_", name).strip(" .")
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    short = name.encode()[:_NAME_BYTES].decode("utf-8", "ignore").rstrip(" .")
    if short and short == text:
        return short
    return f"{short}~{hashlib.sha256(encoded).hexdigest()[:8]}".lstrip("~")


# --- songs -------------------------------------------------------------------------------------------------


def _refused(song: FoundSong, split: str) -> Verdict:
    return Verdict(
        track_id=song.name,
        title=song.title,
        split=split,
        keep=False,
        reason=song.reason,
        detail=song.detail,
        duration_s=0.0,
        measures={},
    )


def _track(
    song: FoundSong, split: str, group: str, license: str, sources: Sequence[str], prints: "_Fingerprints"
) -> Track:
    content = hashlib.sha256()
    for source in sources:
        for file in song.files[source]:
            side = f"\x1f{file.side}" if file.side else ""
            content.update(f"{source}\x1f{file.stream}{side}\x1f{prints.of(file.path)}\n".encode())
    if song.pad_s is not None:
        content.update(f"pad_s\x1f{song.pad_s}\n".encode())
    return Track(
        track_id=song.name,
        title=song.title,
        group=group,
        split=split,
        license=license,
        layout=song.layout,
        stems={source: tuple(map(prints.stamped, files)) for source, files in song.files.items()},
        fingerprint=content.hexdigest(),
        pad_s=song.pad_s,
        mixture=tuple(map(prints.stamped, song.mixture)),
    )


# --- fingerprints -------------------------------------------------------------------------------------------


class _Fingerprints:
    """SHA-256 of files, remembered between runs by path, size and time of change.

    Objects in S3 are told apart by size and time of change alone: reading them would double the traffic.
    """

    def __init__(
        self,
        cache: str | Path | None,
        advance: Callable[[float], None] | None,
        stamps: Mapping[str, storage.Stamp],
    ) -> None:
        self._cache = cache
        self._advance = advance
        self._stamps = stamps
        # A cache may be lost or damaged at any time; it only saves work.
        files = (read_json(cache) or {}).get("files") if cache else None
        self._known: dict[str, list[int | str]] = files if isinstance(files, dict) else {}
        self._changed = False

    def of(self, path: str) -> str:
        """The digest of a file; of its unreadable state where it cannot be read, which ingest then reports."""
        if storage.is_remote(path):
            stamp = self._stamp(path)
            if stamp is None:
                return "unreadable:missing"
            return f"object:{stamp.size}:{stamp.changed_ns}"
        key = str(Path(path).absolute())
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                return "unreadable:not a file"  # reading a pipe would wait for ever
            known = self._known.get(key)
            if known and known[:2] == [status.st_size, status.st_mtime_ns]:
                return str(known[2])
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"unreadable:{error.errno}"
        self._known[key] = [status.st_size, status.st_mtime_ns, content]
        self._changed = True
        if self._advance:
            self._advance(status.st_size)
        return content

    def stamped(self, file: StemFile) -> StemFile:
        """The file with its size and time of change, where they can be known."""
        stamp = self._stamp(file.path)
        return replace(file, num_bytes=stamp.size, changed_ns=stamp.changed_ns) if stamp else file

    def _stamp(self, path: str) -> storage.Stamp | None:
        return self._stamps.get(path) or storage.stamp(path)

    def save(self) -> None:
        if self._cache and self._changed:
            write_json(self._cache, {"files": self._known})
