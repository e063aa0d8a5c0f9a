"""A model that is kept at an address, on the machine that needs it: fetched once, and every byte checked."""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.disk_errors import disk_errors
from datasets.store.scratch import hold, scratch_of_model, tidy
from pipelines.runs.remote_checkpoints import alone, send

# How a model that is a file is called; others are folders.
_FILES = (".safetensors", ".th", ".ckpt", ".chpt", ".yaml", ".yml")
_SHARED = re.compile(r"/cache/models/([0-9a-f]{16})/files/[^/]+$")  # of a file that `share` brought there


def on_this_machine(checkpoint: str) -> Path:
    """The folder of a checkpoint, or the file; of one in an object store a whole copy in this machine's scratch."""
    if not storage.is_remote(checkpoint):
        return Path(checkpoint)
    return _fetched_file(checkpoint) if checkpoint.endswith(_FILES) else _fetched_folder(checkpoint)


def _fetched_folder(checkpoint: str) -> Path:
    from models.errors import ModelError
    from models.weights.checkpoint import CONFIG, WEIGHTS, check

    folder = hold(scratch_of_model(checkpoint))
    model = folder / "model"
    with alone(folder), disk_errors(folder):
        model.mkdir(exist_ok=True)
        try:
            config = storage.read(storage.join(checkpoint, CONFIG))
            if not (model / CONFIG).is_file() or (model / CONFIG).read_bytes() != config or not _is_whole(model):
                storage.fetch(storage.join(checkpoint, WEIGHTS), model / WEIGHTS)
                storage.write(model / CONFIG, config)
                tidy()
            check(model)
        except FileNotFoundError as error:
            raise InputError(f"{checkpoint} is no whole model: {error}") from None
        except ModelError as error:
            raise InputError(f"{checkpoint} was altered: {error}") from error
    return model


def _is_whole(model: Path) -> bool:
    from models.errors import ModelError
    from models.weights.checkpoint import check

    try:
        check(model)
    except ModelError:
        return False
    return True


def _fetched_file(address: str) -> Path:
    """A copy of a model that is a file, with the members of a bag beside it; another copy where the object changes."""
    above, _, name = address.rpartition("/")
    if storage.stamp(address) is None:
        raise InputError(f"there is no model {address}")
    folder = hold(scratch_of_model(address))
    copy = folder / hashlib.sha256(repr(storage.state(address)).encode()).hexdigest()[:12]
    with alone(folder), disk_errors(folder):
        if not copy.is_dir():
            temporary = Path(tempfile.mkdtemp(prefix=".fetched-", dir=folder))
            try:
                storage.fetch(address, temporary / name)
                for member in _members(above, temporary / name):
                    storage.fetch(storage.join(above, member), temporary / member)
                _require_as_shared(address, temporary / name)
                os.replace(temporary, copy)
                tidy()
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return copy / name


def _members(folder: str, file: Path) -> list[str]:
    """The names of the files beside a bag that it may mean, and of the YAML beside a trainer's checkpoint."""
    if file.name.endswith((".ckpt", ".chpt")):
        return [name for name in storage.names(folder) if name.endswith((".yaml", ".yml"))]
    if not file.name.endswith((".yaml", ".yml")):
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    return [name for name in storage.names(folder) if name != file.name and re.split("[-.]", name)[0] in text]


def _require_as_shared(address: str, file: Path) -> None:
    """InputError where the file at an address that `share` gave is another one by now."""
    from models.errors import ModelError
    from models.weights.model_identity import describe

    if shared := _SHARED.search(address):
        try:
            changed = not describe(file).digest.startswith(shared[1])
        except ModelError:
            changed = True
        if changed:
            raise InputError(f"{address} was altered: remove it, then run the same command again")


def share(model: Path, store: str) -> str:
    """The address of a model for all machines: in the cache of a store in an object store; else where it is."""
    if not storage.is_remote(store):
        return str(model)
    from models.weights.checkpoint import CONFIG, WEIGHTS
    from models.weights.model_identity import describe

    described = describe(model)
    address = storage.join(storage.absolute(store), "cache", "models", described.digest[:16])
    if model.is_dir():
        files = [model / WEIGHTS, model / CONFIG]  # the mark of a whole checkpoint last
    else:
        address = storage.join(address, "files")
        files = [file for file in map(Path, described.origins) if file.name != model.name] + [model]
    for file in files:
        if storage.stamp(storage.join(address, file.name)) is None:
            send(file, storage.join(address, file.name))
    return address if model.is_dir() else storage.join(address, model.name)
