"""`make bench-speedrun`: how soon a recipe of ours reaches what the published one ends with.

The songs, batches and first weights of `make bench-training`. The reference is demucs 4.1.0 with its L1 loss and Adam
over `--steps` steps; where its held-out gain ends, for each seed, is the line. A recipe of ours has its own number of
steps, and is looked at every few of them: the first look above the line counts, in steps, in floating-point
operations (counted, the optimizer's among them) and in CPU seconds of one thread, by the median step of each. Arms take
turns where both still learn, so that a loaded machine does harm to both alike. "Ahead" is the least lead over the
reference at its own looks, while both learn.

Every lever of `LEVERS` is the recipe with one thing changed; `--levers NAME ...` measures some of them, for the first
seed alone. `--wide` takes networks of about ten times the parameters. The recipe was chosen with HT Demucs and seeds 0
and 1; other seeds, the other families and `--wide` judge.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.learner_config import LearnerConfig
from models.learning.learner import Learner
from models.networks.catalog import build
from tests.benchmarks.table import Row, figure, show
from tests.benchmarks.training import (
    AS_IT_IS,
    COLOURS,
    RATE,
    ROOT,
    SEGMENT_S,
    Arm,
    Songs,
    batch,
    gains,
    heard,
    read_songs,
)
from tests.benchmarks.training import reference as published

PICTURE = ROOT / "docs" / "pictures" / "speedrun-curves.svg"
FAMILIES = {"htdemucs": 0.4, "hdemucs": 0.5, "demucs-v3": 0.5}  # the share of the reference's steps that is asked
LOOKS = 12
WIDE: dict[str, dict[str, Any]] = {
    "htdemucs": {"channels": 24, "transformer_width": 192}, "hdemucs": {"channels": 24}, "demucs-v3": {"channels": 24}
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is learnt with, over a share of the reference's steps."""

    learner: LearnerConfig
    share: float

    def num_steps(self, reference: int) -> int:
        return max(LOOKS, round(self.share * reference / LOOKS) * LOOKS)


MUON = LearnerConfig(
    optimizer="muon",
    learning_rate=6e-3,
    matrix_learning_rate=0.12,
    matrix_momentum=0.85,
    min_lr_ratio=0.0,
    ema_decays=(),
    augment=AS_IT_IS,
)
FAST = Recipe(learner=MUON, share=0.4)
LEVERS = {
    "Adam, cosine": replace(FAST, learner=replace(MUON, optimizer="adam", learning_rate=3e-3)),
    "Adam, constant": replace(FAST, learner=replace(MUON, optimizer="adam", learning_rate=3e-3, min_lr_ratio=1.0)),
    "Muon, constant": replace(FAST, learner=replace(MUON, min_lr_ratio=1.0)),
    "Muon at 0.08": replace(FAST, learner=replace(MUON, matrix_learning_rate=0.08)),
    "Muon at 0.16": replace(FAST, learner=replace(MUON, matrix_learning_rate=0.16)),
    "momentum 0.9": replace(FAST, learner=replace(MUON, matrix_momentum=0.9)),
    "momentum 0.95": replace(FAST, learner=replace(MUON, matrix_momentum=0.95)),
    "Adam for the rest twice as fast": replace(FAST, learner=replace(MUON, learning_rate=1.2e-2)),
    "with a warm-up of 3 steps": replace(FAST, learner=replace(MUON, warmup_steps=3)),
    "weight decay 0.1": replace(FAST, learner=replace(MUON, weight_decay=0.1)),
    "beta2 0.95": replace(FAST, learner=replace(MUON, beta2=0.95)),
}


@dataclass(slots=True, kw_only=True)
class Run:
    """A training on the way: its arm, and when it is looked at."""

    arm: Arm
    looks: tuple[int, ...]
    gflop: float = 0.0  # of a step
    gains: list[float] = field(default_factory=list)

    @property
    def step_s(self) -> float:
        return statistics.median(self.arm.cpu_s)

    def reached(self, line_db: float) -> int | None:
        """The step of the first look above the line."""
        return next((step for step, gain in zip(self.looks, self.gains, strict=True) if gain >= line_db), None)


def looks_of(num_steps: int) -> tuple[int, ...]:
    return tuple(round(num_steps * place / LOOKS) for place in range(1, LOOKS + 1))


def ours(model: nn.Module, recipe: Recipe, num_steps: int) -> Arm:
    learner = Learner(model, recipe.learner, normalized=True, total_steps=num_steps)
    return Arm(model=model, improve=lambda batch_BSCT, step: learner.step(batch_BSCT, step=step))


def race(family: str, recipe: Recipe, songs: Songs, *, num_steps: int, seed: int, wide: bool) -> tuple[Run, Run]:
    """The reference and the recipe, from the same first weights over the same batches."""
    options = WIDE[family] if wide else {}
    theirs = published(f"{family}-tiny", seed=seed, **options)
    assert theirs is not None
    model = build(f"{family}-tiny", sample_rate=RATE, segment_s=SEGMENT_S, **options)
    model.load_state_dict(theirs.model.state_dict())
    mine = recipe.num_steps(num_steps)
    runs = (
        Run(arm=theirs, looks=looks_of(num_steps)),
        Run(arm=ours(model, recipe, mine), looks=looks_of(mine)),
    )
    for step in range(num_steps):
        batch_BSCT = batch(songs.learned, seed=seed, step=step)
        for run in runs:
            if step < run.looks[-1]:
                _step(run, batch_BSCT, step)
            if step + 1 in run.looks:
                run.gains.append(gains(songs.held_out, lambda song, model=run.arm.model: heard(model, song)))  # type: ignore[misc]
    return runs


