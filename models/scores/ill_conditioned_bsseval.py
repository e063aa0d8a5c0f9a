"""BSS Eval where rounding errors decide: set up and solved in the order of museval 0.4.1, to make the same ones.

With references that have next to nothing in some band, filters may do there what they like, and what they do hangs on
the last bits of the equations. So correlations come from one transform over the whole song, and a general solver
takes the matrix with rows by source, channel and lag. Some two times as fast as museval, in half its memory.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def energies(x_SCT: Tensor, y_SCT: Tensor, window: int, taps: int) -> Tensor:
    """|s|², |P-s|², |P|², |Q-P|², |Q|² and |e-Q|² (see `bsseval.py`) in each window; shape (6, S, W)."""
    filters = _filters(x_SCT.flatten(0, 1).numpy(), y_SCT.flatten(0, 1).numpy(), x_SCT.shape[1], taps)
    return filtered_energies(x_SCT, y_SCT, window, *filters)


def filtered_energies(x_SCT: Tensor, y_SCT: Tensor, window: int, all_LKE: Tensor, own_SLCC: Tensor) -> Tensor:
    """The same with filters (L, K, E) on all references, and (S, L, C, C) on each source's own: sample by sample."""
    taps = len(all_LKE)
    length = window + taps - 1
    size = 1 << (length - 1).bit_length()
    all_FKE = torch.fft.rfft(all_LKE, n=size, dim=0)
    own_SFCC = torch.fft.rfft(own_SLCC, n=size, dim=1)
    windows = []
    for start in range(0, x_SCT.shape[-1] - window + 1, window):
        s_SCT, e_SCT = (
            torch.nn.functional.pad(signal_SCT[..., start : start + window].double(), (0, taps - 1))
            for signal_SCT in (x_SCT, y_SCT)
        )
        s_SFC = torch.fft.rfft(s_SCT, n=size).mT
        p_SCT = torch.fft.irfft((s_SFC[:, :, None] @ own_SFCC)[:, :, 0].mT, n=size)[..., :length]
        q_FE = (s_SFC.transpose(0, 1).flatten(1)[:, None] @ all_FKE)[:, 0]
        q_SCT = torch.fft.irfft(q_FE.T, n=size)[..., :length].reshape(s_SCT.shape)
        parts = (s_SCT, p_SCT - s_SCT, p_SCT, q_SCT - p_SCT, q_SCT, e_SCT - q_SCT)
        windows.append(torch.stack([part.square().sum(dim=(1, 2)) for part in parts]))
    return torch.stack(windows, dim=-1)


def _filters(x_KT: Array, y_ET: Array, num_channels: int, taps: int) -> tuple[Tensor, Tensor]:
    """Filters (L, K, E) on all references, and (S, L, C, C) on each source's own."""
    size, num_columns = len(x_KT), len(y_ET)
    matrix_KLKL, right_KLE = _equations(x_KT, y_ET, taps)
    everything = slice(0, size)
    all_KLE = _solved(matrix_KLKL, right_KLE, everything, slice(0, num_columns))
    own = [slice(start, start + num_channels) for start in range(0, size, num_channels)]
    own_SCLC = [_solved(matrix_KLKL, right_KLE, mine, mine) for mine in own]
    return torch.from_numpy(all_KLE).transpose(0, 1), torch.from_numpy(np.stack(own_SCLC)).transpose(1, 2)


def _solved(matrix_KLKL: Array, right_KLE: Array, rows: slice, columns: slice) -> Array:
    part, right_KLE = matrix_KLKL[rows, :, rows], right_KLE[rows, :, columns]
    order = right_KLE.shape[0] * right_KLE.shape[1]
    square = part.reshape(order, order) + np.finfo(np.float64).eps * np.eye(order)
    solved = np.linalg.solve(square, right_KLE.reshape(order, -1))
    return np.asarray(solved, np.float64).reshape(right_KLE.shape)


def _equations(x_KT: Array, y_ET: Array, taps: int) -> tuple[Array, Array]:
    """The matrix (K, L, K, L) and right-hand sides (K, L, E), one pair of channels after the other."""
    from scipy import fft

    size = len(x_KT)
    length = 1 << (x_KT.shape[1] + taps - 2).bit_length()
    x_KF = [fft.rfft(x_T, n=length) for x_T in x_KT]
    matrix_KLKL = np.empty((size, taps, size, taps))
    right_KLE = np.empty((size, taps, len(y_ET)))
    for first in range(size):
        for second in range(first, size):
            forth_L, back_L = _lags(x_KF[second], x_KF[first], length, taps)
            block_LL = _toeplitz(back_L, forth_L)
            matrix_KLKL[second, :, first], matrix_KLKL[first, :, second] = block_LL, block_LL.T
    for column, y_T in enumerate(y_ET):
        y_F = fft.rfft(y_T, n=length)
        for row, x_F in enumerate(x_KF):
            right_KLE[row, :, column] = _lags(x_F, y_F, length, taps)[1]
    return matrix_KLKL, right_KLE


def _lags(one_F: NDArray[np.complex128], other_F: NDArray[np.complex128], length: int, taps: int) -> Sequence[Array]:
    """Correlations at lags 0 to L-1, and at 0 to 1-L. By a complex transform: a real one would round otherwise."""
    from scipy import fft

    product = np.empty(length, np.complex128)
    half = length // 2 + 1
    product[:half] = one_F * np.conj(other_F)
    product[half:] = np.conj(product[half - 2 : 0 : -1])
    lags = np.real(fft.ifft(product, overwrite_x=True))
    return lags[:taps], np.concatenate([lags[:1], lags[:-taps:-1]])


def _toeplitz(column_L: Array, row_L: Array) -> Array:
    from scipy.linalg import toeplitz

    return np.asarray(toeplitz(column_L, row_L))
