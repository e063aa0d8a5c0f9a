"""The promotion log: which version became the champion, when, why, and after which; nothing in it is ever changed.

An entry is a version of a second registered model, `<name>-promotions`: MLflow numbers versions consecutively and never
uses a number twice, whatever its database. So an entry also serves as a lock. A promotion reads log and aliases once
(`take_snapshot`), is decided on that, claims the next number, and reads again: if it got another number, or the aliases
have moved, it fails and nothing is changed. Only then do the aliases move, then the tags of the version, and the entry
is marked as done. An entry left by a killed process is finished when the same command is run again, and skipped by
another.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from datasets.errors import InputError
from pipelines.registry.connection import LOG
from pipelines.registry.database import mlflow_limits
from pipelines.registry.find_or_create import (
    CANDIDATE,
    CHAMPION,
    PREVIOUS,
    aliases,
    create_model,
    model_versions,
    version_or_none,
)
from pipelines.registry.promotion import decision_records

if TYPE_CHECKING:
    from mlflow import MlflowClient
Kind = Literal["promotion", "rollback", "forced"]
_STATE, _ENTRY = "state", "entry"
_SAME = ("checkpoint_digest", "weights_digest")  # tags that identify a version under another number
_OF = "version."  # prefix of these tags on an entry, which is no model version itself
_AT_WORK_S = 60.0  # an unfinished entry may belong to a running process for this long
_ACTS = {"promotion": "another promotion", "forced": "another promotion by name", "rollback": "another rollback"}
_READS = 5  # attempts at a log that changes while it is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One entry: from now on `version` was the champion."""

    number: int
    kind: Kind  # "forced": by name, past the gate
    version: str
    before: str  # the champion until then; empty where there was none
    reason: str
    at: str  # UTC, ISO 8601
    decision: str = ""  # the key of its decision; empty for rollbacks, and from older stemlines


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
        """The number of the last entry that is done; unfinished entries before it were lost."""
        return max((int(row.version) for row in self.rows if row.tags.get(_STATE) == "done"), default=0)

    @property
    def done(self) -> list[Promotion]:
        """Finished promotions, the oldest first; a killed one counts once its alias has moved."""
        finished = [_entry(row) for row in self.rows if row.tags.get(_STATE) == "done"]
        moved = [_entry(row) for row in self.unfinished if int(row.version) > self.last]
        return finished + [entry for entry in moved if entry.version == self.champion][:1]


def take_snapshot(client: "MlflowClient", name: str) -> Snapshot:
    """Log and aliases of a model; read again where the log changed meanwhile."""
    rows = _rows(client, name)
    for _ in range(_READS):
        current = Snapshot(name=name, rows=tuple(rows), aliases=aliases(client, name))
        rows = _rows(client, name)
        if [(row.version, row.tags) for row in rows] == [(row.version, row.tags) for row in current.rows]:
            break
    return current


def move(
    client: "MlflowClient", snapshot: Snapshot, version: Any, *, kind: Kind, reason: str, decision: str = ""
) -> Promotion:
    """Log that `version`, as MLflow returned it, becomes the champion, and set aliases and tags accordingly.

    `snapshot` is what this was decided on. InputError if anything moved since, or if another promotion is running.
    """
    number = str(version.version)
    row = _own(snapshot, kind, number)
    for unfinished in snapshot.unfinished:
        if unfinished is not row:
            _settle(client, snapshot, unfinished)
    if row is None:
        row = _claim(client, snapshot, version, kind=kind, reason=reason, decision=decision)
    return _finish(client, snapshot, row)


def finish(client: "MlflowClient", snapshot: Snapshot, kind: Kind | None, version: str) -> Promotion | None:
    """Finish the promotion of a killed process, if it was of this kind and version; None and empty match any."""
    row = _own(snapshot, kind, version)
    return None if row is None else _finish(client, snapshot, row)


