"""`make bench-outliers`: bad songs planted among a training's, and whether `stemline outliers` ranks them worst.

50 songs of 12 s at 8 kHz to learn from and 12 held out: toys, and every other title of ../shared/data. In each seed
five of the 50 have a fault that lowers the held-out gain when a quarter of the songs has it: two with swapped labels,
two with a stem of another song's other source, and one with the whole mix in a stem. Three more have faults that lower
it by less than 0.03 dB (bleed at -12 to -3 dB, a stem 0.1 to 0.6 s late, noise for a stem). `htdemucs-tiny` learns from
them all for 120 steps, and the rest is what the verb does. The rule was chosen on other toys, titles and seeds.

Baseline of the AUC is the worst stem's plain nSDR. "Rules of curation" is the share of the five that they name in the
stems at 44.1 kHz. Last, a model is trained anew without the five songs that rank worst.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datasets.audio.audio_types import Samples
from datasets.audio.resampling import resample
from datasets.corpus.synthetic import compose, perform
from datasets.quality.measures import StemStatistics
from datasets.quality.rules.quality_rules import QualityRules
from datasets.quality.rules.violations import faults
from datasets.schema import SOURCES, Score
from datasets.seeding import row_rng
from models.learner_config import LearnerConfig
from models.learning.learner import Learner
from models.networks.catalog import build
from models.scores.metrics import ideal_ratio_mask, nsdr
from pipelines.evaluation.score_tables.score_outliers import rank
from tests.benchmarks.curation import RATE as WHOLE_RATE
from tests.benchmarks.curation import multitracks
from tests.benchmarks.table import Row, figure, show
from tests.benchmarks.training import AS_IT_IS, LEARNING_RATE, MASK_NFFT, RATE, SEGMENT_S, SONG_S, batch, gains, heard
from tests.datasets import corruptions

Fault = Callable[[Samples, Samples, np.random.Generator], Samples]
NUM_LEARNED, NUM_HELD_OUT = 50, 12
SEEDS = (10, 11, 12)
HARMFUL = ("swapped labels", "swapped labels", "a stem of another source", "a stem of another source", "mix in a stem")
HARMLESS = ("bleed", "late", "noise")


def _another_source(stems_SCT: Samples, other_SCT: Samples, rng: np.random.Generator) -> Samples:
    """A stem of another song and another source, at the level of the one it replaces."""
    planted = stems_SCT.copy()
    into = int(rng.choice(corruptions.sounding(stems_SCT)))
    given_CT = other_SCT[int(rng.choice([place for place in corruptions.sounding(other_SCT) if place != into]))]
    planted[into] = given_CT * np.sqrt(np.square(stems_SCT[into]).mean() / np.square(given_CT).mean())
    return planted


def _mix_in_a_stem(stems_SCT: Samples, other_SCT: Samples, rng: np.random.Generator) -> Samples:
    planted = stems_SCT.copy()
    planted[int(rng.choice(corruptions.sounding(stems_SCT)))] = stems_SCT.sum(axis=0)
    return planted


FAULTS: Mapping[str, Fault] = {
    "swapped labels": lambda stems, other, rng: corruptions.swap_labels(stems, rng).stems_SCT,
    "a stem of another source": _another_source,
    "mix in a stem": _mix_in_a_stem,
    "bleed": lambda stems, other, rng: (
        corruptions.bleed(
            stems, rng, level_db=float(rng.uniform(-12, -3)), kind="spill", sample_rate=WHOLE_RATE
        ).stems_SCT
    ),
    "late": lambda stems, other, rng: (
        corruptions.misalign(stems, rng, shift_s=float(rng.uniform(0.1, 0.6)), sample_rate=WHOLE_RATE).stems_SCT
    ),
    "noise": lambda stems, other, rng: (
        corruptions.noise(stems, rng, colour=str(rng.choice(["white", "pink"]))).stems_SCT
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A seed's songs: stems (S, C, T) at `RATE`, by title, and the fault of those that have one."""

    learned: Mapping[str, Tensor]
    held_out: Sequence[Tensor]
    planted: Mapping[str, str]
    named: Mapping[str, bool]  # whether the rules of curation name a planted song


def whole_songs() -> dict[str, Samples]:
    """Stems (S, C, T) at 44.1 kHz of all songs, `SONG_S` long."""
    num_samples = round(SONG_S * WHOLE_RATE)
    songs = {
        name: np.ascontiguousarray(stems_SCT[..., :num_samples])
        for name, stems_SCT in multitracks(1)
        if stems_SCT.shape[-1] >= num_samples
        and len(corruptions.sounding(stems_SCT[..., :num_samples])) == len(SOURCES)
    }
    missing = NUM_LEARNED + NUM_HELD_OUT - len(songs)
    return songs | {f"toy {n}": perform(compose(502, f"{n:02d}", SONG_S), WHOLE_RATE) for n in range(missing)}


def trial(whole: Mapping[str, Samples], *, seed: int) -> Trial:
    titles = [list(whole)[place] for place in row_rng(seed, "order").permutation(len(whole))]
    held_out, learned = titles[:NUM_HELD_OUT], titles[NUM_HELD_OUT:]
    planted = dict(zip(learned, (*HARMFUL, *HARMLESS), strict=False))
    changed = {
        title: FAULTS[fault](whole[title], whole[titles[-1 - place]], row_rng(seed, title, fault))
        for place, (title, fault) in enumerate(planted.items())
    }
    return Trial(
        learned={title: _low(changed.get(title, whole[title])) for title in learned},
        held_out=[_low(whole[title]) for title in held_out],
        planted=planted,
        named={title: _broken(changed[title]) > _broken(whole[title]) for title in planted},
    )


