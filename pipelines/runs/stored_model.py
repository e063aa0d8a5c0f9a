"""A model that is kept at an address, on the machine that needs it: fetched once, and every byte checked."""

from pathlib import Path

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.scratch import scratch
from pipelines.runs.remote_checkpoints import alone, send


def on_this_machine(checkpoint: str) -> Path:
    """The folder of a checkpoint, or the file; of one in an object store a whole copy in this machine's scratch."""
    if not storage.is_remote(checkpoint):
        return Path(checkpoint)
    from models.errors import ModelError
    from models.weights.checkpoint import CONFIG, WEIGHTS, check

    folder = scratch(checkpoint)
    model = folder / "model"
    with alone(folder), storage.disk_errors(folder):
        model.mkdir(exist_ok=True)
        try:
            config = storage.read(storage.join(checkpoint, CONFIG))
            if not (model / CONFIG).is_file() or (model / CONFIG).read_bytes() != config or not _is_whole(model):
                storage.fetch(storage.join(checkpoint, WEIGHTS), model / WEIGHTS)
                storage.write(model / CONFIG, config)
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


def share(model: Path, store: str, digest: str) -> str:
    """The address of a model for all machines: in the cache of a store in an object store; else its folder."""
    if not storage.is_remote(store):
        return str(model)
    from models.weights.checkpoint import CONFIG, WEIGHTS

    address = storage.join(storage.absolute(store), "cache", "models", digest[:16])
    if storage.stamp(storage.join(address, CONFIG)) is None:
        for name in (WEIGHTS, CONFIG):  # the mark of a whole checkpoint last
            send(model / name, storage.join(address, name))
    return address
