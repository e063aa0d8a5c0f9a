"""Random numbers that depend on what is drawn, not on who draws it or how often."""

import hashlib

import numpy as np


def dice(seed: int, *row_id: str | int) -> np.random.Generator:
    """A generator for one row: the same seed and row id give the same numbers on any worker, in any order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *row_id))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
