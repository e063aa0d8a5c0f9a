"""A model in evaluation mode on the device that it is to run on, whatever else happens to it meanwhile."""

from typing import Any

import torch
from torch import Tensor, nn


def in_evaluation(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """The model in evaluation mode on a device, its own by default: itself if it is there and in that mode.

    Else a twin, which shares the weights where the device is the same. So whatever else happens to the model meanwhile,
    such as another separation or a step of training, neither disturbs the other.
    """
    there = torch.device(device) if device is not None else device_of(model)
    here = device_of(model)
    moves = there.type != here.type or (there.index is not None and there.index != here.index)
    if not moves and not any(module.training for module in model.modules()):
        return model
    return _twin(getattr(model, "_orig_mod", model), there if moves else None, {})


def _twin(module: nn.Module, device: torch.device | None, copies: dict[int, Any]) -> nn.Module:
    """A module of the same attributes with modes of its own; with a device, its weights are copies there."""
    if id(module) not in copies:
        twin = copies[id(module)] = type(module).__new__(type(module))
        state = dict(vars(module))
        state["_modules"] = {name: child and _twin(child, device, copies) for name, child in module._modules.items()}
        state |= {"training": False, "_compiled_call_impl": None}  # what is compiled runs the module it was copies of
        if device is not None:
            for kind in ("_parameters", "_buffers"):
                state[kind] = {name: _placed(tensor, device, copies) for name, tensor in state[kind].items()}
        vars(twin).update(state)
        if device is not None and isinstance(twin, nn.RNNBase):
            twin._init_flat_weights()
    copied: nn.Module = copies[id(module)]
    return copied


def _placed(tensor: Tensor | None, device: torch.device, copies: dict[int, Any]) -> Tensor | None:
    if tensor is not None and id(tensor) not in copies:
        moved = tensor.detach().to(device)
        copies[id(tensor)] = nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
    return None if tensor is None else copies[id(tensor)]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU where it has none."""
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")
