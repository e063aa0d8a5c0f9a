"""What was decided about a version: every decision is a document of its own, and none takes the place of another.

A document lies with the run, under `decisions/<name>/<version>/<key>.json`, with the rules that it was made by; its
key is a digest of it, so the same decision made again is the same document. A tag `decision.<key>` of the version says
when and what in short. The tag `decision` holds the key of the one that counts: the promoting one, once there is one,
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
from pipelines.registry.database import limits
from pipelines.registry.entities import run_or_none

if TYPE_CHECKING:
    from mlflow import MlflowClient
COUNTS, PROMOTED = "decision", "promoted"
_EACH = "decision."


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A decision in short."""

    key: str  # of its document; empty for that of an older stemline
    at: str  # UTC, ISO 8601; empty where it was not kept
    promote: bool
    reason: str


def keep(client: "MlflowClient", made: Any, decision: Mapping[str, Any], rules: Mapping[str, Any] | None = None) -> str:
    """Add a decision about a version, as MLflow gave it, and return its key; one that is there already stays."""
    tags = dict(made.tags)
    if (older := _older(made)) is not None:
        tags[COUNTS] = _add(client, made, older, None, at="")
        client.set_model_version_tag(made.name, made.version, COUNTS, tags[COUNTS])
    key = _add(client, made, decision, rules, at=datetime.now(UTC).isoformat(timespec="milliseconds"))
    if tags.get(PROMOTED) != "yes" and tags.get(COUNTS) != key:
        client.set_model_version_tag(made.name, made.version, COUNTS, key)
    return key


def _add(
    client: "MlflowClient", made: Any, decision: Mapping[str, Any], rules: Mapping[str, Any] | None, *, at: str
) -> str:
    text = dumps({"decision": decision, "rules": rules}, indent=2, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    if f"{_EACH}{key}" not in made.tags:
        client.log_text(made.run_id, text, _path(made, key))
        note = {"at": at, "promote": bool(decision["promote"]), "reason": limits.value(str(decision["reason"]), 1000)}
        client.set_model_version_tag(made.name, made.version, f"{_EACH}{key}", dumps(note))
    return key


def notes(made: Any) -> list[Note]:
    """Every decision about a version in short, the oldest first."""
    own = [
        Note(key=name.removeprefix(_EACH), **json.loads(text))
        for name, text in made.tags.items()
        if name.startswith(_EACH)
    ]
    older = _older(made)
    first = [] if older is None else [Note(key="", at="", promote=bool(older["promote"]), reason=str(older["reason"]))]
    return first + sorted(own, key=lambda note: (note.at, note.key))


def counting(client: "MlflowClient", made: Any, *, is_champion: bool) -> dict[str, Any] | None:
    """The decision that counts: the one that made it champion where it was one, else the last; None without any."""
    older, known = _older(made), notes(made)
    if older is not None or not known:
        return older
    promoting = [note.key for note in known if note.promote]
    key = made.tags.get(COUNTS) or known[-1].key
    if is_champion and promoting and made.tags.get(PROMOTED) != "yes":
        key = promoting[-1]  # its process was killed before it could set the tags
    if _is_gone(client, made, key):  # with the run's files; its tag has the gist
        return next(({"promote": note.promote, "reason": note.reason} for note in known if note.key == key), None)
    return read(client, made, key)


def _is_gone(client: "MlflowClient", made: Any, key: str) -> bool:
    path = _path(made, key)
    if run_or_none(client, made.run_id) is None:
        return True
    return path not in {file.path for file in client.list_artifacts(made.run_id, path.rpartition("/")[0])}


def read(client: "MlflowClient", made: Any, key: str) -> dict[str, Any]:
    """A decision's document; that of an older stemline where the key is empty."""
    import mlflow

    if not key and (older := _older(made)) is not None:
        return older
    path = _path(made, key)
    if _is_gone(client, made, key):
        raise InputError(
            f"decision {key} about models:/{made.name}/{made.version} is gone: bring {path} of the files of run "
            f"{made.run_id} back"
        )
    home = client.get_run(made.run_id).info.artifact_uri
    document: dict[str, Any] = json.loads(mlflow.artifacts.load_text(f"{home}/{path}"))["decision"]
    return document


def tell(client: "MlflowClient", made: Any, *, promoted: bool, key: str = "") -> None:
    """Let the tags of a version say whether it was promoted, which is never taken back, and by which decision."""
    if promoted and key and made.tags.get(COUNTS) != key:
        client.set_model_version_tag(made.name, made.version, COUNTS, key)
    if made.tags.get(PROMOTED) not in ("yes", "yes" if promoted else "no"):
        client.set_model_version_tag(made.name, made.version, PROMOTED, "yes" if promoted else "no")


def is_own_tag(name: str) -> bool:
    """Whether a tag of a version is one of these."""
    return name == COUNTS or name.startswith(_EACH)


def _older(made: Any) -> dict[str, Any] | None:
    text = made.tags.get(COUNTS, "")
    document: dict[str, Any] | None = json.loads(text) if text.startswith("{") else None
    return document


def _path(made: Any, key: str) -> str:
    return f"decisions/{made.name}/{made.version}/{key}.json"
