"""What `python -m tests.benchmarks.models --device cuda` adds on a GPU: throughput, loss curves, sparse attention.

Written for one H100 and at most eight minutes. Every part runs in processes of its own under a time limit, the
dearest last, so that a part that stalls costs its own figures only.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.nn import functional as F

from tests.benchmarks.models import (
    FORWARD_FLOP,
    H100_FLOPS,
    SAMPLE_RATE,
    SEGMENT_SAMPLES,
    Arm,
    Result,
    Setting,
    compare,
    our_model,
    synchronize,
    take_turns,
    toy_audio,
)
from tests.benchmarks.table import Row, figure

BUDGET_S = 470.0
BATCH = 32
CONTEXTS_S = (7.8, 12.2, 24.4, 48.8)


def cuda_rows(*, quick: bool) -> Iterator[Row]:
    """All rows, as far as the time reaches."""
    end = time.monotonic() + BUDGET_S

    def at_most(seconds: float) -> float:
        return max(0.0, min(seconds, end - time.monotonic()))

    setting = Setting(device="cuda", song_s=20.0 if quick else 180.0, threads=8)
    yield from _separation_rows(setting)
    trained = list(_training(setting, compiled=False, patience_s=at_most(60.0)))
    if trained:
        yield from compare(trained, {result.arm.name: 3.0 for result in trained[1:]})
        yield from throughput_rows(trained)
    steps = 50 if quick else 200
    yield from curve_rows(in_process(loss_curves, "cuda", steps, 4, SEGMENT_SAMPLES, limit_s=at_most(120.0)))
    for context_s in CONTEXTS_S:
        yield from in_process(attention_rows, "cuda", context_s, 4, limit_s=at_most(60.0)) or ()
    if (left_s := at_most(BUDGET_S)) > 60:
        yield from throughput_rows(_training(setting, compiled=True, patience_s=left_s - 20))


def _separation_rows(setting: Setting) -> Iterator[Row]:
    song = f"separate {setting.song_s:.0f} s"
    arms = [
        Arm(name=f"{song}, reference fp32", job="separate", whose="reference"),
        Arm(name=f"{song}, ours fp32, 8 at a time", job="separate", whose="ours", batch=8),
        Arm(name=f"{song}, ours bf16, 8 at a time", job="separate", whose="ours", batch=8, precision="bfloat16"),
    ]
    results = take_turns(arms, setting, num_turns=5, patience_s=60.0)
    if results and results[0].arm is arms[0]:
        yield from compare(results, {arms[2].name: 5.0})


def _training(setting: Setting, *, compiled: bool, patience_s: float) -> list[Result]:
    """The reference in float32 against ours in bfloat16, or ours compiled alone, which takes minutes to begin."""
    if compiled:
        name = f"train batch {BATCH}, ours bf16 compiled"
        sizes = (16, 8)
        arms = [
            Arm(
                name=name,
                job="train",
                whose="ours",
                precision="bfloat16",
                batch=BATCH,
                micro_batches=sizes,
                compiled=True,
            )
        ]
    else:
        sizes = (32, 16, 12, 8, 4, 2, 1)
        arms = [
            Arm(name=f"train batch {BATCH}, {whose} {short}", job="train", whose=whose, precision=precision)
            for whose, short, precision in (("reference", "fp32", "float32"), ("ours", "bf16", "bfloat16"))
        ]
        arms = [_with_batch(arm, sizes) for arm in arms]
    return take_turns(arms, setting, num_turns=5, patience_s=patience_s)


def _with_batch(arm: Arm, sizes: tuple[int, ...]) -> Arm:
    return Arm(name=arm.name, job=arm.job, whose=arm.whose, precision=arm.precision, batch=BATCH, micro_batches=sizes)


def throughput_rows(results: list[Result]) -> Iterator[Row]:
    """Segments of 7.8 s per second, and the share of the card's bfloat16 peak that the model's arithmetic uses."""
    for result in results:
        seconds = statistics.median(turn.wall_s for turn in result.turns)
        rate = result.arm.batch / seconds
        ours = result.arm.whose == "ours"
        yield figure(
            f"{result.arm.name}, segments",
            rate,
            "1/s",
            target=300.0 if ours else None,
            more=True,
        )
        yield figure(f"{result.arm.name}, MFU", 100 * 3 * FORWARD_FLOP * rate / H100_FLOPS, "%")


def loss_curves(device: str, num_steps: int, batch: int, num_samples: int) -> dict[str, list[float]]:
    """L1 losses of equal runs: float32, float32 with other dropout (the noise), and bfloat16."""
    curves = {}
    # Made once: a CPU would need as long for new ones at every step as the card for the step.
    batches = [toy_audio(num_samples, seed=1000 + i, batch=batch, device=device) for i in range(min(num_steps, 40))]
    for name, seed, precision in (("fp32", 0, "float32"), ("fp32 again", 1, "float32"), ("bf16", 0, "bfloat16")):
        model = our_model().to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
        torch.manual_seed(seed)  # of dropout; the data are the same in every run
        curves[name] = []
        for step in range(num_steps):
            stems_BSCT = batches[step % len(batches)]
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                estimates_BSCT = model(stems_BSCT.sum(1))
            loss = F.l1_loss(estimates_BSCT.float(), stems_BSCT)
            loss.backward()
            optimizer.step()
            curves[name].append(loss.item())
    return curves


def curve_rows(curves: dict[str, list[float]] | None) -> Iterator[Row]:
    """Mean loss of the last quarter of each run, and the gap of bfloat16 in units of the gap that dropout makes."""
    if not curves:
        return
    ends = {name: statistics.mean(curve[-max(1, len(curve) // 4) :]) for name, curve in curves.items()}
    for name, value in ends.items():
        yield figure(f"loss after {len(curves[name])} steps, {name}", 1000 * value, "1e-3")
    noise = max(abs(ends["fp32 again"] - ends["fp32"]), 0.01 * ends["fp32"])
    gap = abs(ends["bf16"] - ends["fp32"]) / noise
    yield figure("bf16's gap to fp32 over dropout's, or over 1 %", gap, "x", target=2.0)


def attention_rows(device: str, context_s: float, batch: int) -> list[Row]:
    """Exact fused attention against the sparse one on one context's spectral tokens, forward and backward.

    Tokens are random, which is the sparse one's worst case: no block is empty. The clustered ones are its best.
    """
    from models.networks import sparse_htdemucs
    from tests.benchmarks.sparse import clustered

    num_tokens = 8 * -(-round(context_s * SAMPLE_RATE) // 1024)
    name = f"attention {context_s} s"
    noise = torch.randn(batch, 8, num_tokens, 64, generator=torch.Generator().manual_seed(0))
    rows = []
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    projection_DR2 = sparse_htdemucs.draw_projection(64, rounds=32, seed=0).to(device)
    for kind, x in (("random", noise), ("clustered", clustered(num_tokens, batch=batch))):
        q, k, v = (x.to(device, dtype).clone().requires_grad_(device == "cuda") for _ in range(3))
        pattern = sparse_htdemucs.find_pattern(q, k, sparsity=0.9, projection_DR2=projection_DR2)

        def whole(q: Any = q, k: Any = k, v: Any = v) -> Any:
            found = sparse_htdemucs.find_pattern(q, k, sparsity=0.9, projection_DR2=projection_DR2)
            return sparse_htdemucs.attend_blocks(q, k, v, found)

        arms: dict[str, Callable[[], Any]] = {"exact": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v)}
        arms["sparse"] = whole
        baseline: tuple[float | None, float | None] = None, None
        for arm, run in arms.items():
            milliseconds, gib = _cost(run, device)
            rows.append(figure(f"{name}, {kind}, {arm}", milliseconds, "ms", baseline=baseline[0]))
            rows.append(figure(f"{name}, {kind}, {arm}, peak", gib, "GiB", baseline=baseline[1]))
            baseline = milliseconds, gib
        empty = 1 - sparse_htdemucs.occupied_blocks(sparse_htdemucs.by_code(pattern)).float().mean().item()
        rows.append(figure(f"{name}, {kind}, empty blocks", 100 * empty, "%"))
    return rows


def _cost(run: Callable[[], Any], device: str) -> tuple[float, float]:
    """Milliseconds of a forward and backward pass, median of ten, and the peak of memory above what lay there."""

    def once() -> None:
        out = run()
        if out.requires_grad:
            out.backward(torch.ones_like(out))

    for _ in range(2):
        once()
    synchronize(device)
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(10 if device == "cuda" else 1):
        start = time.perf_counter()
        once()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    return 1000 * statistics.median(seconds), peak / 2**30


def in_process(function: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
    """What the function returns, from a process of its own; None if it fails or takes longer."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, function, arguments), daemon=True)
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(max(0.0, limit_s)) else _late(function, limit_s)
    except EOFError:
        print(f"  {function.__name__} failed", file=sys.stderr, flush=True)
        return None
    finally:
        process.terminate()
        process.join()


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send(function(*arguments))


def _late(function: Callable[..., Any], limit_s: float) -> None:
    print(f"  {function.__name__}: not done after {limit_s:.0f} s", file=sys.stderr, flush=True)
