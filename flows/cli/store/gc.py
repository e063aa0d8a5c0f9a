"""`stemline gc`: lists what nothing in a store refers to any more, and removes it with --delete.

Manifests refer to shards, and registered versions to manifests. Whatever is younger than a day is left alone, since a
command may be using it. Songs, reports, MLflow's files and Prefect's records are never touched.
"""

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.errors import InputError
from datasets.shards.manifests import Manifest, read_manifest
from datasets.store import ownership, storage
from datasets.store.scratch import scratch
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from flows.tasks.open_store import other_users, store_lock
from pipelines.lineage import training_ancestry
from pipelines.registry import used_registries
from pipelines.registry.version_lineage import every_version
from pipelines.runs import remote_checkpoints
from pipelines.runs.run_place import kept_files

DAY_S = 86_400.0
JOB_FILES_S = 7 * DAY_S  # calls and answers of jobs of a cluster
# Names that `write_shard`, `write_table`, `storage.replacing`, jobs and flow runs give: files of other names stay.
SHARD = re.compile(
    r"chunks/(mix-)?[0-9a-f]{4,}(-without-[0-9a-f]{16})?\.(parquet|json)|tables/(landmarks|plans|profiles|scores|verdicts)-[\w-]+\.parquet"
)
UNFINISHED = re.compile(re.escape(storage.TEMPORARY) + r".+-[0-9a-f]{4,}")
MARKER = re.compile(r"seen-[0-9a-f]{32}")  # see pipelines/runtime/shared_store.py
# See pipelines/runs/stored_model.py
MODEL_COPY = re.compile(r"[0-9a-f]{16}/(files/[^/]+|weights\.safetensors|config\.json)")
EMPTIED = re.compile(r"/runs/[^/]+/step-\d{9,}(-[0-9a-f]{8})?$|/cache/models/[0-9a-f]{16}$")
CHECKPOINT = re.compile(r"step-\d{9}|\.step-\w+|damaged-step-\d{9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreferenced:
    """A file or a folder that nothing refers to."""

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

    Example: `stemline gc store.root=STORE --keep 3`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, keep=keep, delete=delete, screen=screen))


def run(config: RunConfig, *, keep: int, delete: bool, screen: Screen) -> dict[str, Any]:
    """What can go, and whether it was removed; the `keep` newest versions of each dataset stay, with 0 all of them.

    The store is locked meanwhile, so that no command writes what is about to be removed. A folder that is not a store
    is refused, and files under names that we do not give stay.
    """
    ownership.require_store(config.store.root, setting="store.root")
    ownership.require_store(config.store.tables, setting="store.data" if config.store.data else "store.root")
    with store_lock(config.store.root, verb="gc", data=config.store.data):
        screen.start("gc", 0, "")
        items = list(find(config, keep=keep, now_s=time.time()))
        if delete:
            remove(items, config.store.root)
        screen.finish(f"{len(items)} {'removed' if delete else 'can go'}, {_total_size(items)}")
    return {
        "removed": delete,
        "waste": [item.address for item in items],
        "console_output": _console_output(items, delete=delete),
    }


def _console_output(items: Sequence[Unreferenced], *, delete: bool) -> list[Any]:
    kinds: dict[str, list[Unreferenced]] = {}
    for item in items:
        kinds.setdefault(item.kind, []).append(item)
    if not kinds:
        return [Text("Everything is referred to.")]
    rows = [[kind, str(len(members)), _total_size(members)] for kind, members in kinds.items()]
    hint = [] if delete else [Text("Nothing was removed: `stemline gc --delete` does that.")]
    return [table("Unreferenced", ["", "number", "size"], rows), *hint]


def _total_size(items: Sequence[Unreferenced]) -> str:
    return _size(sum(item.num_bytes for item in items))


def find(config: RunConfig, *, keep: int, now_s: float) -> Iterator[Unreferenced]:
    """Everything that can go, the least valuable first."""
    yield from _leftovers(config, now_s)
    yield from _checkpoints(config.store.root, now_s)
    store = config.store.tables
    manifests = _manifests(store)
    retained = _retained(config, manifests, keep)
    for address in manifests.keys() - retained.keys():
        for name in (address, address.removesuffix(".json") + ".toml"):  # version 0.1 kept settings beside manifests
            yield from _if_older(name, "superseded dataset", now_s, DAY_S)
    referred = {shard.file for manifest in retained.values() for shard in manifest.shards}
    for folder in ("chunks", "tables"):
        for name in storage.names(storage.join(store, folder)):
            whole = f"{folder}/{Path(name).stem}.parquet"
            if SHARD.fullmatch(f"{folder}/{name}") and whole not in referred:
                yield from _if_older(storage.join(store, folder, name), "shard of no dataset", now_s, DAY_S)


