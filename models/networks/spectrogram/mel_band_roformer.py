"""Mel-Band RoFormer: BS-RoFormer with bands of equal width on the mel scale, of which neighbours overlap.

    mixture --> STFT --> mel bands --> [ along frames, along bands ] x L --> masks, averaged where bands overlap --+
                 +-------------------------------------------------------------------------------------------------x-->

Every row but the outermost lies in two bands, and its mask is the mean of theirs. Ju-Chiang Wang, Wei-Tsung Lu, Minz
Won, arXiv 2310.01809. Read next: `bs_roformer.py`, `axial_transformer.py`.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import ModelError, check_mixture
from ...field_constraints import Range
from .axial_transformer import AxialTransformer
from .band_split import BandMasks, BandSplit, apply_mask, by_rows
from .centred_stft import CentredSTFT
from .roformer_config import RoFormerConfig

BREAK_HZ, BREAK_MEL = 1000.0, 15.0  # the mel scale of Slaney's auditory toolbox: linear up to here
MELS_PER_LOG = 27 / np.log(6.4)  # and logarithmic from there on


@dataclass(frozen=True, slots=True, kw_only=True)
class MelBandRoFormerConfig(RoFormerConfig):
    """The paper's larger model by default, with a mask for each of four sources."""

    num_bands: Annotated[int, Range(ge=2, le=2**10)] = 60  # overlapping bands, from 0 Hz to half the sample rate

    def __post_init__(self) -> None:
        RoFormerConfig.__post_init__(self)
        bands_KF = mel_bands(self.sample_rate, self.nfft, self.num_bands)
        if not bands_KF.any(axis=1).all():
            raise ModelError(
                f"num_bands {self.num_bands} are so many that one has no row of an nfft of {self.nfft} at "
                f"{self.sample_rate} Hz: take fewer bands or a larger nfft"
            )

    @property
    def least_size(self) -> tuple[int, int]:
        """A number of layers and of weights that a network of this configuration has at the least."""
        return self.least_size_with(self.num_bands)


class MelBandRoFormer(nn.Module):
    """Mixture (B, C, T) to estimates (B, S, C, T); T any length above half a window."""

    rows_of_bands: Tensor  # (sum of the bands' rows) the row of each place of each band
    bands_per_row: Tensor  # (F, 1, 1)

    def __init__(self, config: MelBandRoFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MelBandRoFormerConfig()
        self.stft = CentredSTFT(nfft=config.nfft, hop=config.hop_length)
        bands_KF = mel_bands(config.sample_rate, config.nfft, config.num_bands)
        self.register_buffer("rows_of_bands", torch.tensor(bands_KF.nonzero()[1]), persistent=False)
        per_row = torch.tensor(bands_KF.sum(axis=0), dtype=torch.float32)
        self.register_buffer("bands_per_row", per_row[:, None, None], persistent=False)
        sizes = tuple(2 * config.audio_channels * int(rows) for rows in bands_KF.sum(axis=1))
        self.band_split = BandSplit(sizes, config.width)
        self.transformer = AxialTransformer(
            config.width,
            depth=config.depth,
            num_heads=config.heads,
            head_width=config.head_width,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_blocks=True,
            sum_layers=config.sum_layers,
        )
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
        rows = by_rows(spectrum_BCFN2).index_select(2, self.rows_of_bands)
        tokens_BNKD = self.transformer(self.band_split(rows.flatten(-2)))
        masks = torch.stack([mask(tokens_BNKD) for mask in self.masks], dim=1)
        masks_BSNFC2 = self._average(masks.view(*masks.shape[:3], -1, self.config.audio_channels, 2))
        estimates = apply_mask(spectrum_BCFN2, masks_BSNFC2, zero_dc=self.config.zero_dc)
        return self.stft.to_samples(estimates, mixture_BCT.shape[-1])

    def _average(self, masks: Tensor) -> Tensor:
        """Masks of all bands' places, (B, S, N, places, C, 2), to their means over the bands of each row."""
        shape = (*masks.shape[:3], self.stft.num_rows, *masks.shape[4:])
        summed = masks.new_zeros(shape).index_add(3, self.rows_of_bands, masks)
        return summed / self.bands_per_row


def mel_bands(sample_rate: int, nfft: int, num_bands: int) -> NDArray[np.bool_]:
    """Which of the nfft / 2 + 1 rows lie in which band, (K, F): triangles on the mel scale, cut off at 0.

    Rows 0 and nfft / 2 lie on the outer edges of the first and last triangle, and are counted in.
    """
    nyquist = sample_rate / 2
    linear, logarithmic = nyquist / BREAK_HZ * BREAK_MEL, BREAK_MEL + MELS_PER_LOG * np.log(nyquist / BREAK_HZ)
    mels = np.linspace(0.0, linear if nyquist < BREAK_HZ else logarithmic, num_bands + 2)
    above = BREAK_HZ * np.exp((np.maximum(mels, BREAK_MEL) - BREAK_MEL) / MELS_PER_LOG)
    edges_hz = np.where(mels < BREAK_MEL, mels * BREAK_HZ / BREAK_MEL, above)
    rows_hz = np.linspace(0.0, nyquist, nfft // 2 + 1)
    bands: NDArray[np.bool_] = (rows_hz > edges_hz[:-2, None]) & (rows_hz < edges_hz[2:, None])
    bands[0, 0] = bands[-1, -1] = True
    return bands
