"""The cross-domain transformer: two sequences, spectral and temporal, that take turns at looking at each other.

Tokens are (B, L, D). Even layers are self-attention in each domain, odd ones cross-attention; both domains read
the other's tokens from before the layer. HT Demucs, arXiv 2211.08553, section 3. What attention is exact or
sparse is the caller's choice: any module made by `AttentionFactory` fits.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cpu_kernels.attention import dropout_attention
from ..cpu_kernels.dispatch import uses_cpu_kernels
from ..cpu_kernels.dropout import sparse_dropout
from ..cpu_kernels.linear import fused_linear
from ..stft import at_least_float32
from .residual import LayerScale

# (width, num_heads, dropout) to a module that maps (query_BLD, memory_BMD) to (B, L, D)
AttentionFactory = Callable[[int, int, float], nn.Module]


class Attention(nn.Module):
    """Exact multi-head attention in one fused call; parameters are named and shaped as in `nn.MultiheadAttention`."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query_BLD: Tensor, memory_BMD: Tensor) -> Tensor:
        width = query_BLD.shape[-1]
        if query_BLD is memory_BMD:
            q, k, v = fused_linear(query_BLD, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            q = fused_linear(query_BLD, self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = fused_linear(memory_BMD, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, dim=-1)
        q, k, v = (x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        if dropout and uses_cpu_kernels(q):  # torch's CPU kernel knows none
            heads = dropout_attention(q, k, v, dropout)
        else:
            heads = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return fused_linear(heads.transpose(1, 2).flatten(-2), self.out_proj.weight, self.out_proj.bias)


class Dropout(nn.Dropout):
    """The same, drawn sparsely on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        return sparse_dropout(x, self.p) if self.training and uses_cpu_kernels(x) else super().forward(x)


class WholeNorm(nn.Module):
    """Normalizes each example over all its tokens and features at once, with a scale and a bias per feature."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BLD: Tensor) -> Tensor:
        # Not nn.GroupNorm: that wants (B, D, L), and the two transposes cost more than the norm. Not torch.var_mean:
        # on a CPU it takes fifteen times as long as these means, over more than one dimension.
        centred = at_least_float32(x_BLD)
        centred = centred - centred.mean((1, 2), keepdim=True)
        variance = centred.square().mean((1, 2), keepdim=True)
        return torch.addcmul(self.bias, centred, self.weight * torch.rsqrt(variance + self.eps))


def _feed_forward(layer: "SelfLayer | CrossLayer", x_BLD: Tensor) -> Tensor:
    hidden = fused_linear(x_BLD, layer.linear1.weight, layer.linear1.bias, gelu=True)
    return fused_linear(layer.dropout(hidden), layer.linear2.weight, layer.linear2.bias)


class SelfLayer(nn.Module):
    """Pre-norm self-attention and feed-forward, each behind a small learnt scale, and a norm over the whole example."""

    def __init__(self, width: int, *, hidden: int, dropout: float, attention: nn.Module) -> None:
        super().__init__()
        self.self_attn = attention
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_out = WholeNorm(width)
        self.gamma_1 = LayerScale(width, 1e-4, channels_last=True)
        self.gamma_2 = LayerScale(width, 1e-4, channels_last=True)
        self.dropout = Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        y = self.norm1(x_BLD)
        x_BLD = x_BLD + self.gamma_1(self.dropout(self.self_attn(y, y)))
        y = _feed_forward(self, self.norm2(x_BLD))
        out: Tensor = self.norm_out(x_BLD + self.gamma_2(self.dropout(y)))
        return out


class CrossLayer(nn.Module):
    """The same with the other domain's tokens as keys and values; `norm2` is theirs, `norm3` the feed-forward's."""

    def __init__(self, width: int, *, hidden: int, dropout: float, attention: nn.Module) -> None:
        super().__init__()
        self.cross_attn = attention
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_out = WholeNorm(width)
        self.gamma_1 = LayerScale(width, 1e-4, channels_last=True)
        self.gamma_2 = LayerScale(width, 1e-4, channels_last=True)
        self.dropout = Dropout(dropout)

    def forward(self, x_BLD: Tensor, other_BMD: Tensor) -> Tensor:
        y = self.cross_attn(self.norm1(x_BLD), self.norm2(other_BMD))
        x_BLD = x_BLD + self.gamma_1(self.dropout(y))
        y = _feed_forward(self, self.norm3(x_BLD))
        out: Tensor = self.norm_out(x_BLD + self.gamma_2(self.dropout(y)))
        return out


class CrossTransformer(nn.Module):
    """Self- and cross-attention layers in turn over tokens of both domains, positions added first."""

    def __init__(
        self,
        width: int,
        *,
        num_layers: int,
        num_heads: int,
        hidden_scale: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        attention: AttentionFactory = Attention,
    ) -> None:
        super().__init__()
        self.width = width
        self.norm_in, self.norm_in_t = nn.LayerNorm(width), nn.LayerNorm(width)
        hidden = int(width * hidden_scale)

        def layers() -> nn.ModuleList:
            kinds = [CrossLayer if i % 2 else SelfLayer for i in range(num_layers)]
            return nn.ModuleList(
                kind(width, hidden=hidden, dropout=dropout, attention=attention(width, num_heads, attention_dropout))
                for kind in kinds
            )

        self.layers, self.layers_t = layers(), layers()

    def forward(self, x_BLD: Tensor, xt_BMD: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        """Spectral tokens come frame by frame, `num_rows` frequencies each; temporal ones in time."""
        x = self.norm_in(x_BLD)
        xt = self.norm_in_t(xt_BMD)
        x = x + grid_positions(x.shape[1] // num_rows, num_rows, self.width, device=x.device)
        xt = xt + line_positions(xt.shape[1], self.width, device=xt.device)
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            x, xt = (layer(x), layer_t(xt)) if isinstance(layer, SelfLayer) else (layer(x, xt), layer_t(xt, x))
        return x, xt


def line_positions(num_tokens: int, width: int, *, device: torch.device) -> Tensor:
    """Sinusoids (L, D) of a position in a line: D/2 cosines, then D/2 sines, wavelengths 2 pi to 20000 pi."""
    half = width // 2
    exponent = torch.arange(half, device=device) / (half - 1)
    phase = torch.arange(num_tokens, device=device)[:, None] / 10000**exponent
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def grid_positions(num_frames: int, num_rows: int, width: int, *, device: torch.device) -> Tensor:
    """Sinusoids (N * F, D) of a position in a spectrogram: half the features tell the frame, the rest the row."""
    half = width // 2
    frames = _interleaved(num_frames, half, device)[:, None].expand(num_frames, num_rows, half)
    rows = _interleaved(num_rows, half, device)[None].expand(num_frames, num_rows, half)
    return torch.cat([frames, rows], dim=-1).flatten(0, 1)


def _interleaved(num_positions: int, width: int, device: torch.device) -> Tensor:
    """Sine and cosine in turn, (P, D), falling in rate from 1 to nearly 1/10000."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    phase = torch.arange(num_positions, device=device)[:, None] * rate
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)
