"""The way of a tensor from the host to where it is needed, without a wait where the device is a GPU."""

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
