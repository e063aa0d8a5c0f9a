"""A part of the network in a module of its own: a registered model carries it as well."""

import torch
from torch import nn


class Gate(nn.Module):
    """Masks between 0 and 1 for every source, from the mixture alone."""

    def __init__(self, channels: int, width: int, num_sources: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, width, 9, padding=4), nn.GELU(), nn.Conv1d(width, num_sources * channels, 9, padding=4)
        )

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        """(B, S * C, T) from (B, C, T)."""
        return torch.sigmoid(self.layers(mixture))
