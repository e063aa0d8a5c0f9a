"""What a training records when it begins: its datasets, and the version or file that its first weights come from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.atomic_json import write_json

RECORD = "ancestry.json"  # in the folder of a training, written when it begins


def write(folder: str | Path, *, start: str, datasets: Sequence[str], store: str) -> None:
    """Record with a training, when it begins, its datasets and the version that `model.init_from` names now."""
    if storage.stamp(storage.join(folder, RECORD)) is None:
        write_json(storage.join(folder, RECORD), {"datasets": list(datasets), **start_of(start, store=store)})


def start_of(start: str, *, store: str) -> dict[str, str]:
    """Tags for what a training begins from: `start_uri`, "none" for nothing, and `start_digest` of the weights."""
    from pipelines import registry

    if not start:
        return {"start_uri": "none"}
    if not start.startswith("models:"):
        from models.weights.model_identity import describe

        return {"start_uri": start, "start_digest": describe(start).digest}
    version = registry.lineage(start, store=store)
    weights = version.tags.get("weights_digest", "")
    return {"start_uri": version.version.uri, **({"start_digest": weights} if weights else {})}


def tags(folder: str | Path, *, start: str, datasets: Sequence[str], store: str) -> dict[str, str]:
    """For a version: the record of its training, or the present state for one that began before there were records."""
    record: Mapping[str, Any] = read(folder) or {"datasets": list(datasets)} | start_of(start, store=store)
    start_tags = {name: str(record[name]) for name in ("start_uri", "start_digest") if name in record}
    return {**start_tags, **({"automix_uri": record["datasets"][1]} if len(record["datasets"]) > 1 else {})}


def read(folder: str | Path) -> dict[str, Any] | None:
    """What `write` stored with a training; None for one that began before there was a record."""
    try:
        content = json.loads(storage.read(storage.join(folder, RECORD)))
    except InputError:  # a store that does not answer says nothing of what it holds
        raise
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
