"""How many threads torch's operations take, for one thread of Python alone.

`torch.set_num_threads` also sets the number that every thread starts with, for as long as that thread lives: a program
that separates in one thread would slow those it starts meanwhile. OpenMP and MKL can tell threads apart.
"""

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@contextmanager
def num_threads_here(number: int) -> Iterator[None]:
    """Inside, operations called from this thread take so many threads; no other thread notices."""
    before = torch.get_num_threads()  # a new thread takes the process's number at its first need, which must be over
    openmp, mkl = _libraries()
    mkl_before = 0
    if openmp is not None:
        openmp(number)
    if mkl is not None:
        mkl_before = mkl(number)
    try:
        yield
    finally:
        if openmp is not None:
            openmp(before)
        if mkl is not None:
            mkl(mkl_before)


def side_by_side(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> list[Tensor]:
    """`function` of each batch, in order; several at a time in threads that share torch's number of threads.

    Within an operator two threads are far from twice as fast as one, and each waits for the other after every one.
    """
    if len(batches) == 1:
        return [function(batches[0])]
    each = max(1, torch.get_num_threads() // len(batches))

    def job(batch: Tensor) -> Tensor:
        with num_threads_here(each):
            return function(batch)

    with ThreadPoolExecutor(len(batches)) as pool:
        return list(pool.map(job, batches))


def can_differ() -> bool:
    """Whether threads can have numbers of their own here: torch with OpenMP, on Linux."""
    return _libraries()[0] is not None


@functools.cache
def _libraries() -> tuple[Any, Any]:
    """The functions of OpenMP and MKL that set a thread's own number, as torch itself links them; None where absent."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if sys.platform != "linux" or not path.is_file():
        return None, None
    library = ctypes.CDLL(str(path))  # is loaded already; its names and those of what it depends on are found by it
    return getattr(library, "omp_set_num_threads", None), getattr(library, "MKL_Set_Num_Threads_Local", None)
