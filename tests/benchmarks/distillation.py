"""`make bench-distillation`: how much of a large network's gain a small one keeps that learns from its estimates.

The songs, batches and recipe of `make bench-speedrun`. The teacher is HT Demucs of 4.2 million parameters that learns
from stems; the student, of at most two million, learns over as many steps from the same mixtures, once from stems and
once from the teacher's estimates, brought to sum to the mixture: they are stems then, as `separate` writes them with
`mixture_consistency`, and no line of the learner knows of a teacher. Both students begin with the same weights.

Speed is that of `separate` with its defaults on one thread, the songs' mixtures end to end: at their 8 kHz, and 30 s of
noise at 44.1 kHz through the preset as it is, whose time does not depend on what it learnt.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.inference.separate import separate
from models.networks.catalog import build
from tests.benchmarks.speedrun import LOOKS, MUON, WIDE, Recipe, ours
from tests.benchmarks.table import Row, figure, show
from tests.benchmarks.training import RATE, SEGMENT_S, Songs, batch, gains, heard, read_songs

KEPT = 0.8  # of the teacher's gain above that of silence, which alone is half of it
MAX_PARAMETERS = 2e6
REAL_TIME_FACTOR = 10.0  # seconds of song per second of one core
STUDENTS = ("htdemucs", "hdemucs", "demucs-v3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What one seed gave: gains on held-out songs, in dB, and the networks."""

    teacher_db: float
    from_stems_db: float
    from_teacher_db: float
    teacher: nn.Module
    student: nn.Module

    def kept(self, floor_db: float = 0.0) -> float:
        """The share of the teacher's gain above a floor that the student has from it."""
        return (self.from_teacher_db - floor_db) / (self.teacher_db - floor_db)


@torch.no_grad()
def estimated_stems(teacher: nn.Module, stems_BSCT: Tensor) -> Tensor:
    """The teacher's estimates of the stems' mixture, of the same sum."""
    teacher.eval()
    mixture_BCT = stems_BSCT.sum(dim=1)
    estimates_BSCT: Tensor = teacher(mixture_BCT)
    missed_BCT = mixture_BCT - estimates_BSCT.sum(dim=1)
    return estimates_BSCT + missed_BCT[:, None] / estimates_BSCT.shape[1]


def learn(model: nn.Module, songs: Songs, *, num_steps: int, seed: int, teacher: nn.Module | None = None) -> float:
    """Train on the songs, or on what the teacher makes of their mixtures; the gain on held-out songs in dB."""
    arm = ours(model, Recipe(learner=MUON, share=1.0), num_steps)
    for step in range(num_steps):
        stems_BSCT = batch(songs.learned, seed=seed, step=step)
        arm.step(stems_BSCT if teacher is None else estimated_stems(teacher, stems_BSCT), step)
    return gains(songs.held_out, lambda song: heard(model, song))


def teach(student: str, songs: Songs, *, num_steps: int, seed: int) -> Taught:
    """One seed's teacher and its two students."""
    torch.manual_seed(seed)
    teacher = build("htdemucs-tiny", sample_rate=RATE, segment_s=SEGMENT_S, **WIDE["htdemucs"])
    teacher_db = learn(teacher, songs, num_steps=num_steps, seed=seed)
    results = []
    for source in (None, teacher):
        torch.manual_seed(seed)
        model = build(f"{student}-tiny", sample_rate=RATE, segment_s=SEGMENT_S)
        results.append(learn(model, songs, num_steps=num_steps, seed=seed, teacher=source))
    stems_db, taught_db = results
    print(f"  seed {seed}: teacher {teacher_db:.2f} dB, from stems {stems_db:.2f}, from the teacher {taught_db:.2f}",
          file=sys.stderr, flush=True)  # fmt: skip
    return Taught(
        teacher_db=teacher_db, from_stems_db=stems_db, from_teacher_db=taught_db, teacher=teacher, student=model
    )


def real_time_factor(model: nn.Module, mixture_CT: Tensor, rate: int, *, num_turns: int = 3) -> float:
    """Seconds of song per CPU second, the best of some turns."""
    seconds = []
    for _ in range(num_turns):
        start = time.process_time()
        separate(model, mixture_CT)
        seconds.append(time.process_time() - start)
    return mixture_CT.shape[-1] / rate / min(seconds)


def rows_of(student: str, taught: Sequence[Taught], songs: Songs) -> Iterator[Row]:
    """Gains, what of the teacher's is kept, and the student's size and speed."""
    for name, values in (
        ("teacher", [result.teacher_db for result in taught]),
        ("student from stems", [result.from_stems_db for result in taught]),
        ("student from the teacher", [result.from_teacher_db for result in taught]),
    ):
        yield figure(f"{name}, gain", statistics.mean(values), "dB", spread=(min(values), max(values)))
    silence_db = gains(songs.held_out, torch.zeros_like)
    yield figure("silence, gain", silence_db, "dB")
    for name, floor_db, target in (("student's gain", 0.0, None), ("the same above silence", silence_db, KEPT)):
        kept = [result.kept(floor_db) for result in taught]
        yield figure(name, min(kept), "of the teacher's", target=target, more=True, spread=(min(kept), max(kept)))
    for name, model in (("teacher", taught[-1].teacher), ("student", taught[-1].student)):
        size, limit = sum(weight.numel() for weight in model.parameters()), MAX_PARAMETERS / 1e6
        yield figure(f"{name}, parameters", size / 1e6, "M", target=limit if name == "student" else None)
    mixture_CT = torch.cat([song.sum(dim=0) for song in songs.held_out], dim=-1)
    noise_CT = torch.randn(2, 30 * 44100, generator=torch.Generator().manual_seed(0))
    preset = build(f"{student}-tiny").eval()
    for name, model, input_CT, rate, target in (
        ("teacher at 8 kHz", taught[-1].teacher, mixture_CT, RATE, None),
        ("student at 8 kHz", taught[-1].student, mixture_CT, RATE, REAL_TIME_FACTOR),
        (f"{student}-tiny at 44.1 kHz", preset, noise_CT, 44100, REAL_TIME_FACTOR),
    ):
        factor = real_time_factor(model, input_CT, rate)
        yield figure(f"{name}, speed on one core", factor, "x real time", target=target, more=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", choices=STUDENTS, default="htdemucs")
    parser.add_argument("--steps", type=int, default=8 * LOOKS, help="of the teacher and of each student")
    parser.add_argument("--seeds", type=int, nargs="*", default=[2])
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    songs = read_songs()
    taught = [teach(options.student, songs, num_steps=options.steps, seed=seed) for seed in options.seeds]
    return show("Distillation", rows_of(options.student, taught, songs), options.out)


if __name__ == "__main__":
    sys.exit(main())
