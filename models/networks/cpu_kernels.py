"""Attention, dropout and gates for CPUs, in tiles that stay in the cache.

A large intermediate costs more than the arithmetic on it: memory is fetched page by page from the system and given
back after every operation. So the wide tensors before a gate, and the weights of attention with dropout, live for
one tile at a time here and are computed again for the gradients (as in Dao et al., arXiv 2205.14135). Dropout draws
the gaps between dropped elements instead of a number per element. On other devices, and under a compiler or an
export, the same functions are plain torch operations, which fuse there.
"""

import ctypes
import functools
import itertools
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILE_ELEMENTS = 2**20  # attention weights of one head held at a time; half as many took 10 % longer
GATE_ELEMENTS = 2**18  # the same for what goes into a gate
SMALL_ELEMENTS = 5 * 2**18  # so many and fewer, 5 MiB, cost less to keep than to compute again
WINOGRAD_CHANNELS = 96  # so many and more gain; 48 lose a quarter
# Winograd's F(4, 3): six inputs to six factors, a kernel to the other six, and their products to four outputs.
WINOGRAD_INPUTS = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
WINOGRAD_KERNELS = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
WINOGRAD_OUTPUTS = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_MAX, MALLOPT_ARENA_MAX = -1, -4, -8  # numbers of glibc's malloc.h
LARGEST_PLAIN_SCORE = 58.0  # up to here 2 to the power of a score neither overflows float32 nor vanishes in a sum
LOG2_E = math.log2(math.e)  # scores carry it: exp2 takes a third of the time of exp, which is MKL's in float32


def suits(x: Tensor) -> bool:
    """True where these functions run: plain tensors on a CPU, not the symbols of an export or a compiler."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def keeps(num_elements: int) -> bool:
    """True where keeping a wide tensor for its gradients costs less than computing it again, which takes more calls."""
    return torch.is_grad_enabled() and num_elements <= SMALL_ELEMENTS


def attend(q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, *, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D)) v of shape (B, H, L, D), a share of the weights dropped and the others scaled up.

    The dropped weights follow from one draw of torch's generator, so they are reproducible with its seed. In half
    precision without dropout torch's own kernel is as exact and faster.
    """
    if not dropout and q_BHLD.dtype in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(q_BHLD, k_BHMD, v_BHMD)
    seed = int(torch.randint(2**62, ())) if dropout else 0
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _Attention.apply(q_BHLD, k_BHMD, v_BHMD, dropout, seed)
    return out


def drop(x: Tensor, share: float) -> Tensor:
    """Each element zero with probability `share`, the others scaled up so that the mean stays: dropout."""
    if not share:
        return x
    seed = int(torch.randint(2**62, ()))
    out: Tensor = _Dropout.apply(x, share, seed)
    return out


def dropped_positions(num_elements: int, share: float, generator: torch.Generator) -> Tensor:
    """Positions, ascending, of a set that holds each of `num_elements` with probability `share`, independently.

    Gaps between such positions are geometric, so this draws `share` as many numbers as there are elements.
    """
    expected = num_elements * share
    num_draws = int(expected + 8 * math.sqrt(expected + 1)) + 8
    gaps = torch.empty(num_draws, dtype=torch.int64).geometric_(share, generator=generator)
    positions = gaps.cumsum_(0).sub_(1)
    while positions[-1] < num_elements:  # eight deviations short: not in a lifetime, but then correct
        more = torch.empty(num_draws, dtype=torch.int64).geometric_(share, generator=generator)
        positions = torch.cat([positions, positions[-1] + more.cumsum_(0)])
    return positions[: int(torch.searchsorted(positions, num_elements))]


def gate(inner_BFKN: Tensor, weight_BFOK: Tensor, bias_BFO: Tensor, residual: Tensor | None = None) -> Tensor:
    """GLU(weight inner + bias), plus the residual if there is one: (B, O/2, F, N), F the rows with own weights.

    What the gate takes in, twice as wide as what it gives, is never kept.
    """
    if not suits(inner_BFKN):
        return _plain_gate(inner_BFKN, weight_BFOK, bias_BFO, residual)
    with torch.autocast("cpu", enabled=False):
        parts = inner_BFKN, weight_BFOK.to(inner_BFKN.dtype), bias_BFO.to(_exact(inner_BFKN)), residual
        out: Tensor = _Gate.apply(*parts)
    return out


