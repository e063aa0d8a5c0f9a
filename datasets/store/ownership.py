"""Whose is a folder, and whose a file in it: asked before anything is replaced or removed.

A store carries a marker, `stemline-store.json`. It is put into a new or an empty folder, or beside files of other
names than a store's own; a folder that uses one of those names without a marker is somebody's, unless it was plainly
a store before there were markers. Outputs may be put among others' files: which of a folder are ours stands in a
record beside them, `.stemline-files` or for stems `separation.json`, by name, size and digest, so that a file that
somebody has changed since is not ours either.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.store import storage

STORE_MARKER = "stemline-store.json"
FILES_MARKER = ".stemline-files"
FORMAT_VERSION = 1
# What a store writes under its root. Others' things may stand beside these, not under these names.
STORE_FOLDERS = (
    "cache/flows", "cache/jobs", "cache/models", "canary", "chunks", "forgotten", "listening", "manifests",
    "mlartifacts", "prefect", "retrainings", "runs", "scored", "separated", "tables",
)  # fmt: skip
STORE_FILES = ("mlflow.db", "report.html", "curation.html", "dropped.csv", "settings.toml")
LISTED = 5  # names in a message

_LOCK_KEYS = {"verb", "pid", "since"}
_MANIFEST_KEYS = {"schema_version", "table", "step", "key", "shards", "extra"}
_RESULT_KEYS = {"run_key", "checkpoint", "model_digest", "history"}
_SEPARATION_KEYS = {"key", "files", "file_bytes"}
_BEGUN = {"bytes": None, "sha256": None}


# --- stores -------------------------------------------------------------------------------------------------


def is_store(root: str | Path) -> bool:
    """Whether a folder, or an address in S3, is a store of ours: by its marker, or by what it was made with before.

    Before there were markers a store was known by a manifest of ours, by the lock of a verb that made something, or
    by a training that ended there.
    """
    if (marked := _json(storage.join(root, STORE_MARKER))) is not None:
        return isinstance(marked, dict) and marked.get("format") == "stemline-store"
    if not storage.is_remote(root):
        lock = _json(storage.join(root, ".lock"))
        if isinstance(lock, dict) and lock.keys() >= _LOCK_KEYS and lock["verb"] != "gc":  # gc ran on any folder
            return True
        if any(_is_training(path) for path in Path(root).glob("runs/*/result.json")):
            return True
    folder = storage.join(root, "manifests")
    return any(_is_manifest(folder, name) for name in storage.names(folder) if name.endswith(".json"))


def require_store(root: str | Path, *, setting: str) -> None:
    """InputError unless `is_store`; for verbs that remove things."""
    if not is_store(root):
        raise InputError(
            f"{setting}={root} is no store: it has no {STORE_MARKER} and no manifest of ours, so nothing in it was "
            f"touched; name yours with {setting}=DIR"
        )


def require_claimable(root: str | Path, *, setting: str) -> None:
    """InputError where a folder is no store and holds something of others under a name that a store uses."""
    if not is_store(root) and (taken := _taken(root)):
        raise InputError(
            f"{setting}={root} is no store, and {_listed(taken)} in it would be mixed with ours; nothing was touched: "
            f"give a new or an empty folder, {setting}=DIR"
        )


def claim_store(root: str | Path, *, setting: str) -> None:
    """Mark a folder as a store before it is written to, where `require_claimable` has nothing against it."""
    require_claimable(root, setting=setting)
    if storage.stamp(storage.join(root, STORE_MARKER)) is None:
        content = {"format": "stemline-store", "version": FORMAT_VERSION, "about": "what lies here is stemline's"}
        storage.write(storage.join(root, STORE_MARKER), (json.dumps(content, indent=1) + "\n").encode())


def _taken(root: str | Path) -> list[str]:
    """What stands under names of a store; an empty folder of such a name holds nothing of anybody."""
    files = [name for name in (*STORE_FILES, STORE_MARKER) if _exists(storage.join(root, name))]
    if storage.is_remote(root):
        return files + [f"{name}/" for name in STORE_FOLDERS if storage.names(storage.join(root, name))]
    folders = {name: Path(root, name) for name in STORE_FOLDERS if _exists(storage.join(root, name))}
    return files + [f"{name}/" for name, path in folders.items() if not path.is_dir() or any(path.iterdir())]


def _is_training(result: Path) -> bool:
    content = _json(str(result))
    return isinstance(content, dict) and content.keys() >= _RESULT_KEYS and content["run_key"] == result.parent.name


def _is_manifest(folder: str, name: str) -> bool:
    content = _json(storage.join(folder, name))
    if not isinstance(content, dict) or not content.keys() >= _MANIFEST_KEYS:
        return False
    return name == f"{content['step']}-{content['key']}.json"


# --- outputs ------------------------------------------------------------------------------------------------


def require_ours(
    folder: str | Path,
    names: Iterable[str],
    *,
    remedy: str,
    record: str = FILES_MARKER,
    also_ours: Callable[[str], bool] = lambda name: False,
) -> None:
    """InputError if a file of one of these names is in the folder and we did not write it as it is now.

    `also_ours` says whether a file that the record does not know as it is now is plainly ours all the same: from
    before there were records, or no longer what it was by a damage.
    """
    written = _recorded_files(folder, record, remedy=remedy)
    foreign = [
        name
        for name in names
        if _exists(storage.join(folder, name))
        and not _is_ours(storage.join(folder, name), written.get(name))
        and not also_ours(name)
    ]
    if foreign:
        raise InputError(
            f"{folder} holds {_listed(foreign)}, which stemline did not write, or which was changed since; nothing of "
            f"it was touched: {remedy}"
        )


def require_folder(folder: str | Path, *, remedy: str) -> None:
    """InputError where a folder cannot be made, since it or one above it is a file: asked long before writing."""
    if storage.is_remote(folder):
        return
    wanted = Path(folder).absolute()
    there = next(path for path in (wanted, *wanted.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"cannot write to {folder}: {there} is no folder; nothing was touched: {remedy}")


@contextmanager
def outputs(
    folder: str | Path,
    names: Iterable[str],
    *,
    remedy: str,
    record: str = FILES_MARKER,
    also_ours: Callable[[str], bool] = lambda name: False,
) -> Iterator[None]:
    """While these files are written into a folder: `require_ours` first, and a record that they are ours afterwards.

    The record is begun before the first is written, so that after a kill they are still known as ours.
    """
    names = list(names)
    require_ours(folder, names, remedy=remedy, record=record, also_ours=also_ours)
    before = _recorded_files(folder, record, remedy=remedy)
    _record(folder, record, before | {name: _BEGUN for name in names})
    try:
        yield
    finally:
        now = {name: _noted(storage.join(folder, name)) for name in names}
        kept = {name: noted for name, noted in before.items() if name not in now}
        _record(folder, record, kept | {name: noted for name, noted in now.items() if noted is not None})


def recorded_files(folder: str | Path, record: str = FILES_MARKER) -> dict[str, Any]:
    """What a record says that we wrote: the size and the SHA-256 of each file, by its name."""
    return _recorded_files(folder, record, remedy="move it away")


def _is_ours(address: str, noted: Mapping[str, Any] | None) -> bool:
    """Recorded, and as it was written; of what was begun when we were killed nothing more is known."""
    if noted is None:
        return False
    stamp = storage.stamp(address)
    if stamp is None:  # a broken link, or a folder
        return False
    if noted["bytes"] is None:
        return True
    return stamp.size == noted["bytes"] and noted["sha256"] in (None, _digest(address))


def _noted(address: str) -> dict[str, Any] | None:
    stamp = storage.stamp(address)
    return None if stamp is None else {"bytes": stamp.size, "sha256": _digest(address)}


def _recorded_files(folder: str | Path, record: str, *, remedy: str) -> dict[str, Any]:
    path = storage.join(folder, record)
    content = _json(path)
    listed = content.get("written") if isinstance(content, dict) else None
    if isinstance(listed, dict) and all(
        isinstance(one, dict) and one.keys() >= _BEGUN.keys() for one in listed.values()
    ):
        return dict(listed)
    if isinstance(content, dict) and content.keys() >= _SEPARATION_KEYS:  # separation.json, before it was a record
        files, sizes = content["files"], content["file_bytes"]
        if isinstance(files, dict) and isinstance(sizes, dict):
            return {name: {"bytes": sizes.get(stem, 0), "sha256": None} for stem, name in files.items()}
    if _exists(path):
        raise InputError(f"{path} was not written by stemline, which would use its name; nothing was touched: {remedy}")
    return {}


def _record(folder: str | Path, record: str, files: Mapping[str, Any]) -> None:
    path = storage.join(folder, record)
    if not files:
        storage.remove(path)
        return
    content = {"format": "stemline-files", "version": FORMAT_VERSION, "written": dict(sorted(files.items()))}
    storage.write(path, (json.dumps(content, indent=1) + "\n").encode())


# --- files --------------------------------------------------------------------------------------------------


def _exists(address: str) -> bool:
    """Whether anything has this name, a broken link included."""
    return storage.stamp(address) is not None if storage.is_remote(address) else os.path.lexists(address)


def _json(address: str) -> Any:
    """What a file of JSON holds; None where there is none that can be read."""
    try:
        return json.loads(storage.read(address))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError) as error:
        if isinstance(error, InputError):  # a store that does not answer is no store without a marker
            raise
        return None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise


def _digest(address: str) -> str | None:
    """SHA-256 of a file; None where there is none."""
    try:
        with storage.open_reader(address) as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
