"""The kernels run on plain tensors of a CPU; a graph of the network has torch's own operators alone."""

import torch
from torch import Tensor, nn

from models.networks.cpu_kernels import dispatch
from models.networks.cpu_kernels.dispatch import accumulation_dtype, cheaper_to_keep, uses_cpu_kernels


class Asks(nn.Module):
    """Twice its input where the kernels run, and the input elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if uses_cpu_kernels(x) else x + 0


def test_they_run_on_a_cpu_and_neither_elsewhere_nor_in_an_export() -> None:
    x = torch.ones(3)
    assert torch.equal(Asks()(x), 2 * x)
    assert torch.equal(torch.export.export(Asks(), (x,)).module()(x), x)
    assert not uses_cpu_kernels(torch.ones(3, device="meta"))


def test_a_small_tensor_is_kept_if_there_will_be_gradients() -> None:
    assert cheaper_to_keep(dispatch.SMALL_ELEMENTS)
    assert not cheaper_to_keep(dispatch.SMALL_ELEMENTS + 1)
    with torch.no_grad():
        assert not cheaper_to_keep(1)


def test_sums_are_in_float32_at_least() -> None:
    assert accumulation_dtype(torch.bfloat16) == accumulation_dtype(torch.float16) == torch.float32
    assert accumulation_dtype(torch.float64) == torch.float64
