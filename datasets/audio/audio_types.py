"""What samples are: float32 of shape (C, T), or the 16-bit integers of a file; and what a file says of itself."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
_FULL_SCALE = 1 << 15  # of 16-bit integers


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """16-bit samples as a file holds them, full scale at 32768; no array, so that none is taken for floats."""

    ints_CT: NDArray[np.int16]

    def __post_init__(self) -> None:
        if self.ints_CT.dtype != np.int16 or self.ints_CT.ndim != 2:
            raise ValueError(
                f"16-bit samples must be int16 of shape (C, T), got {self.ints_CT.dtype} of {self.ints_CT.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and samples."""
        channels, num_samples = self.ints_CT.shape
        return channels, num_samples

    def floats(self) -> Samples:
        """The float32 samples that they stand for; exact."""
        return self.ints_CT.astype(np.float32) / np.float32(_FULL_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """What a file says of itself; `num_samples` is 0 where it does not say, and an estimate in some containers."""

    sample_rate: int
    channels: int
    num_samples: int
    bits: int  # 24 for samples of more than 16 bits that are coded without loss, else 16
    lossless: bool = True  # what its codec is
    integers: bool = False  # 16 bits each, which `integer_blocks` reads as they are
    # By how many samples its codec usually puts the audio off, the most usual first; empty where the file says it
    unsaid_delays: tuple[int, ...] = ()
    speakers: tuple[str, ...] = ()  # of more than two channels which is which ("FL", "LFE", ...), where the file says


def to_channels(samples_CT: Samples, channels: int) -> Samples:
    """Mono is repeated, stereo becomes mono by its mean; what more channels become is said in `surround.py`."""
    have = samples_CT.shape[0]
    if have == channels:
        return samples_CT
    if have == 1:
        return np.repeat(samples_CT, channels, axis=0)
    if have == 2 and channels == 1:
        mean_CT: Samples = samples_CT.mean(axis=0, keepdims=True, dtype=np.float32)
        return mean_CT
    raise ValueError(f"samples must have 1, 2 or {channels} channels to become {channels}, got {have}")
