"""One writer at a time in a store on a disk, and the removal of what killed writers left behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.disk_errors import disk_errors


@contextmanager
def write_lock(store: str | Path) -> Iterator[None]:
    """Hold the store against other jobs that write shards; InputError when one is at work in it.

    The lock goes with the process, so a killed job leaves none behind. Jobs on one store in S3 need none: equal
    names stand for equal bytes there, and an object is replaced as a whole.
    """
    if storage.is_remote(store):
        yield
        return
    path = Path(store) / "chunks" / ".lock"
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"process {file.read().strip() or 'unknown'} is writing to the store {store}; "
                "wait for it, or choose another folder with store.root=DIR"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def clear_leftovers(store: str | Path) -> int:
    """Remove temporary files of killed jobs; the number removed. Only for the holder of `write_lock(store)`."""
    leftovers = [
        storage.join(store, folder, name)
        for folder in ("chunks", "tables", "manifests")
        for name in storage.names(storage.join(store, folder))
        if name.startswith(storage.TEMPORARY)
    ]
    for path in leftovers:
        storage.remove(path)
    return len(leftovers)
