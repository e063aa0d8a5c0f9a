"""Finds the songs of a corpus folder, says which it cannot use and why, and puts each on one side of a split.

Layouts known today: MUSDB18 (`*.stem.mp4`), MUSDB18-HQ (split folders, a folder of WAV files per song) and
plain song folders with one audio file per source, in split folders or not. Nothing here opens the audio; what
is inside the files is found out at ingest (`chunks.py`).
"""

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets.errors import InputError
from datasets.schema import SOURCES, SPLITS, StemFile, Track, Verdict
from datasets.shards import write_json

LAYOUTS = {
    "musdb18": "MUSDB18: *.stem.mp4 files, in train/ and test/ or together",
    "musdb18-hq": "MUSDB18-HQ: train/ and test/ with a folder per song holding mixture.wav and SOURCE.wav",
    "folders": "song folders: a folder per song holding SOURCE.wav (or .flac, .ogg, .mp3, .m4a, .aiff), "
    "in train/, valid/ and test/ or together",
}
SUFFIXES = (".wav", ".flac", ".aiff", ".aif", ".ogg", ".opus", ".mp3", ".m4a")
# The streams of a MUSDB18 file as musdb's mus.yaml states them; stream 0 is the mixture. musdb itself is not
# asked, since importing it fails without an ffmpeg command; a test compares the two.
MUSDB_STREAMS = {"drums": 1, "bass": 2, "other": 3, "vocals": 4}
# The 14 songs of MUSDB18's train folder that published results use for validation.
MUSDB_VALID = frozenset(
    {
        "Actions - One Minute Smile",
        "Clara Berry And Wooldog - Waltz For My Victims",
        "Johnny Lokke - Promises & Lies",
        "Patrick Talbot - A Reason To Leave",
        "Triviul - Angelsaint",
        "Alexander Ross - Goodbye Bolero",
        "Fergessen - Nos Palpitants",
        "Leaf - Summerghost",
        "Skelpolu - Human Mistakes",
        "Young Griffo - Pennies",
        "ANiMAL - Rockshow",
        "James May - On The Line",
        "Meaxic - Take A Step",
        "Traffic Experiment - Sirens",
    }
)
_PART = re.compile(r"[\s_-]*(\(\s*(part\s*)?\d+\s*\)|\bpart\s*\d+)\s*$", re.IGNORECASE)
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_NAME_BYTES = 120
_SMALL = 50  # groups up to which fractions are met by count


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a corpus folder holds: usable tracks and refused songs, each in the order of their ids."""

    tracks: tuple[Track, ...]
    rejected: tuple[Verdict, ...]
    layout: str
    drawn: tuple[str, ...]  # the splits that no folder states


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A song as it stands in the folder: its name under the root, and a file per source or the reason why not."""

    name: str
    layout: str
    files: Mapping[str, tuple[StemFile, ...]]
    reason: str = ""
    detail: str = ""


def scan(
    root: str | Path,
    *,
    sources: Sequence[str] = SOURCES,
    split_seed: int = 0,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
    license: str = "unknown",
    cache: str | Path | None = None,
    advance: Callable[[float], None] | None = None,
) -> Scan:
    """Every song under `root`, with its split and the fingerprint of its files.

    `cache` is a JSON file that remembers fingerprints by path, size and time of change. `advance` is called
    with the bytes of each file fingerprinted. See `assign_splits` for the split rule.
    """
    folder = Path(root).expanduser().absolute()
    _check_folder(folder)
    found = sorted(_find(folder, tuple(sources)), key=lambda song: song.name)
    if not found:
        raise InputError(
            f"{folder} holds no songs in a layout known here. Looked for sources {', '.join(sources)} in:\n"
            + "\n".join(f"  - {text}" for text in LAYOUTS.values())
        )
    found = _refuse_name_clashes(found)
    splits = assign_splits(
        [song.name for song in found],
        seed=split_seed,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
    )
    prints = _Fingerprints(cache, advance)
    tracks, rejected = [], []
    try:
        for song in found:
            split, group = splits[song.name]
            if song.reason:
                rejected.append(_refused(song, split))
            else:
                tracks.append(_track(song, split, group, license, sources, prints))
    finally:
        prints.save()
    layout = Counter(song.layout for song in found).most_common(1)[0][0]
    drawn = tuple(_stated_sides([song.name for song in found])[1])
    return Scan(tracks=tuple(tracks), rejected=tuple(rejected), layout=layout, drawn=drawn)


