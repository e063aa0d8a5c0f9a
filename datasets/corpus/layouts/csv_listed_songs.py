"""CSV files at the top of a corpus that list the files of songs, with the columns `instrum` and `path`.

A CSV file counts as a list only where its paths are audio files that are there and its instruments are known; every
other one is left out and named. What its paths mean, also those of Windows, is judged here, before any file is opened.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from datasets.corpus import licenses
from datasets.corpus.file_listing import Listing, is_audio
from datasets.corpus.layouts.csv_parsing import WINDOWS, CsvRow, CsvTable, read_table
from datasets.corpus.layouts.found_song import FoundSong, Search, named, song_of
from datasets.corpus.splits import song_title, split_alias
from datasets.corpus.stem_names import apart_of, read_label
from datasets.errors import InputError
from datasets.schema import StemFile
from datasets.store import storage

_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_SILENT = ("unknown", "ignored")  # statuses of a label that speaks of no stem


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFile:
    """A CSV file at the top of a corpus: whether it lists the songs, and how it was read or why it is left out."""

    name: str
    is_list: bool
    detail: str


def csv_songs(search: Search) -> tuple[list[FoundSong], list[CsvFile]]:
    """Songs of all lists together, and what became of each CSV file; train.csv, valid.csv and test.csv state splits."""
    rows: dict[str, dict[CsvRow, None]] = defaultdict(dict)  # different ones, in order
    files = []
    for file in search.listing.folders.get("", ()):
        if file.lower().endswith(".csv") and file != licenses.TABLE:
            table = read_table(file, search.listing.content(file))
            located = [replace(row, path=_with_slashes(search.listing, row.path)) for row in table.rows]
            files.append(_as_list(search, replace(table, rows=tuple(located))))
            if files[-1].is_list:
                rows[split_alias(os.path.splitext(file)[0])] |= dict.fromkeys(located)
    songs = [
        _csv_song(search, f"{split}/{key}" if split else key, group)
        for split, listed in rows.items()
        for key, group in _songs_of_rows(listed).items()
    ]
    return songs, files


def _as_list(search: Search, table: CsvTable) -> CsvFile:
    """Whether a table is a list of stems; InputError where an encoding that was guessed makes names of no files."""
    why_not = table.why_not or _why_no_list(search, table.rows)
    if why_not:
        return CsvFile(name=table.file, is_list=False, detail=why_not)
    lost = [row.path for row in table.rows if not row.path.isascii() and not _is_there(search.listing, row.path)]
    if table.encoding == WINDOWS and lost:
        raise InputError(
            f"{table.file} in the corpus folder is not UTF-8 (byte {table.bad_byte}), and as Windows-1252 it names "
            f"files that are not there, such as {lost[0]}: save it as CSV UTF-8"
        )
    read_as = f"read as Windows-1252: byte {table.bad_byte} is not UTF-8" if table.encoding == WINDOWS else ""
    return CsvFile(name=table.file, is_list=True, detail=read_as)


def _why_no_list(search: Search, rows: Sequence[CsvRow]) -> str:
    if not rows:
        return "it lists nothing"
    heard = [row for row in rows if is_audio(row.path)]
    if not heard:
        return f"its paths are no audio files, such as {rows[0].path!r}"
    labels = dict.fromkeys(row.instrum for row in heard)
    if all(read_label(label, taxonomy=search.taxonomy, sources=search.sources).status in _SILENT for label in labels):
        return f"its instruments mean no source that is known, such as {heard[0].instrum!r}"
    if not any(_leads_out(search.listing, row.path) or _is_there(search.listing, row.path) for row in heard):
        return f"none of its files is there, such as {heard[0].path!r}"
    return ""


def _songs_of_rows(rows: Iterable[CsvRow]) -> Mapping[str, list[CsvRow]]:
    """Rows by song: by their column `song`, else by folder where one holds several instruments, else by file name."""
    rows = list(rows)
    instruments: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        instruments[str(PurePosixPath(row.path).parent)].add(row.instrum)
    groups: dict[str, list[CsvRow]] = defaultdict(list)
    for row in rows:
        path = PurePosixPath(row.path)
        folder = str(path.parent)
        key = row.song or (folder if len(instruments[folder]) > 1 and folder != "." else path.stem)
        groups[key.strip("/") or path.stem].append(row)
    return groups


def _csv_song(search: Search, name: str, rows: Sequence[CsvRow]) -> FoundSong:
    parts = []
    for row in sorted(rows, key=lambda row: (row.instrum, row.path)):
        refused = _refusal(search, row)
        if refused:
            reason, detail = refused
            return named(FoundSong(name=name, title=song_title(name), layout="csv", reason=reason, detail=detail))
        note = read_label(row.instrum, taxonomy=search.taxonomy, sources=search.sources)
        apart = apart_of(note.kind, f"{row.instrum} {row.path}", search.taxonomy)
        parts.append(
            (replace(note, path=row.path, apart=apart), StemFile(path=_located(search.listing.root, row.path)[0]))
        )
    stated = all(row.song for row in rows)  # then several files of one source were meant
    return song_of(search, name, "csv", parts, one_each=not stated)


# --- paths ----------------------------------------------------------------------------------------------------


def _refusal(search: Search, row: CsvRow) -> tuple[str, str] | None:
    """Why a song cannot be made of what a row names: reason and detail."""
    if _is_of_windows(search.listing, row.path):
        words = "is a path of another machine; write it relative to the corpus folder"
        return "unsafe_name", f"{row.path}, which {row.file} names, {words}"
    if _leads_out(search.listing, row.path):
        if search.rules.allow_outside:
            return None
        words = "lies outside the corpus folder; corpus.allow_outside=true allows that"
        return "unsafe_name", f"{row.path}, which {row.file} names, {words}"
    if not _is_there(search.listing, row.path):
        return "missing_stem", f"{row.path}, which {row.file} names, is not there"
    return None


def _with_slashes(listing: Listing, path: str) -> str:
    """A path whose backslashes separate folders, as on Windows, with slashes; a name that holds one stays."""
    if "\\" not in path or _WINDOWS_ROOT.match(path) or _is_there(listing, path):
        return path
    return path.replace("\\", "/")


def _is_of_windows(listing: Listing, path: str) -> bool:
    return os.name != "nt" and bool(_WINDOWS_ROOT.match(path)) and not _is_there(listing, path)


def _leads_out(listing: Listing, path: str) -> bool:
    return _is_of_windows(listing, path) or not _located(listing.root, path)[1]


def _is_there(listing: Listing, path: str) -> bool:
    address, inside = _located(listing.root, path)
    if storage.is_remote(address):
        return not inside or address in listing.stamps
    try:
        return os.path.exists(address) and not os.path.isdir(address)
    except ValueError:  # a zero byte
        return False


def _located(root: str, path: str) -> tuple[str, bool]:
    """The address that a path in a CSV means, and whether it lies below the root."""
    if not storage.is_remote(root):
        address = os.path.normpath(Path(root, os.path.expanduser(path)))
        return address, Path(address).is_relative_to(root)
    if storage.is_remote(path):
        return path, path.startswith(f"{root}/") and ".." not in path.split("/")
    normal = os.path.normpath(path)
    return storage.join(root, normal), not normal.startswith(("..", "/"))
