"""`stemline automix`."""

from flows.cli.options import NO_OPTIONS, DryRun, Options, Overrides
from flows.cli.session import run_until


def automix(*overrides: Overrides, dry_run: DryRun = False, options: Options = NO_OPTIONS) -> int:
    """Mix stems of different songs, aligned in beat and key, into more training material.

    Example: `stemline automix corpus.root=SONGS automix.mixes_per_track=2`
    """
    return run_until("automix", overrides, options, dry_run=dry_run)