def assign_splits(
    names: Iterable[str], *, seed: int, valid_fraction: float, test_fraction: float
) -> dict[str, tuple[str, str]]:
    """The split and the group of each song, by its name under the root.

    Songs in folders named train, valid or test stay where they are, and MUSDB18's published validation songs
    are moved from train to valid. A split that has no song is then drawn from train; if all songs stand in one
    folder, or in none, both others are. What is drawn are groups: excerpts of one song ("Title (2)",
    "Title part 2") belong together, and where there are at least three artists ("Artist - Title"), so do all
    songs of one. Each group has a lot that depends on the seed and its name only. Up to 50 groups, the lowest
    lots go to test and the next to valid, in the numbers that the fractions ask for: at least one to test, and
    of three groups or more at least one to valid. Beyond 50, a group goes where its lot falls between 0 and 1,
    so that a song keeps its side when others come and go.
    """
    names = list(names)
    sides, missing = _stated_sides(names)
    groups = _groups(names)
    fractions = {"test": test_fraction, "valid": valid_fraction}
    drawn = _draw(
        {groups[name] for name in names if sides[name] == "train"},
        seed=seed,
        fractions={split: fractions[split] for split in missing},
    )
    return {
        name: (drawn.get(groups[name], "train") if sides[name] == "train" else sides[name], groups[name])
        for name in names
    }


