"""What a person decided about songs, against the rules: a CSV or TOML file of track ids, keep or drop, and why.

CSV has the columns `track_id,verdict,why`; TOML has the same three words under `[[song]]`. The page of the curation
(`curation.html`) writes such a file from the buttons that a person pressed.
"""

import csv
import difflib
import hashlib
import io
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets.errors import InputError

COLUMNS = ("track_id", "verdict", "why")
VERDICTS = ("keep", "drop")
_TOLD = 8  # mistakes named in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One song's decision by hand."""

    keep: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """All decisions by track id, and a digest of what they say."""

    songs: Mapping[str, Override]
    digest: str


def read_overrides(path: str, *, known: Collection[str], unstored: Mapping[str, str]) -> Overrides:
    """The decisions of a file; InputError that lists every mistake in it, misspelt ids with the nearest real one.

    `known` are all track ids, `unstored` those whose audio could not be read, with the reason: no hand can keep them.
    """
    content = _read(path)
    songs: dict[str, Override] = {}
    mistakes: list[str] = []
    for place, row in _rows(path, content):
        if row["track_id"] not in known and row["track_id"][1:] in known and row["track_id"].startswith("'"):
            row["track_id"] = row["track_id"][1:]  # as in dropped.csv, which says so that =NAME is no formula
        mistake = _mistake(row, known=known, unstored=unstored, seen=songs)
        if mistake:
            mistakes.append(f"{place}: {mistake}")
        else:
            songs[row["track_id"]] = Override(keep=row["verdict"] == "keep", why=row["why"].strip())
    if mistakes:
        more = [f"and {len(mistakes) - _TOLD} more"] if len(mistakes) > _TOLD else []
        raise InputError("\n  ".join([f"curate.overrides={path} cannot be used:", *mistakes[:_TOLD], *more]))
    said = "\0".join(f"{track_id}\0{one.keep}\0{one.why}" for track_id, one in sorted(songs.items()))
    return Overrides(songs=songs, digest=hashlib.sha256(said.encode()).hexdigest()[:16])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # spreadsheets put a mark at the start
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"curate.overrides={path} cannot be read: {error}") from None


def _rows(path: str, content: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row stands, and the row with all three columns as text."""
    if path.endswith(".toml"):
        yield from _toml_rows(path, content)
        return
    reader = csv.reader(io.StringIO(content, newline=""))
    header = [name.strip() for name in next(reader, [])]
    if sorted(header) != sorted(COLUMNS):
        raise InputError(
            f"curate.overrides={path} must have the columns {','.join(COLUMNS)}, got {','.join(header) or 'nothing'}"
        )
    for cells in reader:
        if not cells:
            continue
        place = f"line {reader.line_num}"
        if len(cells) != len(header):
            raise InputError(f"curate.overrides={path}, {place}: must have {len(header)} cells, got {len(cells)}")
        yield place, dict(zip(header, cells, strict=True))


def _toml_rows(path: str, content: str) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        tree = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"curate.overrides={path} is not valid TOML: {error}") from None
    songs = tree.get("song", [])
    if set(tree) - {"song"} or not isinstance(songs, list) or not all(isinstance(song, dict) for song in songs):
        raise InputError(f"curate.overrides={path} must hold tables [[song]] alone, got {', '.join(tree)}")
    for number, song in enumerate(songs, start=1):
        if set(song) != set(COLUMNS):
            seen = ", ".join(song) or "nothing"
            raise InputError(f"curate.overrides={path}, song {number}: must have {', '.join(COLUMNS)}, got {seen}")
        yield f"song {number}", {name: str(value) for name, value in song.items()}


def _mistake(
    row: Mapping[str, str], *, known: Collection[str], unstored: Mapping[str, str], seen: Collection[str]
) -> str:
    """What is wrong with a row, or nothing."""
    track_id, verdict = row["track_id"], row["verdict"]
    if track_id not in known:
        near = difflib.get_close_matches(track_id, known, n=1, cutoff=0.0)
        return f"there is no song {track_id!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if track_id in seen:
        return f"{track_id!r} is decided twice"
    if verdict not in VERDICTS:
        return f"{track_id!r}: verdict must be keep or drop, got {verdict!r}"
    if not row["why"].strip():
        return f"{track_id!r}: no reason: write a few words under why"
    if verdict == "keep" and track_id in unstored:
        return f"{track_id!r} cannot be kept, its audio is not there: {unstored[track_id]}"
    return ""
