"""A song on paper: tempo, key, chords and notes in time, drawn from a seed."""

from dataclasses import dataclass

import numpy as np

from datasets.analysis.harmony import PITCHES
from datasets.seeding import row_rng

BEATS_PER_BAR = 4
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Scale degrees of one chord per bar. All begin on the tonic, so that the key is a matter of fact.
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4), (0, 3, 4, 0)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (0, 3, 4, 0)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteEvent:
    start_s: float
    duration_s: float
    midi: float
    velocity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """A song on paper: what `perform` plays."""

    seed: int
    song_id: str
    duration_s: float
    tempo_bpm: float
    first_beat_s: float
    tonic: int  # 0 is C
    mode: str
    chords: tuple[tuple[int, int, int], ...]  # one per bar, as semitones above the tonic

    @property
    def beats_s(self) -> tuple[float, ...]:
        count = int(np.ceil((self.duration_s - self.first_beat_s) * self.tempo_bpm / 60.0))
        times = self.first_beat_s + np.arange(max(count, 0)) * 60.0 / self.tempo_bpm
        return tuple(round(float(time), 6) for time in times)

    @property
    def downbeats_s(self) -> tuple[float, ...]:
        return self.beats_s[::BEATS_PER_BAR]

    @property
    def key(self) -> str:
        return f"{PITCHES[self.tonic]} {self.mode}"

    def rng(self, part: str) -> np.random.Generator:
        return row_rng(self.seed, "song", self.song_id, part)


def compose(seed: int, song_id: str, duration_s: float) -> Composition:
    """Tempo (70 to 160 bpm), key and chords of one song; the same seed and id give the same song."""
    rng = row_rng(seed, "song", song_id, "score")
    mode = str(rng.choice(sorted(SCALES)))
    tempo_bpm = round(float(np.exp(rng.uniform(np.log(70.0), np.log(160.0)))), 2)
    progression = PROGRESSIONS[mode][rng.integers(len(PROGRESSIONS[mode]))]
    num_bars = int(np.ceil(duration_s * tempo_bpm / 60.0 / BEATS_PER_BAR)) + 1
    return Composition(
        seed=seed,
        song_id=song_id,
        duration_s=duration_s,
        tempo_bpm=tempo_bpm,
        first_beat_s=round(float(rng.uniform(0.05, 0.45)), 4),
        tonic=int(rng.integers(12)),
        mode=mode,
        chords=tuple(_triad(mode, progression[bar % len(progression)]) for bar in range(num_bars)),
    )


def _triad(mode: str, degree: int) -> tuple[int, int, int]:
    root, third, fifth = (SCALES[mode][(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4))
    return root, third, fifth


def step_times(score: Composition) -> tuple[float, int]:
    """Length of a sixteenth note in seconds, and the number of bars that begin within the song."""
    step_s = 60.0 / score.tempo_bpm / 4.0
    return step_s, int(np.ceil((score.duration_s - score.first_beat_s) / (16 * step_s)))
