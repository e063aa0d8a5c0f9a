"""Shards are for everybody: what docs/how-to/read-shards.md says runs, and gives the stored samples."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.seeding import row_rng
from datasets.shards import shards
from datasets.shards.chunks import SongHeader, song_rows

DOCS = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "read-shards.md"
RATE, NUM_SAMPLES = 8000, 20_000


def _stems(name: str) -> Samples:
    ints = row_rng(0, name).integers(-(1 << 14), 1 << 14, (2, 2, NUM_SAMPLES))
    return (ints / (1 << 13) if name == "loud" else ints / (1 << 15)).astype(np.float32)


@pytest.fixture
def shard(tmp_path: Path) -> str:
    rows = []
    for name in ("loud", "quiet"):
        header = SongHeader(track_id=name, title=name, split="train", license="", origin="corpus", sample_rate=RATE)
        rows += song_rows(_stems(name), header, sources=("drums", "bass"), chunk_s=2, bits=16)
    return str(tmp_path / shards.write_shard(tmp_path, "s", rows, sources=("drums", "bass")).file)


def _run(tool: str, shard: str) -> dict[str, Any]:
    """What the snippet of the documentation that imports `tool` leaves behind."""
    section = DOCS.read_text(encoding="utf-8")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if re.search(tool, code))
    names: dict[str, Any] = {"shard": shard}
    exec(code, names)
    return names


def test_pyarrow_reads_a_stem(shard: str) -> None:
    found = _run(r"import io, pyarrow", shard)
    np.testing.assert_array_equal(found["samples"].T, _stems("loud")[0, :, :16000])
    assert (found["row"]["track_id"], found["sample_rate"]) == ("loud", RATE)


def test_duckdb_reads_a_stem_and_counts_songs(shard: str) -> None:
    found = _run("import duckdb", shard)
    np.testing.assert_array_equal(found["samples"].T, _stems("loud")[0, :, :16000])
    peaks = [float(np.abs(_stems(name)[0]).max()) for name in ("loud", "quiet")]
    assert found["songs"] == [("loud", 2.5, peaks[0]), ("quiet", 2.5, peaks[1])]


def test_a_frame_is_read_without_parquet(shard: str) -> None:
    ints = _run("import av", shard)["samples"].reshape(-1, 2).T
    depth = 1 << 8 * ints.itemsize - 1
    np.testing.assert_array_equal(ints / depth * 2, _stems("loud")[0, :, 4096:8192])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_ray_data_reads_a_stem(shard: str) -> None:
    found = _run("import io, ray", shard)
    np.testing.assert_array_equal(np.asarray(found["samples"]).T, _stems("loud")[0, :, :16000])
