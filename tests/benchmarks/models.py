"""Ours against demucs 4.1.0 on a CPU: same weights, same machine, interleaved; time, memory and ratios.

    python -m tests.benchmarks.models [--quick] [--preset NAME] [--jobs separate train] [--out FILE.json]

Every arm runs in a process of its own, so its peak memory is its own; the arms take turns, A B A B, and a ratio is
the median of the ratios within a turn. The reference separates with `apply_model` as its command line calls it
(shifts 1, overlap 0.25, float32) and trains the released configuration, dropout included. On a host with nothing but
PyTorch this needs the wheels demucs, einops, julius, tqdm and numpy. On a GPU: `make bench-card`.

With ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 in the environment a processor with
AVX-512 does without it.
"""

import argparse
import importlib
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.table import Row, figure, show

SAMPLE_RATE = 44100
SEGMENT_SAMPLES = 343980  # 7.8 s
SPEED = 1.3  # over the reference, separation in float32, with AVX-512 or without


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one process does on every turn."""

    name: str
    job: str  # a key of JOBS
    whose: str  # "reference" or "ours"
    precision: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    wall_s: float
    cpu_s: float
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    song_s: float
    threads: int
    preset: str


def reference_model(preset: str) -> nn.Module:
    """demucs' own class in the configuration of a preset, initialised from seed 0."""
    from models.networks.catalog import build
    from models.weights.demucs.demucs_options import to_kwargs

    with torch.device("meta"):
        klass, kwargs = to_kwargs(build(preset))
    module, _, name = klass.path.rpartition(".")
    torch.manual_seed(0)
    model: nn.Module = getattr(importlib.import_module(module), name)(**kwargs)
    return model


def our_model(preset: str) -> nn.Module:
    """Ours with the reference's weights; a strict load proves that it is the same network."""
    from models.networks.catalog import build

    state = reference_model(preset).state_dict()
    model = build(preset)
    model.load_state_dict(state)
    return model


def toy_audio(num_samples: int, *, seed: int, batch: int = 1) -> Tensor:
    """Stems (B, 4, 2, T): decaying noise bursts, a low tone, chords and a gliding voice, made by torch."""
    generator = torch.Generator().manual_seed(seed)
    time_T = torch.arange(num_samples) / SAMPLE_RATE
    pitch_B = 55 * 2 ** (torch.randint(0, 24, (batch,), generator=generator) / 12)
    phase_BT = 2 * torch.pi * pitch_B[:, None] * time_T
    beat_T = torch.exp(-12 * (time_T % 0.5))
    drums_BT = torch.randn(batch, num_samples, generator=generator) * beat_T
    chords_BT = sum((torch.sin(4 * ratio * phase_BT) for ratio in (1.0, 1.25, 1.5)), torch.zeros(())) / 3
    voice_BT = torch.sin(6 * phase_BT + 3 * torch.sin(2 * torch.pi * 5 * time_T))
    stems_BST = 0.1 * torch.stack([drums_BT, torch.sin(phase_BT), chords_BT, voice_BT], dim=1)
    gains_BSC = 0.5 + torch.rand(batch, 4, 2, generator=generator)
    return stems_BST[:, :, None] * gains_BSC[..., None]


def separation(arm: Arm, setting: Setting) -> Callable[[], float | None]:
    """A song of `song_s` seconds to its stems."""
    mixture_CT = toy_audio(round(setting.song_s * SAMPLE_RATE), seed=1).sum(1)[0]
    model = (reference_model if arm.whose == "reference" else our_model)(setting.preset).eval()

    def reference(mixture_CT: Tensor) -> None:
        from demucs.apply import apply_model

        normal_CT = (mixture_CT - mixture_CT.mean()) / mixture_CT.std()
        apply_model(model, normal_CT[None], shifts=1, split=True, overlap=0.25)

    def ours(mixture_CT: Tensor) -> None:
        from models.inference.separate import separate

        dtype = getattr(torch, arm.precision)
        separate(model, mixture_CT, shifts=1, overlap=0.25, dtype=dtype)

    run = reference if arm.whose == "reference" else ours
    run(mixture_CT[:, : 2 * SEGMENT_SAMPLES])  # warms up
    return lambda: run(mixture_CT)


def training(arm: Arm, setting: Setting) -> Callable[[], float | None]:
    """Forward, backward and optimizer step on a segment of 7.8 s."""
    stems_BSCT = toy_audio(SEGMENT_SAMPLES, seed=2)
    model = (reference_model if arm.whose == "reference" else our_model)(setting.preset).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=arm.precision == "bfloat16"):
            estimates_BSCT = model(stems_BSCT.sum(1))
        loss = nn.functional.l1_loss(estimates_BSCT.float(), stems_BSCT)
        loss.backward()
        optimizer.step()
        return loss.item()

    step()  # warms up
    return step


JOBS: dict[str, Callable[[Arm, Setting], Callable[[], float | None]]] = {"separate": separation, "train": training}


def serve(connection: Connection, arm: Arm, setting: Setting) -> None:
    """The process of an arm: builds and warms up, then runs whenever told to and reports; ends with its peak."""
    torch.set_num_threads(setting.threads)
    run = JOBS[arm.job](arm, setting)
    connection.send("ready")
    while connection.recv() == "run":
        wall, cpu = time.perf_counter(), time.process_time()
        loss = run()
        connection.send(Turn(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu, loss=loss))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def receive(arm: Arm, connection: Connection) -> Any:
    """What an arm's process sends next; the bench ends with its name where the process has died."""
    try:
        return connection.recv()
    except EOFError:
        raise SystemExit(f"the process of {arm.name!r} died; its own error, if it had time for one, is above") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    arm: Arm
    turns: tuple[Turn, ...]
    peak_gib: float


