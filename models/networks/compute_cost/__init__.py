"""What a training step of a model costs a GPU, counted without one: arithmetic, memory, traffic, kernels.

Forward and backward pass run on tensors without numbers, with the operators that a GPU would take (`gpu_operators.py`
one folder up); what autograd keeps in between, and what every kernel reads and writes, is added up on the way.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..htdemucs import HTDemucs, HTDemucsConfig
from ..sparse_htdemucs import SparseHTDemucs
from .gpu_operators import OperatorsOfGPU

ADAM_COPIES = 2  # running means of the gradient and of its square
COUNTED_ROWS = 8  # what is there once, such as weights in low precision, is shared by so many
# Operators that start no kernel, beside views.
NO_KERNEL = frozenset({"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
PRODUCTS = ("convolution", "mm", "bmm", "scaled_dot_product")  # in the names of what is not element by element


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one row, which is one segment of the model, unless said otherwise; the optimizer is left out."""

    parameters: int  # of the model
    forward_flop: int  # two per multiplication; transforms, norms and what is done element by element left out
    step_flop: int  # with the backward pass
    kept_bytes: int  # by autograd from the forward to the backward pass
    product_bytes: int  # read and written by convolutions, matrix products and attention, forward and backward
    elementwise_bytes: int  # read and written by all other kernels
    kernels: int  # of a step, however many rows it has


def of(
    build: Callable[[], nn.Module], *, num_channels: int, num_samples: int, precision: torch.dtype = torch.float32,
    rows: int = COUNTED_ROWS,
) -> Cost:  # fmt: skip
    """The cost of the model that `build` makes, on rows of so many samples; `precision` is that of autocast.

    Sparse attention counts as its dense twin: which pairs it leaves out depends on numbers that are not there.
    """
    from torch.utils.flop_counter import FlopCounterMode

    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    operators, counter, traffic = OperatorsOfGPU(precision), FlopCounterMode(display=False), _Traffic()
    with torch.device("meta"):
        model = _countable(build()).train()
        mixture_BCT = torch.empty(rows, num_channels, num_samples)
    with counter, traffic:
        with (
            operators,
            mock.patch("torch.autocast", operators.autocast),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            estimates = model(mixture_BCT)
        forward_flop = counter.get_total_flops()
        torch.autograd.backward((estimates.float() - torch.zeros_like(estimates)).abs().mean())
    parameters = list(model.parameters())
    weights = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept_bytes = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        forward_flop=forward_flop // rows,
        step_flop=counter.get_total_flops() // rows,
        kept_bytes=kept_bytes // rows,
        product_bytes=traffic.bytes["product"] // rows,
        elementwise_bytes=traffic.bytes["elementwise"] // rows,
        kernels=traffic.kernels,
    )


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of a class of torch's own
    """Counts kernels, and the bytes of each one's inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes, self.kernels = Counter[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in NO_KERNEL:
            return out
        tensors = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)}
        kind = "product" if any(part in name for part in PRODUCTS) else "elementwise"
        self.bytes[kind] += sum(map(_bytes_of, tensors.values()))
        self.kernels += 1
        return out


def _bytes_of(tensor: Tensor) -> int:
    """Of the numbers behind a tensor; repeated ones, as `expand` makes them, are read once."""
    number = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        number *= size if stride else min(size, 1)
    return number * tensor.element_size()


class _Recurrence(nn.Module):
    """As much arithmetic as an LSTM, and nearly as much kept, all steps at once: a GPU's own LSTM asks for a GPU."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.weights = nn.ParameterList(lstm.parameters())
        self.directions = 2 if lstm.bidirectional else 1
        self.hidden = lstm.hidden_size

    def forward(self, x_TBD: Tensor, state: object = None) -> tuple[Tensor, None]:
        matrices = [weight for weight in self.weights if weight.dim() == 2]
        pairs = [(matrices[place], matrices[place + 1]) for place in range(0, len(matrices), 2)]
        for first in range(0, len(pairs), self.directions):
            outputs = []
            for from_input, from_state in pairs[first : first + self.directions]:
                gates_TBG = torch.sigmoid(nn.functional.linear(x_TBD, from_input))
                gates_TBG = gates_TBG + nn.functional.linear(gates_TBG[..., : self.hidden], from_state)
                outputs.append(torch.tanh(gates_TBG[..., : self.hidden]))
            x_TBD = torch.cat(outputs, dim=-1)
        return x_TBD, None


def _countable(model: nn.Module) -> nn.Module:
    if isinstance(model, SparseHTDemucs):
        model = HTDemucs(
            HTDemucsConfig(**{item.name: getattr(model.config, item.name) for item in fields(HTDemucsConfig)})
        )
    return _without_recurrence(model)


def _without_recurrence(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.LSTM):
            setattr(module, name, _Recurrence(child))
        else:
            _without_recurrence(child)
    return module
