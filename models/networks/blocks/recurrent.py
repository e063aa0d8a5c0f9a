"""What sees far along time inside a residual branch: a BiLSTM, and attention that fades with distance."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BiLSTM(nn.Module):
    """Bidirectional LSTM layers and a linear map back to D features, (B, D, T) to (B, D, T).

    With a `window`, longer sequences are read in windows that overlap by half, each on its own, and the middle of
    each is kept: a sequence of any length costs a fixed number of steps in a row.
    """

    def __init__(self, channels: int, *, num_layers: int = 2, expand: int = 1, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.lstm = nn.LSTM(channels, expand * channels, num_layers, bidirectional=True)
        self.linear = nn.Linear(2 * expand * channels, channels)

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
