"""Beats and chroma of a song by librosa: the published recipe of Demucs' automix, `analyze.method=librosa`.

librosa's beat tracker (Ellis 2007) on the drums, and how often each pitch class is the loudest of librosa's constant-Q
chroma of the pitched stems. The recipe takes the bass for those and is refused without drums or bass; here all stems
that are neither drums nor vocals count, since all are transposed, and a song without drums has no beats. It names no
downbeats and no confidence: confidences are made from the onsets.
"""

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from datasets.analysis.beats import NO_BEATS, Beats, tempo_of
from datasets.audio.audio_types import Samples
from datasets.errors import InputError

Array = NDArray[np.float64]

RATE = 44100  # the recipe's
HOP = 512  # 12 ms
SILENCE = 0.01  # of the mixture's standard deviation
SOUNDING = 0.05  # of the largest RMS over `RMS_WINDOW` samples
RMS_WINDOW = 10001


def beats_and_chroma(
    drums_T: Samples, pitched_T: Samples, mixture_T: Samples, sample_rate: int
) -> tuple[Beats, tuple[float, ...], float]:
    """Beats, twelve shares of pitch classes from C (empty where nothing is pitched), and the tuning in cents."""
    if mixture_T.size < sample_rate or not np.any(mixture_T):
        return NO_BEATS, (), 0.0
    drums_T, pitched_T, mixture_T = (
        soxr.resample(np.asarray(signal_T, dtype=np.float32), sample_rate, RATE)
        for signal_T in (drums_T, pitched_T, mixture_T)
    )
    level = float(mixture_T.std())
    start = int(np.argmax(np.abs(mixture_T) >= SILENCE * level))
    if mixture_T.size - start < RATE:
        return NO_BEATS, (), 0.0
    pulse = _beats(drums_T[start:], start / RATE) if drums_T.std() > SILENCE * level else NO_BEATS
    chroma, tuning_cents = _chroma(_without_rests(pitched_T[start:]), SILENCE * level)
    return pulse, chroma, tuning_cents


def _beats(drums_T: Samples, start_s: float) -> Beats:
    librosa = _librosa()
    onset_N = librosa.onset.onset_strength(y=drums_T, sr=RATE, hop_length=HOP)
    _, frames = librosa.beat.beat_track(onset_envelope=onset_N, sr=RATE, hop_length=HOP)
    if len(frames) < 3:
        return NO_BEATS
    times_s = frames * (HOP / RATE) + start_s
    return Beats(
        tempo_bpm=round(tempo_of(times_s), 4),
        confidence=round(_repetition(onset_N, float(np.median(np.diff(frames)))), 4),
        phase_confidence=round(_on_the_beat(onset_N, frames), 4),
        beats_s=tuple(round(float(time), 5) for time in times_s),
        downbeats_s=(),
        downbeat_confidence=0.0,
    )


def _repetition(onset_N: Array, period: float) -> float:
    """The autocorrelation of the onsets at a beat, 0 to 1."""
    lean_N = onset_N - onset_N.mean()
    correlation = _librosa().autocorrelate(lean_N, max_size=int(period) + 3)
    return float(np.clip(correlation[round(period)] / max(float(correlation[0]), 1e-12), 0.0, 1.0))


def _on_the_beat(onset_N: Array, frames: NDArray[np.int64]) -> float:
    """How much stronger onsets are on the beats than halfway between them, as a chance, 0 to 1.

    The exponent puts the five of 33 songs with known beats that were half a beat off below 0.8, and three others.
    """
    near_N = np.maximum(np.maximum(onset_N, np.roll(onset_N, 1)), np.roll(onset_N, -1))
    on, between = (float(np.square(near_N[at]).mean()) for at in (frames, (frames[1:] + frames[:-1]) // 2))
    return float(on**1.5 / max(on**1.5 + between**1.5, 1e-12))


def _without_rests(signal_T: Samples) -> Samples:
    """The parts that sound, one after the other."""
    from scipy.ndimage import uniform_filter1d

    power_T = uniform_filter1d(np.square(signal_T, dtype=np.float64), RMS_WINDOW, mode="constant")
    return np.asarray(signal_T[power_T >= SOUNDING**2 * power_T.max()])


def _chroma(signal_T: Samples, silence: float) -> tuple[tuple[float, ...], float]:
    if signal_T.size < RMS_WINDOW or signal_T.std() <= silence:
        return (), 0.0
    librosa = _librosa()
    tuning = float(librosa.estimate_tuning(y=signal_T, sr=RATE))
    chroma_DN = librosa.feature.chroma_cqt(y=signal_T, sr=RATE, hop_length=HOP, tuning=tuning)
    loudest_D = (chroma_DN >= chroma_DN.max(axis=0)).sum(axis=1)
    return tuple(round(float(share), 6) for share in loudest_D / loudest_D.sum()), 100.0 * tuning


def _librosa() -> Any:
    """librosa, which compiles for some 20 s where it was never used before: only who asks for it waits."""
    try:
        import librosa
    except ImportError as error:
        raise InputError(
            f'analyze.method="librosa" needs librosa: {error}; install it, or use analyze.method="stemline"'
        ) from None
    return librosa
