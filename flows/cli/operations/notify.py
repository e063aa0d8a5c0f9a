"""`stemline notify`: sends a test to everybody who would be told of a promotion, a failure or drift."""

from typing import Any

from rich.text import Text

from datasets.errors import InputError
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig


def notify(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Send a test notice to the services of STEMLINE_NOTIFY, the block of notify.block and Prefect's events.

    Example: `stemline notify notify.block=slack-webhook/team`
    """
    return run_verb(overrides, options, lambda config, screen: run(config))


def run(config: RunConfig) -> dict[str, Any]:
    """Who was told; the exit code is 2 where somebody was not."""
    from flows.console import notifications
    from flows.console.notifications import Notice

    targets = notifications.targets(config.notify)
    if not targets:
        raise InputError(
            f"nobody would be told: set {notifications.ADDRESSES} to addresses of Apprise, such as slack://TOKENS, or "
            f"notify.block=TYPE/NAME, or {notifications.PREFECT}"
        )
    sentence = f"This is a test. You are told of: {', '.join(config.notify.on) or 'nothing'}."
    problem = notifications.send(config.notify, Notice(event="test", model=config.registry.name, sentence=sentence))
    line = f"Told: {', '.join(targets)}." if not problem else f"{problem[0].upper()}{problem[1:]}."
    return {
        "targets": targets,
        "problem": problem,
        "exit_code": 2 if problem else 0,
        "console_output": [Text(line, overflow="fold")],
    }
