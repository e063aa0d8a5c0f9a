"""On the meta device functions call what a GPU would run: autocast's precisions, and fused attention."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models.networks.compute_cost.gpu_operators import OperatorsOfGPU


class Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def numbers(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize(
    ("dtype", "masked", "kernel"),
    [
        (torch.bfloat16, False, "_scaled_dot_product_flash_attention"),
        (torch.bfloat16, True, "_scaled_dot_product_efficient_attention"),
        (torch.float32, False, "_scaled_dot_product_efficient_attention"),
    ],
)
def test_attention_is_one_kernel_forward_and_one_backward(dtype: torch.dtype, masked: bool, kernel: str) -> None:
    q, k, v = (numbers(2, 4, 32, 16).requires_grad_() for _ in range(3))
    mask = numbers(2, 1, 32, 32).to(dtype) if masked else None
    with Names() as seen:
        with OperatorsOfGPU(dtype):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        torch.autograd.backward(out.float().sum())
    assert out.shape == q.shape
    assert [name for name in seen.names if "attention" in name] == [kernel, f"{kernel}_backward"]


def test_products_are_low_and_norms_float32_unless_a_network_turns_autocast_off() -> None:
    norm, x = nn.LayerNorm(8, device="meta"), numbers(4, 8)
    operators = OperatorsOfGPU(torch.bfloat16)
    with operators:
        product = x @ numbers(8, 8)
        assert product.dtype == torch.bfloat16
        assert (product + product).dtype == torch.bfloat16
        assert norm(product).dtype == torch.float32
        with operators.autocast("meta", enabled=False):
            assert (x @ numbers(8, 8)).dtype == torch.float32
        with operators.autocast("meta", enabled=True):
            assert (x @ numbers(8, 8)).dtype == torch.bfloat16
    with OperatorsOfGPU(torch.float32):
        assert (x @ numbers(8, 8)).dtype == torch.float32
