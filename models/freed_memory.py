"""Memory that a process frees and soon needs again."""

import ctypes
import functools
import sys

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # numbers of glibc's malloc.h


@functools.cache
def keep_freed_memory() -> None:
    """From here on, memory that this process frees stays with it, for its next tensors.

    By default glibc returns every large tensor to the system and gets fresh pages for the next, which must be cleared
    first. The process then stays as large as it once was, so this is for the owner of the process to call, not for a
    library. Elsewhere no effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(ARENA_MAX, 1)  # other threads' own arenas cannot hold a tensor above 64 MiB
