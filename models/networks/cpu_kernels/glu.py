"""A 1x1 convolution and its gate (GLU) in tiles: what the gate takes in is never kept."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .dispatch import accumulation_dtype, uses_cpu_kernels

GATE_ELEMENTS = 2**18  # of a tile of what goes into the gate


# Without it a segment takes 1.15 times as long in float32, 5.99 s for 5.20; 1.08 with AVX2 alone.
def pointwise_glu(inner_BFKN: Tensor, weight_BFOK: Tensor, bias_BFO: Tensor, residual: Tensor | None = None) -> Tensor:
    """GLU(weight inner + bias), plus the residual if there is one: (B, O/2, F, N), F the rows with own weights."""
    if not uses_cpu_kernels(inner_BFKN):
        return _plain(inner_BFKN, weight_BFOK, bias_BFO, residual)
    with torch.autocast("cpu", enabled=False):
        weight_BFOK, bias_BFO = weight_BFOK.to(inner_BFKN.dtype), bias_BFO.to(accumulation_dtype(inner_BFKN.dtype))
        out: Tensor = _PointwiseGLU.apply(inner_BFKN, weight_BFOK, bias_BFO, residual)
    return out


def _plain(inner_BFKN: Tensor, weight_BFOK: Tensor, bias_BFO: Tensor, residual: Tensor | None) -> Tensor:
    product_BFON = weight_BFOK @ inner_BFKN
    # Under autocast the bias is float32, and would make all that is wide float32 again.
    wide_BOFN = (product_BFON + bias_BFO[..., None].to(product_BFON.dtype)).transpose(1, 2)
    gated = F.glu(wide_BOFN, dim=1)
    return gated if residual is None else residual + gated


class _PointwiseGLU(torch.autograd.Function):
    """In low precision only the products are: bias, gate and residual are float32 for one tile at a time."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        batch, rows, _, columns = inner.shape
        dtype = inner.dtype if residual is None else residual.dtype
        out = inner.new_empty(batch, weight.shape[2] // 2, rows, columns, dtype=dtype)
        for b, r, n in _gate_tiles(inner, weight.shape[2]):
            value, gate = _wide(inner[b, r, :, n], weight[b, r], bias[b, r]).chunk(2, dim=1)
            if residual is None:
                torch.mul(value, gate.sigmoid_(), out=out[b, :, r, n].transpose(0, 1))
            else:
                added = residual[b, :, r, n].transpose(0, 1)
                torch.addcmul(added, value, gate.sigmoid_(), out=out[b, :, r, n].transpose(0, 1))
        ctx.save_for_backward(inner, weight, bias)
        ctx.has_residual = residual is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        inner, weight, bias = ctx.saved_tensors
        d_inner = torch.empty_like(inner)
        d_weight = torch.zeros(weight.shape, dtype=bias.dtype)  # many tiles add up here
        d_bias = torch.zeros_like(bias)
        for b, r, n in _gate_tiles(inner, weight.shape[2]):
            tile = inner[b, r, :, n]
            both = _wide(tile, weight[b, r], bias[b, r])
            value, gate = both.chunk(2, dim=1)
            gate.sigmoid_()
            flow = torch.empty_like(both)
            d_value, d_gate = flow.chunk(2, dim=1)
            torch.mul(grad[b, :, r, n].transpose(0, 1), gate, out=d_value)
            torch.mul(d_value, value, out=d_gate)
            d_gate.addcmul_(d_gate, gate, value=-1)
            d_bias[b, r] += flow.sum(-1)
            flow = flow.to(inner.dtype)
            d_weight[b, r] += torch.bmm(flow, tile.transpose(1, 2))
            d_inner[b, r, :, n] = torch.bmm(weight[b, r].transpose(1, 2), flow)
        return d_inner, d_weight.to(weight.dtype), d_bias, grad if ctx.has_residual else None


def _wide(inner: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What goes into the gate of a tile, in at least float32."""
    if inner.dtype == bias.dtype:
        return torch.baddbmm(bias[..., None], weight, inner)
    return torch.bmm(weight, inner).to(bias.dtype).add_(bias[..., None])


def _gate_tiles(inner: Tensor, num_features: int) -> Iterator[tuple[int, slice, slice]]:
    """Every batch item, some of its rows, and some of their columns."""
    batch, num_rows, _, num_columns = inner.shape
    columns = max(1, min(num_columns, GATE_ELEMENTS // num_features))
    rows = max(1, GATE_ELEMENTS // (num_features * columns))
    for b in range(batch):
        for row in range(0, num_rows, rows):
            for column in range(0, num_columns, columns):
                yield b, slice(row, row + rows), slice(column, column + columns)
