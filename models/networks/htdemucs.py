"""Hybrid Transformer Demucs (v4): two U-Nets, spectral and temporal, that meet in a transformer.

    mixture --+-- STFT --> encoder  x4 --+                 +--> decoder  x4 --> inverse STFT --+
              |                          +-- transformer --+                                   +--> estimates
              +----------> tencoder x4 --+                 +--> tdecoder x4 -------------------+

Simon Rouard, Francisco Massa, Alexandre Defossez, arXiv 2211.08553. Attribute names are the published state-dict
keys, so published weights load. Read next: `stft.py`, `blocks/layers.py`, `blocks/transformer.py`.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError, check_audio, check_mixture, check_size, source_names
from ..field_constraints import NonNegativeInt, PositiveFloat, PositiveInt, Range, check_ranges
from .blocks.layers import DecoderLayer, EncoderLayer, FrequencyEmbedding, rescale_convolutions
from .blocks.residual import DConv
from .blocks.transformer import Attention, AttentionFactory, CrossTransformer
from .cpu_kernels.linear import fused_linear
from .input_normalization import Normalization
from .stft import standardize, to_channels, to_samples, to_spectrum

STRIDE = 4  # of every layer, over frequency in the spectral branch and over time in the other


@dataclass(frozen=True, slots=True, kw_only=True)
class HTDemucsConfig:
    """The released 4-source model by default; other published ones are presets in `catalog.py`."""

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")  # order of the estimates
    sample_rate: PositiveInt = 44100  # Hz
    audio_channels: PositiveInt = 2  # 1 for mono, 2 for stereo
    segment_s: PositiveFloat = 7.8  # seconds; what evaluation pads to, and the most it takes
    channels: PositiveInt = 48  # features of the outermost layers
    growth: PositiveInt = 2  # factor of features from layer to layer
    depth: PositiveInt = 4  # encoder layers per branch
    nfft: PositiveInt = 4096  # samples per STFT window; the hop is a quarter
    dconv_compress: PositiveInt = 8  # features are squeezed by this inside a residual branch
    dconv_depth: NonNegativeInt = 2  # residual branches per layer
    dconv_in_decoder: bool = True  # False as in the paper's tables, True in all released weights
    transformer_width: PositiveInt = 512  # features per token; another number than the U-Net's adds 1x1 maps around
    width_maps: bool = False  # these maps even where the numbers are equal
    transformer_layers: NonNegativeInt = 5  # self- and cross-attention in turn, per domain
    transformer_heads: PositiveInt = 8  # attention heads, which must divide the features per token
    transformer_hidden_scale: PositiveFloat = 4.0  # feed-forward features / transformer_width
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.02  # share of features dropped in the transformer while training
    # the same for attention weights; 0 is far faster on CPUs
    attention_dropout: Annotated[float, Range(ge=0, lt=1)] = 0.02
    normalize: Normalization = "track"  # the level of the input, in training and in use: see `input_normalization.py`

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", source_names(self.sources))
        check_ranges(self, ModelError)
        check_size(self)
        check_audio(self.sources, self.sample_rate, self.segment_s)
        if self.nfft % (2 * STRIDE**self.depth) or self.bottleneck_rows < 3:
            needed = 2 * STRIDE**self.depth
            raise ModelError(
                f"nfft {self.nfft} does not suit depth {self.depth}: take a multiple of {needed}, {4 * needed} or more"
            )
        if self.channels < self.dconv_compress:
            raise ModelError(f"dconv_compress {self.dconv_compress} squeezes {self.channels} channels to nothing")
        if self.transformer_width % 4 or self.transformer_width % self.transformer_heads:
            raise ModelError(
                f"transformer_width {self.transformer_width} must be a multiple of 4 "
                f"and of transformer_heads {self.transformer_heads}"
            )
        if self.transformer_width * self.transformer_hidden_scale < 1:
            raise ModelError(
                f"transformer_hidden_scale {self.transformer_hidden_scale} leaves no feature of "
                f"transformer_width {self.transformer_width}"
            )

    @property
    def segment_samples(self) -> int:
        return round(self.segment_s * self.sample_rate)

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Features after each encoder layer, outermost first."""
        return tuple(self.channels * self.growth**i for i in range(self.depth))

    @property
    def has_width_maps(self) -> bool:
        """Whether there are 1x1 maps around the transformer."""
        return self.width_maps or self.layer_channels[-1] != self.transformer_width

    @property
    def bottleneck_rows(self) -> int:
        """Frequency rows that reach the transformer."""
        return int(self.nfft // 2 // STRIDE**self.depth)

    @property
    def least_size(self) -> tuple[int, float]:
        """A number of layers and of weights that a network of this configuration has at the least."""
        inner, audio = self.layer_channels[-1], self.audio_channels * len(self.sources)
        sizes: list[float] = [self.channels * max(audio, self.nfft // 8), inner * inner]
        if self.transformer_layers:
            sizes += [
                self.transformer_width * inner,
                self.transformer_width**2 * max(1.0, self.transformer_hidden_scale),
            ]
        return max(self.depth, self.dconv_depth, self.transformer_layers), max(sizes)


class HTDemucs(nn.Module):
    """Mixture (B, C, T) to estimates (B, S, C, T).

    In training any length; in evaluation up to a segment, shorter ones padded with zeros to a segment, since
    the transformer has learnt its positions at that length.
    """

    def __init__(self, config: HTDemucsConfig | None = None, *, attention: AttentionFactory = Attention) -> None:
        super().__init__()
        self.config = config = config or HTDemucsConfig()
        self.encoder, self.decoder = _branch(config, spectral=True)
        self.tencoder, self.tdecoder = _branch(config, spectral=False)
        self.freq_emb = FrequencyEmbedding(config.nfft // 2 // STRIDE, config.channels)
        rescale_convolutions(self)  # before the maps around the transformer: those keep their first weights

        inner, width = config.layer_channels[-1], config.transformer_width
        if config.has_width_maps:
            self.channel_upsampler, self.channel_downsampler = nn.Conv1d(inner, width, 1), nn.Conv1d(width, inner, 1)
            self.channel_upsampler_t, self.channel_downsampler_t = (
                nn.Conv1d(inner, width, 1),
                nn.Conv1d(width, inner, 1),
            )
        self.crosstransformer = CrossTransformer(
            width,
            num_layers=config.transformer_layers,
            num_heads=config.transformer_heads,
            hidden_scale=config.transformer_hidden_scale,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            attention=attention,
        )

    def valid_length(self, num_samples: int) -> int:
        """Samples to feed in evaluation for a chunk of `num_samples`: always a whole segment."""
        if num_samples > self.config.segment_samples:
            raise ModelError(
                f"{num_samples} samples are more than this model's segment of {self.config.segment_samples} "
                f"({self.config.segment_s} s): separate longer audio in segments"
            )
        return self.config.segment_samples

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        check_mixture(mixture_BCT, self.config.audio_channels)
        num_samples = mixture_BCT.shape[-1]
        if not self.training:
            mixture_BCT = F.pad(mixture_BCT, (0, self.valid_length(num_samples) - num_samples))
        padded_samples = mixture_BCT.shape[-1]

        spectrum = to_channels(to_spectrum(mixture_BCT, self.config.nfft))
        x, mean, std = standardize(spectrum)
        xt, mean_t, std_t = standardize(mixture_BCT)
        x, xt = self._estimate(x, xt)

        num_sources = len(self.config.sources)
        batch, _, num_rows, num_frames = x.shape
        x = x.view(batch, num_sources, -1, num_rows, num_frames)
        xt = torch.addcmul(mean_t, xt, std_t).view(batch, num_sources, -1, padded_samples)
        estimates = xt + to_samples(x, self.config.nfft, padded_samples, mean=mean[:, None], std=std[:, None])
        return estimates if num_samples == padded_samples else estimates[..., :num_samples]

    def _estimate(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized spectrogram (B, 2C, F, N) and waveform (B, C, T) to those of all sources, stacked in dim 1."""
        skips: list[tuple[Tensor, Tensor]] = []
        lengths: list[tuple[int, int]] = []
        for i, (encode, encode_t) in enumerate(zip(self.encoder, self.tencoder, strict=True)):
            lengths.append((x.shape[2], xt.shape[2]))
            x, xt = encode(x), encode_t(xt)
            if i == 0:
                x = self.freq_emb(x)
            skips.append((x, xt))
        x, xt = self._exchange(x, xt)
        for decode, decode_t in zip(self.decoder, self.tdecoder, strict=True):
            (skip, skip_t), (length, length_t) = skips.pop(), lengths.pop()
            x, xt = decode(x, skip, length), decode_t(xt, skip_t, length_t)
        return x, xt

    def _exchange(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches through the transformer: (B, D, F, N) and (B, D, L) in and out."""
        num_rows, num_frames = x.shape[2:]
        tokens = x.permute(0, 3, 2, 1).flatten(1, 2)  # frame by frame, rows within
        tokens_t = xt.transpose(1, 2)
        if self.config.has_width_maps:
            tokens = _pointwise(tokens, self.channel_upsampler)
            tokens_t = _pointwise(tokens_t, self.channel_upsampler_t)
        tokens, tokens_t = self.crosstransformer(tokens, tokens_t, num_rows)
        if self.config.has_width_maps:
            tokens = _pointwise(tokens, self.channel_downsampler)
            tokens_t = _pointwise(tokens_t, self.channel_downsampler_t)
        x = tokens.view(-1, num_frames, num_rows, tokens.shape[-1]).permute(0, 3, 2, 1).contiguous()
        return x, tokens_t.transpose(1, 2).contiguous()


def _pointwise(tokens_BLD: Tensor, conv: nn.Conv1d) -> Tensor:
    """A 1x1 convolution on features that come last: a matrix product, without two transposes around."""
    return fused_linear(tokens_BLD, conv.weight[:, :, 0], conv.bias)


def _branch(config: HTDemucsConfig, *, spectral: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Encoder and decoder layers of one branch, each in the order in which they run."""
    complex_parts = 2 if spectral else 1
    audio = config.audio_channels * complex_parts
    widths = (audio, *config.layer_channels)
    outs = (audio * len(config.sources), *config.layer_channels)

    def dconv(channels: int) -> DConv:
        return DConv(channels, compress=config.dconv_compress, depth=config.dconv_depth)

    encoder, decoder = nn.ModuleList(), nn.ModuleList()
    for i in range(config.depth):
        inner = widths[i + 1]
        encoder.append(EncoderLayer(widths[i], inner, spectral=spectral, stride=STRIDE, dconv=dconv(inner)))
        residual = dconv(inner) if config.dconv_in_decoder else None
        decoder.insert(0, DecoderLayer(inner, outs[i], spectral=spectral, last=i == 0, stride=STRIDE, dconv=residual))
    return encoder, decoder
