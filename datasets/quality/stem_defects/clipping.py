"""Samples that were cut off at a ceiling."""

import numpy as np

from datasets.audio.audio_types import Samples

_FLAT_STEP = 2.0**-15  # samples within one step of 16 bits stand still
_FLAT_EDGE = 8 * _FLAT_STEP  # a round top of the same width falls by half of this at most beside it
_FLAT_RUN = 3  # samples; limiters hold the ceiling for one or two
_FLAT_FLOOR = 0.01  # of full scale: below, steps of 16 bits are coarse enough to look flat


def flat_share(stem_CT: Samples, loud_CT: Samples | None = None) -> float:
    """Share of clipped samples: runs at the highest level that is reached, entered and left by a step.

    The level need not be full scale: what was clipped and turned down is found too. Round tops of low tones stand
    still as well, but no neighbour of theirs falls by more than a few steps. `loud_CT` are its magnitudes, where the
    caller has them.
    """
    loud_CT = np.abs(stem_CT) if loud_CT is None else loud_CT
    top_C1 = loud_CT.max(axis=1, keepdims=True)
    least_C1 = np.where(top_C1 > _FLAT_FLOOR, top_C1 - np.float32(_FLAT_STEP), np.float32(np.inf))
    row, column = np.divmod(np.flatnonzero(loud_CT >= least_C1), stem_CT.shape[1])
    if len(row) < _FLAT_RUN:
        return 0.0
    breaks = np.flatnonzero((np.diff(row) != 0) | (np.diff(column) != 1)) + 1
    first, last = np.r_[0, breaks], np.r_[breaks, len(row)] - 1
    width = last - first + 1
    before = stem_CT[row[first], np.maximum(column[first] - 1, 0)]
    after = stem_CT[row[last], np.minimum(column[last] + 1, stem_CT.shape[1] - 1)]
    edge = np.maximum(
        np.abs(stem_CT[row[first], column[first]] - before), np.abs(stem_CT[row[last], column[last]] - after)
    )
    flat = (width >= _FLAT_RUN) & (edge > _FLAT_EDGE)
    return float(width[flat].sum() / stem_CT.size)
