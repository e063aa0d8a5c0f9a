"""Weights to begin a training with: taken over where they mean the same in the new network, and refused elsewhere.

What weights mean is their configuration: a convolution learnt at 44.1 kHz fits into a network for 16 kHz without a
word, and one whose first output was the vocals into one whose first output is the drums. The order of the sources is
changed in the output layers; any other difference than those that fine-tuning may make is named.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..networks import catalog
from ..networks.bag import Bag
from ..weights.state_dict import load_state

# Do not change what the weights compute, or are what fine-tuning is about.
FREE = {"sources", "segment_s", "dropout", "attention_dropout", "sparsity", "hash_rounds", "hash_seed"}


def begin(network: nn.Module, given: nn.Module, *, origin: str) -> None:
    """Fill the network with the weights of another of its configuration, whose sources may have another order."""
    if isinstance(given, Bag):
        raise ModelError(f"{origin} is a bag of {len(given.models)} models: a training begins with one of them")
    ours, theirs = catalog.to_config(network), catalog.to_config(given)
    if sorted(ours["sources"]) != sorted(theirs["sources"]):
        raise ModelError(
            f"{origin} separates {', '.join(theirs['sources'])}, the training's sources are "
            f"{', '.join(ours['sources'])}: begin with a model of these, or set corpus.sources={theirs['sources']}"
        )
    differing = [name for name in theirs if name not in FREE and theirs[name] != ours.get(name)]
    if differing:
        listed = ", ".join(f"{name} {theirs[name]!r} where the training has {ours.get(name)!r}" for name in differing)
        raise ModelError(f"{origin} cannot be the start: it has {listed}; {_remedy(differing, theirs)}")
    load_state(network, reordered(given, ours["sources"]), origin=origin)


def reordered(model: nn.Module, sources: list[str]) -> dict[str, Tensor]:
    """The weights with which a network of the same configuration gives the same estimates in another order."""
    state, own = model.state_dict(), list(catalog.to_config(model)["sources"])
    if own == list(sources):
        return state
    order = torch.tensor([own.index(source) for source in sources])
    for name in _outputs(model):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        # A transposed convolution's outputs are dimension 1, source by source.
        state[f"{name}.weight"] = weight.unflatten(1, (len(own), -1))[:, order].flatten(1, 2)
        state[f"{name}.bias"] = bias.unflatten(0, (len(own), -1))[order].flatten(0, 1)
    return state


def _outputs(model: nn.Module) -> list[str]:
    """The layers that give the estimates: the last transposed convolution of each branch's decoder."""
    decoders = [name for name in ("decoder", "tdecoder") if hasattr(model, name)]
    last = [
        [name for name, module in model.get_submodule(decoder)[-1].named_modules() if _is_transposed(module)]  # type: ignore[index]
        for decoder in decoders
    ]
    return [
        f"{decoder}.{len(model.get_submodule(decoder)) - 1}.{names[-1]}"  # type: ignore[arg-type]
        for decoder, names in zip(decoders, last, strict=True)
    ]


def _is_transposed(module: nn.Module) -> bool:
    return isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)


def _remedy(differing: list[str], theirs: Mapping[str, Any]) -> str:
    if "family" in differing:
        return f"set model.preset to one of the family {theirs['family']}"
    settings = [
        f"ingest.{name}={theirs[name]}" if name == "sample_rate" else f"ingest.channels={theirs[name]}"
        for name in differing
        if name in ("sample_rate", "audio_channels")
    ]
    settings += [
        f"model.options.{name}={theirs[name]}" for name in differing if name not in ("sample_rate", "audio_channels")
    ]
    return f"set {', '.join(settings)}, or begin with another model"
