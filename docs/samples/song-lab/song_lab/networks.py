"""A network: a torch module whose only argument is its configuration, a dataclass with defaults."""

from dataclasses import dataclass

import torch
from torch import nn

from .layers import Gate  # relatively: a registered model carries this package under another name


@dataclass(frozen=True, kw_only=True)
class MaskNetConfig:
    """What `model.options` may change; values that JSON can hold."""

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    sample_rate: int = 44100
    audio_channels: int = 2
    normalize: str = "track"  # or "none": at which level the network hears
    segment_s: float = 2.0
    width: int = 16

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be >= 1, got {self.width}")

    @property
    def segment_samples(self) -> int:
        return round(self.segment_s * self.sample_rate)


class MaskNet(nn.Module):
    """Each source is the mixture times a mask of its own."""

    config_class = MaskNetConfig

    def __init__(self, config: MaskNetConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Gate(config.audio_channels, config.width, len(config.sources))

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        """Estimates (B, S, C, T) of a mixture (B, C, T)."""
        masks = self.gate(mixture).unflatten(1, (len(self.config.sources), self.config.audio_channels))
        return masks * mixture[:, None]
