"""Convolutions as matrix products in tiles, for CPUs where oneDNN's own are slower: see `prefers_products`.

What each saves is added up over the layers of a segment of 7.8 s, on an AMD EPYC without AVX-512, 2026-12-01.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dispatch import prefers_products

TILE_ELEMENTS = 2**18  # of a product that is held at a time
LEAST_COLUMNS = 512  # fewer, and a product spends its time on fetching weights
WIDE_ELEMENTS = 2**22  # a tensor into a gate of fewer elements costs no more than its tiles
FILTER_BLOCK = 32  # outputs of each filter in a row of the product


# It saves 0.17 CPU s of 5.9 of HT Demucs, 0.16 of 3.1 of Hybrid Demucs and 0.35 of 4.2 of Demucs v3 (AVX2).
def transposed_convolution(x: Tensor, layer: Any) -> Tensor:
    """What `layer` makes of (B, C, F, N) or (B, C, F): a transposed convolution over F that reaches two strides."""
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    if kernel != 2 * stride or not prefers_products(x):
        y: Tensor = layer(x)
        return y
    rows = x if x.dim() == 4 else x[..., None]
    weight_COK, bias = layer.weight.view(*layer.weight.shape[:3]), layer.bias
    wide = x.new_empty(len(x), layer.out_channels, x.shape[2] + 1, stride, rows.shape[-1])
    for item, out in zip(rows, wide, strict=True):
        _spread(item, weight_COK, bias, out)
    wide = wide.flatten(2, 3).narrow(2, padding, (x.shape[2] + 1) * stride - 2 * padding)
    return wide if x.dim() == 4 else wide[..., 0]


def _spread(x_CFN: Tensor, weight_COK: Tensor, bias_O: Tensor, out: Tensor) -> None:
    """Into `out`, (O, F + 1, K / 2, N): the early half of each row's product and the late half of that before it."""
    channels, num_rows, columns = x_CFN.shape
    outs, kernel = weight_COK.shape[1:]
    stride = kernel // 2
    weight = weight_COK.reshape(channels, -1).t()
    bias = torch.stack([bias_O, torch.zeros_like(bias_O)], dim=1).repeat_interleave(stride).view(-1, 1)
    tile = max(1, LEAST_COLUMNS // columns, TILE_ELEMENTS // (outs * kernel * columns))
    late = x_CFN.new_zeros(outs, stride, columns)
    for first in range(0, num_rows, tile):
        part = x_CFN[:, first : first + tile]
        end = first + part.shape[1]
        product = torch.addmm(bias, weight, part.reshape(channels, -1)).view(outs, kernel, -1, columns)
        early, next_late = (half.transpose(1, 2) for half in product.chunk(2, dim=1))
        torch.add(early[:, 0], late, out=out[:, first])
        torch.add(early[:, 1:], next_late[:, :-1], out=out[:, first + 1 : end])
        late = next_late[:, -1]
    torch.add(late, bias_O[:, None, None], out=out[:, num_rows])


# It saves 0.25 CPU s of 4.2 of Demucs v3, 0.04 of the hybrid networks (AVX2).
def gated_convolution(x_BCN: Tensor, layer: Any) -> Tensor:
    """GLU of the convolution `layer` of stride 1 over (B, C, N), without the wide tensor in between."""
    num_features, padding = layer.out_channels, layer.padding[0]
    if num_features * x_BCN.shape[-1] < WIDE_ELEMENTS or layer.dilation[0] > 1 or not prefers_products(x_BCN):
        return F.glu(layer(x_BCN), dim=1)
    kernel, length = layer.kernel_size[0], x_BCN.shape[-1]
    weight, bias = layer.weight.view(num_features, -1), layer.bias[:, None]
    out = x_BCN.new_empty(len(x_BCN), num_features // 2, length + 2 * padding - kernel + 1)
    tile = max(LEAST_COLUMNS, TILE_ELEMENTS // num_features)
    for item, gated in zip(x_BCN, out, strict=True):
        for first in range(0, gated.shape[-1], tile):
            into = gated[:, first : first + tile]
            start, end = first - padding, first - padding + into.shape[1] + kernel - 1
            part = F.pad(item[:, max(0, start) : end], (max(0, -start), max(0, end - length)))
            columns = part.unfold(1, kernel, 1).transpose(1, 2).reshape(weight.shape[1], -1)
            value, gate = torch.addmm(bias, weight, columns).chunk(2)
            torch.mul(value, gate.sigmoid_(), out=into)
    return out


class Layers(nn.Sequential):
    """The same sequence, with its transposed convolutions and the convolutions into gates by this file's functions."""

    def forward(self, x: Tensor) -> Tensor:
        layers: list[Any] = [layer for layer in self if not isinstance(layer, nn.Identity)]
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, nn.ConvTranspose1d):
                x = transposed_convolution(x, layer)
            elif layers and isinstance(layer, nn.Conv1d) and isinstance(layers[0], nn.GLU):
                layers.pop(0)
                x = gated_convolution(x, layer)
            else:
                x = layer(x)
        return x


# It saves 0.13 CPU s of 4.2 of Demucs v3 (AVX2).
def filter_bank(x_BT: Tensor, kernels_KL: Tensor, *, stride: int) -> Tensor:
    """What each of K filters gives at every `stride`-th sample, one after the other: (B, T' K)."""
    num_filters, width = kernels_KL.shape
    num_steps = (x_BT.shape[-1] - width) // stride + 1
    reach = (FILTER_BLOCK - 1) * stride + width
    num_blocks = -(-num_steps // FILTER_BLOCK)
    missing = (num_blocks - 1) * FILTER_BLOCK * stride + reach - x_BT.shape[-1]
    blocks = F.pad(x_BT, (0, max(0, missing))).unfold(-1, reach, FILTER_BLOCK * stride)
    weight = x_BT.new_zeros(reach, FILTER_BLOCK, num_filters)
    for step in range(FILTER_BLOCK):
        weight[step * stride : step * stride + width, step] = kernels_KL.t()
    return (blocks @ weight.flatten(1)).flatten(1)[:, : num_steps * num_filters]
