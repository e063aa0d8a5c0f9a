"""A linear layer, with its GELU if asked for, by oneDNN instead of the BLAS behind `F.linear`."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .dispatch import uses_cpu_kernels

_IN_INT8: ContextVar[bool] = ContextVar("_IN_INT8", default=False)  # a thread's own
_LEAST_RANGE = 1e-12  # of what is written in 8 bits: keeps zeros finite


# Without it a segment takes 1.06 times as long in float32, 5.50 s for 5.20; 1.01 in bfloat16 and with AVX2.
def fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, and a GELU if asked for; without gradients, on a CPU whose oneDNN has it in this precision, fused.

    torch's own compiler sends it there too. Inside `int8_linears` weights and inputs have 8 bits.
    """
    if uses_cpu_kernels(x) and not torch.is_grad_enabled():
        if _IN_INT8.get():
            coarse = _int8_linear(x, weight, bias)
            return F.gelu(coarse) if gelu else coarse
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if onednn_takes(dtype):
            parts = (part if part is None else part.to(dtype).contiguous() for part in (x, weight, bias))
            out: Tensor = torch.ops.mkldnn._linear_pointwise(*parts, "gelu" if gelu else "none", [], "none")
            return out
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


@contextmanager
def int8_linears() -> Iterator[None]:
    """Inside, linear layers called from this thread without gradients compute products of 8-bit numbers."""
    token = _IN_INT8.set(True)
    try:
        yield
    finally:
        _IN_INT8.reset(token)


def _int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each output's weights in int8 between plus and minus their largest, the input in uint8 between its extremes.

    Weights are coded anew at every call, 3 % of the time: nothing is kept that a change of weights could make wrong.
    """
    x, weight = x.float(), weight.detach().float()
    scale_O = weight.abs().amax(dim=1).clamp(min=_LEAST_RANGE) / 127
    packed = torch.ops.onednn.qlinear_prepack((weight / scale_O[:, None]).round_().to(torch.int8), None)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)  # zero is among the numbers that can be written
    scale = max(high - low, _LEAST_RANGE) / 255
    zero = round(-low / scale)
    codes = (x * (1 / scale)).add_(zero).round_().clamp_(0, 255).to(torch.uint8)
    zeros_O = torch.zeros(len(weight), dtype=torch.int32)
    out: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, scale, zero, packed, scale_O, zeros_O, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return out


@functools.cache
def onednn_has_int8() -> bool:
    """True where torch and this CPU have oneDNN's linear layer of 8-bit numbers: tried once."""
    try:
        with torch.no_grad():
            _int8_linear(torch.ones(1, 4), torch.ones(1, 4), None)
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
