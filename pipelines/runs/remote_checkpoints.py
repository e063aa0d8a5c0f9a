"""Checkpoints of a run at an address, in a bucket or on another disk: written there, chosen there, fetched from there.

Below the address of the run a checkpoint is files in a folder that no other attempt writes to, `step-<n>-<attempt>/`,
with the curve up to it, and last `step-<n>.json`, which names them all with their digests: what no list names, or does
not match its list, is no checkpoint. Nothing is renamed, and nothing is appended to: an object is put whole, and
`events.jsonl` is put anew. What a killed upload left is removed by the next start.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from datasets.errors import InputError, Unavailable
from datasets.store import storage
from datasets.store.atomic_json import write_json
from datasets.store.disk_errors import disk_errors
from pipelines.runs import run_folder

Brought = TypeVar("Brought")

_CURVE = (run_folder.HISTORY, run_folder.SPEED)
_COPY_BYTES = 8 << 20
_TRIES = 2  # of a file that is not as its list says, before that is believed
_FILES_AT_ONCE = 8  # on their way: a checkpoint has some seven, and one waits for several answers
_LOCK = ".fetching"
_ATTEMPT = re.compile(r"(step-\d{9,}(?:-[0-9a-f]{8})?)/")  # the folder of a checkpoint's files, and what is in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A checkpoint as its list describes it."""

    step: int
    digest: str  # SHA-256 of the list
    folder: str  # of its files, below the address
    files: Mapping[str, str]  # SHA-256 by path in the folder
    examples: Mapping[str, str]  # the same, of what there is to be listened to, by path below the address


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a start goes on from."""

    step: int  # 0 where there is no whole checkpoint
    digest: str  # of its list
    passed: tuple[tuple[str, str], ...]  # names of newer ones that are not whole, and why


class _NotWhole(Exception):
    """In a few words what is wrong with a checkpoint."""


# --- writing ------------------------------------------------------------------------------------------------


def commit(folder: Path, step: int, address: str, *, keep: int) -> None:
    """Bring a checkpoint of a run's folder to its address; the newest `keep` stay there.

    InputError where the place does not answer; then nothing that is listed there has changed.
    """
    name = run_folder.checkpoint_name(step)
    attempt = f"{name}-{uuid.uuid4().hex[:8]}"
    put_events(folder, address)
    # The curve may go on while it is copied: what a digest is of must be what was sent.
    files = _at_once(lambda inside, path: send(path, storage.join(address, attempt, inside)), _files(folder, name))
    content = {"step": step, "folder": attempt, "files": files, "examples": _put_examples(folder, address, step)}
    write_json(storage.join(address, f"{name}.json"), content)
    for old in _names(address)[keep:]:
        forget(address, old)


def put_events(folder: Path, address: str) -> None:
    """Bring what was done about trouble to the address of a run, also between two checkpoints."""
    if (folder / run_folder.EVENTS).exists():
        send(folder / run_folder.EVENTS, storage.join(address, run_folder.EVENTS))


def _files(folder: Path, name: str) -> dict[str, Path]:
    """Those of a checkpoint and of the curve, by their path in the checkpoint's folder."""
    files = {str(path.relative_to(folder / name)): path for path in sorted((folder / name).rglob("*"))}
    return {inside: path for inside, path in files.items() if path.is_file()} | {
        curve: folder / curve for curve in _CURVE if (folder / curve).exists()
    }


def _put_examples(folder: Path, address: str, step: int) -> dict[str, str]:
    """Examples up to a step; those that an earlier checkpoint brought are there already."""
    from pipelines.runs.example_estimates import steps

    earlier = next((listed.examples for listed in _lists(address)), {})
    folders = (place for number, place in steps(folder).items() if number <= step)
    here = {path.relative_to(folder).as_posix(): path for place in folders for path in sorted(place.iterdir())}
    new = {inside: path for inside, path in here.items() if earlier.get(inside) != _sha256(path)}
    sent = _at_once(lambda inside, path: send(path, storage.join(address, inside)), new)
    return {inside: sent.get(inside) or earlier[inside] for inside in here}


