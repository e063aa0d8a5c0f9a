"""Which files of one song are versions of each other by their names: copies, takes, old ones, other depths or formats.

What file managers and sync services add to a name is told by its form, all else by the words under [version] in the
taxonomy. Names raise a doubt only: whether the files hold the same audio is found out at ingest
(`shards/duplicate_stems.py`).
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from datasets.corpus.file_listing import is_audio, is_lossy, without_suffix
from datasets.corpus.taxonomy import Taxonomy

_CONFLICT = "conflict|konflikt|conflit|conflicto|conflito|conflitto|конфликт|競合|冲突|衝突|충돌"
_CLOCK = r"(?:[-_.T ]{0,3}\d{2}[-_.:h]?\d{2}(?:[-_.:]?\d{2})?)?"
_DATE = rf"(?<!\d)(?:19|20)\d\d[-_. ]?(?:0[1-9]|1[0-2])[-_. ]?(?:0[1-9]|[12]\d|3[01])(?!\d){_CLOCK}"
_DAY_FIRST = r"(?<!\d)(?:[0-3]?\d[-_.]){2}(?:19|20)\d\d(?!\d)"  # or the month
# Syncthing; Dropbox, Nextcloud and the like in brackets; ownCloud and the like behind a mark; OneDrive by the machine.
_SYNC = re.compile(
    rf"[.~ _-]*sync-conflict-\d{{8}}-\d{{6}}(?:-\w+)?|\s*[(\[][^()\[\]]*(?:{_CONFLICT})[^()\[\]]*[)\]]"
    rf"|(?<=\w)[ _.-]+(?:in )?(?:{_CONFLICT})\w*(?: (?:copy|kopie|copie|copia))?(?:[ _.-]*{_DATE})?$"
    r"|(?<=\w)-(?:(?:DESKTOP|LAPTOP)-\w{5,8}|[\w ’'-]*(?:MacBook(?:[ -](?:Pro|Air))?|iMac))(?:-\d+)?$",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"\s*[(\[]\d{1,3}[)\]]$")  # a browser's or a file manager's copy, if the name without it is there
# "Copy (2) of vocals", where the words for a copy stand together in the taxonomy
_COPY_NUMBER = re.compile(r"\b(copy|kopie|copie|copia|kopia|kopi|cópia|còpia|копия) ?\(\d{1,3}\)(?= \w)", re.IGNORECASE)
_FORMAT = (
    r"(?<![\d.,])(?:16|24|32) ?[-_]?(?:b|bits?|f|float)(?![a-z])"
    r"|(?<![\d.,])(?:22|32|44|48|88|96|176|192)(?:[.,_]?[0125]{1,3})? ?[-_]?k(?:hz)?(?![a-z])"
    r"|(?<!\d)(?:44100|48000|88200|96000)(?: ?hz)?(?!\d)"
)
_ONLY_FORMAT = re.compile(rf"(?:(?:{_FORMAT})[-_ .]*)+", re.IGNORECASE)
_MARKS = re.compile(rf"~\d*$|{_DATE}|{_DAY_FIRST}|\(?(?<![a-z])\d+(?:st|nd|rd|th) copy\)?|{_FORMAT}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionKey:
    """What a path says besides its version: equal keys are versions of each other."""

    key: tuple[tuple[str, ...], ...]
    num_marks: int  # that speak of a version
    old: bool  # the name says that it was replaced
    in_old_folder: bool


def without_conflict(name: str) -> str:
    """A name without what a sync service adds to tell two machines' files apart."""
    plain = unicodedata.normalize("NFC", name)
    return _SYNC.sub("", plain) or plain


def is_format(folder: str) -> bool:
    """Whether a folder is called after a sample rate or a depth alone: "44k", "24-bit"."""
    return _ONLY_FORMAT.fullmatch(folder) is not None


