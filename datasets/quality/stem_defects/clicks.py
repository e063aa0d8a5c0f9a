"""Clicks: single samples, or a few, that leap out of a stem and fall back to where it was.

The attack of a drum goes on for longer, a pulse of a chip stays where it leapt to, and both come again within the
20 ms in which nothing else may leap as far.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]

_BLOCK = 256  # samples that are looked at together
_LEAST = 0.02  # of the second difference, of full scale: -34 dBFS, and no less than the level of that second
_WIDTH = 6  # samples on each side that a click takes at most
_AROUND = 1000  # samples on each side in which
_STANDS_OUT = 8.0  # times the second difference must be no greater
_BACK = 0.35  # of its height, by which the stem may have moved meanwhile
_GROWS = 6.0  # times the power before it, that may come after it: else a sound has begun
_FAINT = 1e-7  # mean square, -70 dBFS, that may come after it out of silence
_SAME = 64  # samples within which clicks of both channels are one


def clicks(second_SCT: Samples, power_SC: Array) -> NDArray[np.int64]:
    """How many clicks each stem has in a second, of shape (S,); `power_SC` are mean squares."""
    counts = np.zeros(len(second_SCT), np.int64)
    num_blocks = (second_SCT.shape[2] - 2) // _BLOCK
    if num_blocks < 1:
        return counts
    bends_SCT = second_SCT[:, :, 2:] + second_SCT[:, :, :-2]
    bends_SCT -= 2 * second_SCT[:, :, 1:-1]
    np.abs(bends_SCT, out=bends_SCT)
    top_SCB = bends_SCT[:, :, : num_blocks * _BLOCK].reshape(*second_SCT.shape[:2], num_blocks, _BLOCK).max(axis=3)
    seen: set[tuple[int, int]] = set()
    far = top_SCB > np.maximum(_LEAST, np.sqrt(power_SC))[:, :, None]
    # The second block before and the second behind lie within `_AROUND` wholly: where they leap, nothing stands out.
    for here, there in ((np.s_[:, :, 2:], np.s_[:, :, :-2]), (np.s_[:, :, :-2], np.s_[:, :, 2:])):
        far[here] &= top_SCB[there] * _STANDS_OUT <= top_SCB[here]
    for place, channel, block in np.argwhere(far).tolist():
        bends_T = bends_SCT[place, channel]
        at = block * _BLOCK + int(bends_T[block * _BLOCK : (block + 1) * _BLOCK].argmax())
        if _is_click(second_SCT[place, channel], bends_T, at):
            seen.add((place, at // _SAME))
    for place, _ in seen:
        counts[place] += 1
    return counts


def _is_click(stem_T: Samples, bends_T: Samples, at: int) -> bool:
    """Whether the second difference `at`, which is that of the sample behind, is of a click."""
    before_T, after_T = (
        bends_T[max(0, at - _AROUND) : max(0, at - _WIDTH)],
        bends_T[at + _WIDTH + 1 : at + _AROUND],
    )
    if not before_T.size or not after_T.size:  # at the edge of the second
        return False
    if max(before_T.max(), after_T.max()) * _STANDS_OUT > bends_T[at]:
        return False
    middle = at + 1
    left_T = stem_T[max(0, middle - _AROUND) : middle - _WIDTH + 1]
    right_T = stem_T[middle + _WIDTH : middle + _AROUND]
    height = np.abs(stem_T[middle - 2 : middle + 3] - (left_T[-1] + right_T[0]) / 2).max()
    grows = np.square(right_T).mean() > _GROWS * np.square(left_T).mean() + _FAINT
    return bool(abs(left_T[-1] - right_T[0]) < _BACK * height and not grows)
