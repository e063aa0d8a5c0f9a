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

from ..errors import ModelError
from ..host_to_device import upload
from ..learner_config import LearnerConfig, equal_part
from ..mixed_precision import DTYPES, autocast
from ..networks.input_normalization import normalization, unit_level
from ..weights.bit_packing import Packing
from . import learner_plugins, losses
from .augment import augment
from .bit_widths import BitWidths
from .compiled_forward import compile_in_place
from .ema import WeightAverage
from .optimizers import optimizers


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What one step saw, as tensors on the model's device: reading them waits for it."""

    loss: Tensor  # weighted mean of per_source
    per_source: Tensor  # (S,)
    grad_norm: Tensor  # before clipping
    learning_rate: float
    skipped: bool = False  # the gradient was not finite, and no weight was changed
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
        rows_at_once: int = 0,
        normalized: bool = False,
        compile_mode: str = "off",
    ) -> None:
        """`total_steps` is where a falling learning rate ends; `seed` is that of the augmentation.

        Where the model's config says `normalize="track"`, rows are brought to unit level before anything else: by the
        deviation of their own mixture, unless they come `normalized`, by that of their whole tracks.

        Batches of more than `rows_at_once` rows go through the model in equal parts of at most so many, whose
        gradients are summed; 0 never splits. `compile_mode` other than "off" compiles the model at the first step, in
        place, unless what comes out is another then; `compile_failure` says why it was not.
        """
        if config.min_lr_ratio < 1 and total_steps < 1:
            raise ModelError("a falling learning rate needs to know total_steps")
        if rows_at_once < 0:
            raise ModelError(f"rows_at_once must be >= 0, got {rows_at_once}")
        if config.trim_loss_drop and rows_at_once % config.trim_loss_group:
            raise ModelError(
                f"rows_at_once={rows_at_once} splits groups of trim_loss_group={config.trim_loss_group} rows"
            )
        losses.check_penalized(unwrap(model), config.spectral_penalty)
        self.config, self.seed, self.total_steps = config, seed, total_steps
        self.rows_at_once = rows_at_once
        self.compile_mode, self.compile_failure = compile_mode, ""
        self.normalizes = normalization(unwrap(model)) == "track" and not normalized
        self.rate_factor = 1.0  # of the recipe's learning rate
        self.shift_samples = round(config.augment.shift_s * sample_rate)
        self.model = model
        self.loss = learner_plugins.loss_of(config)
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.optimizers = optimizers(unwrap(model), config)
        self.averages = [WeightAverage(unwrap(model), decay) for decay in config.ema_decays]
        every = config.epoch_steps
        self.averages += [WeightAverage(unwrap(model), decay, every=every) for decay in config.epoch_ema_decays]
        self.widths = BitWidths(unwrap(model), config.quantize) if config.quantize.penalty else None

    def step(
        self, sources_BSCT: Tensor, *, step: int, rows: Sequence[int] | None = None, share: float = 1.0
    ) -> StepMetrics:
        """One step on stems that are `shift_samples` longer than the segment; `step` counts from 0.

        `rows` are their places in the global batch, all of it by default. `share` is their number over the mean
        number of all workers, whose gradients are averaged. Without a finite gradient nothing is changed.
        """
        rows = range(len(sources_BSCT)) if rows is None else rows
        learning_rate = self._set_learning_rate(step)
        sources_BSCT = upload(sources_BSCT, self.device)
        sources_BSCT = augment(
            unit_level(sources_BSCT) if self.normalizes else sources_BSCT,
            self.config.augment,
            seed=self.seed,
            step=step,
            rows=rows,
            shift_samples=self.shift_samples,
        )
        sources_BSCT = learner_plugins.augment_further(sources_BSCT, self.config, seed=self.seed, step=step, rows=rows)
        self.model.train()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with self.widths.noisy(seed=self.seed, step=step) if self.widths else nullcontext():
            per_source_S = self._backward(sources_BSCT, step=step, share=share)
        if self.config.spectral_penalty.penalty:
            self._penalize(step)
        grad_norm = self._grad_norm()
        finite = bool(grad_norm.isfinite())  # waits for the device, once per step
        if finite:
            self._improve(grad_norm)
        for average in self.averages:
            # An epoch's end counts even if its last step was skipped; after every step, a skipped one counts for none.
            if (step + 1) % average.every == 0 and (finite or average.every > 1):
                average.update(unwrap(self.model))
        return StepMetrics(
            loss=losses.weighted_mean(per_source_S, self.config.source_weights),
            per_source=per_source_S,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            skipped=not finite,
            size_mib=self.widths.size_mib().detach() if self.widths else None,
        )

    def packing(self) -> Packing | None:
        """How the model is to be stored with the widths learnt so far; None stores it as it is."""
        return self.widths.packing() if self.widths else None

    def quantized(self) -> AbstractContextManager[None]:
        """Inside the context the model has the values that its file will hold."""
        return self.widths.rounding(unwrap(self.model)) if self.widths else nullcontext()

    def state(self) -> dict[str, Any]:
        """Optimizers and averages, as tensors and numbers; the weights themselves are the model's."""
        state: dict[str, Any] = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        state["averages"] = [average.state() for average in self.averages]
        return state | ({"widths": self.widths.state()} if self.widths else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a stored state of the same model and configuration."""
        if len(state["averages"]) != len(self.averages):
            raise ModelError(f"the stored state has {len(state['averages'])} averages, expected {len(self.averages)}")
        if ("widths" in state) != (self.widths is not None):
            raise ModelError("the stored state belongs to a training with another quantize.penalty: 0 and above 0")
        if unlike := {"muon", "optimizer"} & (state.keys() ^ self.optimizers.keys()):
            raise ModelError(
                f"the stored state belongs to a training with another optimizer ({', '.join(sorted(unlike))}): set "
                f"the learner's optimizer as it was, or begin anew; now it is {self.config.optimizer!r}"
            )
        for name, optimizer in self.optimizers.items():
            if surplus := state[name]["param_groups"][0].keys() - optimizer.param_groups[0].keys():
                raise ModelError(
                    f"the stored state belongs to a training with another optimizer, which has {min(surplus)}: set the "
                    f"learner's optimizer as it was, or begin anew; now it is {self.config.optimizer!r}"
                )
            optimizer.load_state_dict(state[name])
        if self.widths:
            self.widths.load_state(state["widths"])
        for average, stored in zip(self.averages, state["averages"], strict=True):
            average.load_state(stored)

    def _backward(self, sources_BSCT: Tensor, *, step: int, share: float) -> Tensor:
        """Gradients of the mean loss over all rows, part by part; the loss of each source, shape (S,)."""
        rows_at_once = equal_part(len(sources_BSCT), self.rows_at_once, self.config.compared_rows)
        parts = torch.split(sources_BSCT, rows_at_once)
        if self.compile_mode != "off":
            self._compile(parts[0])
        per_source_S = torch.zeros(sources_BSCT.shape[1], device=self.device)
        for number, part_BSCT in enumerate(parts):
            last = number == len(parts) - 1
            with self._apart() if not last else nullcontext():
                part_S = self._losses(part_BSCT, step) * (len(part_BSCT) / len(sources_BSCT))
                loss = share * losses.weighted_mean(part_S, self.config.source_weights)
                torch.autograd.backward(loss)
            per_source_S += part_S.detach()
        return per_source_S

    def _compile(self, part_BSCT: Tensor) -> None:
        mode, self.compile_mode = self.compile_mode, "off"
        dtype = DTYPES[self.config.precision]
        self.compile_failure = compile_in_place(unwrap(self.model), mode, part_BSCT.sum(dim=1), dtype)

    def _apart(self) -> AbstractContextManager[None]:
        """Inside, gradients are kept to this worker: the last part's backward pass averages the sum of all."""
        model = self.model
        return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()

    def _losses(self, sources_BSCT: Tensor, step: int) -> Tensor:
        with autocast(self.device, DTYPES[self.config.precision]):
            estimates_BSCT = self.model(sources_BSCT.sum(dim=1))
        loss_BS = self.loss(estimates_BSCT, sources_BSCT)
        if self.config.trim_loss_drop and step >= self.config.trim_loss_after:
            loss_BS = loss_BS * losses.kept(loss_BS.detach(), self.config.trim_loss_drop, self.config.trim_loss_group)
        return loss_BS.mean(dim=0)

    def _penalize(self, step: int) -> None:
        """Adds the penalty's gradients, those of the weights without noise; every worker's are the same."""
        config = self.config.spectral_penalty
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        penalty = config.penalty * losses.singular_penalty(unwrap(self.model), config, seed=self.seed, step=step)
        for weight, gradient in zip(weights, torch.autograd.grad(penalty, weights, allow_unused=True), strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)

    def _set_learning_rate(self, step: int) -> float:
        rate = self.rate_factor * learning_rate(self.config, step=step, total_steps=self.total_steps)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("rate_ratio", 1.0)  # older states have one group, of ratio 1
        return rate

    def _grad_norm(self) -> Tensor:
        return nn.utils.get_total_norm(self._gradients()).detach()

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]

    def _improve(self, grad_norm: Tensor) -> None:
        """Clipped gradients into the weights."""
        if self.config.max_grad_norm:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.max_grad_norm, grad_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()


def learning_rate(config: LearnerConfig, *, step: int, total_steps: int) -> float:
    """The rate at a step counted from 0: a linear rise over the warm-up, then a cosine down to the final fraction."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.min_lr_ratio == 1:
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, total_steps - 1 - config.warmup_steps)
    fall = (1 - config.min_lr_ratio) * (1 - math.cos(math.pi * min(1.0, done))) / 2
    return config.learning_rate * (1 - fall)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a data-parallel wrapper, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
