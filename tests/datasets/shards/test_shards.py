"""What has a name in the store is whole; what is damaged is named; what changed is little."""

import json
import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datasets.audio.audio_types import Samples
from datasets.errors import InputError
from datasets.schema import PLANS, VERDICTS, MixPlan, Part, ShardSet, Verdict
from datasets.seeding import row_rng
from datasets.shards import arrow_tables, manifests, shards
from datasets.shards.chunks import SongHeader, song_rows
from datasets.store import write_lock

RATE = 8000
SOURCES = ("drums", "bass")


def _stems(name: str, num_samples: int = 20000) -> Samples:
    return row_rng(0, name).uniform(-0.5, 0.5, (2, 2, num_samples)).astype(np.float32)


def _rows(*names: str) -> list[dict[str, object]]:
    rows = []
    for name in names:
        header = SongHeader(track_id=name, title=name, split="train", license="", origin="corpus", sample_rate=RATE)
        rows += song_rows(_stems(name), header, sources=SOURCES, chunk_s=1)
    return rows


def _chunks(store: Path) -> ShardSet:
    written = [
        shards.write_shard(store, "first", _rows("a", "b"), sources=SOURCES),
        shards.write_shard(store, "second", _rows("c"), sources=SOURCES),
    ]
    return manifests.write_manifest(store, table="chunks", step="ingest", key="k", shards=written)


def test_no_shard_grows_beyond_four_times_its_mean_and_none_is_lost() -> None:
    names = [f"song {k:04d}" for k in range(1000)]
    ranges = shards.cut_points(names, per_shard=4)
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert (ranges[0][0], ranges[-1][1]) == (0, 1000)
    assert max(stop - start for start, stop in ranges) <= 16
    assert shards.cut_points([], per_shard=4) == []


def test_a_chunk_is_a_row_group_uncompressed_and_plain(tmp_path: Path) -> None:
    shard = shards.write_shard(tmp_path, "x", _rows("a"), sources=SOURCES)
    meta = pq.ParquetFile(tmp_path / shard.file).metadata
    assert (meta.num_row_groups, meta.num_rows) == (3, 3)
    columns = {meta.row_group(0).column(k).path_in_schema: meta.row_group(0).column(k) for k in range(meta.num_columns)}
    for source in SOURCES:
        assert columns[source].compression == "UNCOMPRESSED"
        assert set(columns[source].encodings) <= {"PLAIN", "RLE"}  # RLE: of levels, which required values have none of
        assert not columns[source].is_stats_set
    assert columns["track_id"].statistics.min == "a"


