"""Bit widths that are learnt with the weights, so that a checkpoint packs each group into as few bits as it needs.

Differentiable quantisation after Défossez, Adi and Synnaeve 2021 (arXiv 2104.09987): in training each group of weights
carries uniform noise as large as the rounding error of its width would be, so the loss tells the width how much
precision the group needs, and a penalty on the size pulls the other way. At the end weights are rounded for real, as
`weights/bit_packing.py` does.

Shape letters: G group of weights that share a width, K weight within a group.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..learner_config import QuantizeConfig
from ..rng import generator
from ..weights.bit_packing import FLOAT16_BITS, MAX_BITS, MIB, MIN_BITS, QuantizationGrid, large_matrices, rounded

FIRST_BITS = 8  # width of every group at the start


class BitWidths:
    """Learnt widths of a model's matrices, one per group of weights, with an optimizer of their own.

    Noise and gradient are functions of (seed, step) and of the weights' gradients, which data-parallel workers
    share; so every worker's widths are the same, and need no averaging.
    """

    def __init__(self, model: nn.Module, config: QuantizeConfig) -> None:
        self.config = config
        self.weights = large_matrices(model, config.min_mib)
        if not self.weights:
            raise ModelError(
                f"quantize.min_mib must be at most the size of the largest weight matrix, got {config.min_mib:g} MiB"
            )
        device = next(iter(self.weights.values())).device
        self.groups = [-(-weight.numel() // config.group_size) for weight in self.weights.values()]
        share = (FIRST_BITS - MIN_BITS) / (MAX_BITS - MIN_BITS)
        first = math.log(share / (1 - share))
        self.logits_G = nn.Parameter(torch.full((sum(self.groups),), first, device=device))
        # One group's share of a model is so small that Adam's usual 1e-8 would outweigh its gradient.
        self.optimizer = torch.optim.Adam([self.logits_G], lr=config.learning_rate, eps=1e-15)
        others = sum(value.numel() for value in model.state_dict().values()) - sum(
            weight.numel() for weight in self.weights.values()
        )
        # Ranges, widths of groups and what stays float16: known beforehand, or nearly.
        self.fixed_bits = 64 * len(self.groups) + 4 * sum(self.groups) + FLOAT16_BITS * others

    def bits(self) -> Tensor:
        """Present widths of all groups, not yet whole numbers; shape (G,)."""
        return MIN_BITS + (MAX_BITS - MIN_BITS) * torch.sigmoid(self.logits_G)

    def size_mib(self) -> Tensor:
        """What the model would take, packed with these widths; differentiable."""
        size_bits: Tensor = self.config.group_size * self.bits().sum() + self.fixed_bits
        return size_bits / (8 * MIB)

    @contextmanager
    def noisy(self, *, seed: int, step: int) -> Iterator[None]:
        """Inside, weights carry noise, and should get their gradients; then they are back, and widths make a step."""
        weights: list[Tensor] = list(self.weights.values())
        offsets = self._offsets(seed, step)
        kept = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, offset in zip(weights, offsets, strict=True):
                weight.add_(offset)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)  # subtracting would leave rounding errors
        self._learn(offsets, [weight.grad for weight in weights])

    def packing(self) -> dict[str, QuantizationGrid]:
        """The present widths as whole numbers."""
        bits_G = self.bits().detach().round().to("cpu", torch.uint8)
        size = self.config.group_size
        parts = zip(self.weights, torch.split(bits_G, self.groups), strict=True)
        return {name: QuantizationGrid(bits_G=part.clone(), group_size=size) for name, part in parts}

    @contextmanager
    def rounding(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model has the values of its packed file; afterwards its own again, also after an error."""
        state = model.state_dict()
        kept = {name: value.detach().clone() for name, value in state.items()}
        _fill(state, rounded(kept, self.packing()))
        try:
            yield
        finally:
            _fill(state, kept)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and numbers."""
        return {"logits": self.logits_G.detach(), "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored state; one of other groups is refused."""
        if state["logits"].shape != self.logits_G.shape:
            raise ModelError(f"the stored state has {len(state['logits'])} groups, expected {len(self.logits_G)}")
        self.logits_G.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _offsets(self, seed: int, step: int) -> list[Tensor]:
        """Noise of each weight: uniform, as wide as the distance between neighbours on its grid."""
        device = self.logits_G.device
        rng = generator(seed, step, "weights", device=device)
        share_G = 1 / (torch.exp2(self.bits()) - 1)
        offsets = []
        for weight, share in zip(self.weights.values(), torch.split(share_G, self.groups), strict=True):
            low, high = weight.detach().aminmax()
            noise_GK = torch.rand(len(share), self.config.group_size, generator=rng, device=device) - 0.5
            scaled_GK = (high - low) * share[:, None] * noise_GK
            offsets.append(scaled_GK.flatten()[: weight.numel()].view_as(weight))
        return offsets

    def _learn(self, offsets: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Adam on the logits: a weight's gradient is its noise's gradient too; without finite ones they stay."""
        if not nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]).isfinite():
            return
        pairs = [(offset, grad) for offset, grad in zip(offsets, gradients, strict=True) if grad is not None]
        size_mib = self.size_mib()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(
            [size_mib, *(offset for offset, _ in pairs)],
            [torch.full_like(size_mib, self.config.penalty), *(gradient for _, gradient in pairs)],
        )
        self.optimizer.step()


@torch.no_grad()
def _fill(state: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        value.copy_(values[name])
