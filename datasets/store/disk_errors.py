"""Errors of this machine's disks as messages that say which folder, and which setting names another one."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any

from datasets.errors import InputError

SCRATCH = "stemline-scratch-"  # begins the name of a machine's own folder for a store that is in an object store
_OTHER_STORE, _OTHER_SCRATCH = "store.root=DIR", "store.scratch=DIR"


@contextmanager
def disk_errors(folder: Path, needed: Callable[[], int] = lambda: 0, *, remedy: str = "") -> Iterator[None]:
    """Disk errors as messages that say which folder, and what to change."""
    if not remedy:
        is_scratch = any(part.startswith(SCRATCH) for part in folder.parts)
        remedy = _OTHER_SCRATCH if is_scratch else _OTHER_STORE
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk of {folder} is full: a file of at least {needed()} bytes did not fit and "
                f"{shutil.disk_usage(folder).free} are free; make room or choose another folder with "
                f"{remedy}, then run the same command again"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
            raise InputError(
                f"cannot write to {folder}: {error.strerror}; choose a folder that you may write to, {remedy}"
            ) from None
        raise


class GuardedFile(BufferedIOBase):
    """A file whose own errors name its folder; what fails elsewhere while it is written stays what it is."""

    def __init__(self, file: IO[bytes], folder: Path, needed: Callable[[], int], *, remedy: str = "") -> None:
        self._file, self._folder, self._needed, self._remedy = file, folder, needed, remedy

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def write(self, data: Any) -> int:
        with self._told():
            return self._file.write(data)

    def read(self, size: int | None = -1) -> bytes:
        with self._told():
            return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._told():
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def flush(self) -> None:
        if not self._file.closed:
            with self._told():
                self._file.flush()

    def close(self) -> None:
        if not self.closed:
            with self._told():
                self._file.close()
        super().close()

    def _told(self) -> AbstractContextManager[None]:
        return disk_errors(self._folder, self._needed, remedy=self._remedy)
