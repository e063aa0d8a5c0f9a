"""Reading files that are not ours, on machines that fail: what is remembered of them is what their bytes prove.

A file may change while it is read, a disk may hiccup, a network drop. None of this says anything about the file, so it
is Unavailable, which nobody remembers; an AudioError comes out only where the same bytes were read twice.
"""

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from datasets.errors import AudioError, Changed, Unavailable
from datasets.schema import StemFile
from datasets.store import storage

T = TypeVar("T")
_BLOCK_BYTES = 1 << 20


def read_proven(
    files: Collection[StemFile],
    read: Callable[[Mapping[str, str]], T],
    *,
    is_same: Callable[[], bool] = lambda: False,
) -> T:
    """What `read` makes of files, whose local paths it is given by address.

    AudioError is for the bytes to prove: they are read to their end, and `read` must come to it twice. Changed where a
    file is not as it was before, or as it was listed; `is_same` may find that only its time has changed. Unavailable
    where the operating system or an object store refuses.
    """
    try:
        with unchanged(files, is_same) as local:
            return read(local)
    except AudioError:
        pass
    with unchanged(files, is_same) as local:
        for path in local.values():
            _read_through(path)
        return read(local)


@contextmanager
def unchanged(files: Collection[StemFile], is_same: Callable[[], bool] = lambda: False) -> Iterator[dict[str, str]]:
    """Local paths of files, by their addresses; Changed at the end unless they are as they were and as listed."""
    listed = {file.path: file for file in files}
    before = {address: storage.state(address) for address in listed}
    failure: AudioError | None = None
    try:
        with storage.fetched(list(listed)) as local:
            try:
                yield local
            except AudioError as error:
                failure = error
    except OSError as error:
        raise Unavailable(f"{error.filename or 'a file'} cannot be read: {error.strerror or error}") from None
    for address, state in before.items():
        if storage.state(address) != state:
            raise Changed(f"{address} changed while it was read")
    others = [address for address, file in listed.items() if not _is_as_listed(file)]
    if others and not is_same():
        raise Changed(f"{', '.join(others)} changed after the corpus was listed")
    if failure is not None:
        raise failure


def _is_as_listed(file: StemFile) -> bool:
    """Whether size and time of change are those of the listing; a file that was listed without them passes."""
    if not file.num_bytes and not file.changed_ns:
        return True
    stamp = storage.stamp(file.path)
    return stamp is not None and (stamp.size, stamp.changed_ns) == (file.num_bytes, file.changed_ns)


def _read_through(path: str) -> None:
    """Reads a file to its end; a pipe or a device may have none, and is no audio whatever comes out of it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        with open(path, "rb", buffering=0) as file:
            while file.read(_BLOCK_BYTES):
                pass
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None