def take_turns(arms: Sequence[Arm], setting: Setting, *, num_turns: int) -> list[Result]:
    """Every arm's turns, interleaved."""
    context = multiprocessing.get_context("spawn")
    seats: list[tuple[Arm, Any, Connection, list[Turn]]] = []
    for arm in arms:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, arm, setting), daemon=True)
        process.start()
        there.close()
        receive(arm, here)
        seats.append((arm, process, here, []))
    for turn in range(num_turns):
        for arm, _, connection, turns in seats:
            connection.send("run")
            turns.append(receive(arm, connection))
            print(f"  turn {turn + 1}/{num_turns} {arm.name}: {turns[-1].wall_s:.2f} s", file=sys.stderr, flush=True)
    results = []
    for arm, process, connection, turns in seats:
        connection.send("stop")
        results.append(Result(arm=arm, turns=tuple(turns), peak_gib=receive(arm, connection)))
        process.join()
    return results


def compare(results: Sequence[Result], targets: dict[str, float]) -> Iterator[Row]:
    """Rows of time, speed-up over the first result, and memory; `targets` are speed-ups by the arm's name."""
    base, *others = results
    yield _seconds(base)
    yield figure(f"{base.arm.name}, peak", base.peak_gib, "GiB")
    for other in others:
        yield _seconds(other)
        for kind in ("wall_s", "cpu_s"):
            ratios = [getattr(a, kind) / getattr(b, kind) for a, b in zip(base.turns, other.turns, strict=True)]
            target = targets.get(other.arm.name) if kind == "wall_s" else None
            value = statistics.median(ratios)
            yield figure(
                f"{other.arm.name}, speed-up" + (" in CPU seconds" if kind == "cpu_s" else ""),
                value,
                "x",
                baseline=1.0,
                target=target,
                more=True,
                spread=(min(ratios), max(ratios)),
            )
        yield figure(f"{other.arm.name}, peak", other.peak_gib, "GiB", baseline=base.peak_gib)


def _seconds(result: Result) -> Row:
    seconds = [turn.wall_s for turn in result.turns]
    return figure(
        f"{result.arm.name}, time",
        statistics.median(seconds),
        "s",
        spread=(min(seconds), max(seconds)),
    )


def cpu_rows(setting: Setting, jobs: Sequence[str], *, num_turns: int) -> Iterator[Row]:
    """Separation of a song and a training step on this machine's CPU.

    Without bfloat16 units ours computes bfloat16 in float32 (`models/mixed_precision.py`): there is no arm for it then.
    """
    from models.mixed_precision import cpu_computes_bfloat16

    has_units = cpu_computes_bfloat16()
    if not has_units:
        print("  this CPU has no bfloat16 units: no arms in bfloat16", file=sys.stderr, flush=True)
    names = {"separate": f"separate {setting.song_s:.0f} s", "train": "training step"}
    speeds = {"separate": (SPEED, 2.0), "train": (1.5 if has_units else 1.0, 2.5)}
    for job in jobs:
        arms = [
            Arm(name=f"{names[job]}, reference fp32", job=job, whose="reference"),
            Arm(name=f"{names[job]}, ours fp32", job=job, whose="ours"),
            Arm(name=f"{names[job]}, ours bf16", job=job, whose="ours", precision="bfloat16"),
        ]
        results = take_turns(arms[: 3 if has_units else 2], setting, num_turns=num_turns)
        yield from compare(results, dict(zip((arm.name for arm in arms[1:]), speeds[job], strict=True)))
        if job == "train":
            yield from _memory_rows(results)


def _memory_rows(results: Sequence[Result]) -> Iterator[Row]:
    for result in results[1:]:
        share = result.peak_gib / results[0].peak_gib
        yield figure(f"{result.arm.name}, peak over the reference's", share, "", baseline=1.0, target=0.6)


def print_profile(preset: str, precision: str, *, num_lines: int = 12) -> None:
    """Where the time of one segment of ours goes, by operator, on one thread."""
    model, mixture_BCT = our_model(preset).eval(), toy_audio(SEGMENT_SAMPLES, seed=1).sum(1)
    torch.set_num_threads(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        model(mixture_BCT)
        with torch.autograd.profiler.profile(use_kineto=False) as profile:
            model(mixture_BCT)
    averages = sorted(profile.key_averages(), key=lambda average: -average.self_cpu_time_total)
    total = sum(average.self_cpu_time_total for average in averages)
    print(f"{precision}: one segment, one thread, {total / 1e6:.2f} s")
    for average in averages[:num_lines]:
        share = average.self_cpu_time_total / total
        print(f"  {average.key:42s} {100 * share:5.1f} % {average.count:6d} calls")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a song of 20 s and two turns")
    parser.add_argument("--song", type=float, help="seconds of song to separate; by default 180, with --quick 20")
    parser.add_argument("--preset", default="htdemucs", help="a network that demucs 4.1.0 has")
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--out", help="JSON file for the rows")
    options = parser.parse_args()
    song_s = options.song or (20.0 if options.quick else 180.0)
    setting = Setting(song_s=song_s, threads=options.threads, preset=options.preset)
    rows = list(cpu_rows(setting, options.jobs, num_turns=2 if options.quick else 3))
    isa = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {platform.machine()}, {isa}, {options.threads} threads, {options.preset}")
    code = show("Models", rows, options.out)
    from models.mixed_precision import cpu_computes_bfloat16

    if not options.quick:
        for precision in ("float32", "bfloat16") if cpu_computes_bfloat16() else ("float32",):
            print_profile(options.preset, precision)
    return code


if __name__ == "__main__":
    sys.exit(main())
