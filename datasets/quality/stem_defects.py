"""Defects of single stems that need no mixture to be seen: dropouts, few bits, a channel that dies.

What some music has by design (hard-panned stereo, the few levels of a sound chip) is told apart where that can be;
where it cannot, the verdict names the setting that allows it.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]

_ZERO = 2.0**-16  # of full scale: half a step of 16 bits
_EDGE = 0.1  # of the stem's level in that second, from which a dropout begins and to which it returns
_STEPS = 3.0  # of the smallest sample that is not zero: what rounds to zero in coarse steps is no dropout
_SHORTEST_S, _LONGEST_S = 0.004, 0.5  # of a dropout; longer ones are rests
_BIT_SAMPLES = 8192  # that are looked at for the steps between samples, in one of
_BIT_SECONDS = 4  # seconds whose level is above
_BIT_LEVEL = 10**-3.0  # mean square, -30 dBFS
_FEWEST_VALUES = 24  # that quantized music takes; the pulses of a chip take fewer
_DEAD = 1e-5  # of the other channel's power
_ALIVE = 1e-2
_AUDIBLE = 1e-6  # mean square, -60 dBFS
_ONE_SIDED = 0.9  # share of seconds from which on a stem is one-sided by design, as the others of its song are
_ALIKE = 0.6  # correlation of the channels of a stem that would be heard in both


def dropouts(second_SCT: Samples, sample_rate: int) -> NDArray[np.int64]:
    """How often each stem falls to zero and comes back within a moment, without fading, of shape (S,)."""
    counts = [max(_holes(channel_T, sample_rate) for channel_T in stem_CT) for stem_CT in second_SCT]
    return np.array(counts, np.int64)


def _holes(stem_T: Samples, sample_rate: int) -> int:
    shortest = int(_SHORTEST_S * sample_rate)
    # A run this long holds one of every so many samples: most seconds end here.
    if not (np.abs(stem_T[::shortest]) < _ZERO).any():
        return 0
    silent_T = np.abs(stem_T) < _ZERO
    if silent_T.all():
        return 0
    bounds = np.flatnonzero(np.diff(silent_T))
    if silent_T[0]:
        bounds = bounds[1:]
    starts, stops = bounds[: len(bounds) // 2 * 2 : 2], bounds[1::2]
    lengths = stops - starts
    level = np.sqrt(np.square(stem_T[~silent_T]).mean())
    edges = np.minimum(np.abs(stem_T[starts]), np.abs(stem_T[stops + 1]))
    least = max(_EDGE * level, _STEPS * float(np.abs(stem_T[~silent_T]).min()))
    return int(np.count_nonzero((lengths >= shortest) & (lengths <= _LONGEST_S * sample_rate) & (edges > least)))


class BitDepth:
    """The step between the samples of each stem, from a few loud seconds."""

    def __init__(self, num_sources: int) -> None:
        self._seen = np.zeros(num_sources, np.int64)
        self._bits = np.full(num_sources, np.nan)

    def add(self, second_SCT: Samples, power_S: Array) -> None:
        """Look at the next second, whose mean squares are given."""
        for place in np.flatnonzero((power_S > _BIT_LEVEL) & (self._seen < _BIT_SECONDS)):
            self._seen[place] += 1
            part_CT = second_SCT[place, :, :_BIT_SAMPLES]
            values = np.unique(part_CT[np.square(part_CT).sum(axis=1).argmax()])
            if len(values) < _FEWEST_VALUES:
                continue
            steps = np.diff(values.astype(np.float64))
            self._bits[place] = np.fmax(self._bits[place], 1 - np.log2(max(float(steps.min()), 2.0**-24)))

    def bits(self) -> Array:
        """Of each stem, NaN where it was never loud; 16 and more say nothing of what it was recorded with."""
        return self._bits


def one_sided(power_NSC: Array, cross_NS: Array) -> Array:
    """Share of a stem's seconds in which one channel is dead, where that is no matter of design, of shape (S,).

    `power_NSC` are mean squares per second, `cross_NS` mean products of the channels. A stem whose channels hold
    different things may leave one of them empty at times, and where more than one stem of a song is on one side
    throughout, as in early stereo, all of them may be.
    """
    loud_NS, soft_NS = power_NSC.max(axis=2), power_NSC.min(axis=2)
    audible_NS = loud_NS > _AUDIBLE
    dead_NS = audible_NS & (soft_NS < _DEAD * loud_NS)
    alive_NS = audible_NS & (soft_NS > _ALIVE * loud_NS)
    share_S = dead_NS.sum(axis=0) / np.maximum(audible_NS.sum(axis=0), 1)
    together_S = (cross_NS * alive_NS).sum(axis=0)
    both_S = (np.sqrt(loud_NS * soft_NS) * alive_NS).sum(axis=0)
    alike_S = together_S > _ALIKE * np.maximum(both_S, 1e-12)
    throughout_S = share_S > _ONE_SIDED
    by_design = throughout_S.sum() > 1
    result: Array = np.where(throughout_S, 0.0 if by_design else share_S, np.where(alike_S, share_S, 0.0))
    return result
