"""Encoder and decoder layers, the embedding of frequencies, and how large weights are at first."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cpu_kernels.convolution import gated_convolution, transposed_convolution
from ..cpu_kernels.dispatch import cheaper_to_keep, uses_cpu_kernels
from ..cpu_kernels.glu import pointwise_glu
from .residual import DConv


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
            y = self.dconv(y)
        if isinstance(self.norm2, nn.Identity) and uses_cpu_kernels(y) and not cheaper_to_keep(2 * y.numel()):
            return _pointwise_gate(y, self.rewrite)
        return F.glu(self.norm2(self.rewrite(y)), dim=1)


def _pointwise_gate(x: Tensor, rewrite: Any) -> Tensor:
    """GLU of a 1x1 convolution, without the tensor in between."""
    batch, inner = x.shape[:2]
    weight = rewrite.weight.view(1, 1, -1, inner).expand(batch, -1, -1, -1)
    y = pointwise_glu(x.view(batch, 1, inner, -1), weight, rewrite.bias.expand(batch, 1, -1))
    return y.view(batch, -1, *x.shape[2:])


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
        across_rows: bool = True,
    ) -> None:
        super().__init__()
        self.last = last
        crop = kernel // 4 if crop is None else crop
        # A norm sees the samples that the crop then takes away; without one, cropping is free in the convolution.
        self.crop = crop if norm_groups else 0
        padding = 0 if norm_groups else crop
        if spectral:
            size, margin = ((3, 3), (1, 1)) if across_rows else ((1, 3), (0, 1))
            self.rewrite: nn.Module = nn.Conv2d(in_channels, 2 * in_channels, size, padding=margin)
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
        if isinstance(self.rewrite, nn.Conv1d) and isinstance(self.norm1, nn.Identity):
            y = gated_convolution(x + skip, self.rewrite)
        else:
            y = F.glu(self.norm1(self.rewrite(x + skip)), dim=1)
        return y if self.dconv is None else self.dconv(y)

    def expand(self, y: Tensor, length: int) -> Tensor:
        z: Tensor = self.norm2(transposed_convolution(y, self.conv_tr))
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
