"""Weights in few bits: learnt bit widths, rounding to them, and the bit-packed tensors that a checkpoint stores.

Differentiable quantisation after Défossez, Adi and Synnaeve 2021 (arXiv 2104.09987): in training each group of weights
carries uniform noise as large as the rounding error of its width would be, so the loss tells the width how much
precision the group needs, and a penalty on the size pulls the other way. At the end weights are rounded for real.
Uniform widths after training, and plain float16, are packings of the same form.

Added to the house's letters: G group of weights that share a width, K weight within a group, R range.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ModelError
from ..learner_config import MIN_QUANTIZED_MIB, QuantizeConfig
from .augment import generator

MIB = 2**20
MIN_BITS, MAX_BITS, FIRST_BITS = 2, 15, 8
HALF = 16  # the width that means float16, nothing rounded to a grid
RANGES, WIDTHS = "#ranges", "#widths"  # stored beside a packed tensor; "#" is in no parameter's name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """How one tensor is rounded: consecutive weights in row-major order share a width, and equal parts a range."""

    bits_G: Tensor  # uint8
    group_size: int  # weights; the last group may have fewer
    num_ranges: int = 1  # each from its part's smallest to its largest weight


Packing = Mapping[str, Grid]  # by name; all other floating-point tensors are stored as float16


def uniform(model: nn.Module, bits: int, *, min_mib: float = MIN_QUANTIZED_MIB) -> dict[str, Grid]:
    """One width for every matrix of at least `min_mib` (in float32) and a range per row of it; 16 is float16."""
    if bits != HALF and not MIN_BITS <= bits <= MAX_BITS:
        raise ModelError(f"{bits} bits: give {MIN_BITS} to {MAX_BITS}, or {HALF} for float16")
    return {
        name: Grid(
            bits_G=torch.tensor([bits], dtype=torch.uint8), group_size=weight.numel(), num_ranges=len(weight)
        )
        for name, weight in _matrices(model, min_mib).items()
        if bits != HALF
    }  # fmt: skip


def rounded(state: Mapping[str, Tensor], packing: Packing) -> dict[str, Tensor]:
    """The values that a packed state has when read again, on the CPU; rounding them once more changes nothing."""
    values = {}
    for name, value in state.items():
        if name in packing:
            codes_GK, ranges_R2 = _encode(name, value, packing[name])
            values[name] = _decode(codes_GK, ranges_R2, packing[name].bits_G, value.shape)
        else:
            values[name] = _halved(value).to(value.dtype)
    return values


def pack(state: Mapping[str, Tensor], packing: Packing) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors to store, and as JSON what `unpack` needs to read them."""
    tensors, described = {}, {}
    for name, value in state.items():
        if name not in packing:
            tensors[name] = _halved(value)
            continue
        grid = packing[name]
        codes_GK, tensors[name + RANGES] = _encode(name, value, grid)
        widths_G, codes = grid.bits_G.numpy(), codes_GK.numpy()
        low, high = int(widths_G.min()), int(widths_G.max())
        stream = [_to_bytes(codes[widths_G == width].ravel(), width) for width in range(low, high + 1)]
        tensors[name] = torch.from_numpy(np.concatenate(stream))
        tensors[name + WIDTHS] = torch.from_numpy(_to_bytes(widths_G - low, (high - low).bit_length()))
        described[name] = {"shape": list(value.shape), "group_size": grid.group_size, "bits": [low, high]}
    return tensors, described


def unpack(tensors: Mapping[str, Tensor], described: Any, *, origin: str) -> tuple[dict[str, Tensor], dict[str, Grid]]:
    """The state that was packed, matrices in float32, and the packing it had; what does not fit together is refused."""
    state, packing = dict(tensors), {}
    try:
        for name, entry in described.items():
            stream, ranges_R2, widths = (state.pop(name + suffix) for suffix in ("", RANGES, WIDTHS))
            state[name], packing[name] = _unpack_one(stream, ranges_R2, widths, entry)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{origin} is truncated or was altered: its packed weights do not fit: {error}") from error
    return state, packing


def packed_bytes(state: Mapping[str, Tensor], packing: Packing) -> int:
    """Bytes that `pack` fills; the file has a header of names and shapes besides."""
    total = 0
    for name, value in state.items():
        if name in packing:
            grid = packing[name]
            widths = grid.bits_G.tolist()
            low, high = min(widths), max(widths)
            counts = ((widths.count(width) * grid.group_size, width) for width in range(low, high + 1))
            total += sum(_bytes_of(count, width) for count, width in counts) + 8 * grid.num_ranges
            total += _bytes_of(len(widths), (high - low).bit_length())
        else:
            total += _halved(value).nbytes
    return total