def forget(address: str, name: str) -> None:
    """Remove a checkpoint: its list first, without which its files are nothing."""
    listed = _read(address, name)
    storage.remove(storage.join(address, f"{name}.json"))
    if listed:
        storage.remove_folder(storage.join(address, listed.folder))


def is_of_checkpoint(path: str) -> bool:
    """Whether a path below the address of a run is that of a list, or of a file that is of a checkpoint."""
    name, _, suffix = path.rpartition(".")
    return _ATTEMPT.match(path) is not None or (suffix == "json" and run_folder.is_checkpoint_name(name))


def remove_leftovers(address: str) -> int:
    """Remove the files of checkpoints that no list names, as killed uploads leave them; how many those were.

    For the only one who writes there. Files of other names stay.
    """
    named = {listed.folder for listed in _lists(address)}
    matches = map(_ATTEMPT.match, storage.files_below(address))
    left = [match[1] for match in matches if match and match[1] not in named]
    for folder in sorted(set(left)):
        storage.remove_folder(storage.join(address, folder))
    return len(left)


def check(address: str, *, setting: str) -> None:
    """InputError unless the place can be written to: found out before hours of training."""
    try:
        probe = storage.join(storage.absolute(address), f".stemline-{uuid.uuid4().hex[:8]}")
        storage.write(probe, b"")
        storage.remove(probe)
    except InputError as error:
        raise InputError(f"{setting}={address} takes no checkpoints: {error}") from error


# --- reading ------------------------------------------------------------------------------------------------


def newest_step(address: str) -> int:
    """The step of the newest checkpoint that has a list, 0 without one; its files are not looked at."""
    return next((run_folder.step_of(name) for name in _names(address)), 0)


def fetch_newest(folder: Path, address: str) -> Fetched:
    """Bring the newest whole checkpoint into a run's folder, with the curve and the examples up to it."""
    passed: list[tuple[str, str]] = []
    for name in _names(address):
        try:
            listed = _described(address, name)
            with alone(folder):
                _fetch(folder, address, listed)
                _fetch_curve(folder, address, listed)
            return Fetched(step=listed.step, digest=listed.digest, passed=tuple(passed))
        except _NotWhole as error:
            passed.append((name, str(error)))
    return Fetched(step=0, digest="", passed=tuple(passed))


def fetch(folder: Path, address: str, step: int, digest: str) -> None:
    """Bring a checkpoint into the folder of this machine, once for all who ask; Unavailable unless it is whole."""
    name = run_folder.checkpoint_name(step)
    try:
        listed = _described(address, name)
        if listed.digest != digest:
            raise _NotWhole("its list is not the one that training goes on from")
        with alone(folder):
            _fetch(folder, address, listed)
    except _NotWhole as error:
        raise Unavailable(f"{storage.join(address, name)}: {error}; run the same command again") from error


def follow(folder: Path, address: str, seen: int) -> int:
    """Bring the curve and examples of the newest checkpoint into a folder, if it is newer than `seen`; its step."""
    for name in _names(address)[:1]:
        if run_folder.step_of(name) != seen:
            try:
                listed = _described(address, name)
                with alone(folder):
                    _fetch_curve(folder, address, listed)
            except _NotWhole:
                return seen  # it was removed meanwhile, or is found damaged by the next start
            return listed.step
    return seen


