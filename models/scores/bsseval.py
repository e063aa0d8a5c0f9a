"""BSS Eval v4: how far an estimate is off, split into spatial distortion, interference and artifacts.

Vincent et al. 2006, in the version of Stöter, Liutkus and Ito 2018: an estimate e is projected on what 512-tap filters
can make of its own reference s (P) and of all references (Q); the filters are fitted once over the whole song, and
energies are compared in windows. ISR = |s|²/|P-s|², SIR = |P|²/|Q-P|², SAR = |Q|²/|e-Q|², SDR = |s|²/|e-s|².

No signal is filtered here. All that is needed are correlations at lags below 512, taken window by window with short
FFTs: their sum over the song gives the normal equations, and the energies of a window are quadratic forms in the
filters. `toeplitz.py` solves the equations. Where these are so ill-conditioned that a residual stays, or that filters
amplify what is hardly there, rounding errors decide on the scores, and `ill_conditioned_bsseval.py` makes the same
errors as museval; the answer says so.

Shape letters: K reference channels, E estimate channels, Z both; L lags; W windows; N blocks; F frequency bins.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from torch import Tensor

from . import ill_conditioned_bsseval
from .metrics import energy, sdr_windows
from .toeplitz import Solution, solve

TAPS = 512
IN_SPAN = 1e-11  # artifacts below that, relative to what filters make of the references, are measured sample by sample
ILL_CONDITIONED = "lu"  # the solver of songs on whose ISR, SIR and SAR rounding errors decide
_FFT = 2048  # samples; at least twice the taps
_AT_ONCE = 8  # windows whose energies are one product
_IN_CACHE = 6  # blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class BssScores:
    """Decibels of shape (S, W), float64; NaN in windows where a reference or an estimate is silent."""

    sdr_SW: Tensor
    isr_SW: Tensor
    sir_SW: Tensor
    sar_SW: Tensor
    solver: str  # "levinson", "refined" or "lu": the slowest that was needed; "none" when every window is silent
    residual: float  # of the normal equations, relative to the right-hand side, as the first two left it
    conditioning: float  # 0 to 1, the least over the largest pivot


def bss_eval(reference_SCT: Tensor, estimate_SCT: Tensor, window_samples: int, *, taps: int = TAPS) -> BssScores:
    """All four scores of every source, in windows that do not overlap.

    The rules for windows are those of `metrics.sdr_windows`. Channels of a source that are copies of each other count
    once, since what filters can make of them is the same. Memory does not grow with the song (correlations wait in a
    temporary file, half a megabyte a window), unless the equations need the slowest solver.
    """
    sdr_SW = sdr_windows(reference_SCT, estimate_SCT, window_samples)
    silent_SW = sdr_SW.isnan()
    if silent_SW.all():
        scores = dict.fromkeys(("sdr_SW", "isr_SW", "sir_SW", "sar_SW"), sdr_SW)
        return BssScores(**scores, solver="none", residual=0.0, conditioning=0.0)
    x_SCT, y_SCT = reference_SCT.detach().cpu(), estimate_SCT.detach().cpu()
    window = min(window_samples, x_SCT.shape[-1])
    mixing_SCK = _independent(x_SCT)
    with tempfile.TemporaryFile() as spool:
        total_KZL, estimates_SW = _correlate_song(x_SCT, y_SCT, mixing_SCK, window, taps, spool)
        solutions = _solutions(total_KZL, mixing_SCK)
        solver = _slowest(solutions)
        if solver == ILL_CONDITIONED:
            energies_6SW = ill_conditioned_bsseval.energies(x_SCT.double(), y_SCT.double(), window, taps)
        else:
            forms = _quadratic_forms(solutions, mixing_SCK)
            spool.seek(0)
            energies_6SW = torch.cat([forms(some_WKZL) for some_WKZL in _read_back(spool, total_KZL)], dim=-1)
            energies_6SW[5] += estimates_SW
            if (energies_6SW[5] < IN_SPAN * energies_6SW[4])[~silent_SW].any():
                # What a difference of energies leaves is rounding errors; that of samples leaves more.
                filters = _on_all_channels(solutions, mixing_SCK)
                energies_6SW = ill_conditioned_bsseval.filtered_energies(x_SCT, y_SCT, window, *filters)
    true_SW, spatial_SW, image_SW, interference_SW, all_SW, artifacts_SW = energies_6SW

    def ratio(top_SW: Tensor, bottom_SW: Tensor) -> Tensor:
        return (10 * torch.log10(top_SW / bottom_SW.clamp(min=0))).masked_fill(silent_SW, torch.nan)

    return BssScores(
        sdr_SW=sdr_SW,
        isr_SW=ratio(true_SW, spatial_SW),
        sir_SW=ratio(image_SW, interference_SW),
        sar_SW=ratio(all_SW, artifacts_SW),
        solver=solver,
        residual=max(solution.residual for solution in solutions),
        conditioning=min(solution.conditioning for solution in solutions),
    )


def _independent(x_SCT: Tensor) -> Tensor:
    """How each channel is made of those that are no multiple of another of their source: shape (S, C, K)."""
    num_sources, num_channels, _ = x_SCT.shape
    columns: list[Tensor] = []
    for source in range(num_sources):
        mine: list[tuple[Tensor, Tensor]] = []
        for channel in range(num_channels):
            x_T = x_SCT[source, channel]
            for first_T, column_SC in mine:
                if (gain := _multiple(x_T, first_T)) is not None:
                    column_SC[source, channel] = gain
                    break
            else:
                if x_T.any():
                    column_SC = torch.zeros(num_sources, num_channels, dtype=torch.float64)
                    column_SC[source, channel] = torch.inf  # the largest of its column, until all are known
                    mine.append((x_T, column_SC))
                    columns.append(column_SC)
    return torch.stack(columns, dim=-1)


def _multiple(x_T: Tensor, first_T: Tensor) -> float | None:
    """The factor by which one channel is another, sample for sample; None where it is not."""
    loudest = int(first_T.argmax())
    gain = x_T[loudest] / first_T[loudest]
    around = slice(max(0, loudest - 50), loudest + 50)  # where nearly all pairs differ already
    same = torch.equal(gain * first_T[around], x_T[around]) and torch.equal(gain * first_T, x_T)
    return float(gain) if same else None


# --- correlations -------------------------------------------------------------------------------------------


def _correlate_song(
    x_SCT: Tensor, y_SCT: Tensor, mixing_SCK: Tensor, window: int, taps: int, spool: IO[bytes]
) -> tuple[Tensor, Tensor]:
    """Sums over t of x(t) z(t + lag) over the whole song, shape (K, Z, L), and the estimates' energies (S, W).

    The sums of each window, with silence around it, go to `spool`.
    """
    # Row by row: indexed all at once, with a slice beside, each window costs as much as the song is long.
    channels = [x_T for x_CT in x_SCT for x_T in x_CT]
    kept = [channels[row] for row in mixing_SCK.flatten(0, 1).argmax(dim=0).tolist()]
    signals = [*kept, *(y_T for y_CT in y_SCT for y_T in y_CT)]
    size, num_samples = len(kept), x_SCT.shape[-1]
    total_KZL = torch.zeros(size, size + y_SCT[..., 0].numel(), taps, dtype=torch.float64)
    across_FKZ: Tensor | None = None
    ends: list[Tensor] = []
    # Filled in place: small tensors that stay, one a window, would keep what is freed between them in pieces.
    estimates_SW = torch.empty(len(y_SCT), num_samples // window, dtype=torch.float64)
    for place, start in enumerate(range(0, num_samples, window)):
        # With what lies ahead of the window, which its last samples meet.
        z_ZT = torch.stack([signal_T[start : start + window + taps - 1].double() for signal_T in signals])
        inside_ZT = z_ZT[:, :window]
        if inside_ZT.shape[1] < window:  # a last partial window only counts for the whole
            across_FKZ = _cross_spectra(*_blocks(inside_ZT, size, taps), across_FKZ)
            break
        inside_KZL = _lags(_cross_spectra(*_blocks(inside_ZT, size, taps)), taps)
        spool.write(inside_KZL.numpy().data)
        total_KZL += inside_KZL
        estimates_SW[:, place] = energy(inside_ZT[size:].reshape(*y_SCT.shape[:2], window))
        ends.append(z_ZT[:, max(0, window - taps + 1) :].clone())  # a view would keep its window
        if len(ends) == _AT_ONCE:
            across_FKZ = _cross_spectra(*_across(ends, window, size, taps), across_FKZ)
            ends = []
    if ends:
        across_FKZ = _cross_spectra(*_across(ends, window, size, taps), across_FKZ)
    if across_FKZ is not None:
        total_KZL += _lags(across_FKZ, taps)
    return total_KZL, estimates_SW


def _blocks(z_ZT: Tensor, size: int, taps: int) -> tuple[Tensor, Tensor]:
    """References cut into blocks, and everything in blocks that are longer by the lags, with silence around."""
    step = _FFT - taps + 1
    blocks = -(-z_ZT.shape[1] // step)
    padded_ZT = torch.nn.functional.pad(z_ZT, (0, (blocks - 1) * step + _FFT - z_ZT.shape[1]))
    z_ZNT = padded_ZT.unfold(1, _FFT, step)
    return z_ZNT[:size, :, :step], z_ZNT


def _across(ends: list[Tensor], window: int, size: int, taps: int) -> tuple[Tensor, Tensor]:
    """References before the ends of windows, and everything after them: what `_blocks` of each window leave out."""
    before = min(window, taps - 1)
    padded = [torch.nn.functional.pad(end_ZT, (0, before + taps - 1 - end_ZT.shape[1])) for end_ZT in ends]
    both_ZNT = torch.stack(padded, dim=1)
    x_KNT = both_ZNT[:size, :, :before].clone()
    both_ZNT[..., :before] = 0
    return x_KNT, both_ZNT


def _cross_spectra(x_KNT: Tensor, z_ZNT: Tensor, total_FKZ: Tensor | None = None) -> Tensor:
    """Spectra (F, K, Z) of the sums over t of x(t) z(t + lag) and over blocks; added to `total_FKZ`."""
    for first in range(0, x_KNT.shape[1], _IN_CACHE):
        some = slice(first, first + _IN_CACHE)
        x_FNK = torch.fft.rfft(x_KNT[:, some], n=_FFT).permute(2, 1, 0).contiguous()
        z_FNZ = torch.fft.rfft(z_ZNT[:, some], n=_FFT).permute(2, 1, 0).contiguous()
        total_FKZ = torch.bmm(x_FNK.mH, z_FNZ) if total_FKZ is None else total_FKZ.baddbmm_(x_FNK.mH, z_FNZ)
    assert total_FKZ is not None
    return total_FKZ


def _lags(spectra_FKZ: Tensor, taps: int) -> Tensor:
    """Correlations (K, Z, L) at lags 0 to L-1."""
    product_KZT: Tensor = torch.fft.irfft(spectra_FKZ.permute(1, 2, 0))
    return product_KZT[..., :taps].contiguous()


def _read_back(spool: IO[bytes], like: Tensor) -> Iterator[Tensor]:
    while data := spool.read(_AT_ONCE * like.nbytes):
        yield torch.from_numpy(np.frombuffer(bytearray(data))).view(-1, *like.shape)


# --- filters ------------------------------------------------------------------------------------------------


def _solutions(total_KZL: Tensor, mixing_SCK: Tensor) -> list[Solution]:
    """Filters on all references for every estimate, then those on each source's own for its own."""
    num_channels, num_references = mixing_SCK.shape[1:]
    blocks_LKK = total_KZL[:, :num_references].permute(2, 0, 1)
    right_LKE = total_KZL[:, num_references:].permute(2, 0, 1)
    solutions = [solve(blocks_LKK, right_LKE)]
    for source, mine_K in enumerate(_own(mixing_SCK)):
        mine_E = slice(source * num_channels, (source + 1) * num_channels)
        if not solutions[-1].good:
            break
        solutions.append(solve(blocks_LKK[:, mine_K][:, :, mine_K], right_LKE[:, mine_K, mine_E]))
    return solutions


