"""A whole track through a model: overlapping segments, triangle weights, the shift trick, and bags of models.

`separate` takes a track in memory, `separate_stream` one of any length in constant memory; both run the same
`_Stream`, so they agree. With `shifts=0` results are deterministic, and those of demucs' `apply_model`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..networks.bag import Bag, interface
from ..networks.levels import check_statistics, finite, track_statistics
from ..ranges import NonNegativeInt, PositiveInt, Range, check_ranges
from ..rng import generator
from .threads import can_differ, num_threads_here

MAX_SHIFT_S = 0.5  # longest delay of the shift trick
STD_EPSILON = 1e-8  # keeps a silent track finite
MAX_SIDE_BY_SIDE = 4  # batches computed at once on a CPU: a segment of HT Demucs holds about a gigabyte meanwhile


def input_statistics(model: nn.Module, blocks: Iterable[Tensor]) -> tuple[float, float]:
    """Mean and deviation by which the model's input is normalized, for `separate_stream`; reads all blocks (C, T)."""
    mean, std = track_statistics(blocks)
    return (mean, std) if interface(model).normalize == "track" else (0.0, 1.0)


def separate(
    model: nn.Module,
    mixture_CT: Tensor,
    *,
    overlap: float = 0.25,
    shifts: int = 0,
    batch_size: int = 1,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    mean: float | None = None,
    std: float | None = None,
    mixture_consistency: bool = False,
) -> Tensor:
    """Estimates (S, C, T) of the stems of a track, on the mixture's device, in float32.

    The track is normalized as the model's config says, and the estimates scaled back; `mean` and `std`, given together,
    are used instead of those of the track's own mono downmix. `overlap` is the share of a segment that the next one
    covers again. `shifts` averages over that many seeded delays of up to half a second. `dtype=torch.bfloat16`
    computes by autocast. `mixture_consistency` spreads what the estimates miss of the mixture evenly, so that they sum
    to it. Samples that are not finite count as silence, since one of them would otherwise spread over its whole
    segment.
    """
    options = _Options(overlap=overlap, shifts=shifts, batch_size=batch_size, seed=seed, dtype=dtype)
    _check(model, mixture_CT)
    if not mixture_CT.shape[-1]:
        raise ModelError("the mixture has no samples: give at least one")
    mixture_CT = finite(mixture_CT.detach().float())
    if mean is None and std is None:
        mean, std = input_statistics(model, [mixture_CT])
    if mean is None or std is None:
        raise ModelError(f"give both mean and std of the track, or neither, got mean={mean} and std={std}")
    check_statistics(mean, std)
    normal_CT = (mixture_CT - mean) / (std + STD_EPSILON)
    estimates_SCT = torch.zeros(len(interface(model).sources), *mixture_CT.shape, device=mixture_CT.device)
    previous: nn.Module | None = None
    for member, delay, share_S11 in _passes(model, options):
        if member is not previous:
            stream = ready = None  # leaves the device before the next member gets there
            previous, ready = member, in_evaluation(member, device)
        assert ready is not None
        stream = _Stream(ready, options, delay=delay)
        position = 0
        for out_SCT in stream.run(torch.split(normal_CT, 8 * stream.interface.segment_samples, dim=-1)):
            end = position + out_SCT.shape[-1]
            estimates_SCT[..., position:end] += (share_S11.to(out_SCT) * out_SCT).to(estimates_SCT.device)
            position = end
    estimates_SCT = estimates_SCT * (std + STD_EPSILON) + mean
    return _consistent(estimates_SCT, mixture_CT) if mixture_consistency else estimates_SCT


