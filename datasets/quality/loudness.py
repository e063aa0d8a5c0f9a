"""Loudness after ITU-R BS.1770-4, heard in consecutive blocks.

K-weighting is a shelf (the head) and a high-pass; the standard gives both for 48 kHz, and the analogue filters
behind them give every other rate. Surround weights do not occur: at most two channels.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]

STEPS_PER_S = 10  # blocks of 0.4 s that overlap by three quarters begin every 0.1 s
SILENT_LUFS = -120.0
_STEPS_PER_BLOCK = 4
_OFFSET_DB = -0.691  # brings a 997 Hz sine at full scale in one channel to -3.01
_ABSOLUTE_GATE = -70.0
_RELATIVE_GATE = -10.0


class KWeighting:
    """K-weighted power of stems (S, C, T), one second after the other."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._filter = k_weighting(sample_rate)
        self._state: Array | None = None
        self._edges = np.round(np.arange(STEPS_PER_S) * sample_rate / STEPS_PER_S).astype(np.int64)

    def power(self, second_SCT: Samples) -> Array:
        """Mean square in each tenth of the next second, of each stem and last of their sum; (S + 1, C, 10).

        The song's last second may be shorter, and has as many tenths as are whole; a song ends with it.
        """
        from scipy.signal import sosfilt

        if self._state is None:
            self._state = np.zeros((len(self._filter), *second_SCT.shape[:-1], 2))
        power = []
        total_CT = np.zeros(second_SCT.shape[1:])
        for place, stem_CT in enumerate(second_SCT):  # all at once would leave the processor's cache
            weighted_CT, self._state[:, place] = sosfilt(self._filter, stem_CT, axis=-1, zi=self._state[:, place])
            total_CT += weighted_CT
            power.append(self._tenths(np.square(weighted_CT, out=weighted_CT)))
        return np.stack([*power, self._tenths(np.square(total_CT, out=total_CT))])

    def _tenths(self, squared: Array) -> Array:
        stops = np.append(self._edges[1:], self._rate)
        whole = int(np.count_nonzero(stops <= squared.shape[-1]))
        if not whole:
            return np.zeros((*squared.shape[:-1], 0))
        sums: Array = np.add.reduceat(squared[..., : stops[whole - 1]], self._edges[:whole], axis=-1)
        return sums / (stops - self._edges)[:whole]


def k_weighting(sample_rate: int) -> Array:
    """The two biquads as second-order sections of shape (2, 6)."""
    shelf = np.tan(np.pi * 1681.974450955533 / sample_rate)
    high, q = 10.0 ** (3.999843853973347 / 20), 0.7071752369554196
    middle = high**0.4996667741545416
    norm = 1 + shelf / q + shelf**2
    head = [
        (high + middle * shelf / q + shelf**2) / norm,
        2 * (shelf**2 - high) / norm,
        (high - middle * shelf / q + shelf**2) / norm,
        1.0,
        2 * (shelf**2 - 1) / norm,
        (1 - shelf / q + shelf**2) / norm,
    ]
    cut, q = np.tan(np.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    norm = 1 + cut / q + cut**2
    return np.array([head, [1.0, -2.0, 1.0, 1.0, 2 * (cut**2 - 1) / norm, (1 - cut / q + cut**2) / norm]])


def integrated(power_N: Array) -> float:
    """Gated loudness in LUFS from the K-weighted power, summed over channels, of tenths of seconds."""
    if len(power_N) < _STEPS_PER_BLOCK:
        return SILENT_LUFS
    blocks = np.convolve(power_N, np.full(_STEPS_PER_BLOCK, 1 / _STEPS_PER_BLOCK), "valid")
    loud = blocks[lufs(blocks) > _ABSOLUTE_GATE]
    if not loud.size:
        return SILENT_LUFS
    above = loud[lufs(loud) > float(lufs(loud.mean())) + _RELATIVE_GATE]
    return float(lufs(above.mean()))


def lufs(power: Array | float) -> Array:
    """Loudness of a K-weighted power; no less than -120."""
    floor = 10 ** ((SILENT_LUFS - _OFFSET_DB) / 10)
    result: Array = _OFFSET_DB + 10 * np.log10(np.maximum(power, floor))
    return result
