"""Tiles change how attention with dropout is computed, not what comes out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.networks.cpu_kernels import attention
from models.networks.cpu_kernels.attention import dropout_attention
from tests.models.networks.cpu_kernels.both_ways import both_ways, noise, relative_error


def seeded(dropout: float) -> Callable[..., Tensor]:
    """Attention whose dropped weights are the same at every call."""

    def function(*inputs: Tensor) -> Tensor:
        torch.manual_seed(3)
        return dropout_attention(*inputs, dropout)

    return function


def kept_weights(shape: tuple[int, int], num_queries: int, num_keys: int, dropout: float) -> Tensor:
    """Which weights stay: that hangs on the seed and on shapes, and equal weights of unit vectors show them all."""
    even = torch.zeros(*shape, num_queries, 32), torch.zeros(*shape, num_keys, 32)
    return seeded(dropout)(*even, torch.eye(num_keys).expand(*shape, -1, -1)) != 0


def plain(kept: Tensor, dropout: float) -> Callable[..., Tensor]:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=q.dtype == torch.bfloat16):
            weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
            return (weights * kept / (1 - dropout)) @ v

    return function


@pytest.mark.parametrize("gain", [1, 20], ids=["plain scores", "scores that exp() could not take"])
@pytest.mark.parametrize("tile", [2**20, 1000])
def test_in_tiles_it_is_attention_and_its_gradients_know_what_was_dropped(
    monkeypatch: pytest.MonkeyPatch, gain: int, tile: int
) -> None:
    monkeypatch.setattr(attention, "TILE_ELEMENTS", tile)
    inputs = [gain * noise(2, 3, 50, 32), gain * noise(2, 3, 70, 32, seed=1), noise(2, 3, 70, 32, seed=2)]
    kept = kept_weights((2, 3), 50, 70, 0.25)
    assert 0.7 < kept.float().mean() < 0.8
    for ours, exact in zip(*both_ways([seeded(0.25), plain(kept, 0.25)], inputs), strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-4 * gain, rtol=1e-4)


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 8.0, 20.0])
@pytest.mark.parametrize("dropout", [0.02, 0.1])
@pytest.mark.parametrize(("num_queries", "num_keys", "seed"), [(500, 500, 0), (430, 611, 5)])
def test_in_half_precision_it_errs_no_more_than_torchs_own(
    spread: float, dropout: float, num_queries: int, num_keys: int, seed: int
) -> None:
    q, k = (spread**0.5 * noise(1, 2, n, 32, seed=seed + i) for i, n in enumerate((num_queries, num_keys)))
    inputs = [x.bfloat16() for x in (q, k, noise(1, 2, num_keys, 32, seed=seed + 2))]
    reference = plain(kept_weights((1, 2), num_queries, num_keys, dropout), dropout)
    (exact,) = both_ways([reference], [x.double() for x in inputs])
    ours, torchs = both_ways([seeded(dropout), reference], inputs)
    for mine, true, theirs in zip(ours, exact, torchs, strict=True):
        assert mine.dtype == torch.bfloat16
        assert relative_error(mine, true) < 1.05 * relative_error(theirs, true)
        # It is in float32 inside, so nothing is lost but in rounding the result.
        assert relative_error(mine, true) < 1.02 * relative_error(true.bfloat16(), true)
