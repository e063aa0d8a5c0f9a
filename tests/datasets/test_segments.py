"""A row of a step is the same whoever reads it, and is the stored audio."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datasets import shards
from datasets.audio import Samples
from datasets.chunks import SongHeader, song_rows
from datasets.dice import dice
from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.segments import SegmentIndex, batch, draw

RATE = 1000
SOURCES = ("drums", "bass")


def _stems(name: str, num_samples: int) -> Samples:
    ints = dice(0, name).integers(-(1 << 14), 1 << 14, (2, 2, num_samples))
    return (ints / (1 << 15)).astype(np.float32)


def _store(folder: Path, songs: dict[str, tuple[str, int]], *, key: str = "k") -> ShardSet:
    rows = []
    for name, (split, num_samples) in songs.items():
        header = SongHeader(track_id=name, title=name, split=split, license="", origin="corpus", sample_rate=RATE)
        rows += song_rows(_stems(name, num_samples), header, sources=SOURCES, chunk_s=2)
    shard = shards.write_shard(folder, key, rows, sources=SOURCES)
    return shards.write_manifest(folder, table="chunks", step="ingest", key=key, shards=[shard])


@pytest.fixture
def index(tmp_path: Path) -> SegmentIndex:
    address = _store(tmp_path, {"a": ("train", 9000), "b": ("train", 3000), "c": ("test", 5000), "d": ("train", 700)})
    return SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train")


def test_segments_are_the_stored_audio_across_chunk_borders(index: SegmentIndex) -> None:
    sources_BSCT = batch(index, seed=1, step=0, rows=range(40), num_samples=1500)
    assert sources_BSCT.shape == (40, 2, 2, 1500)
    crossing = 0
    for row in range(40):
        song, start = draw(index, seed=1, step=0, row=row, num_samples=1500)
        stems_SCT = _stems(song.track_id, song.num_samples)[:, :, start : start + 1500]
        np.testing.assert_array_equal(sources_BSCT[row, :, :, : stems_SCT.shape[2]], stems_SCT)
        assert not sources_BSCT[row, :, :, stems_SCT.shape[2] :].any()
        crossing += start // 2000 != (start + 1499) // 2000
    assert crossing > 5


def test_rows_do_not_depend_on_who_reads_them(index: SegmentIndex) -> None:
    whole = batch(index, seed=3, step=7, rows=range(8), num_samples=800)
    for num_workers in (1, 2, 4):
        parts = [
            batch(index, seed=3, step=7, rows=range(rank, 8, num_workers), num_samples=800)
            for rank in range(num_workers)
        ]
        for rank, part in enumerate(parts):
            np.testing.assert_array_equal(part, whole[rank::num_workers])
    with ThreadPoolExecutor(4) as threads:
        rows = threads.map(lambda row: batch(index, seed=3, step=7, rows=[row], num_samples=800)[0], range(8))
        np.testing.assert_array_equal(np.stack(list(rows)), whole)
    assert not np.array_equal(whole, batch(index, seed=3, step=8, rows=range(8), num_samples=800))
    assert not np.array_equal(whole, batch(index, seed=4, step=7, rows=range(8), num_samples=800))


def test_a_song_shorter_than_a_segment_is_followed_by_silence(tmp_path: Path) -> None:
    address = _store(tmp_path, {"d": ("train", 700)})
    index = SegmentIndex.open([(address, 1.0)], sources=("bass",), split="train")
    (stems_SCT,) = batch(index, seed=0, step=0, rows=[0], num_samples=1000)
    np.testing.assert_array_equal(stems_SCT[:, :, :700], _stems("d", 700)[1:])
    assert not stems_SCT[:, :, 700:].any()


def test_draws_follow_durations_within_a_table_and_weights_between_tables(tmp_path: Path) -> None:
    corpus = _store(tmp_path, {"a": ("train", 9000), "b": ("train", 3000)})
    mixes = _store(tmp_path, {"m": ("train", 1000)}, key="m")
    index = SegmentIndex.open([(corpus, 1.0), (mixes, 3.0)], sources=SOURCES, split="train")
    drawn = [draw(index, seed=0, step=0, row=row, num_samples=500)[0].track_id for row in range(4000)]
    shares = [drawn.count(name) / len(drawn) for name in "abm"]
    assert shares == pytest.approx([0.75 * 0.25, 0.25 * 0.25, 0.75], abs=0.03)
    only = SegmentIndex.open([(corpus, 1.0), (mixes, 0.0)], sources=SOURCES, split="train")
    assert {song.track_id for song in only.songs} == {"a", "b"}


def test_starts_cover_the_whole_song(index: SegmentIndex) -> None:
    starts = [
        start
        for row in range(3000)
        for song, start in [draw(index, seed=0, step=0, row=row, num_samples=1000)]
        if song.track_id == "b"
    ]
    assert min(starts) < 50
    assert 1950 < max(starts) <= 2000


def test_an_empty_index_is_refused(tmp_path: Path) -> None:
    address = _store(tmp_path, {"a": ("train", 900)})
    for kwargs in ({"split": "valid"}, {"split": "train", "keep": {"z"}}):
        with pytest.raises(InputError, match=r"no stored song is in split '(valid|train)'"):
            SegmentIndex.open([(address, 1.0)], sources=SOURCES, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no stored song"):
        SegmentIndex.open([], sources=SOURCES, split="train")
    with pytest.raises(InputError, match="weight"):
        SegmentIndex.open([(address, -1.0)], sources=SOURCES, split="train")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    address = _store(tmp_path, {"a": ("train", 1900)})
    index = SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train")
    path = tmp_path / "chunks" / "k.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:1000])
    with pytest.raises(InputError, match=r"k\.parquet cannot be read"):
        batch(index, seed=0, step=0, rows=[0], num_samples=500)
    path.write_bytes(data)
    batch(index, seed=0, step=0, rows=[0], num_samples=500)
    path.write_bytes(data[:1000])
    with pytest.raises(InputError, match=r"k\.parquet"):
        batch(
            SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train"), seed=1, step=0, rows=[0], num_samples=9
        )
