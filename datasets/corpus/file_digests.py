"""SHA-256 of a corpus' files, remembered between runs by path, size and time of change.

Files that are not remembered come in batches, which whoever calls may have digested on other machines; what is said
of a file is the same wherever it was read.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets.errors import Changed, Unavailable
from datasets.schema import StemFile
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json

BATCH_BYTES = 512_000_000  # what a task digests in a second or so; less than two batches are not worth any
_TRIES = 3  # to read a file that somebody is writing
_SAVING = 0.05  # share of the time that may go into remembering meanwhile
_NOT_A_FILE = "unreadable:not a file"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """What reading a file gave, and in which state it was read."""

    path: str
    size: int = 0  # bytes
    changed_ns: int = 0  # since the epoch
    content: str = ""
    error: str = ""  # why it cannot be read now
    changed: bool = False  # the error is that it changed at each try


# Digests batches of files, in any order
Digesting = Callable[[Sequence[Sequence[str]]], Iterable[Sequence[FileDigest]]]


def digest_file(path: str, known: Sequence[int | str] = ()) -> FileDigest:
    """The SHA-256 of a file on this machine; `known` are size, time of change and digest of an earlier reading."""
    try:
        for _ in range(_TRIES):
            before = os.stat(path)
            seen = FileDigest(path=path, size=before.st_size, changed_ns=before.st_mtime_ns)
            if not stat.S_ISREG(before.st_mode):
                return replace(seen, content=_NOT_A_FILE)  # reading a pipe would wait for ever
            if known and list(known[:2]) == [seen.size, seen.changed_ns]:
                return replace(seen, content=str(known[2]))
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.stat(path)
            if (after.st_size, after.st_mtime_ns) == (seen.size, seen.changed_ns):
                return replace(seen, content=content)
    except OSError as error:
        return FileDigest(path=path, error=f"{path} cannot be read: {error.strerror}")
    return replace(seen, error=f"{path} changes while it is read", changed=True)


class FileDigests:
    """The digests of the files of one look at a corpus.

    Objects in S3 are told apart by size and time of change alone: reading them would double the traffic.
    """

    def __init__(
        self,
        cache: str | Path | None = None,
        advance: Callable[[float], None] | None = None,
        stamps: Mapping[str, storage.Stamp] | None = None,
        *,
        root: str = "",
    ) -> None:
        """`cache` is a JSON file; `advance` is called with the bytes of each file that was read."""
        self.root = root
        self._cache = cache
        self._advance = advance
        self._stamps = dict(stamps or {})
        # A cache may be lost or damaged at any time; it only saves work.
        files = (read_json(cache) or {}).get("files") if cache else None
        self._known: dict[str, list[int | str]] = files if isinstance(files, dict) else {}
        self._ahead: dict[str, FileDigest] = {}
        self._changed = False

    def read_ahead(self, paths: Iterable[str], digest: Digesting) -> None:
        """Have new files on a disk digested by `digest`, if they are many; what is read is remembered.

        Of objects in S3 the listing says all that counts: to ask for each would be a request for each.
        """
        here = (path for path in paths if not storage.is_remote(path))
        batches = list(_batches(path for path in here if not self._is_known(path)))
        if len(batches) < 2:
            return
        saved, took_s = time.monotonic(), 0.0
        for done in digest(batches):
            for file in done:
                self._ahead[file.path] = file
                self._remember(file)
            began = time.monotonic()
            if took_s <= _SAVING * (began - saved):
                self.save()
                saved, took_s = time.monotonic(), time.monotonic() - began

    def _is_known(self, path: str) -> bool:
        known, seen = self._known.get(_absolute(path)), storage.stamp(path)
        return known is not None and seen is not None and known[:2] == [seen.size, seen.changed_ns]

    def of(self, path: str) -> str:
        """The digest of a file; Unavailable where it cannot be read now, or changes each time."""
        if storage.is_remote(path):
            stamp = self._stamp(path)
            if stamp is None:
                raise Unavailable(f"{path} cannot be read: there is no such object")
            return f"object:{stamp.size}:{stamp.changed_ns}"
        file = self._ahead.get(path) or digest_file(path, self._known.get(_absolute(path), ()))
        if file.error:
            raise Changed(file.error) if file.changed else Unavailable(file.error)
        # The stamp of what is digested: a file that is replaced later differs from it.
        self._stamps[path] = storage.Stamp(size=file.size, changed_ns=file.changed_ns)
        self._remember(file)
        return file.content

    def _remember(self, file: FileDigest) -> None:
        if file.error or file.content == _NOT_A_FILE:
            return
        key, known = _absolute(file.path), list[int | str]((file.size, file.changed_ns, file.content))
        if self._known.get(key) != known:
            self._known[key] = known
            self._changed = True
            if self._advance:
                self._advance(file.size)

    def stamped(self, file: StemFile) -> StemFile:
        """The file with its size and time of change, where they can be known."""
        stamp = self._stamp(file.path)
        return replace(file, num_bytes=stamp.size, changed_ns=stamp.changed_ns) if stamp else file

    def with_content(self, file: StemFile) -> StemFile:
        """The stamped file with its digest; what cannot be read now is known by size and time of change alone.

        Nothing is remembered of a mixture that cannot be read, so a digest of another kind leads to no wrong result.
        """
        try:
            content = self.of(file.path)
        except Unavailable:
            content = ""
        stamped = self.stamped(file)
        return replace(stamped, content=content or f"unread:{stamped.num_bytes}:{stamped.changed_ns}")

    def _stamp(self, path: str) -> storage.Stamp | None:
        return self._stamps.get(path) or storage.stamp(path)

    def save(self) -> None:
        """Write the cache, where something is new."""
        if self._cache and self._changed:
            write_json(self._cache, {"files": self._known})
            self._changed = False


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _batches(paths: Iterable[str]) -> Iterator[list[str]]:
    """Files on a disk in their order, `BATCH_BYTES` or more at a time; each once."""
    batch, num_bytes = list[str](), 0
    for path in dict.fromkeys(paths):
        batch.append(path)
        seen = storage.stamp(path)
        num_bytes += seen.size if seen else 0
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
