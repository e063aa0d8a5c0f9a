"""Chroma, tuning, key, and how many semitones lie between two tracks; read `mixing/mixplan.py` next.

Spectral peaks, not bins, are put on the semitone scale: their interpolated frequency gives the tuning of the whole
track in one pass, and then each peak's place. A peak may be an overtone; so half of the chroma are the peaks as they
are, and half the tones whose overtones explain them best (non-negative least squares after Mauch and Dixon,
"Approximate note transcription for the improved identification of difficult chords", ISMIR 2010).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from datasets.analysis.spectra import exceeds, magnitudes, resampled
from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]

PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES = ("major", "minor")

ANALYSIS_RATE = 11025
WINDOW = 8192  # 0.74 s: bass tones a semitone apart must not merge
HOP = 2048
FRAMES_PER_S = ANALYSIS_RATE / HOP
LOWEST, HIGHEST = 27, 97  # MIDI numbers: from 39 Hz, below a four-string bass, to 2.2 kHz
# Higher up overtones outnumber tones, so tones count less and less from the first of these on and not from the
# second. A hard limit let the key of three songs in thirteen hang on where it was.
FADE = (78, 90)
OVERTONES, DECAY = 8, 0.7  # of one tone, each so much weaker than the one below
TURNS = 12  # of the least squares
# A tone stands above the lower of its neighbours by 6 dB at least, through the window; what stands above both by less
# is the ripple of a flat spectrum, such as a click's.
CLEAR_PEAK = 1.1
# A tone that holds through the window is narrow: so many bins beside its peak little of it is left. A hit, a glide
# or noise is as wide as it is short. A peak keeps so much of its strength whatever its width.
BESIDE = 4
WIDE_COUNTS = 0.2
LOUDNESS_COUNTS = 0.8  # exponent of the strength: one loud voice must not drown the chords
MIN_TUNING = 0.1  # length of the mean direction of all peaks, below which there is no common tuning
SILENCE_DB = -60.0
# How much of a piece in a key falls on each degree, from the tonic up. No one of these is best everywhere, so all
# vote: Krumhansl and Kessler 1982; Temperley 1999 and 2007; Aarden 2003; Albrecht and Shanahan 2013; Faraldo et al.
# 2016 (the one for electronic music).
PROFILES = {
    "major": (
        (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
        (5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0),
        (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400),
        (17.766, 0.146, 14.927, 0.160, 19.805, 11.359, 0.291, 22.062, 0.146, 8.155, 0.233, 4.951),
        (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
        (0.165, 0.047, 0.083, 0.067, 0.100, 0.093, 0.053, 0.132, 0.052, 0.074, 0.069, 0.064),
    ),
    "minor": (
        (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
        (5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0),
        (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330),
        (18.265, 0.738, 14.050, 16.860, 0.702, 14.436, 0.702, 18.616, 4.566, 1.932, 7.376, 1.756),
        (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
        (0.172, 0.053, 0.076, 0.100, 0.056, 0.085, 0.050, 0.135, 0.075, 0.050, 0.092, 0.055),
    ),
}

# Added to the scores of minor keys, which their relative major keys outdo too often; set on rendered songs whose keys
# are known (docs/explanation/automix.md says which)
MINOR_BONUS = 0.04


def chroma(signal: Samples, sample_rate: int) -> tuple[float, ...]:
    """Twelve shares from C to B that sum to 1, with each frame counted by its loudness; empty for silence.

    Of a signal (T,) or (C, T).
    """
    return shares(chromagram(signal, sample_rate)[0])


def shares(chroma_ND: Array) -> tuple[float, ...]:
    """A chromagram's twelve shares over its whole length; empty when there is no tone in it."""
    total = chroma_ND.sum(axis=0)
    if total.sum() <= 0.0:
        return ()
    return tuple(round(float(share), 6) for share in total / total.sum())


