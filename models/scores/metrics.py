"""What is reported: ratios in decibels between a reference and an estimate, computed in float64.

`nsdr` is MDX 2021's score of a whole track; `sdr_windows` and `sdr_median` are BSS Eval v4's SDR, equal to museval's
(`bsseval.py` has its other scores); `ideal_ratio_mask` makes the estimate of the IRM2 oracle.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError

Samples = NDArray[np.floating]

MDX_EPSILON = 1e-7
SILENT_POWER = 1e-6  # -60 dBFS


def nsdr(reference_SCT: Tensor, estimate_SCT: Tensor) -> Tensor:
    """Ratio of each source's energy to its error's, over the whole excerpt, in dB; shape (S,), float64.

    Both energies carry MDX 2021's 1e-7, so a silent reference gives a finite score (0 dB if the estimate is
    silent too) and means over tracks need no special case.
    """
    reference_SCT, estimate_SCT = comparable(reference_SCT, estimate_SCT)
    energy_S = energy(reference_SCT) + MDX_EPSILON
    error_S = energy(estimate_SCT - reference_SCT) + MDX_EPSILON
    return 10 * torch.log10(energy_S / error_S)


def sdr_windows(reference_SCT: Tensor, estimate_SCT: Tensor, window_samples: int) -> Tensor:
    """BSS Eval v4 SDR of each source in windows that do not overlap, in dB; shape (S, windows), float64.

    The three error terms of BSS Eval v4 add up to estimate - reference, so this plain ratio is museval's SDR without
    its 512-tap filters. Its rules are kept too: a last partial window is dropped, an excerpt shorter than a window is
    one window, a window in which the channel sum of any reference or any estimate is zero throughout is NaN for every
    source, and a perfect estimate scores +inf.
    """
    require_comparable(reference_SCT, estimate_SCT)
    if window_samples < 1:
        raise ModelError(f"window_samples={window_samples}: a window has at least one sample")
    num_samples = reference_SCT.shape[-1]
    window = min(window_samples, num_samples)
    true_SCT, made_SCT = reference_SCT.detach().cpu().numpy(), estimate_SCT.detach().cpu().numpy()
    spare_T = np.empty(window)
    ratios_WS = []
    for start in range(0, num_samples - window + 1, window):
        pairs = [(true_CT[:, start : start + window], made_CT[:, start : start + window])
                 for true_CT, made_CT in zip(true_SCT, made_SCT, strict=True)]  # fmt: skip
        energies_2S = torch.tensor([_energies(*pair, spare_T) for pair in pairs], dtype=torch.float64).T
        if not energies_2S.isfinite().all():
            raise ModelError("a reference or an estimate holds NaN or infinite samples; it cannot be scored")
        ratio_S = 10 * torch.log10(energies_2S[0] / energies_2S[1])
        silent = any(_silent(true_CT) or _silent(made_CT) for true_CT, made_CT in pairs)
        ratios_WS.append(torch.full_like(ratio_S, torch.nan) if silent else ratio_S)
    return torch.stack(ratios_WS, dim=-1)


def _energies(true_CT: Samples, made_CT: Samples, spare_T: Samples) -> tuple[float, float]:
    """Of a source and of its error. Channel by channel through one spare row, so that all stays in the cache."""
    energy = error = 0.0
    for true_T, made_T in zip(true_CT, made_CT, strict=True):
        true_T = true_T.astype(np.float64, copy=False)
        miss_T = np.subtract(made_T, true_T, out=spare_T)
        energy, error = energy + float(true_T @ true_T), error + float(miss_T @ miss_T)
    return energy, error


def si_sdr(reference_SCT: Tensor, estimate_SCT: Tensor) -> Tensor:
    """Scale-invariant SDR over the whole excerpt, in dB (Le Roux et al. 2019, without removing means); shape (S,).

    The reference is scaled to fit the estimate best, all channels by one factor. NaN where the reference is silent;
    -inf where the estimate has nothing of it.
    """
    reference_SCT, estimate_SCT = comparable(reference_SCT, estimate_SCT)
    energy_S = energy(reference_SCT)
    gain_S = _products(reference_SCT, estimate_SCT) / energy_S
    scaled_SCT = gain_S[:, None, None] * reference_SCT
    return 10 * torch.log10(energy(scaled_SCT) / energy(estimate_SCT - scaled_SCT))


def ideal_ratio_mask(reference_SCT: Tensor, *, exponent: float = 2.0, nfft: int = 2048) -> Tensor:
    """Estimates (S, C, T) from the mixture by a mask of its STFT that knows the references: an oracle, and no bound.

    Each source's share of the sum over sources of magnitudes to the power `exponent`, per channel and bin; 2 is the
    oracle IRM2 of SiSEC 2018, with frames of `nfft` samples and a quarter of that between them. It keeps the phases of
    the mixture: masks that heed them score higher, and so may models.
    """
    num_samples = reference_SCT.shape[-1]
    window = torch.hann_window(nfft, dtype=reference_SCT.dtype, device=reference_SCT.device)

    def stft(signal_CT: Tensor) -> Tensor:
        spectrum: Tensor = torch.stft(
            signal_CT, nfft, nfft // 4, window=window, pad_mode="constant", return_complex=True
        )
        return spectrum

    power_SCFN = torch.stack([stft(source_CT).abs().pow(exponent) for source_CT in reference_SCT])
    mixture_CFN = stft(reference_SCT.sum(dim=0)) / power_SCFN.sum(dim=0).clamp(min=torch.finfo(window.dtype).tiny)
    return torch.stack(
        [
            torch.istft(power_CFN * mixture_CFN, nfft, nfft // 4, window=window, length=num_samples)
            for power_CFN in power_SCFN
        ]
    )


def silent(reference_SCT: Tensor) -> Tensor:
    """Whether each source is silent over the whole excerpt: its RMS is below -60 dBFS; shape (S,), bool.

    Ratios to such a reference say nothing of a model: what an estimate holds there is leakage.
    """
    return reference_SCT.detach().cpu().double().square().mean(dim=(1, 2)) < SILENT_POWER


def leakage(reference_SCT: Tensor, estimate_SCT: Tensor, mixture_CT: Tensor, window_samples: int) -> Tensor:
    """Level of each estimate where its reference is silent, in dB relative to the mixture there; shape (S,).

    RMS against RMS, over the windows in which the reference is below -60 dBFS and the mixture is not. At least -120 dB;
    NaN where there is no such window.
    """
    reference_SCT, estimate_SCT = comparable(reference_SCT, estimate_SCT)
    window = min(window_samples, reference_SCT.shape[-1])
    mixture_1CT = mixture_CT.detach().cpu().double()[None]
    power_SW, leaked_SW, mixture_1W = (
        _windows(signal_SCT, window).square().mean(dim=(1, 3))
        for signal_SCT in (reference_SCT, estimate_SCT, mixture_1CT)
    )
    counted_SW = (power_SW < SILENT_POWER) & (mixture_1W >= SILENT_POWER)
    leaked_S = (leaked_SW * counted_SW).sum(dim=1) / (mixture_1W * counted_SW).sum(dim=1)  # 0 / 0 is NaN
    return 10 * torch.log10(leaked_S.clamp(min=1e-12))


def sdr_median(sdr_SW: Tensor) -> Tensor:
    """Median over the windows that have a score, the mean of the middle two for an even count; shape (S,).

    NaN where no window has one.
    """
    medians = [np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan for row in sdr_SW.numpy()]
    return torch.tensor(medians, dtype=torch.float64)


def energy(signal_SCT: Tensor) -> Tensor:
    """Sum of squares of each source; shape (S,)."""
    return _products(signal_SCT, signal_SCT)


def _products(one_SCT: Tensor, other_SCT: Tensor) -> Tensor:
    """Inner products, source by source; six times as fast as one batched product of vectors."""
    pairs = zip(one_SCT.flatten(1), other_SCT.flatten(1), strict=True)
    return torch.stack([torch.dot(one_N, other_N) for one_N, other_N in pairs])


def comparable(reference_SCT: Tensor, estimate_SCT: Tensor) -> tuple[Tensor, Tensor]:
    require_comparable(reference_SCT, estimate_SCT)
    return reference_SCT.detach().cpu().double(), estimate_SCT.detach().cpu().double()


def require_comparable(reference_SCT: Tensor, estimate_SCT: Tensor) -> None:
    if reference_SCT.shape != estimate_SCT.shape or reference_SCT.ndim != 3 or not reference_SCT.numel():
        raise ModelError(
            f"reference {tuple(reference_SCT.shape)} and estimate {tuple(estimate_SCT.shape)} must have one shape, "
            "(sources, channels, samples), with at least one sample"
        )


def _windows(signal_SCT: Tensor, window: int) -> Tensor:
    """Cut into whole windows: shape (S, C, windows, samples)."""
    return signal_SCT.unfold(-1, window, window)


def _silent(signal_CT: Samples) -> bool:
    """Whether the channels sum to zero at every sample."""
    # Nearly every window says no in its first samples.
    return not signal_CT[:, :64].sum(axis=0).any() and not signal_CT.sum(axis=0).any()