def separate_stream(
    model: nn.Module,
    blocks: Iterable[Tensor],
    *,
    mean: float,
    std: float,
    overlap: float = 0.25,
    shifts: int = 0,
    batch_size: int = 1,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    mixture_consistency: bool = False,
) -> Iterator[Tensor]:
    """Estimates (S, C, T) in blocks of varying length, from a mixture that comes in blocks (C, T) of any length.

    Together they are as long as the mixture. Memory holds a few segments, however long the track. `mean` and `std`
    come from `input_statistics` over the same blocks; the other options are those of `separate`.
    """
    check_statistics(mean, std)
    options = _Options(overlap=overlap, shifts=shifts, batch_size=batch_size, seed=seed, dtype=dtype)
    mixtures = _Queue()
    ready = {member: in_evaluation(member, device) for member, _, _ in _passes(model, options)}
    lanes = [
        _Lane(_Stream(ready[member], options, delay=delay), share_S11)
        for member, delay, share_S11 in _passes(model, options)
    ]
    for block_CT in _with_end(blocks):
        if block_CT is not None:
            _check(model, block_CT)
            block_CT = finite(block_CT.detach().float())
            mixtures.put(block_CT)
            block_CT = (block_CT - mean) / (std + STD_EPSILON)
        for lane in lanes:
            lane.feed(block_CT)
        if num_samples := min(lane.done.num_samples for lane in lanes):
            total_SCT = torch.stack([lane.done.take(num_samples) for lane in lanes]).sum(dim=0)
            mixture_CT = mixtures.take(num_samples)
            estimates_SCT = total_SCT.to(mixture_CT.device) * (std + STD_EPSILON) + mean
            yield _consistent(estimates_SCT, mixture_CT) if mixture_consistency else estimates_SCT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    overlap: Annotated[float, Range(ge=0, lt=1)]
    shifts: NonNegativeInt
    batch_size: PositiveInt
    seed: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        check_ranges(self, ModelError)
        if self.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ModelError(f"dtype={self.dtype}: give float32, bfloat16 or float16")


