"""Encoder and decoder layers of the hybrid U-Nets, and the dilated residual branch inside them.

Every strided convolution has a kernel of twice its stride and is padded by a quarter of its kernel, so L
becomes ceil(L / stride). A spectral layer strides over frequency and never over time: it works on (B, D, F, N)
with kernels (k, 1); a temporal layer works on (B, D, T) with kernels k. Attribute names are the published
state-dict keys. Read next: `htdemucs.py`, which stacks these, or `hdemucs.py`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .spectral import at_least_float32


def standardize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each example of the batch with mean 0 and deviation 1, and that mean and deviation, shaped to broadcast.

    Statistics are float32 at least. Silence stays silence: the deviation is floored by 1e-5 added.
    """
    x = at_least_float32(x)
    dims = tuple(range(1, x.dim()))
    correction = 1 if math.prod(x.shape[1:]) > 1 else 0
    std, mean = torch.std_mean(x, dim=dims, correction=correction, keepdim=True)
    return (x - mean) / (1e-5 + std), mean, std


def rescale_convolutions(module: nn.Module, reference: float = 0.1) -> None:
    """Pull the deviation of every convolution's initial weight half way, on a log scale, towards `reference`.

    The bias shrinks or grows with the weight. From Demucs v1 on; without it deep layers start too quiet.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d):
            factor = (reference / layer.weight.detach().std()).sqrt()
            layer.weight.data.mul_(factor)
            if layer.bias is not None:
                layer.bias.data.mul_(factor)


class LayerScale(nn.Module):
    """A learnt factor per channel that starts small, so that a new residual branch starts nearly silent."""

    def __init__(self, channels: int, init: float, *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.scale = nn.Parameter(torch.full((channels,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if self.channels_last else x * self.scale[:, None]


class DConv(nn.Module):
    """Residual branches of dilated convolutions over time, (B, D, T) to (B, D, T).

    Branch d squeezes D to D / compress channels with a kernel of 3 at dilation 2^d, optionally runs a BiLSTM
    and local attention there, and expands again through a GLU. Hybrid Demucs, arXiv 2111.03600, section 2.3.
    """

    def __init__(
        self,
        channels: int,
        *,
        compress: int,
        depth: int = 2,
        init: float = 1e-3,
        extras: tuple[type[nn.Module], ...] = (),
    ) -> None:
        super().__init__()
        hidden = channels // compress
        self.layers = nn.ModuleList()
        for d in range(depth):
            branch = [
                nn.Conv1d(channels, hidden, 3, dilation=2**d, padding=2**d),
                nn.GroupNorm(1, hidden),
                nn.GELU(),
                *(extra(hidden) for extra in extras),
                nn.Conv1d(hidden, 2 * channels, 1),
                nn.GroupNorm(1, 2 * channels),
                nn.GLU(1),
                LayerScale(channels, init),
            ]
            self.layers.append(nn.Sequential(*branch))

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.layers:
            x = x + branch(x)
        return x


def run_dconv(dconv: DConv, x: Tensor) -> Tensor:
    """The branch on (B, D, T), or on (B, D, F, N) with every frequency row as an example of its own."""
    if x.dim() == 3:
        y: Tensor = dconv(x)
        return y
    batch, channels, rows, frames = x.shape
    folded = x.transpose(1, 2).reshape(batch * rows, channels, frames)
    z: Tensor = dconv(folded)
    return z.view(batch, rows, channels, frames).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Strided convolution, residual branch, 1x1 convolution into a GLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spectral: bool,
        kernel: int = 8,
        stride: int = 4,
        padding: int | None = None,
        norm_groups: int = 0,
        dconv: DConv | None = None,
    ) -> None:
        super().__init__()
        self.stride = 0 if spectral else stride  # time is filled up to a multiple of it; rows already are one
        padding = kernel // 4 if padding is None else padding
        if spectral:
            self.conv: nn.Module = nn.Conv2d(in_channels, out_channels, (kernel, 1), (stride, 1), (padding, 0))
            self.rewrite: nn.Module = nn.Conv2d(out_channels, 2 * out_channels, 1)
        else:
            self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride, padding)
            self.rewrite = nn.Conv1d(out_channels, 2 * out_channels, 1)
        self.norm1 = group_norm(norm_groups, out_channels)
        self.norm2 = group_norm(norm_groups, 2 * out_channels)
        self.dconv = dconv

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """`inject` is added to the convolution's output: there the time branch joins the spectral one."""
        if self.stride and x.shape[-1] % self.stride:
            x = F.pad(x, (0, -x.shape[-1] % self.stride))
        y = self.conv(x)
        if inject is not None:
            y = y + inject
        y = F.gelu(self.norm1(y))
        if self.dconv is not None:
            y = run_dconv(self.dconv, y)
        return F.glu(self.norm2(self.rewrite(y)), dim=1)


