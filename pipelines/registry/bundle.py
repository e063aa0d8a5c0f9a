"""Packs a checkpoint and the code that runs it into a folder that needs nothing of this repository.

    <folder>/checkpoint/                       weights.safetensors, config.json, bundle.json
    <folder>/stem_separator_<digest>/          a copy of `models/`, named for its source, with that of a plug-in

`models/` imports itself relatively only, so it works under any name (docs/decisions/0001). `mlflow_model.py` is the
other half: it unpacks what is packed here.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets.errors import InputError
from pipelines.runtime.step_keys import ROOT

MODELS = ROOT / "models"
SERVED = Path(__file__).with_name("mlflow_model.py")
CHECKPOINT_FILES = ("config.json", "weights.safetensors")  # the learner's state stays at home


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Where a packed model is, and what it holds."""

    checkpoint: Path
    package: Path
    digest: str  # of the checkpoint's files; the integrity check of a registered version
    sources: tuple[str, ...]
    audio_channels: int
    sample_rate: int
    requirements: tuple[str, ...] = ()  # distributions that a plug-in's network imports, with their versions


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 over what a model is saved as, weights and config; the learner's state does not count."""
    return hashlib.sha256(json.dumps(_file_digests(folder), sort_keys=True).encode()).hexdigest()


def _file_digests(folder: Path) -> dict[str, str]:
    missing = [name for name in CHECKPOINT_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no checkpoint: {' and '.join(missing)} not found in it")
    digests = {}
    for name in CHECKPOINT_FILES:
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def source_digest(package: Path = MODELS) -> str:
    """Twelve hex digits over the names and bytes of every Python file of the package."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def write_bundle(checkpoint: Path, folder: Path, *, source: Path = MODELS) -> Bundle:
    """Pack the checkpoint and the package at `source` into `folder`; a checkpoint that does not load is refused."""
    from models.networks import catalog
    from models.networks.bag import interface
    from models.weights.loading import load_model

    files = _file_digests(checkpoint)
    model = load_model(checkpoint)
    shape, plugin = interface(model), catalog.plugin_of(model)
    carried = catalog.carried_source(plugin) if plugin else {}
    unnamed = folder / "source"
    _copy({path.relative_to(source).as_posix(): path for path in source.rglob("*.py")}, unnamed)
    if carried:
        _copy(carried, unnamed / catalog.CARRIED)
        (unnamed / catalog.CARRIED / "__init__.py").touch()
    package = unnamed.rename(folder / f"stem_separator_{source_digest(unnamed)}")
    packed = folder / "checkpoint"
    packed.mkdir(parents=True)
    for name in files:
        shutil.copyfile(checkpoint / name, packed / name)
    contents = {
        "package": package.name,
        "files": files,
        "sources": list(shape.sources),
        "audio_channels": shape.audio_channels,
        "sample_rate": shape.sample_rate,
    }
    (packed / "bundle.json").write_text(json.dumps(contents, indent=2, sort_keys=True), encoding="utf-8")
    return Bundle(
        checkpoint=packed,
        package=package,
        digest=checkpoint_digest(checkpoint),
        sources=shape.sources,
        audio_channels=shape.audio_channels,
        sample_rate=shape.sample_rate,
        requirements=_requirements(plugin.module) if plugin else (),
    )


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    for name, path in sorted(files.items()):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _requirements(module: str) -> tuple[str, ...]:
    """The distributions of what a plug-in imports besides its own package and Python's."""
    from importlib import metadata

    from models.plugins import imports_of, source_files

    imported = {
        name.partition(".")[0]
        for own, path in source_files(module).items()
        for name, _, is_relative in imports_of(own, path)
        if not is_relative
    }
    owners = metadata.packages_distributions()
    needed = {owners[name][0] for name in imported - sys.stdlib_module_names if name in owners}
    return tuple(f"{name}=={metadata.version(name).split('+')[0]}" for name in sorted(needed))
