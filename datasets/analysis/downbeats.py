"""Which beats begin a bar, with three or four beats from one to the next.

Bars begin where chords change and where the low drum is, the snare is on two and four, and beats a bar apart are
alike. All of this is measured beat by beat, and a linear model chooses among the seven readings. Of a grid that may be
twice as fast as the beat, it takes the snare's beats for two and four, and begins bars between the beats; so the odds
that the beat is half as fast, on either half of the grid, are weighed in.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.analysis.harmony import FRAMES_PER_S as CHROMA_PER_S
from datasets.analysis.onsets import FRAMES_PER_S, Onsets, strength_at, widened

Array = NDArray[np.float64]

METRES = (3, 4)
# Of fitting songs heard by weights that were fitted without them, 97 % of bars this sure were right. With less, no
# downbeat is named: of two songs both must be right for bars to meet bars.
MIN_CERTAINTY = 0.8
OFF_BEAT = 4.0  # how much worse a bar that begins between two beats is than one that begins on the wrong beat
READINGS = tuple((metre, phase) for metre in METRES for phase in range(metre))
# What speaks for a reading, as `readings` lists it: low sounds and chord changes on one, high sounds on two and four,
# beats that are like those a bar before, and bars of three. Fitted like the weights of `beats.py`.
WEIGHTS = np.array([1.9, 8.4, 1.49, 1.51, -0.6])
# What each of `signs` counts towards the log odds that bars are right (tests.benchmarks.remix_chances).
BAR_CHANCE = np.array([0.81, -2.41, -2.61])
FEW_BARS = 2.0  # half of what a margin says about very many bars it says about so many
USUAL_BPM = 112.0
# Of fitting songs heard faster than this, four of five had bars of twice the beat, all less sure than `MIN_CERTAINTY`;
# bars are at most even odds.
FASTEST_BPM = 160.0
MIN_SHARE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Which beats of a grid begin a bar; none when no reading stands out."""

    first_N: NDArray[np.bool_]
    certainty: float  # 0 to 1: the chance that they are right


def find_bars(
    onsets: Onsets,
    grid: Array,
    chroma_ND: Array,
    *,
    halves: tuple[float, float] = (0.0, 0.0),
    at_most: float = 1.0,
) -> Bars:
    """The bars of a grid of beats in onset frames; `chroma_ND` is where chords are heard to change.

    `halves` are the odds, against the grid as it is, that only its even and that only its odd places are beats.
    `at_most` is the chance that the beats are beats: bars are no surer.
    """
    nothing = Bars(first_N=np.zeros(grid.size, dtype=bool), certainty=0.0)
    if grid.size < 2 * max(METRES):
        return nothing
    scores = readings(onsets, grid, chroma_ND) @ WEIGHTS
    odds = np.exp(scores - scores.max())
    plain = odds / odds.sum()
    odds = plain.copy()
    for half, chance in enumerate(halves):
        there = [place for place, (metre, phase) in enumerate(READINGS) if metre == 4 and phase % 2 == half]
        odds[there] *= 1.0 + OFF_BEAT * chance / odds[there].sum()
    best = int(np.argmax(odds))
    metre, phase = READINGS[best]
    certainty = min(at_most, _chance(plain[best], grid, metre=metre, halves=halves))
    if certainty < MIN_CERTAINTY:
        return Bars(first_N=nothing.first_N, certainty=certainty)
    return Bars(first_N=np.arange(grid.size) % metre == phase, certainty=certainty)


def _chance(share: float, grid: Array, *, metre: int, halves: tuple[float, float]) -> float:
    """That a reading which has this share of all odds is right."""
    log_odds = float(np.array(signs(share, grid, metre=metre, halves=halves)) @ BAR_CHANCE)
    most = 0.5 if _tempo_bpm(grid) > FASTEST_BPM else 1.0
    return min(share, most, 1.0 / (1.0 + float(np.exp(-log_odds))))


def signs(share: float, grid: Array, *, metre: int, halves: tuple[float, float]) -> tuple[float, float, float]:
    """What tells whether bars are right: their margin, which counts more the more bars there are, and their tempo.

    Of a grid that is twice as fast as the beat, bars of four places are half bars. Fast grids often are, by the octaves
    above `USUAL_BPM`, and those whose `halves` are likely beats.
    """
    num_bars = grid.size / metre
    margin = float(np.log(share / max(1.0 - share, MIN_SHARE)))
    octaves = float(np.log2(_tempo_bpm(grid) / USUAL_BPM))
    return margin * num_bars / (num_bars + FEW_BARS), octaves, float(np.log1p(sum(halves)))


def _tempo_bpm(grid: Array) -> float:
    return float(60.0 * FRAMES_PER_S / np.median(np.diff(grid)))


def readings(onsets: Onsets, grid: Array, chroma_ND: Array) -> Array:
    """What speaks for each of `READINGS`, (7, 5): one number for each of `WEIGHTS`."""
    heard = [strength_at(widened(envelope_N), grid) for envelope_N in (onsets.all_N, onsets.low_N, onsets.high_N)]
    heard.append(_chord_changes(chroma_ND, grid))
    rows_RN = np.array([values / (values.mean() + 1e-9) for values in heard])
    return np.array([_evidence(rows_RN, metre, phase) for metre, phase in READINGS])


def _evidence(rows_RN: Array, metre: int, phase: int) -> tuple[float, ...]:
    """Of bars of so many beats, from that beat on, given onsets of all, low and high sounds and chord changes."""
    place = (np.arange(rows_RN.shape[1]) - phase) % metre
    _, low_M, high_M, chord_M = np.stack([rows_RN[:, place == beat].mean(axis=1) for beat in range(metre)], axis=1)
    backbeat = 0.5 * (high_M[1] + high_M[3] - high_M[0] - high_M[2]) if metre == 4 else 0.0
    lean_RN = rows_RN - rows_RN.mean(axis=1, keepdims=True)
    alike_R = (lean_RN[:, metre:] * lean_RN[:, :-metre]).mean(axis=1) / (np.square(lean_RN).mean(axis=1) + 1e-6)
    return low_M[0] - 1.0, chord_M[0] - 1.0, backbeat, float(alike_R.mean()), float(metre == 3)


def _chord_changes(chroma_ND: Array, grid: Array) -> Array:
    """How different the tones of the two beats after each beat are from those of the two before, 0 to 2."""
    if chroma_ND.shape[0] == 0:
        return np.zeros(grid.size)
    sums_ND = np.concatenate([np.zeros((1, 12)), np.cumsum(chroma_ND, axis=0)])
    step = float(np.median(np.diff(grid)))

    def share(first: Array) -> Array:
        edges = np.clip(np.stack([first, first + 2 * step]) / FRAMES_PER_S * CHROMA_PER_S, 0, chroma_ND.shape[0])
        low, high = np.round(edges).astype(np.int64)
        total_ND = sums_ND[high] - sums_ND[low]
        return np.asarray(total_ND / (total_ND.sum(axis=1, keepdims=True) + 1e-9))

    return np.asarray(np.abs(share(grid) - share(grid - 2 * step)).sum(axis=1))
