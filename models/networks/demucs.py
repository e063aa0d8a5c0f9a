"""Demucs on waveforms alone: v2, and v3's "time" model.

    mixture --> up to twice the rate --> encoder x6 --> (v2: BiLSTM) --> decoder x6 --> back down --> estimates

v2: Alexandre Defossez, Nicolas Usunier, Leon Bottou, Francis Bach, arXiv 1911.13254, as released in April 2021.
v3 puts GELU for ReLU, norms into the inner layers and residual branches for the big LSTM: arXiv 2111.03600.
The layers are plain sequences, because the published state-dict keys are positions in one. Next: `blocks/layers.py`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError, check_audio, check_mixture, check_size, source_names
from ..field_constraints import PositiveFloat, PositiveInt, Range, check_ranges
from .blocks.layers import group_norm, rescale_convolutions
from .blocks.recurrent import BiLSTM
from .blocks.residual import DConv
from .cpu_kernels.convolution import Layers, filter_bank
from .cpu_kernels.dispatch import prefers_products
from .input_normalization import Normalization
from .stft import at_least_float32

KERNEL, STRIDE = 8, 4
CONTEXT = 3  # steps seen by a decoder layer's convolution; v2 does not pad it, so each layer loses two
INNER_LAYER = 4  # from this layer on, v3 has norms, LSTMs and attention
NORM_GROUPS = 4
# Where channels cancel each other, the mono mix that version 3 divides by is nothing; this share of all channels then
# counts, as nothing else is as quiet. The reference blows such input up a hundred thousand times.
ANTIPHASE_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class DemucsConfig:
    """Version 2 with 64 channels by default, the model of the April 2021 release."""

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")  # order of the estimates
    sample_rate: PositiveInt = 44100  # Hz
    audio_channels: PositiveInt = 2  # 1 for mono, 2 for stereo
    segment_s: PositiveFloat = 10.0  # seconds to separate at once; any other length works too
    version: Literal[2, 3] = 2  # 2 has an LSTM at the bottom, 3 residual branches
    channels: PositiveInt = 64  # features of the outermost layers
    growth: PositiveInt = 2  # factor of features from layer to layer
    depth: PositiveInt = 6  # encoder layers
    oversample: bool = True  # work at twice the sample rate
    # layers of the LSTM at the bottom; by default 2 in version 2, none in version 3
    lstm_layers: Annotated[int, Range(ge=0, le=64)] | None = None
    rewrite: bool = True  # version 3: convolutions into gates in every layer, which models of a challenge did without
    norm_starts: Annotated[int, Range(ge=0, le=1000)] = INNER_LAYER  # version 3: the first layer with norms
    normalize: Normalization = "track"  # the level of the input, in training and in use: see `input_normalization.py`

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", source_names(self.sources))
        check_ranges(self, ModelError)
        check_size(self)
        check_audio(self.sources, self.sample_rate, self.segment_s)
        if self.version == 2 and (not self.rewrite or self.norm_starts != INNER_LAYER):
            raise ModelError("rewrite and norm_starts are options of version 3, and this is version 2")
        if self.version == 3 and self.channels % 4:
            raise ModelError(
                f"channels {self.channels}: version 3 wants a multiple of 4, since branches take a quarter"
            )

    @property
    def segment_samples(self) -> int:
        return round(self.segment_s * self.sample_rate)

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Features after each encoder layer, outermost first."""
        return tuple(self.channels * self.growth**i for i in range(self.depth))

    @property
    def least_size(self) -> tuple[int, int]:
        """A number of layers and of weights that a network of this configuration has at the least."""
        audio = self.audio_channels * len(self.sources)
        return self.depth, max(self.channels * audio, self.layer_channels[-1] ** 2)


