"""Bit-packed weights: rounding to few bits, and the tensors that a checkpoint stores of them.

Uniform widths after training, widths that were learnt (`learning/bit_widths.py`) and plain float16 are packings of the
same form. Shape letters: G group of weights that share a width, K weight within a group, R range.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ModelError
from ..learner_config import MIN_QUANTIZED_MIB

MIB = 2**20
MIN_BITS, MAX_BITS = 2, 15
FLOAT16_BITS = 16  # the width that means float16, nothing rounded to a grid
RANGES, WIDTHS = "#ranges", "#widths"  # stored beside a packed tensor; "#" is in no parameter's name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizationGrid:
    """How one tensor is rounded: consecutive weights in row-major order share a width, and equal parts a range."""

    bits_G: Tensor  # uint8
    group_size: int  # weights; the last group may have fewer
    num_ranges: int = 1  # each from its part's smallest to its largest weight


Packing = Mapping[str, QuantizationGrid]  # by name; all other floating-point tensors are stored as float16


def uniform_packing(model: nn.Module, bits: int, *, min_mib: float = MIN_QUANTIZED_MIB) -> dict[str, QuantizationGrid]:
    """One width for every matrix of at least `min_mib` (in float32) and a range per row of it; 16 is float16."""
    if bits != FLOAT16_BITS and not MIN_BITS <= bits <= MAX_BITS:
        raise ModelError(f"{bits} bits: give {MIN_BITS} to {MAX_BITS}, or {FLOAT16_BITS} for float16")
    return {
        name: QuantizationGrid(
            bits_G=torch.tensor([bits], dtype=torch.uint8), group_size=weight.numel(), num_ranges=len(weight)
        )
        for name, weight in large_matrices(model, min_mib).items()
        if bits != FLOAT16_BITS
    }  # fmt: skip


def rounded(state: Mapping[str, Tensor], packing: Packing) -> dict[str, Tensor]:
    """The values that a packed state has when read again, on the CPU; rounding them once more changes nothing."""
    values = {}
    for name, value in state.items():
        if name in packing:
            codes_GK, ranges_R2 = _encode(name, value, packing[name])
            values[name] = _decode(codes_GK, ranges_R2, packing[name].bits_G, value.shape)
        else:
            values[name] = as_float16(value).to(value.dtype)
    return values


def pack(state: Mapping[str, Tensor], packing: Packing) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors to store, and as JSON what `unpack` needs to read them."""
    tensors, described = {}, {}
    for name, value in state.items():
        if name not in packing:
            tensors[name] = as_float16(value)
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


def unpack(
    tensors: Mapping[str, Tensor], described: Any, *, origin: str
) -> tuple[dict[str, Tensor], dict[str, QuantizationGrid]]:
    """The state that was packed, matrices in float32, and the packing it had; what does not fit together is refused."""
    state, packing = dict(tensors), dict[str, QuantizationGrid]()
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
            total += as_float16(value).nbytes
    return total


def large_matrices(model: nn.Module, min_mib: float) -> dict[str, nn.Parameter]:
    """Weights worth rounding, by name: vectors are few, and gains and offsets need their precision."""
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and 4 * weight.numel() >= min_mib * MIB
    }


def as_float16(value: Tensor) -> Tensor:
    """In float16 where it fits; integers, and weights that would overflow, as they are."""
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point() or (value.numel() and value.abs().max() > torch.finfo(torch.float16).max):
        return value
    return value.half()


@torch.no_grad()
def _encode(name: str, value: Tensor, grid: QuantizationGrid) -> tuple[Tensor, Tensor]:
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


def _unpack_one(
    stream: Tensor, ranges_R2: Tensor, widths: Tensor, entry: Mapping[str, Any]
) -> tuple[Tensor, QuantizationGrid]:
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
    grid = QuantizationGrid(bits_G=bits_G, group_size=group_size, num_ranges=len(ranges_R2))
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
