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

from ...errors import ModelError, check_mixture
from ...field_constraints import Range
from .axial_transformer import NORM_EPS, AxialTransformer
from .band_split import BandMasks, BandSplit, apply_mask, by_rows
from .centred_stft import CentredSTFT
from .roformer_config import RoFormerConfig

PAPER_BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


@dataclass(frozen=True, slots=True, kw_only=True)
class BSRoFormerConfig(RoFormerConfig):
    """The paper's larger model by default, with a mask for each of four sources."""

    band_rows: tuple[Annotated[int, Range(ge=1, le=2**16)], ...] = PAPER_BANDS  # STFT rows in each band, lowest first

    def __post_init__(self) -> None:
        RoFormerConfig.__post_init__(self)
        if sum(self.band_rows) != self.nfft // 2 + 1:
            raise ModelError(
                f"band_rows are {sum(self.band_rows)} rows in sum; an nfft of {self.nfft} has {self.nfft // 2 + 1}"
            )

    @property
    def least_size(self) -> tuple[int, int]:
        """A number of layers and of weights that a network of this configuration has at the least."""
        return self.least_size_with(len(self.band_rows))


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