class Demucs(nn.Module):
    """Mixture (B, C, T) to estimates (B, S, C, T).

    Zeros are added on both sides until the strides fit, and cut again. Version 2 can be given real audio in their
    place: `with_context` takes an input of exactly `valid_length(n)` samples as it is, and yields its n or somewhat
    more centre samples.
    """

    def __init__(self, config: DemucsConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DemucsConfig()
        widths = (config.audio_channels, *config.layer_channels)
        outs = (config.audio_channels * len(config.sources), *config.layer_channels)
        if config.version == 2:
            pairs = [_layers_v2(widths[i], widths[i + 1], outs[i], i) for i in range(config.depth)]
        else:
            pairs = [_layers_v3(widths[i], widths[i + 1], outs[i], i, config) for i in range(config.depth)]
        self.encoder = nn.ModuleList(encode for encode, _ in pairs)
        self.decoder = nn.ModuleList(decode for _, decode in reversed(pairs))
        num_layers = config.lstm_layers if config.lstm_layers is not None else 2 if config.version == 2 else 0
        self.lstm = BiLSTM(widths[-1], num_layers=num_layers) if num_layers else None
        rescale_convolutions(self)

    def valid_length(self, num_samples: int) -> int:
        """Samples to feed so that every stride fits and at least `num_samples` come out."""
        length = num_samples * self._rate
        lost = CONTEXT - 1 if self.config.version == 2 else 0
        for _ in range(self.config.depth):
            length = max(1, math.ceil((length - KERNEL) / STRIDE) + 1) + lost
        for _ in range(self.config.depth):
            length = (length - 1) * STRIDE + KERNEL
        return math.ceil(length / self._rate)

    @property
    def takes_context(self) -> bool:
        """Whether real audio around what is asked for makes a difference."""
        return self.config.version == 2

    def forward(self, mixture_BCT: Tensor, *, with_context: bool = False) -> Tensor:
        check_mixture(mixture_BCT, self.config.audio_channels)
        num_samples = mixture_BCT.shape[-1]
        x = at_least_float32(mixture_BCT)
        if self.config.version == 2:
            if with_context:
                if not self._fits(num_samples):
                    raise ModelError(f"a mixture with context must have some valid_length, got {num_samples} samples")
                return self._estimate(x)
            missing = self.valid_length(num_samples) - num_samples
            return _centre(self._estimate(F.pad(x, (missing // 2, missing - missing // 2))), num_samples)
        mono = x.mean(dim=1, keepdim=True)
        correction = 1 if num_samples > 1 else 0
        std, mean = torch.std_mean(mono, dim=-1, correction=correction, keepdim=True)
        wide = (x - mean).square().mean(dim=(1, 2), keepdim=True).sqrt()
        std = torch.maximum(std, ANTIPHASE_SHARE * wide)
        missing = self.valid_length(num_samples) - num_samples
        x = F.pad((x - mean) / (1e-5 + std), (missing // 2, missing - missing // 2))
        return torch.addcmul(mean[:, None], _centre(self._estimate(x), num_samples), std[:, None])

    @property
    def _rate(self) -> int:
        return 2 if self.config.oversample else 1

    def _fits(self, num_samples: int) -> bool:
        """Whether some `valid_length` is this long."""
        shortest, step = self.valid_length(1), STRIDE**self.config.depth // self._rate
        return num_samples >= shortest and (num_samples - shortest) % step == 0

    def _estimate(self, x: Tensor) -> Tensor:
        """(B, C, T) whose strides fit to (B, S, C, T'), T' = T in version 3 and less in version 2."""
        if self.config.oversample:
            x = double_rate(x)
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        if self.lstm is not None:
            x = self.lstm(x)
        for decode in self.decoder:
            x = decode(x + _centre(skips.pop(), x.shape[-1]))
        x = at_least_float32(x)
        if self.config.oversample:
            x = halve_rate(x)
        return x.view(x.shape[0], len(self.config.sources), self.config.audio_channels, -1)


def _layers_v2(in_channels: int, channels: int, out_channels: int, index: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder layer of version 2."""
    encode = Layers(
        nn.Conv1d(in_channels, channels, KERNEL, STRIDE),
        nn.ReLU(),
        nn.Conv1d(channels, 2 * channels, 1),
        nn.GLU(dim=1),
    )
    decode = Layers(
        nn.Conv1d(channels, 2 * channels, CONTEXT),
        nn.GLU(dim=1),
        nn.ConvTranspose1d(channels, out_channels, KERNEL, STRIDE),
    )
    if index:
        decode.append(nn.ReLU())
    return encode, decode


def _layers_v3(
    in_channels: int, channels: int, out_channels: int, index: int, config: DemucsConfig
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder layer of version 3."""
    groups = NORM_GROUPS if index >= config.norm_starts else 0
    encode = Layers(
        nn.Conv1d(in_channels, channels, KERNEL, STRIDE),
        group_norm(groups, channels),
        nn.GELU(),
        DConv(channels, compress=4, init=1e-4, recurrent=index >= INNER_LAYER),
    )
    decode = Layers()
    if config.rewrite:
        encode.extend([nn.Conv1d(channels, 2 * channels, 1), group_norm(groups, 2 * channels), nn.GLU(dim=1)])
        wide = nn.Conv1d(channels, 2 * channels, CONTEXT, padding=CONTEXT // 2)
        decode.extend([wide, group_norm(groups, 2 * channels), nn.GLU(dim=1)])
    decode.append(nn.ConvTranspose1d(channels, out_channels, KERNEL, STRIDE))
    if index:
        decode.extend([group_norm(groups, out_channels), nn.GELU()])
    return encode, decode


# The sinc filter of both directions: zero crossings per side, and the pass band as a share of the lower rate's.
ZERO_CROSSINGS, PASS_BAND = 24, 0.945


def double_rate(x: Tensor) -> Tensor:
    """(..., T) at twice the rate, (..., 2T), by a windowed sinc; the ends go on as they are."""
    reach = math.ceil(ZERO_CROSSINGS / PASS_BAND)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernels = torch.stack([_sinc(steps), _sinc(steps - 0.5)])  # for the samples there are, and those between
    return _filter(x, kernels, reach, stride=1).transpose(-1, -2).flatten(-2)[..., : 2 * x.shape[-1]]


def halve_rate(x: Tensor) -> Tensor:
    """(..., T) at half the rate, (..., T // 2), without what would alias; the ends go on as they are."""
    reach = math.ceil(2 * ZERO_CROSSINGS / PASS_BAND)
    steps = torch.arange(-reach, reach + 2, dtype=torch.float64) / 2
    return _filter(x, _sinc(steps)[None], reach, stride=2).flatten(-2)[..., : x.shape[-1] // 2]


def _sinc(steps: Tensor) -> Tensor:
    """A low-pass filter of unit sum at `steps` samples of the lower rate from its centre."""
    phase = (steps * PASS_BAND).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    kernel = torch.sinc(phase) * torch.cos(math.pi / 2 * phase / ZERO_CROSSINGS) ** 2
    return kernel / kernel.sum()


def _filter(x: Tensor, kernels: Tensor, reach: int, *, stride: int) -> Tensor:
    """(..., K, T') of K filters that reach as far to the left; in the precision of x, whatever surrounds it."""
    flat = F.pad(x.reshape(-1, 1, x.shape[-1]), (reach, reach + stride), mode="replicate")
    with torch.autocast(x.device.type, enabled=False):
        if prefers_products(flat):
            in_turn = filter_bank(flat[:, 0], kernels.to(x), stride=stride)
            return in_turn.view(*x.shape[:-1], -1, len(kernels)).transpose(-1, -2)
        y = F.conv1d(flat, kernels.to(x)[:, None], stride=stride)
    return y.view(*x.shape[:-1], *y.shape[-2:])


def _centre(x: Tensor, length: int) -> Tensor:
    """The middle `length` samples; of an odd surplus the larger half goes at the end."""
    return x.narrow(-1, (x.shape[-1] - length) // 2, length)
