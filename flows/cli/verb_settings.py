"""The settings that act in each verb, as its `--help` lists them: those that matter with what they do, then names."""

from collections.abc import Iterator

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.config.commented_toml import THAT_MATTER
from flows.config.run_config import RunConfig
from flows.config.setting_descriptions import Setting, every
from flows.config.setting_overrides import override
from flows.config.settings_schema import meaning

# Sections, and single settings, that a verb reads itself. Steps of the pipeline read those of the steps before as well.
STEPS = {
    "ingest": ("corpus", "ingest"),
    "curate": ("curate",),
    "analyze": ("analyze",),
    "automix": ("automix", "automix_weight"),
    "train": ("model", "train", "registry.experiment", "registry.artifacts", "gate.refuse_non_commercial"),
    "evaluate": ("evaluate", "registry.name"),
    "promote": ("gate", "registry", "notify"),
}
WHOLE_PIPELINE = {
    "run": ("separate", "report"),
    "demo": ("separate", "report"),
    "retrain": ("retrain", "separate", "report"),
    "deploy": ("retrain", "separate", "report"),
}
OTHERS = {
    "init": ("corpus",),
    "inspect": ("corpus",),
    "plan": ("corpus", "ingest", "automix", "automix_weight", "model", "train", "evaluate"),
    "doctor": ("train.use_gpu", "train.num_workers", "train.backup_uri"),
    "separate": ("separate",),
    "compare": ("evaluate", "gate"),
    "listen": ("listen", "evaluate", "gate", "registry"),
    "outliers": (  # without the split, which is an option, and what the ranking does not read
        "evaluate.overlap",
        "evaluate.shifts",
        "evaluate.window_s",
        "evaluate.max_song_s",
        "evaluate.precision",
        "evaluate.batch_size",
        "evaluate.num_workers",
        "evaluate.use_gpu",
    ),
    "history": ("registry",),
    "lineage": ("registry",),
    "card": ("registry",),
    "rollback": ("registry", "notify"),
    "forget": ("corpus.root", "curate.overrides", "curate.min_similarity", "train.loader.cache"),
    "notify": ("notify", "registry.name"),
    "webhook": ("notify.wait_s",),
}
OF_CURATED_SONGS = ("compare", "listen", "outliers", "forget")  # these find the songs again as curation left them
STORE = ("store",)  # every verb with settings reads these


def own(verb: str) -> tuple[str, ...]:
    """Sections and settings that act in a verb, without those of steps before it."""
    return (*{**STEPS, **WHOLE_PIPELINE, **OTHERS}.get(verb, ()), *STORE)


def before(verb: str) -> tuple[str, ...]:
    """The steps whose settings act in a verb as well."""
    steps = tuple(STEPS)
    if verb in OF_CURATED_SONGS:
        return steps[: steps.index("curate") + 1]
    return steps if verb in WHOLE_PIPELINE else steps[: steps.index(verb)] if verb in steps else ()


def lines(verb: str) -> Iterator[Text | Table | Padding]:
    """What is printed below the help of a verb."""
    sections: dict[str, list[Setting]] = {}
    for place in own(verb):
        for setting in every(RunConfig):
            if f"{setting.name}.".startswith(f"{place}."):
                sections.setdefault(setting.name.rpartition(".")[0], []).append(setting)
    yield Text("Settings, as KEY=VALUE; `stemline config KEY` explains any of them", style="bold")
    for section, inside in sections.items():
        yield from _section(section, inside)
    if steps := before(verb):
        yield Text(f"and those of the steps before it: stemline {{{','.join(steps)}}} --help", style="dim")


def _section(section: str, settings: list[Setting]) -> Iterator[Text | Table | Padding]:
    matter = [setting for setting in settings if setting.name in THAT_MATTER]
    if matter:
        rows = Table(box=None, show_header=False, padding=(0, 1), pad_edge=True)
        rows.add_column(no_wrap=True, style="cyan")
        rows.add_column(overflow="fold")
        for setting in matter:
            value = override("", setting.default).removeprefix("=") if setting.default is not None else "none"
            rows.add_row(f"{setting.name}={value}", meaning(setting).partition("; ")[0])
        yield rows
    others = [setting.name.rpartition(".")[2] for setting in settings if setting not in matter]
    if others:
        name = f"{section}: " if section else ""
        also = "also " if matter else ""
        yield Padding(Text.assemble(also, (name, "cyan"), ", ".join(others), style="dim"), (0, 0, 0, 2))
