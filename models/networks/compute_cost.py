"""What a training step of a model costs, known without a device: parameters, arithmetic, memory.

The forward pass runs on tensors without numbers that claim to be on a GPU, so that the same operators are chosen as
there; what autograd keeps for the backward pass is added up on the way.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from .htdemucs import HTDemucs, HTDemucsConfig
from .sparse_htdemucs import SparseHTDemucs

ADAM_COPIES = 2  # running means of the gradient and of its square


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one row, which is one segment of the model, in float32."""

    parameters: int
    forward_flop: int  # two per multiplication; transforms, norms and what is done element by element left out
    kept_bytes: int  # by autograd from the forward to the backward pass

    @property
    def step_flop(self) -> int:
        """A backward pass takes two products for each of the forward pass."""
        return 3 * self.forward_flop


def of(build: Callable[[], nn.Module], *, num_channels: int, num_samples: int) -> Cost:
    """The cost of the model that `build` makes, on one row of so many samples.

    Sparse attention counts as its dense twin: which pairs it leaves out depends on numbers that are not there.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings(), FakeTensorMode(), torch.device("cuda"):
        warnings.simplefilter("ignore")  # of torch, that there is no such device
        model = _countable(build()).train()
        mixture_BCT = torch.empty(1, num_channels, num_samples)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
            model(mixture_BCT)
        parameters = list(model.parameters())
    weights = {parameter.untyped_storage()._cdata for parameter in parameters}
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        forward_flop=counter.get_total_flops(),
        kept_bytes=sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights),
    )


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
