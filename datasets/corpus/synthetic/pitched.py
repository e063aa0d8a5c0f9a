"""Bass, pad and arpeggio, on the chords of the song."""

import numpy as np
from numpy.typing import NDArray

from datasets.corpus.synthetic.composition import Composition, NoteEvent, step_times
from datasets.corpus.synthetic.synthesis import Timbre, pan, play

# Sixteenth-note steps of one bar.
BASSLINES = ((0, 4, 8, 12), (0, 2, 4, 6, 8, 10, 12, 14), (0, 6, 8, 14), (0, 8), (0, 3, 6, 8, 11, 14))


def play_bass(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    timbre = Timbre(
        tilt=rng.uniform(0.9, 1.4),
        odd=rng.choice((0.0, 0.9)),
        bright=rng.uniform(0.2, 0.8),
        bright_s=rng.uniform(0.05, 0.15),
        attack_s=0.006,
        decay_s=rng.uniform(0.4, 1.2),
        release_s=0.03,
    )
    step_s, num_bars = step_times(score)
    line = BASSLINES[rng.integers(len(BASSLINES))]
    lengths = np.diff([*line, 16])
    lowest = 28 + (score.tonic - 4) % 12  # E1 to D#2
    notes = []
    for bar in range(num_bars):
        root, _, fifth = score.chords[bar]
        for step, length in zip(line, lengths, strict=True):
            jump = 0 if step == 0 else int(rng.choice((0, 0, 0, 12, fifth - root)))
            midi = lowest + root + jump
            midi -= 12 if midi > 50 else 0
            start_s = score.first_beat_s + (16 * bar + step) * step_s
            velocity = 1.0 if step == 0 else rng.uniform(0.7, 0.95)
            notes.append(NoteEvent(start_s=start_s, duration_s=0.85 * length * step_s, midi=midi, velocity=velocity))
    return pan(play(notes, timbre, num_samples, sample_rate), 0.0)


def play_other(score: Composition, rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """A wide pad that holds the chords, and an arpeggio above it on one side."""
    pad_CT = np.stack(
        [play(_pad_notes(score), _pad_timbre(rng, cents), num_samples, sample_rate) for cents in (-6.0, 6.0)]
    )
    pluck = Timbre(
        tilt=rng.uniform(0.6, 1.1),
        odd=rng.choice((0.0, 0.8)),
        bright=rng.uniform(0.5, 0.9),
        bright_s=rng.uniform(0.04, 0.12),
        attack_s=0.003,
        decay_s=rng.uniform(0.12, 0.35),
        release_s=0.04,
    )
    lead_T = play(_arpeggio_notes(score, rng), pluck, num_samples, sample_rate)
    return 0.35 * pad_CT + pan(0.9 * lead_T, rng.uniform(-0.6, 0.6))


def _pad_timbre(rng: np.random.Generator, cents: float) -> Timbre:
    return Timbre(
        tilt=rng.uniform(1.0, 1.4),
        odd=0.0,
        bright=rng.uniform(0.3, 0.7),
        bright_s=0.8,
        attack_s=rng.uniform(0.02, 0.08),
        decay_s=8.0,
        release_s=0.06,
        detune_cents=cents,
    )


def _pad_notes(score: Composition) -> list[NoteEvent]:
    step_s, num_bars = step_times(score)
    base = 55 + (score.tonic - 7) % 12 - 12  # the tonic between G2 and F#3, chords above it
    return [
        NoteEvent(
            start_s=score.first_beat_s + 16 * bar * step_s, duration_s=15.5 * step_s, midi=base + tone, velocity=0.6
        )
        for bar in range(num_bars)
        for tone in score.chords[bar]
    ]


def _arpeggio_notes(score: Composition, rng: np.random.Generator) -> list[NoteEvent]:
    step_s, num_bars = step_times(score)
    every = int(rng.choice((2, 2, 4)))
    order = rng.permutation(4)
    base = 67 + (score.tonic - 7) % 12
    notes = []
    for bar in range(num_bars):
        chord = (*score.chords[bar], score.chords[bar][0] + 12)
        for position, step in enumerate(range(0, 16, every)):
            start_s = score.first_beat_s + (16 * bar + step) * step_s
            midi = base + chord[order[position % 4]]
            midi -= 12 if midi > 88 else 0
            velocity = 1.0 if step % 4 == 0 else 0.75
            notes.append(NoteEvent(start_s=start_s, duration_s=every * step_s, midi=midi, velocity=velocity))
    return notes