def _plain_gate(inner_BFKN: Tensor, weight_BFOK: Tensor, bias_BFO: Tensor, residual: Tensor | None) -> Tensor:
    open_BFON = (weight_BFOK @ inner_BFKN + bias_BFO[..., None]).transpose(1, 2)
    gated = F.glu(open_BFON, dim=1)
    return gated if residual is None else residual + gated


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, and a GELU if asked for.

    Without gradients on a CPU it goes to oneDNN where that takes the precision, as torch's own compiler sends it: in
    float32 1.15 times as fast as the BLAS behind `F.linear` on AMD's, and the GELU comes free in any precision.
    """
    if suits(x) and not torch.is_grad_enabled():
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
    one = torch.ones(1, 1, dtype=dtype)
    try:
        torch.ops.mkldnn._linear_pointwise(one, one, None, "gelu", [], "none")
    except (AttributeError, RuntimeError):  # a torch without it; a CPU without it
        return False
    return True


def convolve_3x3(x_BCFN: Tensor, layer: Any) -> Tensor:
    """What `layer`, an `nn.Conv2d` with a kernel of 3x3 and a padding of 1, gives.

    In float32 without gradients on a CPU, Winograd's minimal filtering F(4, 3) along the last axis takes half the
    multiplications: four neighbouring outputs need six products instead of twelve (Lavin and Gray, arXiv 1509.09308).
    The difference is near 1e-6 of the peak. With few channels the transforms cost more than they save.
    """
    channels = x_BCFN.shape[1]
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_BCFN.dtype
    if channels < WINOGRAD_CHANNELS or dtype != torch.float32 or torch.is_grad_enabled() or not suits(x_BCFN):
        out: Tensor = layer(x_BCFN)
        return out
    batch, _, num_rows, num_columns = x_BCFN.shape
    num_tiles = -(-num_columns // 4)
    to_factors = torch.tensor(WINOGRAD_INPUTS, dtype=torch.float32)
    to_outputs = torch.tensor(WINOGRAD_OUTPUTS, dtype=torch.float32)
    kernels = torch.einsum("po,dcfo->pdcf", torch.tensor(WINOGRAD_KERNELS), layer.weight).reshape(-1, channels, 3, 1)
    biases = F.pad(layer.bias[None], (0, 0, 1, 4)).flatten()  # of the one product that all four outputs add once
    out = x_BCFN.new_empty(batch, layer.out_channels, num_rows, 4 * num_tiles)
    for x_CFN, y_DFN in zip(x_BCFN, out, strict=True):
        windows = F.pad(x_CFN, (1, 4 * num_tiles + 1 - num_columns)).unfold(-1, 6, 4)
        parts = (to_factors @ windows.permute(3, 0, 1, 2).reshape(6, -1)).view(1, 6 * channels, num_rows, num_tiles)
        parts = F.conv2d(parts, kernels, biases, padding=(1, 0), groups=6)
        torch.mm(parts.view(6, -1).t(), to_outputs.t(), out=y_DFN.view(-1, 4))
    return out[..., :num_columns]


@functools.cache
def keep_freed_memory() -> None:
    """From here on, memory that this process frees stays with it, for its next tensors.

    By default glibc returns every large tensor to the system and gets fresh pages for the next, which must be cleared
    first: 4 to 8 % of the time of separation. The process then stays as large as it once was, so this is for the owner
    of the process to call, not for a library. Elsewhere no effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MALLOPT_MMAP_MAX, 0)
        mallopt(MALLOPT_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MALLOPT_ARENA_MAX, 1)  # other threads' own arenas cannot hold a tensor above 64 MiB


