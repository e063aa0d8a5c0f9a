"""`stemline ingest`."""

from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_until


def ingest(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Decode the songs of a folder into Parquet shards.

    Example: `stemline ingest corpus.root=SONGS store.root=STORE`
    """
    return run_until("ingest", overrides, options)
