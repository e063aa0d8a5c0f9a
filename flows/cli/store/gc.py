"""`stemline gc`: what of a store nothing refers to any more, and its removal when that is asked for.

Manifests refer to shards, registered versions to manifests, and whatever is younger than a day is left alone, since a
command may be at work on it. Songs, reports, MLflow's files and Prefect's records are never touched.
"""

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.errors import InputError
from datasets.shards.manifests import Manifest, read_manifest
from datasets.store import ownership, storage
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from flows.tasks.store_lock import held, other_users
from pipelines.lineage import ancestry
from pipelines.registry import used_registries
from pipelines.registry.origins import every_version

DAY_S = 86_400.0
ANSWERS_S = 7 * DAY_S  # what jobs of a cluster were asked and answered
# Names that `write_shard`, `write_table`, `storage.replacing`, jobs and flow runs give; others' files have other ones.
SHARD = re.compile(
    r"chunks/(mix-)?[0-9a-f]{4,}(-without-[0-9a-f]{16})?\.(parquet|json)|tables/(landmarks|plans|profiles|scores|verdicts)-[\w-]+\.parquet"
)
UNFINISHED = re.compile(re.escape(storage.TEMPORARY) + r".+-[0-9a-f]{4,}")
CHECKPOINT = re.compile(r"step-\d{9}|\.step-\w+|damaged-step-\d{9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """Something that nothing refers to."""

    address: str
    kind: str
    num_bytes: int


def gc(
    *overrides: Overrides,
    keep: Annotated[int, Parameter(help="Newest versions of each dataset that stay; 0: all of them.")] = 0,
    delete: Annotated[
        bool, Parameter(negative="", show_default=False, help="Remove it, instead of listing it.")
    ] = False,
    options: Options = NO_OPTIONS,
) -> int:
    """List what nothing in a store refers to any more; with --delete, remove it.

    Example: `stemline gc store.root=store --keep 3`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, keep=keep, delete=delete, screen=screen))


def run(config: RunConfig, *, keep: int, delete: bool, screen: Screen) -> dict[str, Any]:
    """What can go, and whether it went; the `keep` newest versions of each dataset stay, with 0 all of them.

    The store is held meanwhile, so that no command writes what is about to be called waste. What is no store is
    refused, and what stands in a store under no name that we give stays.
    """
    ownership.require_store(config.store.root, setting="store.root")
    ownership.require_store(config.store.tables, setting="store.data" if config.store.data else "store.root")
    with held(config.store.root, verb="gc", data=config.store.data):
        screen.start("gc", 0, "")
        found = list(find(config, keep=keep, now_s=time.time()))
        if delete:
            for one in found:
                _remove(one.address)
        screen.finish(f"{len(found)} {'removed' if delete else 'can go'}, {_size(sum(one.num_bytes for one in found))}")
    kinds: dict[str, list[Waste]] = {}
    for one in found:
        kinds.setdefault(one.kind, []).append(one)
    rows = [[kind, str(len(some)), _size(sum(one.num_bytes for one in some))] for kind, some in kinds.items()]
    shown: list[Any] = [table("Waste", ["", "number", "size"], rows)] if rows else [Text("Nothing is waste.")]
    if rows and not delete:
        shown.append(Text("Nothing was removed: `stemline gc --delete` does that."))
    return {"removed": delete, "waste": [one.address for one in found], "shown": shown}


def find(config: RunConfig, *, keep: int, now_s: float) -> Iterator[Waste]:
    """Everything that can go, the least valuable first."""
    yield from _leftovers(config, now_s)
    yield from _checkpoints(Path(config.store.root), now_s)
    store = config.store.tables
    manifests = _manifests(store)
    kept = _kept(config, manifests, keep)
    for address in manifests.keys() - kept.keys():
        for name in (address, address.removesuffix(".json") + ".toml"):
            yield from _waste(name, "superseded dataset", now_s, DAY_S)
    referred = {shard.file for manifest in kept.values() for shard in manifest.shards}
    for folder in ("chunks", "tables"):
        for name in storage.names(storage.join(store, folder)):
            whole = f"{folder}/{Path(name).stem}.parquet"
            if SHARD.fullmatch(f"{folder}/{name}") and whole not in referred:
                yield from _waste(storage.join(store, folder, name), "shard of no dataset", now_s, DAY_S)


def _manifests(store: str) -> dict[str, Manifest]:
    """Every manifest; InputError for one that cannot be read, since nobody knows what it refers to."""
    folder = storage.join(store, "manifests")
    names = [name for name in storage.names(folder) if name.endswith(".json") and not name.startswith(".")]
    return {storage.join(folder, name): read_manifest(storage.join(folder, name)) for name in names}


def _kept(config: RunConfig, manifests: Mapping[str, Manifest], keep: int) -> dict[str, Manifest]:
    """The newest of each step, what registered versions learned from, and what those were made from."""
    if keep < 0:
        raise InputError(f"--keep is {keep}; 0 keeps every version, 3 the three newest of each step")
    if keep == 0:
        return dict(manifests)
    _require_all_known(config, keep)
    learned = _learned(config.store.root)
    wanted = {address for address in manifests if _name(address) in learned}
    for step in {manifest.step for manifest in manifests.values()}:
        mine = [address for address, manifest in manifests.items() if manifest.step == step]
        wanted |= set(sorted(mine, key=_changed_s)[-keep:])
    parents = {f"{manifest.step}-{manifest.key}": address for address, manifest in manifests.items()}
    pending = list(wanted)
    while pending:
        for name in _named(manifests[pending.pop()].extra):
            found = parents.get(name)
            if found and found not in wanted:
                wanted.add(found)
                pending.append(found)
    return {address: manifests[address] for address in wanted}


