"""Attention along frames and along bands in turn, with rotary positions, as both RoFormers have it.

Tokens are (B, N, K, D): frames N, bands K, features D. Each layer lets every band look along time, then every frame
across bands. Positions turn queries and keys instead of being added (RoPE, arXiv 2104.09864), and a gate per head
scales what attention gives. BS-RoFormer, arXiv 2309.02612, section 3.2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cpu_kernels.attention import dropout_attention
from ..cpu_kernels.dispatch import uses_cpu_kernels
from ..cpu_kernels.linear import fused_linear

NORM_EPS = 1e-24  # under the root: what is silent stays so, and all else is brought to one level
SLOWEST = 10000.0  # the longest wavelength of a position, as a share of 2 pi


class AxialTransformer(nn.Module):
    """A stack of layers, (B, N, K, D) to the same; each has a block along frames and one along bands.

    With `norm_blocks` each block ends in a norm; with `sum_layers` each layer reads its input plus what all layers
    before it gave.
    """

    def __init__(
        self, width: int, *, depth: int, num_heads: int, head_width: int, dropout: float, attention_dropout: float,
        norm_blocks: bool, sum_layers: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.head_width, self.sum_layers = head_width, sum_layers
        options = {
            "num_heads": num_heads, "head_width": head_width, "dropout": dropout,
            "attention_dropout": attention_dropout, "norm_out": norm_blocks,
        }  # fmt: skip
        self.layers = nn.ModuleList(AxialLayer(width, options) for _ in range(depth))

    def forward(self, x_BNKD: Tensor) -> Tensor:
        turns = tuple(rotations(x_BNKD.shape[dim], self.head_width, device=x_BNKD.device) for dim in (1, 2))
        earlier: list[Tensor] = []
        for layer in self.layers:
            x_BNKD = layer(sum(earlier, start=x_BNKD), *turns)
            if self.sum_layers:
                earlier.append(x_BNKD)
        return x_BNKD


class AxialLayer(nn.Module):
    """A block along frames, then one along bands."""

    def __init__(self, width: int, options: dict[str, float | int | bool]) -> None:
        super().__init__()
        self.time, self.freq = RotaryBlock(width, **options), RotaryBlock(width, **options)  # type: ignore[arg-type]

    def forward(self, x_BNKD: Tensor, turn_frames: Tensor, turn_bands: Tensor) -> Tensor:
        batch, num_frames, num_bands, _ = x_BNKD.shape
        lines = self.time(x_BNKD.transpose(1, 2).flatten(0, 1), turn_frames)
        columns = lines.view(batch, num_bands, num_frames, -1).transpose(1, 2).flatten(0, 1)
        out: Tensor = self.freq(columns, turn_bands).view(batch, num_frames, num_bands, -1)
        return out


class RotaryBlock(nn.Module):
    """Pre-norm attention and feed-forward, each added: (B, L, D)."""

    def __init__(
        self, width: int, *, num_heads: int, head_width: int, dropout: float, attention_dropout: float, norm_out: bool
    ) -> None:
        super().__init__()
        self.attention = RotaryAttention(width, num_heads, head_width, attention_dropout)
        self.feed_forward = FeedForward(width, dropout)
        self.norm_out = nn.RMSNorm(width, eps=NORM_EPS) if norm_out else nn.Identity()

    def forward(self, x_BLD: Tensor, turns: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attention(x_BLD, turns)
        out: Tensor = self.norm_out(x_BLD + self.feed_forward(x_BLD))
        return out


class RotaryAttention(nn.Module):
    """Attention of turned queries to turned keys; each head is scaled by a gate that its token sets."""

    def __init__(self, width: int, num_heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.to_qkv = nn.Linear(width, 3 * num_heads * head_width, bias=False)
        self.to_gates = nn.Linear(width, num_heads)
        self.to_out = nn.Linear(num_heads * head_width, width, bias=False)
        self.dropout_out = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, turns: Tensor) -> Tensor:
        x_BLD = self.norm(x_BLD)
        q, k, v = (
            fused_linear(x_BLD, self.to_qkv.weight, None)
            .view(*x_BLD.shape[:2], 3, self.num_heads, -1)
            .permute(2, 0, 3, 1, 4)
        )
        q, k = rotate(q, turns), rotate(k, turns)
        dropout = self.dropout if self.training else 0.0
        if dropout and uses_cpu_kernels(q):  # torch's CPU kernel knows none
            heads = dropout_attention(q, k, v, dropout)
        else:
            heads = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        gated = heads.transpose(1, 2) * self.to_gates(x_BLD).sigmoid()[..., None]
        out: Tensor = self.dropout_out(fused_linear(gated.flatten(-2), self.to_out.weight, None))
        return out


class FeedForward(nn.Module):
    """Four times as many features between two linear maps."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        hidden = fused_linear(self.norm(x_BLD), self.expand.weight, self.expand.bias, gelu=True)
        out: Tensor = self.dropout(fused_linear(self.dropout(hidden), self.contract.weight, self.contract.bias))
        return out


def rotations(num_positions: int, width: int, *, device: torch.device) -> Tensor:
    """Cosines and sines (2, L, D / 2) of each position's turn of each pair of features, wavelengths from 2 pi on."""
    rates = SLOWEST ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(num_positions, device=device)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x_BHLD: Tensor, turns: Tensor) -> Tensor:
    """Each pair of neighbouring features as a point of a plane, turned."""
    cos, sin = turns.to(x_BHLD.dtype)
    left, right = x_BHLD.reshape(*x_BHLD.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([left * cos - right * sin, left * sin + right * cos], dim=-1).flatten(-2)
