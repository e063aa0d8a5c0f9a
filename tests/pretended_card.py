# mypy: disable-error-code="assignment, override, call-arg, no-untyped-call"
"""A GPU for tests without one: tensors that hold numbers of the CPU, say `cuda:0`, and refuse what CUDA refuses.

Inside `card()` whatever is made on or moved to "cuda" is a `CardTensor`. It meets tensors of the CPU only where CUDA
lets it (numbers without dimensions), takes random numbers only from generators of its own device, and does not turn
into NumPy. Collectives go through Gloo, which a test sets up, and take tensors of the card alone, as NCCL does. The
`Traffic` that the context gives counts what crosses between host and device, and where the host waits.

To torch's C++ side the tensors are on the "meta" device, so autograd asks for no driver. What asks for kernels of a
GPU is made of simple operations instead: autocast (by torch's published lists), LSTMs, and flex_attention.
"""

import contextlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from models.networks.compute_cost.gpu_operators import autocast_arguments

CUDA = torch.device("cuda", 0)
ATEN = torch.ops.aten
# Operations whose result, or its shape, the host has to know before it goes on.
WAITING = (ATEN._local_scalar_dense, ATEN.nonzero, ATEN.masked_select, ATEN.equal, ATEN.is_nonzero, ATEN._unique2)
WAITING += (ATEN._linalg_svd, ATEN._linalg_eigh)  # they look for errors on the host
INDEXING = (ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_)
# What `torch.cuda` says of the card; the utilization it does not know.
DRIVER = {
    "is_available": lambda: True,
    "is_bf16_supported": lambda *_: True,
    "get_device_name": lambda *_: "NVIDIA H200",
    "get_device_capability": lambda *_: (9, 0),
    "mem_get_info": lambda *_: (140 * 2**30, 141 * 2**30),
    "max_memory_allocated": lambda *_: 0,
    "utilization": mock.Mock(side_effect=RuntimeError("no driver")),
    "synchronize": mock.Mock(),
    "Stream": mock.Mock(),
    "Event": mock.Mock(),
    "current_stream": mock.Mock(),
    "stream": contextlib.nullcontext,
}


@dataclass
class Traffic:
    """What crossed and what waited since the last `clear`, by the line of ours that asked for it."""

    to_device: Counter[str] = field(default_factory=Counter)  # bytes
    to_host: Counter[str] = field(default_factory=Counter)  # bytes
    waits: Counter[str] = field(default_factory=Counter)  # times the host waited for the device
    made: Counter[str] = field(default_factory=Counter)  # bytes of new tensors on the device, freed ones included
    attended: Counter[str] = field(default_factory=Counter)  # what flex_attention would be compiled for
    gates: Counter[str] = field(default_factory=Counter)  # elements that went into gates (GLU), by dtype
    collectives: Counter[str] = field(default_factory=Counter)  # exchanged with other processes, by kind and line

    def clear(self) -> None:
        for counter in vars(self).values():
            counter.clear()


class CardTensor(Tensor):
    """A tensor of the CPU that says it is on `cuda:0`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        with torch._C._DisableTorchDispatch():
            shell = torch.empty_strided(inner.shape, inner.stride(), dtype=inner.dtype, device="meta")
            return torch.Tensor._make_subclass(cls, shell, False, device_for_backend_keys=CUDA)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    device = property(lambda _: CUDA)
    is_cuda = property(lambda _: True)
    is_cpu = property(lambda _: False)
    is_meta = property(lambda _: False)

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"CardTensor({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor of the card, outside card()")


class CardGenerator(torch.Generator):
    """A generator that knows for which device it was made."""

    def __new__(cls, device: torch.device | str = "cpu") -> Self:
        made = super().__new__(cls, "cpu")
        if torch.device(device).type == "cuda":
            _OF_THE_CARD[made._cdata] = made  # type: ignore[attr-defined]
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        pass


_OF_THE_CARD: dict[int, CardGenerator] = {}  # by the address of the C++ object, which must not be given out again


@contextlib.contextmanager
def card() -> Iterator[Traffic]:
    """Inside the context there is one GPU, and nothing that runs there was moved behind the caller's back."""
    traffic, pinned = Traffic(), _Pinned()
    with (
        mock.patch("torch.Generator", CardGenerator),
        mock.patch("torch.backends.cudnn.is_acceptable", return_value=False),
        mock.patch.object(Tensor, "record_stream"),
        mock.patch.multiple("torch.cuda", **DRIVER),
        mock.patch("models.networks.sparse_htdemucs._flex", return_value=partial(_flex_attention, traffic)),
        mock.patch.object(torch.optim.Optimizer, "_accelerator_graph_capture_health_check"),
        mock.patch.object(Tensor, "pin_memory", lambda tensor: pinned.add(tensor)),
        mock.patch.object(Tensor, "cuda", lambda tensor: tensor.to(CUDA)),
        # Else a module that moves keeps its parameters and takes the shells of their new values.
        mock.patch("torch.__future__._overwrite_module_params_on_conversion", True),
        _Placing(traffic),
        _Running(traffic, pinned),
    ):
        yield traffic


