"""Encoder and decoder layers of the hybrid U-Nets, and the dilated residual branch inside them.

Every strided convolution has a kernel of twice its stride and is padded by a quarter of its kernel, so L
becomes ceil(L / stride). A spectral layer strides over frequency and never over time: it works on (B, D, F, N)
with kernels (k, 1); a temporal layer works on (B, D, T) with kernels k. Attribute names are the published
state-dict keys. Read next: `htdemucs.py`, which stacks these, or `hdemucs.py`.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cpu_kernels import convolve_3x3, gate, keeps, suits
from .spectral import at_least_float32


def standardize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each example of the batch with mean 0 and deviation 1, and that mean and deviation, shaped to broadcast.

    Statistics are float32 at least. Silence stays silence: the deviation is floored by 1e-5 added.
    """
    x = at_least_float32(x)
    dims = tuple(range(1, x.dim()))
    correction = 1 if math.prod(x.shape[1:]) > 1 else 0
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    # torch.std_mean takes fifteen times as long on a CPU.
    std = (centred.square().sum(dims, keepdim=True) / (math.prod(x.shape[1:]) - correction)).sqrt()
    return centred / (1e-5 + std), mean, std


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


class BiLSTM(nn.Module):
    """Two bidirectional LSTM layers and a linear map back to D features, (B, D, T) to (B, D, T).

    With a `window`, longer sequences are read in windows that overlap by half, each on its own, and the middle of
    each is kept: a sequence of any length costs a fixed number of steps in a row.
    """

    def __init__(self, channels: int, *, num_layers: int = 2, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.lstm = nn.LSTM(channels, channels, num_layers, bidirectional=True)
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.window is None or x.shape[-1] <= self.window:
            return self._read(x)
        (batch, channels, length), half = x.shape, self.window // 2
        num_windows = -(-length // half)
        padded = F.pad(x, (0, (num_windows + 1) * half - length))
        windows = padded.unfold(-1, self.window, half).transpose(1, 2)
        y = self._read(windows.reshape(-1, channels, self.window)).view(batch, num_windows, channels, self.window)
        margin = half // 2
        middles = y[..., margin : margin + half].transpose(1, 2).flatten(2)
        return torch.cat([y[:, 0, :, :margin], middles, y[:, -1, :, margin + half :]], dim=-1)[..., :length]

    def _read(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.lstm(x.permute(2, 0, 1))[0])
        return y.permute(1, 2, 0)


class ResidualBiLSTM(BiLSTM):
    """The same in windows of 200 steps, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, window=200)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class LocalAttention(nn.Module):
    """Attention over all time steps that each step can make fade with distance; added to its input, (B, D, T).

    A step's logits fall by up to 5/2 per step of distance, by as much as its own four decay gates say; a step never
    attends to itself. Named `LocalState` in the reference. Hybrid Demucs, arXiv 2111.03600, section 2.3.
    """

    def __init__(self, channels: int, *, num_heads: int = 4, num_decays: int = 4) -> None:
        super().__init__()
        self.num_heads, self.num_decays = num_heads, num_decays
        self.content = nn.Conv1d(channels, channels, 1)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(channels, channels, 1)
        self.query_decay = nn.Conv1d(channels, num_heads * num_decays, 1)
        with torch.no_grad():
            self.query_decay.weight.mul_(0.01)  # at first all steps see equally far
        assert self.query_decay.bias is not None
        nn.init.constant_(self.query_decay.bias, -2.0)
        self.proj = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        query, key, content = (
            layer(x).view(batch, self.num_heads, -1, length).transpose(2, 3)
            for layer in (self.query, self.key, self.content)
        )
        gates = torch.sigmoid(self.query_decay(x)).view(batch, self.num_heads, self.num_decays, length) / 2
        rates = torch.arange(1, self.num_decays + 1, device=x.device, dtype=gates.dtype) / self.num_decays**0.5
        slope = torch.einsum("bhkt,k->bht", gates, rates)
        steps = torch.arange(length, device=x.device)
        distance = (steps[:, None] - steps).abs()
        own = (query * key).sum(dim=-1) / query.shape[-1] ** 0.5  # taken off again: a step's logit for itself is -100
        mask = torch.where(distance == 0, -100.0 - own[..., None], -distance * slope[..., None])
        heads = F.scaled_dot_product_attention(query, key, content, attn_mask=mask.to(query.dtype))
        out: Tensor = self.proj(heads.transpose(2, 3).reshape(batch, channels, length))
        return x + out


class DConv(nn.Module):
    """Residual branches of dilated convolutions over time, (B, D, T) to (B, D, T).

    Branch d squeezes D to D / compress channels with a kernel of 3 at dilation 2^d, if `recurrent` runs a BiLSTM
    and local attention there, and expands again through a GLU. Hybrid Demucs, arXiv 2111.03600, section 2.3.
    """

    def __init__(
        self,
        channels: int,
        *,
        compress: int,
        depth: int = 2,
        init: float = 1e-3,
        recurrent: bool = False,
    ) -> None:
        super().__init__()
        hidden = channels // compress
        extras = (ResidualBiLSTM, LocalAttention) if recurrent else ()
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
        """Also takes (B, D, F, N), where every frequency row is an example of its own."""
        rows = x if x.dim() == 4 else x[:, :, None]
        for branch in self.layers:
            rows = _residual(cast(nn.Sequential, branch), rows)
        return rows.view(x.shape)


def _residual(branch: nn.Sequential, x: Tensor) -> Tensor:
    """x of shape (B, D, F, N) plus one residual branch of it."""
    modules: list[Any] = list(branch)
    squeeze, norm, activation, *extras, expand, wide_norm, _, scale = modules
    inner = F.conv2d(
        x,
        squeeze.weight[:, :, None],
        squeeze.bias,
        padding=(0, squeeze.padding[0]),
        dilation=(1, squeeze.dilation[0]),
    )
    batch, hidden, rows, columns = inner.shape
    inner = activation(norm(inner.transpose(1, 2).reshape(batch * rows, hidden, columns)))
    for extra in extras:
        inner = extra(inner)
    if suits(x) and keeps(2 * x.numel()):
        wide: Tensor = wide_norm(F.conv1d(inner, expand.weight, expand.bias))
        kept: Tensor = scale(F.glu(wide, dim=1))
        return x + kept.view(batch, rows, -1, columns).transpose(1, 2)
    return _expand_folded(inner.view(batch, rows, -1, columns), expand, wide_norm, scale.scale, x)


def _expand_folded(inner_BFKN: Tensor, expand: Any, norm: Any, scale_D: Tensor, x: Tensor) -> Tensor:
    """The end of a residual branch, from its squeezed features on, and x (B, D, F, N) added.

    Only the squeezed features are computed in full. The statistics of the norm follow from their means and
    covariances, so norm and layer scale become part of the expanding convolution's weight, one for each row, and
    everything wide happens inside `gate`.
    """
    centred, weight, bias = _fold_norm(inner_BFKN.flatten(0, 1), expand, norm)
    factor = torch.cat([scale_D, torch.ones_like(scale_D)])  # a gate's first half carries the value
    weight, bias = weight * factor[:, None], bias * factor
    rows = inner_BFKN.shape[:2]
    centred_BFKN = centred.to(inner_BFKN.dtype).view(inner_BFKN.shape)
    return gate(centred_BFKN, weight.view(*rows, *weight.shape[1:]), bias.view(*rows, -1), x)


def _fold_norm(inner: Tensor, expand: Any, norm: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What `expand` and then `norm`, of one group, do to (B, K, N): weights (B, 2D, K) and biases (B, 2D).

    They are those for the input without its means over time, which comes first: in half precision a large mean would
    drown in the rounding of the weights.
    """
    with torch.autocast(inner.device.type, enabled=False):
        inner = at_least_float32(inner)
        mean = inner.mean(-1, keepdim=True)
        centred = inner - mean
        covariance = centred @ centred.transpose(1, 2) / inner.shape[-1]
        weight = expand.weight[:, :, 0]
        means = (weight @ mean)[..., 0] + expand.bias
        centre = means.mean(1, keepdim=True)
        variances = ((weight @ covariance) * weight).sum(-1)
        variance = (variances + (means - centre).square()).mean(1, keepdim=True)
        factor = norm.weight * torch.rsqrt(variance + norm.eps)
        return centred, factor[..., None] * weight, factor * (means - centre) + norm.bias


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
        if isinstance(self.norm2, nn.Identity) and suits(y) and not keeps(2 * y.numel()):
            return _pointwise_gate(y, self.rewrite)
        return F.glu(self.norm2(self.rewrite(y)), dim=1)


def _pointwise_gate(x: Tensor, rewrite: Any) -> Tensor:
    """GLU of a 1x1 convolution, without the tensor in between."""
    batch, inner = x.shape[:2]
    weight = rewrite.weight.view(1, 1, -1, inner).expand(batch, -1, -1, -1)
    y = gate(x.view(batch, 1, inner, -1), weight, rewrite.bias.expand(batch, 1, -1))
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
        wide = convolve_3x3(x + skip, self.rewrite) if self.spectral else self.rewrite(x + skip)
        y: Tensor = F.glu(self.norm1(wide), dim=1)
        return y if self.dconv is None else self.dconv(y)

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