def _own(mixing_SCK: Tensor) -> list[Tensor]:
    """Which references are of each source."""
    return [mixing_CK.isinf().any(dim=0).nonzero().flatten() for mixing_CK in mixing_SCK]


def _on_all_channels(solutions: list[Solution], mixing_SCK: Tensor) -> tuple[Tensor, Tensor]:
    """Filters (L, K, E) on the channels of all references, and (S, L, C, C) on each source's own; copies have none."""
    num_sources, num_channels, _ = mixing_SCK.shape
    kept_K = mixing_SCK.flatten(0, 1).argmax(dim=0)
    filters_LKE = solutions[0].filters_LKE
    all_LKE = filters_LKE.new_zeros(len(filters_LKE), num_sources * num_channels, num_sources * num_channels)
    all_LKE[:, kept_K] = filters_LKE
    own_SLCC = filters_LKE.new_zeros(num_sources, len(filters_LKE), num_channels, num_channels)
    for source, mine_K in enumerate(_own(mixing_SCK)):
        own_SLCC[source][:, kept_K[mine_K] - source * num_channels] = solutions[1 + source].filters_LKE
    return all_LKE, own_SLCC


def _slowest(solutions: list[Solution]) -> str:
    if not all(solution.good for solution in solutions):
        return ILL_CONDITIONED
    return max((solution.solver for solution in solutions), key=("levinson", "refined").index)


