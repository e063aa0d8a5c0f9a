"""BS-RoFormer: bands of a spectrogram as tokens, attention along time and across bands, a complex mask per source.

    mixture --> STFT --> band split --> [ along frames, along bands ] x L --> a mask per source --+
                 +--------------------------------------------------------------------------------x--> inverse STFT

Bands are few rows wide where tones lie close, and wide above. Wei-Tsung Lu, Ju-Chiang Wang, Qiuqiang Kong, Yun-Ning
Hung, arXiv 2309.02612. Read next: `axial_transformer.py`, `band_split.py`.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ...errors import ModelError, check_audio, check_mixture, source_names
from ...field_constraints import Range, check_ranges
from ..input_normalization import Normalization
from .axial_transformer import NORM_EPS, AxialTransformer
from .band_split import BandMasks, BandSplit, apply_mask, by_rows
from .centred_stft import CentredSTFT, check_hop, check_length

PAPER_BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


@dataclass(frozen=True, slots=True, kw_only=True)
class BSRoFormerConfig:
    """The paper's larger model by default, with a mask for each of four sources."""

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")  # order of the estimates
    sample_rate: Annotated[int, Range(ge=1, le=1_000_000)] = 44100  # Hz
    audio_channels: Annotated[int, Range(ge=1, le=256)] = 2  # 1 for mono, 2 for stereo
    segment_s: Annotated[float, Range(gt=0, le=3600)] = 8.0  # seconds to separate at once; longer works too
    width: Annotated[int, Range(ge=1, le=2**16)] = 384  # features per token
    depth: Annotated[int, Range(ge=1, le=256)] = 12  # layers, each along frames and then along bands
    heads: Annotated[int, Range(ge=1, le=1024)] = 8  # attention heads
    head_width: Annotated[int, Range(ge=2, le=2**12)] = 48  # features per head, an even number
    nfft: Annotated[int, Range(ge=4, le=2**16)] = 2048  # samples per STFT window
    hop_length: Annotated[int, Range(ge=1, le=2**16)] = 441  # samples from frame to frame
    band_rows: tuple[Annotated[int, Range(ge=1, le=2**16)], ...] = PAPER_BANDS  # STFT rows in each band, lowest first
    mask_hidden_layers: Annotated[int, Range(ge=0, le=64)] = 1  # of the networks that make a band's mask
    mask_expansion: Annotated[int, Range(ge=1, le=64)] = 4  # hidden units of these / width
    sum_layers: bool = False  # each layer reads the sum of what all before it gave
    zero_dc: bool = True  # estimates have no constant part
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.1  # share of features dropped while training
    # the same for attention weights; 0 is far faster on CPUs
    attention_dropout: Annotated[float, Range(ge=0, lt=1)] = 0.1
    normalize: Normalization = "none"  # the level of the input, in training and in use: see `input_normalization.py`

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", source_names(self.sources))
        check_ranges(self, ModelError)
        check_audio(self.sources, self.sample_rate, self.segment_s)
        check_hop(self.hop_length, self.nfft)
        check_length(self.segment_samples, self.nfft)
        if self.head_width % 2:
            raise ModelError(f"head_width must be even, since positions turn pairs of features, got {self.head_width}")
        if sum(self.band_rows) != self.nfft // 2 + 1:
            raise ModelError(
                f"band_rows are {sum(self.band_rows)} rows in sum; an nfft of {self.nfft} has {self.nfft // 2 + 1}"
            )

    @property
    def segment_samples(self) -> int:
        return round(self.segment_s * self.sample_rate)

    @property
    def least_size(self) -> tuple[int, int]:
        """A number of layers and of weights that a network of this configuration has at the least."""
        block, hidden = max(8 * self.width, 3 * self.heads * self.head_width), self.mask_expansion * self.width
        masks = len(self.band_rows) * hidden if self.mask_hidden_layers else 0
        return max(self.depth, self.mask_hidden_layers), self.width * max(block, self.nfft, masks)


class BSRoFormer(nn.Module):
    """Mixture (B, C, T) to estimates (B, S, C, T); T any length above half a window."""

    def __init__(self, config: BSRoFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or BSRoFormerConfig()
        self.stft = CentredSTFT(nfft=config.nfft, hop=config.hop_length)
        sizes = tuple(2 * config.audio_channels * rows for rows in config.band_rows)
        self.band_split = BandSplit(sizes, config.width)
        self.transformer = AxialTransformer(
            config.width,
            depth=config.depth,
            num_heads=config.heads,
            head_width=config.head_width,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_blocks=False,
            sum_layers=config.sum_layers,
        )
        self.final_norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        hidden = config.mask_expansion * config.width
        self.masks = nn.ModuleList(
            BandMasks(sizes, config.width, hidden=hidden, hidden_layers=config.mask_hidden_layers)
            for _ in config.sources
        )

    def valid_length(self, num_samples: int) -> int:
        """Samples to feed in evaluation for a chunk of `num_samples`: a whole segment, with what stands around it."""
        return max(num_samples, self.config.segment_samples)

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        check_mixture(mixture_BCT, self.config.audio_channels)
        spectrum_BCFN2 = self.stft.to_spectrum(mixture_BCT)
        tokens_BNKD = self.band_split(by_rows(spectrum_BCFN2).flatten(-2))
        tokens_BNKD = self.final_norm(self.transformer(tokens_BNKD))
        masks = torch.stack([mask(tokens_BNKD) for mask in self.masks], dim=1)
        masks_BSNFC2 = masks.view(*masks.shape[:3], -1, self.config.audio_channels, 2)
        estimates = apply_mask(spectrum_BCFN2, masks_BSNFC2, zero_dc=self.config.zero_dc)
        return self.stft.to_samples(estimates, mixture_BCT.shape[-1])