def _fetch(folder: Path, address: str, listed: Listed) -> None:
    """The files of a checkpoint under its name, all as they were written."""
    target = folder / run_folder.checkpoint_name(listed.step)
    files = {inside: digest for inside, digest in listed.files.items() if inside not in (*_CURVE, run_folder.EVENTS)}
    if all((target / inside).is_file() and _sha256(target / inside) == digest for inside, digest in files.items()):
        return
    with disk_errors(folder):
        temporary = Path(tempfile.mkdtemp(prefix=".fetched-", dir=folder))
        try:
            _at_once(
                lambda inside, digest: _fetch_file(
                    storage.join(address, listed.folder, inside), temporary / inside, digest, called=inside
                ),
                files,
            )
            temporary.chmod(0o755)
            shutil.rmtree(target, ignore_errors=True)  # the run's own of this step, found damaged
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _fetch_curve(folder: Path, address: str, listed: Listed) -> None:
    """The curve up to a checkpoint, what was done about trouble, and what there is to be listened to."""
    for inside in (*_CURVE, run_folder.EVENTS):  # version 0.2.0 listed the last as well
        if inside in listed.files:
            _fetch_whole(storage.join(address, listed.folder, inside), folder / inside, listed.files[inside])
    new = {
        inside: digest
        for inside, digest in listed.examples.items()
        if not (folder / inside).is_file() or _sha256(folder / inside) != digest
    }
    _at_once(lambda inside, digest: _fetch_whole(storage.join(address, inside), folder / inside, digest), new)
    with suppress(FileNotFoundError):
        storage.write(folder / run_folder.EVENTS, storage.read(storage.join(address, run_folder.EVENTS)))


def _fetch_whole(address: str, target: Path, digest: str) -> None:
    temporary = target.with_name(f".{target.name}")
    _fetch_file(address, temporary, digest, called=target.name)
    os.replace(temporary, target)


def _fetch_file(address: str, target: Path, digest: str, *, called: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_TRIES):
        try:
            storage.fetch(address, target)
        except FileNotFoundError:
            raise _NotWhole(f"it has no {called}") from None
        if _sha256(target) == digest:
            return
    raise _NotWhole(f"{called} is truncated or was altered")


def _names(address: str) -> list[str]:
    """Checkpoints there that have a list, the newest first."""
    steps = [name.removesuffix(".json") for name in storage.names(address) if name.endswith(".json")]
    return sorted(filter(run_folder.is_checkpoint_name, steps), key=run_folder.step_of, reverse=True)


def _lists(address: str) -> Iterator[Listed]:
    """Every list there that can be read, the newest first."""
    return (listed for name in _names(address) if (listed := _read(address, name)) is not None)


def _described(address: str, name: str) -> Listed:
    if (listed := _read(address, name)) is None:
        raise _NotWhole("its list of files cannot be read")
    return listed


def _read(address: str, name: str) -> Listed | None:
    try:
        text = storage.read(storage.join(address, f"{name}.json"))
        content: Any = json.loads(text)
        listed = Listed(
            step=run_folder.step_of(name),
            digest=hashlib.sha256(text).hexdigest(),
            folder=str(content.get("folder", name)),  # version 0.2.0 wrote them below the name
            files=dict(content["files"]),
            examples=dict(content.get("examples", {})),
        )
        below = all(map(_stays_below, (*listed.files, *listed.examples)))
        return listed if below and _ATTEMPT.fullmatch(f"{listed.folder}/") else None
    except InputError:  # a store that does not answer says nothing of what it holds
        raise
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _stays_below(path: str) -> bool:
    """Whether a path leads to no other place than below its folder; a list may have been written by anybody."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and bool(pure.parts) and ".." not in pure.parts and "\0" not in path


# --- files --------------------------------------------------------------------------------------------------


def _at_once(bring: Callable[[str, Any], Brought], files: Mapping[str, Any]) -> dict[str, Brought]:
    """What comes of bringing files, several at a time, by their paths; the error of the first that cannot be."""
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="checkpoint-files") as pool:
        return dict(zip(files, pool.map(bring, files.keys(), files.values()), strict=True))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process of this machine at a time; the lock goes with the process."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with disk_errors(folder):
            yield


def send(path: Path, address: str) -> str:
    """Bring a file to an address, in blocks; the SHA-256 of what was sent."""
    digest = hashlib.sha256()
    with path.open("rb") as file, storage.replacing(address, needed=lambda: path.stat().st_size) as copy:
        while block := file.read(_COPY_BYTES):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
