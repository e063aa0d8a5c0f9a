"""A voice: a melody of syllables, sung as pulses through formants."""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from datasets.corpus.synthetic.composition import SCALES, Composition, NoteEvent, step_times
from datasets.corpus.synthetic.synthesis import add, highpass, pan, soften, wavetable

# The first three formants in Hz, after Peterson and Barney's means for men (JASA 24, 1952), rounded.
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
# Above them, of every vowel; gains by the octave bands of eight real singers (docs/log.md).
HIGH_FORMANTS_HZ = (3300, 4500, 6500)
FORMANT_BANDWIDTHS_HZ = (70, 90, 130, 250, 400, 700)
FORMANT_GAINS = (1.0, 1.3, 0.8, 0.8, 0.7, 0.7)
DIRECT = 0.08  # of the pulses that pass beside the formants


def sing(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """A pulse train through formants that change with each syllable, with vibrato, breath and consonants."""
    syllables = _melody(score, rng)
    pitch_T, level_T, onsets = _contours(syllables, rng, num_samples, sample_rate)
    phase_T = np.cumsum(440.0 * 2.0 ** ((pitch_T - 69.0) / 12.0)) / sample_rate
    table = wavetable(float(pitch_T.max()) + 0.5, 1.0, 0.0, sample_rate)
    pulses_T = table[((phase_T % 1.0) * table.shape[0]).astype(np.int32)]
    breath_T = rng.standard_normal(num_samples)
    voiced_T = pulses_T + rng.uniform(0.02, 0.06) * breath_T
    size = rng.uniform(1.0, 1.2)  # shorter vocal tracts have higher formants
    names = sorted(VOWELS)
    spoken = rng.integers(len(names), size=len(syllables))
    sung_T = np.zeros(num_samples)
    for number in np.unique(spoken):
        weight_T = _vowel_weight(onsets, spoken == number, num_samples, sample_rate)
        sung_T += weight_T * _formants(voiced_T, (*VOWELS[names[number]], *HIGH_FORMANTS_HZ), size, sample_rate)
    sung_T += DIRECT * voiced_T
    sung_T = level_T * sung_T / (np.sqrt(np.mean(sung_T**2)) + 1e-12)
    return pan(sung_T + _consonants(onsets, rng, num_samples, sample_rate), rng.uniform(-0.1, 0.1))


def _melody(score: Composition, rng: np.random.Generator) -> list[NoteEvent]:
    """Phrases of syllables on scale steps near the chord, each two bars long and followed by a rest."""
    step_s, num_bars = step_times(score)
    scale = SCALES[score.mode]
    center = 56 + (score.tonic - 8) % 12 - int(rng.choice((0, 12)))
    degree, notes, step = int(rng.integers(0, 5)), [], int(rng.choice((0, 2, 4)))
    while step < 16 * num_bars:
        length = int(rng.choice((2, 2, 3, 4, 4, 6, 8)))
        if step % 32 >= 26:
            step = (step // 32 + 1) * 32 + int(rng.choice((0, 2)))
            continue
        root = next(index for index, tone in enumerate(scale) if tone == score.chords[step // 16][0] % 12)
        near = [root + offset for offset in (-7, -5, -3, 0, 2, 4) if abs(root + offset - degree) <= 4]
        degree = int(rng.choice(near)) if near and step % 8 == 0 else int(np.clip(degree + rng.integers(-2, 3), -3, 8))
        midi = center + scale[degree % 7] + 12 * (degree // 7)
        start_s = score.first_beat_s + step * step_s
        duration_s = (length - 0.4) * step_s
        notes.append(NoteEvent(start_s=start_s, duration_s=duration_s, midi=midi, velocity=rng.uniform(0.75, 1.0)))
        step += length
    return notes


def _contours(
    syllables: list[NoteEvent], rng: np.random.Generator, num_samples: int, sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Pitch in MIDI numbers and loudness, both (T,), and the sample at which each syllable begins."""
    onsets = np.array([round(note.start_s * sample_rate) for note in syllables], dtype=np.int64)
    midi = np.array([note.midi for note in syllables])
    sounding = np.clip(np.searchsorted(onsets, np.arange(num_samples), side="right") - 1, 0, None)
    glide = np.exp(-1.0 / (0.03 * sample_rate))
    pitch_T = lfilter([1.0 - glide], [1.0, -glide], midi[sounding] - midi[0]) + midi[0]
    t = np.arange(num_samples) / sample_rate
    since_onset_s = t - onsets[sounding] / sample_rate
    depth_T = rng.uniform(0.15, 0.4) * np.clip((since_onset_s - 0.15) / 0.2, 0.0, 1.0)
    pitch_T = pitch_T + depth_T * np.sin(2 * np.pi * rng.uniform(4.8, 6.2) * t)
    level_T = np.zeros(num_samples)
    for note, onset in zip(syllables, onsets, strict=True):
        length = max(2, round(note.duration_s * sample_rate))
        shape_T = np.minimum(1.0, np.arange(length) / (0.03 * sample_rate))
        shape_T *= np.minimum(1.0, np.arange(length)[::-1] / (0.06 * sample_rate))
        add(level_T, int(onset), note.velocity * shape_T)
    return pitch_T, level_T, onsets


def _vowel_weight(
    onsets: NDArray[np.int64], spoken: NDArray[np.bool_], num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """1 while this vowel is sung, with soft edges."""
    sounding = np.clip(np.searchsorted(onsets, np.arange(num_samples), side="right") - 1, 0, None)
    soft = np.exp(-1.0 / (0.015 * sample_rate))
    return np.asarray(lfilter([1.0 - soft], [1.0, -soft], spoken[sounding].astype(np.float64)))


def _formants(
    voiced_T: NDArray[np.float64], formants_hz: tuple[int, ...], size: float, sample_rate: int
) -> NDArray[np.float64]:
    """Parallel resonators of unit gain at their center; those beyond the band are left out."""
    out_T = np.zeros_like(voiced_T)
    for formant_hz, bandwidth_hz, gain in zip(formants_hz, FORMANT_BANDWIDTHS_HZ, FORMANT_GAINS, strict=True):
        center_hz = size * formant_hz
        if center_hz > 0.45 * sample_rate:
            continue
        radius = np.exp(-np.pi * bandwidth_hz / sample_rate)
        angle = 2 * np.pi * center_hz / sample_rate
        unit = (1.0 - radius) * np.sqrt(1.0 - 2.0 * radius * np.cos(2 * angle) + radius**2)
        out_T += lfilter([gain * unit], [1.0, -2.0 * radius * np.cos(angle), radius**2], voiced_T)
    return out_T


def _consonants(
    onsets: NDArray[np.int64], rng: np.random.Generator, num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """Noise before half of the syllables, from short and low to long and high."""
    track_T = np.zeros(num_samples)
    for onset in onsets[rng.random(onsets.shape[0]) < 0.5]:
        height = rng.uniform()
        length = round((0.03 + 0.1 * height) * sample_rate)
        noise_T = highpass(rng.standard_normal(length), 800.0 * 6.0**height, sample_rate)
        hiss_T = soften(noise_T, 1500.0 * 4.0**height, sample_rate) * np.hanning(length)
        add(track_T, max(0, int(onset) - length // 2), 0.6 * hiss_T)
    return track_T
