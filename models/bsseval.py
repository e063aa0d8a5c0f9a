"""BSS Eval v4: how far an estimate is off, split into spatial distortion, interference and artifacts.

Vincent et al. 2006, in the version of Stöter, Liutkus and Ito 2018: an estimate e is projected on what 512-tap filters
can make of its own reference s (P) and of all references (Q); the filters are fitted once over the whole song, and
energies are compared in windows. ISR = |s|²/|P-s|², SIR = |P|²/|Q-P|², SAR = |Q|²/|e-Q|², SDR = |s|²/|e-s|².

No signal is filtered here. All that is needed are correlations at lags below 512, taken window by window with short
FFTs: their sum over the song gives the normal equations, and the energies of a window are quadratic forms in the
filters. The equations are block Toeplitz and solved by block Levinson, unless its residual is too large; then by
Cholesky, then by LU. The answer says which it was, and how well the equations were conditioned.

Shape letters: K reference channels, E estimate channels, Z both; L lags; W windows; N blocks; F frequency bins.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

import torch
from torch import Tensor

from .metrics import sdr_windows

TAPS = 512
_FFT = 2048
_RESIDUAL = 1e-12  # of the normal equations, relative to the right-hand side
_IN_MEMORY = 64 << 20  # bytes of correlations, about two minutes of four stereo sources; more go to a temporary file
_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, slots=True, kw_only=True)
class BssScores:
    """Decibels of shape (S, W), float64; NaN in windows where a reference or an estimate is silent."""

    sdr_SW: Tensor
    isr_SW: Tensor
    sir_SW: Tensor
    sar_SW: Tensor
    solver: str  # "levinson", "cholesky" or "lu"; "none" when every window is silent
    residual: float  # of the normal equations, relative to the right-hand side
    conditioning: float  # 0 to 1; near 1e-16 rounding errors decide on ISR, SIR and SAR


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solution:
    """Filters that solve the normal equations, and how far to trust them."""

    filters_LKE: Tensor
    solver: str
    residual: float
    conditioning: float


def bss_eval(reference_SCT: Tensor, estimate_SCT: Tensor, window_samples: int, *, taps: int = TAPS) -> BssScores:
    """All four scores of every source, in windows that do not overlap.

    The rules for windows are those of `metrics.sdr_windows`. Channels of a source that are copies of each other count
    once, since what filters can make of them is the same. Memory does not grow with the song beyond two minutes.
    """
    sdr_SW = sdr_windows(reference_SCT, estimate_SCT, window_samples)
    silent_SW = sdr_SW.isnan()
    if silent_SW.all():
        scores = dict.fromkeys(("sdr_SW", "isr_SW", "sir_SW", "sar_SW"), sdr_SW)
        return BssScores(**scores, solver="none", residual=0.0, conditioning=0.0)
    x_SCT, y_SCT = reference_SCT.detach().cpu().double(), estimate_SCT.detach().cpu().double()
    window = min(window_samples, x_SCT.shape[-1])
    mixing_SCK = _independent(x_SCT)
    kept_K = mixing_SCK.flatten(0, 1).argmax(dim=0)
    z_ZT = torch.cat([x_SCT.flatten(0, 1)[kept_K], y_SCT.flatten(0, 1)])
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
        total_KZL = _correlate_song(z_ZT, len(kept_K), window, taps, spool)
        solution, forms = _quadratic_forms(total_KZL, mixing_SCK)
        spool.seek(0)
        energies_5SW = torch.stack([forms(window_KZL) for window_KZL in _read_back(spool, total_KZL)], dim=-1)
    spatial_SW, image_SW, interference_SW, all_SW, overlap_SW = energies_5SW
    artifacts_SW = _energy(y_SCT, window) - 2 * overlap_SW + all_SW

    def ratio(top_SW: Tensor, bottom_SW: Tensor) -> Tensor:
        return (10 * torch.log10(top_SW / bottom_SW.clamp(min=0))).masked_fill(silent_SW, torch.nan)

    return BssScores(
        sdr_SW=sdr_SW,
        isr_SW=ratio(_energy(x_SCT, window), spatial_SW),
        sir_SW=ratio(image_SW, interference_SW),
        sar_SW=ratio(all_SW, artifacts_SW),
        solver=solution.solver,
        residual=solution.residual,
        conditioning=solution.conditioning,
    )


def _energy(signal_SCT: Tensor, window: int) -> Tensor:
    """Of each source in each window: shape (S, W). As products, which write no squares into memory."""
    num_sources, num_channels, num_samples = signal_SCT.shape
    rows = signal_SCT[..., : num_samples // window * window].reshape(-1, 1, window)
    return torch.bmm(rows, rows.mT).view(num_sources, num_channels, -1).sum(dim=1)


def _independent(x_SCT: Tensor) -> Tensor:
    """How each channel is made of those that are no multiple of another of their source: shape (S, C, K)."""
    num_sources, num_channels, _ = x_SCT.shape
    columns: list[Tensor] = []
    for source in range(num_sources):
        mine: list[tuple[Tensor, Tensor]] = []
        for channel in range(num_channels):
            x_T = x_SCT[source, channel]
            for first_T, column_SC in mine:
                gain = torch.dot(x_T, first_T) / torch.dot(first_T, first_T)
                if torch.equal(gain * first_T, x_T):
                    column_SC[source, channel] = gain
                    break
            else:
                if x_T.any():
                    column_SC = torch.zeros(num_sources, num_channels, dtype=torch.float64)
                    column_SC[source, channel] = torch.inf  # the largest of its column, until all are known
                    mine.append((x_T, column_SC))
                    columns.append(column_SC)
    return torch.stack(columns, dim=-1)


# --- correlations -------------------------------------------------------------------------------------------


def _correlate_song(z_ZT: Tensor, num_references: int, window: int, taps: int, spool: IO[bytes]) -> Tensor:
    """Sums over t of x(t) z(t + lag) over the whole song, shape (K, Z, L); those of each window go to `spool`."""
    num_samples = z_ZT.shape[1]
    last = num_samples // window * window
    total_KZL = torch.zeros(num_references, len(z_ZT), taps, dtype=torch.float64)
    for start in range(0, num_samples, window):
        stop = min(start + window, num_samples)
        inside_KZL = _correlate(z_ZT[:num_references, start:stop], z_ZT[:, start:stop], taps)
        if start < last:
            spool.write(inside_KZL.numpy().tobytes())
        total_KZL += inside_KZL
        ahead_ZT = z_ZT[:, stop : stop + taps - 1]
        if ahead_ZT.shape[1]:
            tail_KT = z_ZT[:num_references, max(start, stop - taps + 1) : stop]
            silence_ZT = torch.zeros(len(z_ZT), tail_KT.shape[1], dtype=torch.float64)
            total_KZL += _correlate(tail_KT, torch.cat([silence_ZT, ahead_ZT], dim=1), taps)
    return total_KZL


def _correlate(x_KT: Tensor, z_ZT: Tensor, taps: int) -> Tensor:
    """Sums over t of x(t) z(t + lag) for lags 0 to L-1, silence all around: shape (K, Z, L)."""
    size = max(_FFT, 1 << (2 * taps - 1).bit_length())
    step = size - taps + 1
    blocks = -(-x_KT.shape[1] // step)
    x_KNT = torch.nn.functional.pad(x_KT, (0, blocks * step - x_KT.shape[1])).view(-1, blocks, step)
    beyond = (blocks - 1) * step + size - z_ZT.shape[1]
    z_ZNT = torch.nn.functional.pad(z_ZT, (0, beyond)).unfold(1, size, step)
    x_FKN = torch.fft.rfft(x_KNT, n=size).permute(2, 0, 1).contiguous()
    z_FNZ = torch.fft.rfft(z_ZNT, n=size).permute(2, 1, 0).contiguous()
    product_FKZ = torch.bmm(x_FKN.conj().resolve_conj(), z_FNZ)
    lags_KZT: Tensor = torch.fft.irfft(product_FKZ.permute(1, 2, 0), n=size)
    return lags_KZT[..., :taps].contiguous()


def _read_back(spool: IO[bytes], like: Tensor) -> Iterator[Tensor]:
    while data := spool.read(like.nbytes):
        yield torch.frombuffer(bytearray(data), dtype=torch.float64).view_as(like)


# --- filters ------------------------------------------------------------------------------------------------


def _quadratic_forms(total_KZL: Tensor, mixing_SCK: Tensor) -> tuple[_Solution, Callable[[Tensor], Tensor]]:
    """The filters on all references, and what turns a window's correlations into energies of shape (5, S).

    These are |P-s|², |P|², |Q-P|², |Q|² and the product of e and Q.
    """
    num_sources, num_channels, num_references = mixing_SCK.shape
    blocks_LKK = total_KZL[:, :num_references].permute(2, 0, 1).contiguous()
    right_LKE = total_KZL[:, num_references:].permute(2, 0, 1).contiguous()
    solution = _solve(blocks_LKK, right_LKE, (_levinson, _cholesky, _lu))
    forms_4SKKL, products_SKEL = [], torch.zeros(num_sources, *right_LKE.permute(1, 2, 0).shape, dtype=torch.float64)
    for source in range(num_sources):
        mine_E = slice(source * num_channels, (source + 1) * num_channels)
        mine_K = mixing_SCK[source].isinf().any(dim=0).nonzero().flatten()
        own = _solve(blocks_LKK[:, mine_K][:, :, mine_K].contiguous(), right_LKE[:, mine_K, mine_E], (_cholesky, _lu))
        all_LKC = solution.filters_LKE[..., mine_E]
        own_LKC = torch.zeros_like(all_LKC)
        own_LKC[:, mine_K] = own.filters_LKE
        spatial_LKC = own_LKC.clone()
        spatial_LKC[0] -= mixing_SCK[source].T.nan_to_num(posinf=1.0)
        forms_4SKKL.append([_form(f_LKC) for f_LKC in (spatial_LKC, own_LKC, all_LKC - own_LKC, all_LKC)])
        products_SKEL[source, :, mine_E] = all_LKC.permute(1, 2, 0)
    squares = torch.stack([form for row in forms_4SKKL for form in row]).flatten(1)
    products = products_SKEL.flatten(1)

    def energies(window_KZL: Tensor) -> Tensor:
        squares_S4 = (squares @ window_KZL[:, :num_references].flatten()).view(num_sources, 4)
        overlaps_S = products @ window_KZL[:, num_references:].flatten()
        return torch.cat([squares_S4, overlaps_S[:, None]], dim=1).T

    return solution, energies


def _form(filters_LKC: Tensor) -> Tensor:
    """Weights (K, K, L) whose product with a window's correlations is the energy of all references, filtered."""
    taps = len(filters_LKC)
    spectra_FKC = torch.fft.rfft(filters_LKC, n=2 * taps, dim=0)
    form_KKL: Tensor = torch.fft.irfft((spectra_FKC @ spectra_FKC.mH).permute(1, 2, 0), n=2 * taps)[..., :taps]
    form_KKL[..., 1:] *= 2  # negative lags are the positive ones of the channels in the other order
    return form_KKL