def _require_all_known(config: RunConfig, keep: int) -> None:
    """InputError where somebody may need a dataset who is not asked: another registry, or another store."""
    asked, root = used_registries.current(config.store.root), config.store.root
    silent = [one for one in used_registries.recorded(root) if one != asked]
    if silent:
        where = (
            "MLFLOW_TRACKING_URI is not set" if asked == used_registries.OWN else f"MLFLOW_TRACKING_URI names {asked}"
        )
        named = ["its own mlflow.db" if one == used_registries.OWN else one for one in silent]
        raise InputError(
            f"--keep {keep}: the store {root} has registered models at {' and at '.join(named)}, which is not asked "
            f"now ({where}), so what they learnt from is not known and nothing was removed. Set MLFLOW_TRACKING_URI "
            f"to that registry and run it again; if it is no more, take it out of "
            f"{Path(root) / used_registries.FILE} and remove the mlflow.json files below runs that name it"
        )
    others = other_users(config.store.tables, root)
    if others:
        other, file = next(iter(sorted(others.items())))
        raise InputError(
            f"--keep {keep}: the store {other} keeps its datasets in {config.store.tables} as well, and what it needs "
            f"is not known here, so nothing was removed. Run gc without --keep; if that store is no more, remove {file}"
        )


def _learned(root: str) -> set[str]:
    """Names of the manifests that any registered model of any name learnt from, or a training under way learns from."""
    named = [uri for origin in every_version(store=root).values() for uri in origin.datasets]
    for record in Path(root).glob(f"runs/*/{ancestry.RECORD}"):
        if not (record.parent / "result.json").exists():
            kept = ancestry.noted(record.parent)
            if kept is None or not isinstance(kept.get("datasets"), list):
                raise InputError(
                    f"{record} says which datasets the training in that folder learns from, and cannot be read, so "
                    "nothing was removed: restore it from a backup, or remove the folder if that training is given up"
                )
            named += kept["datasets"]
    return {_name(uri) for uri in named}


def _name(address: str) -> str:
    """The file name of a manifest, which holds its key: the same dataset, wherever the store stands."""
    return address.rsplit("/", 1)[-1]


def _named(extra: Mapping[str, Any]) -> Iterator[str]:
    """The manifests that one refers to: what it was made from, and the tables of verdicts and landmarks beside it."""
    yield str(extra.get("made_from", ""))
    for value in extra.values():
        if isinstance(value, Mapping) and "uri" in value:
            yield Path(str(value["uri"])).stem


def _changed_s(address: str) -> float:
    found = storage.stamp(address)
    return 0.0 if found is None else found.changed_ns / 1e9


def _leftovers(config: RunConfig, now_s: float) -> Iterator[Waste]:
    """Files that killed commands had not finished, and what jobs were asked."""
    for folder in ("chunks", "tables", "manifests"):
        for name in storage.names(storage.join(config.store.tables, folder)):
            if UNFINISHED.fullmatch(name):
                yield from _waste(storage.join(config.store.tables, folder, name), "left by a kill", now_s, DAY_S)
    jobs = storage.join(config.store.tables, "cache", "jobs")
    for name in storage.names(jobs):
        if name.endswith(".json"):
            yield from _waste(storage.join(jobs, name), "answer of a job", now_s, ANSWERS_S)
    runs = Path(config.store.root) / "cache" / "flows"
    for path in sorted(runs.glob("*.toml")):
        yield from _waste(str(path), "settings of a flow run", now_s, 30 * DAY_S)


def _checkpoints(root: Path, now_s: float) -> Iterator[Waste]:
    """Checkpoints on the way of trainings that have their model; the model stays."""
    for run in sorted((root / "runs").glob("*/result.json")):  # written last
        for path in sorted([*run.parent.glob("step-*"), *run.parent.glob(".step-*"), *run.parent.glob("damaged-*")]):
            if now_s - path.stat().st_mtime > DAY_S and _holds_checkpoints_only(path):
                size = sum(below.stat().st_size for below in path.rglob("*") if below.is_file())
                yield Waste(address=str(path), kind="checkpoint on the way", num_bytes=size)


def _holds_checkpoints_only(path: Path) -> bool:
    """Whether a folder has a name that training gives, and in it nothing but files of checkpoints."""
    from models.weights.checkpoint import FILES

    below = [found for found in path.rglob("*") if found.is_symlink() or not found.is_dir()]
    return bool(CHECKPOINT.fullmatch(path.name)) and all(
        found.name in FILES and not found.is_symlink() for found in below
    )


def _waste(address: str, kind: str, now_s: float, older_s: float) -> Iterator[Waste]:
    found = storage.stamp(address)
    if found is not None and now_s - found.changed_ns / 1e9 > older_s:
        yield Waste(address=address, kind=kind, num_bytes=found.size)


def _remove(address: str) -> None:
    if not storage.is_remote(address) and Path(address).is_dir():
        shutil.rmtree(address)
    else:
        storage.remove(address)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
