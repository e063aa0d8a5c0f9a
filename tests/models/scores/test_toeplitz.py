"""Block Toeplitz equations, against a general solver; and whether it is known where the solution cannot be trusted."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from models.scores.toeplitz import AMPLIFICATION, RESIDUAL, solve


def correlations(signals_KT: Tensor, taps: int) -> Tensor:
    """Blocks (L, K, K) of lags 0 and up: block n holds sums over time of signal k, n samples later, times signal l."""
    padded_KT = torch.nn.functional.pad(signals_KT, (0, taps))
    num_samples = signals_KT.shape[1]
    return torch.stack([padded_KT[:, lag : lag + num_samples] @ signals_KT.T for lag in range(taps)])


def dense(blocks_LKK: Tensor) -> np.ndarray:
    """The whole matrix (L K, L K): block (i, j) is that of lag i - j, transposed below zero."""
    taps, size = blocks_LKK.shape[:2]
    matrix = np.zeros((taps, size, taps, size))
    for i in range(taps):
        for j in range(taps):
            matrix[i, :, j] = blocks_LKK[i - j] if i >= j else blocks_LKK[j - i].T
    return matrix.reshape(taps * size, taps * size)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("channels", "taps", "columns"), [(1, 1, 1), (1, 20, 2), (3, 1, 2), (3, 16, 4), (8, 9, 1)])
def test_the_solution_is_that_of_a_general_solver(channels: int, taps: int, columns: int) -> None:
    mixing = torch.eye(channels, dtype=torch.float64) + 0.3 * noise(channels, channels, seed=1)
    blocks_LKK, right_LKE = correlations(mixing @ noise(channels, 400), taps), noise(taps, channels, columns, seed=2)
    solution = solve(blocks_LKK, right_LKE)
    expected = np.linalg.solve(dense(blocks_LKK), right_LKE.reshape(taps * channels, columns).numpy())
    np.testing.assert_allclose(
        solution.filters_LKE.reshape(taps * channels, columns).numpy(), expected, rtol=1e-8, atol=1e-12
    )
    assert solution.good
    assert solution.residual < RESIDUAL
    assert 0 < solution.conditioning <= 1


def test_the_equations_are_left_as_they_were() -> None:
    blocks_LKK, right_LKE = correlations(noise(2, 300), 8), noise(8, 2, 1, seed=1)
    before = blocks_LKK.clone(), right_LKE.clone()
    solve(blocks_LKK, right_LKE)
    assert torch.equal(blocks_LKK, before[0])
    assert torch.equal(right_LKE, before[1])


def test_conditioning_falls_as_channels_become_copies_of_each_other() -> None:
    first_T, second_T = noise(2, 2000)
    found = []
    for share in (1.0, 1e-2, 1e-4):
        signals_KT = torch.stack([first_T, first_T + share * second_T])
        found.append(solve(correlations(signals_KT, 6), noise(6, 2, 1, seed=1)).conditioning)
    assert found[0] > 0.1
    assert all(later < earlier / 1e3 for earlier, later in pairwise(found))


def test_filters_that_must_be_far_louder_than_what_they_answer_to_are_not_trusted() -> None:
    first_T, second_T = noise(2, 2000)
    blocks_LKK = correlations(torch.stack([first_T, first_T + 0.03 * second_T]), 4)
    solution = solve(blocks_LKK, noise(4, 2, 1, seed=1))  # unrelated to either: only the difference can answer
    assert solution.residual < RESIDUAL
    assert solution.amplification > AMPLIFICATION
    assert not solution.good


def test_equations_that_contradict_themselves_break_down_and_are_not_trusted() -> None:
    blocks_LKK = torch.zeros(3, 2, 2, dtype=torch.float64)
    blocks_LKK[0] = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    blocks_LKK[1] = torch.tensor([[4.0, 4.0], [4.0, 4.0]])  # no signal is more like its neighbour than like itself
    solution = solve(blocks_LKK, noise(3, 2, 1))
    assert not solution.good


def test_silence_needs_no_filters() -> None:
    solution = solve(correlations(noise(2, 300), 5), torch.zeros(5, 2, 1, dtype=torch.float64))
    assert not solution.filters_LKE.any()
    assert solution.amplification == 0