def test_values_end_where_the_footer_says(tmp_path: Path) -> None:
    rows = _rows("a", "b")
    path = tmp_path / shards.write_shard(tmp_path, "x", rows, sources=SOURCES).file
    data, meta = path.read_bytes(), pq.ParquetFile(path).metadata
    for number, row in enumerate(rows):
        group = meta.row_group(number)
        for column in (group.column(k) for k in range(group.num_columns)):
            value = row[column.path_in_schema]
            if isinstance(value, bytes):
                end = column.data_page_offset + column.total_compressed_size
                assert data[end - len(value) : end] == value
                assert int.from_bytes(data[end - len(value) - 4 : end - len(value)], "little") == len(value)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for store in ("one", "two"):
        _chunks(tmp_path / store)
    one, two = (sorted((tmp_path / store).rglob("*.*")) for store in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert len(one) == 5


def test_songs_are_read_back_whole_or_in_part(tmp_path: Path) -> None:
    address = _chunks(tmp_path)
    assert [song.track_id for song in manifests.read_songs(address)] == ["a", "b", "c"]
    whole_SCT = shards.read_track(address, "b")
    np.testing.assert_allclose(whole_SCT, _stems("b"), atol=2**-23)
    part_SCT = shards.read_track(address, "b", sources=("bass",), start=7990, num_samples=9000)
    np.testing.assert_array_equal(part_SCT, whole_SCT[1:, :, 7990:16990])
    assert shards.read_track(address, "b", start=30000).shape == (2, 2, 0)
    with pytest.raises(InputError, match="no song 'zz'"):
        shards.read_track(address, "zz")


def test_rows_are_filtered_before_their_audio_is_read(tmp_path: Path) -> None:
    address = _chunks(tmp_path)
    rows = list(
        arrow_tables.read_rows(address, columns=["index", "track_id"], where={"track_id": {"a", "c"}, "index": 1})
    )
    assert rows == [{"index": 1, "track_id": "a"}, {"index": 1, "track_id": "c"}]
    assert len(list(arrow_tables.read_rows(address))) == address.num_rows == 9


def test_a_selection_shows_its_songs_on_their_sides(tmp_path: Path) -> None:
    whole = manifests.read_manifest(_chunks(tmp_path))
    sides = {"a": "test", "c": "valid"}
    songs = [replace(song, split=sides[song.track_id]) for song in whole.songs if song.track_id in sides]
    chosen = manifests.write_manifest(
        tmp_path, table="chunks", step="curate", key="k", shards=whole.shards, songs=songs[::-1]
    )
    assert [(song.track_id, song.split) for song in manifests.read_songs(chosen)] == [("a", "test"), ("c", "valid")]
    rows = list(arrow_tables.read_rows(chosen, columns=["track_id", "split"]))
    assert {(row["track_id"], row["split"]) for row in rows} == set(sides.items())
    assert len(rows) == chosen.num_rows == 6
    assert {row["index"] for row in arrow_tables.read_rows(chosen, where={"split": "valid"})} == {0, 1, 2}
    with pytest.raises(InputError, match="no song 'b'"):
        shards.read_track(chosen, "b")
    assert chosen.digest != _chunks(tmp_path).digest


def test_a_digest_is_that_of_the_songs_whatever_shards_they_lie_in(tmp_path: Path) -> None:
    written = [shards.write_shard(tmp_path, name, _rows(name), sources=SOURCES) for name in ("c", "b", "a")]
    apart = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="apart", shards=written)
    together = _chunks(tmp_path)
    assert apart.digest == together.digest
    assert [song.track_id for song in manifests.read_songs(apart)] == ["a", "b", "c"]
    moved = [replace(song, split="test") for song in manifests.read_songs(apart)]
    other = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="other", shards=written, songs=moved)
    assert other.digest != apart.digest


def test_a_finished_table_is_found_and_a_lost_or_cut_one_is_not(tmp_path: Path) -> None:
    address = _chunks(tmp_path)
    assert manifests.find_manifest(tmp_path, step="ingest", key="k") == address
    assert manifests.find_manifest(tmp_path, step="ingest", key="other") is None
    assert shards.find_shard(tmp_path, "first") is not None
    path = tmp_path / "chunks" / "first.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    assert manifests.find_manifest(tmp_path, step="ingest", key="k") is None
    assert shards.find_shard(tmp_path, "first") is None
    with pytest.raises(InputError, match=r"first\.parquet is damaged: it has"):
        list(arrow_tables.read_rows(address))
    (tmp_path / "chunks" / "second.json").write_text("{")
    assert shards.find_shard(tmp_path, "second") is None


def test_a_flipped_bit_is_found_and_the_shard_named(tmp_path: Path) -> None:
    address = _chunks(tmp_path)
    arrow_tables.verify(address)
    path = tmp_path / "chunks" / "second.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"second\.parquet is damaged: its checksum"):
        arrow_tables.verify(address)
    with pytest.raises(InputError, match=r"second\.parquet is damaged in 'c': .*page"):
        shards.read_track(address, "c")


def test_a_bit_flipped_anywhere_in_the_footer_changes_nothing_or_is_named(tmp_path: Path) -> None:
    address = _chunks(tmp_path)
    columns = ["track_id", "index", "num_samples", "drums_rms_db", "drums_crc32"]
    rows = list(arrow_tables.read_rows(address, columns=columns))
    whole_SCT = shards.read_track(address, "c")
    path = tmp_path / "chunks" / "second.parquet"
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    rng, messages = row_rng(0, "flips"), []
    for _ in range(150):
        damaged = bytearray(data)
        damaged[-1 - int(rng.integers(footer))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert list(arrow_tables.read_rows(address, columns=columns)) == rows
            np.testing.assert_array_equal(shards.read_track(address, "c"), whole_SCT)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert all("second.parquet" in message for message in messages)


def test_an_unknown_schema_version_is_refused(tmp_path: Path) -> None:
    address = _chunks(tmp_path)
    content = json.loads(Path(address.uri).read_text())
    Path(address.uri).write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(InputError, match="schema version 99; this program reads version 2"):
        manifests.read_songs(address)
    row = {**_rows("a")[0], "schema_version": 98}
    later = shards.write_shard(tmp_path, "later", [row], sources=SOURCES)
    address = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="l", shards=[later])
    with pytest.raises(InputError, match=r"later\.parquet has schema version 98"):
        list(arrow_tables.read_rows(address))


