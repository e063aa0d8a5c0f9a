"""Plug-ins of an optimization step: losses, optimizers and augmentations by name, beside our own.

A loss is called with estimates and sources, both (B, S, C, T), and gives (B, S), one number for each row and source.
An optimizer is called with parameter groups, each with its `weight_decay`, and `lr`, as torch's own are. An
augmentation is called with the stems of one row, (S, C, T), and a CPU's `generator` for its random choices, and gives
stems of the same shape.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..learner_config import OPTIMIZERS, LearnerConfig
from ..plugins import Plugin, PluginKind, require
from ..rng import generator
from . import losses

SECTION = "train.learner"
LOSS = PluginKind(noun="loss", group="stemline.losses", setting=f"{SECTION}.loss", error=ModelError)
OPTIMIZER = PluginKind(noun="optimizer", group="stemline.optimizers", setting=f"{SECTION}.optimizer", error=ModelError)
AUGMENTATION = PluginKind(
    noun="augmentation", group="stemline.augmentations", setting=f"{SECTION}.augment.plugins", error=ModelError
)
OURS = {LOSS.noun: ("l1",), OPTIMIZER.noun: OPTIMIZERS, AUGMENTATION.noun: ()}  # names that need no plug-in

Loss = Callable[[Tensor, Tensor], Tensor]
Augmentation = Callable[..., Tensor]


def of_config(config: LearnerConfig) -> list[Plugin]:
    """The plug-ins that a training names, in the order in which they are listed above."""
    named = [(LOSS, config.loss), (OPTIMIZER, config.optimizer)]
    named += [(AUGMENTATION, name) for name in config.augment.plugins]
    plugins = (_find(kind, name) for kind, name in named)
    return [plugin for plugin in plugins if plugin is not None]


def loss_of(config: LearnerConfig) -> Loss:
    """The loss of a training; a plug-in's result is checked at every call."""
    plugin = _find(LOSS, config.loss)
    if plugin is None:
        return losses.l1

    def checked(estimates_BSCT: Tensor, sources_BSCT: Tensor) -> Tensor:
        loss_BS = plugin.call(estimates_BSCT, sources_BSCT)
        _require_shape(plugin, loss_BS, tuple(sources_BSCT.shape[:2]), "(rows, sources)")
        if torch.is_grad_enabled() and estimates_BSCT.requires_grad and not loss_BS.requires_grad:
            raise plugin.failure("returned a loss that no gradient leads to: it must follow from the estimates")
        result: Tensor = loss_BS.float()
        return result

    return checked


def optimizer_of(config: LearnerConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer | None:
    """A plug-in's optimizer of these groups; None where the training takes ours."""
    plugin = _find(OPTIMIZER, config.optimizer)
    if plugin is None:
        return None
    optimizer = plugin.call(list(groups), lr=config.learning_rate)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise plugin.failure(f"returned {type(optimizer).__name__}: want a torch.optim.Optimizer")
    return optimizer


def augment_further(
    sources_BSCT: Tensor, config: LearnerConfig, *, seed: int, step: int, rows: Sequence[int]
) -> Tensor:
    """Every row through the plug-ins, in their order; what one draws depends on seed, step and row alone."""
    for place, name in enumerate(config.augment.plugins):
        plugin = _find(AUGMENTATION, name)
        assert plugin is not None
        changed = []
        for row, sources_SCT in zip(rows, sources_BSCT, strict=True):
            changed.append(plugin.call(sources_SCT, generator=generator(seed, step, "plug-in", place, row)))
            _require_shape(plugin, changed[-1], tuple(sources_SCT.shape), "(sources, channels, samples)")
        sources_BSCT = torch.stack(changed).to(sources_BSCT)
    return sources_BSCT


def _find(kind: PluginKind, name: str) -> Plugin | None:
    """The plug-in of a name; None for one of ours."""
    return require(kind, name, builtin=OURS[kind.noun])


def _require_shape(plugin: Plugin, result: Any, wanted: tuple[int, ...], axes: str) -> None:
    if not isinstance(result, Tensor) or tuple(result.shape) != wanted:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise plugin.failure(f"returned {got}: want a tensor {wanted}, {axes}")
