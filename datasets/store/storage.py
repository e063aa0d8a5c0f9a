"""Files on a local disk or in an object store (`s3://bucket/prefix`), behind one small set of verbs.

An address is a path or an `s3://` URL, joined by `join`. Whatever `replacing` or `write` leaves under a name is
whole: on a disk by a temporary name, a flush and a rename; in an object store because an object appears when its
upload is complete. Where the store is and who may enter it comes from the environment, as every S3 client has it:
AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or the files in
~/.aws; and https_proxy and NO_PROXY say which way leads there.
Requests that fail for a passing reason are tried again, up to ten times with growing pauses, and then for minutes if
the store has answered before (`outages.py`).
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow.fs as fs

from datasets.errors import Changed, InputError, Unavailable
from datasets.store.disk_errors import GuardedFile, disk_errors
from datasets.store.object_store import PREFIX, ObjectReader, bucket_path, client, opened, refusals, upload
from datasets.store.outages import persistently

TEMPORARY = ".tmp-"
_COPY_BYTES = 8 << 20
_BLOCK_BYTES = 64 << 10
_OTHER_TMPDIR = "TMPDIR=DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What tells one state of a file from another without reading it."""

    size: int  # bytes
    changed_ns: int  # time of the last change, since the epoch


# --- addresses ----------------------------------------------------------------------------------------------


def is_remote(address: str | Path) -> bool:
    """Whether an address leads to an object store."""
    return str(address).startswith(PREFIX)


def local_path(address: str, setting: str) -> Path:
    """The path of an output that goes to this machine only; InputError for an address in an object store."""
    if is_remote(address):
        raise InputError(f"{setting} must be on this machine, got {address}; write it here and copy it there")
    return Path(address)


def join(root: str | Path, *parts: str) -> str:
    """The address of `parts` below `root`."""
    return "/".join([str(root).rstrip("/"), *parts]) if is_remote(root) else str(Path(root, *parts))


def absolute(address: str | Path) -> str:
    """The address as it can be handed to another process; InputError for one that names no bucket."""
    if not is_remote(address):
        return str(Path(address).expanduser().absolute())
    bucket = str(address)[len(PREFIX) :].split("/")[0]
    if not bucket:
        raise InputError(f"{address} names no bucket; write s3://BUCKET/FOLDER")
    return str(address).rstrip("/")


def filesystem(address: str | Path) -> tuple[fs.S3FileSystem, str]:
    """The client of this process for an address in S3, and the path in it, for programs that ask for both."""
    return client(), bucket_path(absolute(address))


# --- reading ------------------------------------------------------------------------------------------------


def stamp(address: str | Path) -> Stamp | None:
    """Size and time of change of a file; None where there is none that can be looked at."""
    if not is_remote(address):
        try:
            status = os.stat(address)
        except OSError:
            return None
        return Stamp(size=status.st_size, changed_ns=status.st_mtime_ns)
    with refusals(address):
        info = persistently(lambda: client().get_file_info(bucket_path(address)))
    return Stamp(size=info.size, changed_ns=info.mtime_ns or 0) if info.is_file else None


def read(address: str | Path, limit: int | None = None) -> bytes:
    """All bytes of a file, or its first `limit`; FileNotFoundError where there is none."""
    if not is_remote(address):
        with Path(address).open("rb") as file:
            return file.read(limit)
    with refusals(address):
        return persistently(lambda: _first_bytes(bucket_path(address), limit))


def open_reader(address: str | Path) -> BufferedIOBase:
    """A file to seek and read in; from an object store each read beyond a block of `_BLOCK_BYTES` is one request."""
    if not is_remote(address):
        return Path(address).open("rb")
    with refusals(address):
        return BufferedReader(ObjectReader(str(address)), _BLOCK_BYTES)


def has_cheap_reads(address: str | Path) -> bool:
    """Whether many small reads cost little: on a disk, not behind a network."""
    return not is_remote(address)


def read_range(address: str | Path, begin: int, end: int) -> bytes:
    """Bytes [begin, end) of a file, in one read or one request; OSError where it is too short."""
    if is_remote(address):
        with refusals(address):
            file = persistently(lambda: opened(bucket_path(address)))
            num_bytes = max(0, min(end, file.size()) - begin)
            data = bytes(persistently(lambda: file.read_at(num_bytes, begin))) if num_bytes else b""
    else:
        with open(address, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), end - begin, begin)
    if len(data) < end - begin:
        raise OSError(f"it has no bytes {begin + len(data)} to {end}")
    return data


def _first_bytes(key: str, limit: int | None) -> bytes:
    with client().open_input_stream(key) as file:
        return bytes(file.read(limit))


def fetch(address: str | Path, target: Path) -> None:
    """Copy a file to a local path; FileNotFoundError where there is none, Changed where an object becomes another."""
    before = _state(address)
    with open_reader(address) as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy, _COPY_BYTES)
    if is_remote(address) and _state(address) != before:
        raise Changed(f"{address} changed while it was read")


def state(address: str | Path) -> tuple[Any, ...]:
    """What differs between two states of a file, also of those made within one tick of its clock.

    Size, time of change to the nanosecond, and the object's ETag, or the inode and when that changed. Unavailable where
    the file cannot be looked at.
    """
    try:
        return _state(address)
    except OSError as error:
        raise Unavailable(f"{address} cannot be read: {error.strerror or 'there is no such object'}") from None


