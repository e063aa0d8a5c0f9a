"""The one mono mix that everything listens to: of a song in antiphase it is not silence."""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]  # as in audio.py, which needs this module

# The difference of two channels is heard instead of their mean where it is at least this many times as strong, 6 dB.
# Ordinary stereo never gets there, so what was measured of it stands.
SIDE_RATIO = 4.0


def mono(samples: Samples) -> Samples:
    """Signals (..., T) from channels (..., C, T): their mean, or half the difference of two that cancel each other."""
    middle = cast(Samples, samples.mean(axis=-2))
    if samples.shape[-2] != 2 or not (apart := cancels(samples)).any():
        return middle
    side = (samples[..., 0, :] - samples[..., 1, :]) / np.float32(2)
    return cast(Samples, np.where(apart[..., None], side, middle))


def means(blocks: Iterable[Samples], lost: Callable[[float], Exception]) -> Iterator[Samples]:
    """The means (1, T) of a recording's channels, from its blocks (C, T), for what keeps one channel of it.

    A mean that leaves next to nothing of two channels is no recording: `lost` is told how far in dB it lies below their
    difference over the whole recording, and makes the error that is raised after the last block.
    """
    middle, side = 0.0, 0.0
    for block_CT in blocks:
        mean_CT: Samples = block_CT.mean(axis=0, keepdims=True, dtype=np.float32)
        middle += float(np.einsum("ct,ct->", mean_CT, mean_CT))
        if len(block_CT) == 2:
            half_T = (block_CT[0] - block_CT[1]) / np.float32(2)
            side += float(half_T @ half_T)
        yield mean_CT
    if side > SIDE_RATIO * middle:
        raise lost(10 * float(np.log10(side / max(middle, 1e-12 * side))))


def cancels(samples: Samples) -> NDArray[np.bool_]:
    """Which of the signals (..., C, T) have two channels whose difference is far stronger than their mean; (...)."""
    if samples.shape[-2] != 2:
        return np.zeros(samples.shape[:-2], np.bool_)
    left, right = samples[..., 0, :], samples[..., 1, :]
    both = np.einsum("...t,...t->...", left, left) + np.einsum("...t,...t->...", right, right)
    cross = np.einsum("...t,...t->...", left, right)
    # The powers of difference and mean are (both - 2 cross) / 4 and (both + 2 cross) / 4.
    return cast(NDArray[np.bool_], both - 2 * cross > SIDE_RATIO * (both + 2 * cross))