def _low(stems_SCT: Samples) -> Tensor:
    low_SCT = np.stack([resample(stem_CT, source_rate=WHOLE_RATE, target_rate=RATE) for stem_CT in stems_SCT])
    song_SCT = torch.from_numpy(low_SCT[..., : round(SONG_S * RATE)])
    return song_SCT / song_SCT.sum(dim=0).std()


def _broken(stems_SCT: Samples) -> int:
    """How many rules on the signal the song breaks."""
    statistics_of_stems = StemStatistics(sources=SOURCES, sample_rate=WHOLE_RATE)
    statistics_of_stems.add(stems_SCT)
    return len(faults(statistics_of_stems.measures(), QualityRules(), sources=SOURCES))


def train(songs: Sequence[Tensor], *, steps: int, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = build("htdemucs-tiny", sample_rate=RATE, segment_s=SEGMENT_S)
    config = LearnerConfig(learning_rate=LEARNING_RATE, ema_decays=(), augment=AS_IT_IS, min_lr_ratio=0.05)
    learner = Learner(model, config, normalized=True, total_steps=steps)
    for step in range(steps):
        learner.step(batch(songs, seed=seed, step=step), step=step)
    return model


def score(model: torch.nn.Module, songs: Mapping[str, Tensor]) -> list[Score]:
    """What `stemline outliers` reads of scores, at this rate."""
    rows = []
    for title, song_SCT in songs.items():
        own = nsdr(song_SCT, heard(model, song_SCT)).tolist()
        oracle = nsdr(song_SCT, ideal_ratio_mask(song_SCT, nfft=MASK_NFFT)).tolist()
        mixture = nsdr(song_SCT, song_SCT.sum(dim=0).expand_as(song_SCT)).tolist()
        rows += [
            Score(
                track_id=title, title=title, source=source, protocol="", nsdr=own[place], sdr=None,
                mixture_nsdr=mixture[place], mixture_sdr=None, ceiling_nsdr=oracle[place],
            )
            for place, source in enumerate(SOURCES)
        ]  # fmt: skip
    return rows


def area(bad: Sequence[float], good: Sequence[float]) -> float:
    """The chance that a bad song ranks below a good one (area under the ROC curve)."""
    below = np.subtract.outer(np.array(good), np.array(bad))
    return float((below > 0).mean() + (below == 0).mean() / 2)


def measure(made: Trial, *, steps: int, seed: int) -> dict[str, float]:
    """The figures of one seed, by their names in the table."""
    model = train(list(made.learned.values()), steps=steps, seed=seed)
    scores = score(model, made.learned)
    deviations = {outlier.track_id: outlier.deviation for outlier in rank(scores)}
    worst = {title: min(row.nsdr or 0.0 for row in scores if row.track_id == title) for title in made.learned}
    good = [title for title in made.learned if title not in made.planted]

    def auc(faults_: Sequence[str], by: Mapping[str, float]) -> float:
        return area([by[t] for t, fault in made.planted.items() if fault in faults_], [by[title] for title in good])

    harmful = {title for title, fault in made.planted.items() if fault in HARMFUL}
    left_out = list(deviations)[: len(harmful)]
    rest = [song for title, song in made.learned.items() if title not in left_out]
    gain, without = (
        gains(made.held_out, lambda song, trained=trained: heard(trained, song))  # type: ignore[misc]
        for trained in (model, train(rest, steps=steps, seed=seed))
    )
    return {
        "harmful": auc(HARMFUL, deviations),
        "harmful, by nSDR": auc(HARMFUL, worst),
        **{fault: auc((fault,), deviations) for fault in FAULTS},
        "in the worst decile": len(harmful & set(left_out)) / len(harmful),
        "planted": len(set(made.planted) & set(left_out)) / len(left_out),
        "rules": statistics.fmean(made.named[title] for title in harmful),
        "held-out gain": gain,
        "without": without,
    }


def rows_of(seeds: Sequence[Mapping[str, float]]) -> list[Row]:
    def row(name: str, key: str, unit: str = "", **more: object) -> Row:
        values = [figures[key] for figures in seeds]
        return figure(name, statistics.fmean(values), unit, spread=(min(values), max(values)), **more)  # type: ignore[arg-type]

    plain = statistics.fmean(figures["harmful, by nSDR"] for figures in seeds)
    return [
        row("AUC, songs that do harm", "harmful", target=0.9, more=True, baseline=plain),
        *(row(f"AUC, {fault}", fault) for fault in FAULTS),
        row("songs that do harm in the worst decile", "in the worst decile"),
        row("the same, named by rules of curation", "rules"),
        row("of the worst decile, planted songs of any kind", "planted"),
        row("held-out gain with all songs", "held-out gain", "dB"),
        row("without the worst decile", "without", "dB"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, whole = time.process_time(), whole_songs()
    seeds = []
    for seed in options.seeds:
        seeds.append(measure(trial(whole, seed=seed), steps=options.steps, seed=seed))
        print(f"  seed {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in seeds[-1].items()), flush=True)
    rows = [*rows_of(seeds), figure("all of it", time.process_time() - began, "CPU s")]
    return show("Outliers", rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
