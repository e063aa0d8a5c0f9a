"""Random numbers that depend on what is drawn, not on who draws it or how often."""

import hashlib
from collections.abc import Iterable

import numpy as np


def row_rng(seed: int, *row_id: str | int) -> np.random.Generator:
    """A generator for one row: the same seed and row id give the same numbers on any worker, in any order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *row_id))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def spread(names: Iterable[str]) -> list[str]:
    """The names in an order that is drawn once and for all from each name alone.

    The first few are spread over all folders of a corpus, and one name more or less moves no other.
    """
    return sorted(names, key=lambda name: (hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest(), name))
