"""`stemline plan`: what a training will take before it is started, and whether it fits."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.corpus.scan import survey
from datasets.errors import InputError
from datasets.ranges import NonNegativeFloat, Probability, complain, declarations
from datasets.shards import versions
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, duration, table
from models.errors import ModelError
from pipelines.runtime.progress import stage
from pipelines.training import estimate as planning
from pipelines.training.estimate import Device, MeasuredSteps, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the training will run on, as far as it was said."""

    gpu: str = ""  # one of `pipelines.training.estimate.DEVICES`
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

    Example: `stemline plan htdemucs-one-gpu --gpu l4`
    """

    def job(config: RunConfig, screen: Screen) -> dict[str, Any]:
        hardware = Hardware(gpu=gpu, memory_gib=memory_gib, mfu=mfu, price=price)
        return run(config, hardware, measured=measure, screen=screen)

    if options.preset and preset:  # then the first argument is an override
        overrides = (preset, *overrides)
    return run_verb(overrides, options, job, preset=preset)


def run(config: RunConfig, hardware: Hardware, *, measured: bool, screen: Screen) -> dict[str, Any]:
    """The plan; the exit code is 2 when the training would not fit."""
    with stage(screen, "plan", 0, "") as heard:
        device = _device(config, hardware)
        num_songs, hours, found = _corpus(config)
        try:
            taken = _measure(config, device, screen) if measured else None
            made = planning.make(
                config.train, config.model, sources=config.corpus.sources, device=device, corpus_h=hours,
                mfu=hardware.mfu, measured=taken,
            )  # fmt: skip
        except ModelError as error:
            raise InputError(str(error)) from error
        heard.finish(f"{made.parameters / 1e6:.1f} M parameters, {made.steps} steps")
    return {
        "songs": num_songs,
        "corpus_hours": hours,
        "plan": planning.words(made),
        "measured": asdict(taken) if taken else None,
        "shown": _shown(made, _songs(num_songs, hours, found), config, device, taken),
        "exit_code": 0 if made.fits else 2,
    }


def _device(config: RunConfig, hardware: Hardware) -> Device:
    if hardware.gpu and hardware.gpu not in planning.DEVICES:
        raise InputError(f"--gpu {hardware.gpu!r} is not known: {', '.join(planning.DEVICES)} would do")
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
    """Songs and hours of the newest dataset in the store; else the songs that the folder's names promise."""
    try:
        known = versions.list_versions(config.store.tables)
    except InputError:
        known = []
    if known:
        return known[0].num_songs, known[0].hours, f"dataset {known[0].id} of the store"
    if not config.corpus.root:
        return None, None, "not known: no dataset in the store, and corpus.root is not set"
    corpus = config.corpus
    seen = survey(
        corpus.root, sources=corpus.sources, split_seed=corpus.split_seed, valid_fraction=corpus.valid_fraction,
        test_fraction=corpus.test_fraction, rules=corpus.rules,
    )  # fmt: skip
    return sum(not song.reason for song in seen.songs), None, "by their names; hours are known after stemline ingest"


def _measure(config: RunConfig, device: Device, screen: Screen) -> MeasuredSteps:
    screen.note("real steps")
    share = config.train.batch_size // max(1, config.train.num_workers)
    rows = (config.train.micro_batch or share) if config.train.use_gpu else 1
    return planning.measure(config.train, config.model, sources=config.corpus.sources, device=device, rows=rows)


def _songs(num_songs: int | None, hours: float | None, found: str) -> list[str]:
    words = found if hours is None else f"{hours:.1f} h, {found}"
    return ["songs", "–" if num_songs is None else f"{num_songs:,}", words]


def _shown(made: Plan, songs: list[str], config: RunConfig, device: Device, taken: MeasuredSteps | None) -> list[Any]:
    heard = f"{made.heard_h:,.{0 if made.heard_h >= 10 else 2}f} h" + (
        f", {made.passes:,.0f} times the corpus" if made.passes else ""
    )
    how = "measured" if made.mfu_is_measured else "assumed"
    rows = [
        songs,
        ["steps", f"{made.steps:,}", f"of {made.batch_size} segments of {made.segment_s:g} s: {heard}"],
        [
            "network",
            f"{made.parameters / 1e6:.1f} M",
            f"{config.model.preset}, {made.forward_gflop:,.0f} GFLOP forward",
        ],
        ["memory", f"{made.memory_gib:.1f} GiB", _memory(made)],
        ["workers", str(made.num_workers), f"{made.device}, {device.memory_gib:.0f} GiB each"],
        [
            "a step",
            duration(made.step_s),
            f"{made.compute_s:.2g} s to compute ({config.train.learner.precision}, at {100 * made.mfu:.0f} % of peak, "
            f"{how}), {made.loading_s:.2g} s to load",
        ],
        ["time", _days(made.hours), f"{made.hours * made.num_workers:,.0f} device-hours, validation not counted"],
        ["cost", f"{made.dollars:,.0f} $", f"{device.dollars_per_hour:g} $ per device and hour"],
        [
            "loader",
            f"{made.crops_per_s:.1f}/s",
            f"segments decoded by {made.loading_cores} cores; {made.decoding_cores:.1f} would keep up with computing",
        ],
    ]
    if taken:
        peak = "" if taken.peak_gib is None else f", {taken.peak_gib:.1f} GiB at most"
        rows.append(["measured", duration(taken.seconds), f"a real step of {taken.rows} rows here{peak}"])
    title = table("Plan", ["", "", ""], [])
    title.show_header = False
    title.columns[2].justify, title.columns[2].overflow = "left", "fold"
    title.columns[1].no_wrap = True
    for row in rows:
        title.add_row(*map(Text, row))
    verdict = "It fits." if made.fits else f"It does not fit into {made.limit_gib:.0f} GiB; {made.advice} would do."
    return [title, Text(verdict, style="" if made.fits else "red", overflow="fold"), *_bound(made, config)]


def _bound(made: Plan, config: RunConfig) -> list[Text]:
    """Where the GPUs would wait for songs, and which setting would end that."""
    if made.bound == "compute":
        return [Text("Computing binds, not the loader.", overflow="fold")]
    setting = f"train.cpus_per_worker={made.cpus_per_worker}"
    if 0 < config.train.loader.threads < made.cpus_per_worker:
        setting += " train.loader.threads=0"
    hours = made.hours * made.compute_s / made.step_s
    return [Text(f"The loader binds: with {setting} it would take {_days(hours)}.", style="yellow", overflow="fold")]


def _memory(made: Plan) -> str:
    return (
        f"computed: {made.weights_gib:.1f} for weights, gradients, optimizer and averages, "
        f"{made.rows_at_once} x {made.row_gib:.2f} for rows at once; {made.limit_gib:.0f} can be used"
    )


def _days(hours: float) -> str:
    return f"{hours / 24:,.1f} days" if hours >= 48 else duration(3600 * hours)
