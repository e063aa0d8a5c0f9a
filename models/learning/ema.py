"""Averaged weights: an exponential moving average that is unbiased from the first update on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError


class WeightAverage:
    """Exponential moving average of a model's floating-point weights and buffers.

    The weight of the newest state is 1/count with count <- decay * count + 1, so the first updates are a plain
    mean and early averages do not lean to the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float, *, every: int = 1) -> None:
        """`every` is how many steps lie between two updates, for whoever makes them."""
        self.decay, self.every = decay, every
        self.count = 0.0
        self.average = {name: value.detach().clone() for name, value in _floats(model).items()}

    @property
    def name(self) -> str:
        return f"ema-{self.decay}" + ("-epoch" if self.every > 1 else "")

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        self.count = self.count * self.decay + 1
        present = _floats(model)
        torch._foreach_lerp_(list(self.average.values()), [present[name] for name in self.average], 1 / self.count)

    @contextmanager
    def swap(self, model: nn.Module) -> Iterator[None]:
        """Inside the context the model has the averaged weights; afterwards its own again, also after an error."""
        kept = {name: value.detach().clone() for name, value in _floats(model).items()}
        _copy(self.average, model)
        try:
            yield
        finally:
            _copy(kept, model)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and numbers."""
        return {"decay": self.decay, "count": self.count, "average": self.average}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a stored state; one of another model is refused."""
        if state["average"].keys() != self.average.keys():
            raise ModelError("the stored weight average belongs to a model with other parameters")
        self.decay, self.count = float(state["decay"]), float(state["count"])
        for name, value in self.average.items():
            value.copy_(state["average"][name])


def _floats(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


@torch.no_grad()
def _copy(values: dict[str, Tensor], model: nn.Module) -> None:
    present = _floats(model)
    for name, value in values.items():
        present[name].copy_(value)