def line_of_champions(promotions: Sequence[Promotion]) -> list[str]:
    """The versions that led to the present champion, which is the last; without those that were rolled back."""
    line: list[str] = []
    for entry in promotions:
        if entry.kind == "rollback" and entry.version in line:
            del line[line.index(entry.version) + 1 :]
            continue
        if not line and entry.before:
            line.append(entry.before)  # it was promoted before there was a log
        line.append(entry.version)
    return line


def rolled_back(promotions: Sequence[Promotion]) -> dict[str, Promotion]:
    """Versions that were rolled back from, and by which rollback; without those that were promoted again by name."""
    abandoned: dict[str, Promotion] = {}
    for place, entry in enumerate(promotions):
        if entry.kind == "rollback":
            line = line_of_champions(promotions[:place])
            superseded = line[line.index(entry.version) + 1 :] if entry.version in line else line[-1:]
            abandoned |= dict.fromkeys(filter(None, {*superseded, entry.before}), entry)
        abandoned.pop(entry.version, None)
    return abandoned


def rolled_back_as(
    client: "MlflowClient", snapshot: Snapshot, version: str, tags: Mapping[str, str]
) -> tuple[str, Promotion] | None:
    """The version, this one or the same weights under another number, that was rolled back from, and the rollback;
    None where there was none.
    """
    abandoned = rolled_back(snapshot.done)
    if version in abandoned:
        return version, abandoned[version]
    digests = {(tag, tags[tag]) for tag in _SAME if tags.get(tag)}
    present = version_or_none(client, snapshot.name, snapshot.champion) if abandoned and snapshot.champion else None
    if present is not None and digests & present.tags.items():
        return None  # the same weights are the champion at this moment
    for number, entry in abandoned.items():
        rows = [row.tags for row in snapshot.rows if _entry(row).version == number]
        recorded = [{tag: entry_tags.get(f"{_OF}{tag}", "") for tag in _SAME} for entry_tags in rows]
        existing = version_or_none(client, snapshot.name, number)
        for of_version in [*recorded, *([existing.tags] if existing is not None else [])]:
            if digests & of_version.items():
                return number, entry
    return None


def require_untouched(snapshot: Snapshot) -> None:
    """InputError when the alias is not where the log says: it was moved, or its version deleted, manually."""
    promotions, present, name = snapshot.done, snapshot.champion, snapshot.name
    if not promotions or present == promotions[-1].version:
        return
    where = f"is on version {present}" if present else "is gone, perhaps with its version"
    choice = present or (promotions[-1].before or "N")
    by_name = "" if present else ", or `stemline promote --version N --force --reason TEXT` for one that never was it"
    raise InputError(
        f"the alias {CHAMPION} of {name} {where}, and the promotion log says version {promotions[-1].version}: it was "
        f"moved manually; `stemline rollback --to {choice}` settles which version it is{by_name}, and `stemline "
        "history` lists them"
    )


def _own(snapshot: Snapshot, kind: Kind | None, version: str) -> Any | None:
    """The unfinished entry of this promotion."""
    for row in snapshot.unfinished:
        entry = _entry(row)
        if entry.number > snapshot.last and kind in (None, entry.kind) and version in ("", entry.version):
            return row
    return None


def _claim(client: "MlflowClient", snapshot: Snapshot, version: Any, *, kind: str, reason: str, decision: str) -> Any:
    log, after = _log_name(snapshot.name), int(snapshot.rows[-1].version) if snapshot.rows else 0
    if not snapshot.rows:
        create_model(client, log, f"Which version of {snapshot.name} became its champion, and why.")
    entry = {
        "kind": kind,
        "version": str(version.version),
        "before": snapshot.champion,
        "reason": mlflow_limits.value(reason, 2000),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "decision": decision,
    }
    digests = {f"{_OF}{tag}": version.tags[tag] for tag in _SAME if version.tags.get(tag)}
    tags = {_ENTRY: json.dumps(entry), **digests}
    model_id = version.source.removeprefix("models:/")  # a server wants to know whose source it is
    row = client.create_model_version(log, version.source, run_id=version.run_id, tags=tags, model_id=model_id)
    if int(row.version) != after + 1:
        _lose(client, row, snapshot.name)
    return row


