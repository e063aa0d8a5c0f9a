"""Residual branches of dilated convolutions, with a way to compute them that keeps no wide tensor on a CPU."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cpu_kernels.dispatch import cheaper_to_keep, uses_cpu_kernels
from ..cpu_kernels.glu import pointwise_glu
from ..stft import at_least_float32
from .recurrent import LocalAttention, ResidualBiLSTM


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
    if uses_cpu_kernels(x) and cheaper_to_keep(2 * x.numel()):
        wide: Tensor = wide_norm(F.conv1d(inner, expand.weight, expand.bias))
        kept: Tensor = scale(F.glu(wide, dim=1))
        return x + kept.view(batch, rows, -1, columns).transpose(1, 2)
    return _expand_folded(inner.view(batch, rows, -1, columns), expand, wide_norm, scale.scale, x)


def _expand_folded(inner_BFKN: Tensor, expand: Any, norm: Any, scale_D: Tensor, x: Tensor) -> Tensor:
    """The end of a residual branch, from its squeezed features on, and x (B, D, F, N) added.

    Only the squeezed features are computed in full. The statistics of the norm follow from their means and
    covariances, so norm and layer scale become part of the expanding convolution's weight, one for each row, and
    everything wide happens inside `pointwise_glu`.
    """
    centred, weight, bias = _fold_norm(inner_BFKN.flatten(0, 1), expand, norm)
    factor = torch.cat([scale_D, torch.ones_like(scale_D)])  # a gate's first half carries the value
    weight, bias = weight * factor[:, None], bias * factor
    rows = inner_BFKN.shape[:2]
    centred_BFKN = centred.to(inner_BFKN.dtype).view(inner_BFKN.shape)
    return pointwise_glu(centred_BFKN, weight.view(*rows, *weight.shape[1:]), bias.view(*rows, -1), x)


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
