"""`python -m tests.benchmarks.remix_chances BANDS...`: how sure beats and bars are, from margins and what came true.

On the songs of `remix_fit.py` (BANDS are folders of `remix_bands.py`), each heard with weights that were fitted without
it, or margins would be larger than those of new songs. What a margin is worth is fitted by logistic regression; for
bars with slopes for what tells that the grid is twice as fast as the beat.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from datasets.analysis import beat_grids, beats, downbeats
from datasets.analysis.onsets import FRAMES_PER_S, ONSET_DELAY_S
from tests.benchmarks import remix_fit
from tests.benchmarks.remix_fit import Excerpt
from tests.benchmarks.songs_with_truth import octave_fair

Array = NDArray[np.float64]
RIGHT = 0.7  # F-measure, octave-fair, from which beats are right; share of bars that begin where bars begin
RIDGE = 0.03


def judged(excerpt: Excerpt) -> tuple[tuple[float, bool], tuple[float, ...] | None]:
    """Margin of the beats, and whether they are right; of bars `downbeats.signs`, and whether they are right."""
    best = max(excerpt.readings, key=lambda one: one.merit)
    times_s = best.grid / FRAMES_PER_S + ONSET_DELAY_S
    count = best.grid.size
    rivals = beats._Rivals.of(best, excerpt.readings)
    beat = rivals.margin * count / (count + beats.FEW_BEATS), octave_fair(excerpt.song.beats_s, times_s) >= RIGHT
    true_s = excerpt.song.downbeats_s
    if true_s.size < 2 or count < 2 * max(downbeats.METRES):
        return beat, None
    scores = downbeats.readings(excerpt.onsets, best.grid, excerpt.chroma_ND) @ downbeats.WEIGHTS
    odds = np.exp(scores - scores.max())
    metre, phase = downbeats.READINGS[int(np.argmax(odds))]
    first_s = times_s[np.arange(count) % metre == phase]
    near = np.abs(first_s[:, None] - true_s).min(axis=1) < 0.07
    found = downbeats.signs(1.0 / float(odds.sum()), best.grid, metre=metre, halves=rivals.halves)
    return beat, (*found, float(near.mean()) >= 0.8)


def logistic(evidence_ND: Array, right_N: Array, weight_N: Array) -> Array:
    """The slopes under which what came true was most probable."""

    def loss(found: Array) -> tuple[float, Array]:
        log_odds = evidence_ND @ found
        surprise = np.logaddexp(0.0, -log_odds * (2.0 * right_N - 1.0))
        off = weight_N * (1.0 / (1.0 + np.exp(-log_odds)) - right_N)
        return float(weight_N @ surprise + RIDGE * found @ found), off @ evidence_ND + 2.0 * RIDGE * found

    return np.asarray(minimize(loss, np.zeros(evidence_ND.shape[1]), jac=True).x)


def fit(excerpts: Sequence[Excerpt]) -> tuple[Array, Array]:
    """`beats.MARGIN_COUNTS` and `downbeats.BAR_CHANCE`."""
    grids, bars = remix_fit.choices(excerpts)
    beat_weights, bar_weights = remix_fit.fitted_without(grids), remix_fit.fitted_without(bars)
    counts = Counter(excerpt.song.title for excerpt in excerpts)
    rows: dict[str, list[tuple[float, ...]]] = {"beats": [], "bars": []}
    for excerpt in excerpts:
        title = excerpt.song.title
        with (
            patch.object(beat_grids, "WEIGHTS", beat_weights[title]),
            patch.object(downbeats, "WEIGHTS", bar_weights.get(title, downbeats.WEIGHTS)),
        ):
            beat, bar = judged(excerpt)
        rows["beats"].append((*beat, 1.0 / counts[title]))
        rows["bars"] += [(*bar, 1.0 / counts[title])] if bar else []
    tables = [np.array(rows[name], dtype=np.float64) for name in ("beats", "bars")]
    beat_chance, bar_chance = (logistic(table[:, :-2], table[:, -2], table[:, -1]) for table in tables)
    return beat_chance, bar_chance


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bands", type=Path, nargs="*", help="folders of remix_bands")
    arguments = parser.parse_args()
    beat_chance, bar_chance = fit(list(remix_fit.hear(remix_fit.fitting_songs(arguments.bands))))
    print("datasets.analysis.beats.MARGIN_COUNTS", float(beat_chance[0].round(2)))
    print("datasets.analysis.downbeats.BAR_CHANCE", bar_chance.round(2).tolist())
    return 0


if __name__ == "__main__":
    sys.exit(main())
