"""Filters block by block are the plain convolution, whatever the lengths."""

import numpy as np
import pytest
import torch

from models.scores.block_convolution import filtered


@pytest.mark.parametrize(("num_samples", "num_taps"), [(1, 1), (50, 101), (40_000, 4000), (600_000, 101)])
def test_pieces_together_are_the_convolution_with_its_end(num_samples: int, num_taps: int) -> None:
    generator = torch.Generator().manual_seed(num_samples)
    signal_CT = torch.randn(2, num_samples, generator=generator)
    taps_L = torch.randn(num_taps, generator=generator)
    made_CT = torch.cat(list(filtered(signal_CT, taps_L)), dim=1)
    length = num_samples + num_taps - 1
    for signal_T, made_T in zip(signal_CT, made_CT, strict=True):
        expected_T = np.convolve(signal_T.double().numpy(), taps_L.double().numpy())
        np.testing.assert_allclose(made_T[:length].numpy(), expected_T, atol=1e-10)
        assert made_T[length:].abs().max() < 1e-10 if made_T[length:].numel() else True