class _Pinned:
    """Tensors of the host that a copy need not wait for."""

    def __init__(self) -> None:
        self.tensors: dict[int, weakref.ref[Tensor]] = {}

    def add(self, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        self.tensors[id(copy)] = weakref.ref(copy)
        return copy

    def holds(self, tensor: Tensor) -> bool:
        return (known := self.tensors.get(id(tensor))) is not None and known() is tensor


class _Placing(TorchFunctionMode):
    """Turns "cuda", which torch without a driver does not take, to "meta", which `_Running` takes for the card.

    It is autocast too, which torch's C++ side leaves out for tensors that it takes for "meta" ones.
    """

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if torch.is_autocast_enabled("cuda"):
            args, kwargs = autocast_arguments(name, (args, kwargs), torch.get_autocast_dtype("cuda"))
        if name == "glu":
            self.traffic.gates[str(args[0].dtype)] += args[0].numel()
        if name == "lstm" and isinstance(args[0], CardTensor):
            return _lstm(*args)
        if name == "rms_norm" and isinstance(args[0], CardTensor):
            return _rms_norm(*args, **kwargs)
        if name in ("cpu", "tolist") and isinstance(args[0], CardTensor):
            on_host = args[0].to("cpu")
            return on_host if name == "cpu" else on_host.tolist()
        if name in ("tensor", "as_tensor") and _placed(kwargs.get("device")) == torch.device("meta"):
            return func(*args, **kwargs | {"device": "cpu"}).to(torch.device("meta"))
        args, kwargs = _mapped(_placed, (args, kwargs))
        return func(*args, **kwargs)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of everything in these tuples, lists and dicts; torch's own `tree_map` takes ten times as long."""
    kind = type(value)
    if kind is dict:
        return {key: _mapped(function, item) for key, item in value.items()}
    if kind is list or isinstance(value, tuple):
        return kind([_mapped(function, item) for item in value])
    return function(value)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in these tuples, lists and dicts."""
    found: list[Tensor] = []
    _mapped(lambda item: found.append(item) if isinstance(item, Tensor) else None, value)
    return found


def _placed(value: Any) -> Any:
    is_name = isinstance(value, str) and value.startswith("cuda")
    is_device = isinstance(value, torch.device) and value.type == "cuda"
    return torch.device("meta") if is_name or is_device else value


class _Running(TorchDispatchMode):
    """Runs every operation on the numbers inside, after the checks that CUDA would make."""

    def __init__(self, traffic: Traffic, pinned: _Pinned) -> None:
        super().__init__()
        self.traffic, self.pinned = traffic, pinned

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        leaves = _tensors((args, kwargs))
        on_card = [leaf for leaf in leaves if isinstance(leaf, CardTensor)]
        makes_on_card = device is not None and torch.device(device).type in ("meta", "cuda")
        if func.overloadpacket is ATEN._to_copy:
            return self._copy(func, args, kwargs, to_card=makes_on_card if device is not None else bool(on_card))
        if func.overloadpacket is ATEN.copy_:
            return self._copy_into(func, args, kwargs)
        if func.namespace == "c10d":
            return self._exchange(func, args, leaves)
        if not on_card and not makes_on_card:
            return func(*args, **kwargs)
        self._check(func, args, kwargs, leaves)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        outer = {id(leaf.inner): leaf for leaf in on_card}
        bare_args, bare_kwargs = _mapped(_inner, (args, kwargs))
        out = func(*bare_args, **bare_kwargs)
        if torch.Tag.inplace_view in func.tags:  # of another shape now, inside and outside
            with torch.utils._mode_utils.no_dispatch():
                func(*args, **kwargs)
        known = {leaf.inner.untyped_storage().data_ptr() for leaf in on_card}
        new = {x.untyped_storage().data_ptr(): x for x in _tensors(out)}
        self.traffic.made[_where()] += sum(x.untyped_storage().nbytes() for at, x in new.items() if at not in known)
        # What was changed in place comes back as the tensor that it was.
        return _mapped(lambda x: _outer(x, outer), out)

    def _check(self, func: Any, args: Any, kwargs: Any, leaves: list[Tensor]) -> None:
        generator = kwargs.get("generator")
        if generator is not None and generator._cdata not in _OF_THE_CARD:
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
        packet = func.overloadpacket
        if strangers := [leaf for leaf in leaves if not isinstance(leaf, CardTensor) and leaf.dim()]:
            shape = tuple(strangers[0].shape)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, found cuda:0 and cpu: {func}, {shape}, {_where()}"
            )
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool] if packet in INDEXING else []
        if packet in WAITING or masks:
            self.traffic.waits[f"{func} {_where()}"] += 1

    def _exchange(self, func: Any, args: Any, leaves: list[Tensor]) -> Any:
        """A collective, as NCCL takes it: of tensors of the card alone."""
        if not all(isinstance(leaf, CardTensor) for leaf in leaves):
            raise RuntimeError(f"No backend type associated with device type cpu: {func}, {_where()}")
        self.traffic.collectives[f"{func.overloadpacket.__name__} {_where()}"] += 1
        outer = {id(leaf.inner): leaf for leaf in leaves}
        return _mapped(lambda x: _outer(x, outer), func(*_mapped(_inner, args)))

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any], *, to_card: bool) -> Tensor:
        source = args[0]
        self._count(source, to_card=to_card, waits=not kwargs.pop("non_blocking", False))
        kwargs.pop("device", None)
        out: Tensor = func(_inner(source), **kwargs)
        if to_card:
            self.traffic.made[_where()] += out.untyped_storage().nbytes()
        return CardTensor(out) if to_card else out

    def _copy_into(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        target, source, *rest = args
        self._count(source, to_card=isinstance(target, CardTensor), waits=not (rest and rest[0]))
        func(_inner(target), _inner(source))
        assert isinstance(target, Tensor)
        return target

    def _count(self, source: Tensor, *, to_card: bool, waits: bool) -> None:
        from_card, num_bytes, where = isinstance(source, CardTensor), source.numel() * source.element_size(), _where()
        if to_card and not from_card:
            self.traffic.to_device[where] += num_bytes
            if waits or not self.pinned.holds(source):
                self.traffic.waits[f"pageable copy {where}"] += 1
        elif from_card and not to_card:
            self.traffic.to_host[where] += num_bytes
            self.traffic.waits[f"copy to the host {where}"] += 1


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, CardTensor) else value


def _outer(value: Any, known: dict[int, CardTensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else CardTensor(value.resolve_conj().resolve_neg())


def _where() -> str:
    """The innermost line of ours that is on the stack."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if "site-packages" not in name and name != __file__ and "/lib/python" not in name and not name.startswith("<"):
            return f"{'/'.join(name.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _lstm(
    x_TBD: Tensor,
    first: tuple[Tensor, Tensor],
    weights: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.lstm` of simple operations: the kernel that CUDA has for it exists on no CPU."""
    assert has_biases, "only LSTMs with biases are emulated"
    assert not dropout, "dropout between the layers is not emulated"
    x_TBD = x_TBD.transpose(0, 1) if batch_first else x_TBD
    ends: list[tuple[Tensor, Tensor]] = []
    for _ in range(num_layers):
        outs = []
        for reverse in (False, True) if bidirectional else (False,):
            place = len(ends)
            hidden, cell = first[0][place], first[1][place]
            w_in, w_hid, b_in, b_hid = weights[4 * place : 4 * place + 4]
            inputs = (x_TBD @ w_in.T + (b_in + b_hid)).unbind(0)
            seen = []
            for part in reversed(inputs) if reverse else inputs:
                i, f, g, o = (part + hidden @ w_hid.T).chunk(4, dim=-1)
                cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
                hidden = o.sigmoid() * cell.tanh()
                seen.append(hidden)
            outs.append(torch.stack(seen[::-1] if reverse else seen))
            ends.append((hidden, cell))
        x_TBD = torch.cat(outs, dim=-1)
    hiddens, cells = (torch.stack(parts) for parts in zip(*ends, strict=True))
    return (x_TBD.transpose(0, 1) if batch_first else x_TBD), hiddens, cells


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor, eps: float) -> Tensor:
    """`torch.rms_norm` of simple operations: CUDA's kernel for its gradients exists on no CPU."""
    assert len(shape) == 1, "only norms over the last dimension are emulated"
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _flex_attention(traffic: Traffic, q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, *, block_mask: Any) -> Tensor:
    """`flex_attention` by the mask alone; queries without any key get zeros."""
    traffic.attended[f"{tuple(q_BHLD.shape)} {tuple(k_BHMD.shape)} {q_BHLD.dtype} {torch.is_grad_enabled()}"] += 1
    sizes = (*q_BHLD.shape[:3], k_BHMD.shape[2])
    b, h, at, key = (
        torch.arange(size, device=q_BHLD.device).view([-1 if place == axis else 1 for axis in range(4)])
        for place, size in enumerate(sizes)
    )
    kept_BHLM = block_mask.mask_mod(b, h, at, key)
    scores_BHLM = (q_BHLD @ k_BHMD.mT).float() / q_BHLD.shape[-1] ** 0.5
    scores_BHLM = torch.where(kept_BHLM, scores_BHLM, -1e9)
    weights_BHLM = torch.softmax(scores_BHLM, dim=-1) * kept_BHLM
    return weights_BHLM.to(v_BHMD.dtype) @ v_BHMD
