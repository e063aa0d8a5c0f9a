"""Under which licence each song of a corpus stands, as the folder states it, and what the name of a licence allows.

A table `licenses.csv` at the top goes before a file LICENSE in the song's folder or in one above it, and that before
the one of the settings. Nobody checks what is stated; it is kept as one line of text without control characters.
"""

import csv
import io
import re
from collections.abc import Iterable

from datasets.corpus.file_listing import Listing, upwards
from datasets.errors import InputError

TABLE = "licenses.csv"
UNKNOWN = "unknown"
MAX_LENGTH = 120  # characters of a name
_COLUMNS = ("song", "license")
_FILE = re.compile(r"(?:licen[cs]e|copying)(?:\.(?:txt|md|rst))?", re.IGNORECASE)
_MAX_BYTES = 1 << 16
_HEAD = 3000  # characters of a licence's text in which it says which one it is
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*(\(?\w[\w.+() -]*)")
_CC0 = re.compile(r"creativecommons\.org/publicdomain/zero/1\.0|CC0 1\.0 Universal", re.IGNORECASE)
_CC_ADDRESS = re.compile(r"creativecommons\.org/licenses/(by(?:-(?:nc|nd|sa))*)/(\d\.\d)", re.IGNORECASE)
_CC_TITLE = re.compile(
    r"Attribution((?:[- ](?:Non-?Commercial|NoDerivatives|NoDerivs|ShareAlike))*),? (\d\.\d)", re.IGNORECASE
)
_CC_PARTS = {"noncommercial": "NC", "noderivatives": "ND", "noderivs": "ND", "sharealike": "SA"}
_LIMITED = r"(?:research|academic|education\w*|personal|private|evaluation)"  # uses that a licence is limited to
_FORBIDS = (
    r"non[-\u2010-\u2013 ]?commercial|\bno commercial use|\bnot (?:be used )?for (?:any )?commercial|"
    r"commercial (?:use|purposes?) (?:(?:is|are) )?(?:not (?:allowed|permitted)|prohibited|forbidden)|"
    rf"{_LIMITED}(?: use| purposes?)? only"
)
_FORBIDDING_TEXT = re.compile(_FORBIDS, re.IGNORECASE)
_FORBIDDING_NAME = re.compile(
    rf"{_FORBIDS}|(?<![a-z])nc(?![a-z])|all rights reserved|for {_LIMITED} (?:use|purposes)", re.IGNORECASE
)


def is_non_commercial(license: str) -> bool:
    """Whether the name of a licence says that it forbids commercial use, as NC, "research only" and the like do."""
    return bool(_FORBIDDING_NAME.search(license))


def is_unknown(license: str) -> bool:
    """Whether no licence was stated."""
    return license.strip().lower() in ("", UNKNOWN)


def one_line(text: str) -> str:
    """A licence as it is kept: printable, without line ends, at most `MAX_LENGTH` characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(line.split())[:MAX_LENGTH].rstrip()


def stated_licenses(listing: Listing, songs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What the folder states of songs, given as name and title: licence by name, without those it says nothing of.

    InputError where `licenses.csv` cannot be read, has other columns, or says two things of one song.
    """
    table, files = _read_table(listing), dict[str, str]()
    stated: dict[str, str] = {}
    for name, title in songs:
        license = table.get(name) or table.get(title) or _nearest_file(listing, name, files)
        if license:
            stated[name] = license
    return stated


def _read_table(listing: Listing) -> dict[str, str]:
    """Licences by what the table calls the songs: their path under the root, or their title."""
    if TABLE not in listing.folders.get("", ()):
        return {}
    try:
        text = listing.content(TABLE).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{TABLE} in the corpus folder is no CSV file in UTF-8: {error}") from None
    columns = tuple(rows[0]) if rows else _COLUMNS
    if not set(_COLUMNS) <= set(columns):
        names = ", ".join(map(str, columns))
        raise InputError(f"{TABLE} in the corpus folder must have the columns song and license, got {names}")
    licenses: dict[str, str] = {}
    for row in rows:
        song, license = (row["song"] or "").strip(), one_line(row["license"] or "")
        if licenses.setdefault(song, license) != license:
            raise InputError(
                f"{TABLE} in the corpus folder says both {licenses[song]!r} and {license!r} of {song!r}: leave one line"
            )
    return licenses


def _nearest_file(listing: Listing, name: str, read: dict[str, str]) -> str:
    """The licence in the file of the nearest folder that has one, the root included; `read` remembers folders."""
    for folder in (*upwards(name), ""):
        if folder not in read:
            file = next((file for file in listing.folders.get(folder, ()) if _FILE.fullmatch(file)), None)
            read[folder] = _read_file(listing, f"{folder}/{file}".lstrip("/")) if file else ""
        if read[folder]:
            return read[folder]
    return ""


def _read_file(listing: Listing, path: str) -> str:
    """Unavailable where it cannot be read: the file of a folder above it would say something else."""
    return named_license(listing.content(path, _MAX_BYTES).decode("utf-8-sig", "replace"))


def named_license(text: str) -> str:
    """The SPDX identifier of a licence's text where it says which one it is, else its first line, with
    "(non-commercial)" where only a later one says that.

    Where it names several of Creative Commons, all of them: one may forbid what another allows.
    """
    head = text[:_HEAD]
    if match := _SPDX.search(head):
        return one_line(match[1].rstrip(" -"))
    if named := [f"CC-{match[1].upper()}-{match[2]}" for match in _CC_ADDRESS.finditer(head)] or [
        "-".join(["CC-BY", *_parts(match[1]), match[2]]) for match in _CC_TITLE.finditer(head)
    ]:
        return one_line(", ".join(dict.fromkeys(named)))
    if _CC0.search(head):
        return "CC0-1.0"
    first = next(filter(None, map(one_line, head.splitlines())), "")
    forbids = _FORBIDDING_TEXT.search(" ".join(head.split())) and not is_non_commercial(first)
    return f"{first[:100].rstrip()} (non-commercial)" if forbids else first


def _parts(title: str) -> list[str]:
    return [_CC_PARTS[part] for part in re.findall(r"[a-z]+", title.lower().replace("non-", "non"))]
