"""The operators that a GPU would run, on tensors of the meta device, which hold no numbers and need no GPU.

There torch itself leaves autocast out and takes attention apart into products and a softmax; a GPU has fused kernels.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

# What autocast computes in low precision, and what in float32: torch's list "CUDA Ops that can autocast".
LOWERED = frozenset({
    "__matmul__", "__rmatmul__", "addbmm", "addmm", "addmv", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "einsum", "linear", "lstm", "matmul", "mm", "mv", "prelu",
    "scaled_dot_product_attention",
})  # fmt: skip
RAISED = frozenset({
    "__pow__", "__rpow__", "__rtruediv__", "acos", "cosh", "cumprod", "cumsum", "dist", "exp", "expm1", "group_norm",
    "l1_loss", "layer_norm", "log", "log10", "log1p", "log2", "log_softmax", "mse_loss", "norm", "normalize", "pow",
    "prod", "reciprocal", "rms_norm", "rsqrt", "softmax", "softplus", "sum", "tan",
})  # fmt: skip
PROMOTED = frozenset({"addcdiv", "addcmul", "atan2", "cross", "dot", "index_put", "scatter_add", "tensordot"})


def autocast_arguments(name: str, arguments: Any, dtype: torch.dtype) -> Any:
    """The arguments of a torch function of this name in the precision that autocast to `dtype` gives them."""
    tensors = (x for x in tree_leaves(arguments) if isinstance(x, Tensor) and x.device.type != "cpu")
    floats = [x for x in tensors if x.is_floating_point()]
    if name in LOWERED:
        target = dtype
    elif name in RAISED or (name in PROMOTED and any(x.dtype == torch.float32 for x in floats)):
        target = torch.float32
    else:
        return arguments
    ids = {id(x) for x in floats if x.dtype not in (target, torch.float64)}
    return tree_map(lambda x: x.to(target) if id(x) in ids else x, arguments)


class OperatorsOfGPU(TorchFunctionMode):
    """Inside, functions on meta tensors call what they would on a GPU, under autocast to `dtype` unless float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.off = dtype, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.dtype != torch.float32 and not self.off:
            args, kwargs = autocast_arguments(name, (args, kwargs), self.dtype)
        if name == "scaled_dot_product_attention":
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)

    def autocast(self, device_type: str, *, enabled: bool = True, **_: Any) -> AbstractContextManager[None]:
        """In the place of `torch.autocast`: nothing turns it on here, but networks turn it off for a while."""
        return _Off(self, active=not enabled)


class _Off(AbstractContextManager[None]):
    def __init__(self, mode: OperatorsOfGPU, *, active: bool) -> None:
        self.mode, self.active = mode, active

    def __enter__(self) -> None:
        self.mode.off += self.active

    def __exit__(self, *_: object) -> None:
        self.mode.off -= self.active


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **_: Any
) -> Tensor:
    """Flash attention takes half precision without a mask, the memory-efficient kernel all else."""
    aten = torch.ops.aten
    if attn_mask is None and q.dtype in (torch.bfloat16, torch.float16):
        out: Tensor = aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, False, return_debug_mask=False)[0]
        return out
    mask = None if attn_mask is None else attn_mask.expand(*q.shape[:-1], k.shape[-2])
    efficient: Tensor = aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, dropout_p, False)[0]
    return efficient
