"""What a stem sounds like: drums, bass, other or vocals, by twelve plain features and a table of weights.

It is there to find stems whose names were exchanged, and judges a song's stems together: which way of handing out the
names is likeliest, and by how much? The weights make the right way likely against all others, on half of the songs
that `make bench-curation` knows, which reports on the other half; `make bench-labels` fits them. Songs far from those
may be judged wrongly, and a model that separates (`curate.model`) judges better.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

LABELS = ("drums", "bass", "other", "vocals")
MIN_RATE = 32000  # Hz; the features were weighted with treble in them
_BANDS = 28  # from 40 Hz to 16 kHz
_NOISE_FLATNESS = -1.1  # white noise has -0.58, pink noise -0.9, and the flattest of music -1.6
_NOISE_STEPS = 0.06
_JUMP = 0.7  # of a band's log energy within one frame: 3 dB
_SOUNDING = 1e-4  # of the second's loudest frame
_AUDIBLE = 1e-6  # mean square of a second, -60 dBFS
_TONES_HZ = 190.0  # above which spectra are compared; below, a frame does not tell one note from the next
_PITCHED = 0.5  # height of the autocorrelation's peak
_LOWEST_HZ, _HIGHEST_HZ = 45.0, 1000.0
_STILL, _GLIDE, _LEAP = 8.0, (12.0, 120.0), 150.0  # cents between frames
ABSENT = 3.0  # log odds against a stem bearing the name of one that is silent: names are exchanged more often
_FARTHEST = 3.0  # deviations from the mean; what is farther off counts as this far
# What is counted in each second, summed over the song.
_COUNTS = ("total", "low", "mid", "hertz", "frames", "steps", "onsets", "rises", "changes", "flat", "pairs", "alike",
           "energy", "pitched", "melodic", "glides", "stills", "leaps", "sum", "difference")  # fmt: skip
FEATURES = ("low", "mid", "onsets", "attack", "flat", "steady", "pitched", "glides", "stills", "leaps", "width",
            "centroid")  # fmt: skip
# Mean and deviation of each feature, then the weight for each label, by `python -m tests.benchmarks.labels --table`.
_TABLE = (
    (-0.831, 3.290, 0.438, 0.200, 0.114, -0.752),  # low: share of energy from 20 to 200 Hz, as a logit
    (-0.890, 2.502, -0.556, -0.331, 0.959, -0.072),  # mid: 300 to 3000 Hz
    (0.108, 0.065, 0.530, 0.028, -0.315, -0.242),  # onsets: share of frames where half of the bands jump
    (0.703, 0.148, 0.346, -0.050, 0.169, -0.464),  # attack: share of the changes of level that are rises, both squared
    (-4.446, 2.407, 0.784, -0.365, -0.400, -0.019),  # flat: noise is near 0, tones far below
    (0.881, 0.075, -1.120, 0.780, 0.940, -0.600),  # steady: cosine of neighbouring frames' magnitudes, from 190 Hz
    (0.703, 0.172, -0.089, -0.078, -0.810, 0.977),  # pitched: height of the autocorrelation, 45 to 1000 Hz, by energy
    (0.169, 0.199, 0.046, -0.363, -0.014, 0.331),  # glides: share of pitched frames that move by 12 to 120 cents
    (0.642, 0.280, 0.222, 0.367, -0.044, -0.545),  # stills: that move by less than 8
    (0.114, 0.111, -0.046, -0.118, 0.495, -0.332),  # leaps: that move by more than 150
    (-3.904, 2.583, -0.241, -0.550, 1.441, -0.649),  # width: side over middle, as a natural logarithm
    (9.038, 1.529, 0.067, -0.456, -0.180, 0.568),  # centroid: in octaves above 1 Hz
)


class StemClassifier:
    """Listens to the spectra of all stems, second by second."""

    def __init__(self, num_sources: int, sample_rate: int, num_bins: int) -> None:
        self._hertz = np.arange(num_bins) * sample_rate / (2 * (num_bins - 1))
        edges = np.searchsorted(self._hertz, np.geomspace(40, 16000, _BANDS + 1))
        self._edges = np.unique(edges)[:-1]
        self._tones = int(np.searchsorted(self._hertz, _TONES_HZ))
        self._lags = (int(sample_rate / _HIGHEST_HZ), min(int(sample_rate / _LOWEST_HZ), num_bins - 1))
        self._counts = np.zeros((len(_COUNTS), num_sources))
        self._noise = np.zeros((2, num_sources))  # seconds that are noise, and all that are audible

    def add(self, power_SNF: Samples, power_S: Array, sides_2S: Array, weight: float) -> None:
        """Hear the power spectra of the next second's frames; it counts as much as `weight` seconds.

        Of the stems' channels come the mean squares, and those of their sums and differences without an offset.
        """
        energy_SN = power_SNF.sum(axis=2)
        audible = power_S > _AUDIBLE
        used_SN = (energy_SN > _SOUNDING * energy_SN.max(axis=1, keepdims=True)) & audible[:, None]
        long_term = power_SNF.sum(axis=1, dtype=np.float64) * audible[:, None]
        between = [(20.0, 200.0), (300.0, 3000.0)]
        bands = [long_term[:, (self._hertz >= low) & (self._hertz < high)].sum(axis=1) for low, high in between]
        self._counts += np.stack(
            [
                long_term.sum(axis=1),
                *bands,
                long_term @ self._hertz,
                used_SN.sum(axis=1),
                *self._onsets(power_SNF, used_SN),
                *_swells(energy_SN),
                self._flatness(power_SNF, used_SN),
                *self._steadiness(power_SNF, energy_SN, used_SN),
                *self._pitches(power_SNF, energy_SN, used_SN),
                *(sides_2S * audible * weight),
            ]
        )

    def _onsets(self, power_SNF: Samples, used_SN: Mask) -> list[Array]:
        """Steps between frames, and those where half of the bands jump."""
        banded = np.log(np.add.reduceat(power_SNF, self._edges, axis=2) + np.float32(1e-4))
        used = used_SN[:, 1:]
        jumps = ((np.diff(banded, axis=1) > _JUMP).mean(axis=2) > 0.5) & used
        return [used.sum(axis=1), jumps.sum(axis=1)]

    def _flatness(self, power_SNF: Samples, used_SN: Mask) -> Array:
        """Sum over frames of how far the spectrum from 200 Hz to 5 kHz is from flat, as a natural logarithm.

        Noise is flat and of a steady level: of all frames of a second, and by the mean square of the steps between.
        """
        part = power_SNF[:, :, (self._hertz > 200) & (self._hertz < 5000)] + np.float32(1e-6)
        level_SN = np.log(part.mean(axis=2))
        flat_SN = np.log(part).mean(axis=2) - level_SN
        steps_S = np.square(np.diff(level_SN, axis=1)).mean(axis=1) if level_SN.shape[1] > 1 else np.full(len(part), 9)
        whole_S = used_SN.all(axis=1)
        self._noise += np.stack(
            [whole_S & (flat_SN.mean(axis=1) > _NOISE_FLATNESS) & (steps_S < _NOISE_STEPS), used_SN.any(axis=1)]
        )
        result: Array = (flat_SN * used_SN).sum(axis=1)
        return result

    def noise(self) -> Array:
        """Share of the audible seconds of each stem that are nothing but steady noise."""
        share: Array = self._noise[0] / np.maximum(self._noise[1], 1)
        return share

    def _steadiness(self, power_SNF: Samples, energy_SN: Samples, used_SN: Mask) -> list[Array]:
        """Pairs of neighbouring frames with tones in them, and the sum of the cosines between their magnitudes."""
        magnitude = np.sqrt(power_SNF[:, :, self._tones :])
        norm = np.sqrt(np.square(magnitude).sum(axis=2))
        used = used_SN & (np.square(norm) > 1e-3 * energy_SN)
        pairs = used[:, 1:] & used[:, :-1]
        products = np.einsum("snf,snf->sn", magnitude[:, 1:], magnitude[:, :-1])
        cosines = products / np.maximum(norm[:, 1:] * norm[:, :-1], 1e-12)
        return [pairs.sum(axis=1), (cosines * pairs).sum(axis=1)]

    def _pitches(self, power_SNF: Samples, energy_SN: Samples, used_SN: Mask) -> list[Array]:
        """Energy of frames, and that times the autocorrelation's height; pairs of pitched frames, and how they move."""
        from scipy.fft import irfft

        correlation_KT = irfft(power_SNF[used_SN])
        part_KT = correlation_KT[:, slice(*self._lags)] / np.maximum(correlation_KT[:, :1], 1e-12)
        best_K = part_KT.argmax(axis=1)
        height, lag = np.zeros(used_SN.shape, np.float32), np.full(used_SN.shape, self._lags[0])
        height[used_SN], lag[used_SN] = part_KT[np.arange(len(best_K)), best_K], best_K + self._lags[0]
        cents = 1200 * np.abs(np.diff(np.log2(lag), axis=1))
        pitched = (height > _PITCHED) & used_SN
        pairs = pitched[:, 1:] & pitched[:, :-1]
        moves = [(cents > _GLIDE[0]) & (cents < _GLIDE[1]), cents < _STILL, cents > _LEAP]
        energy = energy_SN * used_SN
        return [
            energy.sum(axis=1), (height * energy).sum(axis=1), pairs.sum(axis=1),
            *((pairs & move).sum(axis=1) for move in moves),
        ]  # fmt: skip

    def features(self) -> Array:
        """Shape (S, 12), in the order of FEATURES; NaN for a stem that was not heard."""
        c = dict(zip(_COUNTS, self._counts, strict=True))
        total, frames, melodic = np.maximum(c["total"], 1e-12), np.maximum(c["frames"], 1), np.maximum(c["melodic"], 1)
        width = np.log((c["difference"] + 1e-9) / (c["sum"] + 1e-9))
        columns = [
            _logit(c["low"] / total),
            _logit(c["mid"] / total),
            c["onsets"] / np.maximum(c["steps"], 1),
            c["rises"] / np.maximum(c["changes"], 1e-9),
            c["flat"] / frames,
            np.where(c["pairs"] > 0, c["alike"] / np.maximum(c["pairs"], 1), 0.5),
            c["pitched"] / np.maximum(c["energy"], 1e-12),
            c["glides"] / melodic,
            c["stills"] / melodic,
            c["leaps"] / melodic,
            np.maximum(width, -8),
            np.log2(np.maximum(c["hertz"] / total, 20)),
        ]
        return np.where(c["frames"][:, None] >= 20, np.stack(columns, axis=1), np.nan)

    def log_odds(self) -> Array:
        """Natural logarithm of each label's probability for each stem, of shape (S, 4); NaN where not heard."""
        table = np.array(_TABLE)
        centred = np.clip((self.features() - table[:, 0]) / table[:, 1], -_FARTHEST, _FARTHEST)
        scores = centred @ table[:, 2:]
        top = scores.max(axis=1, keepdims=True)
        result: Array = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        return result