class _Stream:
    """One model over one delayed copy of a track, segment by segment.

    Positions count samples of the delayed copy. A segment is handed to the model with the real audio around it where
    the model wants more samples than the segment has, and zeros beyond the track's ends.
    """

    def __init__(self, model: nn.Module, options: _Options, *, delay: int) -> None:
        self.model, self.options = model, options
        self.device = device = _home(model)
        self.interface = interface(model)
        # Windows have the length that the model wants: it need not pad them.
        self.with_context = {"with_context": True} if getattr(model, "takes_context", False) else {}
        segment = self.interface.segment_samples
        self.stride = int((1 - options.overlap) * segment)
        if not self.stride:
            raise ModelError(f"overlap={options.overlap} leaves no step between segments of {segment} samples")
        rise = torch.arange(1, segment // 2 + 1)
        fall = torch.arange(segment - segment // 2, 0, -1)
        self.weight_T = (torch.cat([rise, fall]) / fall[0]).to(device)
        self.history = max(_valid_length(model, segment), _valid_length(model, 1))  # context any segment can ask for
        self.input_CT = torch.zeros(self.interface.audio_channels, delay)
        self.input_start = 0
        self.next_segment = 0
        side_by_side = device.type == "cpu" and can_differ()
        self.num_side_by_side = min(torch.get_num_threads(), MAX_SIDE_BY_SIDE) if side_by_side else 1
        self.pending: list[tuple[int, Tensor]] = []  # length of the segment, its window
        self.sum_SCT = torch.zeros(len(self.interface.sources), self.interface.audio_channels, segment, device=device)
        self.sum_weight_T = torch.zeros(segment, device=device)
        self.still_to_drop = delay

    def run(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Everything that comes out, without the delay."""
        for block_CT in blocks:
            yield from self.push(block_CT)
        yield from self.close()

    def push(self, block_CT: Tensor) -> Iterator[Tensor]:
        """Take in a block; give what became final."""
        self.input_CT = torch.cat([self.input_CT.to(block_CT.device), block_CT], dim=-1)
        end = self.input_start + self.input_CT.shape[-1]
        segment = self.interface.segment_samples
        extra = _valid_length(self.model, segment) - segment
        while self.next_segment + segment + extra - extra // 2 <= end:
            yield from self._plan(segment, end)
        forget = self.next_segment - self.history - self.input_start
        if forget > 0:
            self.input_CT = self.input_CT[:, forget:].clone()
            self.input_start += forget

    def close(self) -> Iterator[Tensor]:
        """The track has ended; give all the rest."""
        end = self.input_start + self.input_CT.shape[-1]
        while self.next_segment < end:
            yield from self._plan(min(self.interface.segment_samples, end - self.next_segment), end)
        yield from self._compute()

    def _plan(self, length: int, end: int) -> Iterator[Tensor]:
        """Cut the next segment's window; compute once there are batches of equal windows for all."""
        valid = _valid_length(self.model, length)
        start = self.next_segment - (valid - length) // 2
        inside = self.input_CT[:, max(0, start) - self.input_start : min(end, start + valid) - self.input_start]
        window_CT = nn.functional.pad(inside, (max(0, -start), max(0, start + valid - end)))
        if self.pending and self.pending[0][1].shape != window_CT.shape:
            yield from self._compute()
        self.pending.append((length, window_CT))
        self.next_segment += self.stride
        if len(self.pending) == self.options.batch_size * self.num_side_by_side:
            yield from self._compute()

    @torch.no_grad()
    def _forward(self, windows_BCT: Tensor) -> Tensor:
        dtype = self.options.dtype
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            estimates_BSCT: Tensor = self.model(windows_BCT.to(self.device), **self.with_context)
        return estimates_BSCT.float()

    def _compute(self) -> Iterator[Tensor]:
        if not self.pending:
            return
        lengths = [length for length, _ in self.pending]
        windows_BCT = torch.stack([window_CT for _, window_CT in self.pending])
        self.pending = []
        estimates_BSCT = _side_by_side(self._forward, torch.split(windows_BCT, self.options.batch_size))
        for length, estimates_SCT in zip(lengths, itertools.chain.from_iterable(estimates_BSCT), strict=True):
            before = (estimates_SCT.shape[-1] - length) // 2
            self.sum_SCT[..., :length] += self.weight_T[:length] * estimates_SCT[..., before : before + length]
            self.sum_weight_T[:length] += self.weight_T[:length]
            yield from self._emit(min(self.stride, length))

    def _emit(self, num_samples: int) -> Iterator[Tensor]:
        """No later segment reaches the first `num_samples` of the sums: give them, less the delay, and move on."""
        out_SCT = self.sum_SCT[..., :num_samples] / self.sum_weight_T[:num_samples]
        self.sum_SCT = nn.functional.pad(self.sum_SCT[..., num_samples:], (0, num_samples))
        self.sum_weight_T = nn.functional.pad(self.sum_weight_T[num_samples:], (0, num_samples))
        dropped = min(self.still_to_drop, num_samples)
        self.still_to_drop -= dropped
        if dropped < num_samples:
            yield out_SCT[..., dropped:]


def _side_by_side(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> list[Tensor]:
    """`function` of each batch, in order; several at a time in threads that share torch's number of threads.

    Within an operator two threads are far from twice as fast as one, and each waits for the other after every one.
    """
    if len(batches) == 1:
        return [function(batches[0])]
    each = max(1, torch.get_num_threads() // len(batches))

    def job(batch: Tensor) -> Tensor:
        with num_threads_here(each):
            return function(batch)

    with ThreadPoolExecutor(len(batches)) as pool:
        return list(pool.map(job, batches))


class _Queue:
    """Blocks joined end to end, taken off in other lengths."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.num_samples = 0

    def put(self, block: Tensor) -> None:
        self.blocks.append(block)
        self.num_samples += block.shape[-1]

    def take(self, num_samples: int) -> Tensor:
        joined = torch.cat(self.blocks, dim=-1)
        self.blocks = [joined[..., num_samples:].clone()]
        self.num_samples -= num_samples
        return joined[..., :num_samples]


class _Lane:
    """One stream of several that advance together, and what it has given beyond the slowest."""

    def __init__(self, stream: _Stream, share_S11: Tensor) -> None:
        self.stream, self.share_S11, self.done = stream, share_S11, _Queue()

    def feed(self, block_CT: Tensor | None) -> None:
        """The next block, or None at the end of the track."""
        for out_SCT in self.stream.close() if block_CT is None else self.stream.push(block_CT):
            self.done.put(self.share_S11.to(out_SCT) * out_SCT)


def _passes(model: nn.Module, options: _Options) -> Iterator[tuple[nn.Module, int, Tensor]]:
    """Every run through the track that the result averages: model, delay in samples, share per source (S, 1, 1)."""
    members = list(model.models) if isinstance(model, Bag) else [model]
    shares = model.shares if isinstance(model, Bag) else [(1.0,) * len(interface(model).sources)]
    for index, (member, share) in enumerate(zip(members, shares, strict=True)):
        share_S11 = torch.tensor(share)[:, None, None] / max(1, options.shifts)
        longest = int(MAX_SHIFT_S * interface(member).sample_rate) if options.shifts else 0
        for shift in range(max(1, options.shifts)):
            dice = generator(options.seed, "delay", index, shift)
            yield member, int(torch.randint(longest + 1, (1,), generator=dice)), share_S11


def in_evaluation(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """The model in evaluation mode on a device, its own by default: itself if it is there and in that mode.

    Else a twin, which shares the weights where the device is the same. So whatever else happens to the model meanwhile,
    such as another separation or a step of training, neither disturbs the other.
    """
    there = torch.device(device) if device is not None else _home(model)
    here = _home(model)
    moves = there.type != here.type or (there.index is not None and there.index != here.index)
    if not moves and not any(module.training for module in model.modules()):
        return model
    return _twin(getattr(model, "_orig_mod", model), there if moves else None, {})


def _twin(module: nn.Module, device: torch.device | None, made: dict[int, Any]) -> nn.Module:
    """A module of the same attributes with modes of its own; with a device, its weights are copies there."""
    if id(module) not in made:
        twin = made[id(module)] = type(module).__new__(type(module))
        state = dict(vars(module))
        state["_modules"] = {name: child and _twin(child, device, made) for name, child in module._modules.items()}
        state |= {"training": False, "_compiled_call_impl": None}  # what is compiled runs the module it was made of
        if device is not None:
            for kind in ("_parameters", "_buffers"):
                state[kind] = {name: _placed(tensor, device, made) for name, tensor in state[kind].items()}
        vars(twin).update(state)
        if device is not None and isinstance(twin, nn.RNNBase):
            twin._init_flat_weights()
    copied: nn.Module = made[id(module)]
    return copied


def _placed(tensor: Tensor | None, device: torch.device, made: dict[int, Any]) -> Tensor | None:
    if tensor is not None and id(tensor) not in made:
        moved = tensor.detach().to(device)
        made[id(tensor)] = nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
    return None if tensor is None else made[id(tensor)]


def _home(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


def _valid_length(model: nn.Module, length: int) -> int:
    """Samples the model wants in order to give `length` samples."""
    valid: Any = getattr(model, "valid_length", None)
    return length if valid is None else int(valid(length))


def _check(model: nn.Module, mixture_CT: Tensor) -> None:
    channels = interface(model).audio_channels
    if mixture_CT.ndim != 2 or mixture_CT.shape[0] != channels:
        raise ModelError(f"a mixture of shape {tuple(mixture_CT.shape)}: this model takes ({channels}, samples)")


def _consistent(estimates_SCT: Tensor, mixture_CT: Tensor) -> Tensor:
    return estimates_SCT + (mixture_CT - estimates_SCT.sum(dim=0)) / len(estimates_SCT)


def _with_end(blocks: Iterable[Tensor]) -> Iterator[Tensor | None]:
    """The blocks, then None; a track without samples is refused."""
    num_samples = 0
    for block_CT in blocks:
        num_samples += block_CT.shape[-1]
        yield block_CT
    if not num_samples:
        raise ModelError("the mixture has no samples: give at least one")
    yield None
