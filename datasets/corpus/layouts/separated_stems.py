"""Which model estimated the stems of a song: noted beside them by `stemline separate`, and read where they are songs.

A student learns from such stems what the model, its teacher, has learned, and from what that was: so the note goes with
a song from the scan into every dataset, and `pipelines/lineage/training_recordings.py` follows it. The file may come
from anywhere, so all of it is checked and bounded.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from datasets.corpus.file_listing import Listing
from datasets.corpus.layouts.found_song import FoundSong, as_text
from datasets.corpus.licenses import one_line
from datasets.errors import InputError, Unavailable
from datasets.store import storage

RECORD = "separation.json"  # in the folder of a song's stems
FIELD = "model"  # of the record; older ones have none
FORMAT_VERSION = 1
_MAX_BYTES = 1 << 20
_MAX_WEIGHTS = 64  # members of a bag
_MAX_LICENSES = 1000
_MAX_NAME = 300
_MAX_SONGS = 10**9
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A model that estimated stems, and what is known of it without its registry."""

    weights: tuple[str, ...] = ()  # digests of those it consists of, more than one of a bag; empty: not recorded
    name: str = ""  # models:/NAME/VERSION, or the name of its file; empty: not recorded
    licenses: Mapping[str, int] = field(default_factory=dict)  # of the songs that it learned from: how many have it
    complete: bool = False  # whether those are all that it learned from

    @property
    def key(self) -> str:
        """What a dataset calls it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def in_words(self) -> str:
        return self.name or "a model that was not recorded"


NOT_RECORDED = Teacher()


def as_json(teacher: Teacher) -> dict[str, Any]:
    """What a record says of a teacher."""
    return {"format_version": FORMAT_VERSION, **asdict(teacher)}


def teachers_beside(listing: Listing, songs: Iterable[FoundSong]) -> dict[str, Teacher]:
    """The model that estimated stems of a song, by its name; songs without a record in the folders of their stems
    are left out.

    InputError where a record cannot be read, or says what none of ours does.
    """
    found: dict[str, Teacher] = {}
    by_folder: dict[str, Teacher | None] = {}
    for song in songs:
        for folder in _folders(listing, song):
            if folder not in by_folder:
                by_folder[folder] = _beside(listing, folder)
            if (teacher := by_folder[folder]) is not None:
                found.setdefault(song.name, teacher)
    return found


def remarks(teachers: Mapping[str, Teacher]) -> list[str]:
    """How many songs have stems that a model estimated, by model."""
    names = [teacher.in_words for teacher in teachers.values()]
    return [f"the stems of {names.count(name)} songs are estimates of {as_text(name)}" for name in dict.fromkeys(names)]


def as_extra(teachers: Mapping[str, Teacher]) -> dict[str, Any]:
    """What the manifest of a dataset keeps of its songs' teachers, by track id; nothing where there are none."""
    if not teachers:
        return {}
    models = {teacher.key: asdict(teacher) for teacher in teachers.values()}
    return {"teachers": {"songs": {name: teachers[name].key for name in sorted(teachers)}, "models": models}}


def kept_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a dataset made from another, given what that one's manifest keeps."""
    return {"teachers": extra["teachers"]} if "teachers" in extra else {}


def of_extra(extra: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Teacher]]:
    """The teachers of a dataset: the key of each song's by track id, where it has one, and what they are by key."""
    noted = extra.get("teachers", {"songs": {}, "models": {}})
    models = {
        key: Teacher(**{**fields, "weights": tuple(fields["weights"])}) for key, fields in noted["models"].items()
    }
    return dict(noted["songs"]), models


def _folders(listing: Listing, song: FoundSong) -> list[str]:
    """Addresses of the folders that hold a song's stems; also of those where linked files lie."""
    paths = [file.path for files in song.files.values() for file in files]
    inside = [path.removeprefix(f"{listing.root}/") for path in paths]
    linked = [listing.real_path(path) for path in inside if not path.startswith("/") and listing.is_linked(path)]
    return list(dict.fromkeys(path.rpartition("/")[0] for path in (*paths, *linked)))


def _beside(listing: Listing, folder: str) -> Teacher | None:
    """What the record in a folder says; None where there is none, or only one of another program."""
    address = storage.join(folder, RECORD)
    names = listing.folders.get("" if folder == listing.root else folder.removeprefix(f"{listing.root}/"))
    if RECORD not in names if names is not None else storage.stamp(address) is None:
        return None
    try:
        content = storage.read(address, _MAX_BYTES + 1)
    except OSError as error:
        raise Unavailable(f"{address} cannot be read: {error.strerror or error}") from None
    try:
        return _parsed(content)
    except ValueError as error:
        raise InputError(
            f"{as_text(address)} must say which model estimated the stems beside it, but {error}: separate the song "
            "again, or move the file away if it is not stemline's"
        ) from None


def _parsed(content: bytes) -> Teacher | None:
    """ValueError with what is wrong."""
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON file") from None
    if not isinstance(record, dict) or not ("written" in record or {"key", "files"} <= record.keys()):
        return None
    noted = record.get(FIELD)
    return NOT_RECORDED if noted is None else _teacher(noted)


def _teacher(noted: Any) -> Teacher:
    if not isinstance(noted, dict):
        raise ValueError(f"its {FIELD} is no object")
    if noted.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{FIELD}.format_version is {str(noted.get('format_version'))[:20]!r} and this stemline reads "
            f"{FORMAT_VERSION}"
        )
    weights, name, licenses = noted.get("weights"), noted.get("name"), noted.get("licenses")
    if not isinstance(weights, list) or len(weights) > _MAX_WEIGHTS or not all(map(_is_digest, weights)):
        raise ValueError(f"{FIELD}.weights must be at most {_MAX_WEIGHTS} digests of 64 hex digits")
    if not isinstance(name, str) or len(name) > _MAX_NAME or not name.isprintable():
        raise ValueError(f"{FIELD}.name must be printable text of at most {_MAX_NAME} characters")
    if not isinstance(licenses, dict) or len(licenses) > _MAX_LICENSES or not all(map(_is_count, licenses.values())):
        raise ValueError(f"{FIELD}.licenses must give numbers of songs for at most {_MAX_LICENSES} licences")
    if not isinstance(noted.get("complete"), bool):
        raise ValueError(f"{FIELD}.complete must be true or false")
    songs: dict[str, int] = {}
    for license, count in licenses.items():
        songs[one_line(license)] = songs.get(one_line(license), 0) + count
    return Teacher(weights=tuple(weights), name=name, licenses=songs, complete=noted["complete"])


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SONGS
