"""The gate on scores that others published: seeds of one recipe, which differ by chance alone, and known ablations.

`python -m tests.benchmarks.gate --scores FILE.csv` reads a table with a row for each song of each training: columns
`recipe`, `seed`, `song`, perhaps `set` (trainings of two sets are never compared), and `SOURCE_sdr` in dB; or `system`
in place of recipe and seed. Each pair of trainings goes through the whole decision of `pipelines.evaluation.gate`, on
all songs and on random draws of fewer.

Whoever takes an allowance from a table must judge it on another: `CHOSEN_ON` names the recipes that the default of
`gate.seed_noise_db` was taken from, and all others of a table are held out.
"""

import csv
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datasets.seeding import row_rng
from pipelines.evaluation.gate import GateConfig, GateDecision, decide
from pipelines.evaluation.seed_noise import SeedNoise, pooled, seed_noise
from pipelines.evaluation.summary import ScoreSummary, SongScore, SourceScore
from tests.benchmarks.table import Row, figure

Array = NDArray[np.float64]
Recipe = tuple[str, str]  # its set and its name

SOURCES = ("drums", "bass", "other", "vocals")
SIZES = (8, 14, 27, 50)
MAX_PROMOTED = 3.0  # % of ordered pairs of seeds
# Of Demucs' own table (results/evals in its history): their 13 trainings differ by 0.08 dB from seed to seed.
CHOSEN_ON = (
    ("7cf5c60", "channels=64"),
    ("7cf5c60", "default"),
    ("7cf5c60", "samples=80000 epochs=180 tasnet=True split_valid=True X=10"),
)
# The rule of the mean gain alone, without the tolerances, which forbid some promotions more.
BOUND_ALONE = GateConfig(source_tolerance=99.0, slice_tolerance=99.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One seed of a recipe."""

    recipe: Recipe
    seed: str
    scores_NS: Array  # songs in the order of the table's, sources as in `SOURCES`; dB


def read(file: str) -> list[Training]:
    """The trainings of a table; those without a score for each song and source are left out."""
    found: dict[tuple[Recipe, str], dict[str, list[float]]] = {}
    with open(file, encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            key = ((row.get("set") or "", row.get("recipe") or row["system"]), row.get("seed") or "")
            found.setdefault(key, {})[row["song"]] = [float(row[f"{source}_sdr"] or "nan") for source in SOURCES]
    songs = sorted(set().union(*found.values()))
    whole = {key: own for key, own in found.items() if own.keys() == set(songs)}
    trainings = [
        Training(recipe=recipe, seed=seed, scores_NS=np.array([own[song] for song in songs]))
        for (recipe, seed), own in whole.items()
    ]
    return [one for one in trainings if np.isfinite(one.scores_NS).all()]


def rows(file: str, draws: int) -> Iterator[Row]:
    """How often the gate promotes another seed, and how often the better of two recipes that differ."""
    recipes: dict[Recipe, list[Training]] = {}
    for training in read(file):
        recipes.setdefault(training.recipe, []).append(training)
    seeds = {recipe: own for recipe, own in recipes.items() if len(own) > 1}
    means = {recipe: [float(training.scores_NS.mean()) for training in own] for recipe, own in recipes.items()}
    # What a registry with all recipes but one would tell of seeds.
    noises = {
        recipe: seed_noise([own for name, own in means.items() if name != recipe], GateConfig().seed_noise_db)
        for recipe in seeds
    }
    if seeds:
        squares, freedom = pooled([means[recipe] for recipe in seeds])
        measured, used = math.sqrt(squares / freedom), GateConfig().seed_noise_db
        yield figure("standard deviation between seeds, pooled over recipes", measured, "dB", baseline=used)
    num_songs = len(next(iter(recipes.values()))[0].scores_NS)
    for size in (size for size in SIZES if size <= num_songs):
        drawn = _draws(num_songs, size, draws)
        if seeds:
            yield from _of_seeds(seeds, noises, drawn, size)
        yield from _of_ablations(recipes, drawn, size)


def _draws(num_songs: int, size: int, draws: int) -> list[Array]:
    if size == num_songs:
        return [np.arange(num_songs)]
    return [row_rng(0, "songs", size, turn).choice(num_songs, size, replace=False) for turn in range(draws)]


def _of_seeds(
    seeds: Mapping[Recipe, Sequence[Training]], noises: Mapping[Recipe, SeedNoise], drawn: Sequence[Array], size: int
) -> Iterator[Row]:
    """Promotions among seeds of one recipe, in % of ordered pairs."""
    default, none = GateConfig(), replace(BOUND_ALONE, seed_noise_db=0.0)
    detectable: list[float] = []
    promoted: dict[str, dict[Recipe, list[bool]]] = {}
    for recipe, own in seeds.items():
        for (first, second), songs in itertools.product(itertools.permutations(own, 2), drawn):
            told = {
                "": decided(first, second, songs, default),
                "by the bound alone": decided(first, second, songs, BOUND_ALONE),
                "by the bound, its seed noise measured on the other recipes": decided(
                    first, second, songs, BOUND_ALONE, noise=noises[recipe]
                ),
                "by the bound without any seed noise": decided(first, second, songs, none),
            }
            detectable.append(told[""].min_detectable_gain or math.nan)
            for name, decision in told.items():
                promoted.setdefault(name, {}).setdefault(recipe, []).append(decision.promote)
    for name, by_recipe in promoted.items():
        asked = None if "without" in name else MAX_PROMOTED
        label = f"    {name}" if name else f"another seed, {size} songs: promoted"
        yield figure(label, _percent(by_recipe.values()), "%", target=asked)
        held_out = [told for recipe, told in by_recipe.items() if recipe not in CHOSEN_ON]
        if not name and held_out:
            yield figure("    of recipes held out from the choice of 0.1 dB", _percent(held_out), "%", target=asked)
    yield figure("    detectable gain that the gate states", statistics.median(detectable), "dB")


def _percent(told: Iterable[Sequence[bool]]) -> float:
    flat = [one for own in told for one in own]
    return 100 * sum(flat) / len(flat)


def _of_ablations(recipes: Mapping[Recipe, Sequence[Training]], drawn: Sequence[Array], size: int) -> Iterator[Row]:
    """The recipe of a set with the most seeds against each other one of it: how often the better one is promoted.

    Where none has more than one, each is held against the next better one.
    """
    wrong: list[list[bool]] = []
    for name in sorted({recipe[0] for recipe in recipes}):
        own = {recipe: trained for recipe, trained in recipes.items() if recipe[0] == name}
        base = max(own, key=lambda recipe: len(own[recipe]))
        pairs = [(base, recipe) for recipe in own if recipe != base]
        if len(own[base]) == 1:
            pairs = list(itertools.pairwise(sorted(own, key=lambda recipe: float(own[recipe][0].scores_NS.mean()))))
        found = [_ablation(own[one], own[other], drawn) for one, other in pairs]
        for told in sorted(found, key=lambda told: told.gap_db):
            yield figure(f"    {size} songs, {told.gap_db:.2f} dB: {told.name}", _percent([told.promoted]), "%")
            wrong.append(told.wrong)
    if wrong:
        yield figure(f"the worse recipe over the better, {size} songs", _percent(wrong), "%", target=MAX_PROMOTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Two recipes, of which one scores higher in the mean over its seeds and all songs."""

    name: str
    gap_db: float
    promoted: list[bool]  # the better one over the worse, by pair of seeds and draw of songs
    wrong: list[bool]  # the other way round


def _ablation(base: Sequence[Training], other: Sequence[Training], drawn: Sequence[Array]) -> Ablation:
    gap_db = float(np.mean([one.scores_NS.mean() for one in base]) - np.mean([one.scores_NS.mean() for one in other]))
    better, worse = (base, other) if gap_db > 0 else (other, base)
    pairs = list(itertools.product(better, worse, drawn))
    one, two = (" ".join(filter(None, own[0].recipe)) for own in (better, worse))
    return Ablation(
        name=f"{one} over {two}",
        gap_db=abs(gap_db),
        promoted=[decided(first, second, songs, GateConfig()).promote for first, second, songs in pairs],
        wrong=[decided(second, first, songs, GateConfig()).promote for first, second, songs in pairs],
    )


# -- decisions on given scores --------------------------------------------------------------------------------


def decided(
    candidate: Training, champion: Training, songs_N: Array, rules: GateConfig, *, noise: SeedNoise | None = None
) -> GateDecision:
    """The whole decision on some of the songs."""
    one, other = (
        summary_of(training.scores_NS[songs_N], " ".join((*training.recipe, training.seed)))
        for training in (candidate, champion)
    )
    return decide(one, other, rules, noise=noise)


def summary_of(scores_NS: Array, model: str) -> ScoreSummary:
    """A model's summary with these scores of songs and sources, 7 dB above the mixture's."""

    def over(nsdr: float) -> SourceScore:
        return SourceScore(nsdr=nsdr, mixture_nsdr=nsdr - 7.0, sdr=None, mixture_sdr=None)

    songs = {
        f"{place:04d}": SongScore(
            nsdr=dict(zip(SOURCES, row.tolist(), strict=True)), leakage_db={}, duration_s=200.0, level_db=-20.0
        )
        for place, row in enumerate(scores_NS)
    }
    means = dict(zip(SOURCES, scores_NS.mean(axis=0).tolist(), strict=True))
    return ScoreSummary(
        model_digest=model, dataset_digest="given", protocol="given", songs=songs,
        sources={source: over(mean) for source, mean in means.items()}, overall=over(sum(means.values()) / len(means)),
    )  # fmt: skip
