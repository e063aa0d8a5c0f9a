"""The gate's own proof: how often it promotes a rival that is no better, and how often one that is.

`make bench-gate` simulates pairs of models: each song's gain is drawn around a known mean with the spread that
published models show song by song (0.4 to 0.8 dB), bell-shaped, with heavy tails, and skewed. Every trial is a whole
decision of `pipelines.evaluation.gate.decide` under the rules as they stand. Each trial is two trainings, whose seeds
give the mean gain what `gate.seed_noise_db` says. For comparison, the bare rule "the mean went up" sees the same gains,
the bound over songs alone and BCa bounds see them without the seeds'.

`--scores FILE.csv` asks the same of scores that others published instead: `published_scores.py`.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from datasets.seeding import row_rng
from pipelines.evaluation.gate import GateConfig, GateDecision, decide
from pipelines.evaluation.paired_bootstrap import Difference, _counts, difference
from tests.benchmarks import published_scores
from tests.benchmarks.published_scores import BOUND_ALONE, SOURCES, summary_of
from tests.benchmarks.table import Row, figure, show

Array = NDArray[np.float64]

SPREAD_DB = 0.6  # of the mean over sources, song by song
SHAPES: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "bell-shaped": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (t with 3 degrees)": lambda rng, shape: rng.standard_t(3, size=shape) / math.sqrt(3),
    "rare large gains": lambda rng, shape: rng.exponential(size=shape) - 1,
    "rare large losses": lambda rng, shape: 1 - rng.exponential(size=shape),
}
SIZES = (8, 14, 27, 50, 100)
SEED_DB = GateConfig().seed_noise_db


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--scores", help="a CSV file of published scores: recipe, seed, song, SOURCE_sdr")
    parser.add_argument("--draws", type=int, default=10, help="draws of songs for each pair of --scores")
    arguments = parser.parse_args()
    if arguments.scores:
        rows = published_scores.rows(arguments.scores, arguments.draws)
        return show(f"The gate, {arguments.scores}", rows, arguments.out)
    rows = [*_no_gain(arguments.trials), *_power(arguments.trials), _itself()]
    return show("The gate", rows, arguments.out)


def _no_gain(trials: int) -> list[Row]:
    """The rule alone, without the tolerances that forbid some promotions more."""
    rows = []
    for shape in SHAPES:
        for num_songs in SIZES:
            promoted = songs_alone = bare = bca = 0
            for trial in range(trials):
                gains_NS = _gains(shape, num_songs, 0.0, trial)
                promoted += _decided(gains_NS, BOUND_ALONE).promote
                bare += gains_NS.mean() > 0
                mean_N = _gains(shape, num_songs, 0.0, trial, seed_db=0.0).mean(axis=1)
                songs_alone += difference(mean_N.tolist(), confidence=BOUND_ALONE.confidence).low > 0
                bca += _bca_low(mean_N) > 0
            rows.append(
                figure(f"no gain, {shape}, {num_songs} songs: promoted", 100 * promoted / trials, "%", target=5.0)
            )
            rows.append(
                figure("    were seeds without effect: by the bound over songs", 100 * songs_alone / trials, "%")
            )
            rows.append(figure("    by the mean alone", 100 * bare / trials, "%"))
            rows.append(figure("    were seeds without effect: by a BCa bound", 100 * bca / trials, "%"))
    return rows


def _power(trials: int) -> list[Row]:
    """A gain that so many songs should detect at 80 % power, by the spread that was put in."""
    rows = []
    sure = GateConfig().confidence
    for num_songs in SIZES[1:]:
        gain_db = _exactly(SPREAD_DB, num_songs).min_detectable_gain(sure)
        decided = [_decided(_gains("bell-shaped", num_songs, gain_db, trial), GateConfig()) for trial in range(trials)]
        seen = sum(decision.gain is not None and decision.gain.low > 0 for decision in decided)
        detectable = [gain for decision in decided if (gain := decision.min_detectable_gain) is not None]
        name = f"a gain of {gain_db:.2f} dB, {num_songs} songs"
        rows.append(figure(f"{name}: seen", 100 * seen / trials, "%", baseline=80.0, target=70.0, more=True))
        rows.append(
            figure("    detectable gain that the gate states", float(np.median(detectable)), "dB", baseline=gain_db)
        )
        promoted = sum(decision.promote for decision in decided)
        rows.append(figure("    promoted, with all tolerances", 100 * promoted / trials, "%"))
    return rows


def _exactly(spread_db: float, num_songs: int) -> Difference:
    return Difference(mean=0.0, low=0.0, high=0.0, spread=spread_db, num_songs=num_songs, seed_noise_db=SEED_DB)


def _itself() -> Row:
    """A model against itself, whatever the rules say of margins."""
    gains_NS = np.zeros((50, len(SOURCES)))
    rules = GateConfig(margin=-9.0, confidence=0.5, min_songs=1)
    promoted = sum(_decided(gains_NS, replace(rules, margin=margin), same=True).promote for margin in (-9.0, 0.0))
    return figure("a model against itself: promoted", promoted, "times", target=0)


def _gains(shape: str, num_songs: int, gain_db: float, trial: int, seed_db: float = SEED_DB) -> Array:
    """Gains (songs, sources): what a song does to all sources, and what it does to each, in equal parts."""
    rng = row_rng(0, "gate", shape, num_songs, round(gain_db, 4), trial)
    draw = SHAPES[shape]
    together_N1, apart_NS = draw(rng, (num_songs, 1)), draw(rng, (num_songs, len(SOURCES)))
    # The mean over sources has a variance of 1: half from the song, half from four sources.
    seeds = seed_db * rng.normal()
    return gain_db + seeds + SPREAD_DB * math.sqrt(0.5) * (together_N1 + math.sqrt(len(SOURCES)) * apart_NS)


def _decided(gains_NS: Array, rules: GateConfig, *, same: bool = False) -> GateDecision:
    champion = summary_of(np.full_like(gains_NS, 7.0), "champion")
    return decide(summary_of(7.0 + gains_NS, "champion" if same else "candidate"), champion, rules)


def _bca_low(values_N: Array) -> float:
    """The usual bound, bias-corrected and accelerated (Efron 1987), as sure as the gate's."""
    size, normal = len(values_N), NormalDist()
    mean = values_N.mean()
    means_R = np.sort(_counts(size, 2000, 0) @ values_N / size)
    below = (np.sum(means_R < mean) + 0.5) / (len(means_R) + 1)
    bias = normal.inv_cdf(float(below))
    apart_N = (values_N - mean) / (size - 1)  # the mean less each mean without one
    bend = float((apart_N**3).sum() / (6 * (apart_N**2).sum() ** 1.5))
    z = bias + normal.inv_cdf(1 - GateConfig().confidence)
    return float(np.quantile(means_R, normal.cdf(bias + z / (1 - bend * z))))


if __name__ == "__main__":
    sys.exit(main())
