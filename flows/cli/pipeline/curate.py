"""`stemline curate`."""

from flows.cli.options import NO_OPTIONS, DryRun, Options, Overrides
from flows.cli.session import run_until


def curate(*overrides: Overrides, dry_run: DryRun = False, options: Options = NO_OPTIONS) -> int:
    """Keep or drop each song, with a reason.

    Example: `stemline curate corpus.root=SONGS`
    """
    return run_until("curate", overrides, options, dry_run=dry_run)