def likeliest(
    measures: Mapping[str, float], sources: Sequence[str], *, unlike: Collection[str] = ()
) -> tuple[dict[str, str], float]:
    """The likeliest way to hand out the names among the stems that were heard, and its log odds over the present one.

    Names that are no label, stems that were not heard, and those `unlike` what they were, keep out of it.
    """
    known = [source for source in sources if source in LABELS and source not in unlike]
    heard = [source for source in known if f"{source}_as_{source}" in measures]
    names = [label for label in LABELS if label in sources]
    best, best_score = {source: source for source in heard}, 0.0
    own = sum(measures[f"{source}_as_{source}"] for source in heard)
    for given in permutations(names, len(heard)):
        score = sum(measures[f"{source}_as_{label}"] for source, label in zip(heard, given, strict=True)) - own
        score -= ABSENT * len(set(given) - set(heard))
        if score > best_score:
            best, best_score = dict(zip(heard, given, strict=True)), score
    return best, best_score


def _swells(energy_SN: Samples) -> list[Array]:
    """Squares of the rises of the level from frame to frame, and of all its changes, summed."""
    change = np.diff(np.log(energy_SN + np.float32(1e-4)), axis=1)
    return [np.square(np.maximum(change, 0)).sum(axis=1), np.square(change).sum(axis=1)]


def _logit(share: Array) -> Array:
    result: Array = np.log((share + 1e-4) / (1 - share + 1e-4))
    return result
