"""With how many bits a stem was once stored, by the steps between its samples."""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]

_BIT_SAMPLES = 8192  # that are looked at for the steps between samples, in one of
_BIT_SECONDS = 4  # seconds with enough values, whose level is above
_BIT_LEVEL = 10**-4.0  # mean square, -40 dBFS: drums of 8 bits that peak at 0.2 are at -33 in the mean
_FEWEST_VALUES = 24  # that quantized music takes; the pulses of a chip take fewer


class BitDepth:
    """The step between the samples of each stem, from a few loud seconds."""

    def __init__(self, num_sources: int) -> None:
        self._seen = np.zeros(num_sources, np.int64)
        self._bits = np.full(num_sources, np.nan)

    def add(self, second_SCT: Samples, power_S: Array) -> None:
        """Look at the next second, whose mean squares are given."""
        for place in np.flatnonzero((power_S > _BIT_LEVEL) & (self._seen < _BIT_SECONDS)):
            part_CT = second_SCT[place, :, :_BIT_SAMPLES]
            values = np.unique(part_CT[np.square(part_CT).sum(axis=1).argmax()])
            if len(values) < _FEWEST_VALUES:
                continue
            self._seen[place] += 1
            steps = np.diff(values.astype(np.float64))
            self._bits[place] = np.fmax(self._bits[place], 1 - np.log2(max(float(steps.min()), 2.0**-24)))

    def bits(self) -> Array:
        """Of each stem, NaN where it was never loud; 16 and more say nothing of what it was recorded with."""
        return self._bits
