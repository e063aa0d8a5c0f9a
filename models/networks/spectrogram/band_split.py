"""From rows of a spectrogram to one token per band, and back to a mask for every row: both RoFormers' ends.

A band is a number of rows with all their channels, real and imaginary parts, one after the other.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .axial_transformer import NORM_EPS


class BandSplit(nn.Module):
    """All bands side by side, (B, N, sum of sizes), to a token of each, (B, N, K, D)."""

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.norms = nn.ModuleList(nn.RMSNorm(size, eps=NORM_EPS) for size in sizes)
        self.maps = nn.ModuleList(nn.Linear(size, width) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(torch.split(x, list(self.sizes), dim=-1), self.norms, self.maps, strict=True)
        return torch.stack([to_token(norm(part)) for part, norm, to_token in parts], dim=-2)


class BandMasks(nn.Module):
    """A token of each band to the numbers of all bands side by side, through an MLP per band that ends in a gate."""

    def __init__(self, sizes: tuple[int, ...], width: int, *, hidden: int, hidden_layers: int) -> None:
        super().__init__()
        inner = [hidden] * hidden_layers
        self.bands = nn.ModuleList(_perceptron([width, *inner, 2 * size]) for size in sizes)

    def forward(self, x_BNKD: Tensor) -> Tensor:
        parts = [F.glu(mlp(token), dim=-1) for mlp, token in zip(self.bands, x_BNKD.unbind(-2), strict=True)]
        return torch.cat(parts, dim=-1)


def _perceptron(widths: list[int]) -> nn.Sequential:
    """Linear maps with a hyperbolic tangent between each two."""
    maps: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        maps += [nn.Tanh(), nn.Linear(narrow, wide)] if maps else [nn.Linear(narrow, wide)]
    return nn.Sequential(*maps)


def by_rows(spectrum_BCFN2: Tensor) -> Tensor:
    """A spectrum in the order of bands: (B, N, F, 2C), each row with the parts of its channels."""
    return spectrum_BCFN2.permute(0, 3, 2, 1, 4).flatten(-2)


def apply_mask(spectrum_BCFN2: Tensor, mask_BSNFC2: Tensor, *, zero_dc: bool) -> Tensor:
    """Each source's complex product of mask and mixture, (B, S, C, F, N, 2); with `zero_dc` row 0 is silent."""
    mask = mask_BSNFC2.movedim(2, 4).movedim(2, 3)  # (B, S, C, F, N, 2)
    real, imaginary = spectrum_BCFN2[:, None].unbind(-1)
    mask_real, mask_imaginary = mask.to(real.dtype).unbind(-1)
    product = [real * mask_real - imaginary * mask_imaginary, real * mask_imaginary + imaginary * mask_real]
    estimates = torch.stack(product, dim=-1)
    return F.pad(estimates[:, :, :, 1:], (0, 0, 0, 0, 1, 0)) if zero_dc else estimates
