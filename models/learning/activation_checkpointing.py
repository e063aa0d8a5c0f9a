"""Layers whose activations are computed again for the gradients instead of kept: less memory for more time."""

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(model: nn.Module) -> int:
    """Have the layers of `model`, what is in its outermost lists, keep their inputs alone; returns their number.

    Keys of the state, gradients and random numbers stay as they are. Copies of the model, such as those for evaluation,
    keep what they need.
    """
    layers = _layers(model)
    for layer in layers:
        # As a compiler would put itself before a module; it is left out of copies.
        layer._compiled_call_impl = functools.partial(checkpoint, layer._call_impl, use_reentrant=False)
    return len(layers)


def _layers(module: nn.Module) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for child in module.children():
        layers += child if isinstance(child, nn.ModuleList) else _layers(child)
    return layers
