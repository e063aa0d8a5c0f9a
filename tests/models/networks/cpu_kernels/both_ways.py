"""The same inputs through two functions: what comes out, and the gradients."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both_ways(functions: Sequence[Callable[..., Tensor]], inputs: Sequence[Tensor]) -> list[list[Tensor]]:
    """Output and gradients of each function on the same inputs."""
    results = []
    for function in functions:
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        flow = noise(*out.shape, seed=9).bfloat16().to(out.dtype)  # the same numbers in any precision
        results.append([out, *torch.autograd.grad(out, leaves, flow)])
    return results


def relative_error(value: Tensor, exact: Tensor) -> float:
    value, exact = value.detach().double(), exact.detach().double()
    return float((value - exact).norm() / exact.norm())
