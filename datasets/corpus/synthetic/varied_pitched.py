"""Basses and bands of many kinds: what plays beside drums and a voice, by instruments drawn per song."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from datasets.corpus.synthetic.composition import SCALES, Composition, NoteEvent, step_times
from datasets.corpus.synthetic.pitched import BASSLINES
from datasets.corpus.synthetic.studio import bandpass, colour, doubled, drive, echo, lowpass, reverberate
from datasets.corpus.synthetic.synthesis import Timbre, pan, play

Layer = Callable[[Composition, np.random.Generator, int, int], NDArray[np.float64]]


def play_varied_bass(
    score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """Plucked, bowed by a synthesizer, or a long sine; driven or clean, in the middle."""
    held = rng.choice((0.4, 0.85, 0.95, 1.1))
    timbre = Timbre(
        tilt=rng.uniform(0.7, 2.5),
        odd=rng.choice((0.0, 0.0, 0.5, 0.9)),
        bright=rng.uniform(0.0, 0.9),
        bright_s=rng.uniform(0.03, 0.4),
        attack_s=rng.uniform(0.002, 0.02),
        decay_s=rng.uniform(0.25, 4.0),
        release_s=rng.uniform(0.02, 0.12),
    )
    step_s, num_bars = step_times(score)
    line = BASSLINES[rng.integers(len(BASSLINES))]
    lowest = 28 + (score.tonic - 4) % 12
    restless = rng.uniform(0.0, 0.5)
    notes = []
    for bar in range(num_bars):
        root, third, fifth = score.chords[bar]
        for step, end in zip(line, (*line[1:], 16), strict=True):
            jump = int(rng.choice((12, fifth - root, third - root, 10, -2))) if step and rng.random() < restless else 0
            midi = lowest + root + jump - (12 if lowest + root + jump > 52 else 0)
            notes.append(
                NoteEvent(
                    start_s=score.first_beat_s + (16 * bar + step) * step_s + abs(rng.normal(0.0, 0.004)),
                    duration_s=held * (end - step) * step_s,
                    midi=midi,
                    velocity=rng.uniform(0.6, 1.0),
                )
            )
    dry_T = play(notes, timbre, num_samples, sample_rate)
    dry_T = drive(dry_T, rng.uniform(-9.0, 15.0)) if rng.random() < 0.7 else dry_T
    mono_T = lowpass(dry_T, rng.uniform(600.0, 5000.0), sample_rate)
    wet_CT = pan(mono_T, rng.uniform(-0.05, 0.05))
    if rng.random() < 0.3:  # a chorus
        wet_CT = wet_CT + 0.5 * doubled(mono_T, rng, sample_rate, width=0.7)
    return colour(wet_CT, rng, sample_rate, spread_db=2.5)


def play_varied_other(
    score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """Two to four instruments, each with a place, a room and a colour of its own."""
    layers: tuple[Layer, ...] = (
        _pad,
        _keys,
        _keys,
        _guitar,
        _guitar,
        _organ,
        _arpeggio,
        _lead,
        _strings,
        _stabs,
        _swells,
    )
    chosen = rng.choice(len(layers), size=int(rng.integers(2, 5)), replace=False)
    mixed_CT = np.zeros((2, num_samples))
    for place in chosen:
        layer_CT = layers[place](score, rng, num_samples, sample_rate)
        layer_CT = layer_CT / (np.sqrt(np.mean(np.square(layer_CT))) + 1e-12)
        mixed_CT += 10.0 ** (rng.uniform(-9.0, 0.0) / 20.0) * colour(layer_CT, rng, sample_rate, spread_db=3.0)
    return reverberate(mixed_CT, rng, sample_rate, wet=rng.uniform(0.05, 0.5), decay_s=rng.uniform(0.2, 1.5))


def _timbre(rng: np.random.Generator, *, attack_s: float, decay_s: float, release_s: float = 0.06) -> Timbre:
    return Timbre(
        tilt=rng.uniform(0.5, 1.6),
        odd=rng.choice((0.0, 0.0, 0.5, 0.9)),
        bright=rng.uniform(0.2, 0.9),
        bright_s=rng.uniform(0.05, 0.6),
        attack_s=attack_s,
        decay_s=decay_s,
        release_s=release_s,
        detune_cents=rng.uniform(-6.0, 6.0),
    )


def _chords(
    score: Composition, rng: np.random.Generator, steps: tuple[int, ...], *, held: float, low: int, power: bool = False
) -> list[NoteEvent]:
    """The chord of each bar at these sixteenth notes, its tones above MIDI number `low`, strummed."""
    step_s, num_bars = step_times(score)
    strum_s = rng.uniform(0.0, 0.02)
    notes = []
    for bar in range(num_bars):
        root, third, fifth = (score.tonic + tone for tone in score.chords[bar])
        tones = (root, fifth, root + 12) if power else (root, third, fifth, root + 12)
        lowest = low + (tones[0] - low) % 12 - tones[0]
        for step, end in zip(steps, (*steps[1:], 16), strict=True):
            velocity = rng.uniform(0.6, 1.0)
            notes += [
                NoteEvent(
                    start_s=score.first_beat_s + (16 * bar + step) * step_s + strum_s * number,
                    duration_s=held * (end - step) * step_s,
                    midi=lowest + tone,
                    velocity=velocity,
                )
                for number, tone in enumerate(tones)
            ]
    return notes


def _pad(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    notes = _chords(score, rng, (0,), held=1.0, low=int(rng.integers(36, 60)))
    timbre = _timbre(rng, attack_s=rng.uniform(0.02, 0.3), decay_s=8.0, release_s=0.2)
    return doubled(play(notes, timbre, num_samples, sample_rate), rng, sample_rate, width=rng.uniform(0.5, 1.0))


def _strings(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Players that are never quite together."""
    notes = _chords(score, rng, (0, 8), held=1.0, low=int(rng.integers(50, 65)))
    timbre = _timbre(rng, attack_s=rng.uniform(0.05, 0.2), decay_s=8.0, release_s=0.15)
    mono_T = play(notes, timbre, num_samples, sample_rate)
    return np.asarray(sum(doubled(mono_T, rng, sample_rate, width=rng.uniform(-1.0, 1.0)) for _ in range(2)))


