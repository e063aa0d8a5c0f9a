"""What a studio does to a stem: drive, colour, rooms, echoes and doubled takes, each drawn per song."""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt

from datasets.corpus.synthetic.synthesis import highpass


def lowpass(sound_T: NDArray[np.float64], cutoff_hz: float, sample_rate: int) -> NDArray[np.float64]:
    sos = butter(2, min(cutoff_hz, 0.45 * sample_rate), "lowpass", fs=sample_rate, output="sos")
    return np.asarray(sosfilt(sos, sound_T))


def bandpass(sound_T: NDArray[np.float64], low_hz: float, high_hz: float, sample_rate: int) -> NDArray[np.float64]:
    return lowpass(highpass(sound_T, low_hz, sample_rate), high_hz, sample_rate)


def drive(sound_CT: NDArray[np.float64], gain_db: float) -> NDArray[np.float64]:
    """The sound pushed into a soft limit, by so much above its own RMS; its RMS stays."""
    rms = float(np.sqrt(np.mean(np.square(sound_CT)))) + 1e-12
    limited_CT = np.tanh(10.0 ** (gain_db / 20.0) * 0.3 * sound_CT / rms)
    return np.asarray(limited_CT * (rms / (float(np.sqrt(np.mean(np.square(limited_CT)))) + 1e-12)))


def colour(
    sound_CT: NDArray[np.float64], rng: np.random.Generator, sample_rate: int, *, spread_db: float
) -> NDArray[np.float64]:
    """Through a smooth equalizer whose gain is drawn for each octave above 40 Hz."""
    octaves = np.arange(0.0, np.log2(0.5 * sample_rate / 40.0) + 1.0)
    gains_db = rng.normal(0.0, spread_db, size=octaves.shape)
    frequencies_hz = np.fft.rfftfreq(sound_CT.shape[-1], 1.0 / sample_rate)
    place_F = np.clip(np.log2(np.maximum(frequencies_hz, 1.0) / 40.0), 0.0, octaves[-1])
    gain_F = 10.0 ** (np.interp(place_F, octaves, gains_db) / 20.0)
    return np.asarray(np.fft.irfft(np.fft.rfft(sound_CT) * gain_F, sound_CT.shape[-1]))


def reverberate(
    dry_CT: NDArray[np.float64], rng: np.random.Generator, sample_rate: int, *, wet: float, decay_s: float
) -> NDArray[np.float64]:
    """With the diffuse tail of a room beside it, unlike left and right; `wet` is the ratio of their RMS."""
    t = np.arange(round(decay_s * sample_rate)) / sample_rate
    tail_CT = rng.standard_normal((2, t.size)) * 10.0 ** (-3.0 * t / decay_s)
    tail_CT = bandpass(tail_CT, rng.uniform(80.0, 300.0), rng.uniform(2500.0, 9000.0), sample_rate)
    tail_CT *= wet / np.sqrt(np.square(tail_CT).sum(axis=1, keepdims=True))
    delay = round(rng.uniform(0.0, 0.03) * sample_rate)
    wet_CT = dry_CT.copy()
    wet_CT[:, delay:] += fftconvolve(dry_CT, tail_CT, axes=1)[:, : dry_CT.shape[1] - delay]
    return wet_CT


def echo(
    dry_CT: NDArray[np.float64], delay_s: float, sample_rate: int, *, feedback: float, repeats: int = 4
) -> NDArray[np.float64]:
    """With repeats, each quieter by `feedback` and on the other side."""
    wet_CT = dry_CT.copy()
    for number in range(1, repeats + 1):
        delay = round(number * delay_s * sample_rate)
        if delay < dry_CT.shape[1]:
            sides = dry_CT[::-1] if number % 2 else dry_CT
            wet_CT[:, delay:] += feedback**number * sides[:, : dry_CT.shape[1] - delay]
    return wet_CT


def take(mono_T: NDArray[np.float64], rng: np.random.Generator, sample_rate: int) -> NDArray[np.float64]:
    """The sound as if played again: a little later, by a delay that wanders, and so a little out of tune."""
    t = np.arange(mono_T.size) / sample_rate
    wander_s = rng.uniform(0.001, 0.004) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.9) * t + rng.uniform()))
    places_T = np.clip((t - rng.uniform(0.01, 0.03) - wander_s) * sample_rate, 0.0, mono_T.size - 1.0)
    whole_T = places_T.astype(np.int64)
    part_T = places_T - whole_T
    return np.asarray((1 - part_T) * mono_T[whole_T] + part_T * mono_T[np.minimum(whole_T + 1, mono_T.size - 1)])


def doubled(
    mono_T: NDArray[np.float64], rng: np.random.Generator, sample_rate: int, *, width: float
) -> NDArray[np.float64]:
    """Two takes, one to each side as far as `width` (0: both in the middle, 1: hard left and right); (2, T)."""
    takes_CT = np.stack([take(mono_T, rng, sample_rate) for _ in range(2)])
    return np.asarray((1 + width) / 2 * takes_CT + (1 - width) / 2 * takes_CT[::-1])
