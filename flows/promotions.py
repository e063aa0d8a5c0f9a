"""`stemline history` and `stemline rollback`: which version was the champion when, and back to an earlier one."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from flows.config import RunConfig
from flows.screen import Screen, table
from pipelines import registry
from pipelines.registry import Promotion


def listed(config: RunConfig) -> dict[str, Any]:
    """Every promotion and rollback of the model, the newest first."""
    name = config.registry.name
    done = registry.history(config.registry, store=config.store.root)
    if not done:
        return {"promotions": [], "shown": [Text(f"No version of {name} was promoted yet.")]}
    shown = [
        table(f"Champions of {name}", ["", "at, UTC", "", "version", "before"], [_row(entry) for entry in done[::-1]]),
        *_reasons(done),
    ]
    return {"promotions": [asdict(entry) for entry in done], "shown": shown}


def rolled_back(config: RunConfig, *, to: int | None, screen: Screen) -> dict[str, Any]:
    """The champion of before is the champion again; nothing is trained or copied."""
    screen.start("rollback", 0, "")
    entry = registry.rollback(config.registry, store=config.store.root, to=None if to is None else str(to))
    name = config.registry.name
    screen.finish(
        f"models:/{name}@{registry.CHAMPION} is version {entry.version} again, instead of {entry.before or 'none'}"
    )
    return {**asdict(entry), "uri": f"models:/{name}/{entry.version}"}


def _row(entry: Promotion) -> list[str]:
    return [str(entry.number), entry.at[2:16].replace("T", " "), entry.kind, entry.version, entry.before or "–"]


def _reasons(done: Sequence[Promotion]) -> list[Text]:
    return [Text(f"{entry.number}  {entry.reason}", style="dim", overflow="fold") for entry in done[::-1]]