class BitWidths:
    """Learnt widths of a model's matrices, one per group of weights, with an optimizer of their own.

    Noise and gradient are functions of (seed, step) and of the weights' gradients, which data-parallel workers
    share; so every worker's widths are the same, and need no averaging.
    """

    def __init__(self, model: nn.Module, config: QuantizeConfig) -> None:
        self.config = config
        self.weights = _matrices(model, config.min_mib)
        if not self.weights:
            raise ModelError(f"no weight matrix has {config.min_mib:g} MiB: a smaller quantize.min_mib would do")
        device = next(iter(self.weights.values())).device
        self.groups = [-(-weight.numel() // config.group_size) for weight in self.weights.values()]
        share = (FIRST_BITS - MIN_BITS) / (MAX_BITS - MIN_BITS)
        first = math.log(share / (1 - share))
        self.logits_G = nn.Parameter(torch.full((sum(self.groups),), first, device=device))
        # One group's share of a model is so small that Adam's usual 1e-8 would outweigh its gradient.
        self.optimizer = torch.optim.Adam([self.logits_G], lr=config.learning_rate, eps=1e-15)
        others = sum(value.numel() for value in model.state_dict().values()) - sum(
            weight.numel() for weight in self.weights.values()
        )
        # Ranges, widths of groups and what stays float16: known beforehand, or nearly.
        self.fixed_bits = 64 * len(self.groups) + 4 * sum(self.groups) + HALF * others

    def bits(self) -> Tensor:
        """Present widths of all groups, not yet whole numbers; shape (G,)."""
        return MIN_BITS + (MAX_BITS - MIN_BITS) * torch.sigmoid(self.logits_G)

    def size_mib(self) -> Tensor:
        """What the model would take, packed with these widths; differentiable."""
        size_bits: Tensor = self.config.group_size * self.bits().sum() + self.fixed_bits
        return size_bits / (8 * MIB)

    @contextmanager
    def noisy(self, *, seed: int, step: int) -> Iterator[None]:
        """Inside, weights carry noise, and should get their gradients; then they are back, and widths make a step."""
        weights: list[Tensor] = list(self.weights.values())
        offsets = self._offsets(seed, step)
        kept = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, offset in zip(weights, offsets, strict=True):
                weight.add_(offset)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)  # subtracting would leave rounding errors
        self._learn(offsets, [weight.grad for weight in weights])

    def packing(self) -> dict[str, Grid]:
        """The present widths as whole numbers."""
        bits_G = self.bits().detach().round().to("cpu", torch.uint8)
        size = self.config.group_size
        parts = zip(self.weights, torch.split(bits_G, self.groups), strict=True)
        return {name: Grid(bits_G=part.clone(), group_size=size) for name, part in parts}

    @contextmanager
    def rounding(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model has the values of its packed file; afterwards its own again, also after an error."""
        state = model.state_dict()
        kept = {name: value.detach().clone() for name, value in state.items()}
        _fill(state, rounded(kept, self.packing()))
        try:
            yield
        finally:
            _fill(state, kept)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and numbers."""
        return {"logits": self.logits_G.detach(), "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored state; one of other groups is refused."""
        if state["logits"].shape != self.logits_G.shape:
            raise ModelError(f"the stored state has {len(state['logits'])} groups, expected {len(self.logits_G)}")
        self.logits_G.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _offsets(self, seed: int, step: int) -> list[Tensor]:
        """Noise of each weight: uniform, as wide as the distance between neighbours on its grid."""
        device = self.logits_G.device
        dice = torch.Generator(device).manual_seed(generator(seed, step, "weights").initial_seed())
        share_G = 1 / (torch.exp2(self.bits()) - 1)
        offsets = []
        for weight, share in zip(self.weights.values(), torch.split(share_G, self.groups), strict=True):
            low, high = weight.detach().aminmax()
            noise_GK = torch.rand(len(share), self.config.group_size, generator=dice, device=device) - 0.5
            scaled_GK = (high - low) * share[:, None] * noise_GK
            offsets.append(scaled_GK.flatten()[: weight.numel()].view_as(weight))
        return offsets

    def _learn(self, offsets: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Adam on the logits: a weight's gradient is its noise's gradient too; without finite ones they stay."""
        if not nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]).isfinite():
            return
        known = [(offset, grad) for offset, grad in zip(offsets, gradients, strict=True) if grad is not None]
        size_mib = self.size_mib()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(
            [size_mib, *(offset for offset, _ in known)],
            [torch.full_like(size_mib, self.config.penalty), *(gradient for _, gradient in known)],
        )
        self.optimizer.step()


def _matrices(model: nn.Module, min_mib: float) -> dict[str, nn.Parameter]:
    """Weights worth rounding, by name: vectors are few, and gains and offsets need their precision."""
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and 4 * weight.numel() >= min_mib * MIB
    }


@torch.no_grad()
def _fill(state: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        value.copy_(values[name])


def _halved(value: Tensor) -> Tensor:
    """In float16 where it fits; integers, and weights that would overflow, as they are."""
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point() or (value.numel() and value.abs().max() > torch.finfo(torch.float16).max):
        return value
    return value.half()


@torch.no_grad()
def _encode(name: str, value: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Codes (G, K) as int32, the last group filled up with zeros, and ranges (R, 2)."""
    parts = value.detach().to("cpu", torch.float32).reshape(grid.num_ranges, -1)
    low, high = torch.aminmax(parts, dim=1, keepdim=True)
    if not torch.isfinite(high - low).all():
        raise ModelError(f"{name} holds weights that are not finite: nothing to round them to")
    places = ((parts - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)).flatten()
    places = nn.functional.pad(places, (0, len(grid.bits_G) * grid.group_size - len(places)))
    codes_GK = (places.view(-1, grid.group_size) * _levels(grid.bits_G)).round()
    return codes_GK.to(torch.int32), torch.cat([low, high], dim=1)


@torch.no_grad()
def _decode(codes_GK: Tensor, ranges_R2: Tensor, bits_G: Tensor, shape: Sequence[int]) -> Tensor:
    """Weights at their places between low and high; both ends come out exactly, so rounding again finds them."""
    places = (codes_GK.to(torch.int32) / _levels(bits_G)).flatten()[: math.prod(shape)].view(len(ranges_R2), -1)
    low, high = ranges_R2[:, :1], ranges_R2[:, 1:]
    return (low * (1 - places) + high * places).clamp(low, high).view(tuple(shape))


def _levels(bits_G: Tensor) -> Tensor:
    """The highest code of each group; shape (G, 1)."""
    return torch.exp2(bits_G.float())[:, None] - 1


def _unpack_one(stream: Tensor, ranges_R2: Tensor, widths: Tensor, entry: Mapping[str, Any]) -> tuple[Tensor, Grid]:
    shape, group_size, (low, high) = entry["shape"], entry["group_size"], entry["bits"]
    numbers = (*shape, group_size, low, high)
    _expect(all(type(number) is int and number > 0 for number in numbers), f"{numbers} are no sizes")
    _expect(MIN_BITS <= low <= high <= MAX_BITS, f"widths from {low} to {high}")
    num_weights = math.prod(shape)
    num_groups = -(-num_weights // group_size)
    # Sizes are compared before anything is allocated by them: a file cannot ask for more than some times itself.
    _expect(8 * stream.nbytes >= low * num_groups * group_size, f"{stream.nbytes} bytes for {num_weights} weights")
    _expect(ranges_R2.dtype == torch.float32 and ranges_R2.shape[1:] == (2,), "ranges are no pairs")
    _expect(len(ranges_R2) > 0 and num_weights % len(ranges_R2) == 0, f"{len(ranges_R2)} ranges")
    _expect(bool((ranges_R2.isfinite().all(1) & (ranges_R2[:, 0] <= ranges_R2[:, 1])).all()), "a range is empty")
    widths_G = _from_bytes(widths, (high - low).bit_length(), num_groups) + low
    _expect(widths_G.max() <= high, f"a width of {widths_G.max()}")
    codes_GK, start = np.empty((num_groups, group_size), np.uint16), 0
    for width in range(low, high + 1):
        chosen_G = widths_G == width
        count = int(chosen_G.sum()) * group_size
        end = start + _bytes_of(count, width)
        codes_GK[chosen_G] = _from_bytes(stream[start:end], width, count).reshape(-1, group_size)
        start = end
    _expect(start == len(stream), f"{len(stream) - start} bytes too many")
    bits_G = torch.from_numpy(widths_G.astype(np.uint8))
    grid = Grid(bits_G=bits_G, group_size=group_size, num_ranges=len(ranges_R2))
    return _decode(torch.from_numpy(codes_GK), ranges_R2, bits_G, shape), grid


def _expect(holds: bool, seen: str) -> None:
    if not holds:
        raise ValueError(seen)


def _bytes_of(count: int, width: int) -> int:
    return -(-count * width // 8)


def _to_bytes(codes: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """The lowest `width` bits of each code, one after the other, lowest first."""
    bits = codes.astype(np.uint16)[:, None] >> np.arange(width, dtype=np.uint16) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def _from_bytes(data: Tensor, width: int, count: int) -> NDArray[np.uint16]:
    fits = data.dtype == torch.uint8 and data.shape == (_bytes_of(count, width),)
    _expect(fits, f"{data.nbytes} bytes for {count} numbers of {width} bits")
    bits = np.unpackbits(data.numpy(), count=count * width, bitorder="little").reshape(count, width)
    codes = np.zeros(count, np.uint16)
    for place in range(width):
        codes |= bits[:, place].astype(np.uint16) << np.uint16(place)
    return codes