def test_a_writer_that_dies_leaves_no_shard_and_its_rest_is_cleared(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, object]]:
        yield _rows("a")[0]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        shards.write_shard(tmp_path, "x", rows(), sources=SOURCES)
    assert list((tmp_path / "chunks").iterdir()) == []
    (tmp_path / "chunks" / ".tmp-x.parquet-1").touch()
    assert write_lock.clear_leftovers(tmp_path) == 1
    assert shards.find_shard(tmp_path, "x") is None


def _killed_writer(store: str) -> None:
    def rows() -> Iterator[dict[str, object]]:
        yield _rows("a")[0]
        os.kill(os.getpid(), 9)

    shards.write_shard(store, "x", rows(), sources=SOURCES)


def test_a_killed_writer_leaves_nothing_with_a_name(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed_writer, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert [path.name[:5] for path in (tmp_path / "chunks").iterdir()] == [".tmp-"]
    shards.write_shard(tmp_path, "x", _rows("a"), sources=SOURCES)
    assert shards.find_shard(tmp_path, "x") is not None


def test_two_jobs_do_not_write_to_one_store(tmp_path: Path) -> None:
    with write_lock.write_lock(tmp_path):
        second = write_lock.write_lock(tmp_path)
        with pytest.raises(InputError, match=f"process {os.getpid()} is writing"), second:
            pass
    with write_lock.write_lock(tmp_path):
        pass


def test_a_store_that_cannot_be_written_is_named_with_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*store\.root=DIR"):
        _chunks(tmp_path / "file" / "store")
    with pytest.raises(InputError, match="cannot write to"), write_lock.write_lock(tmp_path / "file" / "store"):
        pass


def test_a_full_disk_is_named_with_what_is_needed_and_free(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(InputError, match=r"is full: a file of at least \d{5,} bytes did not fit and \d+ are free"):
            shards.write_shard(disk, "x", _rows("a", "b", "c"), sources=SOURCES)
        assert list((disk / "chunks").iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_border_values_come_back_from_their_tables(tmp_path: Path) -> None:
    verdict = Verdict(
        track_id="a", title="A\n\"b\"", split="train", keep=False, reason="silent_source", detail="bass",
        duration_s=12.5, measures={"bass_presence": 0.1, "bass_peak": 0.5},
    )  # fmt: skip
    kept = replace(verdict, keep=True, reason="", measures={})
    table = arrow_tables.table_of([verdict, kept], VERDICTS)
    address = arrow_tables.write_table(tmp_path, "verdicts", table, key="k", step="curate", extra={"kept": 1})
    assert arrow_tables.read_objects(address, Verdict) == [verdict, kept]
    assert manifests.read_manifest(address).extra == {"kept": 1}
    part = Part(track_id="a", source="bass", stretch=1.5, semitones=-2, shift_samples=-7, gain_db=-1.0)
    plan = MixPlan(
        mix_id="m", seed=3, split="train", tempo_bpm=120, key="", parts=(part, part), beat_error_ms=1.0,
        key_distance=0.2, reason="",
    )  # fmt: skip
    plans = arrow_tables.write_table(tmp_path, "plans", arrow_tables.table_of([plan], PLANS), key="k")
    assert arrow_tables.read_objects(plans, MixPlan) == [plan]
    assert (
        arrow_tables.write_table(tmp_path / "other", "plans", arrow_tables.table_of([plan], PLANS), key="z").digest
        == plans.digest
    )


def test_a_selection_from_a_store_named_by_a_relative_path_keeps_its_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = shards.write_shard("store", "first", _rows("a", "b"), sources=SOURCES)
    manifests.write_manifest("store", table="chunks", step="ingest", key="k", shards=[written])
    songs = manifests.read_manifest("store/manifests/ingest-k.json").songs
    chosen = manifests.write_manifest(
        "store", table="chunks", step="curate", key="c", shards=[written], songs=songs[:1]
    )
    assert [shard.file for shard in manifests.read_manifest(chosen).shards] == ["chunks/first.parquet"]
    assert np.allclose(shards.read_song(manifests.read_songs(chosen)[0]), _stems("a"), atol=1e-4)
