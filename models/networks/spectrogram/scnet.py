"""SCNet: a U-Net over frequency that keeps low bands whole and compresses high ones, LSTMs over both axes inside.

    mixture --> STFT --> encoder x3 --> dual-path layers x6 --> decoder x3 --> inverse STFT --> estimates
                            +------------- skips ------------------+

Each encoder block splits the frequency axis into a low, a middle and a high band, strides over them by 1, 4 and 16,
and gives the low one the most convolutions: there is most of the music. Between dual-path layers the frames are
Fourier-transformed in turn, so that every second layer reads modulations instead of time. Weinan Tong, Jiaxu Zhu, Jun
Chen, Shiyin Kang, Tao Jiang, Yang Li, Zhiyong Wu, Helen Meng, arXiv 2401.13276. Read next: `centred_stft.py`.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ModelError, check_audio, check_mixture, source_names
from ...field_constraints import Range, check_ranges
from ..blocks.recurrent import BiLSTM
from ..input_normalization import Normalization
from ..stft import at_least_float32
from .centred_stft import CentredSTFT, check_hop, check_length

NUM_BANDS = 3  # low, middle and high


@dataclass(frozen=True, slots=True, kw_only=True)
class SCNetConfig:
    """The paper's model by default; the large one is a preset in `catalog.py`."""

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")  # order of the estimates
    sample_rate: Annotated[int, Range(ge=1, le=1_000_000)] = 44100  # Hz
    audio_channels: Annotated[int, Range(ge=1, le=256)] = 2  # 1 for mono, 2 for stereo
    segment_s: Annotated[float, Range(gt=0, le=3600)] = 11.0  # seconds to separate at once; longer works too
    block_channels: tuple[Annotated[int, Range(ge=1, le=2**16)], ...] = (32, 64, 128)  # features after each block
    nfft: Annotated[int, Range(ge=4, le=2**16)] = 4096  # samples per transform; there is no window
    hop_length: Annotated[int, Range(ge=1, le=2**16)] = 1024  # samples from frame to frame
    # Shares of the frequencies in the low and the middle band; the high one takes the rest.
    band_shares: tuple[Annotated[float, Range(gt=0, lt=1)], ...] = (0.175, 0.392)
    band_strides: tuple[Annotated[int, Range(ge=1, le=64)], ...] = (1, 4, 16)  # compression of each band per block
    # Rows that each output row sees: an odd number where the stride is 1, else as many as the stride
    band_kernels: tuple[Annotated[int, Range(ge=1, le=64)], ...] = (3, 4, 16)
    conv_depths: tuple[Annotated[int, Range(ge=0, le=64)], ...] = (3, 2, 1)  # convolution modules of each band
    conv_compress: Annotated[int, Range(ge=1, le=2**16)] = 4  # features are squeezed by this inside such a module
    conv_kernel: Annotated[int, Range(ge=1, le=255)] = 3  # frames that such a module sees, an odd number
    dual_path_layers: Annotated[int, Range(ge=0, le=256)] = 6  # an even number: each second one transforms back
    rnn_expand: Annotated[int, Range(ge=1, le=64)] = 1  # hidden units of the LSTMs / features
    normalize: Normalization = "track"  # the level of the input, in training and in use: see `input_normalization.py`

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", source_names(self.sources))
        check_ranges(self, ModelError)
        check_audio(self.sources, self.sample_rate, self.segment_s)
        check_hop(self.hop_length, self.nfft)
        check_length(self.segment_samples, self.nfft)
        self._check_bands()
        if not 1 <= len(self.block_channels) <= 16 or min(self.block_channels) < self.conv_compress:
            raise ModelError(
                f"block_channels {list(self.block_channels)}: want 1 to 16 numbers of at least "
                f"conv_compress {self.conv_compress}, which squeezes fewer to nothing"
            )
        if self.conv_kernel % 2 == 0:
            raise ModelError(f"conv_kernel must be odd, got {self.conv_kernel}")
        if self.dual_path_layers % 2:
            raise ModelError(f"dual_path_layers must be even, got {self.dual_path_layers}")

    def _check_bands(self) -> None:
        for name in ("band_strides", "band_kernels", "conv_depths"):
            if len(value := getattr(self, name)) != NUM_BANDS:
                raise ModelError(f"{name} {list(value)}: want {NUM_BANDS} numbers, for the low, middle and high band")
        if len(self.band_shares) != NUM_BANDS - 1 or sum(self.band_shares) >= 1:
            raise ModelError(
                f"band_shares {list(self.band_shares)}: want two numbers, for the low and middle band, below 1 together"
            )
        for stride, kernel in zip(self.band_strides, self.band_kernels, strict=True):
            if kernel % 2 == 0 if stride == 1 else kernel != stride:
                raise ModelError(
                    f"band_kernels {list(self.band_kernels)} do not suit band_strides {list(self.band_strides)}: "
                    "a kernel must be odd where the stride is 1, and else equal to it"
                )
        if min(min(band_rows(rows, self.band_shares)) for rows in self.block_rows) < 1:
            raise ModelError(f"nfft {self.nfft} leaves a band without rows in block {len(self.block_channels)}")

    @property
    def segment_samples(self) -> int:
        return round(self.segment_s * self.sample_rate)

    @property
    def block_rows(self) -> tuple[int, ...]:
        """Frequency rows that reach each encoder block, outermost first."""
        rows = [self.nfft // 2 + 1]
        for _ in self.block_channels[1:]:
            split = band_rows(rows[-1], self.band_shares)
            rows.append(sum(-(-part // stride) for part, stride in zip(split, self.band_strides, strict=True)))
        return tuple(rows)

    @property
    def least_size(self) -> tuple[int, int]:
        """A number of layers and of weights that a network of this configuration has at the least."""
        widest, inner = max(self.block_channels), self.rnn_expand * self.block_channels[-1]
        return max(self.dual_path_layers, *self.conv_depths), max(36 * widest**2, 16 * self.dual_path_layers * inner**2)


class SCNet(nn.Module):
    """Mixture (B, C, T) to estimates (B, S, C, T); T any length above half a transform."""

    def __init__(self, config: SCNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SCNetConfig()
        self.stft = CentredSTFT(nfft=config.nfft, hop=config.hop_length, window="none")
        audio = 2 * config.audio_channels
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i, (above, below) in enumerate(pairwise((audio, *config.block_channels))):
            self.encoder.append(DownBlock(above, below, config))
            self.decoder.insert(0, UpBlock(below, above if i else audio * len(config.sources), config))
        inner = config.block_channels[-1]
        self.dual_path = nn.ModuleList(
            DualPathLayer(inner * (2 if i % 2 else 1), expand=config.rnn_expand) for i in range(config.dual_path_layers)
        )

    def valid_length(self, num_samples: int) -> int:
        """Samples to feed in evaluation for a chunk of `num_samples`: a whole segment, with what stands around it."""
        return max(num_samples, self.config.segment_samples)

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        check_mixture(mixture_BCT, self.config.audio_channels)
        check_length(num_samples := mixture_BCT.shape[-1], self.config.nfft)
        # Zeros up to an even number of frames, which the transforms of frames turn into modulations and back.
        num_hops = num_samples // self.config.hop_length + 1
        padded = (num_hops + 1 - num_hops % 2) * self.config.hop_length
        spectrum = self.stft.to_spectrum(F.pad(mixture_BCT, (0, padded - num_samples)))
        batch, _, num_rows, num_frames, _ = spectrum.shape
        x = spectrum.movedim(-1, 2).flatten(1, 2)  # real and imaginary part of each channel: (B, 2C, F, N)
        skips = []
        for encode in self.encoder:
            x, skip, rows = encode(x)
            skips.append((skip, rows))
        for i, layer in enumerate(self.dual_path):
            x = _from_modulations(layer(x)) if i % 2 else _to_modulations(layer(x))
        for decode in self.decoder:
            x = decode(x, *skips.pop())
        x = x.view(batch, len(self.config.sources), self.config.audio_channels, 2, num_rows, num_frames)
        return self.stft.to_samples(x.movedim(3, -1), num_samples)


class DownBlock(nn.Module):
    """An encoder block: (B, D, F, N) to what goes on, (B, E, G, N), a skip of that shape, and each band's rows."""

    def __init__(self, channels_in: int, channels_out: int, config: SCNetConfig) -> None:
        super().__init__()
        self.shares, self.strides, self.kernels = config.band_shares, config.band_strides, config.band_kernels
        self.convs, self.band_modules = nn.ModuleList(), nn.ModuleList()
        for stride, kernel, depth in zip(self.strides, self.kernels, config.conv_depths, strict=True):
            self.convs.append(nn.Conv2d(channels_in, channels_out, (kernel, 1), (stride, 1)))
            self.band_modules.append(
                nn.Sequential(
                    *(ConvModule(channels_out, config.conv_compress, config.conv_kernel) for _ in range(depth))
                )
            )
        self.mix_bands = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        rows = band_rows(x.shape[2], self.shares)
        parts = []
        for part, conv, modules, stride, kernel in zip(
            torch.split(x, list(rows), dim=2), self.convs, self.band_modules, self.strides, self.kernels, strict=True
        ):
            missing = kernel - 1 if stride == 1 else -part.shape[2] % stride
            y = conv(F.pad(part, (0, 0, missing // 2, missing - missing // 2)))
            parts.append(F.gelu(modules(y)))
        skip = torch.cat(parts, dim=2)
        return self.mix_bands(skip), skip, rows


class ConvModule(nn.Module):
    """A gated depthwise convolution over time, of each row on its own, added to its input: (B, D, F, N)."""

    def __init__(self, channels: int, compress: int, kernel: int) -> None:
        super().__init__()
        hidden = channels // compress
        self.norm_in, self.norm = nn.GroupNorm(1, channels), nn.GroupNorm(1, hidden)
        self.squeeze = nn.Conv1d(channels, 2 * hidden, kernel, padding=kernel // 2)
        self.depthwise = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.expand = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(0, 1)  # (B * F, D, N)
        y = F.glu(self.squeeze(self.norm_in(rows)), dim=1)
        y = self.expand(F.silu(self.norm(self.depthwise(y))))
        added: Tensor = x + y.view(x.shape[0], x.shape[2], x.shape[1], -1).transpose(1, 2)
        return added


class UpBlock(nn.Module):
    """A decoder block: (B, D, G, N) and the skip to (B, E, F, N), of as many rows in each band as went in above."""

    def __init__(self, channels_in: int, channels_out: int, config: SCNetConfig) -> None:
        super().__init__()
        self.strides = config.band_strides
        self.fuse = nn.Conv2d(2 * channels_in, 2 * channels_in, 3, padding=1)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(channels_in, channels_out, (kernel, 1), (stride, 1))
            for kernel, stride in zip(config.band_kernels, self.strides, strict=True)
        )

    def forward(self, x: Tensor, skip: Tensor, rows: tuple[int, ...]) -> Tensor:
        # The paper feeds the sum twice, as 2 D features; both halves of the weights added take it once.
        first, second = self.fuse.weight.chunk(2, dim=1)
        x = F.glu(F.conv2d(x + skip, first + second, self.fuse.bias, padding=1), dim=1)
        narrow = [-(-wanted // stride) for wanted, stride in zip(rows, self.strides, strict=True)]
        parts = []
        for part, conv, wanted in zip(torch.split(x, narrow, dim=2), self.convs, rows, strict=True):
            y = conv(part)
            surplus = (y.shape[2] - wanted) // 2
            parts.append(y[:, :, surplus : surplus + wanted])
        return torch.cat(parts, dim=2)


class DualPathLayer(nn.Module):
    """An LSTM along the rows of every frame, then one along the frames of every row, each added: (B, D, F, N)."""

    def __init__(self, channels: int, *, expand: int) -> None:
        super().__init__()
        self.norm_rows, self.norm_frames = nn.GroupNorm(1, channels), nn.GroupNorm(1, channels)
        self.along_rows = BiLSTM(channels, num_layers=1, expand=expand)
        self.along_frames = BiLSTM(channels, num_layers=1, expand=expand)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, num_rows, num_frames = x.shape
        columns = self.norm_rows(x).permute(0, 3, 1, 2).flatten(0, 1)  # (B * N, D, F)
        x = x + self.along_rows(columns).reshape(batch, num_frames, channels, num_rows).permute(0, 2, 3, 1)
        lines = self.norm_frames(x).permute(0, 2, 1, 3).flatten(0, 1)  # (B * F, D, N)
        out: Tensor = x + self.along_frames(lines).reshape(batch, num_rows, channels, num_frames).transpose(1, 2)
        return out


def band_rows(num_rows: int, shares: tuple[float, ...]) -> tuple[int, int, int]:
    """Rows of the low, middle and high band."""
    low, upper = math.ceil(num_rows * shares[0]), math.ceil(num_rows * (shares[0] + shares[1]))
    return low, upper - low, num_rows - upper


def _to_modulations(x: Tensor) -> Tensor:
    """(B, D, F, N) to its transform along the frames, real parts before imaginary ones: (B, 2D, F, N / 2 + 1)."""
    parts = torch.view_as_real(torch.fft.rfft(at_least_float32(x), norm="ortho"))
    return torch.cat(parts.unbind(-1), dim=1)


def _from_modulations(x: Tensor) -> Tensor:
    parts = torch.stack(at_least_float32(x).chunk(2, dim=1), dim=-1)
    frames: Tensor = torch.fft.irfft(torch.view_as_complex(parts), norm="ortho")
    return frames
