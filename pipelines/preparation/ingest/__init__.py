"""From a folder of songs to shards. Read `dataset_version.py` first, then `shard_task.py`, which Ray runs."""

from pipelines.preparation.ingest.dataset_version import (
    DATASET,
    SONG,
    VERSION,
    IngestInputs,
    IngestResult,
    run,
    song_key,
)
from pipelines.preparation.ingest.ingest_config import CorpusConfig, IngestConfig, check, layout_plugins

__all__ = [
    "DATASET",
    "SONG",
    "VERSION",
    "CorpusConfig",
    "IngestConfig",
    "IngestInputs",
    "IngestResult",
    "check",
    "layout_plugins",
    "run",
    "song_key",
]
