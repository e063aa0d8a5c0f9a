"""The promotion log: which version became the champion, when, why, and after which; nothing in it is ever changed.

An entry is a version of a second registered model, `<name>-promotions`: MLflow numbers them one after the other and
gives no number twice, whatever keeps its books. So an entry is also a claim. Of two promotions that begin at once, the
one with the next number goes on, and the other is told. An entry counts when it is marked as done, after the aliases
have moved; one that a killed process left behind is finished by the same promotion, and passed over by another.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from datasets.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CANDIDATE, PREVIOUS = "champion", "candidate", "previous"

_STATE, _ENTRY = "state", "entry"
_AT_WORK_S = 60.0  # an unfinished entry may belong to a living process for so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One entry: from now on `version` was the champion."""

    number: int
    kind: Literal["promotion", "rollback"]
    version: str
    before: str  # the champion until then; empty where there was none
    reason: str
    at: str  # UTC, ISO 8601


def entries(client: "MlflowClient", name: str, aliases: Mapping[str, str]) -> list[Promotion]:
    """What was done so far, the oldest first. An entry whose alias has moved is marked if its process was killed."""
    rows = _rows(client, name)
    for row in rows[-1:]:
        if _STATE not in row.tags and _entry(row).version == aliases.get(CHAMPION):
            client.set_model_version_tag(row.name, row.version, _STATE, "done")
            return [*(_entry(row) for row in rows[:-1] if row.tags.get(_STATE) == "done"), _entry(row)]
    return [_entry(row) for row in rows if row.tags.get(_STATE) == "done"]


def move(
    client: "MlflowClient",
    name: str,
    version: Any,
    *,
    kind: Literal["promotion", "rollback"],
    reason: str,
    aliases: Mapping[str, str],
    previous: str,
) -> Promotion:
    """Note that `version`, as MLflow gave it, becomes the champion, and let the aliases say so.

    `aliases` are those that the decision was based on, `previous` is what that alias shall be on; none if empty.
    InputError if somebody else was first.
    """
    rows, number = _rows(client, name), str(version.version)
    unfinished = [row for row in rows[-1:] if _STATE not in row.tags]
    row = next((row for row in unfinished if (_entry(row).version, _entry(row).kind) == (number, kind)), None)
    if row is None:
        for left in unfinished:
            _pass_over(client, left)
        row = _claim(client, name, version, after=len(rows), kind=kind, reason=reason, before=aliases.get(CHAMPION, ""))
    client.set_registered_model_alias(name, CHAMPION, number)
    if previous:
        client.set_registered_model_alias(name, PREVIOUS, previous)
    elif PREVIOUS in aliases:
        client.delete_registered_model_alias(name, PREVIOUS)
    if aliases.get(CANDIDATE) == number:
        client.delete_registered_model_alias(name, CANDIDATE)
    client.set_model_version_tag(row.name, row.version, _STATE, "done")
    return _entry(row)


def line_of_champions(done: Sequence[Promotion]) -> list[str]:
    """The versions that led to the present champion, which is the last; those that were rolled back are not in it."""
    line: list[str] = []
    for entry in done:
        if entry.kind == "rollback" and entry.version in line:
            del line[line.index(entry.version) + 1 :]
            continue
        if not line and entry.before:
            line.append(entry.before)  # it was promoted before there was a log
        line.append(entry.version)
    return line


def require_untouched(done: Sequence[Promotion], aliases: Mapping[str, str], name: str) -> None:
    """InputError when the alias is not where the log left it: somebody moved it, or deleted its version, by hand."""
    if not done:
        return
    logged, present = done[-1].version, aliases.get(CHAMPION, "")
    if present != logged:
        seen = f"is on version {present}" if present else "is gone, perhaps with its version"
        choice = present or (done[-1].before or "N")
        raise InputError(
            f"the alias {CHAMPION} of {name} {seen}, and the promotion log says version {logged}: it was moved by "
            f"hand; `stemline rollback --to {choice}` settles which version it is, and `stemline history` lists them"
        )


def _claim(client: "MlflowClient", name: str, version: Any, *, after: int, kind: str, reason: str, before: str) -> Any:
    log = _log_name(name)
    if after == 0 and log not in {model.name for model in client.search_registered_models(max_results=1000)}:
        _create_log(client, log, name)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"kind": kind, "version": str(version.version), "before": before, "reason": reason, "at": at})
    model_id = version.source.removeprefix("models:/")  # a server wants to know whose source it is
    row = client.create_model_version(
        log, version.source, run_id=version.run_id, tags={_ENTRY: text}, model_id=model_id
    )
    if int(row.version) != after + 1:
        client.set_model_version_tag(log, row.version, _STATE, "lost")
        raise InputError(
            f"another promotion of {name} came first: run the same command again, and the candidate is compared with "
            "the champion of now"
        )
    return row


def _create_log(client: "MlflowClient", log: str, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(log, description=f"Which version of {name} became its champion, and why.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _pass_over(client: "MlflowClient", row: Any) -> None:
    """Mark an entry that a killed process left; InputError while it may be at work."""
    age_s = time.time() - row.creation_timestamp / 1000
    if age_s < _AT_WORK_S:
        raise InputError(
            f"version {_entry(row).version} is being promoted since {age_s:.0f} s; in a minute the same command goes on"
        )
    client.set_model_version_tag(row.name, row.version, _STATE, "void")


def _rows(client: "MlflowClient", name: str) -> list[Any]:
    found = client.search_model_versions(f"name = '{_log_name(name)}'", max_results=10_000)
    return sorted(found, key=lambda row: int(row.version))


def _entry(row: Any) -> Promotion:
    return Promotion(number=int(row.version), **json.loads(row.tags[_ENTRY]))


def _log_name(name: str) -> str:
    return f"{name}-promotions"