# librosa's chroma_stft takes 2.8 times as long and chroma_cqt 5.3 times; keys of 13 rendered songs score 0.53 with the
# first and 0.69 with the second, 0.86 with this.
def chromagram(signal: Samples, sample_rate: int) -> tuple[Array, float]:
    """Pitch class strength per 0.19 s frame, (N, 12), and the track's tuning in cents from A = 440 Hz (-50 to 50).

    Of a signal (T,) or (C, T).
    """
    if not exceeds(signal, SILENCE_DB):
        return np.zeros((0, 12)), 0.0
    frame, pitch, strength, total = _peaks(resampled(signal, sample_rate, ANALYSIS_RATE))
    if pitch.size == 0:
        return np.zeros((total, 12)), 0.0
    mean = np.sum(strength * np.exp(2j * np.pi * pitch)) / strength.sum()
    turn = float(np.angle(mean)) / (2 * np.pi) if abs(mean) >= MIN_TUNING else 0.0
    tuned = pitch - turn
    nearest = np.round(tuned)
    fit = np.square(np.cos(np.pi * (tuned - nearest)))
    place = nearest.astype(np.int64) - LOWEST
    width = HIGHEST - LOWEST + 1
    known = (place >= 0) & (place < width)
    weights = (strength * fit)[known]
    counts = np.bincount(frame[known] * width + place[known], weights, total * width)
    scale_ND = counts.reshape(total, width).astype(np.float64)
    tones_ND = _tones(scale_ND)
    midi = LOWEST + np.arange(width)
    classes_ND = np.eye(12)[midi % 12] * np.clip((FADE[1] - midi) / (FADE[1] - FADE[0]), 0.0, 1.0)[:, None]
    halves = [part @ classes_ND for part in (scale_ND, tones_ND)]
    level = float(halves[0].sum())
    return np.asarray(halves[0] + halves[1] * level / max(float(halves[1].sum()), 1e-12)), 100.0 * turn


def _tones(scale_ND: Array) -> Array:
    """Strengths of the tones, (N, D), whose sums with all their overtones come nearest to the peaks, (N, D)."""
    spectra_DD = _overtones()
    wanted_ND = scale_ND @ spectra_DD.T
    overlap_DD = spectra_DD @ spectra_DD.T
    tones_ND = np.maximum(wanted_ND, 1e-9)
    for _ in range(TURNS):
        tones_ND *= wanted_ND / (tones_ND @ overlap_DD + 1e-9)
    return tones_ND


@lru_cache(maxsize=1)
def _overtones() -> Array:
    """Row by row, how the strength of one tone spreads over the semitone scale; each row sums to 1."""
    width = HIGHEST - LOWEST + 1
    spectra_DD = np.zeros((width, width))
    for number in range(1, OVERTONES + 1):
        above = round(12 * float(np.log2(number)))
        spectra_DD += DECAY ** (number - 1) * np.eye(width, k=above)
    return np.asarray(spectra_DD / spectra_DD.sum(axis=1, keepdims=True))


