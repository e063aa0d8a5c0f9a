"""A small store of songs for tests: noise bursts and low tones at 8 kHz, cut into chunks of two seconds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.schema import ShardSet
from datasets.seeding import row_rng
from datasets.shards import manifests, shards
from datasets.shards.chunks import SongHeader, song_rows

RATE = 8000
SOURCES = ("drums", "bass")


def stems(name: str, num_samples: int) -> Samples:
    """Drums that are bursts of noise, and a bass that is a tone; both differ from song to song."""
    rng = row_rng(0, name)
    time_T = np.arange(num_samples) / RATE
    period_s = rng.uniform(0.2, 0.4)
    drums_CT = rng.standard_normal((2, num_samples)) * np.exp(-(time_T % period_s) * 40)
    bass_T = np.sin(2 * np.pi * rng.uniform(60, 120) * time_T)
    return (0.3 * np.stack([drums_CT / 3, np.stack([bass_T, bass_T])])).astype(np.float32)


def write_songs(store: Path, songs: Mapping[str, str], *, num_samples: int = 3 * RATE, key: str = "k") -> ShardSet:
    """A table of chunks with these songs, by name, on these sides."""
    rows = []
    for name, split in songs.items():
        header = SongHeader(track_id=name, title=name, split=split, license="", origin="corpus", sample_rate=RATE)
        rows += song_rows(stems(name, num_samples), header, sources=SOURCES, chunk_s=2)
    shard = shards.write_shard(store, f"songs-{key}", rows, sources=SOURCES)
    return manifests.write_manifest(store, table="chunks", step="ingest", key=key, shards=[shard])
