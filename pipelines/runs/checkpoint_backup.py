"""Checkpoints in a second place, a bucket or another disk, from which a run goes on where its folder was lost.

Under `ADDRESS/RUN_KEY/` a checkpoint is the files of `step-<n>/`, the curve up to it and what was done about trouble,
and last `step-<n>.json`, which names them all with their digests: what has no such file, or does not match it, is no
checkpoint, and the one before it is used.
"""

import hashlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from pipelines.runs import run_folder

_TOLD = (run_folder.HISTORY, run_folder.EVENTS)
_COPY_BYTES = 8 << 20


def put(folder: Path, step: int, address: str, *, keep: int) -> None:
    """Copy a checkpoint of a run's folder; the newest `keep` stay there. InputError where the place does not answer."""
    name = run_folder.checkpoint_name(step)
    root = storage.join(storage.absolute(address), folder.name)
    files = [path for path in sorted((folder / name).rglob("*")) if path.is_file()]
    # The curve may go on while it is copied: what a digest is of must be what was sent.
    digests = {}
    for path in [*files, *(folder / part for part in _TOLD if (folder / part).exists())]:
        inside = str(path.relative_to(folder / name)) if path in files else path.name
        digests[inside] = _copy(path, storage.join(root, name, inside))
    write_json(storage.join(root, f"{name}.json"), {"step": step, "files": digests})
    for old in _names(root)[keep:]:
        _forget(root, old)


def get(folder: Path, address: str) -> list[str]:
    """Bring the newest whole checkpoint into a run's folder that has none; why newer ones were passed over."""
    root, passed = storage.join(storage.absolute(address), folder.name), []
    for name in _names(root):
        described = read_json(storage.join(root, f"{name}.json"))
        temporary = Path(tempfile.mkdtemp(prefix=".fetched-", dir=folder))
        try:
            if described is None:
                passed.append(f"{name}: its list of files cannot be read")
            elif wrong := _fetch(storage.join(root, name), described["files"], temporary):
                passed.append(f"{name}: {wrong}")
            else:
                _take(temporary, folder, name)
                return passed
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return passed


def _take(fetched: Path, folder: Path, name: str) -> None:
    """Files of a run under their names; the checkpoint, which makes them count, last."""
    for part in _TOLD:
        if (fetched / part).exists():
            os.replace(fetched / part, folder / part)
    fetched.chmod(0o755)
    shutil.rmtree(folder / name, ignore_errors=True)  # the run's own of this step, found damaged
    os.replace(fetched, folder / name)


def _fetch(root: str, digests: dict[str, str], target: Path) -> str:
    """What is wrong with the files, in a few words; empty when all are as they were written."""
    for inside, digest in digests.items():
        path = target / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            storage.fetch(storage.join(root, inside), path)
        except FileNotFoundError:
            return f"it has no {inside}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{inside} is truncated or was altered"
    return ""


def _copy(path: Path, address: str) -> str:
    """SHA-256 of what was sent."""
    digest = hashlib.sha256()
    with path.open("rb") as file, storage.replacing(address, needed=lambda: path.stat().st_size) as copy:
        while block := file.read(_COPY_BYTES):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _names(root: str) -> list[str]:
    """Checkpoints there, the newest first."""
    steps = [name.removesuffix(".json") for name in storage.names(root) if name.endswith(".json")]
    return sorted(filter(run_folder.is_checkpoint_name, steps), reverse=True)


def _forget(root: str, name: str) -> None:
    """Its list first: without it the files are nothing."""
    described = read_json(storage.join(root, f"{name}.json"))
    storage.remove(storage.join(root, f"{name}.json"))
    for inside in described["files"] if described else ():
        storage.remove(storage.join(root, name, inside))


def check(address: str) -> None:
    """InputError unless the place can be written to: found out before hours of training."""
    if not address:
        return
    try:
        probe = storage.join(storage.absolute(address), f".stemline-{uuid.uuid4().hex[:8]}")
        storage.write(probe, b"")
        storage.remove(probe)
    except InputError as error:
        raise InputError(f"train.backup_uri={address} takes no checkpoints: {error}") from error