def _state(address: str | Path) -> tuple[Any, ...]:
    if not is_remote(address):
        status = os.stat(address)
        return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns
    with refusals(address), persistently(lambda: client().open_input_file(bucket_path(address))) as file:
        about = file.metadata()
        return file.size(), about.get("ETag"), about.get("Last-Modified")


def names(folder: str | Path) -> list[str]:
    """The names of the files in a folder, sorted; empty where there is no folder."""
    if not is_remote(folder):
        try:
            return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []
    with refusals(folder):
        selector = fs.FileSelector(bucket_path(folder), allow_not_found=True)
        found = persistently(lambda: client().get_file_info(selector))
    return sorted(info.base_name for info in found if info.is_file)


def files_below(root: str) -> dict[str, Stamp]:
    """Every file below an address, by its path from there; in S3 one listing, a request per thousand objects."""
    if not is_remote(root):
        files = sorted(path for path in Path(root).rglob("*") if path.is_file())
        stamps = {path.relative_to(root).as_posix(): stamp(path) for path in files}
        return {path: seen for path, seen in stamps.items() if seen is not None}
    length = len(bucket_path(root)) + 1
    return {
        info.path[length:]: Stamp(size=info.size, changed_ns=info.mtime_ns or 0)
        for info in _objects_below(root)
        if info.is_file
    }


def empty_folders(root: str) -> list[str]:
    """Below an address in an object store the highest folders without a file, which objects of no bytes stand for.

    Arrow's client leaves one wherever it removes a file.
    """
    found = _objects_below(root)
    top = PurePosixPath(bucket_path(root))
    in_use = {top, *(folder for info in found if info.is_file for folder in PurePosixPath(info.path).parents)}
    empty = [PurePosixPath(info.path) for info in found if not info.is_file]
    return [f"{PREFIX}{path}" for path in empty if path not in in_use and path.parent in in_use]


def _objects_below(root: str) -> list[fs.FileInfo]:
    with refusals(root):
        selector = fs.FileSelector(bucket_path(root), recursive=True, allow_not_found=True)
        found = persistently(lambda: client().get_file_info(selector))
    return sorted(found, key=lambda info: info.path)


@contextmanager
def fetched(addresses: Collection[str]) -> Iterator[dict[str, str]]:
    """Local paths of files, by their addresses; copies of objects last as long as the context.

    Unavailable where an object cannot be copied; files on a disk are where they are, and not looked at.
    """
    remote = [address for address in addresses if is_remote(address)]
    with ExitStack() as stack:
        local = {address: address for address in addresses if not is_remote(address)}
        if remote:
            folder = stack.enter_context(_temporary_folder())
            local |= {address: _fetched(address, Path(folder, str(k))) for k, address in enumerate(remote)}
        yield local


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    with _temporary_errors():
        return tempfile.TemporaryDirectory(prefix="stemline-")


@contextmanager
def _temporary_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the folder for temporary files (TMPDIR) cannot be used: {error}") from None


def _fetched(address: str, folder: Path) -> str:
    """The path of a copy of an object in a new folder, under its own name."""
    target = folder / address.rsplit("/", 1)[-1]
    try:
        folder.mkdir()
        fetch(address, target)
    except FileNotFoundError:
        raise Unavailable(f"{address} cannot be read: there is no such object") from None
    except OSError as error:
        raise Unavailable(f"{address} cannot be copied to {folder} (TMPDIR): {error.strerror or error}") from None
    return str(target)


# --- writing ------------------------------------------------------------------------------------------------


def write(address: str | Path, data: bytes) -> None:
    """Give `data` the name `address`, in one step."""
    with replacing(address, needed=lambda: len(data)) as file:
        file.write(data)


@contextmanager
def replacing(address: str | Path, *, needed: Callable[[], int] = lambda: 0) -> Iterator[IO[bytes]]:
    """A file that takes its name only once it is written whole; `needed` bytes are known to go in.

    On its way to an object store it stands in the folder for temporary files (TMPDIR).
    """
    if is_remote(address):
        with _uploading(str(address), needed) as file:
            yield file
        return
    path = Path(address)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with disk_errors(path.parent, needed):
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = temporary.open("wb")
        with GuardedFile(raw, path.parent, needed) as file:
            yield cast(IO[bytes], file)
            file.flush()
            with disk_errors(path.parent, needed):
                os.fsync(raw.fileno())
        with disk_errors(path.parent, needed):
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _uploading(address: str, needed: Callable[[], int]) -> Iterator[IO[bytes]]:
    with _temporary_errors():
        folder = Path(tempfile.gettempdir())
    with disk_errors(folder, needed, remedy=_OTHER_TMPDIR):
        raw = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed by what guards it
    with GuardedFile(raw, folder, needed, remedy=_OTHER_TMPDIR) as file:
        yield cast(IO[bytes], file)
        with refusals(address):
            persistently(lambda: upload(cast(IO[bytes], file), bucket_path(address)))


def remove(address: str | Path) -> None:
    """Delete a file, if there is one."""
    if not is_remote(address):
        Path(address).unlink(missing_ok=True)
        return
    try:
        with refusals(address):
            persistently(lambda: client().delete_file(bucket_path(address)))
    except FileNotFoundError:
        pass


def remove_folder(address: str | Path) -> None:
    """Delete all that is below an address, if there is anything; in S3 some five requests for a thousand objects.

    One by one each object would be three, and each folder that becomes empty would leave an object that stands for it.
    """
    if not is_remote(address):
        with suppress(FileNotFoundError):
            shutil.rmtree(address)
        return
    try:
        with refusals(address):
            persistently(lambda: client().delete_dir(bucket_path(address)))
    except FileNotFoundError:
        pass
