"""A gate in tiles is a convolution and a GLU, and a residual branch the same whether its wide part is kept or not."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.networks.blocks.residual import DConv
from models.networks.cpu_kernels import dispatch, glu
from models.networks.cpu_kernels.glu import pointwise_glu
from tests.models.networks.cpu_kernels.both_ways import both_ways, noise, relative_error


@pytest.mark.parametrize("with_residual", [False, True])
def test_a_gate_in_tiles_is_a_convolution_and_a_glu(monkeypatch: pytest.MonkeyPatch, with_residual: bool) -> None:
    monkeypatch.setattr(glu, "GATE_ELEMENTS", 300)
    inner, weight, bias = noise(2, 3, 5, 37), noise(2, 3, 8, 5, seed=1), noise(2, 3, 8, seed=2)
    residual = [noise(2, 4, 3, 37, seed=3)] if with_residual else []

    def plain(inner: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
        out = F.glu((weight @ inner + bias[..., None]).transpose(1, 2), dim=1)
        return out if residual is None else out + residual

    for ours, exact in zip(*both_ways([pointwise_glu, plain], [inner, weight, bias, *residual]), strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 16, 50), (2, 16, 3, 50)], ids=["time", "rows of a spectrogram"])
def test_a_residual_branch_is_the_same_whether_its_wide_part_is_kept_or_not(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    branch, x = DConv(16, compress=4, init=0.5), noise(*shape)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(branch, dict(zip(names, parameters, strict=True)), (x,))
        return out

    names, parameters = zip(*branch.named_parameters(), strict=True)
    (kept,) = both_ways([run], [x, *parameters])
    monkeypatch.setattr(dispatch, "SMALL_ELEMENTS", 0)
    (computed_again,) = both_ways([run], [x, *parameters])
    assert not torch.equal(kept[0], computed_again[0])  # so there were two ways
    for a, b in zip(kept, computed_again, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("compress", [2, 4])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_a_folded_residual_branch_in_half_precision_errs_no_more_than_a_plain_one(
    monkeypatch: pytest.MonkeyPatch, compress: int, offset: float
) -> None:
    torch.manual_seed(0)
    branch = DConv(32, compress=compress, init=1.0)
    for weight in branch.parameters():
        if weight.dim() == 1:
            weight.data.add_(0.3 * torch.randn_like(weight))
    x = noise(2, 32, 400) + offset
    results = {}
    for name, elements in (("folded", 0), ("plain", 2**30)):
        monkeypatch.setattr(dispatch, "SMALL_ELEMENTS", elements)
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = branch(inputs)
        assert out.dtype == torch.float32
        results[name] = [out.detach() - x, torch.autograd.grad(out, inputs, noise(*out.shape, seed=9))[0]]
    exact_branch, inputs = branch.double(), x.double().requires_grad_()
    out = exact_branch(inputs)
    exact = [out.detach() - x, torch.autograd.grad(out, inputs, noise(*out.shape, seed=9).double())[0]]
    for folded, plain, true in zip(results["folded"], results["plain"], exact, strict=True):
        assert relative_error(folded, true) < 1.1 * relative_error(plain, true)


def test_off_the_cpu_kernels_a_bias_in_float32_leaves_a_product_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glu, "uses_cpu_kernels", lambda _: False)
    inner, weight, bias = noise(2, 3, 5, 37).bfloat16(), noise(2, 3, 8, 5, seed=1).bfloat16(), noise(2, 3, 8, seed=2)
    out = pointwise_glu(inner, weight, bias.float())
    assert out.dtype == torch.bfloat16
    exact = F.glu((weight.float() @ inner.float() + bias.float()[..., None]).transpose(1, 2), dim=1)
    torch.testing.assert_close(out.float(), exact, atol=0.1, rtol=0.05)
