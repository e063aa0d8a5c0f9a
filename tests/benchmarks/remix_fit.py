"""`python -m tests.benchmarks.remix_fit BANDS...`: the weights by which beats and bars are chosen, and their worth.

BANDS are folders of `remix_bands.py`; half of their styles is for fitting (`for_fitting`), beside `known_songs`.

Both are linear models over what `datasets.analysis.beat_grids` and `datasets.analysis.downbeats` list as evidence,
fitted so that the expected F-measure under a softmax over each excerpt's readings is largest. Songs are split in
twelve; each twelfth is scored with weights fitted to the others, and all excerpts of a song are in the same one.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from datasets.analysis import beat_grids, downbeats
from datasets.analysis.beats import onsets_of_parts
from datasets.analysis.harmony import chromagram
from datasets.analysis.onsets import FRAMES_PER_S, ONSET_DELAY_S, Onsets, onset_envelopes
from tests.benchmarks.songs_with_truth import (
    KnownSong,
    band_songs,
    known_songs,
    octave_fair,
    plain_f,
    tempo_right,
    with_excerpts,
)
from tests.benchmarks.table import Row, figure, show

Array = NDArray[np.float64]
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

FOLDS = 12
RIDGE = 1.0  # on weights of evidence in units of its own deviation
PLAIN_SHARE = 0.3  # of the F-measure at the notated octave beside the octave-fair one
TOY_WEIGHT = 0.4  # of a toy song beside a real one


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """A song with what is heard in it before anything is chosen; without its sound."""

    song: KnownSong
    duration_s: float
    onsets: Onsets
    chroma_ND: Array
    readings: tuple[beat_grids.Hypothesis, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The readings of one excerpt: the evidence (H, D) for each, what it is worth (H,), and its scores by name."""

    set: str
    title: str
    evidence_HD: Array
    worth_H: Array
    scores: dict[str, Array]


def hear(songs: Iterable[KnownSong]) -> Iterator[Excerpt]:
    """Those whose beats are known and that have any reading; songs with stems once more, with those heard apart."""
    nothing_CT = np.zeros((2, 0), dtype=np.float32)
    for song in songs:
        if song.beats_s.size < 4:
            continue
        onsets = onset_envelopes(song.mixture_CT, song.sample_rate)
        heard: dict[str, tuple[Onsets | None, ...]] = {song.set: ()}
        if song.drums_T is not None:
            heard[f"{song.set}+stems"] = onsets_of_parts((song.drums_T, song.pitched_CT), song.sample_rate)
        for name, parts in heard.items():
            if found := tuple(beat_grids.hypotheses(onsets, parts)):
                yield Excerpt(
                    song=replace(song, set=name, mixture_CT=nothing_CT, pitched_CT=nothing_CT, drums_T=None),
                    duration_s=song.mixture_CT.shape[1] / song.sample_rate,
                    onsets=onsets,
                    chroma_ND=chromagram(song.pitched_CT, song.sample_rate)[0],
                    readings=found,
                )


def choices(excerpts: Iterable[Excerpt]) -> tuple[list[Choice], list[Choice]]:
    """Of grids, and of bars on the best grid of each excerpt."""
    grids, bars = [], []
    for excerpt in excerpts:
        song, found = excerpt.song, excerpt.readings
        times = [one.grid / FRAMES_PER_S + ONSET_DELAY_S for one in found]
        times = [time_s[(time_s >= 0.0) & (time_s < excerpt.duration_s)] for time_s in times]
        fair, plain = (np.array([score(song.beats_s, time_s) for time_s in times]) for score in (octave_fair, plain_f))
        tempi = [60.0 * FRAMES_PER_S / float(np.median(np.diff(one.grid))) for one in found]
        right = np.array([tempo_right(song.tempo_bpm, tempo, octaves=True) for tempo in tempi], dtype=np.float64)
        evidence_HD = np.array([one.evidence for one in found])
        worth_H = (1.0 - PLAIN_SHARE) * fair + PLAIN_SHARE * plain
        scores = {"fair": fair, "plain": plain, "tempo": right}
        grids.append(Choice(set=song.set, title=song.title, evidence_HD=evidence_HD, worth_H=worth_H, scores=scores))
        best = int(np.argmax(plain))
        if song.downbeats_s.size and plain[best] >= 0.9:
            grid = found[best].grid
            bars.append(_bars_of(song, grid, downbeats.readings(excerpt.onsets, grid, excerpt.chroma_ND)))
    return grids, bars


def _bars_of(song: KnownSong, grid: Array, evidence_HD: Array) -> Choice:
    times_s = grid / FRAMES_PER_S + ONSET_DELAY_S
    worth = []
    for metre, phase in downbeats.READINGS:
        first_s = times_s[(np.arange(grid.size) % metre == phase) & (times_s >= 0.0)]
        worth.append(plain_f(song.downbeats_s, first_s))
    worth_H = np.array(worth)
    return Choice(
        set=song.set, title=song.title, evidence_HD=evidence_HD, worth_H=worth_H, scores={"downbeats": worth_H}
    )


