"""What a training will take before it is started: steps, arithmetic, memory, time and money, and whether it fits.

Arithmetic, memory and memory traffic come from the network itself (`models/networks/compute_cost`) or from a few
real steps. The time of computing follows from these counts and a GPU's rates; from the share of a device's peak rate
that training reaches (MFU) where that is measured or given, and on CPUs. Meanwhile the loader decodes the next rows on
the cores that workers ask for: a step takes the longer time.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from models.learner_config import equal_part
from pipelines.training import validate
from pipelines.training.train_config import ModelConfig, TrainConfig

if TYPE_CHECKING:
    import torch

    from models.networks.compute_cost import Cost

GIB = 2**30
CONTEXT_GIB = 1.0  # of a GPU's own libraries
AHEAD = 2  # batches on their way to a GPU
HEADROOM = 0.9  # of memory; the rest goes to gaps between blocks and to what a single operator needs meanwhile
CROPS_PER_CORE = 40.0  # rows of `CROP_S` of four stereo stems that one core decodes per second: `make bench-loader`
CROP_S = 10.0
PCM_TIMES = 8.0  # as many come out of a cache of decoded rows
CPU_MFU = 0.5  # of a core's rate of matrix products: HT Demucs in float32 reached 59 of 106 GFLOP/s
# Shares of a GPU's peak rates that large products and copies reached on an H200: 790 TFLOP/s and 4.3 TB/s.
PRODUCT_SHARE, TRAFFIC_SHARE = 0.8, 0.9
# Of the time that counts and rates give; the rest is gaps and small kernels. Assumed: no GPU has measured it yet.
EAGER_SHARE = 0.75
LAUNCH_S = 6e-6  # of the host, for each kernel without a compiler: assumed too
MEASURED_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What one worker computes on."""

    name: str
    memory_gib: float
    float32_tflops: float
    bfloat16_tflops: float
    memory_tb_per_s: float | None = None  # read and written together; None where the counts are not used
    dollars_per_hour: float  # list prices of large clouds, rounded; to be replaced by yours
    computes_bfloat16: bool = True  # False where bfloat16 is computed in float32: nothing gets smaller or faster

    def tflops(self, precision: str) -> float:
        return self.bfloat16_tflops if precision == "bfloat16" else self.float32_tflops


