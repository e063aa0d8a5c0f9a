"""log-WMSE: the energy of the error against the mixture's, as loud as an ear takes frequencies to be.

Iver Jordal's definition, as the package `torch-log-wmse` 1.1 computes it: error and mixture are filtered, and the score
of a channel is -4 ln(|error|² / |mixture|² + 1e-8), at most 73.7 for an estimate without error. The filter is the
linear-phase form of a shelf (+5 dB above 1.5 kHz), a high-pass at 120 Hz, a bell (+2.5 dB at 500 Hz) and a low-pass at
10 kHz, after Fenton and Lee 2017; it is designed at 44.1 kHz, and at other rates it is resampled.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .block_convolution import filtered
from .metrics import comparable

Response = NDArray[np.float64]

DESIGN_RATE = 44100  # Hz
TAPS, _GRID = 4000, 8192
_EPSILON = 1e-8
_SILENT_POWER = 1e-16  # of the mixture: what is quieter counts as this


def log_wmse(reference_SCT: Tensor, estimate_SCT: Tensor, mixture_CT: Tensor, sample_rate: int) -> Tensor:
    """Score of each source over the whole excerpt, the mean over its channels; shape (S,), float64, at most 73.7."""
    reference_SCT, estimate_SCT = comparable(reference_SCT, estimate_SCT)
    num_samples = reference_SCT.shape[-1]
    taps_L = torch.from_numpy(impulse_response(sample_rate))
    mixture_C = _energy(mixture_CT.detach().cpu(), taps_L).clamp(min=num_samples * _SILENT_POWER)
    error_SC = torch.stack(
        [_energy(made_CT - true_CT, taps_L) for true_CT, made_CT in zip(reference_SCT, estimate_SCT, strict=True)]
    )
    return (-4 * torch.log(error_SC / mixture_C + _EPSILON)).mean(dim=1)


def _energy(signal_CT: Tensor, taps_L: Tensor) -> Tensor:
    """Energy of each channel after the filter, with what rings on after the end; shape (C,)."""
    return torch.stack([piece_CT.square().sum(dim=1) for piece_CT in filtered(signal_CT, taps_L)]).sum(dim=0)


def impulse_response(sample_rate: int) -> NDArray[np.float32]:
    """The filter's taps at this rate, up to a gain, which cancels."""
    # The original designs on a grid that stops one step short of the Nyquist frequency, and transforms it as if it did
    # not; its taps are cut out one to the right of the middle. So are these.
    angle_F = np.pi * np.arange(_GRID // 2 + 1) / (_GRID // 2 + 1)
    taps_T = np.fft.fftshift(np.fft.irfft(_magnitude(angle_F), _GRID))
    first = _GRID // 2 + 1 - TAPS // 2
    taps_L = taps_T[first : first + TAPS].astype(np.float32)
    return taps_L if sample_rate == DESIGN_RATE else _resampled(taps_L, sample_rate)


def _magnitude(angle_F: Response) -> Response:
    """Of the four filters, by bilinear transform, at these angles of z."""

    def s(frequency_hz: float) -> NDArray[np.complex128]:
        """What stands for z in a prototype at this frequency."""
        return np.asarray(1j * np.tan(angle_F / 2) / np.tan(np.pi * frequency_hz / DESIGN_RATE), np.complex128)

    shelf, high, bell, low = s(1500), s(120), s(500), s(10_000)
    width = 2**0.5
    lift = 10 ** (5 / 40)
    side = lift**0.5 * width * shelf
    shelf_F = lift * (lift * shelf**2 + side + 1) / (shelf**2 + side + lift)
    high_F = high**2 / (high**2 + width * high + 1)
    lift, wide = 10 ** (2.5 / 40), width / 1.5
    bell_F = (bell**2 + lift * wide * bell + 1) / (bell**2 + wide / lift * bell + 1)
    low_F = 1 / (1 + low)  # of first order, and run forth and back
    return np.asarray(np.abs(shelf_F * high_F * bell_F) * np.abs(low_F) ** 2, np.float64)


def _resampled(taps_L: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Taps at another rate, by a sinc of six zero crossings to each side under a raised cosine, as torchaudio does."""
    crossings, cutoff_hz = 6, 0.99 * min(DESIGN_RATE, sample_rate)
    out_L = np.arange(-(-len(taps_L) * sample_rate // DESIGN_RATE))
    reach = int(np.ceil(crossings * DESIGN_RATE / cutoff_hz))
    nearest_L = out_L * DESIGN_RATE // sample_rate
    source_LK = nearest_L[:, None] + np.arange(-reach, reach + 2)
    t_LK = cutoff_hz * (source_LK / DESIGN_RATE - out_L[:, None] / sample_rate)
    kernel_LK = np.sinc(t_LK) * np.cos(np.clip(t_LK / crossings, -1, 1) * np.pi / 2) ** 2 * cutoff_hz / DESIGN_RATE
    padded = np.pad(taps_L.astype(np.float64), (reach, reach + 2))
    return np.asarray((padded[source_LK + reach] * kernel_LK).sum(axis=1), np.float32)
