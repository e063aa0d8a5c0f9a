"""Recognizes one stem of a song in another song, by landmarks from the spectra that curation computes anyway.

They are coarser than those of `fingerprint`, which hears the sum of all stems at a finer resolution, and take next to
no time. `fingerprint.find_matches` compares them, among the stems of one name; `same_stems` asks of two songs whose
sums match which of their stems are part of what they share.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.quality.fingerprint import (
    FRAMES_PER_S,
    LOWEST_HZ,
    Match,
    Signature,
    landmarks,
    marks_on_line,
)

Array = NDArray[np.float64]

_HIGHEST_HZ = 7040.0
_BINS_PER_OCTAVE = 12
_PEAKS_PER_S = 8
_AROUND_S = 0.23  # in each direction that a peak is the highest of,
_AROUND_BINS = 3  # in bands of a semitone
_QUIET = 0.02  # squared magnitude below which nothing is a peak; a sine of about -70 dBFS
_MANY_MARKS = 24  # of a stem in the common stretch, that can tell one stem from another,
_FEW_MARKS = 8  # and that can where some stem is unchanged
_SAME = 0.03  # of them that lie where the other song has them: the same stem,
_OTHER = 0.01  # and another one
_UNCHANGED = 0.9  # that copies keep whose samples are the same, at any level
_CHANGED_MOST = ("drums", "bass")  # 0 of 91 landmarks of a bass in another master, 0 of 40 of drums at another speed


class StemLandmarks:
    """The landmarks of each stem of a song, from its power spectra second by second, in bounded memory."""

    def __init__(self, num_sources: int, sample_rate: int, num_bins: int) -> None:
        self._num_sources = num_sources
        self._hop_s = (num_bins - 1) / sample_rate
        hertz = LOWEST_HZ * 2 ** ((np.arange(_BINS_PER_OCTAVE * 5 + 1) - 0.5) / _BINS_PER_OCTAVE)
        width_hz = sample_rate / 2 / (num_bins - 1)
        edges = np.unique(np.ceil(hertz[hertz < _HIGHEST_HZ] / width_hz).astype(np.int64))
        self._edges = edges[edges < num_bins - 1]
        self._width_hz = width_hz
        self._around = max(1, round(_AROUND_S / self._hop_s))
        self._second = 0
        self._late: list[tuple[Samples, Samples]] = []  # powers of the last seconds, by bin and by band
        self._peaks: list[tuple[NDArray[np.intp], Array, Array]] = []  # stem, time in frames, pitch

    def add(self, power_SNF: Samples) -> None:
        """Hear the frames of the next second."""
        if len(self._edges) < 4:  # at the lowest sample rates
            return
        banded = np.maximum.reduceat(power_SNF[:, :, : self._edges[-1]], self._edges[:-1], axis=2)
        self._late = [*self._late, (power_SNF, banded)][-3:]
        self._second += 1
        if len(self._late) > 1:
            before = self._late[-3][1] if len(self._late) > 2 else None
            self._search(before, *self._late[-2], self._late[-1][1], second=self._second - 2)

    def _search(
        self, before: Samples | None, power_SNF: Samples, banded: Samples, after: Samples | None, *, second: int
    ) -> None:
        """The strongest peaks of one second, which are the highest of what lies around them, in its neighbours too."""
        from scipy.ndimage import maximum_filter1d

        early = banded[:, :0] if before is None else before[:, -self._around :]
        late = banded[:, :0] if after is None else after[:, : self._around]
        top = np.concatenate([early, banded, late], axis=1)
        for axis, around in ((1, self._around), (2, _AROUND_BINS)):
            top = maximum_filter1d(top, 2 * around + 1, axis=axis)
        is_peak = (banded == top[:, early.shape[1] : early.shape[1] + banded.shape[1]]) & (banded > _QUIET)
        is_peak[:, :, [0, -1]] = False
        place, frame, band = np.nonzero(is_peak)
        order = np.lexsort((-banded[place, frame, band], place))
        rank = np.arange(len(order)) - np.searchsorted(place[order], place[order])
        chosen = np.sort(order[rank < _PEAKS_PER_S])
        place, frame, band = place[chosen], frame[chosen], band[chosen]
        pitch = self._pitches(power_SNF[place, frame], self._edges[band], self._edges[band + 1])
        self._peaks.append((place, np.rint((second + frame * self._hop_s) * FRAMES_PER_S), pitch))

    def _pitches(self, power_NF: Samples, low: NDArray[np.int64], high: NDArray[np.int64]) -> Array:
        """Semitones above LOWEST_HZ of the highest point of each row between two bins, by a parabola through it."""
        if not len(low):
            return np.zeros(0)
        rows = np.arange(len(low))
        columns = low[:, None] + np.arange(int((high - low).max()))
        beyond = np.minimum(columns, power_NF.shape[1] - 1)
        at = low + np.argmax(np.where(columns < high[:, None], power_NF[rows[:, None], beyond], -1.0), axis=1)
        below, top, above = (np.log(power_NF[rows, at + step].astype(np.float64) + 1e-9) for step in (-1, 0, 1))
        offset = np.clip(0.5 * (below - above) / np.minimum(below - 2 * top + above, -1e-9), -0.5, 0.5)
        result: Array = 12 * np.log2((at + offset) * self._width_hz / LOWEST_HZ)
        return result

    def signatures(self) -> list[Signature]:
        """One for each stem; nothing can be added afterwards."""
        if self._late:
            before = self._late[-2][1] if len(self._late) > 1 else None
            self._search(before, *self._late[-1], None, second=self._second - 1)
            self._late = []
        total = np.array([round(self._second * FRAMES_PER_S)], np.uint64)
        if not self._peaks:
            return [total] * self._num_sources
        stem, time, pitch = (np.concatenate(part) for part in zip(*self._peaks, strict=True))
        own = (stem == place for place in range(self._num_sources))
        return [np.concatenate([total, landmarks(time[mine], pitch[mine])]) for mine in own]


def same_stems(first: Mapping[str, Signature], later: Mapping[str, Signature], match: Match) -> dict[str, bool | None]:
    """Whether each stem of two songs is one recording, where their sums match as `match` says; None: it cannot be told.

    A copy at another speed or in another master keeps its other landmarks better than those of drums and bass, so that
    these count as other recordings only where some stem came through unchanged.
    """
    counts = {source: marks_on_line(first[source], later[source], match) for source in first}
    unchanged = any(found >= _UNCHANGED * expected >= _FEW_MARKS for found, expected in counts.values())
    return {
        source: _is_same(found, expected, enough=_FEW_MARKS if unchanged else _MANY_MARKS)
        if unchanged or source not in _CHANGED_MOST or found >= _SAME * expected
        else None
        for source, (found, expected) in counts.items()
    }


def _is_same(found: int, expected: int, *, enough: int) -> bool | None:
    if expected < enough:
        return None
    return True if found >= _SAME * expected else False if found < _OTHER * expected else None
