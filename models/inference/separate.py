"""A whole track through a model: overlapping segments, triangle weights, the shift trick, and bags of models.

`separate` takes a track in memory, `separate_stream` one of any length in constant memory; both run the same
`SegmentStream`, so they agree. With `shifts=0` results are deterministic, and those of demucs' `apply_model`.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..networks.bag import Bag, interface
from ..networks.input_normalization import check_statistics, finite, track_statistics
from ..rng import generator
from .eval_mode_on_device import in_evaluation
from .mixture_consistency import MixtureConsistency
from .overlap_add import SegmentStream, SeparationOptions

MAX_SHIFT_S = 0.5  # longest delay of the shift trick
STD_EPSILON = 1e-8  # keeps a silent track finite


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
    mixture_consistency: str = "off",
) -> Tensor:
    """Estimates (S, C, T) of the stems of a track, on the mixture's device, in float32.

    The track is normalized as the model's config says, and the estimates scaled back; `mean` and `std`, given together,
    are used instead of those of the track's own mono downmix. `overlap` is the share of a segment that the next one
    covers again. `shifts` averages over that many seeded delays of up to half a second. `dtype=torch.bfloat16`
    computes by autocast, `dtype=torch.int8` linear layers in 8 bits, on a CPU alone; a network without such layers is
    refused. `mixture_consistency` lets the estimates sum to the mixture: "residual" or "mask", as `MixtureConsistency`
    says.
    Samples that are not finite count as silence, since one of them would otherwise spread over its whole segment.
    """
    options = SeparationOptions(overlap=overlap, shifts=shifts, batch_size=batch_size, seed=seed, dtype=dtype)
    consistency = MixtureConsistency(mixture_consistency)
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
        stream = SegmentStream(ready, options, delay=delay)
        position = 0
        for out_SCT in stream.run(torch.split(normal_CT, 8 * stream.interface.segment_samples, dim=-1)):
            end = position + out_SCT.shape[-1]
            estimates_SCT[..., position:end] += (share_S11.to(out_SCT) * out_SCT).to(estimates_SCT.device)
            position = end
    estimates_SCT.mul_(std + STD_EPSILON).add_(mean)
    consistency.overwrite(estimates_SCT, mixture_CT)
    return estimates_SCT


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
    mixture_consistency: str = "off",
) -> Iterator[Tensor]:
    """Estimates (S, C, T) in blocks of varying length, from a mixture that comes in blocks (C, T) of any length.

    Together they are as long as the mixture. Memory holds a few segments, however long the track. `mean` and `std`
    come from `input_statistics` over the same blocks; the other options are those of `separate`.
    """
    check_statistics(mean, std)
    options = SeparationOptions(overlap=overlap, shifts=shifts, batch_size=batch_size, seed=seed, dtype=dtype)
    mixtures, consistency = _Queue(), MixtureConsistency(mixture_consistency)
    ready = {member: in_evaluation(member, device) for member, _, _ in _passes(model, options)}
    lanes = [
        _Lane(SegmentStream(ready[member], options, delay=delay), share_S11)
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
            if (done_SCT := consistency.push(estimates_SCT, mixture_CT)).shape[-1]:
                yield done_SCT
    if (rest_SCT := consistency.close()) is not None:
        yield rest_SCT


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

    def __init__(self, stream: SegmentStream, share_S11: Tensor) -> None:
        self.stream, self.share_S11, self.done = stream, share_S11, _Queue()

    def feed(self, block_CT: Tensor | None) -> None:
        """The next block, or None at the end of the track."""
        for out_SCT in self.stream.close() if block_CT is None else self.stream.push(block_CT):
            self.done.put(self.share_S11.to(out_SCT) * out_SCT)


def _passes(model: nn.Module, options: SeparationOptions) -> Iterator[tuple[nn.Module, int, Tensor]]:
    """Every run through the track that the result averages: model, delay in samples, share per source (S, 1, 1)."""
    members = list(model.models) if isinstance(model, Bag) else [model]
    shares = model.shares if isinstance(model, Bag) else [(1.0,) * len(interface(model).sources)]
    for index, (member, share) in enumerate(zip(members, shares, strict=True)):
        share_S11 = torch.tensor(share)[:, None, None] / max(1, options.shifts)
        longest = int(MAX_SHIFT_S * interface(member).sample_rate) if options.shifts else 0
        for shift in range(max(1, options.shifts)):
            rng = generator(options.seed, "delay", index, shift)
            yield member, int(torch.randint(longest + 1, (1,), generator=rng)), share_S11


def _check(model: nn.Module, mixture_CT: Tensor) -> None:
    channels = interface(model).audio_channels
    if mixture_CT.ndim != 2 or mixture_CT.shape[0] != channels:
        raise ModelError(f"a mixture of shape {tuple(mixture_CT.shape)}: this model takes ({channels}, samples)")


def _with_end(blocks: Iterable[Tensor]) -> Iterator[Tensor | None]:
    """The blocks, then None; a track without samples is refused."""
    num_samples = 0
    for block_CT in blocks:
        num_samples += block_CT.shape[-1]
        yield block_CT
    if not num_samples:
        raise ModelError("the mixture has no samples: give at least one")
    yield None
