"""What is reported: ratios in decibels between a reference and an estimate, computed in float64.

`nsdr` is MDX 2021's score of a whole track; `sdr_windows` and `sdr_median` are BSS Eval v4's SDR, equal to museval's.
"""

import numpy as np
import torch
from torch import Tensor

from .errors import ModelError

MDX_EPSILON = 1e-7
SILENT_POWER = 1e-6  # -60 dBFS


def nsdr(reference_SCT: Tensor, estimate_SCT: Tensor) -> Tensor:
    """Ratio of each source's energy to its error's, over the whole excerpt, in dB; shape (S,), float64.

    Both energies carry MDX 2021's 1e-7, so a silent reference gives a finite score (0 dB if the estimate is
    silent too) and means over tracks need no special case.
    """
    reference_SCT, estimate_SCT = _comparable(reference_SCT, estimate_SCT)
    energy_S = reference_SCT.square().sum(dim=(1, 2)) + MDX_EPSILON
    error_S = (reference_SCT - estimate_SCT).square().sum(dim=(1, 2)) + MDX_EPSILON
    return 10 * torch.log10(energy_S / error_S)


def sdr_windows(reference_SCT: Tensor, estimate_SCT: Tensor, window_samples: int) -> Tensor:
    """BSS Eval v4 SDR of each source in windows that do not overlap, in dB; shape (S, windows), float64.

    The three error terms of BSS Eval v4 add up to estimate - reference, so this plain ratio is museval's SDR without
    its 512-tap filters. Its rules are kept too: a last partial window is dropped, an excerpt shorter than a window is
    one window, a window in which the channel sum of any reference or any estimate is zero throughout is NaN for every
    source, and a perfect estimate scores +inf.
    """
    reference_SCT, estimate_SCT = _comparable(reference_SCT, estimate_SCT)
    if window_samples < 1:
        raise ModelError(f"window_samples={window_samples}: a window has at least one sample")
    window = min(window_samples, reference_SCT.shape[-1])
    reference_SCWT, estimate_SCWT = (_windows(signal_SCT, window) for signal_SCT in (reference_SCT, estimate_SCT))
    energy_SW = reference_SCWT.square().sum(dim=(1, 3))
    error_SW = (reference_SCWT - estimate_SCWT).square().sum(dim=(1, 3))
    silent_W = _silent(reference_SCWT) | _silent(estimate_SCWT)
    return (10 * torch.log10(energy_SW / error_SW)).masked_fill(silent_W, torch.nan)


def leakage(reference_SCT: Tensor, estimate_SCT: Tensor, window_samples: int) -> Tensor:
    """RMS of each estimate over the windows in which its reference is silent (below -60 dBFS), in dBFS; shape (S,).

    At least -120 dBFS; NaN where no window is silent. Ratios to the reference say little there.
    """
    reference_SCT, estimate_SCT = _comparable(reference_SCT, estimate_SCT)
    window = min(window_samples, reference_SCT.shape[-1])
    power_SW, leaked_SW = (
        _windows(signal_SCT, window).square().mean(dim=(1, 3)) for signal_SCT in (reference_SCT, estimate_SCT)
    )
    silent_SW = power_SW < SILENT_POWER
    leaked_S = (leaked_SW * silent_SW).sum(dim=1) / silent_SW.sum(dim=1)  # 0 / 0 is NaN
    return 10 * torch.log10(leaked_S.clamp(min=1e-12))


def sdr_median(sdr_SW: Tensor) -> Tensor:
    """Median over the windows that have a score, the mean of the middle two for an even count; shape (S,).

    NaN where no window has one.
    """
    medians = [np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan for row in sdr_SW.numpy()]
    return torch.tensor(medians, dtype=torch.float64)


def _comparable(reference_SCT: Tensor, estimate_SCT: Tensor) -> tuple[Tensor, Tensor]:
    if reference_SCT.shape != estimate_SCT.shape or reference_SCT.ndim != 3 or not reference_SCT.numel():
        raise ModelError(
            f"reference {tuple(reference_SCT.shape)} and estimate {tuple(estimate_SCT.shape)} must have one shape, "
            "(sources, channels, samples), with at least one sample"
        )
    return reference_SCT.detach().cpu().double(), estimate_SCT.detach().cpu().double()


def _windows(signal_SCT: Tensor, window: int) -> Tensor:
    """Cut into whole windows: shape (S, C, windows, samples)."""
    return signal_SCT.unfold(-1, window, window)


def _silent(signal_SCWT: Tensor) -> Tensor:
    """Windows in which some source's channels sum to zero at every sample; shape (W,)."""
    return (signal_SCWT.sum(dim=1) == 0).all(dim=-1).any(dim=0)