def _manifests(store: str) -> dict[str, Manifest]:
    """Every manifest; InputError for one that cannot be read, since nobody knows what it refers to."""
    folder = storage.join(store, "manifests")
    names = [name for name in storage.names(folder) if name.endswith(".json") and not name.startswith(".")]
    return {storage.join(folder, name): read_manifest(storage.join(folder, name)) for name in names}


def _retained(config: RunConfig, manifests: Mapping[str, Manifest], keep: int) -> dict[str, Manifest]:
    """The newest of each step, what registered versions learned from, and what those were made from."""
    if keep < 0:
        raise InputError(f"--keep must be >= 0, got {keep}; 0 keeps every version, 3 the three newest of each step")
    if keep == 0:
        return dict(manifests)
    _require_all_known(config, keep)
    learned = _learned(config.store.root)
    wanted = {address for address in manifests if _name(address) in learned}
    for step in {manifest.step for manifest in manifests.values()}:
        of_step = [address for address, manifest in manifests.items() if manifest.step == step]
        wanted |= set(sorted(of_step, key=_changed_ns)[-keep:])
    parents = {f"{manifest.step}-{manifest.key}": address for address, manifest in manifests.items()}
    pending = list(wanted)
    while pending:
        for name in _references(manifests[pending.pop()].extra):
            parent = parents.get(name)
            if parent and parent not in wanted:
                wanted.add(parent)
                pending.append(parent)
    return {address: manifests[address] for address in wanted}


def _require_all_known(config: RunConfig, keep: int) -> None:
    """InputError where a dataset may be needed by another registry, or by another store."""
    current, root = used_registries.current(config.store.root), config.store.root
    others = [registry for registry in used_registries.recorded(root) if registry != current]
    if others:
        where = (
            "MLFLOW_TRACKING_URI is not set"
            if current == used_registries.OWN
            else f"MLFLOW_TRACKING_URI names {current}"
        )
        named = ["its own mlflow.db" if registry == used_registries.OWN else registry for registry in others]
        raise InputError(
            f"--keep {keep}: the store {root} has registered models at {' and at '.join(named)}, which cannot be read "
            f"now ({where}), so what they learned from is not known and nothing was removed. Set MLFLOW_TRACKING_URI "
            f"to that registry and run it again; if it no longer exists, remove it from "
            f"{storage.join(root, used_registries.FILE)} and remove the mlflow.json files below runs that name it"
        )
    stores = other_users(config.store.tables, root)
    if stores:
        store, file = next(iter(sorted(stores.items())))
        raise InputError(
            f"--keep {keep}: the store {store} keeps its datasets in {config.store.tables} as well, and what it needs "
            f"is not known here, so nothing was removed. Run gc without --keep; if that store no longer exists, remove "
            f"{file}"
        )


def _learned(root: str) -> set[str]:
    """Names of the manifests that any registered model, or a training under way, learns or learned from."""
    named = [uri for origin in every_version(store=root).values() for uri in origin.datasets]
    for record in kept_files(root, training_ancestry.RECORD):
        folder = record.rpartition("/")[0]
        if storage.stamp(storage.join(folder, "result.json")) is None:
            noted = training_ancestry.read(folder)
            if noted is None or not isinstance(noted.get("datasets"), list):
                raise InputError(
                    f"{record} says which datasets the training in that folder learns from, and cannot be read, so "
                    "nothing was removed: restore it from a backup, or remove the folder if that training is abandoned"
                )
            named += noted["datasets"]
    return {_name(uri) for uri in named}


def _name(address: str) -> str:
    """The file name of a manifest, which holds its key: the same dataset, wherever the store stands."""
    return address.rsplit("/", 1)[-1]


def _references(extra: Mapping[str, Any]) -> Iterator[str]:
    """The manifests that one refers to: what it was made from, and the tables of verdicts and landmarks beside it."""
    yield str(extra.get("made_from", ""))
    for value in extra.values():
        if isinstance(value, Mapping) and "uri" in value:
            yield Path(str(value["uri"])).stem


