"""Tiles change how attention, dropout and gates are computed, not what comes out."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks import cpu_kernels
from models.networks.blocks import DConv
from models.networks.cpu_kernels import attend, convolve_3x3, drop, dropped_positions, gate, linear


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both_ways(functions, inputs: list[Tensor]) -> list[list[Tensor]]:
    """Output and gradients of each function on the same inputs."""
    results = []
    for function in functions:
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        flow = vectors(*out.shape, seed=9).bfloat16().to(out.dtype)  # the same numbers in any precision
        results.append([out, *torch.autograd.grad(out, leaves, flow)])
    return results


@pytest.mark.parametrize("gain", [1, 20], ids=["plain scores", "scores that exp() could not take"])
@pytest.mark.parametrize("tile", [2**20, 1000])
def test_attention_in_tiles_is_attention(monkeypatch, gain, tile):
    monkeypatch.setattr(cpu_kernels, "TILE_ELEMENTS", tile)
    q, k, v = gain * vectors(2, 3, 50, 16), gain * vectors(2, 3, 70, 16, seed=1), vectors(2, 3, 70, 16, seed=2)
    for ours, exact in zip(*both_ways([attend, F.scaled_dot_product_attention], [q, k, v]), strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-4 * gain, rtol=1e-4)


def test_attention_dropout_drops_the_weights_it_says_and_its_gradients_know():
    q, k = vectors(1, 2, 40, 16), vectors(1, 2, 60, 16, seed=1)
    v = torch.eye(60).expand(1, 2, 60, 60).contiguous()  # so that the output shows the weights

    def seeded(*inputs):
        torch.manual_seed(3)
        return attend(*inputs, dropout=0.25)

    with torch.no_grad():
        kept = seeded(q, k, v) != 0
    assert 0.7 < kept.float().mean() < 0.8

    def masked(q, k, v):
        weights = torch.softmax(q @ k.mT / 4, dim=-1)
        return (weights * kept / 0.75) @ v

    for ours, exact in zip(*both_ways([seeded, masked], [q, k, v]), strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-4)


def test_half_precision_attention_is_as_close_as_its_numbers():
    q, k, v = (vectors(1, 2, 64, 32, seed=s).bfloat16() for s in range(3))
    exact = both_ways([F.scaled_dot_product_attention], [q.float(), k.float(), v.float()])[0]
    for ours, right in zip(both_ways([attend], [q, k, v])[0], exact, strict=True):
        assert (ours.float() - right).abs().max() < 0.03 * right.abs().max()


def test_dropped_positions_are_independent_and_as_many_as_asked():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(1000)
    for _ in range(2000):
        positions = dropped_positions(1000, 0.02, generator)
        assert (positions.diff() > 0).all()
        counts[positions] += 1
    # 2000 draws of probability 0.02 each: mean 40, deviation 6.3
    assert abs(counts.mean() - 40) < 0.7
    assert abs(counts.std() - 6.26) < 0.6


def test_dropout_keeps_the_mean_and_drops_the_same_gradients():
    torch.manual_seed(0)
    x = torch.ones(300, 400, requires_grad=True)
    y = drop(x, 0.1)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert abs(y.mean() - 1) < 0.01
    assert abs((y == 0).float().mean() - 0.1) < 0.005
    assert drop(x, 0.0) is x


@pytest.mark.parametrize("with_residual", [False, True])
def test_a_gate_in_tiles_is_a_convolution_and_a_glu(monkeypatch, with_residual):
    monkeypatch.setattr(cpu_kernels, "GATE_ELEMENTS", 300)
    inner, weight, bias = vectors(2, 3, 5, 37), vectors(2, 3, 8, 5, seed=1), vectors(2, 3, 8, seed=2)
    residual = [vectors(2, 4, 3, 37, seed=3)] if with_residual else []

    def plain(inner, weight, bias, residual=None):
        out = F.glu((weight @ inner + bias[..., None]).transpose(1, 2), dim=1)
        return out if residual is None else out + residual

    for ours, exact in zip(*both_ways([gate, plain], [inner, weight, bias, *residual]), strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 16, 50), (2, 16, 3, 50)], ids=["time", "rows of a spectrogram"])
def test_a_residual_branch_is_the_same_whether_its_wide_part_is_kept_or_not(monkeypatch, shape):
    torch.manual_seed(0)
    branch, x = DConv(16, compress=4, init=0.5), vectors(*shape)

    def run(x, *parameters):
        return torch.func.functional_call(branch, dict(zip(names, parameters, strict=True)), (x,))

    names, parameters = zip(*branch.named_parameters(), strict=True)
    (kept,) = both_ways([run], [x, *parameters])
    monkeypatch.setattr(cpu_kernels, "SMALL_ELEMENTS", 0)
    (computed_again,) = both_ways([run], [x, *parameters])
    assert not torch.equal(kept[0], computed_again[0])  # so there were two ways
    for one, other in zip(kept, computed_again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("gelu", [False, True])
def test_linear_is_the_same_with_and_without_gradients(gelu):
    x, weight, bias = vectors(2, 30, 24), vectors(16, 24, seed=1), vectors(16, seed=2)
    plain = F.linear(x, weight, bias)
    plain = F.gelu(plain) if gelu else plain
    torch.testing.assert_close(linear(x, weight, bias, gelu=gelu), plain)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias, gelu=gelu), plain)
        with torch.autocast("cpu", torch.bfloat16):
            half = linear(x, weight, bias, gelu=gelu)
    assert half.dtype == torch.bfloat16
    assert (half.float() - plain).abs().max() < 0.02 * plain.abs().max()


def test_onednn_is_asked_once_for_each_precision_and_refuses_what_nobody_measured():
    assert not cpu_kernels.onednn_takes(torch.float16)
    assert not cpu_kernels.onednn_takes(torch.float64)
    assert cpu_kernels.onednn_takes(torch.float32) == cpu_kernels.onednn_takes(torch.float32)
    assert cpu_kernels.onednn_takes.cache_info().hits


@pytest.mark.slow
def test_half_precision_runs_on_a_cpu_without_wide_vectors():
    """The tests of half precision once more, in a process whose oneDNN sees an older CPU: it asks at its start."""
    names = ("networks/test_cpu_kernels", "inference/test_separate", "networks/test_htdemucs", "networks/test_demucs")
    tests = [f"tests/models/{name}.py" for name in (*names, "learning/test_learner")]
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu and not slow", *tests]
    names = "(linear or onednn or half or bfloat16 or autocast) and not wide_vectors"
    seen = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([*asked, "-k", names], env=seen, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("num_columns", [1, 3, 16, 18])
def test_a_wide_3x3_convolution_with_fewer_products_is_the_same(num_columns):
    layer, x = nn.Conv2d(96, 4, 3, padding=1), vectors(2, 96, 5, num_columns)
    plain = layer(x)
    assert plain.requires_grad
    torch.testing.assert_close(convolve_3x3(x, layer), plain, atol=0, rtol=0)
    with torch.no_grad():
        given = convolve_3x3(x, layer)
    assert not torch.equal(given, plain)  # so the short way was taken
    assert (given - plain).abs().max() < 1e-5 * plain.abs().max()


def relative(found: Tensor, exact: Tensor) -> float:
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 8.0, 20.0])
@pytest.mark.parametrize("dropout", [0.0, 0.02, 0.1])
@pytest.mark.parametrize(("num_queries", "num_keys", "seed"), [(500, 500, 0), (430, 611, 5)])
def test_attention_in_half_precision_errs_no_more_than_torchs_own(spread, dropout, num_queries, num_keys, seed):
    q, k = (spread**0.5 * vectors(1, 2, n, 32, seed=seed + i) for i, n in enumerate((num_queries, num_keys)))
    inputs = [x.bfloat16() for x in (q, k, vectors(1, 2, num_keys, 32, seed=seed + 2))]

    def ours(*inputs):
        torch.manual_seed(3)
        return attend(*inputs, dropout=dropout)

    # Which weights are dropped hangs on the seed and on shapes: equal weights of unit vectors show them all.
    even = torch.zeros(1, 2, num_queries, 32), torch.zeros(1, 2, num_keys, 32)
    kept = ours(*even, torch.eye(num_keys).expand(1, 2, -1, -1)) != 0

    def plain(q, k, v):
        with torch.autocast("cpu", torch.bfloat16, enabled=q.dtype == torch.bfloat16):
            weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
            return (weights * kept / (1 - dropout)) @ v

    (exact,) = both_ways([plain], [x.double() for x in inputs])
    found, explicit, kernel = both_ways([ours, plain, F.scaled_dot_product_attention], inputs)
    for mine, true, torchs in zip(found, exact, kernel if dropout == 0 else explicit, strict=True):
        assert relative(mine, true) < 1.05 * relative(torchs, true)
        if dropout:  # torch's own takes float32 for it, so nothing is lost but in rounding the result
            assert relative(mine, true) < 1.02 * relative(true.bfloat16(), true)


@pytest.mark.parametrize("compress", [2, 4])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_a_folded_residual_branch_in_half_precision_errs_no_more_than_a_plain_one(monkeypatch, compress, offset):
    torch.manual_seed(0)
    branch = DConv(32, compress=compress, init=1.0)
    for weight in branch.parameters():
        if weight.dim() == 1:
            weight.data.add_(0.3 * torch.randn_like(weight))
    x = vectors(2, 32, 400) + offset
    results = {}
    for name, elements in (("folded", 0), ("plain", 2**30)):
        monkeypatch.setattr(cpu_kernels, "SMALL_ELEMENTS", elements)
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = branch(inputs)
        assert out.dtype == torch.float32
        results[name] = [out.detach() - x, torch.autograd.grad(out, inputs, vectors(*out.shape, seed=9))[0]]
    exact_branch, inputs = branch.double(), x.double().requires_grad_()
    out = exact_branch(inputs)
    exact = [out.detach() - x, torch.autograd.grad(out, inputs, vectors(*out.shape, seed=9).double())[0]]
    for folded, plain, true in zip(results["folded"], results["plain"], exact, strict=True):
        assert relative(folded, true) < 1.1 * relative(plain, true)
