"""`stemline bag`: fine-tunings, one per source, put together as one model."""

import filecmp
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from datasets.errors import InputError
from datasets.store import storage
from flows import config as settings
from flows.cli.options import NO_OPTIONS, Options
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table


def bag(
    *parts: Annotated[
        str,
        Parameter(name="SOURCE=MODEL", help="For each source its model; settings may follow."),
    ],
    to: Annotated[str, Parameter(help="The bag, NAME.yaml; its packages are put beside it.")],
    options: Options = NO_OPTIONS,
) -> int:
    """Combine fine-tunings, one for each source, into one model that is read like any other.

    Example: `stemline bag drums=A bass=B other=C vocals=D --to ft/ft.yaml`
    """
    overrides, members = settings.parted(parts)
    return run_verb(overrides, options, lambda config, screen: run(config, members, to=to, screen=screen))


def run(config: RunConfig, parts: Sequence[str], *, to: str, screen: Screen) -> dict[str, Any]:
    """Writes the bag's YAML file and its packages beside it; `parts` are SOURCE=MODEL, each source once."""
    target = Path(to)
    if target.suffix != ".yaml" or os.path.lexists(target):
        raise InputError(f"--to {to}: the name of a new .yaml file would do; its packages are put beside it")

    from models.errors import ModelError
    from models.weights import checkpoint, demucs_packages
    from models.weights.loading import load_model
    from pipelines import registry

    named = _named(parts)
    try:
        checkpoint.require_outside(target)
        models = [load_model(registry.resolve(ref, store=config.store.root)) for ref in named.values()]
        weights = _weights(list(named), models)
        with storage.disk_errors(target.parent, remedy="--to NAME.yaml"):
            target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as apart:
            made = demucs_packages.export_bag(models, apart, name=target.stem, weights=weights)
            load_model(made)  # what cannot be read back is no result
            _move_in(Path(apart), target)
    except ModelError as error:
        raise InputError(str(error)) from error
    screen.say(f"✓ {target}")
    return {
        "bag": str(target),
        "members": named,
        "shown": [table("Bag", ["source", "from"], [[source, ref] for source, ref in named.items()])],
    }


def _move_in(apart: Path, target: Path) -> None:
    """Put the files of a bag beside its list, which comes last; none of them takes the place of another."""
    files = sorted(apart.iterdir(), key=lambda path: path.name == target.name)
    there = [path.name for path in files if os.path.lexists(target.with_name(path.name))]
    foreign = [name for name in there if not filecmp.cmp(apart / name, target.with_name(name), shallow=False)]
    if foreign:
        raise InputError(
            f"--to {target}: {', '.join(foreign)} in {target.parent} would be replaced; give another name or folder"
        )
    for path in files:
        if path.name not in there:
            os.replace(path, target.with_name(path.name))


def _named(parts: Sequence[str]) -> dict[str, str]:
    """The model of each source."""
    named: dict[str, str] = {}
    for part in parts:
        source, equals, ref = part.partition("=")
        if not equals or not ref or source in named:
            raise InputError(f"{part!r}: SOURCE=MODEL, each source once, such as drums=runs/KEY/model, would do")
        named[source] = ref
    return named


def _weights(named: Sequence[str], models: Sequence[Any]) -> list[list[float]]:
    """One row per model: it counts for the source that it is named for, and for no other."""
    from models.networks.bag import interface

    sources = interface(models[0]).sources if models else ()
    if sorted(named) != sorted(sources):
        raise InputError(
            f"a bag needs one model for each of {', '.join(sources) or 'its sources'}, got {', '.join(named) or 'none'}"
        )
    return [[float(source == own) for source in sources] for own in named]
