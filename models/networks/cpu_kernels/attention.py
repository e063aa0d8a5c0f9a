"""Attention with dropout of its weights, in tiles of queries."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dispatch import accumulation_dtype
from .dropout import dropped_positions

TILE_ELEMENTS = 2**20  # attention weights of one head held at a time; half as many took 10 % longer
LARGEST_PLAIN_SCORE = 58.0  # up to here 2 to the power of a score neither overflows float32 nor vanishes in a sum
LOG2_E = math.log2(math.e)  # scores carry it: exp2 takes a third of the time of exp, which is MKL's in float32


# Without it a training step in float32 takes 1.25 times as long: 27.7 s for 22.1.
def dropout_attention(q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(D)) v of shape (B, H, L, D), a share `dropout` of the weights zero, the others scaled up.

    `dropout` must be in (0, 1): without it torch's own kernel is as exact and faster. The dropped weights follow from
    one draw of torch's generator, so they are reproducible with its seed.
    """
    seed = int(torch.randint(2**62, ()))
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _Attention.apply(q_BHLD, k_BHMD, v_BHMD, dropout, seed)
    return out


class _Attention(torch.autograd.Function):
    """In at least float32 throughout, for one tile at a time; only what comes in and goes out is in low precision.

    Most of the time on a CPU goes into other than the products: in bfloat16 they save next to nothing, and round each
    weight and each gradient of a score.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float, seed: int) -> Tensor:
        exact = accumulation_dtype(q.dtype)
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
                dropped = dropped_positions(num_weights, ctx.dropout, generator)
                grad_LD = grad[b, h, rows].to(out.dtype) * keep
                weights = torch.addmm(-log_total[b, h, rows, None], scaled_LD[rows], k_MD.t()).exp2_()
                flow = torch.addmm(negative_share[b, h, rows, None], grad_LD, v_MD.t())
                # A dropped weight had a part in the sum to 1 and in nothing else.
                rows_of = dropped.div(len(k_MD), rounding_mode="floor")
                flow_of = weights.view(-1)[dropped].mul_(negative_share[b, h, rows][rows_of])
                weights.view(-1).index_fill_(0, dropped, 0)
                dv[b, h].addmm_(weights.t(), grad_LD)
                flow.mul_(weights)
                flow.view(-1).index_copy_(0, dropped, flow_of)
                dq[b, h, rows].addmm_(flow, k_MD, alpha=scale)
                dk[b, h].addmm_(flow.t(), q_LD[rows], alpha=scale)
        return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype), None, None


def _heads(q: Tensor) -> Iterator[tuple[int, int]]:
    """Every batch item and head."""
    return itertools.product(range(q.shape[0]), range(q.shape[1]))


def _num_rows(q: Tensor, k: Tensor) -> int:
    return max(1, min(q.shape[2], TILE_ELEMENTS // k.shape[2]))


def _row_tiles(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Slices of queries, so many that the weights of one make a tile."""
    num_rows = _num_rows(q, k)
    return (slice(first, first + num_rows) for first in range(0, q.shape[2], num_rows))
