"""The fused linear layer is the plain one, in each precision that it takes."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from models.networks.cpu_kernels import linear
from models.networks.cpu_kernels.linear import fused_linear, int8_linears, onednn_has_int8, onednn_takes
from tests.models.networks.cpu_kernels.both_ways import noise


@pytest.mark.parametrize("gelu", [False, True])
def test_it_is_the_same_with_and_without_gradients(gelu: bool) -> None:
    x, weight, bias = noise(2, 30, 24), noise(16, 24, seed=1), noise(16, seed=2)
    plain = F.linear(x, weight, bias)
    plain = F.gelu(plain) if gelu else plain
    torch.testing.assert_close(fused_linear(x, weight, bias, gelu=gelu), plain)
    with torch.no_grad():
        torch.testing.assert_close(fused_linear(x, weight, bias, gelu=gelu), plain)
        with torch.autocast("cpu", torch.bfloat16):
            half = fused_linear(x, weight, bias, gelu=gelu)
    assert half.dtype == torch.bfloat16
    assert (half.float() - plain).abs().max() < 0.02 * plain.abs().max()


def test_where_onednn_lacks_it_the_plain_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "onednn_takes", lambda dtype: False)
    x, weight = noise(30, 24), noise(16, 24, seed=1)
    with torch.no_grad():
        assert torch.equal(fused_linear(x, weight, None, gelu=True), F.gelu(F.linear(x, weight)))


def test_onednn_is_asked_once_for_each_precision_and_refuses_what_nobody_measured() -> None:
    assert not onednn_takes(torch.float16)
    assert not onednn_takes(torch.float64)
    assert onednn_takes(torch.float32) == onednn_takes(torch.float32)
    assert onednn_takes.cache_info().hits


@pytest.mark.skipif(not onednn_has_int8(), reason="no linear layer of 8-bit numbers on this CPU")
@pytest.mark.parametrize("level", [(1.0, 0.0), (0.01, 5.0), (0.0, 0.0)], ids=["noise", "far from zero", "silence"])
def test_in_8_bits_it_is_near_and_without_effect_on_gradients(level: tuple[float, float]) -> None:
    scale, offset = level
    x, weight, bias = scale * noise(2, 30, 24) + offset, noise(16, 24, seed=1), noise(16, seed=2)
    for gelu in (False, True):
        plain = fused_linear(x, weight, bias, gelu=gelu)
        with int8_linears():
            assert torch.equal(fused_linear(x, weight, bias, gelu=gelu), plain)  # a training is not touched
            with torch.no_grad():
                coarse = fused_linear(x, weight, bias, gelu=gelu)
        assert not torch.equal(coarse, plain) or not scale
        assert (coarse - plain).norm() <= 0.02 * plain.norm()


@pytest.mark.skipif(not onednn_has_int8(), reason="no linear layer of 8-bit numbers on this CPU")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_in_8_bits_what_is_not_finite_stays_so_and_alone(value: float) -> None:
    x, weight = noise(3, 24), noise(16, 24, seed=1)
    x[1, 2] = value
    with torch.no_grad(), int8_linears():
        coarse = fused_linear(x, weight, None)
    assert not coarse[1].isfinite().any()
    torch.testing.assert_close(coarse[::2], F.linear(x[::2], weight))


@pytest.mark.slow
def test_half_precision_runs_on_a_cpu_without_wide_vectors() -> None:
    """Half precision and 8 bits once more, in a process whose oneDNN sees an older CPU: it asks at its start."""
    names = ("cpu_kernels/test_linear", "cpu_kernels/test_glu", "test_htdemucs", "test_demucs")
    tests = [f"tests/models/networks/{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu and not slow", *tests]
    done = subprocess.run(
        [*command, "-k", "with_and_without_gradients or onednn or half or 8_bits or autocast"],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
