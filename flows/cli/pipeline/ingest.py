"""`stemline ingest`."""

from flows.cli.options import NO_OPTIONS, DryRun, Options, Overrides
from flows.cli.session import run_until


def ingest(*overrides: Overrides, dry_run: DryRun = False, options: Options = NO_OPTIONS) -> int:
    """Decode the songs of a folder into Parquet shards.

    Example: `stemline ingest corpus.root=SONGS store.root=STORE`
    """
    return run_until("ingest", overrides, options, dry_run=dry_run)
