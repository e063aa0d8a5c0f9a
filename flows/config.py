"""Configuration: one TOML preset and dotted overrides become a `RunConfig` whose every field has its type.

Each setting is declared in the dataclass beside the code that uses it; this file only reads, checks and writes. It is
the only user of pydantic, which silently drops unknown keys of plain dataclasses: so the tree is walked first, and a
misspelt key is refused with the nearest real one.
"""

import difflib
import functools
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import tomli_w

from datasets.errors import InputError
from datasets.ranges import NonNegativeFloat, check_ranges
from datasets.shards.manifests import read_manifest, settings_of
from datasets.store import storage
from datasets.store.strict_json import restored
from flows import settings
from flows.retrain_policy import RetrainConfig
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import GateConfig
from pipelines.inference.listening_pages import ListenConfig
from pipelines.inference.separate_config import SeparateConfig
from pipelines.preparation.analyze import AnalyzeConfig
from pipelines.preparation.automix import AutomixConfig
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.ingest import CorpusConfig, IngestConfig
from pipelines.registry import RegistryConfig
from pipelines.report.report_input import ReportConfig
from pipelines.runtime.renamed_settings import current_name, current_tree
from pipelines.training.job import ModelConfig, TrainConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Where everything is kept; what lies where inside is not for configuration."""

    # The folder of this machine that holds checkpoints, reports and, unless `data` is set, everything else
    root: str = "stemline-store"
    # Where songs, tables and the list of forgotten recordings are kept, such as s3://BUCKET/FOLDER; empty: the root
    data: str = ""

    def __post_init__(self) -> None:
        if not self.root.strip() or (self.data and not self.data.strip()):
            name, given = ("data", self.data) if self.root.strip() else ("root", self.root)
            raise InputError(f"store.{name} must name a folder, got {given!r}; give store.{name}=DIR, or leave it out")

    @property
    def tables(self) -> str:
        """Where shards, tables and manifests are."""
        return self.data or self.root


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that shapes a run. Each section is declared beside the code that it turns."""

    automix_weight: NonNegativeFloat = 1.0  # how often training draws from the automixes for each draw from the songs
    store: StoreConfig = field(default_factory=StoreConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    curate: CurateConfig = field(default_factory=CurateConfig)
    analyze: AnalyzeConfig = field(default_factory=AnalyzeConfig)
    automix: AutomixConfig = field(default_factory=AutomixConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    separate: SeparateConfig = field(default_factory=SeparateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    listen: ListenConfig = field(default_factory=ListenConfig)

    def __post_init__(self) -> None:
        check_ranges(self, InputError)

    @property
    def wants_automixes(self) -> bool:
        """Whether training would ever draw one; if not, none is planned or rendered."""
        return self.automix_weight > 0 and self.automix.mixes_per_track > 0


# Settings that name a file or a folder. `load` makes them absolute, so that a stored configuration and a deployment
# mean the same from any folder and on a worker; addresses (s3://..., models:/...) and names that ship stay as given.
PATHS = (
    "store.root", "store.data", "corpus.root", "corpus.taxonomy", "curate.model", "curate.overrides", "model.init_from",
    "train.backup_uri", "train.loader.cache", "evaluate.museval_json", "gate.tags", "registry.artifacts",
    "retrain.canary",
)  # fmt: skip
_NAMES_SHIP = ("corpus.taxonomy",)
_NAME_BYTES = 255  # of one name in a path, on every file system in use


def load(preset: str, overrides: Sequence[str] = ()) -> RunConfig:
    """A preset with overrides; files and folders become absolute, so that the written file reruns from anywhere."""
    config = build(RunConfig, read_preset(preset), overrides)
    for key in PATHS:
        config = _with(config, key.split("."), _absolute_file if key in _NAMES_SHIP else absolute)
    for name, folder in (("root", config.store.root), ("data", config.store.data)):
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise InputError(f"store.{name}={folder} is a file; give a folder, store.{name}=DIR")
    return config


def _with(section: T, path: Sequence[str], change: Callable[[Any], Any]) -> T:
    """The section with the value at the end of the path changed."""
    value = getattr(section, path[0])
    changed = _with(value, path[1:], change) if path[1:] else change(value)
    return replace(section, **{path[0]: changed})  # type: ignore[type-var]


def _absolute_file(name: str) -> str:
    """A name that ships with the program stays; a file becomes absolute."""
    return absolute(name) if name.endswith(".toml") or os.sep in name else name


def absolute(path: str) -> str:
    """The path from the root of the file system; an address and an empty text stay as they are."""
    if not path or "://" in path or re.match(r"models:|[a-zA-Z][a-zA-Z0-9+.-]+:/", path):
        return path
    if "\0" in path:
        raise InputError(f"{path!r}: no file or folder has a null character in its name; give another")
    at_home = os.path.expanduser(path)  # of text: to pathlib ./~ada is the home of ada as well
    if at_home == path and path.startswith("~"):
        raise InputError(f"{path!r}: there is no such user; a folder that is called so is ./{path}")
    full = str(Path(at_home).absolute())
    if any(len(os.fsencode(name)) > _NAME_BYTES for name in full.split(os.sep)):
        raise InputError(f"{path!r:.80}: a name in a path must have <= {_NAME_BYTES} bytes; give a shorter one")
    return full


def override(key: str, value: Any) -> str:
    """The override that sets one setting to this value, whatever characters it holds."""
    return f"{key}={_toml_value(value)}"


def differences(config: RunConfig, preset: str) -> list[str]:
    """The overrides that make this configuration of the preset, in any folder."""
    given = build(RunConfig, read_preset(preset))
    keys = [key for key in _all_keys(RunConfig) if _fields_of(_hint_at(RunConfig, key.split("."))) is None]
    return [override(key, _value_at(config, key)) for key in keys if _value_at(config, key) != _value_at(given, key)]


def nearest_preset(config: RunConfig) -> str:
    """The name of the preset that fewest overrides turn into this configuration."""
    return min(presets(), key=lambda name: len(differences(config, name)))


def _value_at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, and all other arguments; an override begins with a section, and is not the name of a file."""
    sections = _fields_of(RunConfig) or {}
    overrides = [
        text
        for text in arguments
        if re.match(r"\w+\.[\w.]+=", text) and text.partition(".")[0] in sections and not os.path.exists(text)
    ]
    return overrides, [text for text in arguments if text not in overrides]


def presets() -> list[str]:
    """The names that `--preset` knows."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("infra.presets").iterdir()
        if entry.name.endswith(".toml")
    )


def read_preset(name: str) -> dict[str, Any]:
    """The tree of a preset: one of `presets()`, a TOML file, or a manifest, which holds settings."""
    if name.endswith(".json"):
        return _settings_of_manifest(name)
    if name.endswith(".toml") or os.sep in name:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The preset file {name!r} cannot be read: {error}.") from error
    elif name in presets():
        text = resources.files("infra.presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise InputError(
            f"There is no preset {name!r}{_nearest(name, presets())} The presets are {', '.join(presets())}; "
            "a path of a .toml file or of a manifest is accepted too."
        )
    try:
        return _renamed_if_stored(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"The preset {name!r} is not valid TOML: {error}.") from error


def _settings_of_manifest(path: str) -> dict[str, Any]:
    tree = settings_of(read_manifest(path))
    if not tree:
        raise InputError(f"The manifest {path} holds no settings; give the TOML file that its run was started with.")
    return current_tree(tree)


def _renamed_if_stored(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree that a run stored, which has every section, with renamed settings under their new names.

    A tree that a person wrote has some sections, and is refused later with the new names.
    """
    added_later = {"retrain", "listen"}
    sections = {name for name, hint in (_fields_of(RunConfig) or {}).items() if _fields_of(hint) is not None}
    return current_tree(tree) if sections - added_later <= tree.keys() else tree


def build(kind: type[T], tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> T:
    """An instance of a tree of dataclasses, after `key=value` overrides; refuses unknown keys and wrong types."""
    from pydantic import ValidationError

    merged = _copy(tree)
    for override in overrides:
        _apply(kind, merged, override)
    _refuse_unknown(kind, merged, at=())
    _refuse_out_of_range(kind, merged, at=())
    try:
        # Strict JSON: lists become tuples and integers become floats, but "20" is not a number and true is not 1.
        instance: T = _adapter(cast(Any, kind)).validate_json(json.dumps(merged, default=str), strict=True)
        return instance
    except ValidationError as error:
        raise InputError(_message(error.errors())) from error


def parse(kind: Any, text: str) -> Any:
    """A value of the annotated type from JSON of `strict_json.dumps`; ValueError if it does not fit the type."""
    return _adapter(kind).validate_json(json.dumps(restored(kind, json.loads(text))), strict=True)


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_toml(config: Any) -> str:
    """The whole configuration as TOML; `build` makes an equal one of it. None is written as absence."""
    return tomli_w.dumps(_without_none(asdict(config)))


def write(config: Any, path: str | Path) -> None:
    """Writes the configuration beside an output; an existing file describes the same output and stays."""
    if storage.stamp(path) is None:
        storage.write(path, to_toml(config).encode())


# Overrides


def _apply(kind: type, tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{override!r} is not an override; write it as key=value, for example train.steps=20.")
    if not _is_unicode(override):
        raise InputError(f"{override!a}: the bytes of this name are not valid UTF-8; rename it, or give another")
    path = key.strip().split(".")
    hint = _hint_at(kind, path)
    node = tree
    for name in path[:-1]:
        below = node.setdefault(name, {})
        if not isinstance(below, dict):
            raise InputError(f"{key!r}: {name!r} is a value, not a section.")
        node = below
    value = _parse(text, key=key)
    # A folder named 2024 is still a folder.
    wants_text = hint is str or (_is_union(hint) and str in typing.get_args(hint))
    node[path[-1]] = text if wants_text and not isinstance(value, str) else value


def _is_unicode(text: str) -> bool:
    """False for names with bytes that are not UTF-8, which Python reads as surrogates and no TOML file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse(text: str, *, key: str) -> Any:
    """A value in TOML syntax; any other text is a string, so that paths need no quotes."""
    try:
        document = tomllib.loads(f"value = {text}")
        if list(document) == ["value"] and isinstance(document["value"], bool | int | float | str | list | dict):
            return document["value"]
    except tomllib.TOMLDecodeError as error:
        if text.lstrip()[:1] in {"[", "{", '"'}:
            raise InputError(f"{key}={text} is not valid TOML: {error}.") from error
    return text


# Known keys


def _fields_of(kind: Any) -> dict[str, Any] | None:
    """Field name to type of a dataclass (or of an optional one); None for everything else."""
    if _is_union(kind):
        return next((names for part in typing.get_args(kind) if (names := _fields_of(part)) is not None), None)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return None
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(kind)}


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _hint_at(kind: Any, path: Sequence[str]) -> Any:
    for name in path:
        names = _fields_of(kind)
        if names is None or name not in names:
            return None
        kind = names[name]
    return kind


def _all_keys(kind: Any, at: tuple[str, ...] = ()) -> Iterator[str]:
    for name, hint in (_fields_of(kind) or {}).items():
        yield ".".join((*at, name))
        yield from _all_keys(hint, (*at, name))


def _refuse_unknown(kind: Any, tree: Mapping[str, Any], *, at: tuple[str, ...], root: Any = None) -> None:
    names = _fields_of(kind)
    if names is None:
        return
    for key, value in tree.items():
        here = ".".join((*at, key))
        if key not in names:
            here = ".".join((here, *_first_path(value)))
            if current_name(here) != here:
                raise InputError(f"The setting {here!r} is called {current_name(here)!r} now.")
            raise InputError(f"There is no setting {here!r}{_nearest_setting(root or kind, here)}")
        if isinstance(value, Mapping):
            _refuse_unknown(names[key], value, at=(*at, key), root=root or kind)
        elif _fields_of(names[key]) is not None:
            raise InputError(f"{here!r} is a section with settings of its own, such as {_example(names[key], here)}.")


def _refuse_out_of_range(kind: Any, tree: Mapping[str, Any], *, at: tuple[str, ...]) -> None:
    """InputError for a number out of its range, by its full name; wrong types are left to pydantic."""
    names = _fields_of(kind)
    if names is None:
        return
    declared = settings.declared(kind) if isinstance(kind, type) else {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _refuse_out_of_range(names[key], value, at=(*at, key))
        elif key in declared and declared[key].stated and _is_number(value):
            complaint = settings.complain(".".join((*at, key)), value, declared[key])
            if complaint:
                raise InputError(complaint)


def _is_number(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_number(item) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first_path(value: Any) -> Iterator[str]:
    """The keys down to the first value: under a misspelt section, they are the better hint."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        yield key


def _example(kind: Any, here: str) -> str:
    return f"{here}.{next(iter(_fields_of(kind) or {'...': None}))}"


def _nearest_setting(root: Any, wanted: str) -> str:
    """The nearest key with the same last part, else of all: `steps` and `trian.steps` mean `train.steps`."""
    keys = list(_all_keys(root))
    same_leaf = [key for key in keys if key.split(".")[-1] == wanted.split(".")[-1]]
    matches = difflib.get_close_matches(wanted, same_leaf or keys, n=1, cutoff=0.0 if same_leaf else 0.6)
    if not matches:
        section = wanted.rpartition(".")[0]
        near = [key for key in keys if key.startswith(f"{section}.")] if section else []
        near = near or [key for key in keys if "." not in key]
        return f". Known here: {', '.join(near)}."
    return f"; did you mean {matches[0]!r}?"


def _nearest(wanted: str, names: Sequence[str]) -> str:
    matches = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else "."


# Messages for pydantic's errors


def _message(errors: Sequence[Any]) -> str:
    lines = []
    for error in errors:
        key = ".".join(str(part) for part in error["loc"] if not (isinstance(part, str) and _is_type_name(part)))
        message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if error["type"] == "value_error":
            lines.append(f"{key}: {message}" if key else message)
        else:
            message = message.removeprefix("Input ").rstrip(".")
            given = json.dumps(error["input"], default=str, ensure_ascii=False)
            lines.append(f"{key} is {given}, but {message}.")
    return "\n".join(lines)


def _is_type_name(part: str) -> bool:
    """Pydantic puts the members of a union into the location: `seed.int` for a field `seed: int | None`."""
    return part in {"int", "float", "str", "bool", "none"} or "[" in part


# TOML


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }


def _toml_value(value: Any) -> str:
    """One value in one line; tomli-w itself puts each item of an array on its own."""
    text = ""
    for line in tomli_w.dumps({"_": [[value]]}).split("\n"):  # nested, since tables would become sections otherwise
        part = line.strip(" ")
        text = text.removesuffix(",") if part.startswith("]") else text + " " * text.endswith(",")
        text += part
    return text.removeprefix("_ = [[").removesuffix("]]")
