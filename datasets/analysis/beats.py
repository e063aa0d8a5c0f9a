"""Beat grid and tempo of one track, heard in its mixture; `downbeats.py` says which beats begin a bar.

Of all grids that `beat_grids.py` finds, on the onsets and half a beat off them, whole and halved, the one that looks
most like a beat wins; how sure that is, the others tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.analysis.beat_grids import WEIGHT_ERRORS, Hypothesis, hypotheses
from datasets.analysis.downbeats import find_bars
from datasets.analysis.harmony import chromagram
from datasets.analysis.onsets import FRAMES_PER_S, ONSET_DELAY_S, Onsets, onset_envelopes
from datasets.analysis.spectra import exceeds
from datasets.audio.audio_types import Samples

Array = NDArray[np.float64]

SILENCE_DB = -60.0
# What the margin of the best reading, in standard errors, counts towards the log odds that beats are beats; even odds
# stay even. Fitted to songs of 6 to 40 s by weights that were fitted without them (tests.benchmarks.remix_chances).
MARGIN_COUNTS = 5.53
FEW_BEATS = 16.0  # half of what a margin says about very many beats it says about so many
MOST_ODDS = 8.0  # log odds of readings together against none other
LEAST_ERROR = 1.0  # of the difference of two readings, which may have the same evidence
MOST_WANDERING = 0.017  # by more, songs for fitting changed their tempo and beats lost them; musicians' came to 0.009
TOGETHER_S = 0.07  # beats that are no farther apart are the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """Times in seconds from the start of the track. Without any pulse: tempo 0 and no beats."""

    tempo_bpm: float
    confidence: float  # 0 to 1
    phase_confidence: float  # 0 to 1: the chance that beats are beats, and not half a beat off or of another tempo
    beats_s: tuple[float, ...]
    downbeats_s: tuple[float, ...]  # empty when no beat of the bar stands out
    downbeat_confidence: float  # 0 to 1


NO_BEATS = Beats(
    tempo_bpm=0.0, confidence=0.0, phase_confidence=0.0, beats_s=(), downbeats_s=(), downbeat_confidence=0.0
)


def beats(signal: Samples, sample_rate: int, *, chroma_ND: Array | None = None, parts: Sequence[Samples] = ()) -> Beats:
    """Beats of a signal (T,) or (C, T) of any sample rate; `NO_BEATS` for silence, and for less than a second.

    `chroma_ND`, by default of the signal itself, is where chords are heard to change, which tells bars apart. `parts`
    are the drums and the pitched stems of the signal, where they are there: a drum on the beat and a bass between
    beats say more apart than together.
    """
    if signal.shape[-1] < sample_rate or not exceeds(signal, SILENCE_DB):
        return NO_BEATS
    onsets = onset_envelopes(signal, sample_rate)
    heard = list(hypotheses(onsets, onsets_of_parts(parts, sample_rate)))
    best = max(heard, key=lambda found: found.merit, default=None)
    if best is None:
        return NO_BEATS
    tones_ND = chromagram(signal, sample_rate)[0] if chroma_ND is None else chroma_ND
    rivals = _Rivals.of(best, heard)
    sure = rivals.confidence(best.grid)
    bars = find_bars(onsets, best.grid, tones_ND, halves=rivals.halves, at_most=sure)
    times_s = best.grid / FRAMES_PER_S + ONSET_DELAY_S
    inside = (times_s >= 0.0) & (times_s < signal.shape[-1] / sample_rate)
    return Beats(
        tempo_bpm=round(tempo_of(best.grid / FRAMES_PER_S), 4),
        confidence=round(best.confidence, 4),
        phase_confidence=round(sure, 4),
        beats_s=tuple(round(float(time), 5) for time in times_s[inside]),
        downbeats_s=tuple(round(float(time), 5) for time in times_s[inside & bars.first_N]),
        downbeat_confidence=round(bars.certainty, 4),
    )


def onsets_of_parts(parts: Sequence[Samples], sample_rate: int) -> tuple[Onsets | None, ...]:
    """Those of each part (T,) or (C, T); None of silence."""
    return tuple(onset_envelopes(part, sample_rate) if exceeds(part, SILENCE_DB) else None for part in parts)


def tempo_of(beats_s: Array) -> float:
    """Beats per minute of at least two beats: by regression where they are steady, else by the median step."""
    steps = np.arange(beats_s.size)
    slope, start = np.polyfit(steps, beats_s, 1)
    steady = float(np.median(np.abs(beats_s - start - slope * steps))) < 0.01
    return 60.0 / float(slope if steady else np.median(np.diff(beats_s)))


# -- how sure that is ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rivals:
    """What speaks for the best grid against the other readings.

    The weights make a softmax of merits, so differences of merit are logarithms of odds. The weights are known within
    their errors, so a difference between readings that sound much unlike may be off by more than one between readings
    that sound alike.
    """

    margin: float  # log odds of the readings together with the best one against all others, in standard errors
    halves: tuple[float, float]  # odds, against the best grid, that only its even and only its odd beats are beats

    @classmethod
    def of(cls, best: Hypothesis, heard: Sequence[Hypothesis]) -> "_Rivals":
        odds_H = np.exp(np.array([other.merit for other in heard]) - best.merit)
        together_H = np.array([_together(best.grid, other.grid) for other in heard])

        def odds(grid: Array) -> float:
            same = [odd for odd, other in zip(odds_H, heard, strict=True) if _coincide(other.grid, grid)]
            return float(max(same, default=0.0))

        against = max(float(odds_H[~together_H].sum()), float(np.exp(-MOST_ODDS)))
        rivals = [other for other, same in zip(heard, together_H, strict=True) if not same]
        nearest = max(rivals, key=lambda other: other.merit, default=best)
        error = float(np.linalg.norm((best.evidence - nearest.evidence) * WEIGHT_ERRORS))
        return cls(
            margin=float(np.log(odds_H[together_H].sum() / against)) / max(error, LEAST_ERROR),
            halves=(odds(best.grid[::2]), odds(best.grid[1::2])),
        )

    def confidence(self, grid: Array) -> float:
        """The chance that beats are beats: the same odds say more about many beats than about a few."""
        log_odds = MARGIN_COUNTS * self.margin * grid.size / (grid.size + FEW_BEATS)
        chance = 1.0 / (1.0 + float(np.exp(-log_odds)))
        return min(chance, 0.5) if _wandering(grid) > MOST_WANDERING else chance


def _wandering(grid: Array) -> float:
    """By what part the tempo of four steps changes over the song, from its lower twentieth to its upper."""
    steps = np.convolve(np.diff(grid), np.full(min(4, grid.size - 1), 0.25), mode="valid")
    low, high = np.quantile(steps, [0.05, 0.95])
    return float(high / low) - 1.0


def _together(one: Array, other: Array) -> bool:
    """Whether the beats of the slower grid are beats of the faster one, at the same, twice or half the tempo."""
    few, many = sorted((one, other), key=lambda grid: -float(np.median(np.diff(grid))))
    octaves = float(np.log2(np.median(np.diff(few)) / np.median(np.diff(many))))
    if octaves > 1.1 or abs(octaves - round(octaves)) > 0.1:
        return False
    right = np.clip(np.searchsorted(many, few), 1, many.size - 1)
    distance = np.minimum(np.abs(few - many[right - 1]), np.abs(few - many[right]))
    return float(np.mean(distance <= TOGETHER_S * FRAMES_PER_S)) >= 0.7


def _coincide(grid: Array, beats: Array) -> bool:
    """Whether two grids have the same tempo, within 2 %, and their beats at the same places."""
    if min(grid.size, beats.size) < 3:
        return False
    step = float(np.median(np.diff(beats)))
    if abs(float(np.median(np.diff(grid))) / step - 1.0) > 0.02:
        return False
    right = np.clip(np.searchsorted(beats, grid), 1, beats.size - 1)
    distance = np.minimum(np.abs(grid - beats[right - 1]), np.abs(grid - beats[right]))
    return float(np.median(distance)) < 0.2 * step
