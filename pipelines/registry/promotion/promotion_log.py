"""The promotion log: which version became the champion, when, why, and after which; nothing in it is ever changed.

An entry is a version of a second registered model, `<name>-promotions`: MLflow numbers them one after the other and
gives no number twice, whatever keeps its books. So an entry is also a claim. A promotion reads log and aliases once
(`snapshot`), is decided on that, claims the next number, and looks again: whoever got another number, or finds the
aliases moved, is told, and nothing is changed. Only then do the aliases move, then the tags of the version, and the
entry is marked as done. An entry that a killed process left behind is finished by the same act, line by line where it
stopped, and passed over by another.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from datasets.errors import InputError
from pipelines.registry.connection import LOG
from pipelines.registry.database import limits
from pipelines.registry.entities import (
    CANDIDATE,
    CHAMPION,
    PREVIOUS,
    aliases,
    create_model,
    model_versions,
    version_or_none,
)
from pipelines.registry.promotion import decisions

if TYPE_CHECKING:
    from mlflow import MlflowClient
Kind = Literal["promotion", "rollback", "forced"]
_STATE, _ENTRY = "state", "entry"
_SAME = ("checkpoint_digest", "weights_digest")  # tags by which a version is known under another number
_OF = "version."  # before these tags, on an entry, which is no version of a model itself
_AT_WORK_S = 60.0  # an unfinished entry may belong to a living process for so long
_LOOKS = 5  # at a log that changes while it is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One entry: from now on `version` was the champion."""

    number: int
    kind: Kind  # "forced": by name, past the gate
    version: str
    before: str  # the champion until then; empty where there was none
    reason: str
    at: str  # UTC, ISO 8601
    decision: str = ""  # the key of the one that it follows; empty for rollbacks, and from older stemlines


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Log and aliases of a model at one moment."""

    name: str
    rows: tuple[Any, ...]  # of the log, as MLflow gave them, the oldest first
    aliases: Mapping[str, str]

    @property
    def champion(self) -> str:
        """Its version; empty where there is none."""
        return self.aliases.get(CHAMPION, "")

    @property
    def unfinished(self) -> list[Any]:
        """Rows of promotions that are under way, or whose process was killed."""
        return [row for row in self.rows if _STATE not in row.tags]

    @property
    def last(self) -> int:
        """The number of the last entry that is done; what is unfinished before it was lost, and belongs to nobody."""
        return max((int(row.version) for row in self.rows if row.tags.get(_STATE) == "done"), default=0)

    @property
    def done(self) -> list[Promotion]:
        """What was done, the oldest first; a killed promotion counts once its alias has moved."""
        done = [_entry(row) for row in self.rows if row.tags.get(_STATE) == "done"]
        moved = [_entry(row) for row in self.unfinished if int(row.version) > self.last]
        return done + [entry for entry in moved if entry.version == self.champion][:1]


def snapshot(client: "MlflowClient", name: str) -> Snapshot:
    """Log and aliases of a model; read again where the log changed meanwhile."""
    rows = _rows(client, name)
    for _ in range(_LOOKS):
        found = Snapshot(name=name, rows=tuple(rows), aliases=aliases(client, name))
        rows = _rows(client, name)
        if [(row.version, row.tags) for row in rows] == [(row.version, row.tags) for row in found.rows]:
            break
    return found


def move(
    client: "MlflowClient", seen: Snapshot, version: Any, *, kind: Kind, reason: str, decision: str = ""
) -> Promotion:
    """Note that `version`, as MLflow gave it, becomes the champion, and let aliases and tags say so.

    `seen` is what this was decided on. InputError if anything moved since, or if somebody else is at work.
    """
    number = str(version.version)
    row = _own(seen, kind, number)
    for left in seen.unfinished:
        if left is not row:
            _settle(client, seen, left)
    if row is None:
        row = _claim(client, seen, version, kind=kind, reason=reason, decision=decision)
    return _finish(client, seen, row)


def finish(client: "MlflowClient", seen: Snapshot, kind: Kind | None, version: str) -> Promotion | None:
    """What a killed process began is done to its end, if it was this act; of any kind or version where None or empty
    is given.
    """
    row = _own(seen, kind, version)
    return None if row is None else _finish(client, seen, row)


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


def rolled_back(done: Sequence[Promotion]) -> dict[str, Promotion]:
    """Versions that were left by a rollback, and by which; those that somebody chose again by name are not in it."""
    left: dict[str, Promotion] = {}
    for place, entry in enumerate(done):
        if entry.kind == "rollback":
            line = line_of_champions(done[:place])
            passed = line[line.index(entry.version) + 1 :] if entry.version in line else line[-1:]
            left |= dict.fromkeys(filter(None, {*passed, entry.before}), entry)
        left.pop(entry.version, None)
    return left


def rolled_back_as(
    client: "MlflowClient", seen: Snapshot, version: str, tags: Mapping[str, str]
) -> tuple[str, Promotion] | None:
    """As which version this one was left by a rollback, itself or the same weights under another number, and by
    which; None where it was not.
    """
    left = rolled_back(seen.done)
    if version in left:
        return version, left[version]
    own = {(tag, tags[tag]) for tag in _SAME if tags.get(tag)}
    present = version_or_none(client, seen.name, seen.champion) if left and seen.champion else None
    if present is not None and own & present.tags.items():
        return None  # the same weights are the champion at this moment
    for number, entry in left.items():
        rows = [row.tags for row in seen.rows if _entry(row).version == number]
        noted = [{tag: told.get(f"{_OF}{tag}", "") for tag in _SAME} for told in rows]
        found = version_or_none(client, seen.name, number)
        for known in [*noted, *([found.tags] if found is not None else [])]:
            if own & known.items():
                return number, entry
    return None


def require_untouched(seen: Snapshot) -> None:
    """InputError when the alias is not where the log left it: somebody moved it, or deleted its version, by hand."""
    done, present, name = seen.done, seen.champion, seen.name
    if not done or present == done[-1].version:
        return
    where = f"is on version {present}" if present else "is gone, perhaps with its version"
    choice = present or (done[-1].before or "N")
    by_name = "" if present else ", or `stemline promote --version N --force --reason TEXT` for one that never was it"
    raise InputError(
        f"the alias {CHAMPION} of {name} {where}, and the promotion log says version {done[-1].version}: it was moved "
        f"by hand; `stemline rollback --to {choice}` settles which version it is{by_name}, and `stemline history` "
        "lists them"
    )


def _own(seen: Snapshot, kind: Kind | None, version: str) -> Any | None:
    """The unfinished entry of this act."""
    for row in seen.unfinished:
        entry = _entry(row)
        if entry.number > seen.last and kind in (None, entry.kind) and version in ("", entry.version):
            return row
    return None


def _claim(client: "MlflowClient", seen: Snapshot, version: Any, *, kind: str, reason: str, decision: str) -> Any:
    log, after = _log_name(seen.name), int(seen.rows[-1].version) if seen.rows else 0
    if not seen.rows:
        create_model(client, log, f"Which version of {seen.name} became its champion, and why.")
    entry = {
        "kind": kind,
        "version": str(version.version),
        "before": seen.champion,
        "reason": limits.value(reason, 2000),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "decision": decision,
    }
    own = {f"{_OF}{tag}": version.tags[tag] for tag in _SAME if version.tags.get(tag)}
    tags = {_ENTRY: json.dumps(entry), **own}
    model_id = version.source.removeprefix("models:/")  # a server wants to know whose source it is
    row = client.create_model_version(log, version.source, run_id=version.run_id, tags=tags, model_id=model_id)
    if int(row.version) != after + 1:
        _lose(client, row, seen.name)
    return row


def _finish(client: "MlflowClient", seen: Snapshot, row: Any) -> Promotion:
    """All that follows a claim; done twice, or gone on with in the middle, it comes to the same."""
    entry, name = _entry(row), seen.name
    now = snapshot(client, name)
    if now.champion not in (seen.champion, entry.version) or now.champion not in (entry.before, entry.version):
        _lose(client, row, name)
    if not any(left.version == row.version for left in now.unfinished):
        if any(done.number == entry.number for done in now.done):
            return entry  # another process finished the same act
        _lose(client, row, name)
    if now.champion != entry.version:
        client.set_registered_model_alias(name, CHAMPION, entry.version)
    _let_follow(client, name, line_of_champions([*(one for one in now.done if one != entry), entry]), now.aliases)
    if now.aliases.get(CANDIDATE) == entry.version:
        client.delete_registered_model_alias(name, CANDIDATE)
    if entry.kind != "rollback":
        made = client.get_model_version(name, entry.version)
        decisions.tell(client, made, promoted=True, key=entry.decision)
    client.set_model_version_tag(row.name, row.version, _STATE, "done")
    return entry


def _let_follow(client: "MlflowClient", name: str, line: Sequence[str], present: Mapping[str, str]) -> None:
    """The alias of the one before is on the last in line, the champion left out, that still exists."""
    before = next((one for one in reversed(line[:-1]) if version_or_none(client, name, one) is not None), "")
    if before and before != present.get(PREVIOUS):
        client.set_registered_model_alias(name, PREVIOUS, before)
    elif not before and PREVIOUS in present:
        client.delete_registered_model_alias(name, PREVIOUS)


def _lose(client: "MlflowClient", row: Any, name: str) -> None:
    """Take back a claim, since somebody else was first; InputError."""
    client.set_model_version_tag(row.name, row.version, _STATE, "lost")
    raise InputError(
        f"another promotion of {name} came first: run the same command again, and the candidate is compared with "
        "the champion of now"
    )


def _settle(client: "MlflowClient", seen: Snapshot, row: Any) -> None:
    """End what a killed process left: done if its alias had moved, else void. InputError while it may be at work."""
    age_s = time.time() - row.creation_timestamp / 1000
    if age_s < _AT_WORK_S and int(row.version) > seen.last:
        raise InputError(
            f"version {_entry(row).version} is being promoted since {age_s:.0f} s; in a minute the same command goes on"
        )
    if any(entry.number == int(row.version) for entry in seen.done):
        _finish(client, seen, row)
    else:
        client.set_model_version_tag(row.name, row.version, _STATE, "void")


def _rows(client: "MlflowClient", name: str) -> list[Any]:
    return [row for row in model_versions(client, _log_name(name)) if _ENTRY in row.tags]


def _entry(row: Any) -> Promotion:
    known = {field.name for field in fields(Promotion)}
    told = {key: text for key, text in json.loads(row.tags[_ENTRY]).items() if key in known}
    return Promotion(number=int(row.version), **told)


def _log_name(name: str) -> str:
    return f"{name}{LOG}"