def _finish(client: "MlflowClient", snapshot: Snapshot, row: Any) -> Promotion:
    """All steps after a claim; idempotent, so it may be repeated or resumed at any point."""
    entry, name = _entry(row), snapshot.name
    current = take_snapshot(client, name)
    if current.champion not in (snapshot.champion, entry.version) or current.champion not in (
        entry.before,
        entry.version,
    ):
        _lose(client, row, name)
    if not any(unfinished.version == row.version for unfinished in current.unfinished):
        if any(promotion.number == entry.number for promotion in current.done):
            return entry  # another process finished the same promotion
        _lose(client, row, name)
    if current.champion != entry.version:
        client.set_registered_model_alias(name, CHAMPION, entry.version)
    _let_follow(
        client,
        name,
        line_of_champions([*(promotion for promotion in current.done if promotion != entry), entry]),
        current.aliases,
    )
    if current.aliases.get(CANDIDATE) == entry.version:
        client.delete_registered_model_alias(name, CANDIDATE)
    if entry.kind != "rollback":
        raw_version = client.get_model_version(name, entry.version)
        decision_records.tell(client, raw_version, promoted=True, key=entry.decision)
    client.set_model_version_tag(row.name, row.version, _STATE, "done")
    return entry


def _let_follow(client: "MlflowClient", name: str, line: Sequence[str], present: Mapping[str, str]) -> None:
    """Set the alias of the previous champion to the last in line before the champion that still exists."""
    before = next((number for number in reversed(line[:-1]) if version_or_none(client, name, number) is not None), "")
    if before and before != present.get(PREVIOUS):
        client.set_registered_model_alias(name, PREVIOUS, before)
    elif not before and PREVIOUS in present:
        client.delete_registered_model_alias(name, PREVIOUS)


def _lose(client: "MlflowClient", row: Any, name: str) -> None:
    """Withdraw a claim, since another was first; InputError that says what each of the two was."""
    client.set_model_version_tag(row.name, row.version, _STATE, "lost")
    entry, earlier = _entry(row), _rows(client, name)
    first = next((_entry(claim) for claim in reversed(earlier) if claim.tags.get(_STATE, "") not in ("lost", "void")
                  and int(claim.version) != entry.number), None)  # fmt: skip
    winner = "another change of the champion" if first is None else f"{_ACTS[first.kind]} to version {first.version}"
    if entry.kind == "promotion":
        then = "run the same command again to compare the candidate with the current champion"
    else:
        again = f"`stemline rollback --to {entry.version}`" if entry.kind == "rollback" else "the same command"
        then = f"`stemline history` says which version is the champion now; {again} still makes it {entry.version}"
    raise InputError(f"{winner} of {name} came before this {_ACTS[entry.kind].split(maxsplit=1)[1]}: {then}")


def _settle(client: "MlflowClient", snapshot: Snapshot, row: Any) -> None:
    """Close a killed process's entry: done if its alias had moved, else void. InputError while it may still run."""
    age_s = time.time() - row.creation_timestamp / 1000
    if age_s < _AT_WORK_S and int(row.version) > snapshot.last:
        raise InputError(
            f"{_ACTS[_entry(row).kind]} to version {_entry(row).version} began {age_s:.0f} s ago; in a minute the same "
            "command goes on"
        )
    if any(entry.number == int(row.version) for entry in snapshot.done):
        _finish(client, snapshot, row)
    else:
        client.set_model_version_tag(row.name, row.version, _STATE, "void")


def _rows(client: "MlflowClient", name: str) -> list[Any]:
    return [row for row in model_versions(client, _log_name(name)) if _ENTRY in row.tags]


def _entry(row: Any) -> Promotion:
    names = {field.name for field in fields(Promotion)}
    values = {key: text for key, text in json.loads(row.tags[_ENTRY]).items() if key in names}
    return Promotion(number=int(row.version), **values)


def _log_name(name: str) -> str:
    return f"{name}{LOG}"
