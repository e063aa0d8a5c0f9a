"""A network built for a table of weights by name, and filled with it; what does not fit is refused and named."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from ..networks import catalog

LISTED = 8  # differing tensors named in a message


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Fill a model strictly; a state of another configuration is refused with the names and shapes that differ."""
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    differences = [f"{name}: the model wants {own[name]}, the file lacks it" for name in own.keys() - given.keys()]
    differences += [f"{name}: the file has {given[name]}, the model lacks it" for name in given.keys() - own.keys()]
    differences += [
        f"{name}: the model wants {own[name]}, the file has {given[name]}"
        for name in own.keys() & given.keys()
        if own[name] != given[name]
    ]
    if differences:
        listed = "\n  ".join(sorted(differences)[:LISTED])
        rest = f"\n  and {len(differences) - LISTED} more" if len(differences) > LISTED else ""
        raise ModelError(
            f"{origin} belongs to another configuration; {len(differences)} tensors differ:\n  {listed}{rest}"
        )
    model.load_state_dict(dict(state))


def build_for(config: Mapping[str, Any], state: Mapping[str, Tensor], *, origin: str) -> nn.Module:
    """A network of the configuration that is to have this state; one far larger is not built, whoever asks for it."""
    try:
        described = catalog.read_config(config)
        layers = [described.depth, *(getattr(described, name, 0) for name in ("dconv_depth", "transformer_layers"))]
        if max(layers) > len(state) or _least_size(described) > sum(value.numel() for value in state.values()):
            raise ModelError("it belongs to another configuration: to a larger network than its weights can fill")
        return catalog.from_config(config)
    except ModelError as error:
        raise ModelError(f"{origin}: {error}") from None
    except (RuntimeError, ArithmeticError, ValueError, TypeError, MemoryError) as error:
        raise ModelError(f"{origin} describes a network that cannot be built: {str(error)[:200]}") from error


def _least_size(config: Any) -> float:
    """Elements of the largest of some tensors that a network of this configuration has."""
    inner, audio = config.layer_channels[-1], config.audio_channels * len(config.sources)
    sizes: list[float] = [config.channels * max(audio, getattr(config, "nfft", 0) // 8), inner * inner]
    if getattr(config, "transformer_layers", 0):
        width: int = config.transformer_width
        sizes += [width * inner, width * width * max(1.0, config.transformer_hidden_scale)]
    return max(sizes)