class _Attention(torch.autograd.Function):
    """In at least float32 throughout, for one tile at a time; only what comes in and goes out is in low precision.

    Most of the time on a CPU goes into other than the products: in bfloat16 they save next to nothing, and round each
    weight and each gradient of a score.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float, seed: int) -> Tensor:
        exact = _exact(q)
        # Heads in the middle, as the output projection wants them: it then reads this without a copy.
        out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3], dtype=exact).transpose(1, 2)
        log_total = torch.empty(q.shape[:3], dtype=exact)
        scale, keep = q.shape[-1] ** -0.5 * LOG2_E, 1 / (1 - dropout)
        small = bool(q.norm(dim=-1).amax() * k.norm(dim=-1).amax() * scale < LARGEST_PLAIN_SCORE)
        generator = torch.Generator().manual_seed(seed)
        buffer = torch.empty(_num_rows(q, k), k.shape[2], dtype=exact)
        for b, h in _heads(q):
            q_LD, k_MD, v_MD = (x[b, h].to(exact).contiguous() for x in (q, k, v))
            q_LD = q_LD * scale
            for rows in _row_tiles(q, k):
                weights = torch.mm(q_LD[rows], k_MD.t(), out=buffer[: len(q_LD[rows])])
                largest = None if small else weights.amax(-1, keepdim=True)
                weights = (weights if largest is None else weights.sub_(largest)).exp2_()
                total = weights.sum(-1)
                log_total[b, h, rows] = total.log2() if largest is None else total.log2() + largest[:, 0]
                if dropout:
                    weights.view(-1).index_fill_(0, dropped_positions(weights.numel(), dropout, generator), 0)
                torch.mul(torch.mm(weights, v_MD), (keep / total)[:, None], out=out[b, h, rows])
        ctx.save_for_backward(q, k, v, out, log_total)
        ctx.dropout, ctx.seed = dropout, seed
        return out.to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, log_total = ctx.saved_tensors
        dq, dk, dv = (torch.zeros(x.shape, dtype=out.dtype) for x in (q, k, v))  # many tiles add up here
        scale, keep = q.shape[-1] ** -0.5, 1 / (1 - ctx.dropout)
        negative_share = (grad * out).sum(-1).neg_()
        generator = torch.Generator().manual_seed(ctx.seed)
        for b, h in _heads(q):
            q_LD, k_MD, v_MD = (x[b, h].to(out.dtype).contiguous() for x in (q, k, v))
            scaled_LD = q_LD * (scale * LOG2_E)
            for rows in _row_tiles(q, k):
                num_weights = len(q_LD[rows]) * len(k_MD)
                dropped = dropped_positions(num_weights, ctx.dropout, generator) if ctx.dropout else None
                grad_LD = grad[b, h, rows].to(out.dtype) * keep
                weights = torch.addmm(-log_total[b, h, rows, None], scaled_LD[rows], k_MD.t()).exp2_()
                flow = torch.addmm(negative_share[b, h, rows, None], grad_LD, v_MD.t())
                if dropped is not None:  # a dropped weight had a part in the sum to 1 and in nothing else
                    rows_of = dropped.div(len(k_MD), rounding_mode="floor")
                    flow_of = weights.view(-1)[dropped].mul_(negative_share[b, h, rows][rows_of])
                    weights.view(-1).index_fill_(0, dropped, 0)
                dv[b, h].addmm_(weights.t(), grad_LD)
                flow.mul_(weights)
                if dropped is not None:
                    flow.view(-1).index_copy_(0, dropped, flow_of)
                dq[b, h, rows].addmm_(flow, k_MD, alpha=scale)
                dk[b, h].addmm_(flow.t(), q_LD[rows], alpha=scale)
        return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype), None, None


def _exact(x: Tensor) -> torch.dtype:
    """The precision of scores and sums."""
    return torch.promote_types(x.dtype, torch.float32)


def _heads(q: Tensor) -> Iterator[tuple[int, int]]:
    """Every batch item and head."""
    return itertools.product(range(q.shape[0]), range(q.shape[1]))


def _num_rows(q: Tensor, k: Tensor) -> int:
    return max(1, min(q.shape[2], TILE_ELEMENTS // k.shape[2]))


def _row_tiles(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Slices of queries, so many that the weights of one make a tile."""
    num_rows = _num_rows(q, k)
    return (slice(first, first + num_rows) for first in range(0, q.shape[2], num_rows))


class _Gate(torch.autograd.Function):
    """In low precision only the products are: bias, gate and residual are float32 for one tile at a time."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        batch, rows, _, columns = inner.shape
        dtype = inner.dtype if residual is None else residual.dtype
        out = inner.new_empty(batch, weight.shape[2] // 2, rows, columns, dtype=dtype)
        for b, r, n in _gate_tiles(inner, weight.shape[2]):
            value, opening = _open(inner[b, r, :, n], weight[b, r], bias[b, r]).chunk(2, dim=1)
            if residual is None:
                torch.mul(value, opening.sigmoid_(), out=out[b, :, r, n].transpose(0, 1))
            else:
                there = residual[b, :, r, n].transpose(0, 1)
                torch.addcmul(there, value, opening.sigmoid_(), out=out[b, :, r, n].transpose(0, 1))
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
            here = inner[b, r, :, n]
            both = _open(here, weight[b, r], bias[b, r])
            value, opening = both.chunk(2, dim=1)
            opening.sigmoid_()
            flow = torch.empty_like(both)
            d_value, d_opening = flow.chunk(2, dim=1)
            torch.mul(grad[b, :, r, n].transpose(0, 1), opening, out=d_value)
            torch.mul(d_value, value, out=d_opening)
            d_opening.addcmul_(d_opening, opening, value=-1)
            d_bias[b, r] += flow.sum(-1)
            flow = flow.to(inner.dtype)
            d_weight[b, r] += torch.bmm(flow, here.transpose(1, 2))
            d_inner[b, r, :, n] = torch.bmm(weight[b, r].transpose(1, 2), flow)
        return d_inner, d_weight.to(weight.dtype), d_bias, grad if ctx.has_residual else None


def _open(inner: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
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


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float, seed: int) -> Tensor:
        ctx.share, ctx.seed = share, seed
        return _dropped(x, share, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _dropped(grad, ctx.share, ctx.seed), None, None


def _dropped(x: Tensor, share: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    out = torch.mul(x, 1 / (1 - share)).contiguous()
    out.view(-1).index_fill_(0, dropped_positions(out.numel(), share, generator), 0)
    return out
