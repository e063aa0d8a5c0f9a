"""Which registries a store has used: noted whenever it trains or registers, so that whoever removes things asks them.

A cron's shell may lack MLFLOW_TRACKING_URI: the store's own books are empty then, and nothing would seem to be learnt
from. Addresses are kept without their passwords.
"""

from pathlib import Path

from datasets.errors import InputError, without_passwords
from datasets.store import storage
from datasets.store.atomic_json import read_json, write_json
from pipelines.registry.connection import address as registry_address
from pipelines.registry.database.sqlite_files import sqlite_file
from pipelines.runs.run_place import kept_files

FILE = "registries.json"  # in the store's root
OWN = "mlflow.db"  # the store's own books, wherever the store stands


def current(store: str | Path) -> str:
    """The registry that is asked at present, as it is recorded."""
    address = without_passwords(registry_address(str(store))).rstrip("/")
    return OWN if _folder_of(address) == Path(store).resolve() else address


def is_current(address: str, run: Path, *, store: str) -> bool:
    """Whether an address that the folder of a training notes is that of the registry that is asked at present.

    A store's own database is the same wherever the store stood when the training noted it.
    """
    return (OWN if _is_own(address, run, store) else address.rstrip("/")) == current(store)


def record(store: str) -> None:
    """Remember the registry that is asked at present."""
    path = storage.join(store, FILE)
    present = current(store)
    try:
        before = _listed(path)
    except InputError:  # no reason to stop a training; whoever removes things finds out
        return
    if present not in before:
        write_json(path, {"about": "asked by `stemline gc --keep`", "registries": sorted({*before, present})})


def recorded(store: str) -> list[str]:
    """Every registry that the store has used, also as its trainings tell that began before this was recorded."""
    listed = _listed(storage.join(store, FILE))
    for mark in kept_files(store, "mlflow.json"):
        address = str((read_json(mark) or {}).get("address", "")).rstrip("/")
        if address and not _is_own(address, Path(mark).parent, store):
            listed.add(address)
    return sorted(listed)


def _listed(path: str) -> set[str]:
    """InputError for a file that cannot be read, since nobody knows who would have to be asked."""
    listed = (read_json(path) or {}).get("registries") if storage.stamp(path) is not None else []
    if not isinstance(listed, list):
        raise InputError(
            f"{path} says which registries the store has used, and cannot be read: restore it from a backup, or write "
            'into it what it should say, such as {"registries": ["mlflow.db"]}'
        )
    return set(map(str, listed))


def _is_own(address: str, run: Path, store: str | Path) -> bool:
    """Whether that is the store's own database, noted here or, before the store was moved, elsewhere."""
    folder = _folder_of(address)
    return address == OWN or (folder is not None and folder in (Path(store).resolve(), _stood(run)))


def _folder_of(address: str) -> Path | None:
    """The folder of a store whose own database this is; None for other registries."""
    file = sqlite_file(address)
    return file.parent if file is not None and file.name == OWN else None


def _stood(run: Path) -> Path | None:
    """Where the store stood when a training ended: its books were there then, and are here current."""
    model = (read_json(run / "result.json") or {}).get("checkpoint", "")
    return Path(model).parents[2] if len(Path(model).parts) > 3 else None
