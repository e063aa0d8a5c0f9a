"""A crop is the stored audio, costs little more than its share of the bytes, and gives away every flipped bit."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.audio.flac_frames import FRAME_SAMPLES
from datasets.errors import InputError
from datasets.loading import shard_layout
from datasets.loading.crop_reader import read_crop
from datasets.loading.shard_layout import join_ranges, layout_of
from datasets.schema import ShardSet
from datasets.seeding import row_rng
from datasets.shards import arrow_tables, manifests, shards
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.manifests import Song
from datasets.store import storage
from tests.datasets.toy_store import RATE, SOURCES, stems, store


@pytest.fixture
def mono_and_deep(tmp_path: Path) -> tuple[dict[str, Song], dict[str, Samples]]:
    """Songs of two chunk lengths: with frames that chunks end in the middle of, 16 bits, and beyond full scale."""
    songs = {name: stems(name, length) for name, length in (("a", 47_000), ("b", 9000), ("c", 20_480), ("d", 1))}
    songs["b"] = songs["b"] * 5
    rows = []
    for name, stems_SCT in songs.items():
        header = SongHeader(track_id=name, title=name, split="train", license="", origin="corpus", sample_rate=RATE)
        bits, chunk_s = (16, 20.48) if name == "c" else (24, 12.345)
        rows += song_rows(stems_SCT, header, sources=SOURCES, chunk_s=chunk_s, bits=bits)
    shard = shards.write_shard(tmp_path, "k", rows, sources=SOURCES)
    address = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="k", shards=[shard])
    return {song.track_id: song for song in manifests.read_songs(address)}, songs


def test_any_crop_is_the_part_of_the_whole_song(mono_and_deep: tuple[dict[str, Song], dict[str, Samples]]) -> None:
    songs, wholes = mono_and_deep
    rng = row_rng(0, "crops")
    for name, song in songs.items():
        whole_SCT = wholes[name]
        np.testing.assert_array_equal(shards.read_song(song), whole_SCT)
        for _ in range(60):
            start, length = int(rng.integers(song.num_samples + 5)), int(rng.integers(1, song.num_samples + 100))
            sources = (("bass",), ("bass", "drums"), SOURCES)[rng.integers(3)]
            out_SCT = np.full((len(sources), 2, length), 7, np.float32)
            read_crop(out_SCT, song, start, sources)
            part_SCT = whole_SCT[[SOURCES.index(source) for source in sources], :, start : start + length]
            np.testing.assert_array_equal(out_SCT[:, :, : part_SCT.shape[2]], part_SCT)
            assert np.all(out_SCT[:, :, part_SCT.shape[2] :] == 7)


def _music_store(folder: Path, *, bits: int = 16) -> Song:
    """40 s of four stems at 44.1 kHz that compress as music does."""
    names, rate = ("drums", "bass", "other", "vocals"), 44100
    time = np.arange(40 * rate) / rate
    stems_SCT = np.empty((4, 2, len(time)), np.float32)
    for k in range(4):
        rng = row_rng(k, "music")
        tone = 0.3 * np.sin(2 * np.pi * 110 * (k + 1) * time) * np.exp(-2 * (time % 0.5))
        stems_SCT[k] = tone + rng.standard_normal((2, len(time)), np.float32) * np.float32(1.5e-4)
    header = SongHeader(track_id="m", title="m", split="train", license="", origin="corpus", sample_rate=rate)
    rows = song_rows(stems_SCT, header, sources=names, bits=bits)
    shard = shards.write_shard(folder, "m", rows, sources=names)
    return manifests.read_songs(
        manifests.write_manifest(folder, table="chunks", step="ingest", key="m", shards=[shard])
    )[0]


def test_a_crop_reads_little_more_than_its_share_of_the_flac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song, sources, size = _music_store(tmp_path), ("drums", "bass", "other", "vocals"), round(7.8 * 44100)
    out_SCT = np.empty((4, 2, size), np.float32)
    starts = row_rng(0, "starts").integers(0, song.num_samples - size, 12).tolist()
    rows = [*arrow_tables.read_rows(_address(tmp_path), columns=list(sources))]
    share = sum(len(row[source]) for row in rows for source in sources) / song.num_samples * size
    for start in starts:
        num_bytes = read_crop(out_SCT, song, start, sources)
        assert num_bytes <= 1_800_000
        assert num_bytes < 1.06 * share


def test_a_crop_out_of_an_object_store_asks_for_its_frames_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song, sources, size = _music_store(tmp_path), ("drums", "bass", "other", "vocals"), round(7.8 * 44100)
    out_SCT, again_SCT = np.empty((2, 4, 2, size), np.float32)
    asked: list[tuple[int, int]] = []

    def read_range(path: str, begin: int, end: int) -> bytes:
        asked.append((begin, end))
        if end - begin > 20_000:  # frames: each waits for the three others
            together.wait()  # broken after half a minute where they do not come together
        return storage.read_range(path, begin, end)

    monkeypatch.setattr(shard_layout, "read_range", read_range)
    # Over two rows the last stem of the first row and the first of the second lie side by side.
    for start, rows, stretches in ((44100, 1, 4), (26 * 44100, 2, 7)):
        monkeypatch.undo()
        num_bytes = read_crop(out_SCT, song, start, sources)
        asked.clear()
        together = threading.Barrier(stretches, timeout=30)
        monkeypatch.setattr(shard_layout, "read_range", read_range)
        monkeypatch.setattr(shard_layout, "has_cheap_reads", lambda path: False)
        from_store = read_crop(again_SCT, song, start, sources)
        assert from_store == sum(end - begin for begin, end in asked)
        assert num_bytes <= from_store < num_bytes + 64_000
        np.testing.assert_array_equal(again_SCT, out_SCT)
        assert len(asked) == rows + stretches


def test_ranges_are_one_request_where_little_lies_between_them() -> None:
    assert join_ranges([(200_000, 300_000), (0, 100), (5_000, 6_000), (5_500, 70_000)]) == [
        (0, 70_000),
        (200_000, 300_000),
    ]


def _address(folder: Path) -> ShardSet:
    found = manifests.find_manifest(folder, step="ingest", key="m")
    assert found is not None
    return found


def test_a_flipped_bit_in_what_a_crop_reads_is_noticed_and_the_shard_named(tmp_path: Path) -> None:
    address = store(tmp_path, {"a": ("train", 30_000)})
    (song,) = manifests.read_songs(address)
    path, out_SCT = tmp_path / "chunks" / "k.parquet", np.empty((2, 2, 2000), np.float32)
    assert read_crop(out_SCT, song, 0, SOURCES) > 8000
    data = path.read_bytes()
    begin = data.index(b"fLaC") + 100
    for bit in row_rng(0, "bits").integers(0, 8 * 2000, 50).tolist():
        bad = bytearray(data)
        bad[begin + bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"k\.parquet is damaged in 'a': .*frame"):
            read_crop(out_SCT, song, 0, SOURCES)


def test_wherever_a_bit_is_flipped_what_is_read_is_right_or_refused(tmp_path: Path) -> None:
    address = store(tmp_path, {"a": ("train", 9000)})
    (song,) = manifests.read_songs(address)
    path, whole_SCT = Path(song.path), stems("a", 9000)
    data = path.read_bytes()
    end_of_data = len(data) - int.from_bytes(data[-8:-4], "little")  # pyarrow may abort on a flip in the footer
    rng, refused = row_rng(0, "flips"), {"crop": 0, "song": 0}
    for place in rng.integers(0, end_of_data, 400).tolist():
        bad = bytearray(data)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        layout_of.cache_clear()
        for way, read in (("crop", _crop_of), ("song", shards.read_song)):
            try:
                np.testing.assert_array_equal(read(song), whole_SCT)
            except InputError as error:
                refused[way] += path.name in str(error) and "damaged" in str(error)
    assert min(refused.values()) > 300


def _crop_of(song: Song) -> Samples:
    out_SCT = np.empty((len(SOURCES), song.channels, song.num_samples), np.float32)
    read_crop(out_SCT, song, 0, SOURCES)
    return out_SCT


@pytest.mark.parametrize("fault", ["equal", "falling", "one byte beyond"])
def test_a_table_of_frames_that_cannot_be_right_is_refused_whatever_is_read_of_it(tmp_path: Path, fault: str) -> None:
    """Also where the frames asked for begin where they should."""
    header = SongHeader(track_id="a", title="a", split="train", license="", origin="corpus", sample_rate=RATE)
    rows = song_rows(stems("a", 40_000), header, sources=SOURCES, chunk_s=40_000 / RATE)
    shard = shards.write_shard(tmp_path, "k", rows, sources=SOURCES)
    (song,) = manifests.read_songs(
        manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="k", shards=[shard])
    )
    path, column = Path(song.path), 1
    layout, data = layout_of(song.path), bytearray(path.read_bytes())
    end = int(layout.frames_ends[0, column])
    size = 4 * (-(-40_000 // FRAME_SAMPLES) + 1)
    offsets = np.frombuffer(data[end - size : end], "<u4").copy()
    if fault == "one byte beyond":
        offsets[-1] = layout.ends[0, column] - layout.frames_ends[0, -1] + 1
    else:
        offsets[-3] = offsets[-2] + (fault == "falling")
    data[end - size : end] = offsets.tobytes()
    path.write_bytes(data)
    out_SCT = np.empty((1, 2, 1000), np.float32)
    read_crop(out_SCT, song, 0, SOURCES[:1])
    with pytest.raises(InputError, match=f"where the frames of {SOURCES[column]} begin is not as written"):
        read_crop(out_SCT, song, 0, SOURCES[column : column + 1])


def test_a_footer_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    """The scale of a row stands in the footer as its least and as its greatest value."""
    address = store(tmp_path, {"a": ("train", 1900)})
    (song,) = manifests.read_songs(address)
    path, one, two = Path(song.path), np.float32(1).tobytes(), np.float32(2).tobytes()
    data, said = path.read_bytes(), []
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    while (at := data.find(one, at + 1)) > 0:
        path.write_bytes(data[:at] + two + data[at + 4 :])
        layout_of.cache_clear()
        try:
            np.testing.assert_array_equal(_crop_of(song), stems("a", 1900))
        except InputError as error:
            said.append(str(error))
    assert len(said) >= 2
    damaged = r"k\.parquet is damaged: two values of (scale|drums_activity|bass_activity) in its footer"
    assert all(re.search(damaged, message) for message in said)
