"""`stemline plan`: the steps, memory, time and cost of a training before it is started, and whether it fits."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.corpus.scan import survey
from datasets.errors import InputError
from datasets.field_constraints import NonNegativeFloat, Probability, complain, declarations
from datasets.shards import dataset_versions
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, duration, table
from models.errors import ModelError
from pipelines.runtime.progress import stage
from pipelines.training import resource_estimate as planning
from pipelines.training import validate
from pipelines.training.resource_estimate import Device, MeasuredSteps, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the training will run on, as far as it is given."""

    gpu: str = ""  # one of `pipelines.training.resource_estimate.DEVICES`
    memory_gib: NonNegativeFloat = 0.0  # 0: the device's
    mfu: Probability = 0.0  # 0: assumed
    price: NonNegativeFloat = 0.0  # dollars per hour of a device; 0: the list's

    def __post_init__(self) -> None:
        for name, declared in declarations(Hardware).items():
            if complaint := complain("--" + name.replace("_", "-"), getattr(self, name), declared):
                raise InputError(complaint)


def plan(
    preset: Annotated[str, Parameter(help="A name, or a .toml file; --preset works as well.")] = "",
    /,
    *overrides: Overrides,
    gpu: Annotated[str, Parameter(help="h100, h200, a100-80, a100-40, l4, rtx4090 or v100-32.")] = "",
    memory_gib: Annotated[float, Parameter(help="Of one device, instead of its own.")] = 0.0,
    mfu: Annotated[float, Parameter(help="Share of the peak rate that you have measured, such as 0.3.")] = 0.0,
    price: Annotated[float, Parameter(help="Dollars per device and hour, instead of a list price.")] = 0.0,
    measure: Annotated[bool, Parameter(negative="", show_default=False, help="Take real steps here.")] = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Say what a training will take, in steps, memory, time and money, and whether it fits.

    Example: `stemline plan --preset htdemucs-one-gpu --gpu l4`
    """

    def job(config: RunConfig, screen: Screen) -> dict[str, Any]:
        hardware = Hardware(gpu=gpu, memory_gib=memory_gib, mfu=mfu, price=price)
        return run(config, hardware, measured=measure, screen=screen)

    if options.preset and preset:  # then the first argument is an override
        overrides = (preset, *overrides)
    return run_verb(overrides, options, job, preset=preset)


def run(config: RunConfig, hardware: Hardware, *, measured: bool, screen: Screen) -> dict[str, Any]:
    """The plan; the exit code is 2 if the training does not fit."""
    with stage(screen, "plan", 0, "") as progress:
        num_songs, hours, origin = _corpus(config)
        device = _device(config, hardware)
        steps = _measure(config, device, screen) if measured else None
        planned = plan_of(config, hardware, corpus_h=hours, measured=steps)
        progress.finish(f"{planned.parameters / 1e6:.1f} M parameters, {planned.steps} steps")
    return {
        "songs": num_songs,
        "corpus_hours": hours,
        "plan": planning.words(planned),
        "measured": asdict(steps) if steps else None,
        "console_output": _console_output(planned, _songs_row(num_songs, hours, origin), config, device, steps),
        "exit_code": 0 if planned.fits else 2,
    }


def plan_of(
    config: RunConfig, hardware: Hardware, *, corpus_h: float | None, measured: MeasuredSteps | None = None
) -> Plan:
    """What a training on this hardware will take; InputError where the network cannot be built."""
    try:
        return planning.make(
            config.train, config.model, sources=config.corpus.sources, device=_device(config, hardware),
            corpus_h=corpus_h, mfu=hardware.mfu, measured=measured,
        )  # fmt: skip
    except ModelError as error:
        raise InputError(str(error)) from error


def corpus_hours(config: RunConfig) -> float | None:
    """Of the newest dataset in the store; None where there is none."""
    return _corpus(config)[1]


def _device(config: RunConfig, hardware: Hardware) -> Device:
    if hardware.gpu and hardware.gpu not in planning.DEVICES:
        raise InputError(f"--gpu must be one of {', '.join(planning.DEVICES)}, got {hardware.gpu!r}")
    if hardware.gpu or config.train.use_gpu:
        device = planning.DEVICES[hardware.gpu or "h100"]
    else:
        device = planning.this_machine(config.train)
    return replace(
        device,
        memory_gib=hardware.memory_gib or device.memory_gib,
        dollars_per_hour=hardware.price or device.dollars_per_hour,
    )


def _corpus(config: RunConfig) -> tuple[int | None, float | None, str]:
    """Songs, hours and origin: of the newest dataset in the store, else by the names in the corpus folder."""
    try:
        stored = dataset_versions.list_versions(config.store.tables)
    except InputError:
        stored = []
    if stored:
        return stored[0].num_songs, stored[0].hours, f"dataset {stored[0].id} of the store"
    if not config.corpus.root:
        return None, None, "not known: no dataset in the store, and corpus.root is not set"
    corpus = config.corpus
    surveyed = survey(
        corpus.root, sources=corpus.sources, split_seed=corpus.split_seed, valid_fraction=corpus.valid_fraction,
        test_fraction=corpus.test_fraction, rules=corpus.rules,
    )  # fmt: skip
    num_songs = sum(not song.reason for song in surveyed.songs)
    return num_songs, None, "by their names; hours are known after stemline ingest"


def _measure(config: RunConfig, device: Device, screen: Screen) -> MeasuredSteps:
    screen.note("real steps")
    share = config.train.batch_size // max(1, config.train.num_workers)
    rows = (config.train.micro_batch or share) if config.train.use_gpu else 1
    try:
        return planning.measure(config.train, config.model, sources=config.corpus.sources, device=device, rows=rows)
    except ModelError as error:
        raise InputError(str(error)) from error


def _songs_row(num_songs: int | None, hours: float | None, origin: str) -> list[str]:
    remark = origin if hours is None else f"{hours:.1f} h, {origin}"
    return ["songs", "–" if num_songs is None else f"{num_songs:,}", remark]


def _console_output(
    plan: Plan, songs: list[str], config: RunConfig, device: Device, measured: MeasuredSteps | None
) -> list[Any]:
    audio = f"{plan.heard_h:,.{0 if plan.heard_h >= 10 else 2}f} h" + (
        f", {plan.passes:,.0f} times the corpus" if plan.passes else ""
    )
    source = "measured" if plan.mfu_is_measured else "assumed"
    rows = [
        songs,
        ["steps", f"{plan.steps:,}", f"of {plan.batch_size} segments of {plan.segment_s:g} s: {audio}"],
        [
            "network",
            f"{plan.parameters / 1e6:.1f} M",
            f"{config.model.preset}, {plan.forward_gflop:,.0f} GFLOP forward",
        ],
        ["memory", f"{plan.memory_gib:.1f} GiB", _memory(plan)],
        ["workers", str(plan.num_workers), f"{plan.device}, {device.memory_gib:.0f} GiB each"],
        [
            "a step",
            duration(plan.step_s),
            f"{plan.compute_s:.2g} s to compute ({config.train.learner.precision}, at {100 * plan.mfu:.0f} % of peak, "
            f"{source}), {plan.loading_s:.2g} s to load",
        ],
        ["computing", plan.limit, _limits(plan)],
        [
            "time",
            _days(plan.hours),
            f"{plan.hours * plan.num_workers:,.0f} device-hours, validation not counted",
        ],
        ["validation", duration(plan.validation_s), _validation(plan, config)],
        ["cost", f"{plan.dollars:,.0f} $", f"{device.dollars_per_hour:g} $ per device and hour"],
        [
            "loader",
            f"{plan.crops_per_s:.1f}/s",
            f"segments decoded by {plan.loading_cores} cores; {plan.decoding_cores:.1f} would keep up with computing",
        ],
    ]
    if measured:
        peak = "" if measured.peak_gib is None else f", {measured.peak_gib:.1f} GiB at most"
        rows.append(["measured", duration(measured.seconds), f"a real step of {measured.rows} rows here{peak}"])
    grid = table("Plan", ["", "", ""], [])
    grid.show_header = False
    grid.columns[2].justify, grid.columns[2].overflow = "left", "fold"
    grid.columns[1].no_wrap = True
    for row in rows:
        grid.add_row(*map(Text, row))
    verdict = "It fits." if plan.fits else f"It does not fit into {plan.limit_gib:.0f} GiB; try {plan.advice}."
    lines = [Text(verdict, style="" if plan.fits else "red", overflow="fold"), *_bound(plan, config)]
    if plan.validation_share > validate.MAX_SHARE:
        steps = validate.steps_between(validation_s=plan.validation_s, step_s=plan.step_s)
        text = f"Validation takes more than 5 % of the time: use train.checkpoint_every={steps}, or less train.valid_s."
        lines.append(Text(text, style="yellow", overflow="fold"))
    return [grid, *lines]


def _bound(plan: Plan, config: RunConfig) -> list[Text]:
    """Whether the GPUs would wait for the loader or for the host, and which setting avoids that."""
    if plan.bound == "compute" and plan.rows_to_fill:
        remedy = f"at least train.micro_batch={plan.rows_to_fill}, or train.micro_batch=0"
        return [
            Text(
                f"Starting kernels binds: {plan.rows_at_once} rows at once are too few for this GPU; use {remedy}.",
                style="yellow",
                overflow="fold",
            )
        ]
    if plan.bound == "compute":
        return [Text("Computing binds, not the loader.", overflow="fold")]
    setting = f"train.cpus_per_worker={plan.cpus_per_worker}"
    if 0 < config.train.loader.threads < plan.cpus_per_worker:
        setting += " train.loader.threads=0"
    hours = plan.hours * plan.compute_s / plan.step_s
    return [Text(f"The loader binds: with {setting} it would take {_days(hours)}.", style="yellow", overflow="fold")]


def _validation(plan: Plan, config: RunConfig) -> str:
    train = config.train
    length = f"{train.valid_s:g} s of each" if train.valid_s else "whole songs"
    return (
        f"{100 * plan.validation_share:.1f} % of the time: every {train.checkpoint_every} steps {train.valid_songs} "
        f"songs, {length}, by {validate.num_candidates(train)} sets of weights"
    )


def _memory(plan: Plan) -> str:
    return (
        f"computed: {plan.weights_gib:.1f} for weights, gradients, optimizer and averages, "
        f"{plan.rows_at_once} x {plan.row_gib:.2f} for rows at once; {plan.limit_gib:.0f} can be used"
    )


def _limits(plan: Plan) -> str:
    """What of computing takes how long, by counts and the rates of the device."""
    if plan.traffic_s is None or plan.launches_s is None:
        return "binds"
    return (
        f"binds: {plan.arithmetic_s:.2g} s of arithmetic, {plan.traffic_s:.2g} s of memory traffic; "
        f"{plan.launches_s:.2g} s to start kernels meanwhile"
    )


def _days(hours: float) -> str:
    return f"{hours / 24:,.1f} days" if hours >= 48 else duration(3600 * hours)
