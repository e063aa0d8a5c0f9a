"""Normal equations whose matrix is block Toeplitz: solved by block Levinson, and how far to trust it.

Block (k, l) of the matrix is M(k - l), with M(-n) the transpose of M(n): correlations of K channels at lags below L.

Shape letters: K channels, E right-hand sides, L lags.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RESIDUAL = 1e-12  # of the equations, relative to the right-hand side: what a solution must reach
# Filters may be that much louder than what they answer to. In 15 real excerpts they are up to 23 times, and scores are
# museval's within 2e-7 dB; in AAC decoded to floats, with next to nothing above 16 kHz, 350 times and 0.01 dB.
AMPLIFICATION = 100.0
_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Filters, and how far to trust them."""

    filters_LKE: Tensor
    solver: str  # "levinson", or "refined" where it was needed twice
    residual: float  # relative to the right-hand side
    conditioning: float  # 0 to 1: the least over the largest pivot
    amplification: float  # of filters over their right-hand side, as if all references were equally loud

    @property
    def good(self) -> bool:
        return self.residual <= RESIDUAL and self.amplification <= AMPLIFICATION


def solve(blocks_LKK: Tensor, right_LKE: Tensor) -> Solution:
    """By block Levinson; once more, for what the first time left over, if that is too much."""
    blocks_LKK = blocks_LKK.clone()
    blocks_LKK[0] = (blocks_LKK[0] + blocks_LKK[0].mT) / 2  # but for rounding it is symmetric already
    # As museval does; it lets a source that is silent but for one channel through.
    blocks_LKK[0] += _EPS * torch.eye(blocks_LKK.shape[-1], dtype=torch.float64)
    matrix_FKK = _spectra(blocks_LKK)
    solver = "levinson"
    with np.errstate(all="ignore"):  # the recursion may break down; what is left over tells
        filters_LKE, conditioning = _levinson(blocks_LKK, right_LKE)
        left_LKE = right_LKE - _product(matrix_FKK, filters_LKE)
        if _relative(left_LKE, right_LKE) > RESIDUAL:
            solver = "refined"
            filters_LKE = filters_LKE + _levinson(blocks_LKK, left_LKE)[0]
            left_LKE = right_LKE - _product(matrix_FKK, filters_LKE)
    return Solution(
        filters_LKE=filters_LKE,
        solver=solver,
        residual=_relative(left_LKE, right_LKE),
        conditioning=conditioning,
        amplification=_amplification(blocks_LKK[0].diagonal().sqrt(), filters_LKE, right_LKE),
    )


def _spectra(blocks_LKK: Tensor) -> Tensor:
    """Of the lags from 1-L to L-1, for products by FFT."""
    both_LKK = torch.zeros(2 * len(blocks_LKK), *blocks_LKK.shape[1:], dtype=torch.float64)
    both_LKK[: len(blocks_LKK)] = blocks_LKK
    both_LKK[len(blocks_LKK) + 1 :] = blocks_LKK[1:].flip(0).mT
    spectra_FKK: Tensor = torch.fft.rfft(both_LKK, dim=0)
    return spectra_FKK


def _product(matrix_FKK: Tensor, filters_LKE: Tensor) -> Tensor:
    taps = len(filters_LKE)
    product_LKE: Tensor = torch.fft.irfft(matrix_FKK @ torch.fft.rfft(filters_LKE, n=2 * taps, dim=0), dim=0)[:taps]
    return product_LKE


def _relative(left_LKE: Tensor, right_LKE: Tensor) -> float:
    """Norm against norm; infinite where a number is none."""
    ratio = float(left_LKE.norm() / right_LKE.norm().clamp(min=torch.finfo(torch.float64).tiny))
    return ratio if np.isfinite(ratio) else np.inf


def _amplification(level_K: Tensor, filters_LKE: Tensor, right_LKE: Tensor) -> float:
    filters_E = (filters_LKE * level_K[:, None]).flatten(0, 1).norm(dim=0)
    right_E = (right_LKE / level_K[:, None]).flatten(0, 1).norm(dim=0)
    largest = float((filters_E / right_E)[right_E > 0].max()) if right_E.any() else 0.0
    return largest if np.isfinite(largest) else np.inf


def _levinson(blocks_LKK: Tensor, right_LKE: Tensor) -> tuple[Tensor, float]:
    """Filters and conditioning, by Whittle's recursion (1963; Akaike 1973); not a number where it breaks down.

    In NumPy: of a thousand small steps, torch's take four times as long.
    """
    blocks, right = blocks_LKK.numpy(), right_LKE.numpy()
    taps, size, num_columns = right.shape
    # Blocks side by side, the highest lag first: the last n of them stand against a vector of n blocks.
    falling = np.ascontiguousarray(blocks[::-1].transpose(1, 0, 2)).reshape(size, -1)
    rising = np.ascontiguousarray(blocks.transpose(2, 0, 1)).reshape(size, -1)
    forward, backward, spare = np.zeros((3, size, taps * size))  # vectors are rows
    forward[:, :size] = backward[:, :size] = np.eye(size)
    answer = np.zeros((num_columns, taps * size))
    error_f = error_b = blocks[0]
    try:
        answer[:, :size] = np.linalg.solve(error_b, right[0]).T
        for n in range(1, taps):
            used, more = n * size, (n + 1) * size
            against = falling[:, (taps - 1 - n) * size : (taps - 1) * size]
            # In theory the transpose of each other; in practice taking one for both costs two digits.
            miss_f, miss_b = against @ forward[:, :used].T, rising[:, size:more] @ backward[:, :used].T
            gain_f, gain_b = np.linalg.solve(error_b, miss_f), np.linalg.solve(error_f, miss_b)
            spare[:, :size], spare[:, size:more] = 0, backward[:, :used]
            spare[:, :used] -= gain_b.T @ forward[:, :used]
            forward[:, size:more] -= gain_f.T @ backward[:, :used]
            backward, spare = spare, backward
            error_f, error_b = error_f - miss_b @ gain_f, error_b - miss_f @ gain_b
            missing = right[n] - against @ answer[:, :used].T
            answer[:, :more] += np.linalg.solve(error_b, missing).T @ backward[:, :more]
        least, largest = np.linalg.eigvalsh((error_b + error_b.T) / 2)[0], np.linalg.eigvalsh(blocks[0])[-1]
    except np.linalg.LinAlgError:
        return torch.full_like(right_LKE, torch.nan), 0.0
    pivots = max(0.0, float(least / largest))
    return torch.from_numpy(answer.T.reshape(taps, size, num_columns)), pivots
