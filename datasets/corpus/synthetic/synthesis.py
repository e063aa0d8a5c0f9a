"""What all players need: tracks to mix into, panning, filters, and wavetables that play notes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from datasets.corpus.synthetic.composition import NoteEvent


def pan(mono_T: NDArray[np.float64], position: float) -> NDArray[np.float64]:
    """Equal-power panning; -1 is left, 1 is right."""
    angle = (position + 1.0) * np.pi / 4.0
    left_right = np.array([[np.cos(angle)], [np.sin(angle)]]) * np.sqrt(2.0)
    return np.asarray(left_right * mono_T)


def add(track_T: NDArray[np.float64], start: int, sound_T: NDArray[np.float64]) -> None:
    """Mix a sound into a track in place; what lies beyond the end is dropped."""
    end = min(start + sound_T.shape[0], track_T.shape[0])
    if start < end:
        track_T[start:end] += sound_T[: end - start]


def highpass(noise_T: NDArray[np.float64], cutoff_hz: float, sample_rate: int) -> NDArray[np.float64]:
    sos = butter(2, min(cutoff_hz, 0.35 * sample_rate), "highpass", fs=sample_rate, output="sos")
    return np.asarray(sosfilt(sos, noise_T))


def soften(noise_T: NDArray[np.float64], cutoff_hz: float, sample_rate: int) -> NDArray[np.float64]:
    """Noise that falls by 6 dB per octave above a frequency, as that of real drums and consonants does."""
    sos = butter(1, min(cutoff_hz, 0.35 * sample_rate), "lowpass", fs=sample_rate, output="sos")
    return np.asarray(sosfilt(sos, noise_T))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timbre:
    """A voice of two wavetables, one always sounding and a brighter one that dies away."""

    tilt: float  # amplitude of harmonic h is h ** -tilt
    odd: float  # 0 keeps all harmonics, 1 only the odd ones
    bright: float  # share of the bright table at the attack
    bright_s: float  # time in which it falls to 1/e
    attack_s: float
    decay_s: float  # time in which a held note falls to 1/e
    release_s: float
    detune_cents: float = 0.0


def wavetable(midi: float, tilt: float, odd: float, sample_rate: int) -> NDArray[np.float64]:
    """One period with every harmonic below 90 % of half the sample rate (at most 48), of unit RMS."""
    length = 4096
    num_harmonics = int(np.clip(0.45 * sample_rate / hertz(midi), 1, 48))
    harmonics = np.arange(1, num_harmonics + 1)
    amplitudes = harmonics**-tilt * np.where(harmonics % 2 == 0, 1.0 - odd, 1.0)
    spectrum = np.zeros(length // 2 + 1, dtype=complex)
    # Phases that grow with the square of the harmonic keep the crest factor low (Schroeder 1970).
    spectrum[1 : num_harmonics + 1] = amplitudes * np.exp(-1j * np.pi * harmonics**2 / num_harmonics)
    table = np.fft.irfft(spectrum)
    return np.asarray(table / np.sqrt(np.mean(table**2)))


def hertz(midi: float) -> float:
    return float(440.0 * 2.0 ** ((midi - 69.0) / 12.0))


def play(notes: list[NoteEvent], timbre: Timbre, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    track_T = np.zeros(num_samples)
    for note in notes:
        held = max(1, round(note.duration_s * sample_rate))
        t = np.arange(held + round(4 * timbre.release_s * sample_rate)) / sample_rate
        midi = note.midi + timbre.detune_cents / 100.0
        dark = wavetable(midi, timbre.tilt + 0.8, timbre.odd, sample_rate)
        bright = wavetable(midi, timbre.tilt, timbre.odd, sample_rate)
        index = ((hertz(midi) * t + 0.618 * note.midi) % 1.0 * dark.shape[0]).astype(np.int32)
        share_T = timbre.bright * np.exp(-t / timbre.bright_s)
        envelope_T = np.minimum(1.0, t / timbre.attack_s) * np.exp(-t / timbre.decay_s)
        envelope_T[held:] *= np.exp(-(t[held:] - t[held - 1]) / timbre.release_s)
        sound_T = note.velocity * envelope_T * ((1.0 - share_T) * dark[index] + share_T * bright[index])
        add(track_T, round(note.start_s * sample_rate), sound_T)
    return track_T
