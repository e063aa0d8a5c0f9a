"""Which optimizer improves which parameters of a model."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..learner_config import LearnerConfig
from . import learner_plugins
from .muon import Muon

# Their weights are (inputs, outputs, ...), those of all other layers (outputs, inputs, ...).
_INPUTS_FIRST = (nn.ConvTranspose1d, nn.ConvTranspose2d)

_Named = Sequence[tuple[str, nn.Parameter]]


def optimizers(model: nn.Module, config: LearnerConfig) -> dict[str, torch.optim.Optimizer]:
    """Those of the recipe, by the names under which their states are stored; a parameter that learns is in one of them.

    "optimizer" is Adam; with weight decay AdamW, since decay inside Adam's step is another method. Fused: one pass over
    each parameter instead of a dozen, on CPUs too. "muon" takes the matrices where the recipe says so. A group's
    `rate_ratio` is its learning rate over that of the recipe. A plug-in takes all of them.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if config.weight_decay and not any(name.startswith(config.weight_decay_under) for name, _ in named):
        raise ModelError(f"no parameter's name begins with weight_decay_under={config.weight_decay_under!r}")
    if plugin := learner_plugins.optimizer_of(config, _groups(named, config, 1.0)):
        return {"optimizer": plugin}
    least_dimensions = 2 if config.optimizer == "muon" else sys.maxsize
    matrices = [(name, parameter) for name, parameter in named if parameter.ndim >= least_dimensions]
    others = [(name, parameter) for name, parameter in named if parameter.ndim < least_dimensions]
    optimizer_of: dict[str, torch.optim.Optimizer] = {}
    if matrices:
        groups = _groups(matrices, config, config.matrix_learning_rate / config.learning_rate)
        inputs_first = [module.weight for module in model.modules() if isinstance(module, _INPUTS_FIRST)]
        optimizer_of["muon"] = Muon(
            groups,
            lr=config.matrix_learning_rate,
            momentum=config.matrix_momentum,
            inputs_first=inputs_first,
        )
    if others:
        adam = torch.optim.AdamW if config.weight_decay else torch.optim.Adam
        betas = (config.beta1, config.beta2)
        optimizer_of["optimizer"] = adam(_groups(others, config, 1.0), lr=config.learning_rate, betas=betas, fused=True)
    return optimizer_of


def _groups(named: _Named, config: LearnerConfig, rate_ratio: float) -> list[dict[str, Any]]:
    """Parameters that decay and those that do not, where there are any."""
    decayed = [parameter for name, parameter in named if name.startswith(config.weight_decay_under)]
    spared = [parameter for name, parameter in named if not name.startswith(config.weight_decay_under)]
    groups = ((decayed, config.weight_decay), (spared, 0.0))
    return [
        {"params": parameters, "weight_decay": decay, "rate_ratio": rate_ratio}
        for parameters, decay in groups
        if parameters
    ]