def fit(known: Sequence[Choice]) -> Array:
    """The weights (D,) under which the readings that a softmax would choose are worth most."""
    deviation = _deviation(known)
    shares = _shares(known)

    def loss(weights: Array) -> tuple[float, Array]:
        value, slope = RIDGE * float(weights @ weights), 2.0 * RIDGE * weights
        for one, share in zip(known, shares, strict=True):
            scaled_HD = one.evidence_HD / deviation
            odds = _softmax(scaled_HD @ weights)
            expected = float(odds @ one.worth_H) + 1e-3
            value -= share * float(np.log(expected))
            slope = slope - share * ((odds * (one.worth_H - odds @ one.worth_H)) @ scaled_HD) / expected
        return value, slope

    start = np.zeros(known[0].evidence_HD.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x / deviation)


def standard_errors(known: Sequence[Choice], weights: Array) -> Array:
    """How far each of the weights (D,) may be off: those of the bell curve around the best ones (Laplace).

    No song says less than nothing: of the loss's curvature, directions that are flatter than the ridge count as the
    ridge.
    """
    deviation = _deviation(known)
    curvature_DD = 2.0 * RIDGE * np.eye(weights.size)
    for one, share in zip(known, _shares(known), strict=True):
        scaled_HD = one.evidence_HD / deviation
        odds = _softmax(one.evidence_HD @ weights)
        worth = odds * one.worth_H + 1e-12
        curvature_DD += share * (_covariance(scaled_HD, odds) - _covariance(scaled_HD, worth / worth.sum()))
    steep_D, turn_DD = np.linalg.eigh(curvature_DD)
    variance_D = np.square(turn_DD) @ (1.0 / np.maximum(steep_D, 2.0 * RIDGE))
    return np.asarray(np.sqrt(variance_D) / deviation)


def _deviation(known: Sequence[Choice]) -> Array:
    return np.asarray(np.concatenate([one.evidence_HD for one in known]).std(axis=0) + 1e-9)


def _shares(known: Sequence[Choice]) -> list[float]:
    """What each excerpt counts: songs alike, however many excerpts they have."""
    excerpts = Counter(one.title for one in known)
    return [(TOY_WEIGHT if one.set.startswith("toys") else 1.0) / excerpts[one.title] for one in known]


def _softmax(scores: Array) -> Array:
    odds = np.exp(scores - scores.max())
    return np.asarray(odds / odds.sum())


def _covariance(rows_HD: Array, shares_H: Array) -> Array:
    lean_HD = rows_HD - shares_H @ rows_HD
    return np.asarray((lean_HD * shares_H[:, None]).T @ lean_HD)


def fitted_without(known: Sequence[Choice]) -> dict[str, Array]:
    """For each title the weights that were fitted without it."""
    titles = sorted({one.title for one in known})
    order = np.random.default_rng(0).permutation(len(titles))
    weights: dict[str, Array] = {}
    for fold in range(FOLDS):
        out = {titles[place] for place in order[fold::FOLDS]}
        weights |= dict.fromkeys(out, fit([one for one in known if one.title not in out]))
    return weights


def held_out(known: Sequence[Choice]) -> dict[tuple[str, str], list[float]]:
    """Scores by set and name, each song's with weights that were fitted without it."""
    weights = fitted_without(known)
    found: dict[tuple[str, str], list[float]] = {}
    for one in known:
        best = int(np.argmax(one.evidence_HD @ weights[one.title]))
        for name, values in one.scores.items():
            found.setdefault((one.set, name), []).append(float(values[best]))
    return found


def fitting_songs(bands: Sequence[Path]) -> Iterator[KnownSong]:
    """What the shipped weights are fitted to: the songs beside the checkout, toys, and half of the bands' styles."""
    return with_excerpts(chain(known_songs(DATA), *(band_songs(folder, fitting=True) for folder in bands)))


def rows(songs: Iterable[KnownSong]) -> list[Row]:
    """F-measures and tempo accuracy on songs that the weights were not fitted to."""
    return [row for known in choices(hear(songs)) if known for row in held_out_rows(known)]


def held_out_rows(known: Sequence[Choice]) -> list[Row]:
    """Of grids, or of bars."""
    names = {
        "fair": "beat F",
        "plain": "beat F, notated octave",
        "tempo": "tempo accuracy 2",
        "downbeats": "downbeat F on the best grid",
    }
    targets = {("rendered", "fair"): 0.9, ("rendered", "tempo"): 0.95}
    made = []
    for (group, name), values in sorted(held_out(known).items()):
        target = targets.get((group.split("_")[0], name))
        label = f"{names[name]}, held out, {len(values)} of {group}"
        made.append(figure(label, float(np.mean(values)), "share", target=target, more=True))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bands", type=Path, nargs="*", help="folders of remix_bands")
    arguments = parser.parse_args()
    excerpts = list(hear(fitting_songs(arguments.bands)))
    grids, bars = choices(excerpts)
    weights = fit(grids)
    print("datasets.analysis.beat_grids.WEIGHTS", weights.round(2).tolist())
    print("datasets.analysis.beat_grids.WEIGHT_ERRORS", standard_errors(grids, weights).round(2).tolist())
    print("datasets.analysis.downbeats.WEIGHTS", fit(bars).round(2).tolist())
    made = [row for known in (grids, bars) for row in held_out_rows(known)]
    return show("Beats and bars of songs left out of the fit", made)


if __name__ == "__main__":
    sys.exit(main())
