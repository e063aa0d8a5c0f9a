"""The one mono mix that everything listens to: of a song in antiphase it is not silence."""

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.errors import AudioError

# The difference of two channels is heard instead of their mean where it is at least this many times as strong, 6 dB.
# Ordinary stereo never gets there, so what was measured of it stands.
SIDE_RATIO = 4.0


def mono(samples: Samples) -> Samples:
    """Signals (..., T) from channels (..., C, T): their mean, or half the difference of two that cancel each other."""
    if samples.shape[-2] != 2:
        return cast(Samples, samples.mean(axis=-2))
    middle = cast(Samples, (samples[..., 0, :] + samples[..., 1, :]) / np.float32(2))  # a mean takes thrice as long
    if not (apart := cancels(samples)).any():
        return middle
    side = (samples[..., 0, :] - samples[..., 1, :]) / np.float32(2)
    return cast(Samples, np.where(apart[..., None], side, middle))


class Cancellation:
    """What the mean of two channels loses of a recording that is heard block by block."""

    def __init__(self, channels: str) -> None:
        self._channels = channels  # in words, for the error
        self._middle, self._side = 0.0, 0.0  # energies of the mean and of half the difference

    def add(self, pair_CT: Samples) -> None:
        """Hear the next block (2, T) of both channels."""
        middle_T, side_T = pair_CT[0] + pair_CT[1], pair_CT[0] - pair_CT[1]
        self._middle += float(middle_T @ middle_T) / 4
        self._side += float(side_T @ side_T) / 4

    def check(self) -> None:
        """AudioError where the mean over the whole recording leaves next to nothing, which is no recording of it."""
        if self._side <= SIDE_RATIO * self._middle:
            return
        below_db = 10 * float(np.log10(self._side / max(self._middle, 1e-12 * self._side)))
        raise AudioError(
            "inverted",
            f"{self._channels} cancel each other in mono, their mean is {below_db:.0f} dB below their difference; "
            "turn one of them over, or keep both channels",
        )


def means(blocks: Iterable[Samples], name: str) -> Iterator[Samples]:
    """The means (1, T) of a recording's channels, from its blocks (C, T), for what keeps one channel of it.

    AudioError after the last block where the two channels of the recording called `name` cancel each other.
    """
    lost = Cancellation(f"{name}: its two channels")
    for block_CT in blocks:
        if len(block_CT) == 2:
            lost.add(block_CT)
        yield block_CT.mean(axis=0, keepdims=True, dtype=np.float32)
    lost.check()


def cancels(samples: Samples) -> NDArray[np.bool_]:
    """Which of the signals (..., C, T) have two channels whose difference is far stronger than their mean; (...)."""
    if samples.shape[-2] != 2:
        return np.zeros(samples.shape[:-2], np.bool_)
    left, right = samples[..., 0, :], samples[..., 1, :]
    both = np.einsum("...t,...t->...", left, left) + np.einsum("...t,...t->...", right, right)
    cross = np.einsum("...t,...t->...", left, right)
    # The powers of difference and mean are (both - 2 cross) / 4 and (both + 2 cross) / 4.
    return cast(NDArray[np.bool_], both - 2 * cross > SIDE_RATIO * (both + 2 * cross))
