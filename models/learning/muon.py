"""Muon, momentum whose steps are orthogonalized, for the weight matrices of a model."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# The quintic iteration of the reference: steepest at zero, so that after five rounds most singular values are near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Jordan et al. (2024), https://kellerjordan.github.io/posts/muon, for parameters of two dimensions and more.

    Nesterov's momentum of each matrix is replaced by the nearest matrix whose singular values are about 1: a step
    moves all directions of a layer alike, the many weak ones too. `torch.optim.Muon` does the same with parameters of
    two dimensions, one after the other. Here a kernel is a matrix as well, of outputs x everything else, and matrices
    of one shape go through the iteration together, which saves a GPU most of the launches.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        inputs_first: Iterable[Tensor] = (),
        momentum: float = 0.95,
    ) -> None:
        """`lr` is that of a square matrix; `inputs_first` are parameters whose second dimension is their outputs'."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self._inputs_first = {id(parameter) for parameter in inputs_first}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            momenta = self._momenta(parameters, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for alike in self._by_shape(parameters):
                self._improve([parameters[place] for place in alike], [momenta[place] for place in alike], group["lr"])
        return loss

    def _momenta(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Nesterov's: the mean of gradients looked at one step ahead."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, means, momentum))

    def _by_shape(self, parameters: list[Tensor]) -> list[list[int]]:
        places = defaultdict(list)
        for place, parameter in enumerate(parameters):
            places[self._matrix(parameter, parameter).shape].append(place)
        return list(places.values())

    def _improve(self, parameters: list[Tensor], momenta: list[Tensor], rate: float) -> None:
        """A step of parameters whose matrices have one shape."""
        pairs = zip(parameters, momenta, strict=True)
        steps_NRC = orthogonalized(torch.stack([self._matrix(parameter, momentum) for parameter, momentum in pairs]))
        rows, columns = steps_NRC.shape[1:]
        for parameter, step_RC in zip(parameters, steps_NRC, strict=True):
            matrix = self._outputs_first(parameter, parameter)
            matrix.add_(step_RC.view(matrix.shape), alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def _matrix(self, parameter: Tensor, values: Tensor) -> Tensor:
        """Values of the parameter's shape as a matrix (outputs, everything else)."""
        return self._outputs_first(parameter, values).flatten(1)

    def _outputs_first(self, parameter: Tensor, values: Tensor) -> Tensor:
        return values.transpose(0, 1) if id(parameter) in self._inputs_first else values


def orthogonalized(matrices_NRC: Tensor) -> Tensor:
    """Matrices (N, R, C) with the singular vectors they have, and singular values of about 1; zeros stay zeros.

    By Newton and Schulz's iteration, in bfloat16 on a GPU, which is as good here, and float32 elsewhere.
    """
    a, b, c = COEFFICIENTS
    wide = matrices_NRC.shape[1] <= matrices_NRC.shape[2]
    x_NRC = matrices_NRC if wide else matrices_NRC.mT
    x_NRC = x_NRC / x_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x_NRC = x_NRC.to(torch.bfloat16 if x_NRC.is_cuda else torch.float32)
    for _ in range(ROUNDS):
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = torch.baddbmm(x_NRC, torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c), x_NRC, beta=a)
    return (x_NRC if wide else x_NRC.mT).to(matrices_NRC.dtype)
