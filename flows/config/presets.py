"""Presets that ship, a user's TOML files and stored settings; with overrides each makes a `RunConfig`."""

import itertools
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from datasets.errors import InputError
from datasets.shards.manifests import read_manifest, settings_of
from datasets.store import storage
from flows.config.run_config import RunConfig, StoreConfig
from flows.config.setting_names import all_keys, fields_of, hint_at, nearest, value_at
from flows.config.setting_overrides import override
from flows.config.toml_config import build, rewrite
from pipelines.runtime.renamed_settings import current_tree

T = TypeVar("T")

# Settings that name a file or a folder. `load` makes them absolute, so that a stored configuration and a deployment
# mean the same from any folder and on a worker; addresses (s3://..., models:/...) and names that ship stay as given.
PATHS = (
    "store.root", "store.data", "store.scratch", "corpus.root", "corpus.taxonomy", "curate.model", "curate.overrides",
    "model.init_from", "train.backup_uri", "train.tensorboard", "train.loader.cache", "evaluate.museval_json",
    "gate.tags", "registry.artifacts", "retrain.canary",
)  # fmt: skip
_NAMES_SHIP = ("corpus.taxonomy",)
LAST_RUN = "settings.toml"  # in a store
_NAME_BYTES = 255  # of one name in a path, on every file system in use


def load(preset: str, overrides: Sequence[str] = ()) -> RunConfig:
    """A preset with overrides; files and folders become absolute, so that the written file reruns from anywhere."""
    config = with_absolute_paths(build(RunConfig, read_preset(preset), overrides))
    for name, folder in (("root", config.store.root), ("data", config.store.data)):
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise InputError(f"store.{name}={folder} is a file; give a folder, store.{name}=DIR")
    return config


def of_last_run(store: StoreConfig, overrides: Sequence[str] = ()) -> RunConfig | None:
    """The settings of the last run in a store, with overrides; None where it keeps none.

    Paths in them are those of that run, but for the store itself, which may have been moved.
    """
    file = storage.join(store.root, LAST_RUN)
    if storage.stamp(file) is None:
        return None
    try:
        return load(file, [override("store.root", store.root), *overrides])
    except InputError as error:
        raise InputError(f"{error} (with the settings of the last run, {file}; --preset NAME takes others)") from error


def keep_as_last_run(config: RunConfig) -> None:
    """What `of_last_run` gives from now on."""
    rewrite(config, storage.join(config.store.root, LAST_RUN))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same files and folders, named from the root of the file system."""
    for key in PATHS:
        config = _with(config, key.split("."), _absolute_file if key in _NAMES_SHIP else absolute)
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


def presets() -> list[str]:
    """The names that `--preset` knows."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("infra.presets").iterdir()
        if entry.name.endswith(".toml")
    )


def description(name: str) -> str:
    """The first paragraph of the comment at the top of a preset that ships."""
    text = resources.files("infra.presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    lines = list(itertools.takewhile(lambda line: line.startswith("# "), text.splitlines()))
    return " ".join(line.removeprefix("# ") for line in lines)


def read_preset(name: str) -> dict[str, Any]:
    """The tree of a preset: one of `presets()`, a TOML file, or a manifest, which holds settings."""
    if name.endswith(".json"):
        return _settings_of_manifest(name)
    if name.endswith(".toml") or os.sep in name:
        try:
            text = storage.read(name).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The preset file {name!r} cannot be read: {error}.") from error
    elif name in presets():
        text = resources.files("infra.presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise InputError(
            f"There is no preset {name!r}{nearest(name, presets())} The presets are {', '.join(presets())}; "
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
    sections = {name for name, hint in (fields_of(RunConfig) or {}).items() if fields_of(hint) is not None}
    return current_tree(tree) if sections - added_later <= tree.keys() else tree


def differences(config: RunConfig, preset: str) -> list[str]:
    """The overrides that make this configuration of the preset, in any folder."""
    given = build(RunConfig, read_preset(preset))
    keys = [key for key in all_keys(RunConfig) if fields_of(hint_at(RunConfig, key.split("."))) is None]
    return [override(key, value_at(config, key)) for key in keys if value_at(config, key) != value_at(given, key)]


def nearest_preset(config: RunConfig) -> str:
    """The name of the preset that fewest overrides turn into this configuration."""
    return min(presets(), key=lambda name: len(differences(config, name)))
