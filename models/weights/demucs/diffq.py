"""Weights that DiffQ quantised, in packages of demucs: whole numbers bit by bit, and the range that they stand for.

Such a state names nothing: its lists follow the parameters of the reference's network, and a parameter's size tells
which of them it is in. This is a reader of our own for the format; DiffQ's package, whose licence forbids commercial
use, is neither needed nor copied. Shape letters: L block of 2048 numbers, P plane (one bit of each number), W word of
64 bits, G group of weights that share a width, K weight within a group.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import ModelError
from ..option_checks import brief, flag, number, whole_number
from .demucs_options import ClassName

UNIFORM, DIFFQ = "diffq.uniform.UniformQuantizer", "diffq.diffq.DiffQuantizer"
QUANTIZERS = (UNIFORM, DIFFQ)
WORDS, BLOCK = 32, 64 * 32  # words in a block, and numbers: bit s of word w is of number 32 s + w
NUM_WIDTHS = 14  # DiffQ stores numbers of 1 to 14 bits
MAX_BITS = 15  # of uniform quantisation
LOWEST_BITS = np.uint64(0x0101010101010101)  # of each of eight bytes
MAX_FLOAT = float(np.finfo(np.float32).max)
DEFAULTS: dict[str, dict[str, Any]] = {
    UNIFORM: {"bits": 8, "min_size": 0.01, "float16": False, "exclude": []},
    DIFFQ: {"group_size": 1, "min_bits": 2, "min_size": 0.01, "float16": False, "exclude": []},
}
# They act while a network is trained or written, or where two of its modules share a parameter, as none does here.
WITHOUT_EFFECT = {
    UNIFORM: {"qat", "detect_bound"},
    DIFFQ: {"max_bits", "init_bits", "extra_bits", "param", "noise", "suffix", "detect_bound"},
}
# Of layers of Hybrid and HT Demucs, whose parts the reference builds in another order than we do.
LAYER = re.compile(r"(t?(?:encoder|decoder)\.\d+(?:\.layers\.\d+)?)\.(conv|conv_tr|norm1|rewrite|norm2|dconv)\.")
PARTS = {
    "encoder": ("conv", "norm1", "rewrite", "norm2", "dconv"),
    "decoder": ("conv_tr", "norm2", "rewrite", "norm1", "dconv"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizerOptions:
    """What the quantiser was told, as far as a reader must know it."""

    threshold: int  # parameters of at most so many weights were not quantised
    float16: bool  # whether those are stored in half precision
    bits: int  # of each weight; 0 where groups have widths of their own
    group_size: int  # weights; 0 where all weights of a parameter are one group
    min_bits: int  # added to a group's stored width


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedParameter:
    """One parameter as it is stored."""

    planes_LPW: Mapping[int, Tensor]  # int64, by width, which is the number of planes
    low: float
    high: float
    widths_LPW: Tensor | None  # of the groups, less `min_bits`; None where all weights have one width


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedState:
    """A quantised state, checked as far as that goes without its network."""

    options: QuantizerOptions
    quantized: tuple[QuantizedParameter, ...]
    floats: tuple[Tensor, ...]
    origin: str

    def largest_state(self) -> dict[str, Tensor]:
        """The largest state that these numbers can fill, for `build_for`: without names, and without memory."""
        sizes = [sum(planes.shape[0] * BLOCK for planes in entry.planes_LPW.values()) for entry in self.quantized]
        sizes += [value.numel() for value in self.floats]
        return {str(index): torch.empty(size, device="meta") for index, size in enumerate(sizes)}

    def unpack(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """The weights by name; `shapes` are those of the network's parameters, see `reference_shapes`."""
        try:
            return self._unpack(shapes)
        except ModelError as error:
            raise _refusal(self.origin, error) from None

    def _unpack(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        sizes = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
        large = [name for name, size in sizes.items() if size > self.options.threshold]
        small = [name for name in shapes if sizes[name] <= self.options.threshold]
        if len(large) != len(self.quantized) or len(small) != len(self.floats):
            raise ModelError(
                f"belongs to another configuration: it holds {len(self.quantized)} quantised tensors and "
                f"{len(self.floats)} others, the model wants {len(large)} and {len(small)}"
            )
        state = dict(zip(small, self.floats, strict=True))
        for name, value in state.items():
            if tuple(value.shape) != tuple(shapes[name]):
                raise ModelError(
                    f"belongs to another configuration: {name}: the model wants {tuple(shapes[name])}, "
                    f"the file has {tuple(value.shape)}"
                )
        for name, entry in zip(large, self.quantized, strict=True):
            try:
                weights = torch.from_numpy(_weights(entry, self.options, sizes[name]))
            except ModelError as error:
                raise ModelError(f"{error}, in {name}") from None
            state[name] = weights.reshape(tuple(shapes[name]))
        return {name: state[name] for name in shapes}


def is_quantized(state: Any) -> bool:
    """Whether a package's state was quantised, in the way of demucs since version 3 or of version 2."""
    return isinstance(state, Mapping) and ("__quantized" in state or isinstance(state.get("compressed"), bytes))


def read_quantized(state: Mapping[Any, Any], *, file_bytes: int, origin: str) -> QuantizedState:
    """A quantised state's parts; ModelError for what is inconsistent, or more than a file of so many bytes holds."""
    try:
        return _read(state, file_bytes, origin)
    except ModelError as error:
        raise _refusal(origin, error) from None


def reference_shapes(network: nn.Module) -> dict[str, Sequence[int]]:
    """Shapes of the parameters of a network of ours, in the order in which the reference builds them."""
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    return {name: shapes[name] for name in in_reference_order(shapes)}


def in_reference_order(names: Iterable[str]) -> list[str]:
    """The names of our parameters in the order of the reference's, where the parts of a layer come otherwise."""
    keys: dict[str, tuple[int, int]] = {}
    starts: dict[str, int] = {}
    for index, name in enumerate(names):
        keys[name] = index, 0
        if match := LAYER.match(name):
            parts = PARTS["encoder" if "encoder" in match[1] else "decoder"]
            keys[name] = starts.setdefault(match[1], index), parts.index(match[2])
    return sorted(keys, key=keys.__getitem__)


def from_structure(text: str, tensors: Mapping[str, Tensor], *, origin: str) -> Any:
    """The state that `structure` in the metadata of a safetensors file describes, with the file's tensors put in."""
    try:
        return _from_node(json.loads(text), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{origin} has a structure that cannot be read: {str(error)[:200]}") from error


def _from_node(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        if isinstance(node, list):
            raise ValueError("a list without its kind")
        return node
    ((kind, content),) = node.items()
    if kind == "_dict":
        return {str(key): _from_node(item, tensors) for key, item in content}
    if kind in ("_list", "_tuple"):
        return [_from_node(item, tensors) for item in content]
    if kind == "_tensor":
        return tensors[content]
    if kind == "_class":
        return ClassName(str(content))
    raise ValueError(f"a part of kind {brief(kind)}")


def _refusal(origin: str, error: ModelError) -> ModelError:
    return ModelError(f"{origin} is quantised with DiffQ and {error}; get the file anew, or take the unquantised model")


def _read(state: Mapping[Any, Any], file_bytes: int, origin: str) -> QuantizedState:
    if "__quantized" not in state:
        raise ModelError("compressed in the way of demucs 2, which is not read")
    options = _options(state.get("meta"))
    lists = [_list(state.get(name), name) for name in ("quantized", "float16", "others")]
    entries = tuple(_parameter(entry, options) for entry in lists[0])
    floats, empty = (lists[1], lists[2]) if options.float16 else (lists[2], lists[1])
    if empty:
        raise ModelError(f"has {len(empty)} tensors of another precision than it says (float16={options.float16})")
    if not all(isinstance(value, Tensor) and value.dtype in (torch.float32, torch.float16) for value in floats):
        raise ModelError("has weights that are no plain numbers")
    packed = [tensor for entry in entries for tensor in (*entry.planes_LPW.values(), entry.widths_LPW)]
    claimed = sum(value.numel() * value.element_size() for value in (*packed, *floats) if value is not None)
    if claimed > file_bytes:  # tensors that share their bytes, or repeat them, would ask for more than the file is
        raise ModelError(f"was altered: its tensors are {claimed} bytes, the file has {file_bytes}")
    return QuantizedState(options=options, quantized=entries, floats=tuple(floats), origin=origin)


def _options(meta: Any) -> QuantizerOptions:
    klass = meta.get("klass") if isinstance(meta, Mapping) else None
    if not isinstance(klass, ClassName) or klass.path not in QUANTIZERS:
        path = klass.path if isinstance(klass, ClassName) else klass
        raise ModelError(f"its quantiser is {brief(path)}; read are {' and '.join(QUANTIZERS)}")
    for name, needed in (("packed", True), ("torch_pack", False)):
        if meta.get(name, False) is not needed:
            raise ModelError(f"sets {name}={brief(meta.get(name, False))}; only {needed} is read")
    given = meta.get("init_kwargs")
    if not isinstance(given, Mapping):
        raise ModelError("does not say with which options")
    options = DEFAULTS[klass.path] | dict(given)
    if unknown := options.keys() - DEFAULTS[klass.path].keys() - WITHOUT_EFFECT[klass.path]:
        raise ModelError(f"has an option that is not known: {', '.join(sorted(map(brief, unknown)))[:200]}")
    if not isinstance(options["exclude"], list | tuple) or len(options["exclude"]):
        raise ModelError(f"sets exclude={brief(options['exclude'])}; only [] is read")
    uniform = klass.path == UNIFORM
    return QuantizerOptions(
        threshold=int(number(options["min_size"]) * 2**20 // 4),
        float16=flag(options["float16"]),
        bits=_at_least_1("bits", options["bits"], MAX_BITS) if uniform else 0,
        group_size=0 if uniform else _at_least_1("group_size", options["group_size"], 10**9),
        min_bits=0 if uniform else _at_least_1("min_bits", options["min_bits"], NUM_WIDTHS),
    )


def _at_least_1(name: str, value: Any, most: int) -> int:
    count = whole_number(value, most)
    if not count:
        raise ModelError(f"sets {name}=0; want 1 to {most}")
    return count


def _list(value: Any, name: str, length: int | None = None) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        wanted = "a list" if length is None else f"{length} values"
        raise ModelError(f"was altered: {name} must be {wanted}, got {brief(value)}")
    return value


def _parameter(entry: Any, options: QuantizerOptions) -> QuantizedParameter:
    if options.bits:
        planes, limits = _list(entry, "a quantised tensor", 2)
        by_width, widths = {options.bits: _planes(planes, options.bits)}, None
    else:
        planes, limits, widths = _list(entry, "a quantised tensor", 3)
        numbered = enumerate(_list(planes, "planes of each width", NUM_WIDTHS), 1)
        by_width = {width: _planes(planes, width) for width, planes in numbered if planes is not None}
        widths = _planes(widths, None)
    low, high = _list(limits, "a range", 2)
    if type(low) is not float or type(high) is not float or not (-MAX_FLOAT <= low <= high <= MAX_FLOAT):
        raise ModelError(f"was altered: a range must be two finite numbers that rise, got {brief(limits)}")
    if high - low > MAX_FLOAT:
        raise ModelError(f"was altered: a range of {low:g} to {high:g} is wider than float32 holds")
    return QuantizedParameter(planes_LPW=by_width, low=low, high=high, widths_LPW=widths)


def _planes(value: Any, num_planes: int | None) -> Tensor:
    """A tensor of so many bit planes, sure to be what its shape says; None: as many as the widths of groups need."""
    plain = (
        type(value) is Tensor
        and value.dtype == torch.int64
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_contiguous()
        and not value.is_neg()
    )
    if not plain or value.dim() != 3 or value.shape[2] != WORDS:
        raise ModelError(f"was altered: bits must be whole numbers of shape (blocks, bits, {WORDS})")
    if value.shape[1] != num_planes and (num_planes is not None or value.shape[1] > NUM_WIDTHS.bit_length()):
        wanted = f"at most {NUM_WIDTHS.bit_length()}" if num_planes is None else num_planes
        raise ModelError(f"was altered: {wanted} bits were to be stored of each number, got {value.shape[1]}")
    planes: Tensor = value
    return planes


def _weights(entry: QuantizedParameter, options: QuantizerOptions, count: int) -> NDArray[np.float32]:
    """One parameter's weights; shape (count,)."""
    size = options.group_size or count
    num_groups, rest = divmod(count, size)
    if rest:
        raise ModelError(f"has groups of {size} weights, of which {count} are no multiple")
    widths_G = _widths(entry, options, num_groups)
    weights_GK = np.empty((num_groups, size), np.float32)
    group_counts = np.bincount(widths_G, minlength=MAX_BITS + 1)
    for width, num_wide in enumerate(group_counts.tolist()):
        if bool(num_wide) != (width in entry.planes_LPW):
            raise ModelError(f"was altered: {num_wide} groups have {width} bits, and others are stored")
        if num_wide:
            unit = np.float32(1) / np.float32(2**width - 1)
            levels = _whole_numbers(entry.planes_LPW[width], num_wide * size)
            weights_GK[widths_G == width] = (levels.astype(np.float32) * unit).reshape(num_wide, size)
    weights_GK *= np.float32(entry.high - entry.low)
    weights_GK += np.float32(entry.low)
    return weights_GK.reshape(count)


def _widths(entry: QuantizedParameter, options: QuantizerOptions, num_groups: int) -> NDArray[np.uint16]:
    if entry.widths_LPW is None:
        return np.full(num_groups, options.bits, np.uint16)
    widths_G = _whole_numbers(entry.widths_LPW, num_groups) + np.uint16(options.min_bits)
    if (widest := int(widths_G.max())) > NUM_WIDTHS:
        raise ModelError(f"has groups of {widest} bits, and its format stores no more than {NUM_WIDTHS}")
    return widths_G


def _whole_numbers(planes_LPW: Tensor, count: int) -> NDArray[np.uint16]:
    """The first `count` numbers; eight of them, which lie in neighbouring words, are handled at once."""
    num_blocks, num_planes, _ = planes_LPW.shape
    if num_blocks != -(-count // BLOCK):
        raise ModelError(f"was altered: {count} numbers take {-(-count // BLOCK)} blocks, it has {num_blocks}")
    packed = planes_LPW.numpy().astype("<i8", copy=False)
    # (L, P, W, 8 bytes of a word) -> (P, L, byte, W), and the eight bytes of neighbouring words as one number
    parts = packed.view(np.uint8).reshape(num_blocks, num_planes, WORDS, 8).transpose(1, 0, 3, 2)
    rows_P = np.ascontiguousarray(parts).reshape(num_planes, num_blocks * 8 * WORDS).view(np.uint64)
    numbers = _eight_bits(rows_P[:8], num_blocks)[:count].astype(np.uint16)
    if num_planes > 8:
        numbers |= _eight_bits(rows_P[8:], num_blocks)[:count].astype(np.uint16) << np.uint16(8)
    return numbers


def _eight_bits(rows_P: NDArray[np.uint64], num_blocks: int) -> NDArray[np.uint8]:
    """Numbers of up to 8 planes; shape (num_blocks * 2048,)."""
    numbers = np.zeros((8, rows_P.shape[1]), np.uint64)  # by the bit's place in its byte
    for plane, row in enumerate(rows_P):
        for place in range(8):
            numbers[place] |= (row >> np.uint64(place) & LOWEST_BITS) << np.uint64(plane)
    parts = numbers.view(np.uint8).reshape(8, num_blocks, 8, WORDS)
    return np.ascontiguousarray(parts.transpose(1, 2, 0, 3)).reshape(-1)
