"""`stemline train`."""

from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_until


def train(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Train a model on songs and automixes; continues from the last checkpoint if it was stopped.

    Example: `stemline train --preset smoke corpus.root=SONGS train.steps=20`
    """
    return run_until("train", overrides, options)