# librosa.piptrack takes 3 times as long.
def _peaks(samples_CT: Samples) -> tuple[NDArray[np.int64], Array, Array, int]:
    """Spectral peaks: frame, pitch in MIDI numbers, strength; and the number of frames."""
    padded_CT = np.pad(samples_CT, ((0, 0), (WINDOW // 2, WINDOW // 2 + max(0, WINDOW - samples_CT.shape[1]))))
    window_T = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    low, high = (440.0 * 2.0 ** ((midi - 69.0) / 12.0) * WINDOW / ANALYSIS_RATE for midi in (LOWEST - 1, HIGHEST + 1))
    first, last = int(low), int(high) + 2
    found: list[tuple[NDArray[np.int64], Array, Array]] = []
    total = 0
    for magnitude_NF in magnitudes(padded_CT, window_T, HOP, block=256):
        spectrum_NF = magnitude_NF[:, first - 1 : last + 1]
        left, center, right = spectrum_NF[:, :-2], spectrum_NF[:, 1:-1], spectrum_NF[:, 2:]
        loud = center > 0.005 * center.max(axis=1, keepdims=True) + 1e-4
        clear = center > CLEAR_PEAK * np.minimum(left, right)
        frame, column = np.nonzero((center > left) & (center >= right) & loud & clear)
        at = (frame, column)
        below, top, above = (np.log(part[at].astype(np.float64) + 1e-9) for part in (left, center, right))
        offset = 0.5 * (below - above) / np.minimum(below - 2.0 * top + above, -1e-9)
        hertz = (first + column + offset) * ANALYSIS_RATE / WINDOW
        height = np.exp(top - 0.25 * (below - above) * offset)
        strength = (height * _steadiness(magnitude_NF, frame, first + column, height)) ** LOUDNESS_COUNTS
        found.append((frame + total, 69.0 + 12.0 * np.log2(hertz / 440.0), strength))
        total += spectrum_NF.shape[0]
    frame_all, pitch_all, strength_all = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return frame_all, pitch_all, strength_all, total


def _steadiness(magnitude_NF: Samples, frame: NDArray[np.int64], column: NDArray[np.int64], height: Array) -> Array:
    """How much each peak counts by its width: 1 for a steady tone, `WIDE_COUNTS` for what is flat around it."""
    beside = np.sqrt(
        0.5 * sum(np.square(magnitude_NF[frame, column + step], dtype=np.float64) for step in (-BESIDE, BESIDE))
    )
    return WIDE_COUNTS + (1.0 - WIDE_COUNTS) * np.clip(1.0 - 2.0 * beside / height, 0.0, 1.0)


def key(chroma_D: Sequence[float]) -> tuple[str, float]:
    """The key as "A minor", and how far it stands above the best unrelated one, 0 to 1; ("", 0) for no chroma.

    The relative and the parallel key are not counted as rivals: they share the tones that a transposition
    must match.
    """
    if not len(chroma_D) or np.ptp(chroma_D) == 0.0:
        return "", 0.0
    centered = np.asarray(chroma_D) - np.mean(chroma_D)
    scores_KD = _key_templates() @ (centered / np.linalg.norm(centered))
    scores_KD[12:] += MINOR_BONUS
    best = int(np.argmax(scores_KD))
    if scores_KD[best] <= 0.0:
        return "", 0.0
    tonic, mode = best % 12, MODES[best // 12]
    other = 12 - 12 * (best // 12)  # where the keys of the other mode begin
    relatives = [best, other + tonic, other + (tonic + (9 if mode == "major" else 3)) % 12]
    rival = float(np.delete(scores_KD, relatives).max())
    return f"{PITCHES[tonic]} {mode}", round(float(np.clip(2.0 * (scores_KD[best] - rival), 0.0, 1.0)), 4)


@lru_cache(maxsize=1)
def _key_templates() -> Array:
    """Mean of the centered, normed profiles of the 12 major keys from C on, then of the 12 minor ones; (24, 12)."""
    rows = []
    for mode in MODES:
        centered = np.array(PROFILES[mode]) - np.mean(PROFILES[mode], axis=1, keepdims=True)
        mean = (centered / np.linalg.norm(centered, axis=1, keepdims=True)).mean(axis=0)
        rows += [np.roll(mean, tonic) for tonic in range(12)]
    return np.array(rows)


def semitone_distance(chroma_a: Sequence[float], chroma_b: Sequence[float], max_semitones: int) -> tuple[int, float]:
    """The transposition of b, within the limit, that brings it nearest to a; and the L1 distance left, 0 to 2.

    Of equally good ones the smallest wins. Where either has no chroma nothing can clash: (0, 0.0).
    """
    if not len(chroma_a) or not len(chroma_b):
        return 0, 0.0
    shifts = np.array(sorted(range(-max_semitones, max_semitones + 1), key=lambda shift: (abs(shift), shift)))
    turned = np.asarray(chroma_b)[(np.arange(12) - shifts[:, None]) % 12]
    distances = np.abs(turned - np.asarray(chroma_a)).sum(axis=1)
    best = int(np.argmin(distances))
    return int(shifts[best]), float(distances[best])