def _stated_sides(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Where the folders put each song, and the splits that must be drawn because no folder states them."""
    sides = {name: _stated_split(name) for name in names}
    one_pool = len({side for side in sides.values() if side}) < 2
    for name, side in sides.items():
        if one_pool or side in ("", "train"):
            sides[name] = "valid" if _title(name) in MUSDB_VALID else "train"
    return sides, [split for split in ("test", "valid") if split not in sides.values()]


def _draw(groups: set[str], *, seed: int, fractions: Mapping[str, float]) -> dict[str, str]:
    """Groups that leave train, and for where."""

    def lot(group: str) -> float:
        data = hashlib.sha256(f"split\x1f{seed}\x1f{group}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(data[:8], "little") / 2.0**64

    ordered = sorted(groups, key=lambda group: (lot(group), group))
    sides: dict[str, str] = {}
    first, low = 0, 0.0
    for position, (split, fraction) in enumerate(fractions.items()):
        if fraction <= 0:
            continue
        if len(ordered) > _SMALL:
            chosen = [group for group in ordered if low <= lot(group) < low + fraction] or ordered[first : first + 1]
        else:
            spare = len(ordered) - first - 1 - (position == 0 and len(fractions) > 1 and len(ordered) > 2)
            chosen = ordered[first : first + min(spare, max(1, round(fraction * len(ordered))))]
        sides |= dict.fromkeys(chosen, split)
        first, low = first + len(chosen), low + fraction
    return sides


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


# --- finding ------------------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise InputError(f"the corpus folder {folder} does not exist; set corpus.root=DIR")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; set corpus.root to the folder that holds the songs")
    try:
        empty = not any(folder.iterdir())
    except OSError as error:
        raise InputError(f"the corpus folder {folder} cannot be read: {error.strerror}") from None
    if empty:
        raise InputError(f"the corpus folder {folder} is empty; set corpus.root to a folder with songs")


def _find(root: Path, sources: tuple[str, ...]) -> Iterator[_Found]:
    """Songs below the root, in no order. Links are followed, though never round in a circle."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = sorted(name for name in subfolders if not _hidden(name)) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        if {"chunks", "manifests"} <= set(subfolders):
            subfolders.clear()  # a store; stems separated into it are no songs of the corpus
            continue
        visible = sorted(name for name in files if not _hidden(name))
        stem_files = [name for name in visible if name.lower().endswith(".stem.mp4")]
        for name in stem_files:
            yield _stem_file_song(root, Path(folder, name), sources)
        if Path(folder) != root:
            song = _folder_song(root, Path(folder), visible, sources)
            if song:
                yield song


def _hidden(name: str) -> bool:
    return name.startswith(".") and not name.startswith("..")  # "...Baby One More Time" is a song


def _stem_file_song(root: Path, path: Path, sources: tuple[str, ...]) -> _Found:
    name = path.relative_to(root).as_posix()[: -len(".stem.mp4")]
    missing = [source for source in sources if source not in MUSDB_STREAMS]
    return _named(
        name,
        "musdb18",
        {source: (StemFile(path=str(path), stream=MUSDB_STREAMS[source]),) for source in sources if not missing},
        reason="missing_stem" if missing else "",
        detail=f"a .stem.mp4 file holds no {', '.join(missing)}" if missing else "",
    )


def _folder_song(root: Path, folder: Path, files: Sequence[str], sources: tuple[str, ...]) -> _Found | None:
    """The song of a folder; None when no file in it is named after a source."""
    by_source: dict[str, list[str]] = {source: [] for source in sources}
    for name in files:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES and stem.lower() in by_source:
            by_source[stem.lower()].append(name)
    if not any(by_source.values()):
        return None
    name = folder.relative_to(root).as_posix()
    has_mixture = "mixture.wav" in files
    layout = "musdb18-hq" if has_mixture and _stated_split(name) else "folders"
    missing = [source for source, names in by_source.items() if not names]
    doubled = [names for names in by_source.values() if len(names) > 1]
    reason = "missing_stem" if missing else "ambiguous_stem" if doubled else ""
    detail = f"no file for {', '.join(missing)}" if missing else "; ".join(" and ".join(names) for names in doubled)
    stems = {source: tuple(StemFile(path=str(folder / name)) for name in names) for source, names in by_source.items()}
    return _named(name, layout, stems, reason=reason, detail=detail)


def _named(
    name: str, layout: str, files: Mapping[str, tuple[StemFile, ...]], *, reason: str = "", detail: str = ""
) -> _Found:
    """A song under its name in NFC, refused when that is no text at all or would lead out of the folder."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return _Found(name=shown, layout=layout, files={}, reason="unsafe_name", detail="its name is not valid Unicode")
    if ".." in name.split("/"):
        return _Found(
            name=name, layout=layout, files={}, reason="unsafe_name", detail="its name leads out of the folder"
        )
    return _Found(name=unicodedata.normalize("NFC", name), layout=layout, files=files, reason=reason, detail=detail)


def _refuse_name_clashes(found: Sequence[_Found]) -> list[_Found]:
    """Two spellings of one name (Unicode allows several) cannot both be that song: the second is refused."""
    seen: set[str] = set()
    kept: list[_Found] = []
    for song in found:
        if song.name in seen:
            number = sum(other.name.startswith(song.name) for other in kept) + 1
            song = replace(
                song,
                name=f"{song.name} [{number}]",
                reason="unsafe_name",
                detail="its name is another song's, in another Unicode spelling",
            )
        seen.add(song.name)
        kept.append(song)
    return kept


def _refused(song: _Found, split: str) -> Verdict:
    return Verdict(
        track_id=song.name,
        title=_title(song.name),
        split=split,
        keep=False,
        reason=song.reason,
        detail=song.detail,
        duration_s=0.0,
        measures={},
    )


def _track(
    song: _Found, split: str, group: str, license: str, sources: Sequence[str], prints: "_Fingerprints"
) -> Track:
    content = hashlib.sha256()
    for source in sources:
        for file in song.files[source]:
            content.update(f"{source}\x1f{file.stream}\x1f{prints.of(file.path)}\n".encode())
    return Track(
        track_id=song.name,
        title=_title(song.name),
        group=group,
        split=split,
        license=license,
        layout=song.layout,
        stems=song.files,
        fingerprint=content.hexdigest(),
    )


# --- names --------------------------------------------------------------------------------------------------


def _stated_split(name: str) -> str:
    """The split that the first folder of a name states; empty when it states none."""
    first = name.split("/")[0].lower()
    aliases = {"validation": "valid", "val": "valid", "training": "train"}
    first = aliases.get(first, first)
    return first if first in SPLITS and "/" in name else ""


def _title(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _groups(names: Sequence[str]) -> dict[str, str]:
    """The group of each song: its artist where at least three artists are named, else the song itself."""
    songs = {name: _PART.sub("", _title(name)).strip().casefold() or name for name in names}
    artists = {name: song.split(" - ")[0].strip() if " - " in song else "" for name, song in songs.items()}
    if len({artist for artist in artists.values() if artist}) < 3:
        return songs
    return {name: artists[name] or songs[name] for name in names}


# --- fingerprints -------------------------------------------------------------------------------------------


class _Fingerprints:
    """SHA-256 of files, remembered between runs by path, size and time of change."""

    def __init__(self, cache: str | Path | None, advance: Callable[[float], None] | None) -> None:
        self._cache = Path(cache) if cache else None
        self._advance = advance
        self._known: dict[str, list[int | str]] = {}
        self._changed = False
        if self._cache:
            try:
                self._known = json.loads(self._cache.read_text(encoding="utf-8"))["files"]
            except (OSError, ValueError, KeyError, TypeError):
                self._known = {}  # a cache may be lost or damaged at any time; it only saves work

    def of(self, path: str) -> str:
        """The digest of a file; of its unreadable state where it cannot be read, which ingest then reports."""
        key = str(Path(path).absolute())
        try:
            status = os.stat(path)
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

    def save(self) -> None:
        if self._cache and self._changed:
            write_json(self._cache, {"files": self._known})
