"""`stemline evaluate`."""

from flows.cli.options import NO_OPTIONS, DryRun, Options, Overrides
from flows.cli.session import run_until


def evaluate(*overrides: Overrides, dry_run: DryRun = False, options: Options = NO_OPTIONS) -> int:
    """Separate and score every held-out song with the trained model and the champion.

    Example: `stemline evaluate corpus.root=SONGS`
    """
    return run_until("evaluate", overrides, options, dry_run=dry_run)