def _solve(
    blocks_LKK: Tensor, right_LKE: Tensor, methods: Sequence[Callable[[Tensor, Tensor], tuple[Tensor, float]]]
) -> _Solution:
    """Filters whose residual is small enough, by the first method that gets there, or else the best found."""
    blocks_LKK = blocks_LKK.clone()
    blocks_LKK[0] += _EPS * torch.eye(blocks_LKK.shape[1], dtype=torch.float64)
    best: _Solution | None = None
    conditioning = 1.0
    for method in methods:
        filters_LKE, seen = method(blocks_LKK, right_LKE)
        conditioning = min(conditioning, seen)
        residual = _residual(blocks_LKK, filters_LKE, right_LKE)
        if best is None or not residual >= best.residual:
            name = method.__name__.strip("_")
            best = _Solution(filters_LKE=filters_LKE, solver=name, residual=residual, conditioning=conditioning)
        if best.residual <= _RESIDUAL:
            break
    assert best is not None
    return replace(best, conditioning=conditioning)


def _residual(blocks_LKK: Tensor, filters_LKE: Tensor, right_LKE: Tensor) -> float:
    """Relative to the right-hand side, by FFT; infinite where a filter is not a number."""
    if not filters_LKE.isfinite().all():
        return torch.inf
    taps = len(blocks_LKK)
    both_LKK = torch.zeros(2 * taps, *blocks_LKK.shape[1:], dtype=torch.float64)
    both_LKK[:taps] = blocks_LKK
    both_LKK[taps + 1 :] = blocks_LKK[1:].flip(0).mT
    product_FKE = torch.fft.rfft(both_LKK, dim=0) @ torch.fft.rfft(filters_LKE, n=2 * taps, dim=0)
    left_LKE = torch.fft.irfft(product_FKE, n=2 * taps, dim=0)[:taps]
    return float((left_LKE - right_LKE).norm() / right_LKE.norm())


