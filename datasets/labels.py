"""What a stem sounds like: drums, bass, other or vocals, by eleven plain features and a table of weights.

It is there to find stems whose names were exchanged, and judges a song's stems together: which way of handing out the
names is likeliest, and by how much? The weights are a multinomial logistic regression on half of the songs that
`make bench-curation` knows, which reports on the other half; songs far from those may be judged wrongly, and a
model that separates (`curate.model`) judges better.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from datasets.audio import Samples

Array = NDArray[np.float64]

LABELS = ("drums", "bass", "other", "vocals")
MIN_RATE = 32000  # Hz; the features were weighted with treble in them
_BANDS = 28  # from 40 Hz to 16 kHz
_JUMP = 0.7  # of a band's log energy within one frame: 3 dB
_SOUNDING = 1e-4  # of the second's loudest frame
_AUDIBLE = 1e-6  # mean square of a second, -60 dBFS
_PITCHED = 0.5  # height of the autocorrelation's peak
_LOWEST_HZ, _HIGHEST_HZ = 80.0, 800.0
_STILL, _GLIDE = 8.0, (12.0, 120.0)  # cents between frames
# What is counted in each second, summed over the song.
_COUNTS = ("total", "low", "mid", "high", "hertz", "frames", "steps", "onsets", "rise", "flat", "pitched", "pairs",
           "glides", "stills", "sum", "difference")  # fmt: skip
FEATURES = ("low", "high", "mid", "onsets", "rise", "flat", "pitched", "glides", "stills", "width", "centroid")
# Mean and deviation of each feature, then the weight for each label; the last row is the offset of each label.
_TABLE = (
    (-0.772, 3.288, 0.527, 0.267, -0.180, -0.615),  # low: share of energy from 20 to 200 Hz, as a logit
    (-5.527, 2.623, 1.063, -0.834, -0.019, -0.211),  # high: above 5 kHz
    (-0.972, 2.568, -0.714, -0.420, 0.547, 0.587),  # mid: 300 to 3000 Hz
    (0.102, 0.061, 0.283, 0.358, -0.490, -0.151),  # onsets: share of frames where half of the bands jump
    (0.554, 0.315, -0.048, 0.139, 0.447, -0.539),  # rise of the bands from frame to frame
    (-4.694, 2.435, 1.001, -0.514, -0.430, -0.057),  # flat: noise is near 0, tones far below
    (0.640, 0.191, -0.096, -0.624, -0.311, 1.031),  # pitched: height of the autocorrelation from 80 to 800 Hz
    (0.175, 0.202, 0.102, -0.599, -0.287, 0.785),  # glides: share of pitched frames that move by 12 to 120 cents
    (0.635, 0.293, 0.302, 0.376, -0.043, -0.635),  # stills: that move by less than 8
    (-3.789, 2.391, -0.261, -0.252, 0.909, -0.396),  # width: side over middle, as a natural logarithm
    (9.115, 1.605, 0.133, -0.628, 0.220, 0.275),  # centroid in octaves above 1 Hz
    (0.0, 1.0, 0.071, -0.624, 0.933, -0.380),  # offset
)


class Labels:
    """Listens to the spectra of all stems, second by second."""

    def __init__(self, num_sources: int, sample_rate: int, num_bins: int) -> None:
        self._hertz = np.arange(num_bins) * sample_rate / (2 * (num_bins - 1))
        edges = np.searchsorted(self._hertz, np.geomspace(40, 16000, _BANDS + 1))
        self._edges = np.unique(edges)[:-1]
        self._lags = (int(sample_rate / _HIGHEST_HZ), min(int(sample_rate / _LOWEST_HZ), num_bins - 1))
        self._counts = np.zeros((len(_COUNTS), num_sources))

    def add(self, power_SNF: Samples, second_SCT: Samples) -> None:
        """Hear the next second, and the power spectra of its frames."""
        energy_SN = power_SNF.sum(axis=2)
        audible = np.square(second_SCT).mean(axis=(1, 2)) > _AUDIBLE
        used_SN = (energy_SN > _SOUNDING * energy_SN.max(axis=1, keepdims=True)) & audible[:, None]
        long_term = power_SNF.sum(axis=1, dtype=np.float64) * audible[:, None]
        between = [(20.0, 200.0), (300.0, 3000.0), (5000.0, np.inf)]
        bands = [long_term[:, (self._hertz >= low) & (self._hertz < high)].sum(axis=1) for low, high in between]
        left_ST, right_ST = second_SCT[:, 0], second_SCT[:, -1]
        width = [np.square(side_ST).mean(axis=1) * audible for side_ST in (left_ST + right_ST, left_ST - right_ST)]
        self._counts += np.stack(
            [
                long_term.sum(axis=1),
                *bands,
                long_term @ self._hertz,
                used_SN.sum(axis=1),
                *self._onsets(power_SNF, used_SN),
                self._flatness(power_SNF, used_SN),
                *self._pitches(power_SNF, used_SN),
                *width,
            ]
        )

    def _onsets(self, power_SNF: Samples, used_SN: NDArray[np.bool_]) -> list[Array]:
        """Steps between frames, those where half of the bands jump, and the mean rise of all bands."""
        banded = np.log(np.add.reduceat(power_SNF, self._edges, axis=2) + np.float32(1e-4))
        rise = np.diff(banded, axis=1)
        used = used_SN[:, 1:]
        jumps = ((rise > _JUMP).mean(axis=2) > 0.5) & used
        return [used.sum(axis=1), jumps.sum(axis=1), (np.maximum(rise, 0).mean(axis=2) * used).sum(axis=1)]

    def _flatness(self, power_SNF: Samples, used_SN: NDArray[np.bool_]) -> Array:
        """Sum over frames of how far the spectrum from 200 Hz to 5 kHz is from flat, as a natural logarithm."""
        part = power_SNF[:, :, (self._hertz > 200) & (self._hertz < 5000)] + np.float32(1e-6)
        result: Array = ((np.log(part).mean(axis=2) - np.log(part.mean(axis=2))) * used_SN).sum(axis=1)
        return result

    def _pitches(self, power_SNF: Samples, used_SN: NDArray[np.bool_]) -> list[Array]:
        """Height of the autocorrelation, pairs of pitched frames, and those that glide and that stay."""
        from scipy.fft import irfft

        correlation = irfft(power_SNF, axis=2)
        part = correlation[:, :, slice(*self._lags)] / np.maximum(correlation[:, :, :1], 1e-12)
        height, lag = part.max(axis=2), part.argmax(axis=2) + self._lags[0]
        cents = 1200 * np.abs(np.diff(np.log2(lag), axis=1))
        pitched = (height > _PITCHED) & used_SN
        pairs = pitched[:, 1:] & pitched[:, :-1]
        glides = pairs & (cents > _GLIDE[0]) & (cents < _GLIDE[1])
        stills = pairs & (cents < _STILL)
        return [(height * used_SN).sum(axis=1), pairs.sum(axis=1), glides.sum(axis=1), stills.sum(axis=1)]

    def features(self) -> Array:
        """Shape (S, 11), in the order of FEATURES; NaN for a stem that was not heard."""
        c = dict(zip(_COUNTS, self._counts, strict=True))
        total, frames = np.maximum(c["total"], 1e-12), np.maximum(c["frames"], 1)
        steps, pairs = np.maximum(c["steps"], 1), np.maximum(c["pairs"], 1)
        width = np.log((c["difference"] + 1e-9) / (c["sum"] + 1e-9))
        columns = [
            _logit(c["low"] / total),
            _logit(c["high"] / total),
            _logit(c["mid"] / total),
            c["onsets"] / steps,
            c["rise"] / steps,
            c["flat"] / frames,
            c["pitched"] / frames,
            c["glides"] / pairs,
            c["stills"] / pairs,
            np.maximum(width, -8),
            np.log2(np.maximum(c["hertz"] / total, 20)),
        ]
        return np.where(c["frames"][:, None] >= 20, np.stack(columns, axis=1), np.nan)

    def log_odds(self) -> Array:
        """Natural logarithm of each label's probability for each stem, of shape (S, 4); NaN where not heard."""
        table = np.array(_TABLE)
        centred = (self.features() - table[:-1, 0]) / table[:-1, 1]
        scores = centred @ table[:-1, 2:] + table[-1, 2:]
        top = scores.max(axis=1, keepdims=True)
        result: Array = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        return result


def likeliest(measures: Mapping[str, float], sources: Sequence[str]) -> tuple[dict[str, str], float]:
    """The likeliest way to hand out the names among the stems that were heard, and its log odds over the present one.

    Names that are no label, and stems that were not heard, keep out of it.
    """
    heard = [source for source in sources if source in LABELS and f"{source}_as_{source}" in measures]
    names = [label for label in LABELS if label in sources]
    best, best_score = {source: source for source in heard}, 0.0
    own = sum(measures[f"{source}_as_{source}"] for source in heard)
    for given in permutations(names, len(heard)):
        score = sum(measures[f"{source}_as_{label}"] for source, label in zip(heard, given, strict=True)) - own
        if score > best_score:
            best, best_score = dict(zip(heard, given, strict=True)), score
    return best, best_score


def _logit(share: Array) -> Array:
    result: Array = np.log((share + 1e-4) / (1 - share + 1e-4))
    return result
