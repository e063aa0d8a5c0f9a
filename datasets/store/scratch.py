"""The folder of this machine in which is worked on a store: the store itself, or a folder for one in an object store.

What is there may be lost at any time; whatever has to last is brought to the store. Folders that a process uses are
held by a kernel lock, which goes with the process; of the others the longest unused ones are removed once this machine
keeps more than it may.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.disk_errors import SCRATCH, disk_errors

# In the environment: processes that are started here, and workers of Ray, have it from there.
VARIABLE = "STEMLINE_SCRATCH"  # which folder
LIMIT = "STEMLINE_SCRATCH_GB"  # how much of what is not in use stays there
DEFAULT_GB = 20.0
_MODELS = f"{SCRATCH}models"  # copies of models, each in a folder of its own
_LEAST_BYTES = 64_000_000  # what Prefect's records, logs and settings of a command may take
_LOCK = ".in-use-"  # begins the name of a lock, which lies beside its folder
_GONE = f"{SCRATCH}gone-"  # begins the name of what is being removed
_INSIDE = ("cache", "cache/models", "runs")  # of a store's folder: what is in these goes or stays by itself
_HELD: dict[Path, IO[str]] = {}
_HOLDING = threading.Lock()


def use(folder: str, *, limit_gb: float) -> None:
    """Work in this folder of this machine from now on; the one for temporary files (TMPDIR) where it is empty."""
    if folder:
        os.environ[VARIABLE] = str(Path(folder).expanduser().absolute())
    os.environ[LIMIT] = str(limit_gb)


def scratch(store: str | Path) -> Path:
    """Where this machine works on a store; each store in an object store has a folder of its own, which may be new."""
    if not storage.is_remote(store):
        return Path(store).expanduser().absolute()
    name = hashlib.sha256(storage.absolute(store).encode()).hexdigest()[:12]
    return _base() / f"{SCRATCH}{name}"


def scratch_of_model(address: str) -> Path:
    """Where this machine keeps its copy of a model in an object store; it may be new."""
    return _base() / _MODELS / hashlib.sha256(address.encode()).hexdigest()[:12]


def _base() -> Path:
    return Path(os.environ.get(VARIABLE) or tempfile.gettempdir())


def require_room(folder: Path) -> None:
    """InputError where the disk of a folder of the scratch is as good as full: servers would fail on it in silence."""
    if (free := shutil.disk_usage(folder).free) < _LEAST_BYTES:
        raise InputError(
            f"the disk of {folder} is full: {free / 1e6:.0f} MB are free, and a command needs {_LEAST_BYTES / 1e6:.0f} "
            "at least; make room, or choose another folder with store.scratch=DIR, then run the same command again"
        )


# --- what is in use -----------------------------------------------------------------------------------------


def hold(folder: Path) -> Path:
    """Keep a folder of the scratch from being removed by anybody, until `let_go` or the end of this process.

    It is made where it is missing. A folder of a store on a disk, where nothing is removed, is left as it is.
    """
    if not any(part.startswith(SCRATCH) for part in folder.parts):
        return folder
    with _HOLDING, disk_errors(folder):
        if folder not in _HELD:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _HELD[folder] = _locked(folder, fcntl.LOCK_SH)
        os.utime(_lock_of(folder))
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def let_go(folder: Path) -> None:
    """Hold a folder no longer."""
    with _HOLDING:
        if (file := _HELD.pop(folder, None)) is not None:
            file.close()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{_LOCK}{folder.name}")


def _locked(folder: Path, how: int) -> IO[str]:
    """The lock of a folder; BlockingIOError where it is wanted at once and held by another."""
    while True:
        file = _lock_of(folder).open("a")
        try:
            fcntl.flock(file, how)
            if os.fstat(file.fileno()).st_ino == os.stat(_lock_of(folder)).st_ino:
                return file
        except FileNotFoundError:
            pass  # who removed the folder removed its lock
        except BaseException:
            file.close()
            raise
        file.close()


# --- what is not --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A folder that may go as a whole."""

    path: Path
    num_bytes: int
    used_ns: int  # when somebody last began to use it, or put something into it


def remove(folder: Path) -> bool:
    """Remove a folder of the scratch, unless a process uses it."""
    try:
        lock = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or another user's
        return False
    with lock:
        gone = folder.with_name(f"{_GONE}{uuid.uuid4().hex[:12]}")
        with suppress(OSError):
            os.replace(folder, gone)
        _lock_of(folder).unlink(missing_ok=True)
    shutil.rmtree(gone, ignore_errors=True)
    return not folder.exists()


def tidy() -> list[Path]:
    """Remove the longest unused folders until this machine keeps at most its limit; those that went.

    It counts what is in use as well, which stays. What a killed process was about to remove goes too.
    """
    limit_bytes = float(os.environ.get(LIMIT) or DEFAULT_GB) * 1e9
    kept = sorted(_all_kept(), key=lambda kept: (kept.used_ns, kept.path))
    total, gone = sum(kept.num_bytes for kept in kept), []
    for oldest in kept:
        if total <= limit_bytes:
            break
        if remove(oldest.path):
            total -= oldest.num_bytes
            gone.append(oldest.path)
    return gone


def _all_kept() -> Iterator[_Kept]:
    for store in _folders(_base(), SCRATCH):
        for path in (path for place in ("", *_INSIDE) for path in _folders(store / place)):
            if path.relative_to(store).as_posix() not in _INSIDE:
                yield _Kept(path=path, num_bytes=_num_bytes(path), used_ns=_used_ns(path))


def _folders(folder: Path, prefix: str = "") -> list[Path]:
    """Those in a folder whose names begin so; what a killed process was about to remove is removed."""
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []
    for path in found:
        if path.name.startswith(_GONE):
            shutil.rmtree(path, ignore_errors=True)
    return [path for path in found if path.name.startswith(prefix) and not path.name.startswith(_GONE)]


def _num_bytes(folder: Path) -> int:
    """Of the files below; what goes meanwhile, since somebody works there, does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _used_ns(folder: Path) -> int:
    times = [0]
    for path in (_lock_of(folder), folder):
        with suppress(OSError):
            times.append(path.stat().st_mtime_ns)
    return max(times)
