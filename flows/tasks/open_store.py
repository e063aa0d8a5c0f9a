"""The lock of a store: its folder is created, checked to be writable, and used by one command at a time."""

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from datasets.errors import InputError, Unavailable
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from datasets.store.disk_errors import disk_errors
from datasets.store.ownership import claim_store, require_claimable
from datasets.store.scratch import hold, require_room, scratch, tidy
from flows.tasks.store_lease import StoreLease
from pipelines.registry.used_registries import FILE

RETRY_EVERY_S = 0.2
USERS = "stores"  # in a data folder that several stores may share: a note of each


@contextmanager
def store_lock(root: str, *, verb: str, data: str = "", patience_s: float = 0.0) -> Iterator[Path]:
    """The store's folder, created if missing; a second command waits, then is refused with the name of the first.

    The folder is marked as a store, and so is that of its tables, `data`, where that is another; a folder that holds
    something else is refused before anything is written.

    It is a kernel lock on `.lock`, so it ends with the process, however the process ends. A store in an object store is
    held by a lease, and the folder is the one in which this machine works on it.
    """
    if storage.is_remote(root):
        with _remote_store(root, verb=verb, data=data, patience_s=patience_s) as folder:
            yield folder
        return
    if data:
        require_claimable(data, setting="store.data")
    folder = _create(root)
    if data:
        claim_store(data, setting="store.data")
        _note_user(data, folder)
    with open(folder / ".lock", "a+", encoding="utf-8") as lock:
        deadline_s = time.monotonic() + patience_s
        while not _acquire(lock) and time.monotonic() < deadline_s:
            time.sleep(RETRY_EVERY_S)
        if not _acquire(lock):
            raise InputError(
                f"The store {root} is in use{_holder(folder / '.lock')}. "
                "Wait until that ends, or use another store with store.root=DIR."
            )
        lock.truncate(0)
        lock.write(json.dumps({"verb": verb, "pid": os.getpid(), "since": time.strftime("%H:%M:%S")}))
        lock.flush()
        yield folder


@contextmanager
def _remote_store(root: str, *, verb: str, data: str, patience_s: float) -> Iterator[Path]:
    """The folder of this machine for a store in an object store, which answers, may be written to, and is held."""
    if data:
        raise InputError(f"store.data must be empty where store.root is in an object store, got {data} and {root}")
    storage.absolute(root)  # names a bucket
    try:
        claim_store(root, setting="store.root")
        lease = StoreLease(root, verb=verb)
        lease.take(patience_s)
    except Unavailable as error:
        raise InputError(f"store.root={root} cannot be used: {error}") from error
    try:
        with disk_errors(folder := scratch(root)):
            folder.mkdir(parents=True, exist_ok=True)
        hold(folder / "prefect")  # whose temporary server ends after this
        tidy()
        require_room(folder)
        yield folder
    finally:
        lease.release()


def _note_user(data: str, root: Path) -> None:
    """Note in a data folder that this store uses it: `gc` of another store must not remove what it needs."""
    note = storage.join(data, USERS, f"{hashlib.sha256(str(root).encode()).hexdigest()[:12]}.json")
    if Path(data) != root and storage.stamp(note) is None:
        write_json(note, {"root": str(root)})


def other_users(data: str, root: str) -> dict[str, str]:
    """Other stores that keep their tables at `data`: their roots, each with the file that says so."""
    own_root = str(Path(root).expanduser().absolute())
    folder = storage.join(data, USERS)
    notes = {storage.join(folder, name): read_json(storage.join(folder, name)) for name in storage.names(folder)}
    users = {str((note or {}).get("root", "an unreadable note")): file for file, note in notes.items()}
    if not storage.is_remote(data) and any((Path(data) / name).exists() for name in ("mlflow.db", "runs", FILE)):
        users[str(Path(data).absolute())] = data  # the tables are those of a store that has none elsewhere
    return {root: file for root, file in users.items() if root != own_root}


def _acquire(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create(root: str) -> Path:
    if "://" in root:
        raise InputError(f"store.root must be a folder of this machine or s3://BUCKET/FOLDER, got {root!r}")
    folder = Path(root).expanduser().absolute()
    require_claimable(folder, setting="store.root")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"stemline")
        claim_store(folder, setting="store.root")
    except OSError as error:
        raise InputError(
            f"The store folder {root} cannot be written to ({error.strerror}). Choose another with store.root=DIR."
        ) from error
    return folder


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f" by `stemline {holder['verb']}`, process {holder['pid']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another command"
