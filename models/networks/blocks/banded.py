"""Layers with weights of their own in each of several bands of frequencies, as one model of a challenge has them.

Were all bands' weights equal, the result would be that of one layer for all rows: windows of the encoder and overlaps
of the decoder at the border of two bands are cut so that nothing is lost there.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ModelError
from .layers import DecoderLayer, EncoderLayer

KERNEL, STRIDE = 8, 4  # rows, of the layers inside
MARGIN = KERNEL // 4  # rows of zeros below the lowest and above the highest band


def band_windows(num_rows: int, limits: tuple[float, ...]) -> list[tuple[int, int]]:
    """First row and end of what each band's encoder reads, zeros beyond the ends not counted; bands overlap."""
    windows: list[tuple[int, int]] = []
    start = 0
    for limit in limits:
        size = round(num_rows * limit) - start + (0 if windows else MARGIN)
        steps = round((size - KERNEL) / STRIDE + 1)
        end = start + (steps - 1) * STRIDE + KERNEL - (0 if windows else MARGIN)
        windows.append((start, end))
        start = end - KERNEL + STRIDE
    windows.append((start, num_rows))
    sizes = [end - start for start, end in windows]
    sizes[0], sizes[-1] = sizes[0] + MARGIN, sizes[-1] + MARGIN
    if min(sizes) < KERNEL or any(end > num_rows for _, end in windows):
        raise ModelError(f"band_limits {list(limits)} leave a band without rows where there are {num_rows}: take fewer")
    return windows


class BandedEncoder(nn.Module):
    """An encoder layer per band, (B, C, F, N) to (B, D, F / 4, N)."""

    def __init__(self, limits: tuple[float, ...], make: Callable[[], EncoderLayer]) -> None:
        super().__init__()
        self.limits = limits
        self.layers = nn.ModuleList(make() for _ in range(len(limits) + 1))

    def forward(self, x: Tensor) -> Tensor:
        windows = band_windows(x.shape[2], self.limits)
        last = len(windows) - 1
        outs = []
        for number, ((start, end), layer) in enumerate(zip(windows, self.layers, strict=True)):
            below, above = (MARGIN if number == 0 else 0), (MARGIN if number == last else 0)
            outs.append(layer(F.pad(x[:, :, start:end], (0, 0, below, above))))
        return torch.cat(outs, dim=2)


class BandedDecoder(nn.Module):
    """A decoder layer per band, (B, D, F, N) and the skip to (B, E, 4 F, N); none looks at neighbouring rows."""

    def __init__(self, limits: tuple[float, ...], in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__()
        self.limits, self.last = limits, last
        self.layers = nn.ModuleList(
            DecoderLayer(in_channels, out_channels, spectral=True, last=True, crop=0, across_rows=False)
            for _ in range(len(limits) + 1)
        )

    def forward(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        borders = [0, *(round(x.shape[2] * limit) for limit in self.limits), x.shape[2]]
        parts: list[Tensor] = []
        for layer, (start, end) in zip(self.layers, pairwise(borders), strict=True):
            assert isinstance(layer, DecoderLayer)
            wide = (end - start - 1) * STRIDE + KERNEL
            part = layer(x[:, :, start:end], skip[:, :, start:end], wide)
            if parts:  # both have added their bias to the rows that they share
                bias: Any = layer.conv_tr.bias
                shared = parts[-1][:, :, -STRIDE:] + part[:, :, :STRIDE] - bias[:, None, None]
                parts[-1] = torch.cat([parts[-1][:, :, :-STRIDE], shared], dim=2)
                part = part[:, :, STRIDE:]
            parts.append(part)
        y = torch.cat(parts, dim=2)[:, :, MARGIN : MARGIN + length]
        return y if self.last else F.gelu(y)