def _keys(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """A piano or an electric one."""
    steps = ((0, 8), (0, 4, 8, 12), (0, 6, 12), (0, 3, 6, 10), (0, 2, 4, 6, 8, 10, 12, 14))
    notes = _chords(score, rng, steps[rng.integers(len(steps))], held=0.9, low=int(rng.integers(40, 62)))
    timbre = _timbre(rng, attack_s=0.003, decay_s=rng.uniform(0.3, 1.5))
    mono_T = play(notes, timbre, num_samples, sample_rate)
    shake_T = np.sin(2 * np.pi * rng.uniform(2.0, 6.0) * np.arange(num_samples) / sample_rate)
    tremolo = rng.choice((0.0, 0.0, 0.4))
    sides_CT = np.stack([(1 + tremolo * shake_T) * mono_T, (1 - tremolo * shake_T) * mono_T])
    return sides_CT + 0.5 * doubled(mono_T, rng, sample_rate, width=rng.uniform(0.0, 1.0))


def _guitar(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Chords through an amplifier, clean to far overdriven; two takes, left and right, where it is loud."""
    loud = rng.random() < 0.6
    steps = ((0, 2, 4, 6, 8, 10, 12, 14), (0, 6, 8, 14), (0, 8), (2, 6, 10, 14), (0, 3, 6, 8, 11, 14))
    held = rng.choice((0.35, 0.8, 1.0))
    low = int(rng.integers(40, 50))
    notes = _chords(score, rng, steps[rng.integers(len(steps))], held=held, low=low, power=loud)
    timbre = _timbre(rng, attack_s=0.002, decay_s=rng.uniform(0.4, 2.0), release_s=0.03)
    string_T = play(notes, timbre, num_samples, sample_rate)
    amplified_T = drive(string_T, rng.uniform(12.0, 32.0) if loud else rng.uniform(-6.0, 9.0))
    cabinet_T = bandpass(amplified_T, rng.uniform(70.0, 150.0), rng.uniform(2500.0, 6000.0), sample_rate)
    if loud or rng.random() < 0.4:
        return doubled(cabinet_T, rng, sample_rate, width=rng.uniform(0.6, 1.0))
    return pan(cabinet_T, rng.uniform(-0.8, 0.8))


def _organ(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Held chords whose loudness and place go round with the loudspeaker."""
    notes = _chords(score, rng, (0, 8), held=1.0, low=int(rng.integers(41, 62)))
    mono_T = play(notes, _timbre(rng, attack_s=0.005, decay_s=20.0, release_s=0.02), num_samples, sample_rate)
    turns_T = 2 * np.pi * rng.choice((0.8, 6.5)) * np.arange(num_samples) / sample_rate
    return np.stack([(1 + 0.3 * np.sin(turns_T + phase)) * mono_T for phase in (0.0, rng.uniform(0.5, 2.5))])


def _stabs(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Brass, or a synthesizer as short."""
    steps = ((2, 6, 10, 14), (0, 3), (0, 6, 12), (4, 12))
    notes = _chords(score, rng, steps[rng.integers(len(steps))], held=0.4, low=int(rng.integers(50, 65)))
    timbre = _timbre(rng, attack_s=rng.uniform(0.005, 0.04), decay_s=rng.uniform(0.2, 1.0))
    return doubled(play(notes, timbre, num_samples, sample_rate), rng, sample_rate, width=rng.uniform(0.2, 1.0))


def _swells(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Noise that rises over every other bar."""
    step_s, _ = step_times(score)
    turns_T = (np.arange(num_samples) / sample_rate - score.first_beat_s) / (32 * step_s) % 1.0
    noise_CT = rng.standard_normal((2, num_samples)) * turns_T ** rng.uniform(1.5, 4.0)
    low_hz = rng.uniform(300.0, 3000.0)
    return np.stack([bandpass(noise_T, low_hz, 4 * low_hz, sample_rate) for noise_T in noise_CT])


def _arpeggio(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    step_s, num_bars = step_times(score)
    every = int(rng.choice((1, 2, 2, 4)))
    order = rng.permutation(4)
    low = int(rng.integers(52, 76))
    notes = []
    for bar in range(num_bars):
        tones = [score.tonic + tone for tone in (*score.chords[bar], score.chords[bar][0] + 12)]
        lowest = low + (tones[0] - low) % 12 - tones[0]
        for number, step in enumerate(range(0, 16, every)):
            start_s = score.first_beat_s + (16 * bar + step) * step_s
            midi, velocity = lowest + tones[order[number % 4]], rng.uniform(0.6, 1.0)
            notes.append(NoteEvent(start_s=start_s, duration_s=every * step_s, midi=midi, velocity=velocity))
    timbre = _timbre(rng, attack_s=0.003, decay_s=rng.uniform(0.1, 0.6))
    dry_CT = pan(play(notes, timbre, num_samples, sample_rate), rng.uniform(-0.8, 0.8))
    return echo(dry_CT, rng.choice((3, 4, 6)) * step_s, sample_rate, feedback=rng.uniform(0.0, 0.5))


def _lead(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """One line of notes, of a sound that stays as it is: what a voice must be told from."""
    step_s, num_bars = step_times(score)
    scale, degree, step, notes = SCALES[score.mode], int(rng.integers(7)), 0, []
    low = int(rng.integers(55, 72)) + score.tonic
    while step < 16 * num_bars:
        length = int(rng.choice((1, 2, 2, 4, 6)))
        degree = int(np.clip(degree + rng.integers(-2, 3), -2, 9))
        if rng.random() < 0.8:
            midi = low + scale[degree % 7] + 12 * (degree // 7)
            start_s = score.first_beat_s + step * step_s
            notes.append(NoteEvent(start_s=start_s, duration_s=0.9 * length * step_s, midi=midi, velocity=0.9))
        step += length
    dry_T = play(notes, _timbre(rng, attack_s=0.01, decay_s=rng.uniform(0.5, 5.0)), num_samples, sample_rate)
    dry_T = drive(dry_T, rng.uniform(-6.0, 25.0))
    dry_CT = pan(lowpass(dry_T, rng.uniform(2500.0, 9000.0), sample_rate), rng.uniform(-0.8, 0.8))
    return echo(dry_CT, 6 * step_s, sample_rate, feedback=rng.uniform(0.0, 0.4))
