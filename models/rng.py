"""Random numbers that follow from what they are for: a seed, a step, a row."""

import hashlib

import torch


def generator(*parts: int | str) -> torch.Generator:
    """A generator seeded by all the parts together; neighbouring integers give unrelated streams."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
