"""What is kept of rows is what the store holds, is asked for once, and never passes its limit."""

from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.loading import row_cache, shard_layout
from datasets.loading.crop_reader import read_crop
from datasets.loading.row_cache import FORMS, RowCache
from datasets.seeding import row_rng
from datasets.shards import manifests
from datasets.shards.manifests import Song
from datasets.store import storage
from tests.datasets.toy_store import SOURCES, stems, store

LENGTHS = {"a": 9000, "b": 5500, "c": 700}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ranges that are asked of the store, as if it were an object store."""
    asked: list[str] = []

    def read_range(path: str, begin: int, end: int) -> bytes:
        if path.endswith(".parquet"):
            asked.append(path)
        return storage.read_range(path, begin, end)

    monkeypatch.setattr(shard_layout, "read_range", read_range)
    monkeypatch.setattr(shard_layout, "has_cheap_reads", lambda path: not path.endswith(".parquet"))
    return asked


def _songs(folder: Path, *, bits: int = 16) -> list[Song]:
    return list(manifests.read_songs(store(folder, {name: ("train", n) for name, n in LENGTHS.items()}, bits=bits)))


def _read_all(songs: list[Song], cache: RowCache) -> int:
    """Every song in crops of odd lengths, each held to its stems; bytes read from the store."""
    num_bytes = 0
    for song in songs:
        whole_SCT = stems(song.track_id, song.num_samples)
        for start in range(0, song.num_samples, 1300):
            out_SCT = np.full((1, 2, 1700), 7, np.float32)
            num_bytes += read_crop(out_SCT, song, start, SOURCES[1:], cache)
            part_SCT = whole_SCT[1:, :, start : start + 1700]
            np.testing.assert_array_equal(out_SCT[:, :, : part_SCT.shape[2]], part_SCT)
            assert np.all(out_SCT[:, :, part_SCT.shape[2] :] == 7)
    return num_bytes


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [16, 24])
def test_what_is_kept_comes_back_as_it_was_and_is_read_once(tmp_path: Path, form: str, bits: int) -> None:
    songs = _songs(tmp_path, bits=bits)
    cache = RowCache.open(str(tmp_path / "cache"), songs, limit_bytes=1 << 30, form=form)
    assert _read_all(songs, cache) > 0
    assert _read_all(songs, cache) == 0
    again = RowCache.open(str(tmp_path / "cache"), songs, limit_bytes=1 << 30, form=form)
    assert _read_all(songs, again) == 0
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == sum(song.num_chunks for song in songs)
    if form == "pcm":
        assert sum(file.stat().st_size for file in files) == sum(LENGTHS.values()) * 4 * bits // (
            8 if bits == 16 else 6
        )


@pytest.mark.parametrize("form", FORMS)
def test_the_limit_holds_and_the_same_rows_are_kept_by_everybody(tmp_path: Path, form: str) -> None:
    songs = _songs(tmp_path)
    whole = RowCache.open(str(tmp_path / "whole"), songs, limit_bytes=1 << 30, form=form)
    _read_all(songs, whole)
    total = sum(file.stat().st_size for file in whole.folder.iterdir())
    half = RowCache.open(str(tmp_path / "half"), songs, limit_bytes=total // 2, form=form)
    first = _read_all(songs, half)
    assert 0 < _read_all(songs, half) < first
    assert 0 < sum(file.stat().st_size for file in half.folder.iterdir()) <= total // 2
    assert {file.name for file in half.folder.iterdir()} == half.kept
    assert RowCache.open(str(tmp_path / "half"), songs[::-1], limit_bytes=total // 2, form=form).kept == half.kept


def test_rows_of_other_songs_and_of_dead_writers_are_cleared(tmp_path: Path) -> None:
    songs = _songs(tmp_path)
    cache = RowCache.open(str(tmp_path / "cache"), songs, limit_bytes=1 << 30)
    _read_all(songs, cache)
    mine, writing, dead = (cache.folder / name for name in ("notes.txt", ".tmp-new", ".tmp-old"))
    for file in (mine, writing, dead):
        file.touch()
    row_cache.os.utime(dead, (0, 0))
    fewer = RowCache.open(str(tmp_path / "cache"), songs[:1], limit_bytes=1 << 30)
    assert {file.name for file in cache.folder.iterdir()} == {*fewer.kept, "notes.txt", ".tmp-new"}


def test_a_folder_of_somebodys_recordings_keeps_them(tmp_path: Path) -> None:
    mine = tmp_path / "masters"
    mine.mkdir()
    for name in ("drums.flac", "take-1.pcm", "0123456789abcdef-3.flac", ".tmp-edit"):
        (mine / name).write_bytes(b"precious")
        row_cache.os.utime(mine / name, (0, 0))
    songs = _songs(tmp_path)
    cache = RowCache.open(str(mine), songs, limit_bytes=1 << 30)
    _read_all(songs, cache)
    RowCache.open(str(mine), songs[:1], limit_bytes=1 << 30)
    assert {file.name for file in mine.iterdir() if file.read_bytes() == b"precious"} >= {
        "drums.flac", "take-1.pcm", "0123456789abcdef-3.flac",
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_file_of_the_cache_is_made_again(tmp_path: Path, form: str) -> None:
    songs = _songs(tmp_path)
    cache = RowCache.open(str(tmp_path / "cache"), songs, limit_bytes=1 << 30, form=form)
    _read_all(songs, cache)
    for number, file in enumerate(sorted(cache.folder.iterdir())):
        data = bytearray(file.read_bytes())
        if form == "flac" and number % 2:
            for place in row_rng(0, number).integers(0, len(data), 200):
                data[place] ^= 0xFF
        else:
            del data[100:]
        file.write_bytes(data)
    assert _read_all(songs, cache) > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_stops_the_keeping_and_not_the_reading(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(address: object, data: bytes) -> None:
        raise InputError("the disk of here is full")

    songs = _songs(tmp_path)
    cache = RowCache.open(str(tmp_path / "cache"), songs, limit_bytes=1 << 30, form=form)
    monkeypatch.setattr(row_cache.storage, "write", refuse)
    _read_all(songs, cache)
    assert [record.message for record in caplog.records] == [
        "nothing more is kept in the cache: the disk of here is full"
    ]


@pytest.mark.parametrize("form", FORMS)
def test_an_object_store_is_asked_once_for_each_row(tmp_path: Path, form: str, reads: list[str]) -> None:
    songs = _songs(tmp_path)
    cache = RowCache.open(str(tmp_path / "cache"), songs, limit_bytes=1 << 30, form=form)
    for _ in range(2):
        _read_all(songs, cache)
    assert len(reads) == sum(song.num_chunks for song in songs)
