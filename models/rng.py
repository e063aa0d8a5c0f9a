"""Random numbers that follow from what they are for: a seed, a step, a row."""

import hashlib

import torch


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by all the parts together; neighbouring integers give unrelated streams.

    Each kind of device has numbers of its own: a GPU's are others than a CPU's.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
