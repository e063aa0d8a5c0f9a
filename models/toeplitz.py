"""Normal equations whose matrix is block Toeplitz: solved by block Levinson or Cholesky, and how far to trust it.

Block (k, l) of the matrix is M(k - l), with M(-n) the transpose of M(n): correlations of K channels at lags below L.

Shape letters: K channels, E right-hand sides, L lags.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RESIDUAL = 1e-12  # of the equations, relative to the right-hand side: what a solution must reach
_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Filters, and how far to trust them."""

    filters_LKE: Tensor
    solver: str  # "levinson" or "cholesky"
    residual: float  # relative to the right-hand side
    conditioning: float  # 0 to 1: the least over the largest pivot

    @property
    def good(self) -> bool:
        return self.residual <= RESIDUAL


def solve(blocks_LKK: Tensor, right_LKE: Tensor) -> Solution:
    """By block Levinson or, if that leaves too large a residual, by Cholesky."""
    blocks_LKK = blocks_LKK.clone()
    blocks_LKK[0] = (blocks_LKK[0] + blocks_LKK[0].mT) / 2  # but for rounding it is symmetric already
    # As museval does; it lets a source that is silent but for one channel through.
    blocks_LKK[0] += _EPS * torch.eye(blocks_LKK.shape[-1], dtype=torch.float64)
    with np.errstate(all="ignore"):  # the recursion may break down; the residual tells
        found = _levinson(blocks_LKK, right_LKE)
    return found if found.good else _better(found, _cholesky(blocks_LKK, right_LKE))


def _better(one: Solution, other: Solution) -> Solution:
    return other if not other.residual >= one.residual else one


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
    return float((left_LKE - right_LKE).norm() / right_LKE.norm().clamp(min=torch.finfo(torch.float64).tiny))


def _levinson(blocks_LKK: Tensor, right_LKE: Tensor) -> Solution:
    """By Whittle's recursion (1963; Akaike 1973).

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
        return Solution(filters_LKE=right_LKE, solver="levinson", residual=np.inf, conditioning=0.0)
    filters_LKE = torch.from_numpy(answer.T.reshape(taps, size, num_columns))
    residual = _residual(blocks_LKK, filters_LKE, right_LKE)
    pivots = max(0.0, float(least / largest))
    return Solution(filters_LKE=filters_LKE, solver="levinson", residual=residual, conditioning=pivots)


def _cholesky(blocks_LKK: Tensor, right_LKE: Tensor) -> Solution:
    factor, failed = torch.linalg.cholesky_ex(_dense(blocks_LKK))
    if failed:
        return Solution(filters_LKE=right_LKE, solver="cholesky", residual=torch.inf, conditioning=0.0)
    diagonal = factor.diagonal()
    answer_LKE = torch.cholesky_solve(right_LKE.flatten(0, 1), factor).view_as(right_LKE)
    return Solution(
        filters_LKE=answer_LKE, solver="cholesky", residual=_residual(blocks_LKK, answer_LKE, right_LKE),
        conditioning=float((diagonal.min() / diagonal.max()).square()),
    )  # fmt: skip


def _dense(blocks_LKK: Tensor) -> Tensor:
    """The whole matrix, block (k, l) being M(k - l)."""
    taps, size = blocks_LKK.shape[:2]
    both_LKK = torch.cat([blocks_LKK[1:].flip(0).mT, blocks_LKK])  # lags 1-L to L-1
    # Row k holds lags k, k-1, ...: windows over the lags, in reverse.
    rows = both_LKK.flip(0).unfold(0, taps, 1).flip(0)  # (k, K, K, l)
    return rows.permute(0, 1, 3, 2).reshape(taps * size, taps * size)
