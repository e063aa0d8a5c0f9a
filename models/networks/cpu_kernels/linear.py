"""A linear layer, with its GELU if asked for, by oneDNN instead of the BLAS behind `F.linear`."""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .dispatch import prefers_products, uses_cpu_kernels

# A weight by its place in memory and its shape: itself, so that it stays there, its codes, and the outputs' scales
Coded = dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor, Tensor]]
_IN_INT8: ContextVar[Coded | None] = ContextVar("_IN_INT8", default=None)  # a thread's own
_LEAST_RANGE = 1e-12  # of what is written in 8 bits: keeps zeros finite


# Without it a segment takes 1.06 times as long in float32, 5.50 s for 5.20; 1.01 in bfloat16. Without AVX-512 MKL's is
# the faster, by 0.4 s of 5.9 as its layers add up.
def fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, and a GELU if asked for; without gradients, on a CPU whose oneDNN has it in this precision, fused.

    torch's own compiler sends it there too. Inside `int8_linears` weights and inputs have 8 bits.
    """
    if uses_cpu_kernels(x) and not torch.is_grad_enabled():
        if (coded := _IN_INT8.get()) is not None:
            return _int8_linear(x, weight, bias, coded, gelu=gelu)
        if prefers_products(x):
            y = F.linear(x, weight, bias)
            return torch.ops.aten.gelu_(y) if gelu else y
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if onednn_takes(dtype):
            parts = (part if part is None else part.to(dtype).contiguous() for part in (x, weight, bias))
            out: Tensor = torch.ops.mkldnn._linear_pointwise(*parts, "gelu" if gelu else "none", [], "none")
            return out
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


@contextmanager
def int8_linears(coded: Coded | None = None) -> Iterator[None]:
    """Inside, linear layers called from this thread without gradients compute products of 8-bit numbers.

    Weights are coded when they are first met, and kept in `coded` for the next time: they must not change meanwhile.
    """
    token = _IN_INT8.set({} if coded is None else coded)
    try:
        yield
    finally:
        _IN_INT8.reset(token)


def _int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, coded: Coded, *, gelu: bool = False) -> Tensor:
    """Each output's weights in int8 between plus and minus their largest, the input in uint8 between its extremes."""
    key = weight.data_ptr(), tuple(weight.shape)
    if key not in coded:  # a third of the time of the product
        scale_O = weight.detach().abs().amax(dim=1).clamp_(min=_LEAST_RANGE) / _largest_code()
        codes = (weight.detach() / scale_O[:, None]).round_().to(torch.int8)
        coded[key] = weight, torch.ops.onednn.qlinear_prepack(codes, None), scale_O
    _, packed, scale_O = coded[key]
    x = x.float()
    low, high = (float(bound) for bound in x.aminmax())
    if not math.isfinite(high - low):  # what cannot be written in 8 bits stays what it is
        y = F.linear(x, weight, bias)
        return F.gelu(y) if gelu else y
    low, high = min(low, 0.0), max(high, 0.0)  # zero is among the numbers that can be written
    scale = max(high - low, _LEAST_RANGE) / 255
    zero = round(-low / scale)
    # Cut off above the next half: rounded, in one pass less.
    codes = torch.add(torch.tensor(zero + 0.5), x, alpha=1 / scale).clamp_(0, 255.5).to(torch.uint8)
    return _product(codes, scale, zero, packed, scale_O, bias, gelu=gelu)


def _product(
    codes: Tensor, scale: float, zero: int, packed: Tensor, scale_O: Tensor, bias: Tensor | None, *, gelu: bool
) -> Tensor:
    zeros_O = torch.zeros(len(scale_O), dtype=torch.int32)
    operation: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
    out: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, scale, zero, packed, scale_O, zeros_O, bias, 1.0, 0, torch.float32, *operation
    )
    return out


@functools.cache
def _largest_code() -> int:
    """Of a weight: 127; 63 on CPUs that add two products in 16 bits, which two of 255 times 127 exceed. Tried once."""
    width = 64
    packed = torch.ops.onednn.qlinear_prepack(torch.full((width, width), 127, dtype=torch.int8), None)
    inputs = torch.full((width, width), 255, dtype=torch.uint8)
    sums = _product(inputs, 1.0, 0, packed, torch.ones(width), None, gelu=False)
    return 127 if bool((sums == width * 255 * 127).all()) else 63


@functools.cache
def onednn_has_int8() -> bool:
    """True where torch and this CPU have oneDNN's linear layer of 8-bit numbers: tried once."""
    try:
        with torch.no_grad():
            _int8_linear(torch.ones(1, 4), torch.ones(1, 4), None, {})
    except (AttributeError, RuntimeError):
        return False
    return True


@functools.cache
def onednn_takes(dtype: torch.dtype) -> bool:
    """True where this CPU, torch and ONEDNN_MAX_CPU_ISA have oneDNN's fused linear layer in `dtype`: tried once.

    No public query says so: a CPU without AVX-512 has none in bfloat16, and torch knows of the CPU's flags, but not of
    the limit that oneDNN was given.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    unit = torch.ones(1, 1, dtype=dtype)
    try:
        torch.ops.mkldnn._linear_pointwise(unit, unit, None, "gelu", [], "none")
    except (AttributeError, RuntimeError):  # a torch without it; a CPU without it
        return False
    return True
