"""One model over one track, segment by segment: windows, batches, overlap-add."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..field_constraints import NonNegativeInt, PositiveInt, Range, check_ranges
from ..mixed_precision import autocast
from ..networks.bag import interface
from ..networks.cpu_kernels.linear import Coded, int8_linears, onednn_has_int8
from .eval_mode_on_device import device_of
from .threads import can_differ, side_by_side

MAX_SIDE_BY_SIDE = 4  # batches computed at once on a CPU: a segment of HT Demucs holds about a gigabyte meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparationOptions:
    """How a track is cut into segments and computed; see `separate`."""

    overlap: Annotated[float, Range(ge=0, lt=1)]
    shifts: NonNegativeInt
    batch_size: PositiveInt
    seed: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        check_ranges(self, ModelError)
        if self.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.int8):
            raise ModelError(f"dtype={self.dtype}: give float32, bfloat16, float16 or int8")


class SegmentStream:
    """One model over one delayed copy of a track, segment by segment.

    Positions count samples of the delayed copy. A segment is handed to the model with the real audio around it where
    the model wants more samples than the segment has, and zeros beyond the track's ends.
    """

    def __init__(self, model: nn.Module, options: SeparationOptions, *, delay: int) -> None:
        self.model, self.options = model, options
        self.device = device = device_of(model)
        if options.dtype == torch.int8:
            _require_int8(device)
        self.coded_weights: Coded = {}  # of linear layers in int8
        self.interface = interface(model)
        # Windows have the length that the model wants: it need not pad them.
        self.with_context = {"with_context": True} if getattr(model, "takes_context", False) else {}
        # Filled up with silence, where the model is compiled for each size.
        self.equal_batches = device.type == "cuda" and getattr(model, "equal_batches", False)
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
        parallel = device.type == "cpu" and can_differ()
        self.num_side_by_side = min(torch.get_num_threads(), MAX_SIDE_BY_SIDE) if parallel else 1
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
        in_int8 = self.options.dtype == torch.int8
        with int8_linears(self.coded_weights) if in_int8 else autocast(self.device, self.options.dtype):
            estimates_BSCT: Tensor = self.model(windows_BCT.to(self.device), **self.with_context)
        return estimates_BSCT.float()

    def _compute(self) -> Iterator[Tensor]:
        if not self.pending:
            return
        lengths = [length for length, _ in self.pending]
        windows_BCT = torch.stack([window_CT for _, window_CT in self.pending])
        if self.equal_batches:
            missing = -len(lengths) % self.options.batch_size
            windows_BCT = nn.functional.pad(windows_BCT, (0, 0, 0, 0, 0, missing))
        self.pending = []
        estimates_BSCT = side_by_side(self._forward, torch.split(windows_BCT, self.options.batch_size))
        if self.options.dtype == torch.int8 and not self.coded_weights:
            raise ModelError(
                "precision int8 changes nothing here, since this network has no linear layers that can be computed in "
                "8 bits, as networks with transformers have: give float32"
            )
        for length, estimates_SCT in zip(lengths, itertools.chain.from_iterable(estimates_BSCT), strict=False):
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


def _require_int8(device: torch.device) -> None:
    if device.type != "cpu":
        raise ModelError(f"precision int8 must run on a CPU, got {device.type}: give bfloat16")
    if not onednn_has_int8():
        raise ModelError("precision int8: torch has no linear layers of 8-bit numbers for this CPU; give float32")


def _valid_length(model: nn.Module, length: int) -> int:
    """Samples the model wants in order to give `length` samples."""
    valid: Any = getattr(model, "valid_length", None)
    return length if valid is None else int(valid(length))