def _levinson(blocks_LKK: Tensor, right_LKE: Tensor) -> tuple[Tensor, float]:
    """Block Levinson recursion (Whittle 1963, Akaike 1973) for blocks M(k - l) with M(-n) the transpose of M(n)."""
    taps, size, num_columns = right_LKE.shape
    # Blocks side by side, the highest lag first: the last n of them stand against a vector of n blocks.
    falling = blocks_LKK.flip(0).permute(1, 0, 2).reshape(size, taps * size)
    rising = blocks_LKK.mT.permute(1, 0, 2).reshape(size, taps * size)
    identity = torch.eye(size, dtype=torch.float64)
    forward, backward = torch.zeros(2, taps * size, size, dtype=torch.float64)
    forward[:size] = backward[:size] = identity
    answer = torch.zeros(taps * size, num_columns, dtype=torch.float64)
    error_f = error_b = blocks_LKK[0]
    answer[:size] = torch.linalg.solve(error_b, right_LKE[0])
    for n in range(1, taps):
        used, more = n * size, (n + 1) * size
        against = falling[:, (taps - 1 - n) * size : (taps - 1) * size]
        miss_f = against @ forward[:used]
        miss_b = rising[:, size:more] @ backward[:used]
        gain_f, gain_b = torch.linalg.solve(error_b, miss_f), torch.linalg.solve(error_f, miss_b)
        old = forward[:used].clone()
        forward[size:more] -= backward[:used] @ gain_f
        backward[size:more] = backward[:used].clone()
        backward[:size] = 0
        backward[:used] -= old @ gain_b
        error_f, error_b = error_f - miss_b @ gain_f, error_b - miss_f @ gain_b
        missing = right_LKE[n] - against @ answer[:used]
        answer[:more] += backward[:more] @ torch.linalg.solve(error_b, missing)
    least = float(torch.linalg.eigvalsh((error_b + error_b.T) / 2)[0])
    largest = float(torch.linalg.eigvalsh(blocks_LKK[0])[-1])
    return answer.view(taps, size, num_columns), max(0.0, least / largest)


