"""Scores of mel spectrograms: the multi-resolution STFT distance, bleedless and fullness.

As the package `msst` 0.1 (ZFTurbo's Music-Source-Separation-Training) defines them, whose numbers are what the public
leaderboards of MVSEP print: `aura_mrstft` after auraloss 0.4 (Yamamoto et al. 2020; A-weighting after Wright and
Välimäki 2020), bleedless and fullness as proposed there by the contributors unwa and jarredou. All are from 0 to 100,
higher is better. In float32 as there: which bins of an estimate are louder than the reference's is decided in it.

Shape letters: M mel bands.
"""

import math
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .metrics import require_comparable

RESOLUTIONS = (1024, 2048, 4096)  # samples of a frame, four of which overlap
_BANDS = 128
_FLOOR_POWER = 1e-8  # of a bin
_FINE, _FINE_BANDS = 4096, 512
_RANGE_DB, _LEAST = 80.0, 1e-10
_AT_ONCE = 1024  # frames
_BLOCK = 16384  # samples
_NUM_TAPS = 101  # of the A-weighting, as in auraloss

Padding = Literal["reflect", "constant"]


def aura_mrstft(reference_SCT: Tensor, estimate_SCT: Tensor, sample_rate: int) -> Tensor:
    """100 / (1 + 10 d) of each source, d being its multi-resolution STFT distance; shape (S,), float64.

    NaN where the excerpt is shorter than half of the longest frame.
    """
    require_comparable(reference_SCT, estimate_SCT)
    if reference_SCT.shape[-1] <= max(RESOLUTIONS) // 2:
        return torch.full((len(reference_SCT),), torch.nan, dtype=torch.float64)
    pairs = zip(reference_SCT, estimate_SCT, strict=True)
    distances = [multi_resolution_distance(*pair, sample_rate) for pair in pairs]
    return 100 / (1 + 10 * torch.tensor(distances, dtype=torch.float64))


def multi_resolution_distance(reference_CT: Tensor, estimate_CT: Tensor, sample_rate: int) -> float:
    """Mean over resolutions of spectral convergence and L1 of log magnitudes, of mel spectra under A-weighting.

    0 for equal signals. Spectral convergence is relative to the estimate, as msst calls it.
    """
    weighted = [a_weighted(signal_CT, sample_rate) for signal_CT in (reference_CT, estimate_CT)]
    total = 0.0
    for size in RESOLUTIONS:
        true_CMN, made_CMN = (
            _mel_spectrum(signal_CT, size, _BANDS, sample_rate, pad="reflect", floor=_FLOOR_POWER)
            for signal_CT in weighted
        )
        convergence = (made_CMN - true_CMN).norm() / made_CMN.norm()
        total += float(convergence + (true_CMN.log_() - made_CMN.log_()).abs().mean())
    return total / len(RESOLUTIONS)


