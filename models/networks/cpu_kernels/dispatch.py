"""When the kernels of this package are used, and when a wide tensor is kept for its gradients."""

import functools

import torch
from torch import Tensor

SMALL_ELEMENTS = 5 * 2**18  # so many and fewer, 5 MiB, cost less to keep than to compute again


def uses_cpu_kernels(x: Tensor) -> bool:
    """True for plain tensors on a CPU; not for the symbols of an export or a compiler."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def prefers_products(x: Tensor) -> bool:
    """True where a matrix product by MKL is faster than what oneDNN has: in float32 on a CPU without AVX-512.

    Measured on an AMD EPYC of the third generation. Without gradients only, as nothing here has any of its own.
    """
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return plain and x.dtype == torch.float32 and uses_cpu_kernels(x) and _lacks_avx512()


@functools.cache
def _lacks_avx512() -> bool:
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and torch.backends.cpu.get_cpu_capability() == "AVX2"


def cheaper_to_keep(num_elements: int) -> bool:
    """True where keeping a wide tensor for its gradients costs less than computing it again, which takes more calls."""
    return torch.is_grad_enabled() and num_elements <= SMALL_ELEMENTS


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32: the precision of scores and sums."""
    return torch.promote_types(dtype, torch.float32)