DEVICES = {
    device.name: device
    for device in (
        Device(
            name="h100",
            memory_gib=80,
            float32_tflops=67,
            bfloat16_tflops=989,
            memory_tb_per_s=3.35,
            dollars_per_hour=3.0,
        ),
        Device(
            name="h200",
            memory_gib=141,
            float32_tflops=67,
            bfloat16_tflops=989,
            memory_tb_per_s=4.8,
            dollars_per_hour=4.0,
        ),
        Device(
            name="a100-80",
            memory_gib=80,
            float32_tflops=19.5,
            bfloat16_tflops=312,
            memory_tb_per_s=2.0,
            dollars_per_hour=2.0,
        ),
        Device(
            name="a100-40",
            memory_gib=40,
            float32_tflops=19.5,
            bfloat16_tflops=312,
            memory_tb_per_s=1.55,
            dollars_per_hour=1.5,
        ),
        Device(
            name="l4", memory_gib=24, float32_tflops=30, bfloat16_tflops=121, memory_tb_per_s=0.3, dollars_per_hour=0.8
        ),
        Device(
            name="rtx4090",
            memory_gib=24,
            float32_tflops=83,
            bfloat16_tflops=165,
            memory_tb_per_s=1.0,
            dollars_per_hour=0.5,
        ),
        Device(
            name="v100-32",
            memory_gib=32,
            float32_tflops=15.7,
            bfloat16_tflops=15.7,
            memory_tb_per_s=0.9,
            dollars_per_hour=1.0,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSteps:
    """What real steps on a device of this machine took, `rows` at once."""

    rows: int
    seconds: float
    peak_gib: float | None  # of a GPU
    mfu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training on paper. Memory is that of one worker."""

    device: str
    num_workers: int
    parameters: int
    forward_gflop: float  # of one row
    steps: int
    batch_size: int
    segment_s: float
    heard_h: float  # of music, over all steps
    passes: float | None  # over the corpus; None where its length is not known
    rows_at_once: int
    parts: int  # that a worker's share of a step is computed in
    weights_gib: float  # with gradients, optimizer and averages
    row_gib: float
    memory_gib: float
    limit_gib: float
    mfu: float
    mfu_is_measured: bool
    compute_s: float  # of a step
    arithmetic_s: float  # of a step, by the counts alone
    traffic_s: float | None  # the same for reading and writing memory; None on a CPU
    launches_s: float | None  # that the host takes to start the kernels of a step; the device works meanwhile
    limit: str  # of computing: "arithmetic", "memory traffic" or "launches"
    loading_s: float  # of the rows of a step, by the cores that workers ask for
    step_s: float  # the longer of the two; on a CPU, whose cores do both, their sum
    bound: str  # by what: "compute" or "loader"
    hours: float
    dollars: float
    crops_per_s: float  # that have to be decoded, all workers together
    loading_cores: int  # that workers ask for and loaders use
    decoding_cores: float  # that would keep up with computing
    cpus_per_worker: int  # the least setting with so many
    validation_s: float  # of one validation; not in `hours`
    validation_share: float  # of the whole time
    advice: str  # the nearest setting that fits; empty where this one does

    @property
    def fits(self) -> bool:
        return not self.advice

    @property
    def rows_to_fill(self) -> int:
        """The least rows at once with which starting kernels does not bind; 0 where it does not bind now."""
        if self.limit != "launches" or self.traffic_s is None or self.launches_s is None:
            return 0
        parts = (self.arithmetic_s + self.traffic_s) / EAGER_SHARE / (self.launches_s / self.parts)
        return math.ceil(self.parts * self.rows_at_once / max(1.0, parts))


def make(
    config: TrainConfig,
    model: ModelConfig,
    *,
    sources: tuple[str, ...],
    device: Device,
    sample_rate: int = 44100,
    channels: int = 2,
    corpus_h: float | None = None,
    mfu: float = 0.0,
    measured: MeasuredSteps | None = None,
) -> Plan:
    """The plan of a training; `mfu` above 0 replaces what is assumed, and a measurement replaces both."""
    workers = max(1, config.num_workers)
    precision = config.learner.precision
    room = _Room(config, model, device, sources=sources, sample_rate=sample_rate, channels=channels)
    cost, segment_s = room.price_in(precision)
    share = max(len(config.rows_of(rank, workers)) for rank in range(workers))
    rows = equal_part(share, config.micro_batch, config.learner.compared_rows)
    times = _StepTimes.of(cost, device, precision, share=share, rows=rows)
    peak_flops = device.tflops(precision) * 1e12
    used = measured.mfu if measured else mfu or share * cost.step_flop / (times.compute_s * peak_flops)
    compute_s = share * cost.step_flop / (used * peak_flops)
    row_core_s = _row_core_s(config, sources, channels, segment_s, sample_rate)
    cores = min(config.loader.threads or config.cpus_per_worker, config.cpus_per_worker)
    loading_s = share * row_core_s / cores
    step_s = max(compute_s, loading_s) if device.name in DEVICES else compute_s + loading_s
    validation_s = validate.planned_s(
        config, segment_s=segment_s, row_step_s=compute_s / share, song_core_s=_core_s(sources, channels, sample_rate)
    )
    hours, heard_h = config.steps * step_s / 3600, config.steps * config.batch_size * segment_s / 3600
    return Plan(
        device=device.name,
        num_workers=workers,
        parameters=cost.parameters,
        forward_gflop=cost.forward_flop / 1e9,
        steps=config.steps,
        batch_size=config.batch_size,
        segment_s=segment_s,
        heard_h=heard_h,
        passes=heard_h / corpus_h if corpus_h else None,
        rows_at_once=rows,
        parts=math.ceil(share / rows),
        weights_gib=room.weights_gib,
        row_gib=room.row_gib(precision),
        memory_gib=room.needed_gib(rows, precision),
        limit_gib=HEADROOM * device.memory_gib,
        mfu=used,
        mfu_is_measured=bool(measured),
        compute_s=compute_s,
        arithmetic_s=times.arithmetic_s,
        traffic_s=times.traffic_s,
        launches_s=times.launches_s,
        limit=times.limit,
        loading_s=loading_s,
        step_s=step_s,
        bound="loader" if loading_s > compute_s else "compute",
        hours=hours,
        dollars=hours * workers * device.dollars_per_hour,
        crops_per_s=config.batch_size / step_s,
        loading_cores=workers * cores,
        decoding_cores=workers * share * row_core_s / compute_s,
        cpus_per_worker=max(1, math.ceil(share * row_core_s / compute_s)),
        validation_s=validation_s,
        validation_share=validation_s / (validation_s + config.checkpoint_every * step_s),
        advice=room.advice(rows, precision, share=share),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepTimes:
    """What a step takes by the counts and the rates of a device."""

    compute_s: float
    arithmetic_s: float
    traffic_s: float | None
    launches_s: float | None
    limit: str

    @classmethod
    def of(cls, cost: "Cost", device: Device, precision: str, *, share: int, rows: int) -> "_StepTimes":
        """Products and the traffic between them take turns; the host starts kernels meanwhile."""
        flops = device.tflops(precision) * 1e12
        if device.memory_tb_per_s is None:
            seconds = share * cost.step_flop / (CPU_MFU * flops)
            return cls(compute_s=seconds, arithmetic_s=seconds, traffic_s=None, launches_s=None, limit="arithmetic")
        arithmetic_s = share * cost.step_flop / (PRODUCT_SHARE * flops)
        moved_bytes = share * (cost.elementwise_bytes + cost.product_bytes)
        traffic_s = moved_bytes / (TRAFFIC_SHARE * device.memory_tb_per_s * 1e12)
        launches_s = math.ceil(share / rows) * cost.kernels * LAUNCH_S
        device_s = (arithmetic_s + traffic_s) / EAGER_SHARE
        slower = "arithmetic" if arithmetic_s > traffic_s else "memory traffic"
        return cls(
            compute_s=max(device_s, launches_s),
            arithmetic_s=arithmetic_s,
            traffic_s=traffic_s,
            launches_s=launches_s,
            limit="launches" if launches_s > device_s else slower,
        )


def device_named(name: str, memory_gib: float) -> Device | None:
    """The device of the list that a driver calls by this name, such as "NVIDIA H200"; None where it is not in it."""
    fitting = [
        device
        for device in DEVICES.values()
        if device.name.split("-")[0].removeprefix("rtx") in name.lower().replace("-", " ").split()
    ]
    return min(fitting, key=lambda device: abs(device.memory_gib - memory_gib), default=None)


def fewer_rows(
    config: TrainConfig, model: ModelConfig, *, sources: tuple[str, ...], sample_rate: int, channels: int,
    memory_gib: float, num_rows: int,
) -> int:  # fmt: skip
    """Rows at once for a worker of `num_rows` whose device of this size ran out of memory; 0 where none would fit.

    As many as fit by the counts, at most half of what was tried.
    """
    device = replace(DEVICES["h200"], memory_gib=memory_gib)
    room = _Room(config, model, device, sources=sources, sample_rate=sample_rate, channels=channels)
    group = config.learner.compared_rows
    half = equal_part(num_rows, config.micro_batch, group) // 2
    limit = min(half, room.rows_that_fit(config.learner.precision)) // group * group
    return equal_part(num_rows, limit, group) if limit else 0


def price(
    model: ModelConfig, *, sources: tuple[str, ...], sample_rate: int, channels: int, precision: str = "float32"
) -> "tuple[Cost, float]":
    """The cost of one row, and how long that is in seconds."""
    options = {"sources": sources, "sample_rate": sample_rate, "audio_channels": channels} | model.options
    return _price(model.preset, json.dumps(options, sort_keys=True), precision)


@cache
def _price(preset: str, options: str, precision: str) -> "tuple[Cost, float]":
    import torch

    from models.mixed_precision import DTYPES
    from models.networks import compute_cost
    from models.networks.bag import interface
    from models.networks.catalog import build

    changes = json.loads(options)
    with torch.device("meta"):
        shape = interface(build(preset, **changes))
    priced = compute_cost.of(
        lambda: build(preset, **changes), num_channels=shape.audio_channels, num_samples=shape.segment_samples,
        precision=DTYPES[precision],
    )  # fmt: skip
    return priced, shape.segment_samples / shape.sample_rate


def _row_core_s(
    config: TrainConfig, sources: tuple[str, ...], channels: int, segment_s: float, sample_rate: int
) -> float:
    """Seconds that one core takes to read and decode a row, by the samples in it."""
    samples = config.learner.augment.input_samples(round(segment_s * sample_rate), sample_rate)
    decoded = bool(config.loader.cache) and config.loader.cache_form == "pcm"
    seconds = samples / sample_rate / (PCM_TIMES if decoded else 1.0)
    return seconds * _core_s(sources, channels, sample_rate)


def _core_s(sources: tuple[str, ...], channels: int, sample_rate: int) -> float:
    """Seconds that one core takes to read and decode a second of all stems."""
    return len(sources) * channels * sample_rate / (4 * 2 * 44100 * CROP_S) / CROPS_PER_CORE


def _stems_gib(
    config: TrainConfig, sources: tuple[str, ...], channels: int, segment_s: float, sample_rate: int
) -> float:
    """A worker's rows as they come in, as augmented, in passing, and the next ones, which are uploaded meanwhile."""
    samples = config.learner.augment.input_samples(round(segment_s * sample_rate), sample_rate)
    rows = config.batch_size / max(1, config.num_workers)
    return (3 + AHEAD) * 4 * rows * len(sources) * channels * samples / GIB


class _Room:
    """What goes into a device's memory."""

    def __init__(
        self, config: TrainConfig, model: ModelConfig, device: Device, *,
        sources: tuple[str, ...], sample_rate: int, channels: int,
    ) -> None:  # fmt: skip
        from models.networks.compute_cost import ADAM_COPIES

        def price_in(precision: str) -> "tuple[Cost, float]":
            computed = precision if device.computes_bfloat16 else "float32"
            return price(model, sources=sources, sample_rate=sample_rate, channels=channels, precision=computed)

        self.config, self.price_in, self.device = config, price_in, device
        cost, self.segment_s = price_in(config.learner.precision)
        stems_gib = _stems_gib(config, sources, channels, self.segment_s, sample_rate)
        learner = config.learner
        averages = len(learner.ema_decays) + len(learner.epoch_ema_decays)
        copies = 2 + ADAM_COPIES + averages + (config.num_workers > 1)  # weights and gradients; buckets to exchange
        self.weights_gib = 4 * cost.parameters * copies / GIB
        self.fixed_gib = self.weights_gib + stems_gib + (CONTEXT_GIB if device.name in DEVICES else 0.5)
        # Between trainings' steps: weights and averages, and of an excerpt the stems, the estimates and their sum
        samples = validate.excerpt_s(config) * sample_rate
        self.validation_gib = self.weights_gib + 3 * 4 * len(sources) * channels * samples / GIB
        self.limit_gib = HEADROOM * device.memory_gib

    def row_gib(self, precision: str) -> float:
        return self.price_in(precision)[0].kept_bytes / GIB

    def needed_gib(self, rows: int, precision: str) -> float:
        return max(self.fixed_gib + rows * self.row_gib(precision), self.validation_gib)

    def advice(self, rows: int, precision: str, *, share: int) -> str:
        """The setting nearest to this one that fits: fewer rows at once, then bfloat16, then a shorter segment.

        Rows at once are a size of equal parts of a worker's `share`, as they are computed.
        """
        if self.needed_gib(rows, precision) <= self.limit_gib:
            return ""
        if self.validation_gib > self.limit_gib > self.weights_gib:
            fitting = (self.limit_gib - self.weights_gib) / (self.validation_gib - self.weights_gib)
            if (fitting_s := math.floor(fitting * validate.excerpt_s(self.config))) >= 1:  # 0 would be whole songs
                return f"train.valid_s={fitting_s}"
        least = self.config.learner.compared_rows
        for setting, option in (("", precision), ("train.learner.precision=bfloat16 ", "bfloat16")):
            if fitting := self.rows_that_fit(option):
                return f"{setting}train.micro_batch={equal_part(share, min(rows, fitting), least)}"
        scale = (self.limit_gib - self.fixed_gib) / (least * self.row_gib(precision))
        if scale * self.segment_s >= 1:
            return f"train.micro_batch={least} model.options.segment_s={math.floor(10 * scale * self.segment_s) / 10:g}"
        return f"a device with {math.ceil(self.needed_gib(least, precision) / HEADROOM)} GiB of memory"

    def rows_that_fit(self, precision: str) -> int:
        group = self.config.learner.compared_rows
        rows = math.floor((self.limit_gib - self.fixed_gib) / self.row_gib(precision))
        return max(0, rows // group * group)


def this_machine(config: TrainConfig) -> Device:
    """The cores and the memory of one worker here, the rate of a core measured by matrix products."""
    import psutil

    from models.mixed_precision import cpu_computes_bfloat16

    rate = _core_tflops() * config.cpus_per_worker
    return Device(
        name="this machine",
        memory_gib=psutil.virtual_memory().total / GIB / max(1, config.num_workers),
        float32_tflops=rate,
        bfloat16_tflops=rate,
        dollars_per_hour=0.0,
        computes_bfloat16=cpu_computes_bfloat16(),
    )


def _core_tflops() -> float:
    """Of one core, in CPU seconds, so that other work on the machine does not count."""
    import torch

    from models.inference.threads import num_threads_here

    with num_threads_here(1):
        a = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
        best = math.inf
        for _ in range(4):
            began = time.thread_time()
            a @ a
            best = min(best, time.thread_time() - began)
    return 2 * 1024**3 / best / 1e12


def measure(
    config: TrainConfig, model: ModelConfig, *, sources: tuple[str, ...], device: Device, rows: int
) -> MeasuredSteps:
    """Real steps on this machine with noise for songs: the least time of a few, and a GPU's peak memory."""
    import torch

    from models.learning.learner import Learner
    from models.networks.bag import interface
    from models.networks.catalog import build

    where = torch.device("cuda" if config.use_gpu else "cpu")
    if config.use_gpu and not torch.cuda.is_available():
        raise InputError("there is no GPU here to measure on: set train.use_gpu=false, or leave out --measure")
    cost, _ = price(model, sources=sources, sample_rate=44100, channels=2)
    network = build(model.preset, **({"sources": sources} | model.options)).to(where)
    shape = interface(network)
    augment = replace(config.learner.augment, remix_probability=0.0)
    learner = Learner(network, replace(config.learner, augment=augment), device=where, total_steps=config.steps)
    samples = augment.input_samples(shape.segment_samples, shape.sample_rate)
    stems = torch.randn(
        rows, len(shape.sources), shape.audio_channels, samples, generator=torch.Generator().manual_seed(0)
    )
    best = math.inf
    for step in range(MEASURED_STEPS):
        began = time.monotonic()
        learner.step(stems, step=step)  # waits for the device: it asks whether the gradient is finite
        best = min(best, time.monotonic() - began) if step else best
    return MeasuredSteps(
        rows=rows,
        seconds=best,
        peak_gib=_peak_gib(where),
        mfu=rows * cost.step_flop / best / (device.tflops(config.learner.precision) * 1e12),
    )


def _peak_gib(device: "torch.device") -> float | None:
    import torch

    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def words(plan: Plan) -> dict[str, Any]:
    """The plan as JSON can hold it, with whether it fits."""
    return {**asdict(plan), "fits": plan.fits}