def _changed_ns(address: str) -> int:
    stamp = storage.stamp(address)
    return 0 if stamp is None else stamp.changed_ns


def _leftovers(config: RunConfig, now_s: float) -> Iterator[Unreferenced]:
    """Unfinished files of killed commands, files of jobs, and settings of flow runs."""
    for folder in ("chunks", "tables", "manifests"):
        for name in storage.names(storage.join(config.store.tables, folder)):
            if UNFINISHED.fullmatch(name):
                yield from _if_older(storage.join(config.store.tables, folder, name), "left by a kill", now_s, DAY_S)
    jobs = storage.join(config.store.tables, "cache", "jobs")
    for name in storage.names(jobs):
        if name.endswith(".json"):
            yield from _if_older(storage.join(jobs, name), "answer of a job", now_s, JOB_FILES_S)
    cache = storage.join(config.store.tables, "cache")
    for name in storage.names(cache):
        if MARKER.fullmatch(name):
            yield from _if_older(storage.join(cache, name), "left by a kill", now_s, DAY_S)
    yield from _copies_of_models(config.store.root, now_s)
    runs = scratch(config.store.root) / "cache" / "flows"
    for path in sorted(runs.glob("*.toml")):
        yield from _if_older(str(path), "settings of a flow run", now_s, 30 * DAY_S)


def _copies_of_models(root: str, now_s: float) -> Iterator[Unreferenced]:
    """Models that were brought to an object store for its machines; whoever needs one brings it again."""
    copies = storage.join(root, "cache", "models")
    for inside, stamp in storage.files_below(copies).items() if storage.is_remote(root) else ():
        if MODEL_COPY.fullmatch(inside) and now_s - stamp.changed_ns / 1e9 > JOB_FILES_S:
            address = storage.join(copies, *inside.split("/"))
            yield Unreferenced(address=address, kind="copy of a model", num_bytes=stamp.size)


def _checkpoints(root: str, now_s: float) -> Iterator[Unreferenced]:
    """Intermediate checkpoints of finished trainings; the model stays."""
    if storage.is_remote(root):
        for folder in (result.rpartition("/")[0] for result in kept_files(root, "result.json")):
            for inside, stamp in storage.files_below(folder).items():
                if remote_checkpoints.is_of_checkpoint(inside) and now_s - stamp.changed_ns / 1e9 > DAY_S:
                    address = storage.join(folder, *inside.split("/"))
                    yield Unreferenced(address=address, kind="intermediate checkpoint", num_bytes=stamp.size)
        return
    for run in map(Path, kept_files(root, "result.json")):  # written last
        for path in sorted([*run.parent.glob("step-*"), *run.parent.glob(".step-*"), *run.parent.glob("damaged-*")]):
            if now_s - path.stat().st_mtime > DAY_S and _holds_checkpoints_only(path):
                size = sum(below.stat().st_size for below in path.rglob("*") if below.is_file())
                yield Unreferenced(address=str(path), kind="intermediate checkpoint", num_bytes=size)


def _holds_checkpoints_only(path: Path) -> bool:
    """Whether a folder has a name that training gives, and in it nothing but files of checkpoints."""
    from models.weights.checkpoint import FILES

    files = [file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()]
    return bool(CHECKPOINT.fullmatch(path.name)) and all(file.name in FILES and not file.is_symlink() for file in files)


def _if_older(address: str, kind: str, now_s: float, older_s: float) -> Iterator[Unreferenced]:
    stamp = storage.stamp(address)
    if stamp is not None and now_s - stamp.changed_ns / 1e9 > older_s:
        yield Unreferenced(address=address, kind=kind, num_bytes=stamp.size)


def remove(items: Sequence[Unreferenced], root: str) -> None:
    """Delete what was found in a store, and in an object store the objects that stand for folders emptied so."""
    for item in items:
        if not storage.is_remote(item.address) and Path(item.address).is_dir():
            shutil.rmtree(item.address)
        else:
            storage.remove(item.address)
    for folders in (("runs",), ("cache", "models")) if storage.is_remote(root) else ():
        for emptied in storage.empty_folders(storage.join(root, *folders)):
            if EMPTIED.search(emptied):
                storage.remove_folder(emptied)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