def _quadratic_forms(solutions: list[Solution], mixing_SCK: Tensor) -> Callable[[Tensor], Tensor]:
    """What turns the correlations of windows (W, K, Z, L) into energies of shape (6, S, W).

    These are |s|², |P-s|², |P|², |Q-P|², |Q|², and |Q|² less twice the product of e and Q.
    """
    num_sources, num_channels, num_references = mixing_SCK.shape
    all_LKE = solutions[0].filters_LKE
    taps = len(all_LKE)
    forms_5SKKL, products_SKEL = [], torch.zeros(num_sources, *all_LKE.permute(1, 2, 0).shape, dtype=torch.float64)
    for source, mine_K in enumerate(_own(mixing_SCK)):
        mine_E = slice(source * num_channels, (source + 1) * num_channels)
        all_LKC = all_LKE[..., mine_E]
        own_LKC, true_LKC = torch.zeros(2, taps, num_references, num_channels, dtype=torch.float64)
        own_LKC[:, mine_K] = solutions[1 + source].filters_LKE
        true_LKC[0] = mixing_SCK[source].T.nan_to_num(posinf=1.0)
        filters = (true_LKC, own_LKC - true_LKC, own_LKC, all_LKC - own_LKC, all_LKC)
        forms_5SKKL.append(torch.stack([_form(f_LKC) for f_LKC in filters]))
        products_SKEL[source, :, mine_E] = all_LKC.permute(1, 2, 0)
    squares = torch.stack(forms_5SKKL, dim=1).flatten(0, 1).flatten(1)
    products = products_SKEL.flatten(1)

    def energies(windows_WKZL: Tensor) -> Tensor:
        squares_5SW = (squares @ windows_WKZL[:, :, :num_references].flatten(1).T).view(5, num_sources, -1)
        overlaps_SW = products @ windows_WKZL[:, :, num_references:].flatten(1).T
        return torch.cat([squares_5SW, (squares_5SW[4] - 2 * overlaps_SW)[None]])

    return energies


def _form(filters_LKC: Tensor) -> Tensor:
    """Weights (K, K, L) whose product with a window's correlations is the energy of all references, filtered."""
    taps = len(filters_LKC)
    spectra_FKC = torch.fft.rfft(filters_LKC, n=2 * taps, dim=0)
    form_KKL: Tensor = torch.fft.irfft((spectra_FKC @ spectra_FKC.mH).permute(1, 2, 0), n=2 * taps)[..., :taps]
    form_KKL[..., 1:] *= 2  # negative lags are the positive ones of the channels in the other order
    return form_KKL
