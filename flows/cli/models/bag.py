"""`stemline bag`: several models put together as one: an ensemble with weights, or a fine-tuning per source."""

import filecmp
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

_MEMBER = re.compile(r"(?:(?P<source>[a-z_]\w*)=)?(?:(?P<weight>\d+(?:\.\d+)?)\*)?(?P<ref>[^*].*)")
_MAX_WEIGHT = 1e6


def bag(
    *parts: Annotated[
        str,
        Parameter(
            name="[SOURCE=][WEIGHT*]MODEL",
            help="Models of all sources, or of one each, and what they count beside each other; settings may follow.",
        ),
    ],
    to: Annotated[str, Parameter(help="The bag, NAME.yaml; its packages are put beside it.")],
    options: Options = NO_OPTIONS,
) -> int:
    """Combine models into one, whose estimates are the mean of theirs by weight, source by source.

    Members must have the same sources, sample rate, channels and normalization; a model that is named twice is stored
    once, a compressed one as it is. For fine-tunings name one per source, as in drums=A bass=B other=C vocals=D.

    Example: `stemline bag models:/stemline/3 models:/stemline/4 vocals=2*models:/vocals/1 --to ensemble/ensemble.yaml`
    """
    overrides, members = settings.split_overrides(parts)
    return run_verb(overrides, options, lambda config, screen: run(config, members, to=to, screen=screen))


def run(config: RunConfig, members: Sequence[str], *, to: str, screen: Screen) -> dict[str, Any]:
    """Writes the bag's YAML file and its packages beside it; `members` are [SOURCE=][WEIGHT*]MODEL."""
    target = storage.local_path(to, "--to")
    if target.suffix != ".yaml" or os.path.lexists(target):
        raise InputError(f"--to must be a new file, NAME.yaml, got {to}; the packages of the bag are put beside it")

    from models.errors import ModelError
    from models.weights import checkpoint
    from models.weights.demucs import demucs_packages
    from models.weights.loading import load_model, load_packing
    from pipelines import registry

    parts = _members(members)
    try:
        checkpoint.require_outside(target)
        refs = dict.fromkeys(part.ref for part in parts)
        paths = {ref: registry.resolve(ref, store=config.store.root) for ref in refs}
        models = {ref: load_model(path) for ref, path in paths.items()}
        weights = _weights(parts, models)
        with disk_errors(target.parent, remedy="--to NAME.yaml"):
            target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
            bag_file = demucs_packages.export_bag(
                list(models.values()), folder, name=target.stem, weights=weights,
                packings=[load_packing(path) for path in paths.values()],
            )  # fmt: skip
            load_model(bag_file)  # fails before anything is moved if it cannot be read back
            _move_in(Path(folder), target)
    except ModelError as error:
        raise InputError(str(error)) from error
    screen.say(f"✓ {target}")
    return {
        "bag": str(target),
        "members": [asdict(part) for part in parts],
        "console_output": [
            table("Bag", ["source", "weight", "from"], [[p.source or "all", f"{p.weight:g}", p.ref] for p in parts])
        ],
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model of a bag as it was given: for one source or, where that is empty, for all, and what it counts."""

    source: str
    weight: float
    ref: str


def _members(given: Sequence[str]) -> list[Member]:
    """Each [SOURCE=][WEIGHT*]MODEL; InputError for anything else."""
    members = []
    for text in given:
        match = _MEMBER.fullmatch(text)
        weight = float(match["weight"] or 1) if match else 0.0
        if match is None or not 0 < weight <= _MAX_WEIGHT:
            raise InputError(
                "a member must be MODEL or SOURCE=MODEL, with what it counts before it where that is not 1, such as "
                f"drums=0.7*runs/KEY/model; got {text!r}"
            )
        members.append(Member(source=match["source"] or "", weight=weight, ref=match["ref"]))
    return members


def _weights(members: Sequence[Member], models: Mapping[str, Any]) -> list[list[float]]:
    """One row per model: what it counts for each source; InputError where a source has none, or is not known."""
    from models.networks.bag import interface

    sources = interface(next(iter(models.values()))).sources if models else ()
    rows = {ref: dict.fromkeys(sources, 0.0) for ref in models}
    for member in members:
        if member.source and member.source not in sources:
            raise InputError(f"{member.source}={member.ref}: the models have {', '.join(sources)}")
        for source in [member.source] if member.source else sources:
            rows[member.ref][source] += member.weight
    without = [source for source in sources if not any(row[source] for row in rows.values())]
    if without or not sources:
        given = ", ".join(dict.fromkeys(member.source or "all" for member in members))
        raise InputError(
            f"a bag needs a model for each of {', '.join(sources) or 'its sources'}, got {given or 'none'}; a MODEL "
            "alone counts for all"
        )
    return [list(row.values()) for row in rows.values()]
