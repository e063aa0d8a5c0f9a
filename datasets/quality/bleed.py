"""How much of one stem of a song is heard in another, in dB: -20 means at a tenth of its amplitude.

Bleed passes through one short filter (a gain, a delay, a room), so that in every bin of the spectrum the ratio of the
two stems keeps its phase wherever the stem under test is quiet. Music that merely goes together does not keep it.
Each bin's filter is estimated over the whole song by least squares, weighted by how quiet the stem under test is
around that bin, and believed as far as it stands above what chance gives.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Spectra = NDArray[np.complex64]

NO_BLEED_DB = -90.0
_SMOOTH = 5  # bins over which a stem's own level is taken: a single bin may cancel
_MAX_WEIGHT = 1e3  # of one frame: 30 dB of difference say all that can be said about bleed down to -30 dB
_CHANCE = 2.0  # squared length of a sum of unrelated frames, per frame; 1 in theory, more as notes last
_RESOLUTION = 400.0  # a bin counts when its filter is known to 1/20, -26 dB
_CERTAIN = 6.0  # times chance from which on a bin's filter is believed
_MIN_SHARE = 0.6  # of the other stem's bins, by amplitude, that must show a certain filter
_MIN_FOCUS = 0.65  # of the filter's phases that one delay explains; unison of two instruments reaches 0.62
_SOUNDING = 1e-7  # mean square, -70 dBFS: below, a stem is gated and says nothing


class BleedMeter:
    """Listens to the spectra of all stems, second by second."""

    def __init__(self, num_sources: int, num_bins: int) -> None:
        shape = (num_sources, num_sources, num_bins)  # into, from
        self._common = np.zeros(shape, np.complex128)
        self._weight = np.zeros(shape)
        self._energy = np.zeros(shape)  # of the stem it comes from, while both sound
        self._frames = np.zeros(shape[:2])

    def add(self, spectra_SNF: Spectra, power_SNF: NDArray[np.float32]) -> None:
        """Hear the next frames, of Hann windows, and their squared magnitudes."""
        from scipy.ndimage import uniform_filter1d

        length = 2 * (power_SNF.shape[2] - 1)
        sounding_SN = power_SNF.mean(axis=2) > _SOUNDING * length * 3 / 8
        quiet_SNF = 1 / (uniform_filter1d(power_SNF, _SMOOTH, axis=2) + np.float32(1e-9))
        limit_SNF = np.float32(_MAX_WEIGHT) / np.maximum(power_SNF, np.float32(1e-12))
        for one, other in combinations(range(len(power_SNF)), 2):
            both = sounding_SN[one] & sounding_SN[other]
            if not both.any():
                continue
            frames = slice(None) if both.all() else both
            cross = spectra_SNF[one, frames] * np.conj(spectra_SNF[other, frames])
            for into, onto in ((one, other), (other, one)):
                weight = np.minimum(quiet_SNF[into, frames], limit_SNF[onto, frames])
                common = (cross * weight).sum(axis=0)
                self._common[into, onto] += common if into == one else np.conj(common)
                self._weight[into, onto] += (power_SNF[onto, frames] * weight).sum(axis=0)
                self._energy[into, onto] += power_SNF[onto, frames].sum(axis=0)
                self._frames[into, onto] += np.count_nonzero(both)

    def levels_db(self) -> Array:
        """Level of stem j in stem i relative to stem j, of shape (S, S); -90 where none was found."""
        num = len(self._frames)
        levels = np.full((num, num), NO_BLEED_DB)
        for into, onto in np.argwhere((self._frames >= 10) & ~np.eye(num, dtype=bool)):
            levels[into, onto] = self._level_db(into, onto)
        return levels

    def _level_db(self, into: int, onto: int) -> float:
        common, weight, energy = (part[into, onto] for part in (self._common, self._weight, self._energy))
        known = weight > _RESOLUTION * _CHANCE
        loudness = np.sqrt(energy) * known
        squared = np.abs(common) ** 2
        certain = loudness * (squared > _CERTAIN * weight)
        if certain.sum() < _MIN_SHARE * max(loudness.sum(), 1e-12) or _focus(common, certain) < _MIN_FOCUS:
            return NO_BLEED_DB
        gain = np.maximum(squared - _CHANCE * weight, 0) / np.maximum(weight, 1e-9) ** 2
        level = (gain * energy)[known].sum() / energy[known].sum()
        return float(max(NO_BLEED_DB, 10 * np.log10(level + 1e-9)))


def _focus(common: NDArray[np.complex128], loudness: Array) -> float:
    """How well one delay explains the phases of a filter: 1 for a pure delay."""
    phases = loudness * common / np.maximum(np.abs(common), 1e-12)
    fine = 4 * 2 * (len(phases) - 1)  # a quarter of a sample
    response = np.fft.irfft(phases, fine) * fine / 2
    return float(np.abs(response).max() / max(loudness.sum(), 1e-12))
