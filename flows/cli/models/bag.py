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
from datasets.store.disk_errors import disk_errors
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
    overrides, members = settings.split_overrides(parts)
    return run_verb(overrides, options, lambda config, screen: run(config, members, to=to, screen=screen))


def run(config: RunConfig, members: Sequence[str], *, to: str, screen: Screen) -> dict[str, Any]:
    """Writes the bag's YAML file and its packages beside it; `members` are SOURCE=MODEL, each source once."""
    target = storage.local_path(to, "--to")
    if target.suffix != ".yaml" or os.path.lexists(target):
        raise InputError(f"--to must be a new file, NAME.yaml, got {to}; the packages of the bag are put beside it")

    from models.errors import ModelError
    from models.weights import checkpoint, demucs_packages
    from models.weights.loading import load_model
    from pipelines import registry

    refs = _model_refs(members)
    try:
        checkpoint.require_outside(target)
        models = [load_model(registry.resolve(ref, store=config.store.root)) for ref in refs.values()]
        weights = _weights(list(refs), models)
        with disk_errors(target.parent, remedy="--to NAME.yaml"):
            target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
            bag_file = demucs_packages.export_bag(models, folder, name=target.stem, weights=weights)
            load_model(bag_file)  # fails before anything is moved if it cannot be read back
            _move_in(Path(folder), target)
    except ModelError as error:
        raise InputError(str(error)) from error
    screen.say(f"✓ {target}")
    return {
        "bag": str(target),
        "members": refs,
        "console_output": [table("Bag", ["source", "from"], [[source, ref] for source, ref in refs.items()])],
    }


def _move_in(folder: Path, target: Path) -> None:
    """Move the files of a bag to their place, the YAML file last; no other file is replaced."""
    files = sorted(folder.iterdir(), key=lambda path: path.name == target.name)
    existing = [path.name for path in files if os.path.lexists(target.with_name(path.name))]
    others = [name for name in existing if not filecmp.cmp(folder / name, target.with_name(name), shallow=False)]
    if others:
        raise InputError(
            f"--to {target}: {', '.join(others)} in {target.parent} would be replaced; give another name or folder"
        )
    for path in files:
        if path.name not in existing:
            os.replace(path, target.with_name(path.name))


def _model_refs(members: Sequence[str]) -> dict[str, str]:
    """The model of each source."""
    refs: dict[str, str] = {}
    for member in members:
        source, equals, ref = member.partition("=")
        if not equals or not ref or source in refs:
            raise InputError(
                f"a member must be SOURCE=MODEL, each source once, such as drums=runs/KEY/model, got {member!r}"
            )
        refs[source] = ref
    return refs


def _weights(given: Sequence[str], models: Sequence[Any]) -> list[list[float]]:
    """One row per model, with weight 1 for the source it is given for and 0 for the others."""
    from models.networks.bag import interface

    sources = interface(models[0]).sources if models else ()
    if sorted(given) != sorted(sources):
        raise InputError(
            f"a bag needs one model for each of {', '.join(sources) or 'its sources'}, got {', '.join(given) or 'none'}"
        )
    return [[float(source == own) for source in sources] for own in given]