def bleedless_fullness(reference_SCT: Tensor, estimate_SCT: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Two scores of each source, both of shape (S,), float64: how little is in the estimate that should not be, and
    how little of what should be is missing.

    100 / (1 + d), d being the mean over the bins of a mel spectrogram that are louder (quieter) in the estimate, of how
    much that is in dB, within 80 dB of the loudest bin of either.
    """
    require_comparable(reference_SCT, estimate_SCT)
    scores = []
    for pair in zip(reference_SCT, estimate_SCT, strict=True):
        true_CMN, made_CMN = (_decibels(signal_CT, sample_rate) for signal_CT in pair)
        excess_CMN = made_CMN - true_CMN
        scores.append([100 / (1 + _mean_above_zero(excess_CMN)), 100 / (1 + _mean_above_zero(-excess_CMN))])
    bleedless_S, fullness_S = torch.tensor(scores, dtype=torch.float64).unbind(dim=1)
    return bleedless_S, fullness_S


def _decibels(signal_CT: Tensor, sample_rate: int) -> Tensor:
    magnitude_CMN = _mel_spectrum(signal_CT, _FINE, _FINE_BANDS, sample_rate, pad="constant")
    level_CMN = 20 * torch.log10(magnitude_CMN.clamp(min=_LEAST))
    return level_CMN.clamp(min=float(level_CMN.max()) - _RANGE_DB)


def _mean_above_zero(values_CMN: Tensor) -> float:
    above = values_CMN[values_CMN > 0]
    return float(above.mean(dtype=torch.float64)) if above.numel() else 0.0


# --- mel spectra --------------------------------------------------------------------------------------------


def _mel_spectrum(
    signal_CT: Tensor, size: int, num_bands: int, sample_rate: int, *, pad: Padding, floor: float = 0.0
) -> Tensor:
    """Magnitudes (C, M, N) in mel bands, float32; powers of bins are at least `floor`."""
    hop, half = size // 4, size // 2
    bank_MF = torch.from_numpy(mel_bank(size, num_bands, sample_rate))
    window_T = torch.hann_window(size)
    padded_CT = torch.nn.functional.pad(signal_CT.detach().cpu().float(), (half, half), mode=pad)
    num_frames = 1 + (padded_CT.shape[1] - size) // hop
    parts = []
    for first in range(0, num_frames, _AT_ONCE):  # all at once would take some ten times the memory of the song
        last = min(first + _AT_ONCE, num_frames)
        some_CT = padded_CT[:, first * hop : (last - 1) * hop + size]
        spectrum_CFN = torch.stft(some_CT, size, hop, window=window_T, center=False, return_complex=True)
        if floor:
            magnitude_CFN = (spectrum_CFN.real.square() + spectrum_CFN.imag.square()).clamp(min=floor).sqrt()
        else:
            magnitude_CFN = spectrum_CFN.abs()
        parts.append(bank_MF @ magnitude_CFN)
    return torch.cat(parts, dim=-1)


@cache
def mel_bank(size: int, num_bands: int, sample_rate: int) -> NDArray[np.float32]:
    """Weights (M, F) of triangles that are equally wide in mel, each of unit area in Hz (Slaney 1998, as librosa's).

    Bands so narrow that no bin lies in them are left out.
    """
    linear_hz, log_hz = 200 / 3, 1000.0  # a mel up to 1 kHz; above, 27 mel for each factor of 6.4

    def mel(frequency_hz: float) -> float:
        if frequency_hz < log_hz:
            return frequency_hz / linear_hz
        return log_hz / linear_hz + 27 * math.log(frequency_hz / log_hz) / math.log(6.4)

    mels = np.linspace(0, mel(sample_rate / 2), num_bands + 2)
    above = np.maximum(mels - log_hz / linear_hz, 0)
    edges_hz = np.where(above > 0, log_hz * np.exp(above * np.log(6.4) / 27), mels * linear_hz)
    bins_F = np.fft.rfftfreq(size, 1 / sample_rate)
    low, centre, high = (edges_hz[start : start + num_bands, None] for start in range(3))
    rising, falling = (bins_F - low) / (centre - low), (high - bins_F) / (high - centre)
    bank_MF = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    bank_MF *= 2 / (high - low)
    filled_MF: NDArray[np.float32] = bank_MF[bank_MF.any(axis=1)]
    return filled_MF


# --- A-weighting --------------------------------------------------------------------------------------------


def a_weighted(signal_CT: Tensor, sample_rate: int) -> Tensor:
    """The signal through the filter of `a_weighting`, without its delay, as if silence were around; float32.

    Summed tap by tap in single precision, as auraloss does: what that leaves in quiet bands moves the distance by 2e-6.
    In blocks, since torch takes 15 times as long for a minute in one piece.
    """
    taps_L = torch.from_numpy(a_weighting(sample_rate))
    (num_channels, num_samples), half = signal_CT.shape, len(taps_L) // 2
    num_blocks = -(-num_samples // _BLOCK)
    padded_CT = torch.nn.functional.pad(
        signal_CT.detach().cpu().float(), (half, num_blocks * _BLOCK - num_samples + half)
    )
    blocks_N1T = padded_CT.unfold(1, _BLOCK + 2 * half, _BLOCK).flatten(0, 1)[:, None]
    filtered_N1T = torch.nn.functional.conv1d(blocks_N1T, taps_L[None, None])
    return filtered_N1T.reshape(num_channels, -1)[:, :num_samples]


@cache
def a_weighting(sample_rate: int) -> NDArray[np.float32]:
    """Symmetric taps (L,) that fit the A-weighting of IEC 61672 by least squares.

    The analog filter is taken to this rate by a bilinear transform, on 512 frequencies; what is fitted are the lines
    between each even one and the next.
    """
    angle_F = np.pi * np.arange(512) / 512
    s = 2j * sample_rate * np.tan(angle_F / 2)
    f1, f2, f3, f4 = (2 * np.pi * hz for hz in (20.598997, 107.65265, 737.86223, 12194.217))
    gain = f4**2 * 10 ** (1.9997 / 20)
    wanted_F = np.abs(gain * s**4 / ((s + f4) ** 2 * (s + f1) ** 2 * (s + f3) * (s + f2)))
    # Gauss's points: exact to rounding, as a cosine turns by a fifth of a circle in a band.
    points, weights = np.polynomial.legendre.leggauss(8)
    share = (points + 1) / 2
    angles = (angle_F[::2, None] + share * np.diff(angle_F)[::2, None]).ravel()
    wanted = (wanted_F[::2, None] + share * np.diff(wanted_F)[::2, None]).ravel()
    scale = np.sqrt(np.tile(weights, len(angle_F) // 2))
    cosines = np.cos(angles[:, None] * np.arange(_NUM_TAPS // 2 + 1))
    fitted = np.linalg.lstsq(scale[:, None] * cosines, scale * wanted, rcond=None)[0]
    return np.concatenate([fitted[:0:-1] / 2, fitted[:1], fitted[1:] / 2]).astype(np.float32)
