"""Held-out gain of every family at equal arithmetic: the second half of `make bench-family`.

The songs, batches and recipe (Muon, cosine to zero) of `make bench-speedrun`, the tiny preset of each family, at 8 kHz.
Every family may spend the same floating-point operations in its network, forward and backward, and takes as many steps
as that buys; they are counted by `models.networks.compute_cost`, which knows LSTMs too. What the optimizer spends is
shown beside them: it does not grow with a batch or a segment, so it weighs less at published sizes. The recipe was
chosen with HT Demucs, so the others may well do better with one of their own.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.networks import compute_cost
from models.networks.catalog import build
from tests.benchmarks.speedrun import LOOKS, MUON, Recipe, Run, looks_of, ours
from tests.benchmarks.table import Row, figure
from tests.benchmarks.training import BATCH, RATE, SEGMENT_S, Songs, batch, gains, heard, read_songs

FAMILIES = (
    "demucs-v2", "demucs-v3", "hdemucs", "htdemucs", "sparse-htdemucs", "scnet", "bs-roformer", "mel-band-roformer"
)  # fmt: skip
SEEDS = (2, 3)  # of those that judge the recipe in `make bench-speedrun`
BUDGET_GFLOP = 170.0  # 60 steps of `htdemucs-tiny`


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Arithmetic of one step of a family, in GFLOP."""

    network: float
    optimizer: float


def tiny(family: str) -> torch.nn.Module:
    return build(f"{family}-tiny", sample_rate=RATE, segment_s=SEGMENT_S)


def step_cost(family: str, songs: Songs) -> StepCost:
    """Counted, the optimizer's in the second step of a network that is thrown away."""
    cost = compute_cost.of(lambda: tiny(family), num_channels=2, num_samples=round(SEGMENT_S * RATE), rows=1)
    run = Run(arm=ours(tiny(family), Recipe(learner=MUON, share=1.0), LOOKS), looks=())
    batch_BSCT = batch(songs.learned, seed=0, step=0)
    run.arm.step(batch_BSCT, 0)
    whole, without = (_counted(run, batch_BSCT, optimizing) for optimizing in (True, False))
    return StepCost(network=BATCH * cost.step_flop / 1e9, optimizer=(whole - without) / 1e9)


def _counted(run: Run, batch_BSCT: torch.Tensor, optimizing: bool) -> float:
    """Operations of a step as torch counts them, with or without what the optimizer does."""
    with FlopCounterMode(display=False) as counter:
        if optimizing:
            run.arm.improve(batch_BSCT, 1)
        else:
            torch.nn.functional.l1_loss(run.arm.model(batch_BSCT.sum(dim=1)), batch_BSCT).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())


def learn(family: str, songs: Songs, *, num_steps: int, seed: int) -> Run:
    """A training of so many steps, looked at every few of them."""
    torch.manual_seed(seed)
    run = Run(arm=ours(tiny(family), Recipe(learner=MUON, share=1.0), num_steps), looks=looks_of(num_steps))
    for step in range(num_steps):
        run.arm.step(batch(songs.learned, seed=seed, step=step), step)
        if step + 1 in run.looks:
            run.gains.append(gains(songs.held_out, lambda song: heard(run.arm.model, song)))
    curve = " ".join(f"{step}:{gain:.2f}" for step, gain in zip(run.looks, run.gains, strict=True))
    print(f"  {family}, seed {seed}, {1000 * run.step_s:.0f} CPU ms a step: {curve}", file=sys.stderr, flush=True)
    return run


def rows_of(family: str, runs: Sequence[Run], cost: StepCost) -> Iterator[Row]:
    """A family's gain after a quarter, half and all of the budget, and what it took."""
    for share in (1 / 4, 1 / 2, 1):
        values = [run.gains[round(share * LOOKS) - 1] for run in runs]
        yield figure(
            f"{family}, gain after {share:.0%} of the operations", statistics.mean(values), "dB",
            spread=(min(values), max(values)),
        )  # fmt: skip
    yield figure(f"{family}, steps", runs[0].looks[-1], "")
    yield figure(f"{family}, a step of the network", cost.network, "GFLOP")
    yield figure(f"{family}, and of the optimizer", cost.optimizer, "GFLOP")
    yield figure(f"{family}, training", statistics.mean(sum(run.arm.cpu_s) for run in runs), "CPU s")


def curve_rows(families: Sequence[str], *, budget_gflop: float, seeds: Sequence[int]) -> Iterator[Row]:
    """Rows of all families, each where it is done."""
    torch.set_num_threads(1)
    songs = read_songs()
    for family in families:
        cost = step_cost(family, songs)
        num_steps = max(LOOKS, round(budget_gflop / cost.network))
        yield from rows_of(family, [learn(family, songs, num_steps=num_steps, seed=seed) for seed in seeds], cost)