def _step(run: Run, batch_BSCT: Tensor, step: int) -> None:
    """The second one is counted, which has every state of its optimizer."""
    if step != 1:
        run.arm.step(batch_BSCT, step)
        return
    with FlopCounterMode(display=False) as counter:
        run.arm.improve(batch_BSCT, step)
    run.gflop = counter.get_total_flops() / 1e9


# --- the table ----------------------------------------------------------------------------------------------


def rows_of(family: str, races: Sequence[tuple[Run, Run]], asked: float | None) -> Iterator[Row]:
    """How soon each seed got there, and at what cost; `asked` is a share of steps, None where nothing is asked.

    A seed that never got there counts as infinitely late, and the row says where it ended.
    """
    shares = {"steps": list[float](), "operations": list[float](), "CPU seconds": list[float]()}
    leads, ends = list[float](), list[float]()
    for theirs, mine in races:
        reached = mine.reached(theirs.gains[-1]) or float("inf")
        whole = theirs.looks[-1]
        shares["steps"].append(reached / whole)
        shares["operations"].append(reached * mine.gflop / (whole * theirs.gflop))
        shares["CPU seconds"].append(reached * mine.step_s / (whole * theirs.step_s))
        leads.append(min(_leads(theirs, mine)))
        ends.append(mine.gains[-1])
    lines = [theirs.gains[-1] for theirs, _ in races]
    for number, pair in enumerate(races):
        for run, name in zip(pair, ("reference", "ours"), strict=True):
            curve = " ".join(f"{step}:{gain:.2f}" for step, gain in zip(run.looks, run.gains, strict=True))
            print(
                f"  {family}, seed no. {number}, {name}, {1000 * run.step_s:.0f} CPU ms: {curve}",
                file=sys.stderr,
                flush=True,
            )
    yield figure(
        f"{family}: gain after {races[0][1].looks[-1]} steps; the reference's after {races[0][0].looks[-1]}",
        statistics.mean(ends), "dB", baseline=statistics.mean(lines), spread=(min(ends), max(ends)),
    )  # fmt: skip
    for unit, of in shares.items():
        target = {"steps": asked, "CPU seconds": 1 / 3 if family == "htdemucs" and asked else None}.get(unit)
        yield figure(
            f"{family}: {unit} until there", max(of), "of the reference's", target=target, spread=(min(of), max(of))
        )
    yield figure(f"{family}: least lead", min(leads), "dB", target=None if asked is None else 0.0, more=True)


def _leads(theirs: Run, mine: Run) -> Iterator[float]:
    """By how much ours is ahead at its own looks, beside the reference's curve, straight between its looks."""
    for step, gain in zip(mine.looks, mine.gains, strict=True):
        if step >= theirs.looks[0]:
            yield gain - float(np.interp(step, theirs.looks, theirs.gains))


def draw(raced: dict[str, Sequence[tuple[Run, Run]]], path: Path) -> None:
    """Gain against step of every seed, and dotted where the reference ends."""
    mpl.rcParams.update({"svg.hashsalt": "speedrun", "svg.fonttype": "none", "font.size": 9})
    picture = Figure(figsize=(7.2, 2.6))
    for axes, (family, races) in zip(
        np.atleast_1d(picture.subplots(1, len(raced), sharey=True)), raced.items(), strict=True
    ):
        for number, pair in enumerate(races):
            for run, name in zip(pair, ("reference", "ours"), strict=True):
                label = {"reference": "demucs 4.1.0, Adam", "ours": "ours, Muon"}[name] if not number else None
                axes.plot(run.looks, run.gains, color=COLOURS[name], linewidth=1, label=label)
            axes.axhline(pair[0].gains[-1], color=COLOURS["reference"], linewidth=0.5, linestyle=":")
        axes.set_title(family, fontsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    picture.axes[0].set_ylabel("dB nSDR above the mixture")
    picture.axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    picture.text(0.5, -0.06, "steps", ha="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=120, help="of the reference")
    parser.add_argument("--seeds", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--levers", nargs="*", choices=LEVERS, default=[], help="with HT Demucs and the first seed")
    parser.add_argument("--wide", action="store_true", help="networks of ten times the parameters")
    parser.add_argument("--picture", help="where the curves are drawn; by default in docs, where nothing is changed")
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, songs, rows, raced = time.process_time(), read_songs(), list[Row](), dict[str, Sequence[tuple[Run, Run]]]()
    recipes = {name: LEVERS[name] for name in options.levers} or {"": FAST}
    for name, recipe in recipes.items():
        for family in ["htdemucs"] if name else options.families:
            raced[family] = [
                race(family, recipe, songs, num_steps=options.steps, seed=seed, wide=options.wide)
                for seed in options.seeds[: 1 if name else None]
            ]
            found = list(
                rows_of(f"{family}, {name}" if name else family, raced[family], None if name else FAMILIES[family])
            )
            show(name or family, found)
            sys.stdout.flush()
            rows += found
    if options.picture or (len(raced) == len(FAMILIES) and not options.wide):
        draw(raced, Path(options.picture or PICTURE))
    rows.append(figure("all of it", time.process_time() - began, "CPU s"))
    return show("Speed run", rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
