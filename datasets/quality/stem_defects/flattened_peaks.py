"""Peaks of a stem that stop at one level: cut off or driven, and then turned down or coded anew.

`clipping.py` looks for tops that stand still; a lossy codec, another sample rate or soft clipping bends those. What is
left is that the peaks of the loudest moments reach the same level though these moments are not equally loud, that they
reach as far down as up, and, in some stems, that the loudest peaks are broader than quieter ones. Limiters and
amplifiers may do the same by design. Synthesizers at one level do it exactly or in moments equally loud: of those
nothing is said.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]

_BLOCK_S = 0.00073  # in which the highest sample may be a peak: 32 samples at 44.1 kHz
_REACH_S = 0.0011  # on each side of a peak that tells how broad it is
_MOST = 64  # peaks of a second and channel that are looked at,
_LEAST = 0.25  # of that second's highest
_HIGH, _MIDDLE = 0.9, 0.5  # of a peak's height, at which its widths are compared
_BROAD = 0.6  # of the width in the middle, that a flattened top has near its height; a sine's has 0.43
_FLOOR_DB, _TOP_DB, _STEPS_PER_DB = -60, 20, 8  # of the histogram of heights
_FEWEST = 30  # peaks that tell
_LOUD, _QUIET = 0.85, (0.3, 0.6)  # of the ceiling: peaks that may be flattened, and those that can not
_PILED = 0.4  # times the peaks between quiet and loud ones, that loud ones must be
_BEYOND_DB = 1.5  # above the ceiling, by which hardly any peak may go
_MOMENTS_PER_S = 10
_AUDIBLE_DB, _BELOW_DB = -60.0, 40.0  # a moment's least level in dBFS, and below the loudest moment's
_FEWEST_MOMENTS = 64
_LOUDEST, _HIGHEST = 4, 10  # one of so many moments is among the loudest, and among those with the highest peaks
_EXACT_DB = 0.03  # deviation of peaks, below which a synthesizer repeats one
_EQUAL_DB = 0.4  # deviation of levels, below which moments are equally loud
_NOT_BROAD = -0.05  # excess of broad peaks that counts where nothing can be said
# Logistic regression on stems flattened so and others (docs/results.md): constant, logarithms of the deviations of
# peaks and levels and of the distance between up and down, all in dB, and the excess of broad peaks
_WEIGHTS = np.array([-1.35, -3.28, 0.7, -1.22, 12.24])
_LEAST_DB = 0.02  # added to that distance


class FlattenedPeaks:
    """Listens to stems second by second: how far their moments reach, and how many peaks of which height are broad."""

    def __init__(self, num_sources: int, sample_rate: int) -> None:
        self._block, self._reach = max(2, round(_BLOCK_S * sample_rate)), max(2, round(_REACH_S * sample_rate))
        self._moment = max(1, sample_rate // _MOMENTS_PER_S)
        self._moments: list[Array] = []  # of each second: highest, lowest and level in dB, (3, S, C, moments)
        self._counts = np.zeros((num_sources, 2, (_TOP_DB - _FLOOR_DB) * _STEPS_PER_DB), np.int64)  # all, and broad

    def add(self, second_SCT: Samples, loud_SCT: Samples) -> None:
        """Hear the next second; `loud_SCT` are its magnitudes."""
        self._add_moments(second_SCT)
        self._count_peaks(second_SCT, loud_SCT)

    def _add_moments(self, second_SCT: Samples) -> None:
        used = second_SCT.shape[2] // self._moment * self._moment
        moments_SCMT = second_SCT[:, :, :used].reshape(*second_SCT.shape[:2], -1, self._moment)
        reach = (moments_SCMT.max(axis=3), -moments_SCMT.min(axis=3))
        level = np.sqrt(np.einsum("scmt,scmt->scm", moments_SCMT, moments_SCMT) / np.float32(self._moment))
        self._moments.append(20 * np.log10(np.maximum([*reach, level], 1e-6, dtype=np.float64)))

    def _count_peaks(self, second_SCT: Samples, loud_SCT: Samples) -> None:
        num_blocks = second_SCT.shape[2] // self._block
        if num_blocks < 3:
            return
        used = num_blocks * self._block
        blocks_SCNB = loud_SCT[:, :, :used].reshape(*second_SCT.shape[:2], num_blocks, self._block)
        top_SCN = np.maximum.reduceat(loud_SCT[:, :, :used], np.arange(0, used, self._block), axis=2)  # max() is slow
        peaks_SCN = (top_SCN[..., 1:-1] >= top_SCN[..., :-2]) & (top_SCN[..., 1:-1] > top_SCN[..., 2:])
        peaks_SCN &= top_SCN[..., 1:-1] > np.maximum(_LEAST * top_SCN.max(axis=2), 10 ** (_FLOOR_DB / 20))[..., None]
        chosen_SCN = np.zeros_like(peaks_SCN)
        for place, channel in np.ndindex(*second_SCT.shape[:2]):
            blocks = np.flatnonzero(peaks_SCN[place, channel])
            chosen_SCN[place, channel, blocks[:: -(-len(blocks) // _MOST) or 1]] = True
        place_K, channel_K, block_K = np.nonzero(chosen_SCN)
        if not block_K.size:
            return
        block_K += 1
        at_K = block_K * self._block + blocks_SCNB[place_K, channel_K, block_K].argmax(axis=1)
        inside_K = (at_K >= self._reach) & (at_K < second_SCT.shape[2] - self._reach)
        place_K, channel_K, at_K = place_K[inside_K], channel_K[inside_K], at_K[inside_K]
        steps = np.arange(self._reach + 1)
        sides = (loud_SCT[place_K[:, None], channel_K[:, None], at_K[:, None] + way * steps] for way in (-1, 1))
        height_K, broad_K = _breadth(*sides)
        level_K = (20 * np.log10(height_K) - _FLOOR_DB) * _STEPS_PER_DB
        bins_K = np.clip(level_K, 0, self._counts.shape[2] - 1).astype(np.intp)
        np.add.at(self._counts, (place_K, 0, bins_K), 1)
        np.add.at(self._counts, (place_K[broad_K], 1, bins_K[broad_K]), 1)

    def found(self, place: int) -> tuple[float, float] | None:
        """The log odds that a stem's peaks were flattened, and their level in dBFS; None where nothing can be said."""
        if not self._moments:
            return None
        up_M, down_M, level_M = np.concatenate([part[:, place] for part in self._moments], axis=-1).reshape(3, -1)
        audible_M = (level_M > _AUDIBLE_DB) & (level_M > level_M.max() - _BELOW_DB)
        up_M, down_M, level_M = up_M[audible_M], down_M[audible_M], level_M[audible_M]
        if len(level_M) < _FEWEST_MOMENTS:
            return None
        peak_M = np.maximum(up_M, down_M)
        loudest = np.argsort(-level_M, kind="stable")[: len(level_M) // _LOUDEST]
        highest = np.argsort(-peak_M, kind="stable")[: len(level_M) // _HIGHEST]
        peaks_db, levels_db = float(peak_M[loudest].std()), float(level_M[loudest].std())
        if peaks_db < _EXACT_DB or levels_db < _EQUAL_DB:
            return None
        apart_db = float(np.median(np.abs(up_M - down_M)[highest]))
        signs = [1.0, *np.log([peaks_db, levels_db, apart_db + _LEAST_DB]), max(self._excess(place), _NOT_BROAD)]
        return float(_WEIGHTS @ signs), float(np.median(peak_M[loudest]))

    def _excess(self, place: int) -> float:
        """By how much more of a stem's loud peaks are broad than of its quiet ones.

        -1 where too few peaks were heard, where they do not pile up, or where some go far beyond their level.
        """
        count_B, broad_B = self._counts[place]
        total = int(count_B.sum())
        down_B = np.cumsum(count_B[::-1])[::-1]  # peaks of that height and above
        few = max(_FEWEST, min(400, total // 50))
        if total < 4 * _FEWEST:
            return -1.0
        ceiling, highest = (int(np.flatnonzero(down_B >= number)[-1]) for number in (few // 2, max(1, few // 20)))
        loud, low, middle = (ceiling + round(20 * np.log10(part) * _STEPS_PER_DB) for part in (_LOUD, *_QUIET))
        if low < 0 or highest - ceiling > _BEYOND_DB * _STEPS_PER_DB:
            return -1.0
        num_loud, num_between, num_quiet = count_B[loud:].sum(), count_B[middle:loud].sum(), count_B[low:middle].sum()
        if min(num_loud, num_quiet) < _FEWEST or num_loud < _PILED * num_between:
            return -1.0
        return float(broad_B[loud:].sum() / num_loud - broad_B[low:middle].sum() / num_quiet)


def _breadth(before_KT: Samples, after_KT: Samples) -> tuple[Samples, NDArray[np.bool_]]:
    """Heights of peaks, and whether each is nearly as wide at its top as in its middle.

    Rows lead away from the peak, which both begin with. Of low tones no middle is within reach, and nothing is said.
    """
    height_K = after_KT[:, 0].copy()
    # How far away each side first falls below a part of the height; 0 where it never does.
    (top_before_K, middle_before_K), (top_after_K, middle_after_K) = (
        [(side_KT < part * height_K[:, None]).argmax(axis=1) for part in (_HIGH, _MIDDLE)]
        for side_KT in (before_KT, after_KT)
    )
    told_K = (middle_before_K > 0) & (middle_after_K > 0)
    return height_K, told_K & (top_before_K + top_after_K - 1 > _BROAD * (middle_before_K + middle_after_K - 1))
