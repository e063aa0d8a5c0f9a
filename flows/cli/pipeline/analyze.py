"""`stemline analyze`."""

from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_until


def analyze(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Find tempo, beats, chroma and key of the songs kept.

    Example: `stemline analyze corpus.root=SONGS`
    """
    return run_until("analyze", overrides, options)
