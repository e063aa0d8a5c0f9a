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

    Example: `stemline history store.root=STORE`
    """
    return run_verb(overrides, options, lambda config, screen: run(config))


def run(config: RunConfig) -> dict[str, Any]:
    """Every promotion and rollback of the model, the newest first."""
    name = config.registry.name
    entries = registry.history(config.registry, store=config.store.root)
    if not entries:
        return {
            "promotions": [],
            "rolled_back": [],
            "console_output": [Text(f"No version of {name} was promoted yet.")],
        }
    rolled_back = promotion_log.rolled_back(entries)
    rows = [_row(entry) for entry in entries[::-1]]
    return {
        "promotions": [asdict(entry) for entry in entries],
        "rolled_back": sorted(rolled_back, key=int),
        "console_output": [
            table(f"Champions of {name}", ["", "at, UTC", "", "version", "before"], rows),
            *_reasons(entries),
            *_how_to_promote(rolled_back),
        ],
    }


def _how_to_promote(rolled_back: Mapping[str, Promotion]) -> list[Text]:
    """How a version that was rolled back is promoted again."""
    if not rolled_back:
        return []
    versions = f"version{'s' if len(rolled_back) > 1 else ''} {', '.join(sorted(rolled_back, key=int))}"
    command = "`stemline promote --version N --force --reason TEXT`"
    return [Text(f"Rolled back from {versions}: promoted again only with {command}.", overflow="fold")]


def _row(entry: Promotion) -> list[str]:
    return [str(entry.number), entry.at[:16].replace("T", " "), entry.kind, entry.version, entry.before or "–"]


def _reasons(entries: Sequence[Promotion]) -> list[Text]:
    return [Text(f"{entry.number}  {entry.reason}", style="dim", overflow="fold") for entry in entries[::-1]]
