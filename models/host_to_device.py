"""The way of tensors from the host to where they are needed, without a wait where the device is a GPU."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; to a GPU by way of pinned memory, so that the host does not wait for the copy.

    A tensor that is there already comes back as it is. What the host writes into `tensor` afterwards may or may not
    arrive, unless it was not pinned before.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def uploaded_ahead(batches: Iterable[tuple[int, Tensor]], device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Numbered batches on `device`; to a GPU they travel while it computes on those before.

    While one batch is used, the next is on its way on a stream of its own, out of pinned memory, and a thread fills
    other pinned memory with the one after that. Two batches beside the one in use are on the GPU at most. On a CPU
    batches pass through.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    slots: list[_Slot | None] = [None, None]
    filling: tuple[int, Future[_Slot]] | None = None
    ready: tuple[int, Tensor, _Slot] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="pinned-batches") as thread:
        for count, (number, batch) in enumerate(batches):
            sent = _sent(filling, stream, device)
            slot = slots[count % 2] = _free_slot(slots[count % 2], batch)
            filling = number, thread.submit(slot.fill, batch)
            if ready is not None:
                yield _arrived(ready, device)
            ready = sent
        if ready is not None:
            yield _arrived(ready, device)
        if (last := _sent(filling, stream, device)) is not None:
            yield _arrived(last, device)


@dataclass(slots=True)
class _Slot:
    """Pinned memory for a batch, and when the copy out of it is done."""

    pinned: Tensor
    copied: Any  # torch.cuda.Event

    def fill(self, batch: Tensor) -> "_Slot":
        self.pinned.copy_(batch)
        return self


def _free_slot(slot: _Slot | None, batch: Tensor) -> _Slot:
    if slot is None or slot.pinned.shape != batch.shape or slot.pinned.dtype != batch.dtype:
        return _Slot(torch.empty_like(batch).pin_memory(), torch.cuda.Event())  # type: ignore[no-untyped-call]
    slot.copied.synchronize()  # two batches ago: done long since
    return slot


def _sent(
    filling: "tuple[int, Future[_Slot]] | None", stream: Any, device: torch.device
) -> "tuple[int, Tensor, _Slot] | None":
    if filling is None:
        return None
    number, slot = filling[0], filling[1].result()
    with torch.cuda.stream(stream):
        on_device = slot.pinned.to(device, non_blocking=True)
        slot.copied.record(stream)
    return number, on_device, slot


def _arrived(sent: tuple[int, Tensor, _Slot], device: torch.device) -> tuple[int, Tensor]:
    number, on_device, slot = sent
    current = torch.cuda.current_stream(device)
    current.wait_event(slot.copied)
    on_device.record_stream(current)  # its memory belongs to the other stream, which must not take it back too early
    return number, on_device
