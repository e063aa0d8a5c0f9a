"""Chroma, key, and how many semitones lie between two tracks; read `mixplan.py` next.

Spectral peaks, not bins, are folded into the twelve pitch classes: their interpolated frequency gives the
tuning of the whole track in one pass, and then each peak's class.
"""

from collections.abc import Sequence

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]
Samples = NDArray[np.float32]

PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES = ("major", "minor")

ANALYSIS_RATE = 11025
WINDOW = 8192  # 0.74 s: bass tones a semitone apart must not merge
HOP = 2048
LOWEST_HZ, HIGHEST_HZ = 55.0, 1400.0  # higher up, overtones outnumber fundamentals
SILENCE_DB = -60.0
# How much of a piece in a key falls on each degree, from the tonic up (Albrecht and Shanahan, "The use of large
# corpora to train a new type of key-finding algorithm", Music Perception 31, 2013).
PROFILES = {
    "major": (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    "minor": (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
}


def chroma(signal_T: Samples, sample_rate: int) -> tuple[float, ...]:
    """Twelve shares from C to B that sum to 1, with each frame counted by its loudness; empty for silence."""
    chroma_ND, _ = chromagram(signal_T, sample_rate)
    total = chroma_ND.sum(axis=0)
    if total.sum() <= 0.0:
        return ()
    return tuple(round(float(share), 6) for share in total / total.sum())


def chromagram(signal_T: Samples, sample_rate: int) -> tuple[Array, float]:
    """Pitch class strength per 0.19 s frame, (N, 12), and the track's tuning in cents from A = 440 Hz (-50 to 50)."""
    if signal_T.size == 0 or not np.any(np.abs(signal_T) > 10.0 ** (SILENCE_DB / 20.0)):
        return np.zeros((0, 12)), 0.0
    mono_T = soxr.resample(np.asarray(signal_T, dtype=np.float32), sample_rate, ANALYSIS_RATE)
    frame, pitch, strength, total = _peaks(mono_T)
    if pitch.size == 0:
        return np.zeros((total, 12)), 0.0
    turn = np.angle(np.sum(strength * np.exp(2j * np.pi * pitch))) / (2 * np.pi)
    chroma_ND = np.zeros((total, 12))
    tuned = pitch - turn
    nearest = np.round(tuned)
    fit = np.square(np.cos(np.pi * (tuned - nearest)))
    np.add.at(chroma_ND, (frame, nearest.astype(np.int64) % 12), strength * fit)
    return chroma_ND, float(100.0 * turn)


def _peaks(mono_T: Samples) -> tuple[NDArray[np.int64], Array, Array, int]:
    """Spectral peaks: frame, pitch in MIDI numbers, strength; and the number of frames."""
    padded_T = np.pad(mono_T, (WINDOW // 2, WINDOW // 2 + max(0, WINDOW - mono_T.size)))
    frames_NT = sliding_window_view(padded_T, WINDOW)[::HOP]
    window_T = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    low = int(LOWEST_HZ * WINDOW / ANALYSIS_RATE)
    high = int(HIGHEST_HZ * WINDOW / ANALYSIS_RATE) + 2
    found: list[tuple[NDArray[np.int64], Array, Array]] = []
    for start in range(0, frames_NT.shape[0], 256):  # bounded memory for hour-long tracks
        spectrum_NF = np.abs(np.fft.rfft(frames_NT[start : start + 256] * window_T, axis=1))[:, low - 1 : high + 1]
        left, center, right = spectrum_NF[:, :-2], spectrum_NF[:, 1:-1], spectrum_NF[:, 2:]
        loud = center > 0.01 * center.max(axis=1, keepdims=True) + 1e-4
        frame, column = np.nonzero((center > left) & (center >= right) & loud)
        at = (frame, column)
        below, top, above = (np.log(part[at] + 1e-9) for part in (left, center, right))
        offset = 0.5 * (below - above) / np.minimum(below - 2.0 * top + above, -1e-9)
        hertz = (low + column + offset) * ANALYSIS_RATE / WINDOW
        found.append((frame + start, 69.0 + 12.0 * np.log2(hertz / 440.0), center[at]))
    frame_all, pitch_all, strength_all = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return frame_all, pitch_all, strength_all, frames_NT.shape[0]


def key(chroma_D: Sequence[float]) -> tuple[str, float]:
    """The key as "A minor", and how far it stands above the best unrelated one, 0 to 1; ("", 0) for no chroma.

    The relative and the parallel key are not counted as rivals: they share the tones that a transposition
    must match.
    """
    if not len(chroma_D):
        return "", 0.0
    scores = {
        (tonic, mode): float(np.corrcoef(np.roll(PROFILES[mode], tonic), chroma_D)[0, 1]) if np.ptp(chroma_D) else 0.0
        for mode in MODES
        for tonic in range(12)
    }
    (tonic, mode), best = max(scores.items(), key=lambda item: item[1])
    if best <= 0.0:
        return "", 0.0
    relative = ((tonic + (9 if mode == "major" else 3)) % 12, MODES[mode == "major"])
    parallel = (tonic, relative[1])
    rivals = [score for name, score in scores.items() if name not in ((tonic, mode), relative, parallel)]
    return f"{PITCHES[tonic]} {mode}", round(float(np.clip(2.0 * (best - max(rivals)), 0.0, 1.0)), 4)


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
