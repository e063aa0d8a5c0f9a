"""`make bench-labels`: fits the weights of `datasets/quality/stem_classifier.py`; their worth on songs left out.

The songs are the half of `curation.py`'s that its tables are not about: multitracks of ../shared/data in five forms
(whole, its halves, faster and slower by 12 %), and made-up ones with a small weight. What is made likely is the way in
which all names of a song are handed out, against every other way (24 for three or four stems); so what the song's stems
have in common cancels out, and no stem has to be recognized alone. Cross-validation leaves out one title at a
time and exchanges the names of every pair of its stems. `--table` prints the weights as the module has them.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.quality import stem_classifier
from datasets.quality.measures import StemStatistics
from datasets.quality.rules.quality_rules import QualityRules
from datasets.quality.stem_classifier import FEATURES, LABELS
from datasets.schema import SOURCES
from tests.benchmarks.curation import RATE, multitracks
from tests.benchmarks.table import Row, figure, show
from tests.datasets.corruptions import change_speed

Array = NDArray[np.float64]

TOYS, TOY_SEED, TOY_WEIGHT = 16, 101, 0.3
SPEEDS = (1.12, 1 / 1.12)
RIDGE = 0.003  # on squared weights; 0.01 and 0.03 left more doubt in cross-validation


@dataclass(frozen=True, kw_only=True)
class Example:
    """The stems of a song that were heard."""

    title: str
    features_SD: Array
    names: tuple[int, ...]  # places in LABELS
    weight: float
    whole: bool  # and not another form of it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--table", action="store_true", help="print the weights of all songs")
    arguments = parser.parse_args()
    examples = list(training())
    if arguments.table:
        sys.stdout.write(as_code(*fit(examples)))
    return show("Labels, cross-validated", cross_validate(examples), arguments.out)


def training() -> Iterator[Example]:
    """All songs that weights are fitted on, in all their forms."""
    for name, stems_SCT in multitracks(0):
        half = stems_SCT.shape[2] // 2
        forms = [stems_SCT, stems_SCT[:, :, :half], stems_SCT[:, :, half:]]
        forms += [_faster(stems_SCT, speed) for speed in SPEEDS]
        for number, form_SCT in enumerate(forms):
            yield from _example(name.split(" (")[0], form_SCT, weight=1.0, whole=not number)
    for number in range(TOYS):
        stems_SCT = perform(compose(TOY_SEED, f"{number:02d}", 12.0), RATE)
        yield from _example("toys", stems_SCT, weight=TOY_WEIGHT, whole=True)


def _faster(stems_SCT: Samples, speed: float) -> Samples:
    return np.stack([change_speed(stem_CT, speed, sample_rate=RATE) for stem_CT in stems_SCT])


def _example(title: str, stems_SCT: Samples, *, weight: float, whole: bool) -> Iterator[Example]:
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT)
    assert meter._labels is not None
    features_SD = meter._labels.features()
    heard = np.flatnonzero(np.isfinite(features_SD).all(axis=1))
    if len(heard) > 1:
        names = tuple(LABELS.index(SOURCES[place]) for place in heard)
        yield Example(title=title, features_SD=features_SD[heard], names=names, weight=weight, whole=whole)


# --- fitting ------------------------------------------------------------------------------------------------


def fit(examples: Sequence[Example]) -> tuple[Array, Array, Array]:
    """Mean and deviation of each feature (D,), and weights (D, 4).

    Labels have no offsets: those would only learn which stems this music leaves out, and how often.
    """
    from scipy.optimize import minimize

    stacked = np.concatenate([example.features_SD for example in examples])
    mean_D, deviation_D = stacked.mean(axis=0), stacked.std(axis=0)
    inputs = [_centred(example, mean_D, deviation_D) for example in examples]
    shape = (inputs[0].shape[1], len(LABELS))
    ridge = RIDGE * sum(example.weight for example in examples)

    def cost(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(shape)
        total, slope = ridge / 2 * float(np.square(weights).sum()), ridge * weights
        for example, input_SD in zip(examples, inputs, strict=True):
            doubt, expected_SL = _doubt(input_SD @ weights, example.names)
            total += example.weight * doubt
            slope += example.weight * input_SD.T @ expected_SL
        return total, slope.ravel()

    found = minimize(cost, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return mean_D, deviation_D, found.x.reshape(shape)


def _centred(example: Example, mean_D: Array, deviation_D: Array) -> Array:
    return np.clip((example.features_SD - mean_D) / deviation_D, -stem_classifier._FARTHEST, stem_classifier._FARTHEST)


def _ways(scores_SL: Array, names: Sequence[int]) -> tuple[Array, Array]:
    """Every way to hand out the labels, (W, S), and its score, (W,), as `stem_classifier.likeliest` has it."""
    ways_WS = np.array(list(permutations(range(len(LABELS)), len(scores_SL))))
    absent_W = (~np.isin(ways_WS, names)).sum(axis=1)
    return ways_WS, scores_SL[np.arange(len(scores_SL)), ways_WS].sum(axis=1) - stem_classifier.ABSENT * absent_W


def _doubt(scores_SL: Array, names: Sequence[int]) -> tuple[float, Array]:
    """Minus the log probability of the right way, in nats, and its slope by the scores."""
    ways_WS, score_W = _ways(scores_SL, names)
    share_W = np.exp(score_W - score_W.max())
    share_W /= share_W.sum()
    places = np.arange(len(names))
    slope_SL = np.zeros_like(scores_SL)
    for place in places:
        np.add.at(slope_SL[place], ways_WS[:, place], share_W)
    slope_SL[places, names] -= 1
    right = (ways_WS == np.array(names)).all(axis=1)
    return -float(np.log(share_W[right][0])), slope_SL


# --- judging ------------------------------------------------------------------------------------------------


def cross_validate(examples: Sequence[Example]) -> Iterator[Row]:
    """What weights fitted on all other titles say of the whole songs of each title, toys left out."""
    doubts, margins, false = [], [], []
    for title in sorted({example.title for example in examples} - {"toys"}):
        mean_D, deviation_D, weights = fit([example for example in examples if example.title != title])
        for example in examples:
            if example.title == title and example.whole:
                scores_SL = _centred(example, mean_D, deviation_D) @ weights
                doubts.append(_doubt(scores_SL, example.names)[0])
                false.append(_margin(scores_SL, example.names))
                margins += [_margin(scores_SL, names) for names in _exchanged(example.names)]
    limit = QualityRules().max_label_odds
    found = sum(margin > limit for margin in margins)
    yield figure("songs left out in turn", len(doubts), "songs")
    yield figure("doubt about the right names", float(np.mean(doubts)), "nats")
    yield figure(f"recall of {len(margins)} exchanges", found / len(margins), "", target=0.95, more=True)
    yield figure("good songs called swapped", sum(margin > limit for margin in false), "songs")
    for share in (0.01, 0.05):
        yield figure(f"log odds that {1 - share:.0%} of exchanges exceed", float(np.quantile(margins, share)), "nats")
    yield figure("log odds of the most doubtful good song", max(false), "nats")


def _exchanged(names: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for one, other in combinations(range(len(names)), 2):
        exchanged = list(names)
        exchanged[one], exchanged[other] = names[other], names[one]
        yield tuple(exchanged)


def _margin(scores_SL: Array, names: Sequence[int]) -> float:
    """Log odds of the likeliest way over the one given, as `stem_classifier.likeliest` has them."""
    return float(_ways(scores_SL, names)[1].max() - scores_SL[np.arange(len(names)), list(names)].sum())


def as_code(mean_D: Array, deviation_D: Array, weights: Array) -> str:
    """The lines of `stem_classifier._TABLE`."""
    return "".join(
        f"    ({', '.join(f'{value:.3f}' for value in (mean, deviation, *row))}),  # {name}\n"
        for name, mean, deviation, row in zip(FEATURES, mean_D, deviation_D, weights, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
