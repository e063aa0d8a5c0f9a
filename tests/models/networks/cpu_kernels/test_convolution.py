"""Convolutions as products in tiles are torch's, whatever the tiles, and serve float32 without gradients alone."""

from contextlib import AbstractContextManager
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.networks.cpu_kernels import convolution, dispatch
from models.networks.cpu_kernels.convolution import (
    Layers,
    filter_bank,
    gated_convolution,
    transposed_convolution,
)
from models.networks.demucs import double_rate, halve_rate
from tests.models.networks.cpu_kernels.both_ways import noise


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_lacks_avx512", lambda: True)
    monkeypatch.setattr(convolution, "TILE_ELEMENTS", 64)
    monkeypatch.setattr(convolution, "LEAST_COLUMNS", 6)
    monkeypatch.setattr(convolution, "WIDE_ELEMENTS", 0)


def never_called(layer: type[nn.Module]) -> AbstractContextManager[object]:
    """Within it the products must be computed: torch's own layer fails."""
    return mock.patch.object(layer, "forward", side_effect=AssertionError("torch's own layer"))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 17, 40])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(8, 4, 0), (8, 4, 2), (4, 2, 1)])
def test_transposed_along_time(batch: int, length: int, kernel: int, stride: int, padding: int) -> None:
    layer = nn.ConvTranspose1d(5, 3, kernel, stride, padding)
    x = noise(batch, 5, length)
    with torch.no_grad():
        expected = layer(x)
        with never_called(nn.ConvTranspose1d):
            torch.testing.assert_close(transposed_convolution(x, layer), expected)


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("padding", [0, 2])
def test_transposed_along_frequency(rows: int, padding: int) -> None:
    layer = nn.ConvTranspose2d(5, 3, (8, 1), (4, 1), (padding, 0))
    x = noise(2, 5, rows + 2, 7)[:, :, 1:-1]  # not contiguous
    with torch.no_grad():
        expected = layer(x)
        with never_called(nn.ConvTranspose2d):
            torch.testing.assert_close(transposed_convolution(x, layer), expected)


@pytest.mark.parametrize("length", [3, 6, 31])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 0), (3, 1)])
def test_into_a_gate(length: int, kernel: int, padding: int) -> None:
    layer = nn.Conv1d(5, 8, kernel, padding=padding)
    x = noise(2, 5, length)
    with torch.no_grad():
        expected = F.glu(layer(x), dim=1)
        with never_called(nn.Conv1d):
            torch.testing.assert_close(gated_convolution(x, layer), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("length", [9, 64, 65, 300])
def test_filters(stride: int, length: int) -> None:
    x, kernels = noise(2, length), noise(3, 9, seed=1)
    plain = F.conv1d(x[:, None], kernels[:, None], stride=stride)
    torch.testing.assert_close(filter_bank(x, kernels, stride=stride), plain.transpose(1, 2).flatten(1))


@pytest.mark.parametrize("length", [1, 100, 1001])
def test_resampling(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(2, 3, length)
    with torch.no_grad():
        fast = [double_rate(x), halve_rate(x)]
        monkeypatch.setattr(dispatch, "_lacks_avx512", lambda: False)
        for a, b in zip(fast, [double_rate(x), halve_rate(x)], strict=True):
            torch.testing.assert_close(a, b)


def test_a_sequence_has_the_keys_and_the_output_of_torchs() -> None:
    parts = [nn.Conv1d(4, 8, 3, padding=1), nn.Identity(), nn.GLU(dim=1), nn.ConvTranspose1d(4, 2, 8, 4), nn.GELU()]
    fast, plain = Layers(*parts), nn.Sequential(*parts)
    assert list(fast.state_dict()) == list(plain.state_dict())
    x = noise(2, 4, 21)
    assert torch.equal(fast(x), plain(x))  # with gradients the very same operations
    with torch.no_grad():
        expected = plain(x)
        with never_called(nn.Conv1d), never_called(nn.ConvTranspose1d):
            torch.testing.assert_close(fast(x), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_torchs(dtype: torch.dtype) -> None:
    layer = nn.ConvTranspose1d(4, 2, 8, 4).to(dtype)
    x = noise(1, 4, 21).to(dtype)
    with torch.no_grad():
        assert torch.equal(transposed_convolution(x, layer), layer(x))
