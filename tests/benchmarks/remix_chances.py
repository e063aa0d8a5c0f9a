"""`python -m tests.benchmarks.remix_chances BANDS...`: how sure beats and bars are, from margins and what came true.

BANDS are folders of `remix_bands.py` (the libraries stdlib and casio were taken), by whole songs and excerpts of 8 and
12 s: the weights of beats were not fitted to them. What a margin is worth is fitted by logistic regression to these and
to toy songs; for bars, whose five weights are fitted to everything, also to the songs of `known_songs`, and with one
slope more for the octaves of the tempo.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from datasets.analysis import beats, downbeats
from datasets.analysis.harmony import chromagram
from datasets.analysis.onsets import FRAMES_PER_S, ONSET_DELAY_S, Onsets, onset_envelopes
from tests.benchmarks import remix_fit
from tests.benchmarks.songs_with_truth import KnownSong, band_songs, known_songs, octave_fair

Array = NDArray[np.float64]
RIGHT = 0.7  # F-measure, octave-fair, from which beats are right; share of bars that begin where bars begin
RIDGE = 0.3
NEW = ("bands", "toys")  # sets of songs that the weights of beats were not fitted to, or hardly


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """A song with what is heard in it before anything is chosen."""

    song: KnownSong
    onsets: Onsets
    chroma_ND: Array
    readings: tuple[beats.Hypothesis, ...]


def hear(song: KnownSong) -> Excerpt:
    onsets = onset_envelopes(song.mixture_CT, song.sample_rate)
    chroma_ND = chromagram(song.pitched_CT, song.sample_rate)[0]
    return Excerpt(song=song, onsets=onsets, chroma_ND=chroma_ND, readings=tuple(beats.hypotheses(onsets)))


def judged(excerpt: Excerpt) -> tuple[tuple[float, bool], tuple[float, float, bool] | None]:
    """Margin of the beats, and whether they are right; of bars the margin, the octaves, and whether they are right."""
    best = max(excerpt.readings, key=lambda one: one.merit)
    times_s = best.grid / FRAMES_PER_S + ONSET_DELAY_S
    count = best.grid.size
    margin = beats._Rivals.of(best, excerpt.readings).margin * count / (count + beats.FEW_BEATS)
    beat = margin, octave_fair(excerpt.song.beats_s, times_s) >= RIGHT
    true_s = excerpt.song.downbeats_s
    if true_s.size < 2 or count < 2 * max(downbeats.METRES):
        return beat, None
    scores = downbeats.readings(excerpt.onsets, best.grid, excerpt.chroma_ND) @ downbeats.WEIGHTS
    odds = np.exp(scores - scores.max())
    metre, phase = downbeats.READINGS[int(np.argmax(odds))]
    first_s = times_s[np.arange(count) % metre == phase]
    near = np.abs(first_s[:, None] - true_s).min(axis=1) < 0.07
    share, bars = 1.0 / float(odds.sum()), count / metre
    margin = float(np.log(share / max(1.0 - share, downbeats.MIN_SHARE))) * bars / (bars + downbeats.FEW_BARS)
    octaves = float(np.log2(60.0 * FRAMES_PER_S / np.median(np.diff(best.grid)) / downbeats.USUAL_BPM))
    return beat, (margin, octaves, float(near.mean()) >= 0.8)


def logistic(evidence_ND: Array, right_N: Array, weight_N: Array) -> Array:
    """The offset and the slopes under which what came true was most probable."""
    padded_ND = np.concatenate([np.ones((len(evidence_ND), 1)), evidence_ND], axis=1)

    def loss(found: Array) -> tuple[float, Array]:
        log_odds = padded_ND @ found
        surprise = np.logaddexp(0.0, -log_odds * (2.0 * right_N - 1.0))
        off = weight_N * (1.0 / (1.0 + np.exp(-log_odds)) - right_N)
        return float(weight_N @ surprise + RIDGE * found[1:] @ found[1:]), padded_ND.T @ off + 2.0 * RIDGE * np.array(
            [0.0, *found[1:]]
        )

    return np.asarray(minimize(loss, np.zeros(padded_ND.shape[1]), jac=True).x)


def fit(excerpts: Sequence[Excerpt]) -> tuple[Array, Array]:
    """`beats.PHASE_CHANCE` and `downbeats.BAR_CHANCE`, with the weights that are shipped."""
    counts = Counter(excerpt.song.title for excerpt in excerpts)
    rows: dict[str, list[tuple[float, ...]]] = {"beats": [], "bars": []}
    for excerpt in excerpts:
        beat, bar = judged(excerpt)
        share = 1.0 / counts[excerpt.song.title]
        rows["beats"] += [(*beat, share)] if excerpt.song.set in NEW else []
        rows["bars"] += [(*bar, share)] if bar else []
    tables = [np.array(rows[name], dtype=np.float64) for name in ("beats", "bars")]
    beat_chance, bar_chance = (logistic(table[:, :-2], table[:, -2], table[:, -1]) for table in tables)
    return beat_chance, bar_chance


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bands", type=Path, nargs="+", help="folders of remix_bands")
    arguments = parser.parse_args()
    songs = chain(known_songs(remix_fit.DATA), *(band_songs(folder) for folder in arguments.bands))
    excerpts = [hear(song) for song in songs if song.beats_s.size >= 4]
    excerpts = [excerpt for excerpt in excerpts if excerpt.readings]
    _, bars = remix_fit.choices([excerpt.song for excerpt in excerpts])
    print("datasets.analysis.downbeats.WEIGHTS", remix_fit.fit(bars).round(2).tolist())
    beat_chance, bar_chance = fit(excerpts)
    print("datasets.analysis.beats.PHASE_CHANCE", beat_chance.round(2).tolist())
    print("datasets.analysis.downbeats.BAR_CHANCE", bar_chance.round(2).tolist())
    return 0


if __name__ == "__main__":
    sys.exit(main())
