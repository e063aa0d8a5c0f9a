"""`stemline analyze`."""

from flows.cli.options import NO_OPTIONS, DryRun, Options, Overrides
from flows.cli.session import run_until


def analyze(*overrides: Overrides, dry_run: DryRun = False, options: Options = NO_OPTIONS) -> int:
    """Find tempo, beats, chroma and key of the songs kept.

    Example: `stemline analyze corpus.root=SONGS`
    """
    return run_until("analyze", overrides, options, dry_run=dry_run)