def _cholesky(blocks_LKK: Tensor, right_LKE: Tensor) -> tuple[Tensor, float]:
    factor, failed = torch.linalg.cholesky_ex(_dense(blocks_LKK))
    if failed:
        return torch.full_like(right_LKE, torch.nan), 0.0
    diagonal = factor.diagonal()
    answer = torch.cholesky_solve(right_LKE.flatten(0, 1), factor)
    return answer.view_as(right_LKE), float((diagonal.min() / diagonal.max()).square())


def _lu(blocks_LKK: Tensor, right_LKE: Tensor) -> tuple[Tensor, float]:
    """As museval solves it; what pivots are left says how well it went."""
    factor, pivots = torch.linalg.lu_factor(_dense(blocks_LKK))
    diagonal = factor.diagonal().abs()
    answer = torch.linalg.lu_solve(factor, pivots, right_LKE.flatten(0, 1))
    return answer.view_as(right_LKE), float(diagonal.min() / diagonal.max())


def _dense(blocks_LKK: Tensor) -> Tensor:
    """The whole matrix, block (k, l) being M(k - l)."""
    taps, size = blocks_LKK.shape[:2]
    both_LKK = torch.cat([blocks_LKK[1:].flip(0).mT, blocks_LKK])  # lags 1-L to L-1
    lag_LL = torch.arange(taps)[:, None] - torch.arange(taps) + taps - 1
    return both_LKK[lag_LL].permute(0, 2, 1, 3).reshape(taps * size, taps * size)
