"""Voices of many kinds: singers and rappers of any size, with consonants, breath, bends, doubles and rooms."""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from datasets.corpus.synthetic.composition import SCALES, Composition, NoteEvent, step_times
from datasets.corpus.synthetic.studio import bandpass, colour, doubled, drive, echo, reverberate, take
from datasets.corpus.synthetic.synthesis import add, pan, wavetable
from datasets.corpus.synthetic.voice import VOWELS

# Two more formants, which hardly depend on the vowel, above the three of `VOWELS`.
HIGH_FORMANTS_HZ = (3400, 4400)
BANDWIDTHS_HZ = (80, 110, 160, 250, 350)


def sing_varied(
    score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """A lead voice in the middle, and now and then its double or a second voice a third above."""
    syllables = _melody(score, rng)
    size = rng.uniform(0.95, 1.25)
    lead_T = _voice(syllables, rng, num_samples, sample_rate, size=size)
    dry_CT = pan(lead_T, rng.uniform(-0.1, 0.1))
    if rng.random() < 0.35:
        dry_CT += rng.uniform(0.2, 0.6) * doubled(lead_T, rng, sample_rate, width=rng.uniform(0.0, 1.0))
    if rng.random() < 0.35:
        above = [
            NoteEvent(start_s=note.start_s, duration_s=note.duration_s, midi=note.midi + 4, velocity=note.velocity)
            for note in syllables
        ]
        second_T = take(_voice(above, rng, num_samples, sample_rate, size=size), rng, sample_rate)
        dry_CT += rng.uniform(0.2, 0.5) * pan(second_T, rng.uniform(-0.8, 0.8))
    dry_CT = colour(drive(dry_CT, rng.uniform(-9.0, 6.0)), rng, sample_rate, spread_db=3.0)
    if rng.random() < 0.3:
        step_s, _ = step_times(score)
        dry_CT = echo(dry_CT, rng.choice((2, 4, 6)) * step_s, sample_rate, feedback=rng.uniform(0.1, 0.4))
    return reverberate(dry_CT, rng, sample_rate, wet=rng.uniform(0.05, 0.5), decay_s=rng.uniform(0.3, 1.8))


def _melody(score: Composition, rng: np.random.Generator) -> list[NoteEvent]:
    """Phrases of one to two bars with rests between; a rapper's syllables are short and near one pitch."""
    step_s, num_bars = step_times(score)
    rapped = rng.random() < 0.2
    lengths = (1, 1, 2, 2, 3) if rapped else ((1, 2, 2, 3, 4, 4, 6, 8), (2, 4, 6, 8, 12))[rng.integers(2)]
    scale = SCALES[score.mode]
    center = 50 + (score.tonic - 2) % 12 + int(rng.choice((-5, 0, 5, 10)))
    phrase = int(rng.choice((24, 28, 30)))
    degree, notes, step = int(rng.integers(0, 5)), [], int(rng.choice((0, 2, 4)))
    while step < 16 * num_bars:
        if step % 32 >= phrase:
            step = (step // 32 + 1) * 32 + int(rng.choice((0, 1, 2)))
            continue
        length = int(rng.choice(lengths))
        degree = int(np.clip(degree + rng.integers(-3, 4), -3, 8))
        pitch = rng.normal(0.0, 1.5) if rapped else scale[degree % 7] + 12 * (degree // 7)
        start_s = score.first_beat_s + step * step_s + abs(rng.normal(0.0, 0.015))
        duration_s = rng.uniform(0.7, 1.0) * length * step_s
        notes.append(
            NoteEvent(start_s=start_s, duration_s=duration_s, midi=center + pitch, velocity=rng.uniform(0.5, 1))
        )
        step += length
    return notes


def _voice(
    syllables: list[NoteEvent], rng: np.random.Generator, num_samples: int, sample_rate: int, *, size: float
) -> NDArray[np.float64]:
    onsets = np.array([round(note.start_s * sample_rate) for note in syllables], dtype=np.int64)
    sounding_T = np.clip(np.searchsorted(onsets, np.arange(num_samples), side="right") - 1, 0, None)
    pitch_T = _pitch(syllables, onsets, sounding_T, rng, sample_rate)
    phase_T = np.cumsum(440.0 * 2.0 ** ((pitch_T - 69.0) / 12.0)) / sample_rate
    table = wavetable(float(np.median(pitch_T)), rng.uniform(0.7, 1.4), 0.0, sample_rate)
    pulses_T = table[((phase_T % 1.0) * table.shape[0]).astype(np.int32)]
    voiced_T = pulses_T + rng.uniform(0.02, 0.25) * rng.standard_normal(num_samples)
    names = sorted(VOWELS)
    spoken = rng.integers(len(names), size=len(syllables))
    soft = np.exp(-1.0 / (rng.uniform(0.01, 0.05) * sample_rate))
    sung_T = np.zeros(num_samples)
    for number in np.unique(spoken):
        weight_T = lfilter([1.0 - soft], [1.0, -soft], (spoken == number)[sounding_T].astype(np.float64))
        sung_T += weight_T * _formants(voiced_T, (*VOWELS[names[number]], *HIGH_FORMANTS_HZ), size, sample_rate, rng)
    sung_T *= _level(syllables, onsets, rng, num_samples, sample_rate)
    sung_T /= np.sqrt(np.mean(np.square(sung_T))) + 1e-12
    return sung_T + _consonants(onsets, rng, num_samples, sample_rate)


def _pitch(
    syllables: list[NoteEvent],
    onsets: NDArray[np.int64],
    sounding_T: NDArray[np.int64],
    rng: np.random.Generator,
    sample_rate: int,
) -> NDArray[np.float64]:
    """In MIDI numbers: glides, scoops into notes, vibrato that comes late, and a voice that is never quite steady."""
    midi = np.array([note.midi for note in syllables])
    glide = np.exp(-1.0 / (rng.uniform(0.01, 0.06) * sample_rate))
    pitch_T = lfilter([1.0 - glide], [1.0, -glide], midi[sounding_T] - midi[0]) + midi[0]
    t = np.arange(sounding_T.size) / sample_rate
    since_onset_s = np.maximum(t - onsets[sounding_T] / sample_rate, 0.0)
    scoops = rng.normal(-0.3, rng.uniform(0.2, 1.5), size=len(syllables))
    falls = rng.normal(0.0, rng.uniform(0.2, 2.0), size=len(syllables))
    pitch_T += scoops[sounding_T] * np.exp(-since_onset_s / 0.06) + falls[sounding_T] * since_onset_s
    depth_T = rng.uniform(0.0, 0.6) * np.clip((since_onset_s - rng.uniform(0.1, 0.4)) / 0.2, 0.0, 1.0)
    pitch_T += depth_T * np.sin(2 * np.pi * rng.uniform(4.5, 6.8) * t)
    drift = np.exp(-1.0 / (0.1 * sample_rate))
    drift_T = lfilter([1.0 - drift], [1.0, -drift], rng.standard_normal(t.size)) * np.sqrt(0.2 * sample_rate)
    return np.asarray(pitch_T + rng.uniform(0.03, 0.15) * drift_T)


def _level(
    syllables: list[NoteEvent],
    onsets: NDArray[np.int64],
    rng: np.random.Generator,
    num_samples: int,
    sample_rate: int,
) -> NDArray[np.float64]:
    level_T = np.zeros(num_samples)
    for note, onset in zip(syllables, onsets, strict=True):
        length = max(2, round(note.duration_s * sample_rate))
        t = np.arange(length) / sample_rate
        shape_T = np.minimum(1.0, t / rng.uniform(0.01, 0.08)) * np.minimum(1.0, t[::-1] / rng.uniform(0.03, 0.15))
        add(level_T, int(onset), note.velocity * shape_T * np.exp(-t * rng.uniform(0.0, 1.5)))
    return level_T


def _formants(
    voiced_T: NDArray[np.float64],
    formants_hz: tuple[int, ...],
    size: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Parallel resonators, each a little off, and some of the source as it is."""
    out_T = rng.uniform(0.0, 0.1) * voiced_T
    for number, (formant_hz, bandwidth_hz) in enumerate(zip(formants_hz, BANDWIDTHS_HZ, strict=True)):
        center_hz = size * formant_hz * rng.uniform(0.9, 1.1)
        if center_hz > 0.45 * sample_rate:
            continue
        gain = 0.65**number * rng.uniform(0.6, 1.4)
        radius = np.exp(-np.pi * bandwidth_hz * rng.uniform(0.8, 2.0) / sample_rate)
        angle = 2 * np.pi * center_hz / sample_rate
        unit = (1.0 - radius) * np.sqrt(1.0 - 2.0 * radius * np.cos(2 * angle) + radius**2)
        out_T += lfilter([gain * unit], [1.0, -2.0 * radius * np.cos(angle), radius**2], voiced_T)
    return out_T


def _consonants(
    onsets: NDArray[np.int64], rng: np.random.Generator, num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """Hisses and bursts before syllables, each of a band of its own."""
    track_T = np.zeros(num_samples)
    often, loud = rng.uniform(0.3, 0.9), rng.uniform(0.1, 0.5)
    for onset in onsets[rng.random(onsets.shape[0]) < often]:
        length = round(rng.uniform(0.02, 0.12) * sample_rate)
        low_hz = rng.uniform(1200.0, 6000.0)
        hiss_T = bandpass(rng.standard_normal(length), low_hz, 2.5 * low_hz, sample_rate) * np.hanning(length)
        add(track_T, max(0, int(onset) - length // 2), loud * hiss_T / (hiss_T.std() + 1e-12) * 0.5)
    return track_T
