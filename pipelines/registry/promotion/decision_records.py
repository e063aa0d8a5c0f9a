"""Decisions about a version: each is a document of its own, and none replaces another.

A document is stored with the run, under `decisions/<name>/<version>/<key>.json`, with the rules that were applied; its
key is a digest of it, so the same decision made again is the same document. A tag `decision.<key>` of the version has
its time and summary. The tag `decision` holds the key of the one that counts: the promoting one, once there is one,
else the last. Older versions hold their only decision in that tag, as JSON; it is read, and moved before another comes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from datasets.store.strict_json import dumps
from pipelines.registry.database import mlflow_limits
from pipelines.registry.find_or_create import run_or_none

if TYPE_CHECKING:
    from mlflow import MlflowClient
COUNTS, PROMOTED = "decision", "promoted"
_EACH = "decision."


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """The summary of a decision."""

    key: str  # of its document; empty for that of an older stemline
    at: str  # UTC, ISO 8601; empty where it was not kept
    promote: bool
    reason: str


def keep(
    client: "MlflowClient", raw_version: Any, decision: Mapping[str, Any], rules: Mapping[str, Any] | None = None
) -> str:
    """Add a decision about a version, as MLflow returned it, and return its key; an equal one is not added again."""
    tags = dict(raw_version.tags)
    if (older := _older(raw_version)) is not None:
        tags[COUNTS] = _add(client, raw_version, older, None, at="")
        client.set_model_version_tag(raw_version.name, raw_version.version, COUNTS, tags[COUNTS])
    key = _add(client, raw_version, decision, rules, at=datetime.now(UTC).isoformat(timespec="milliseconds"))
    if tags.get(PROMOTED) != "yes" and tags.get(COUNTS) != key:
        client.set_model_version_tag(raw_version.name, raw_version.version, COUNTS, key)
    return key


def _add(
    client: "MlflowClient", raw_version: Any, decision: Mapping[str, Any], rules: Mapping[str, Any] | None, *, at: str
) -> str:
    text = dumps({"decision": decision, "rules": rules}, indent=2, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    if f"{_EACH}{key}" not in raw_version.tags:
        client.log_text(raw_version.run_id, text, _path(raw_version, key))
        note = {
            "at": at,
            "promote": bool(decision["promote"]),
            "reason": mlflow_limits.value(str(decision["reason"]), 1000),
        }
        client.set_model_version_tag(raw_version.name, raw_version.version, f"{_EACH}{key}", dumps(note))
    return key


def notes(raw_version: Any) -> list[Note]:
    """Summaries of every decision about a version, the oldest first."""
    own = [
        Note(key=name.removeprefix(_EACH), **json.loads(text))
        for name, text in raw_version.tags.items()
        if name.startswith(_EACH)
    ]
    older = _older(raw_version)
    first = [] if older is None else [Note(key="", at="", promote=bool(older["promote"]), reason=str(older["reason"]))]
    return first + sorted(own, key=lambda note: (note.at, note.key))


def counting(client: "MlflowClient", raw_version: Any, *, is_champion: bool) -> dict[str, Any] | None:
    """The decision that counts: the one that made it champion where it was one, else the last; None without any."""
    older, recorded = _older(raw_version), notes(raw_version)
    if older is not None or not recorded:
        return older
    promoting = [note.key for note in recorded if note.promote]
    key = raw_version.tags.get(COUNTS) or recorded[-1].key
    if is_champion and promoting and raw_version.tags.get(PROMOTED) != "yes":
        key = promoting[-1]  # its process was killed before it could set the tags
    if _is_gone(client, raw_version, key):  # with the run's files; its tag has the gist
        return next(({"promote": note.promote, "reason": note.reason} for note in recorded if note.key == key), None)
    return read(client, raw_version, key)


def _is_gone(client: "MlflowClient", raw_version: Any, key: str) -> bool:
    path = _path(raw_version, key)
    if run_or_none(client, raw_version.run_id) is None:
        return True
    return path not in {file.path for file in client.list_artifacts(raw_version.run_id, path.rpartition("/")[0])}


def read(client: "MlflowClient", raw_version: Any, key: str) -> dict[str, Any]:
    """A decision's document; that of an older stemline where the key is empty."""
    import mlflow

    if not key and (older := _older(raw_version)) is not None:
        return older
    path = _path(raw_version, key)
    if _is_gone(client, raw_version, key):
        raise InputError(
            f"decision {key} about models:/{raw_version.name}/{raw_version.version} is gone: bring {path} of the "
            f"files of run {raw_version.run_id} back"
        )
    home = client.get_run(raw_version.run_id).info.artifact_uri
    document: dict[str, Any] = json.loads(mlflow.artifacts.load_text(f"{home}/{path}"))["decision"]
    return document


def tell(client: "MlflowClient", raw_version: Any, *, promoted: bool, key: str = "") -> None:
    """Tag a version as promoted or not, which is never undone, and with the decision that counts."""
    if promoted and key and raw_version.tags.get(COUNTS) != key:
        client.set_model_version_tag(raw_version.name, raw_version.version, COUNTS, key)
    if raw_version.tags.get(PROMOTED) not in ("yes", "yes" if promoted else "no"):
        client.set_model_version_tag(raw_version.name, raw_version.version, PROMOTED, "yes" if promoted else "no")


def is_own_tag(name: str) -> bool:
    """Whether a tag of a version is one of these."""
    return name == COUNTS or name.startswith(_EACH)


def _older(raw_version: Any) -> dict[str, Any] | None:
    text = raw_version.tags.get(COUNTS, "")
    document: dict[str, Any] | None = json.loads(text) if text.startswith("{") else None
    return document


def _path(raw_version: Any, key: str) -> str:
    return f"decisions/{raw_version.name}/{raw_version.version}/{key}.json"
