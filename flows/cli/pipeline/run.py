"""`stemline run`."""

from flows.cli.options import NO_OPTIONS, DryRun, Options, Overrides
from flows.cli.session import run_until


def run(*overrides: Overrides, dry_run: DryRun = False, options: Options = NO_OPTIONS) -> int:
    """The whole pipeline with your songs: from a folder to a registered, gated model and a report.

    Example: `stemline run --preset smoke corpus.root=SONGS`
    """
    return run_until("run", overrides, options, dry_run=dry_run)