def is_container(folder: str, taxonomy: Taxonomy) -> bool:
    """Whether a folder's name only says that files are inside, in which format, or which version of them."""
    plain, _ = _unmarked(folder)
    return taxonomy.says_nothing(" ".join(taxonomy.version_of(plain, is_folder=True).rest))


def version_keys(paths: Sequence[str], taxonomy: Taxonomy) -> list[VersionKey]:
    """The key of each path of a song, without suffixes; folders that say nothing but a version are not in it."""
    present = {unicodedata.normalize("NFC", path).casefold() for path in paths}
    return [_version_key(_bare(unicodedata.normalize("NFC", path)), taxonomy, present) for path in paths]


def _bare(path: str) -> str:
    """A path without another suffix before the one that was taken off, as of "vocals.wav.wav"."""
    while is_audio(path):
        path = without_suffix(path)
    return path


def _version_key(path: str, taxonomy: Taxonomy, present: set[str]) -> VersionKey:
    *folders, _ = path.split("/")
    if (found := _COUNTED.search(path)) and path[: found.start()].casefold() in present:
        num_marks, path = 1, path[: found.start()]
    else:
        num_marks = 0
    key: list[tuple[str, ...]] = []
    in_old_folder = False
    for folder in folders:
        plain, num_found = _unmarked(folder)
        versioned = taxonomy.version_of(plain, is_folder=True)
        num_marks += num_found + versioned.num_marks
        in_old_folder |= versioned.old
        text = " ".join(versioned.rest)
        if not (taxonomy.says_nothing(text) or taxonomy.read(text).ignored):  # "Mixdown" tells no stems apart
            key.append(versioned.rest)
    plain, num_found = _unmarked(path.rpartition("/")[2])
    versioned = taxonomy.version_of(plain)
    key.append(versioned.rest)
    return VersionKey(
        key=tuple(key), num_marks=num_marks + num_found + versioned.num_marks,
        old=in_old_folder or versioned.old, in_old_folder=in_old_folder,
    )  # fmt: skip


def _unmarked(name: str) -> tuple[str, int]:
    """A name without what marks a version by its form, and how many such marks it has."""
    plain = without_conflict(name)
    unmarked, num_marks = _MARKS.subn(" ", _COPY_NUMBER.sub(r"\1", plain))
    return unmarked, num_marks + (plain != name)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameDoubt:
    """A file that may be another version of a second one, by the positions of both."""

    position: int
    other: int
    lossy: bool = False  # the same name in a lossy format, beside one without loss


def name_doubts(
    paths: Sequence[str], keys: Sequence[VersionKey], kinds: Sequence[str], taxonomy: Taxonomy
) -> list[NameDoubt]:
    """The doubts that names raise; `kinds` of sound are empty for files that are in no stem, which raise none."""
    groups: dict[tuple[tuple[str, ...], ...], list[int]] = defaultdict(list)
    for position, kind in enumerate(kinds):
        if kind:
            groups[keys[position].key].append(position)
    doubts = []
    for members in groups.values():
        best, *others = sorted(members, key=lambda at: _rank(paths[at], keys[at]))
        stem = without_suffix(paths[best])
        doubts += [
            NameDoubt(
                position=at, other=best,
                lossy=without_suffix(paths[at]) == stem and is_lossy(paths[at]) and not is_lossy(paths[best]),
            )
            for at in others
        ]  # fmt: skip
    doubted = {doubt.position for doubt in doubts}
    for position, kind in enumerate(kinds):
        if kind and keys[position].old and position not in doubted:
            fresh = [
                at
                for at, other in enumerate(kinds)
                if not keys[at].old and (other == kind or taxonomy.holds(other, kind) or taxonomy.holds(kind, other))
            ]
            doubts += [NameDoubt(position=position, other=fresh[0])] if fresh else []
    return sorted(doubts, key=lambda doubt: doubt.position)


def _rank(path: str, key: VersionKey) -> tuple[bool, bool, int, int, str]:
    return key.old, is_lossy(path), key.num_marks, len(path), path
