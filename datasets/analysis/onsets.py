"""How much the sound grows in each 5 ms frame: what `beats.py` and `downbeats.py` find beats and bars in.

One short-time spectrum of the signal, and out of it three envelopes. Everything is batched float32; there is no
loop over frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from datasets.analysis.spectra import magnitudes, resampled
from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]

ANALYSIS_RATE = 22050
HOP = 110  # 5 ms
WINDOW = 512  # 23 ms
FRAMES_PER_S = ANALYSIS_RATE / HOP
NUM_BANDS = 40
LOW = slice(1, 4)  # bins of 43 Hz: 43 to 172 Hz
HIGH = slice(6, None)  # from 258 Hz on
# An onset that grows within one frame lifts the envelope most about this long before its first sample, because
# the window is centered and the spectrum is on a log scale. Measured on clicks; see the test.
ONSET_DELAY_S = 0.008
# A steady tone's level wavers by this much from frame to frame; without a floor its ripple is as regular as a beat.
RIPPLE, RIPPLE_OF_LOG = 0.02, 0.002
REACH = int(0.03 * FRAMES_PER_S)  # an onset this near is one on the beat


@dataclass(frozen=True, slots=True, kw_only=True)
class Onsets:
    """Envelopes of shape (N,), above their mean over the half second around, in units of their own deviation."""

    all_N: Array  # rise of the log-mel spectrum: every instrument counts alike
    low_N: Array  # rise of the amplitude below 172 Hz: kick drum and bass
    high_N: Array  # rise of the amplitude above 258 Hz: what is loudest of the rest, the snare drum where there is one


def onset_envelopes(signal: Samples, sample_rate: int) -> Onsets:
    """The onsets of a signal (T,) or (C, T) of any sample rate, 200 frames per second."""
    samples_CT = resampled(signal, sample_rate, ANALYSIS_RATE)
    mel_NF, amplitude_N2 = (np.concatenate(parts) for parts in zip(*_spectra(samples_CT), strict=True))
    level = float(np.percentile(mel_NF, 99)) + 1e-12
    log_NF = np.log1p(np.float32(1000.0 / level) * mel_NF)
    # Two frames apart, against the louder of the neighbouring bands: vibrato and glides do not count as onsets
    # (Böck and Widmer, "Maximum filter vibrato suppression", DAFx 2013).
    widest_NF = log_NF[:-2].copy()  # a filter of scipy's takes four times as long
    np.maximum(widest_NF[:, 1:], log_NF[:-2, :-1], out=widest_NF[:, 1:])
    np.maximum(widest_NF[:, :-1], log_NF[:-2, 1:], out=widest_NF[:, :-1])
    rise_N = np.zeros(log_NF.shape[0])
    rise_N[1:-1] = np.maximum(0.0, np.maximum(0.0, log_NF[2:] - widest_NF).mean(axis=1) - RIPPLE_OF_LOG)
    growth_N2 = np.zeros(amplitude_N2.shape)
    growth_N2[4:] = np.maximum(0.0, amplitude_N2[4:] - (1.0 + RIPPLE) * amplitude_N2[:-4])
    low_N, high_N = np.sqrt(growth_N2).T
    return Onsets(all_N=_contrast(rise_N), low_N=_contrast(low_N), high_N=_contrast(high_N))


# librosa 0.11 (stft, filters.mel) takes 1.6 times as long for this; with its mel bank beats are as good or 0.003 worse.
def _spectra(samples_CT: Samples) -> Iterator[tuple[Samples, Samples]]:
    """Mel magnitudes (N, bands), and amplitudes of the low and the high part (N, 2), block by block."""
    padded_CT = np.pad(samples_CT, ((0, 0), (WINDOW // 2, WINDOW // 2)))
    window_T = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    for magnitude_NF in magnitudes(padded_CT, window_T, HOP, block=512):
        parts = [np.einsum("nf,nf->n", magnitude_NF[:, part], magnitude_NF[:, part]) for part in (LOW, HIGH)]
        yield magnitude_NF @ _mel_bank(), np.sqrt(np.stack(parts, axis=1))


@lru_cache(maxsize=1)
def _mel_bank() -> Samples:
    """Triangles of unit sum, evenly spaced on O'Shaughnessy's mel scale between 30 Hz and 7.6 kHz."""
    low_mel, high_mel = (2595.0 * float(np.log10(1.0 + hertz / 700.0)) for hertz in (30.0, 7600.0))
    edges_mel = np.linspace(low_mel, high_mel, NUM_BANDS + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.arange(WINDOW // 2 + 1) * ANALYSIS_RATE / WINDOW
    width_hz = np.maximum(np.diff(edges_hz), ANALYSIS_RATE / WINDOW)
    rising = (bins_hz[:, None] - edges_hz[:-2]) / width_hz[:-1]
    falling = (edges_hz[2:] - bins_hz[:, None]) / width_hz[1:]
    bank_FD = np.maximum(0.0, np.minimum(np.minimum(rising, falling), 1.0))
    return np.asarray(bank_FD / (bank_FD.sum(axis=0) + 1e-12), dtype=np.float32)


def _contrast(envelope_N: Array) -> Array:
    from scipy.ndimage import uniform_filter1d

    width = int(0.5 * FRAMES_PER_S) | 1
    above_N = np.maximum(0.0, envelope_N - uniform_filter1d(envelope_N, width, mode="nearest"))
    deviation = float(above_N.std())
    return np.asarray(above_N / deviation if deviation > 0.0 else above_N)


def widened(envelope_N: Array) -> Array:
    """The largest value within 30 ms of each frame."""
    from scipy.ndimage import maximum_filter1d

    return np.asarray(maximum_filter1d(envelope_N, 2 * REACH + 1, mode="constant"))


def strength_at(widened_N: Array, places: Array) -> Array:
    """A widened envelope at fractional frames, any shape (..., N); capped so that one crash does not decide the bar."""
    frames = np.clip(np.round(places).astype(np.int64), 0, widened_N.shape[0] - 1)
    strength = widened_N[frames]
    rank = 0.9 * (strength.shape[-1] - 1)  # np.percentile takes several times as long over a few beats
    below, above = int(rank), min(int(rank) + 1, strength.shape[-1] - 1)
    ordered = np.partition(strength, (below, above), axis=-1)
    cap = ordered[..., below] + (rank - below) * (ordered[..., above] - ordered[..., below])
    return np.asarray(np.minimum(strength, cap[..., None]))
