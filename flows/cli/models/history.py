"""`stemline history`: which version was the champion when, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import table
from pipelines import registry
from pipelines.registry import Promotion
from pipelines.registry.promotion import promotion_log


def history(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """List which version was the champion when, and why.

    Example: `stemline history store.root=store`
    """
    return run_verb(overrides, options, lambda config, screen: run(config))


def run(config: RunConfig) -> dict[str, Any]:
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
