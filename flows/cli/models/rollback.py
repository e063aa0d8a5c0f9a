"""`stemline rollback`: makes an earlier version the champion again."""

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen
from pipelines import registry


def rollback(
    *overrides: Overrides,
    to: Annotated[int | None, Parameter(help="A version; by default the champion before the present one.")] = None,
    options: Options = NO_OPTIONS,
) -> int:
    """Make an earlier version the champion again; nothing is trained. Repeated, it goes back further.

    Example: `stemline rollback store.root=store`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, to=to, screen=screen))


def run(config: RunConfig, *, to: int | None, screen: Screen) -> dict[str, Any]:
    """The entry of the promotion log; the earlier champion is the champion again, and nothing is trained or copied."""
    screen.start("rollback", 0, "")
    entry = registry.rollback(config.registry, store=config.store.root, to=None if to is None else str(to))
    name = config.registry.name
    screen.finish(
        f"models:/{name}@{registry.CHAMPION} is version {entry.version} again, instead of {entry.before or 'none'}"
    )
    return {**asdict(entry), "uri": f"models:/{name}/{entry.version}"}
