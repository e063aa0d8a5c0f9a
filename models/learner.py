"""One optimization step: model, optimizer and averaged weights together. No Ray, no data loading.

The module may come wrapped for data-parallel training: gradients are then averaged from outside, and everything
here sees the model inside.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import losses
from .augment import augment
from .ema import WeightAverage
from .errors import ModelError
from .quantize import BitWidths, Grid
from .recipe import LearnerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What one step saw, as tensors on the model's device: reading them waits for it."""

    loss: Tensor  # weighted mean of per_source
    per_source: Tensor  # (S,)
    grad_norm: Tensor  # before clipping
    learning_rate: float
    size_mib: Tensor | None = None  # of the packed model, where widths are learnt


class Learner:
    """Takes batches of stems and improves the model; its state and the model's weights resume it exactly."""

    def __init__(
        self,
        model: nn.Module,
        config: LearnerConfig,
        *,
        device: torch.device | str | None = None,
        sample_rate: int = 44100,
        total_steps: int = 0,
        seed: int = 0,
    ) -> None:
        """`total_steps` is where a falling learning rate ends; `seed` is that of the augmentation."""
        if config.final_fraction < 1 and total_steps < 1:
            raise ModelError("a falling learning rate needs to know total_steps")
        self.config, self.seed, self.total_steps = config, seed, total_steps
        self.shift_samples = round(config.augment.shift_s * sample_rate)
        self.model = model
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.optimizer = _optimizer(unwrap(model), config)
        self.averages = [WeightAverage(unwrap(model), decay) for decay in config.ema_decays]
        self.widths = BitWidths(unwrap(model), config.quantize) if config.quantize.penalty else None

    def step(self, sources_BSCT: Tensor, *, step: int, rows: Sequence[int] | None = None) -> StepMetrics:
        """One step on stems that are `shift_samples` longer than the segment; `step` counts from 0.

        `rows` are their places in the global batch, all of it by default.
        """
        rows = range(len(sources_BSCT)) if rows is None else rows
        learning_rate = self._set_learning_rate(step)
        sources_BSCT = augment(
            sources_BSCT.to(self.device, non_blocking=True),
            self.config.augment,
            seed=self.seed,
            step=step,
            rows=rows,
            shift_samples=self.shift_samples,
        )
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.widths.noisy(seed=self.seed, step=step) if self.widths else nullcontext():
            loss, per_source_S = self._losses(sources_BSCT)
            torch.autograd.backward(loss + self._penalty(step) if self.config.singular.penalty else loss)
        grad_norm = self._clip()
        self.optimizer.step()
        for average in self.averages:
            average.update(unwrap(self.model))
        return StepMetrics(
            loss=loss.detach(),
            per_source=per_source_S.detach(),
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            size_mib=self.widths.size_mib().detach() if self.widths else None,
        )

    def packing(self) -> dict[str, Grid] | None:
        """How the model is to be stored with the widths learnt so far; None stores it as it is."""
        return self.widths.packing() if self.widths else None

    def as_stored(self) -> AbstractContextManager[None]:
        """Inside the context the model has the values that its file will hold."""
        return self.widths.rounding(unwrap(self.model)) if self.widths else nullcontext()

    def state(self) -> dict[str, Any]:
        """Optimizer and averages, as tensors and numbers; the weights themselves are the model's."""
        state = {"optimizer": self.optimizer.state_dict(), "averages": [average.state() for average in self.averages]}
        return state | ({"widths": self.widths.state()} if self.widths else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a stored state of the same model and configuration."""
        if len(state["averages"]) != len(self.averages):
            raise ModelError(f"the stored state has {len(state['averages'])} averages, expected {len(self.averages)}")
        if ("widths" in state) != (self.widths is not None):
            raise ModelError("the stored state belongs to a training with another quantize.penalty: 0 and above 0")
        self.optimizer.load_state_dict(state["optimizer"])
        if self.widths:
            self.widths.load_state(state["widths"])
        for average, stored in zip(self.averages, state["averages"], strict=True):
            average.load_state(stored)

    def _losses(self, sources_BSCT: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.config.precision):
            estimates_BSCT = self.model(sources_BSCT.sum(dim=1))
        per_source_S = losses.l1(estimates_BSCT, sources_BSCT)
        return losses.weighted_mean(per_source_S, self.config.source_weights), per_source_S

    def _penalty(self, step: int) -> Tensor:
        config = self.config.singular
        return config.penalty * losses.singular_penalty(unwrap(self.model), config, seed=self.seed, step=step)

    def _set_learning_rate(self, step: int) -> float:
        rate = learning_rate(self.config, step=step, total_steps=self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _clip(self) -> Tensor:
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        grad_norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.config.max_grad_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, grad_norm)
        return grad_norm.detach()


def learning_rate(config: LearnerConfig, *, step: int, total_steps: int) -> float:
    """The rate at a step counted from 0: a linear rise over the warm-up, then a cosine down to the final fraction."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.final_fraction == 1:
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, total_steps - 1 - config.warmup_steps)
    fall = (1 - config.final_fraction) * (1 - math.cos(math.pi * min(1.0, done))) / 2
    return config.learning_rate * (1 - fall)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context a forward pass runs in; float32 changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a data-parallel wrapper, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _optimizer(model: nn.Module, config: LearnerConfig) -> torch.optim.Optimizer:
    """Adam; with weight decay AdamW, since decay inside Adam's step is another method."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    betas = (config.beta1, config.beta2)
    if config.weight_decay:
        return torch.optim.AdamW(parameters, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay)
    return torch.optim.Adam(parameters, lr=config.learning_rate, betas=betas)
