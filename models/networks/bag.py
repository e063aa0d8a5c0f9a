"""Several models that answer as one, and what any model takes and gives."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from .input_normalization import Normalization, normalization


class Bag(nn.Module):
    """Several models whose estimates are averaged, with a weight per model and source."""

    def __init__(self, models: Sequence[nn.Module], weights: Sequence[Sequence[float]] | None = None) -> None:
        """`weights[m][s]` counts model m for source s; by default all count alike."""
        super().__init__()
        if not models:
            raise ModelError("a bag needs at least one model")
        interface_keys = {interface(model).interface_key for model in models}
        if len(interface_keys) > 1:
            shared = "sources, sample rate, channels and normalization"
            raise ModelError(f"the models of a bag must share {shared}, got {sorted(interface_keys)}")
        self.models = nn.ModuleList(models)
        num_sources = len(interface(models[0]).sources)
        weights = weights if weights is not None else [[1.0] * num_sources] * len(models)
        weights = check_weights(weights, num_models=len(models), num_sources=num_sources)
        total_S = torch.tensor(weights, dtype=torch.float32).sum(dim=0)
        self.shares = [tuple((torch.tensor(row) / total_S).tolist()) for row in weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInterface:
    """What a model takes and gives, whatever its family."""

    sources: tuple[str, ...]
    sample_rate: int
    audio_channels: int
    segment_samples: int
    normalize: Normalization

    @property
    def interface_key(self) -> tuple[tuple[str, ...], int, int, Normalization]:
        """What models must have in common to answer the same mixture together."""
        return self.sources, self.sample_rate, self.audio_channels, self.normalize


def interface(model: nn.Module) -> ModelInterface:
    """The interface of a model, or that of a bag's first member."""
    if isinstance(model, Bag):
        return interface(model.models[0])
    config: Any = model.config
    return ModelInterface(
        sources=tuple(config.sources),
        sample_rate=config.sample_rate,
        audio_channels=config.audio_channels,
        segment_samples=config.segment_samples,
        normalize=normalization(model),
    )


def check_weights(weights: Any, *, num_models: int, num_sources: int | None = None) -> tuple[tuple[float, ...], ...]:
    """The weights as floats; ModelError unless they are a row for each model, with a number >= 0 for each source.

    Every source needs a model that counts for it. Without `num_sources` rows must be equally long.
    """
    rows = list(weights) if is_list(weights) else []
    if num_sources is None:
        num_sources = len(rows[0]) if rows and is_list(rows[0]) else 0
    wanted = f"weights must be {num_models} rows (models) of {num_sources or 'equally many'} numbers (sources)"
    if len(rows) != num_models or any(not is_list(row) or len(row) != num_sources or not row for row in rows):
        raise ModelError(f"{wanted}, got {reprlib.repr(weights)}")
    for value in (value for row in rows for value in row):
        if not is_number(value) or not 0 <= value <= 1e30:  # their sums are taken in float32
            raise ModelError(f"{wanted}, each from 0 to 1e30, got {reprlib.repr(value)}")
    numbers = tuple(tuple(float(value) for value in row) for row in rows)
    for source, column in enumerate(zip(*numbers, strict=True)):
        if max(column) < 1e-30:
            raise ModelError(f"every source needs a model with a weight above 0, source {source} has {list(column)}")
    return numbers


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
