"""Hybrid Demucs (v3): a spectral and a temporal U-Net that share their innermost layers.

    mixture --+-- STFT --> encoder x5 --+                              +--> decoder x5 --> inverse STFT --+
              |                         +--> shared encoder, decoder --+                                  +--> estimates
              +---------> tencoder x5 --+                              +--> tdecoder x5 ------------------+

Where the spectral branch has a single row left, it and the temporal one have the same shape: they are added, go
through one more layer, and part again. Alexandre Defossez, arXiv 2111.03600. Attribute names are the published
state-dict keys. Read next: `blocks/layers.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError, check_audio, check_mixture, check_size, source_names
from ..field_constraints import NonNegativeInt, PositiveFloat, PositiveInt, check_ranges
from .blocks.layers import DecoderLayer, EncoderLayer, FrequencyEmbedding, group_norm, rescale_convolutions
from .blocks.residual import DConv
from .input_normalization import Normalization
from .stft import standardize, to_channels, to_samples, to_spectrum

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
    dconv_compress: PositiveInt = 4  # features are squeezed by this inside a residual branch
    dconv_depth: NonNegativeInt = 2  # residual branches per encoder layer
    normalize: Normalization = "track"  # the level of the input, in training and in use: see `input_normalization.py`

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", source_names(self.sources))
        check_ranges(self, ModelError)
        check_size(self)
        check_audio(self.sources, self.sample_rate, self.segment_s)
        if self.nfft < 64 or self.nfft != 4 ** (self.nfft.bit_length() // 2):
            raise ModelError(f"nfft {self.nfft}: take a power of 4 from 64 on, such as 1024 or 4096")
        if self.channels * self.growth ** (self.depth - 2) % (4 * self.dconv_compress):
            raise ModelError(
                f"channels {self.channels}: the inner layers' features must be a multiple of "
                f"{4 * self.dconv_compress}, four heads times dconv_compress"
            )

    @property
    def segment_samples(self) -> int:
        return round(self.segment_s * self.sample_rate)

    @property
    def depth(self) -> int:
        """Encoder layers in all: those that bring nfft / 2 rows down to one, and the shared one."""
        return self.nfft.bit_length() // 2

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
        x, mean, std = standardize(to_channels(to_spectrum(mixture_BCT, self.config.nfft)))
        xt, mean_t, std_t = standardize(mixture_BCT)
        x, xt = self._estimate(x, xt)

        num_sources = len(self.config.sources)
        batch, _, num_rows, num_frames = x.shape
        x = x.view(batch, num_sources, -1, num_rows, num_frames)
        xt = torch.addcmul(mean_t, xt, std_t).view(batch, num_sources, -1, num_samples)
        return xt + to_samples(x, self.config.nfft, num_samples, mean=mean[:, None], std=std[:, None])

    def _estimate(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized spectrogram (B, 2C, F, N) and waveform (B, C, T) to those of all sources, stacked in dim 1."""
        skips, skips_t, lengths_t = [], [], []
        for i, (encode, encode_t) in enumerate(zip(self.encoder[:-2], self.tencoder[:-1], strict=True)):
            lengths_t.append(xt.shape[-1])
            x, xt = encode(x), encode_t(xt)
            if i == 0:
                x = self.freq_emb(x)
            skips.append(x)
            skips_t.append(xt)
        lengths_t.append(xt.shape[-1])
        x, xt = self._share(x, self.tencoder[-1](xt), lengths_t.pop())
        for decode, decode_t in zip(self.decoder[2:], self.tdecoder[1:], strict=True):
            x = decode(x, skips.pop(), x.shape[2] * STRIDE)
            xt = decode_t(xt, skips_t.pop(), lengths_t.pop())
        return x, xt

    def _share(self, x: Tensor, xt: Tensor, length_t: int) -> tuple[Tensor, Tensor]:
        """Both branches through the last spectral layer, where they merge, and the shared one, and back."""
        num_rows = x.shape[2]
        merged = self.encoder[-2](x, xt[:, :, None])
        inner = self.encoder[-1](merged[:, :, 0])
        # The way up starts from nothing: all it knows comes through the skips.
        inner = self.decoder[0](torch.zeros_like(inner), inner, merged.shape[-1])
        decode = self.decoder[1]
        assert isinstance(decode, DecoderLayer)
        before = decode.merge(inner[:, :, None], merged)
        return decode.expand(before, num_rows), self.tdecoder[0](before[:, :, 0], length_t)


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

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_tr = nn.ConvTranspose1d(in_channels, out_channels, KERNEL, STRIDE)
        self.norm2 = group_norm(NORM_GROUPS, out_channels)

    def forward(self, y: Tensor, length: int) -> Tensor:
        return F.gelu(self.norm2(self.conv_tr(y)).narrow(2, KERNEL // 4, length))


def _spectral_branch(config: HDemucsConfig) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Encoder and decoder layers in the order in which they run, the shared one between them."""
    audio = 2 * config.audio_channels  # real and imaginary parts
    widths = (audio, *config.layer_channels)
    outs = (audio * len(config.sources), *config.layer_channels)
    encoder, decoder = nn.ModuleList(), nn.ModuleList()
    for i, inner in enumerate(config.layer_channels):
        shared, deep = i == config.depth - 1, i >= config.depth - 2
        kernel, stride = (SHARED_KERNEL, SHARED_STRIDE) if shared else (KERNEL, STRIDE)
        margin = 0 if deep and not shared else kernel // 4  # the layer that takes the last rows takes them whole
        groups = NORM_GROUPS if deep else 0
        dconv = DConv(inner, compress=config.dconv_compress, depth=config.dconv_depth, recurrent=deep)
        encode = EncoderLayer(
            widths[i],
            inner,
            spectral=not shared,
            kernel=kernel,
            stride=stride,
            padding=margin,
            norm_groups=groups,
            dconv=dconv,
        )
        decode = DecoderLayer(
            inner,
            outs[i],
            spectral=not shared,
            last=i == 0,
            kernel=kernel,
            stride=stride,
            crop=margin,
            norm_groups=groups,
        )
        encoder.append(encode)
        decoder.insert(0, decode)
    return encoder, decoder


def _temporal_branch(config: HDemucsConfig) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The same for the waveform; it ends where the branches merge, one layer earlier."""
    widths = (config.audio_channels, *config.layer_channels)
    outs = (config.audio_channels * len(config.sources), *config.layer_channels)
    encoder, decoder = nn.ModuleList(), nn.ModuleList()
    for i, inner in enumerate(config.layer_channels[:-2]):
        dconv = DConv(inner, compress=config.dconv_compress, depth=config.dconv_depth)
        encoder.append(EncoderLayer(widths[i], inner, spectral=False, dconv=dconv))
        decoder.insert(0, DecoderLayer(inner, outs[i], spectral=False, last=i == 0))
    outer, joint = config.layer_channels[-3], config.layer_channels[-2]
    encoder.append(BranchMerge(outer, joint))
    decoder.insert(0, BranchSplit(joint, outer))
    return encoder, decoder
