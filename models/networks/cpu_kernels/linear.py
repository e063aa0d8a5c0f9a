"""A linear layer, with its GELU if asked for, by oneDNN instead of the BLAS behind `F.linear`."""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from .dispatch import uses_cpu_kernels


# Without it a segment takes 1.06 times as long in float32, 5.50 s for 5.20; 1.01 in bfloat16 and with AVX2.
def fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, and a GELU if asked for; without gradients, on a CPU whose oneDNN has it in this precision, fused.

    torch's own compiler sends it there too.
    """
    if uses_cpu_kernels(x) and not torch.is_grad_enabled():
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if onednn_takes(dtype):
            parts = (part if part is None else part.to(dtype).contiguous() for part in (x, weight, bias))
            out: Tensor = torch.ops.mkldnn._linear_pointwise(*parts, "gelu" if gelu else "none", [], "none")
            return out
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


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
