"""Hybrid Demucs (v3): a spectral and a temporal U-Net that share their innermost layers.

    mixture --+-- STFT --> encoder x5 --+                              +--> decoder x5 --> inverse STFT --+
              |                         +--> shared encoder, decoder --+                                  +--> estimates
              +---------> tencoder x5 --+                              +--> tdecoder x5 ------------------+

Where the spectral branch has a single row left, it and the temporal one have the same shape: they are added, go
through one more layer, and part again. The models of a challenge, in the bags mdx and mdx_extra, are variants: see
`HDemucsConfig`. Alexandre Defossez, arXiv 2111.03600. Attribute names are the published
state-dict keys. Read next: `blocks/layers.py`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError, check_audio, check_mixture, check_size, source_names
from ..field_constraints import NonNegativeInt, PositiveFloat, PositiveInt, Range, check_ranges
from .blocks.banded import BandedDecoder, BandedEncoder, band_windows
from .blocks.layers import DecoderLayer, EncoderLayer, FrequencyEmbedding, group_norm, rescale_convolutions
from .blocks.residual import DConv
from .cpu_kernels.convolution import transposed_convolution
from .input_normalization import Normalization
from .stft import magnitudes_of, standardize, to_channels, to_samples, to_spectrum, with_phase_of

KERNEL, STRIDE = 8, 4  # over frequency in the spectral branch, over time in the other
SHARED_KERNEL, SHARED_STRIDE = 4, 2  # over time, in the shared layer
NORM_GROUPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HDemucsConfig:
    """The published hybrid model by default, `hdemucs_mmi` and the hybrid half of `repro_mdx_a` alike."""

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")  # order of the estimates
    sample_rate: PositiveInt = 44100  # Hz
    audio_channels: PositiveInt = 2  # 1 for mono, 2 for stereo
    segment_s: PositiveFloat = 44.0  # seconds to separate at once; any other length works too
    channels: PositiveInt = 48  # features of the outermost layers
    growth: PositiveInt = 2  # factor of features from layer to layer
    # samples per STFT window, a power of 4; each factor of 4 beyond 4 is a layer more per branch
    nfft: PositiveInt = 4096
    shared_layers: Annotated[int, Range(ge=0, le=16)] = 1  # after the layer where the branches merge
    dconv_compress: PositiveInt = 4  # features are squeezed by this inside a residual branch
    dconv_depth: NonNegativeInt = 2  # residual branches per encoder layer
    # First layer with norms, by default that where the branches merge
    norm_starts: Annotated[int, Range(ge=0, le=1000)] | None = None
    # First layer with LSTMs and attention in its residual branches, by default that where the branches merge
    recurrent_starts: Annotated[int, Range(ge=0, le=1000)] | None = None
    # What the spectral branch takes and gives: complex numbers, or magnitudes that get the phase of the mixture
    spectrum: Literal["complex", "magnitude"] = "complex"
    zero_padded: bool = False  # zeros around the spectrum's input, and its output 1.5 hops late, as the first models
    # Limits of bands with weights of their own in the outer layers, as shares of the frequencies, rising
    band_limits: tuple[Annotated[float, Range(gt=0, lt=1)], ...] = ()
    banded_layers: Annotated[int, Range(ge=0, le=16)] = 2  # how many of the outer layers these are
    normalize: Normalization = "track"  # the level of the input, in training and in use: see `input_normalization.py`

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", source_names(self.sources))
        check_ranges(self, ModelError)
        check_size(self)
        check_audio(self.sources, self.sample_rate, self.segment_s)
        if self.nfft < 64 or self.nfft != 4 ** (self.nfft.bit_length() // 2):
            raise ModelError(f"nfft {self.nfft}: take a power of 4 from 64 on, such as 1024 or 4096")
        if self.channels * self.growth ** min(self.first_recurrent, self.merge_layer) % (4 * self.dconv_compress):
            raise ModelError(
                f"channels {self.channels}: the inner layers' features must be a multiple of "
                f"{4 * self.dconv_compress}, four heads times dconv_compress"
            )
        if self.first_norm < self.merge_layer and self.channels % NORM_GROUPS:
            raise ModelError(f"channels {self.channels}: layers with norms want a multiple of {NORM_GROUPS}")
        if self.first_norm == 0 and self.audio_channels * len(self.sources) % NORM_GROUPS:
            raise ModelError(f"norm_starts 0 wants sources times audio_channels to be a multiple of {NORM_GROUPS}")
        self._check_bands()

    def _check_bands(self) -> None:
        if not self.band_limits:
            return
        if list(self.band_limits) != sorted(set(self.band_limits)):
            raise ModelError(f"band_limits {list(self.band_limits)} must rise")
        if self.banded_layers > min(self.first_norm, self.merge_layer):
            raise ModelError(
                f"banded_layers {self.banded_layers}: only layers without norms, before the branches merge, have bands "
                f"of their own, which are the first {min(self.first_norm, self.merge_layer)}"
            )
        for i in range(self.banded_layers):
            band_windows(self.nfft // 2 // STRIDE**i, self.band_limits)  # refuses what leaves a band without rows

    @property
    def segment_samples(self) -> int:
        return round(self.segment_s * self.sample_rate)

    @property
    def merge_layer(self) -> int:
        """The layer that brings what is left of nfft / 2 rows down to one, where the branches merge."""
        return self.nfft.bit_length() // 2 - 2

    @property
    def depth(self) -> int:
        """Encoder layers in all: those that bring nfft / 2 rows down to one, and the shared ones."""
        return self.merge_layer + 1 + self.shared_layers

    @property
    def first_norm(self) -> int:
        """The first layer with norms."""
        return self.merge_layer if self.norm_starts is None else self.norm_starts

    @property
    def first_recurrent(self) -> int:
        """The first layer with LSTMs and attention."""
        return self.merge_layer if self.recurrent_starts is None else self.recurrent_starts

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Features after each encoder layer, outermost first."""
        return tuple(self.channels * self.growth**i for i in range(self.depth))

    @property
    def least_size(self) -> tuple[int, int]:
        """A number of layers and of weights that a network of this configuration has at the least."""
        audio = self.audio_channels * len(self.sources)
        weights = max(self.channels * max(audio, self.nfft // 8), self.layer_channels[-1] ** 2)
        return max(self.depth, self.dconv_depth), weights


class HDemucs(nn.Module):
    """Mixture (B, C, T) to estimates (B, S, C, T), for any number of samples."""

    def __init__(self, config: HDemucsConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HDemucsConfig()
        self.encoder, self.decoder = _spectral_branch(config)
        self.tencoder, self.tdecoder = _temporal_branch(config)
        self.freq_emb = FrequencyEmbedding(config.nfft // 2 // STRIDE, config.channels)
        rescale_convolutions(self)

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        check_mixture(mixture_BCT, self.config.audio_channels)
        num_samples = mixture_BCT.shape[-1]
        spectrum = to_spectrum(mixture_BCT, self.config.nfft, reflect=not self.config.zero_padded)
        is_complex = self.config.spectrum == "complex"
        x, mean, std = standardize(to_channels(spectrum) if is_complex else magnitudes_of(spectrum))
        xt, mean_t, std_t = standardize(mixture_BCT)
        x, xt = self._estimate(x, xt)

        num_sources = len(self.config.sources)
        batch, _, num_rows, num_frames = x.shape
        x = x.view(batch, num_sources, -1, num_rows, num_frames)
        level = {"mean": mean[:, None], "std": std[:, None]}
        if not is_complex:
            x, level = with_phase_of(spectrum, x * level["std"] + level["mean"]), {}
        xt = torch.addcmul(mean_t, xt, std_t).view(batch, num_sources, -1, num_samples)
        return xt + to_samples(x, self.config.nfft, num_samples, late=self.config.zero_padded, **level)

    def _estimate(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized spectrogram (B, C, F, N) and waveform (B, C, T) to those of all sources, stacked in dim 1."""
        skips, skips_t, sizes, lengths_t = [], [], [], []
        for i, encode in enumerate(self.encoder):
            inject = None
            if i < len(self.tencoder):
                lengths_t.append(xt.shape[-1])
                xt = self.tencoder[i](xt)
                if i < self.config.merge_layer:
                    skips_t.append(xt)
                else:
                    inject = xt[:, :, None]
            elif i == len(self.tencoder):
                x = x[:, :, 0]
            sizes.append(x.shape[2])
            x = encode(x) if inject is None else encode(x, inject)
            if i == 0:
                x = self.freq_emb(x)
            skips.append(x)
        # The way up starts from nothing: all it knows comes through the skips.
        x = torch.zeros_like(x)
        for i, decode in zip(reversed(range(self.config.depth)), self.decoder, strict=True):
            if i == self.config.merge_layer:
                assert isinstance(decode, DecoderLayer)
                x = x if x.dim() == 4 else x[:, :, None]
                before = decode.merge(x, skips.pop())
                x = decode.expand(before, sizes.pop())
                xt = self.tdecoder[0](before[:, :, 0], lengths_t.pop())
                continue
            x = decode(x, skips.pop(), sizes.pop())
            if i < self.config.merge_layer:
                xt = self.tdecoder[self.config.merge_layer - i](xt, skips_t.pop(), lengths_t.pop())
        return x, xt


class BranchMerge(nn.Module):
    """The temporal branch's last encoder layer: a convolution to the shape of a spectrogram with one row."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, KERNEL, STRIDE, KERNEL // 4)

    def forward(self, xt: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(xt, (0, -xt.shape[-1] % STRIDE)))
        return y


class BranchSplit(nn.Module):
    """The temporal branch's first decoder layer, which starts from what the spectral one has merged."""

    def __init__(self, in_channels: int, out_channels: int, *, norm_groups: int) -> None:
        super().__init__()
        self.conv_tr = nn.ConvTranspose1d(in_channels, out_channels, KERNEL, STRIDE)
        self.norm2 = group_norm(norm_groups, out_channels)

    def forward(self, y: Tensor, length: int) -> Tensor:
        return F.gelu(self.norm2(transposed_convolution(y, self.conv_tr)).narrow(2, KERNEL // 4, length))


def _spectral_branch(config: HDemucsConfig) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Encoder and decoder layers in the order in which they run, the shared ones between them."""
    audio = config.audio_channels * (2 if config.spectrum == "complex" else 1)  # real and imaginary parts
    widths = (audio, *config.layer_channels)
    outs = (audio * len(config.sources), *config.layer_channels)
    encoder, decoder = nn.ModuleList(), nn.ModuleList()
    for i, inner in enumerate(config.layer_channels):
        shared = i > config.merge_layer
        kernel, stride = (SHARED_KERNEL, SHARED_STRIDE) if shared else (KERNEL, STRIDE)
        margin = 0 if i == config.merge_layer else kernel // 4  # the layer that takes the last rows takes them whole
        groups = NORM_GROUPS if i >= config.first_norm else 0
        options: dict[str, Any] = {"spectral": not shared, "kernel": kernel, "stride": stride, "norm_groups": groups}
        if config.band_limits and i < config.banded_layers:
            limits = config.band_limits
            encoder.append(BandedEncoder(limits, lambda: _encoder(config, i, widths[i], **options, padding=0)))  # noqa: B023
            decoder.insert(0, BandedDecoder(limits, inner, outs[i], last=i == 0))
            continue
        encoder.append(_encoder(config, i, widths[i], **options, padding=margin))
        decoder.insert(0, DecoderLayer(inner, outs[i], last=i == 0, crop=margin, **options))
    return encoder, decoder


def _encoder(config: HDemucsConfig, index: int, in_channels: int, **options: Any) -> EncoderLayer:
    channels = config.layer_channels[index]
    recurrent = index >= config.first_recurrent
    dconv = DConv(channels, compress=config.dconv_compress, depth=config.dconv_depth, recurrent=recurrent)
    return EncoderLayer(in_channels, channels, dconv=dconv, **options)


def _temporal_branch(config: HDemucsConfig) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The same for the waveform; it ends where the branches merge."""
    widths = (config.audio_channels, *config.layer_channels)
    outs = (config.audio_channels * len(config.sources), *config.layer_channels)
    encoder, decoder = nn.ModuleList(), nn.ModuleList()
    groups = [NORM_GROUPS if i >= config.first_norm else 0 for i in range(config.depth)]
    for i, inner in enumerate(config.layer_channels[: config.merge_layer]):
        encoder.append(_encoder(config, i, widths[i], spectral=False, norm_groups=groups[i]))
        decoder.insert(0, DecoderLayer(inner, outs[i], spectral=False, last=i == 0, norm_groups=groups[i]))
    joint = config.merge_layer
    encoder.append(BranchMerge(widths[joint], widths[joint + 1]))
    decoder.insert(0, BranchSplit(widths[joint + 1], widths[joint], norm_groups=groups[joint]))
    return encoder, decoder