class DecoderLayer(nn.Module):
    """Adds the skip, a wide convolution into a GLU, residual branch, transposed convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spectral: bool,
        last: bool,
        kernel: int = 8,
        stride: int = 4,
        crop: int | None = None,
        norm_groups: int = 0,
        dconv: DConv | None = None,
    ) -> None:
        super().__init__()
        self.spectral, self.last = spectral, last
        crop = kernel // 4 if crop is None else crop
        # A norm sees the samples that the crop then takes away; without one, cropping is free in the convolution.
        self.crop = crop if norm_groups else 0
        padding = 0 if norm_groups else crop
        if spectral:
            self.rewrite: nn.Module = nn.Conv2d(in_channels, 2 * in_channels, 3, padding=1)
            self.conv_tr: nn.Module = nn.ConvTranspose2d(
                in_channels, out_channels, (kernel, 1), (stride, 1), (padding, 0)
            )
        else:
            self.rewrite = nn.Conv1d(in_channels, 2 * in_channels, 3, padding=1)
            self.conv_tr = nn.ConvTranspose1d(in_channels, out_channels, kernel, stride, padding)
        self.norm1 = group_norm(norm_groups, 2 * in_channels)
        self.norm2 = group_norm(norm_groups, out_channels)
        self.dconv = dconv

    def forward(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        """`length` is what the encoder layer across saw along its strided axis; the output has it again."""
        return self.expand(self.merge(x, skip), length)

    def merge(self, x: Tensor, skip: Tensor) -> Tensor:
        """Everything before the transposed convolution; Hybrid Demucs' time branch starts from it."""
        y: Tensor = F.glu(self.norm1(self.rewrite(x + skip)), dim=1)
        return y if self.dconv is None else run_dconv(self.dconv, y)

    def expand(self, y: Tensor, length: int) -> Tensor:
        z: Tensor = self.norm2(self.conv_tr(y))
        if z.shape[2] != length:  # a slice that keeps all would still cost the backward pass a copy
            z = z.narrow(2, self.crop, length)
        return z if self.last else F.gelu(z)


def group_norm(groups: int, channels: int) -> nn.Module:
    """GroupNorm, or nothing for 0 groups (no parameters, so no key)."""
    return nn.GroupNorm(groups, channels) if groups else nn.Identity()


class FrequencyEmbedding(nn.Module):
    """Adds a learnt vector per frequency row to (B, D, F, N): convolutions alone cannot tell bass from treble.

    The table (rows, D) starts smooth over rows. It is stored at a tenth of its size, so that a step of Adam moves
    it ten times as far, and only a fifth of it is added.
    """

    def __init__(self, rows: int, channels: int, *, boost: float = 10.0, share: float = 0.2) -> None:
        super().__init__()
        self.factor = boost * share
        self.embedding = nn.Embedding(rows, channels)
        walk = torch.cumsum(self.embedding.weight.data, dim=0)
        walk /= torch.arange(1, rows + 1, dtype=walk.dtype).sqrt()[:, None]
        self.embedding.weight.data = walk / boost

    def forward(self, x: Tensor) -> Tensor:
        table_FD: Tensor = self.embedding.weight
        return x + self.factor * table_FD.t()[:, :, None]
