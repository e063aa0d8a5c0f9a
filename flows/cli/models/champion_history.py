"""Which version was the champion when, back to an earlier one, and any version by name: `stemline history`,
`stemline rollback` and `stemline promote --version N --force`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from datasets.errors import InputError
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from pipelines import registry
from pipelines.evaluation.gate import Check, Decision
from pipelines.registry import Promotion, promotion_log


def listed(config: RunConfig) -> dict[str, Any]:
    """Every promotion and rollback of the model, the newest first."""
    name = config.registry.name
    done = registry.history(config.registry, store=config.store.root)
    if not done:
        return {"promotions": [], "rolled_back": [], "shown": [Text(f"No version of {name} was promoted yet.")]}
    left = promotion_log.rolled_back(done)
    shown = [
        table(f"Champions of {name}", ["", "at, UTC", "", "version", "before"], [_row(entry) for entry in done[::-1]]),
        *_reasons(done),
        *_left(left),
    ]
    return {"promotions": [asdict(entry) for entry in done], "rolled_back": sorted(left, key=int), "shown": shown}


def rolled_back(config: RunConfig, *, to: int | None, screen: Screen) -> dict[str, Any]:
    """The champion of before is the champion again; nothing is trained or copied."""
    screen.start("rollback", 0, "")
    entry = registry.rollback(config.registry, store=config.store.root, to=None if to is None else str(to))
    name = config.registry.name
    screen.finish(
        f"models:/{name}@{registry.CHAMPION} is version {entry.version} again, instead of {entry.before or 'none'}"
    )
    return {**asdict(entry), "uri": f"models:/{name}/{entry.version}"}


def by_name(config: RunConfig, version: int | None, *, force: bool, reason: str, screen: Screen) -> dict[str, Any]:
    """A version becomes the champion past the gate, as a decision with a person's reason; nothing is trained."""
    if version is None or not force or not reason.strip():
        given = [f"--version {version}"] if version is not None else []
        given += [*(["--force"] if force else []), *([f"--reason {reason!r}"] if reason else [])]
        raise InputError(
            "to promote past the gate, give all of --version N, --force and --reason TEXT, without --dry-run; got "
            + (" ".join(given) or "none of them")
        )
    screen.start("promote", 0, "")
    why = reason.strip()
    decision = Decision(
        promote=True, reason=why, improvement=math.nan, num_songs=0, checks=(Check(rule="force", met=True, said=why),)
    )
    made, entry = registry.promote_by_name(config.registry, str(version), asdict(decision), store=config.store.root)
    screen.finish(
        f"models:/{made.name}@{registry.CHAMPION} is version {made.version}, past the gate, instead of "
        f"{entry.before or 'none'}"
    )
    return {**asdict(entry), "uri": made.uri}


def _left(left: Mapping[str, Promotion]) -> list[Text]:
    """How what was rolled back from is promoted again."""
    if not left:
        return []
    named = f"version{'s' if len(left) > 1 else ''} {', '.join(sorted(left, key=int))}"
    words = f"Rolled back from {named}: promoted again only with `stemline promote --version N --force --reason TEXT`."
    return [Text(words, overflow="fold")]


def _row(entry: Promotion) -> list[str]:
    return [str(entry.number), entry.at[:16].replace("T", " "), entry.kind, entry.version, entry.before or "–"]


def _reasons(done: Sequence[Promotion]) -> list[Text]:
    return [Text(f"{entry.number}  {entry.reason}", style="dim", overflow="fold") for entry in done[::-1]]
