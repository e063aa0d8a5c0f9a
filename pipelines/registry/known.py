"""Which registries a store has used: noted whenever it trains or registers, so that whoever removes things asks them.

A cron's shell may lack MLFLOW_TRACKING_URI: the store's own books are empty then, and nothing would seem to be learnt
from. Addresses are kept without their passwords.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from datasets.shards import read_json, write_json
from pipelines import registry
from pipelines.registry.reach import without_password

FILE = "registries.json"  # in the store's root
OWN = "mlflow.db"  # the store's own books, wherever the store stands


def now(store: str) -> str:
    """The registry that is asked at present, as it is noted."""
    return without_password(registry.address(store)).rstrip("/") if os.environ.get("MLFLOW_TRACKING_URI") else OWN


def note(store: str) -> None:
    """Remember the registry that is asked at present."""
    path = Path(store) / FILE
    before, present = _listed(path), now(store)
    if present not in before:
        write_json(path, {"about": "asked by `stemline gc --keep`", "registries": sorted({*before, present})})


def noted(store: str) -> list[str]:
    """Every registry that the store has used, also as its trainings tell that began before this was noted."""
    root = Path(store)
    found = _listed(root / FILE)
    for mark in sorted(root.glob("runs/*/mlflow.json")):
        address = str((read_json(mark) or {}).get("address", "")).rstrip("/")
        if address and not _is_own(address, root):
            found.add(address)
    return sorted(found)


def _listed(path: Path) -> set[str]:
    return set((read_json(path) or {}).get("registries", ()))


def _is_own(address: str, root: Path) -> bool:
    """Whether these were the store's own books: those here, or those of the place where the store stood before."""
    parts = urlsplit(address)
    file = Path(parts.path.removeprefix("/"))
    return parts.scheme == "sqlite" and file.name == OWN and (file.parent == root.resolve() or not file.exists())
