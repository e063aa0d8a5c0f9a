"""The groups of figures of `card.py`, each a function that gives rows as they are known."""

import hashlib
import multiprocessing
import os
import platform
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from models.host_to_device import uploaded_ahead
from models.learner_config import AugmentConfig, LearnerConfig
from models.learning import learner as learner_module
from models.learning.learner import Learner
from models.mixed_precision import autocast, set_tf32
from models.networks import compute_cost
from models.networks.catalog import build
from tests.benchmarks.card import die_with_parent
from tests.benchmarks.table import Row, figure

GIB = 2**30
FAMILIES = ("htdemucs-tiny", "sparse-htdemucs-tiny", "hdemucs-tiny", "demucs-v2-tiny", "demucs-v3-tiny")
TINY = {"sample_rate": 8000, "segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1}
REFERENCE = {"dconv_mode": 3, "bottom_channels": 512, "t_layers": 5, "t_dropout": 0.02, "segment": 7.8}
TINY_REFERENCE = {"samplerate": 8000, "segment": 0.25, "nfft": 512, "depth": 2, "channels": 8, "t_layers": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large everything is."""

    device: str = "cuda"
    preset: str = "htdemucs"
    options: dict[str, Any] = field(default_factory=dict)
    compiled_options: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=lambda: dict(REFERENCE))
    rows: int = 32
    memory_rows: tuple[int, ...] = (4, 8, 16, 32)
    matrix: int = 8192
    copied_mib: int = 4096
    song_s: float = 180.0
    curve_steps: int = 100
    turns: int = 5
    contexts_s: tuple[float, ...] = (12.2, 24.4)


FULL = Scale()
TOY = Scale(
    device="cpu", preset="htdemucs-tiny", options=TINY,
    compiled_options=TINY | {"depth": 1, "transformer_layers": 0, "dconv_depth": 0}, reference=TINY_REFERENCE,
    rows=4, memory_rows=(4, 8), matrix=128, copied_mib=4, song_s=1.0, curve_steps=4, turns=2, contexts_s=(0.5,),
)  # fmt: skip


def rates(scale: Scale) -> Iterator[Row]:
    """What the card does at best: copies and large products."""
    name = torch.cuda.get_device_name() if scale.device == "cuda" else platform.machine()
    yield {"name": "host", "text": f"{name}, Python {platform.python_version()}, torch {torch.__version__}"}
    source = torch.zeros(scale.copied_mib * 2**18, device=scale.device)
    target = torch.empty_like(source)
    yield figure("copy", 2 * source.nbytes / _median_s(lambda: target.copy_(source), scale) / 1e12, "TB/s")
    for short, dtype, tf32 in (
        ("bf16", torch.bfloat16, "off"),
        ("fp32", torch.float32, "off"),
        ("TF32", torch.float32, "on"),
    ):
        set_tf32(tf32)
        a = torch.ones(scale.matrix, scale.matrix, device=scale.device, dtype=dtype)
        seconds = _median_s(lambda a=a: a @ a, scale)  # type: ignore[misc]
        yield figure(f"products, {short}", 2 * scale.matrix**3 / seconds / 1e12, "TFLOP/s")


def families(scale: Scale) -> Iterator[Row]:
    """Every family forwards and backwards, against the CPU in float32, and finite in bfloat16."""
    set_tf32("off")
    for preset in FAMILIES:
        options = TINY if "htdemucs" in preset else {"segment_s": 0.25, "sample_rate": 8000}
        mixture_BCT = 0.1 * torch.randn(2, 2, 2000, generator=torch.Generator().manual_seed(1))
        results = {}
        for device, dtype in (("cpu", torch.float32), (scale.device, torch.float32), (scale.device, torch.bfloat16)):
            torch.manual_seed(0)
            model = build(preset, **options).train().to(device)
            torch.manual_seed(1)
            with autocast(torch.device(device), dtype):
                estimates = model(mixture_BCT.to(device))
            torch.autograd.backward(estimates.float().abs().mean())
            gradients = [p.grad.float().cpu().flatten() for p in model.parameters() if p.grad is not None]
            results[device, dtype] = torch.cat([estimates.detach().float().cpu().flatten(), *gradients])
            if dtype == torch.bfloat16:
                finite = bool(results[device, dtype].isfinite().all())
                yield figure(f"{preset}, bf16 finite", float(finite), "", target=1.0, more=True)
        exact, found = results["cpu", torch.float32], results[scale.device, torch.float32]
        gap = ((found - exact).norm() / exact.norm()).item()
        yield figure(f"{preset}, fp32 from the CPU's", gap, "", target=1e-3)


def step(scale: Scale) -> Iterator[Row]:
    """`Learner.step` from NumPy as it is, then from batches uploaded ahead, then its parts one by one."""
    yield from _throughput(scale, "off")
    learner, batches = _learner(scale), _batches(scale)
    for name, seconds in _parts(learner, batches, scale).items():
        yield figure(f"a step, {name}", 1000 * seconds, "ms")


def compiled(scale: Scale) -> Iterator[Row]:
    yield from _throughput(replace(scale, options=scale.compiled_options), "on")


def memory(scale: Scale) -> Iterator[Row]:
    """Peak of a step beside what counts say: what is kept, weights in all their copies, and stems."""
    for rows in scale.memory_rows:
        learner, batches = _learner(scale), _batches(scale, rows)
        cost = _cost(scale, rows)
        copies = 4 + len(learner.averages)
        planned = rows * cost.kept_bytes + 4 * cost.parameters * copies + 3 * batches[0].nbytes
        if scale.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        _steps(learner, batches, 2)
        peak = torch.cuda.max_memory_allocated() / GIB if scale.device == "cuda" else None
        yield figure(f"{rows} rows, planned", planned / GIB, "GiB", baseline=peak)
        if peak is not None:
            yield figure(f"{rows} rows, gap of the plan", abs(planned / GIB / peak - 1), "", target=0.1)


def reference(scale: Scale) -> Iterator[Row]:
    """demucs 4.1.0, the same batch, with torch's own TF32."""
    from demucs.htdemucs import HTDemucs

    set_tf32("convolutions")
    for short, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = HTDemucs(["drums", "bass", "other", "vocals"], **scale.reference).to(scale.device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
        stems_BSCT = torch.from_numpy(_batches(scale)[0]).to(scale.device)[..., : _samples(scale)]

        def train(
            model: Any = model, optimizer: Any = optimizer, dtype: Any = dtype, stems: Tensor = stems_BSCT
        ) -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast(torch.device(scale.device), dtype):
                estimates = model(stems.sum(1))
            torch.autograd.backward(nn.functional.l1_loss(estimates.float(), stems))
            optimizer.step()

        seconds = _median_s(train, scale)
        yield figure(f"demucs 4.1.0 {short}, segments", scale.rows / seconds, "1/s")
        if scale.device == "cuda":
            yield figure(f"demucs 4.1.0 {short}, peak", torch.cuda.max_memory_allocated() / GIB, "GiB")
            del model, optimizer, train
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def kernels(scale: Scale) -> Iterator[Row]:
    """The twenty dearest kernels of a step, and how long the card had nothing to do."""
    from torch.profiler import ProfilerActivity, profile

    learner, batches = _learner(scale), _batches(scale)
    _steps(learner, batches, 2)
    on_card = scale.device == "cuda"
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU]) as seen:
        _steps(learner, batches, 1)
        elapsed_us = 1e6 * (time.perf_counter() - began)
    attribute = "self_device_time_total" if on_card else "self_cpu_time_total"
    averages = sorted(seen.key_averages(), key=lambda average: -float(getattr(average, attribute)))
    busy_us = sum(float(getattr(average, attribute)) for average in averages)
    yield figure("idle", 100 * max(0.0, 1 - busy_us / elapsed_us), "%")
    for average in averages[:20]:
        yield figure(f"{average.key[:80]} ({average.count})", float(getattr(average, attribute)) / 1000, "ms")


def separation(scale: Scale) -> Iterator[Row]:
    """A song through demucs' `apply_model`, ours alike, and ours in bfloat16, eight segments at once."""
    from models.inference.separate import separate

    mixture_CT = 0.1 * torch.randn(2, round(scale.song_s * _model(scale).config.sample_rate))
    model = _model(scale).to(scale.device).eval()
    arms: dict[str, Callable[[], Any]] = {
        "ours fp32": lambda: separate(model, mixture_CT, shifts=1, device=scale.device),
        "ours bf16, 8 at once": lambda: separate(
            model, mixture_CT, shifts=1, device=scale.device, dtype=torch.bfloat16, batch_size=8
        ),
    }
    try:
        from demucs.apply import apply_model
        from demucs.htdemucs import HTDemucs

        theirs = HTDemucs(["drums", "bass", "other", "vocals"], **scale.reference).to(scale.device).eval()
        arms = {"demucs 4.1.0": lambda: apply_model(theirs, mixture_CT[None], shifts=1, device=scale.device)} | arms
    except ImportError as error:
        yield {"name": "demucs 4.1.0", "text": f"not measured: {error}"}
    baseline = None
    for name, run in arms.items():
        run()
        _wait(scale)
        began = time.perf_counter()
        run()
        _wait(scale)
        seconds = time.perf_counter() - began
        yield figure(f"{scale.song_s:g} s, {name}", seconds, "s", baseline=baseline)
        baseline = baseline or seconds


def processes(scale: Scale) -> Iterator[Row]:
    """Collectives of one process, data-parallel steps, and a training that is killed and resumed, bit-equal or not."""
    with tempfile.TemporaryDirectory() as folder:
        yield figure(
            "collectives and no_sync in one process", float(_collectives(scale, folder)), "", target=1.0, more=True
        )
        _kill_in_training(scale, f"{folder}/killed", 3, kill_after=2)
        resumed = _train_until(scale, f"{folder}/killed", 4)
        whole = _train_until(scale, f"{folder}/whole", 4)
        yield figure("killed and resumed, bit-equal", float(whole == resumed), "", target=1.0, more=True)


def curves(scale: Scale) -> Iterator[Row]:
    """Losses of float32, of the same with other dropout, and of bfloat16."""
    ends: dict[str, float] = {}
    for name, seed, precision in (("fp32", 0, "float32"), ("fp32 again", 1, "float32"), ("bf16", 0, "bfloat16")):
        learner, batches = _learner(scale, precision=precision), _batches(scale, 4)
        torch.manual_seed(seed)
        losses = []
        for number in range(scale.curve_steps):
            losses.append(learner.step(torch.from_numpy(batches[number % len(batches)]), step=number).loss)
            if number + 1 in (scale.curve_steps // 4, scale.curve_steps // 2, scale.curve_steps):
                ends[name] = torch.stack(losses[-max(1, scale.curve_steps // 4) :]).mean().item()
                yield figure(f"loss at step {number + 1}, {name}", ends[name], "")
    noise = max(abs(ends["fp32 again"] - ends["fp32"]), 0.01 * ends["fp32"])
    yield figure("bf16's gap over dropout's, or over 1 %", abs(ends["bf16"] - ends["fp32"]) / noise, "x", target=2.0)


def flex(scale: Scale) -> Iterator[Row]:
    from tests.benchmarks.sparse import attention_rows

    for context_s in scale.contexts_s:
        yield from attention_rows(scale.device, context_s, 4 if scale.device == "cuda" else 1)


GROUPS: dict[str, Callable[[Scale], Iterator[Row]]] = {
    function.__name__: function
    for function in (
        rates, families, step, compiled, memory, reference, kernels, separation, processes, curves, flex
    )
}  # fmt: skip


def _throughput(scale: Scale, compile_mode: str) -> Iterator[Row]:
    """Seconds until the first step is done, segments per second, peak, and the arithmetic that is reached."""
    name = "ours" if compile_mode == "off" else "ours compiled"
    learner, batches = _learner(scale, compile_mode=compile_mode), _batches(scale)
    yield figure(f"{name}, first step", _steps(learner, batches, 1)[0], "s")
    if compile_mode != "off":
        yield {"name": "compiler", "text": learner.compile_failure or "the losses of the plain network"}
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(_steps(learner, batches, scale.turns))
    yield figure(f"{name} bf16, segments, pageable", scale.rows / seconds, "1/s")
    began, device = time.perf_counter(), torch.device(scale.device)
    numbered = ((number, torch.from_numpy(batches[number % len(batches)])) for number in range(scale.turns + 2))
    for number, batch_BSCT in uploaded_ahead(numbered, device):
        if number == 2:
            began = time.perf_counter()
        learner.step(batch_BSCT, step=number)
    _wait(scale)
    rate = scale.rows * scale.turns / (time.perf_counter() - began)
    target = (120.0 if compile_mode == "off" else 200.0) if scale.device == "cuda" else None
    yield figure(f"{name} bf16, segments", rate, "1/s", target=target, more=True)
    yield figure(f"{name} bf16, arithmetic", rate * _cost(scale, 8).step_flop / 1e12, "TFLOP/s")
    if scale.device == "cuda":
        yield figure(f"{name} bf16, peak", torch.cuda.max_memory_allocated() / GIB, "GiB")


def _parts(learner: Learner, batches: list[Any], scale: Scale) -> dict[str, float]:
    """Mean seconds of copy, augmentation, forward, backward and optimizer, the device waited for around each."""
    taken: Counter[str] = Counter()

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            _wait(scale)
            began = time.perf_counter()
            result = function(*args, **kwargs)
            _wait(scale)
            taken[name] += time.perf_counter() - began
            return result

        return run

    with ExitStack() as stack:
        for name, owner, attribute in (
            ("copy", learner_module, "upload"),
            ("augmentation", learner_module, "augment"),
            ("forward", learner, "_losses"),
            ("backward", torch.autograd, "backward"),
            ("optimizer", learner, "_improve"),
        ):
            stack.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        _steps(learner, batches, scale.turns)
    return {name: seconds / scale.turns for name, seconds in taken.items()}


def _collectives(scale: Scale, folder: str) -> bool:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    backend = "nccl" if scale.device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        values = torch.arange(4.0, device=scale.device)
        dist.broadcast(values, 0)
        dist.all_reduce(values)
        learner = Learner(
            DistributedDataParallel(_model(scale).to(scale.device)), _config("bfloat16"), rows_at_once=2,
            sample_rate=_model(scale).config.sample_rate,
        )  # fmt: skip
        metrics = learner.step(torch.from_numpy(_batches(scale, 4)[0]), step=0)  # two parts: the first in no_sync
        return values.tolist() == [0.0, 1.0, 2.0, 3.0] and not metrics.skipped
    finally:
        dist.destroy_process_group()


def _train_until(scale: Scale, folder: str, steps: int, kill_after: int = 0) -> str:
    """Train to a step from what is in the folder, keeping every second; the digest of the weights."""
    from models.weights import checkpoint
    from models.weights.loading import load_model

    place = Path(folder)
    done = checkpoint.read_config(place)["extra"]["step"] if place.exists() else 0
    model = (load_model(place) if done else _model(scale)).to(scale.device)
    learner = Learner(model, _config("bfloat16"), sample_rate=_model(scale).config.sample_rate)
    if done:
        learner.load_state(checkpoint.load_learner(place))
    batches = _batches(scale, 4)
    for number in range(done, steps):
        torch.manual_seed(number)
        learner.step(torch.from_numpy(batches[number % len(batches)]), step=number)
        if (number + 1) % 2 == 0:
            checkpoint.save(place, model, learner=learner.state(), extra={"step": number + 1})
        if kill_after == number + 1:
            os.kill(os.getpid(), signal.SIGKILL)
    state = (value.detach().cpu().contiguous().numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(b"".join(state)).hexdigest()


def _kill_in_training(*args: Any, **kwargs: Any) -> None:
    """`_train_until` in a process of its own, which is killed as by a power cut."""
    process = multiprocessing.get_context("spawn").Process(target=_until_killed, args=(args, kwargs))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _until_killed(args: Any, kwargs: Any) -> None:
    die_with_parent()
    _train_until(*args, **kwargs)


def _model(scale: Scale) -> Any:
    torch.manual_seed(0)
    return build(scale.preset, **scale.options)


def _config(precision: str) -> LearnerConfig:
    """The published recipe, in the precision that is asked."""
    return LearnerConfig(precision=precision, augment=AugmentConfig())


def _learner(scale: Scale, *, compile_mode: str = "off", precision: str = "bfloat16") -> Learner:
    set_tf32("convolutions")
    model = _model(scale)
    return Learner(
        model.to(scale.device), _config(precision), device=scale.device, sample_rate=model.config.sample_rate,
        compile_mode=compile_mode,
    )  # fmt: skip


def _samples(scale: Scale) -> int:
    return int(_model(scale).config.segment_samples)


def _batches(scale: Scale, rows: int = 0) -> list[Any]:
    """Three batches of noise, as the loader gives them: NumPy, in memory that is not pinned."""
    config = _model(scale).config
    samples = AugmentConfig().input_samples(config.segment_samples, config.sample_rate)
    rng = np.random.default_rng(0)
    shape = rows or scale.rows, len(config.sources), config.audio_channels, samples
    return [0.1 * rng.standard_normal(shape, dtype=np.float32) for _ in range(3)]


def _cost(scale: Scale, rows: int) -> compute_cost.Cost:
    config = _model(scale).config
    return compute_cost.of(
        lambda: build(scale.preset, **scale.options), num_channels=config.audio_channels,
        num_samples=config.segment_samples, precision=torch.bfloat16, rows=rows,
    )  # fmt: skip


def _steps(learner: Learner, batches: list[Any], number: int) -> list[float]:
    """Seconds of each of so many steps; a step ends with a wait for the device."""
    seconds = []
    for step_number in range(number):
        began = time.perf_counter()
        learner.step(torch.from_numpy(batches[step_number % len(batches)]), step=step_number)
        if learner.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


def _median_s(run: Callable[[], Any], scale: Scale) -> float:
    seconds = []
    for turn in range(scale.turns + 2):
        _wait(scale)
        began = time.perf_counter()
        run()
        _wait(scale)
        if turn >= 2:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _wait(scale: Scale) -> None:
    if scale.device == "cuda":
        torch.cuda.synchronize()
