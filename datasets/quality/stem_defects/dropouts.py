"""Moments in which a stem falls to zero without fading, as from a buffer that ran empty."""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

_ZERO = 2.0**-16  # of full scale: half a step of 16 bits
_EDGE = 0.1  # of the stem's level in that second, from which a dropout begins and to which it returns
_STEPS = 3.0  # of the smallest sample that is not zero: what rounds to zero in coarse steps is no dropout
_SHORTEST_S, _LONGEST_S = 0.004, 0.5  # of a dropout; longer ones are rests


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
