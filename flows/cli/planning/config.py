"""`stemline config`: what a setting means, what it may be, and what a preset makes of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from datasets.errors import InputError
from flows.cli.options import NO_OPTIONS, PRESET, Options
from flows.cli.session import run_verb
from flows.config import RunConfig, with_absolute_paths
from flows.config.setting_descriptions import Setting, every, summary
from flows.config.setting_names import refuse_unknown, value_at
from flows.config.setting_overrides import override

OPTIONS = "model.options"
Words = Annotated[
    str, Parameter(name="KEY", help="A setting or a section to explain, such as train.learner; KEY=VALUE changes one.")
]
Find = Annotated[str, Parameter(help="Only settings whose name or meaning has this word.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A setting, its full name, and its value in the preset that was asked about."""

    setting: Setting
    name: str
    default: Any
    value: Any

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def changed(self) -> bool:
        return bool(self.value != self.default)


def config(*keys_and_overrides: Words, find: Find = "", options: Options = NO_OPTIONS) -> int:
    """Explain settings and sections: type, range, unit, default, the value in a preset, and what each does.

    A word without `=` is a setting or a section to explain; without one, all sections are listed.

    Example: `stemline config train.learner --preset htdemucs-one-gpu`
    """
    keys = [word for word in keys_and_overrides if "=" not in word]
    given = [word for word in keys_and_overrides if "=" in word]
    return run_verb(
        given,
        options,
        lambda config, screen: run(config, keys, find=find, preset=options.preset or PRESET),
        preset=PRESET,
    )


def run(config: RunConfig, keys: Sequence[str], *, find: str = "", preset: str = PRESET) -> dict[str, Any]:
    """Every setting of those names and sections that has the word; sections alone where nothing is asked for.

    Raises:
        InputError: No setting is called so, or none has the word.
    """
    for key in keys:
        _refuse_unknown(config, key)
    listed = [explained for explained in _explained(config, keys) if _has(explained, find)]
    if not listed:
        raise InputError(f"--find={find}: no setting has this in its name or meaning; try a shorter word")
    output = [_block(explained) for explained in listed] if keys or find else list(_sections(listed, preset))
    return {"settings": [_told(explained) for explained in listed], "console_output": output}


def _explained(config: RunConfig, keys: Sequence[str]) -> Iterator[Explained]:
    by_default = with_absolute_paths(RunConfig())
    for setting in every(RunConfig):
        if setting.name == OPTIONS and any(key.startswith(OPTIONS) for key in keys):
            yield from (explained for explained in _options(config) if _asked(explained.name, keys))
        elif _asked(setting.name, keys):
            values = [value_at(tree, setting.name) for tree in (by_default, config)]
            yield Explained(setting=setting, name=setting.name, default=values[0], value=values[1])


def _options(config: RunConfig) -> Iterator[Explained]:
    """Those of the network that the preset names; InputError where there is no such network, or no such option."""
    from models.networks.catalog import preset_config

    config.model.check_network()
    network = preset_config(config.model.preset)
    for setting in every(type(network)):
        value = config.model.options.get(setting.name, getattr(network, setting.name))
        name = f"{OPTIONS}.{setting.name}"
        yield Explained(setting=setting, name=name, default=setting.default, value=value)


def _asked(name: str, keys: Sequence[str]) -> bool:
    return not keys or any(name == key or name.startswith(f"{key}.") for key in keys)


def _has(explained: Explained, word: str) -> bool:
    return word.lower() in f"{explained.name} {explained.setting.meaning}".lower()


def _refuse_unknown(config: RunConfig, key: str) -> None:
    """InputError with the nearest name; networks differ in their options, so those are looked up in the network."""
    if key.startswith(f"{OPTIONS}."):
        names_known = [explained.name for explained in _options(config)]
        if key not in names_known:
            names = ", ".join(name.rpartition(".")[2] for name in names_known)
            raise InputError(f"{config.model.preset} has no setting {key!r}; its model.options are {names}")
        return
    tree: Any = {}
    for name in reversed(key.split(".")):
        tree = {name: tree}
    refuse_unknown(RunConfig, tree, at=())


def _block(explained: Explained) -> Any:
    """Name and value, what it may be, and what it does."""
    setting = explained.setting
    may_be = ", ".join(filter(None, (setting.type, setting.range, setting.unit)))
    default = f"; default {_toml(explained.default)}" if explained.changed else ""
    head = Text.assemble((explained.name, "bold"), f" = {_toml(explained.value)}", (f"   {may_be}{default}", "dim"))
    return Group(head, Padding(Text(setting.meaning[:1].upper() + setting.meaning[1:]), (0, 0, 1, 2)))


def _sections(listed: Sequence[Explained], preset: str) -> Iterator[Any]:
    """How many settings each has, how many of them the preset changes, and what it is about."""
    for section in dict.fromkeys(explained.section for explained in listed):
        inside = [explained for explained in listed if explained.section == section]
        changed = sum(explained.changed for explained in inside)
        counts = f"   {len(inside)} setting{'s' * (len(inside) > 1)}, {changed} changed by {preset}"
        yield Text.assemble((section or "(top)", "bold"), (counts, "dim"))
        yield Padding(Text(summary(RunConfig, section)), (0, 0, 0, 2))
    yield Text("stemline config SECTION explains those of one; --preset NAME asks about another preset.")


def _toml(value: Any) -> str:
    return "none" if value is None else override("", value).removeprefix("=")


def _told(explained: Explained) -> dict[str, Any]:
    setting = explained.setting
    return {
        "name": explained.name,
        "type": setting.type,
        "range": setting.range,
        "unit": setting.unit,
        "default": setting.default,
        "value": explained.value,
        "meaning": setting.meaning,
    }
