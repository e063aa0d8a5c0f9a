"""`stemline rollback`: makes an earlier version the champion again."""

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from datasets.errors import InputError
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen
from pipelines import registry


def rollback(
    *overrides: Overrides,
    to: Annotated[int | None, Parameter(help="A version; by default the champion before the present one.")] = None,
    force: Annotated[
        bool, Parameter(negative="", show_default=False, help="Take a version that never was the champion; with --to.")
    ] = False,
    reason: Annotated[str, Parameter(show_default=False, help="Why, for `stemline history`; with --force.")] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Make an earlier version the champion again; nothing is trained. Repeated, it goes back further.

    A version that never was the champion needs --force and --reason.

    Example: `stemline rollback store.root=STORE`
    """
    return run_verb(
        overrides, options, lambda config, screen: run(config, to=to, force=force, reason=reason, screen=screen)
    )


def run(config: RunConfig, *, to: int | None, force: bool, reason: str, screen: Screen) -> dict[str, Any]:
    """The entry of the promotion log; the earlier champion is the champion again, and nothing is trained or copied."""
    from flows.console import notifications

    if force and (to is None or not reason.strip()):
        raise InputError("rollback --force needs --to N and --reason TEXT, which the history keeps")
    if reason and not force:
        raise InputError("rollback --reason goes with --force; a version that was the champion needs neither")
    screen.start("rollback", 0, "")
    entry = registry.rollback(
        config.registry, store=config.store.root, to=None if to is None else str(to), reason=reason.strip()
    )
    name = config.registry.name
    notice = notifications.of_rollback(config, name, entry.version, entry.reason)
    problem = notifications.send(config.notify, notice)
    screen.finish(
        f"models:/{name}@{registry.CHAMPION} is version {entry.version} again, instead of {entry.before or 'none'}"
        + (f"; {problem}" if problem else "")
    )
    return {**asdict(entry), "uri": f"models:/{name}/{entry.version}"}
