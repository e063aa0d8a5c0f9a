"""`stemline train`."""

from flows.cli.options import NO_OPTIONS, DryRun, Options, Overrides
from flows.cli.session import run_until


def train(*overrides: Overrides, dry_run: DryRun = False, options: Options = NO_OPTIONS) -> int:
    """Train a model on songs and automixes; continues from the last checkpoint if it was stopped.

    Example: `stemline train --preset smoke corpus.root=SONGS train.steps=20`
    """
    return run_until("train", overrides, options, dry_run=dry_run)
