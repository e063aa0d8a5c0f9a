"""Where a spectrum ends as if cut with a knife: the mark that lossy coding, or a low rate, leaves for ever.

Instruments fade out towards the treble; a codec leaves nothing above a frequency that its bit rate buys. A stem with
no treble to cut, a bass, cannot tell.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOWEST_HZ = 9000.0  # below, filters of synthesizers and amplifiers end as sharply
_EDGE_HZ = 500.0  # on each side of the cut that is compared
_GAP_HZ = 100.0  # left out, where the cut itself falls
_CLIFF_DB = 18.0  # that the level falls by across the gap; faders and distance take 3 dB in as much at most
_AUDIBLE_DB = -110.0  # level of a bin, relative to a sine at full scale, below which there is nothing to cut


def cutoff_hz(power_F: Array, sample_rate: int) -> float:
    """The frequency above which the long-term power spectrum has nothing; half the rate where it has no such edge.

    `power_F` is the mean of |rfft|² over Hann windows.
    """
    bins = len(power_F) - 1
    width_hz = sample_rate / 2 / bins
    level = 10 * np.log10(power_F / (bins / 2) ** 2 + 1e-20)
    edge, gap = max(1, round(_EDGE_HZ / width_hz)), max(1, round(_GAP_HZ / width_hz))
    means = np.convolve(level, np.full(edge, 1 / edge), "valid")  # means[k] is over k to k + edge
    at = np.arange(max(edge + gap, round(LOWEST_HZ / width_hz)), bins + 1 - gap - edge)
    if not at.size:
        return sample_rate / 2
    below, above = means[at - gap - edge], means[at + gap]
    highest_after = np.maximum.accumulate(means[::-1])[::-1][at + gap]  # nothing comes back further up
    cliff = np.minimum(below - above, below - highest_after)
    cliff[below < _AUDIBLE_DB] = 0
    best = int(np.argmax(cliff))
    return float(at[best] * width_hz) if cliff[best] >= _CLIFF_DB else sample_rate / 2
