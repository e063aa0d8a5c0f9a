"""A row of a run is the same whoever reads it, and is the stored audio; an epoch has everything once."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.loading.crop_reader import song_level
from datasets.loading.segment_sampler import SegmentIndex, draw
from datasets.schema import ShardSet
from datasets.seeding import row_rng
from datasets.shards import manifests, shards
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.manifests import Song
from tests.datasets.toy_store import RATE, SOURCES, batch, stems, store

SONGS = {"a": ("train", 9000), "b": ("train", 3000), "c": ("test", 5000), "d": ("train", 700)}


@pytest.fixture
def index(tmp_path: Path) -> SegmentIndex:
    return SegmentIndex.open([(store(tmp_path, SONGS), 1.0)], sources=SOURCES, split="train")


def test_segments_are_the_stored_audio_across_chunk_borders(index: SegmentIndex) -> None:
    sources_BSCT = batch(index, range(40), seed=1, num_samples=1500)
    assert sources_BSCT.shape == (40, 2, 2, 1500)
    crossing = 0
    for number in range(40):
        ((song, start),) = draw(index, seed=1, number=number, num_samples=1500)
        stems_SCT = stems(song.track_id, song.num_samples)[:, :, start : start + 1500]
        np.testing.assert_array_equal(sources_BSCT[number, :, :, : stems_SCT.shape[2]], stems_SCT)
        assert not sources_BSCT[number, :, :, stems_SCT.shape[2] :].any()
        crossing += start // 2000 != (start + 1499) // 2000
    assert crossing > 5


def test_rows_do_not_depend_on_who_reads_them(index: SegmentIndex) -> None:
    whole = batch(index, range(8), seed=3, num_samples=800)
    for num_workers in (1, 2, 4):
        for rank in range(num_workers):
            part = batch(index, range(rank, 8, num_workers), seed=3, num_samples=800)
            np.testing.assert_array_equal(part, whole[rank::num_workers])
    with ThreadPoolExecutor(4) as threads:
        rows = threads.map(lambda number: batch(index, [number], seed=3, num_samples=800)[0], reversed(range(8)))
        np.testing.assert_array_equal(np.stack(list(rows)[::-1]), whole)
    assert not np.array_equal(whole, batch(index, range(8, 16), seed=3, num_samples=800))
    assert not np.array_equal(whole, batch(index, range(8), seed=4, num_samples=800))


def test_an_epoch_plays_everything_once_and_the_next_one_in_another_order(tmp_path: Path) -> None:
    address = store(tmp_path, {"a": ("train", 60_000), "b": ("train", 20_000)})
    index = SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train")
    assert index.epoch_rows(1000) == 80
    epochs = [
        [draw(index, seed=0, number=number, num_samples=1000)[0] for number in range(80 * epoch, 80 * (epoch + 1))]
        for epoch in range(3)
    ]
    for places in epochs:
        assert Counter(song.track_id for song, _ in places) == {"a": 60, "b": 20}
        heard_T = np.zeros(60_000, bool)
        for song, start in places:
            if song.track_id == "a":
                heard_T[start : start + 1000] = True
        assert heard_T.mean() > 0.97  # rows drawn freely miss 37 %
    assert sorted(epochs[0], key=str) != sorted(epochs[1], key=str)
    orders = [[song.track_id for song, _ in places] for places in epochs]
    assert orders[0] != orders[1] != orders[2]


def test_a_song_shorter_than_a_segment_is_followed_by_silence(tmp_path: Path) -> None:
    address = store(tmp_path, {"d": ("train", 700)})
    index = SegmentIndex.open([(address, 1.0)], sources=("bass",), split="train")
    (stems_SCT,) = batch(index, [0], num_samples=1000)
    np.testing.assert_array_equal(stems_SCT[:, :, :700], stems("d", 700)[1:])
    assert not stems_SCT[:, :, 700:].any()


def test_draws_follow_durations_within_a_table_and_weights_between_tables(tmp_path: Path) -> None:
    corpus = store(tmp_path, {"a": ("train", 9000), "b": ("train", 3000)})
    mixes = store(tmp_path, {"m": ("train", 1000)}, key="m")
    index = SegmentIndex.open([(corpus, 1.0), (mixes, 3.0)], sources=SOURCES, split="train")
    drawn = [draw(index, seed=0, number=number, num_samples=500)[0][0].track_id for number in range(4000)]
    shares = [drawn.count(name) / len(drawn) for name in "abm"]
    assert shares == pytest.approx([0.75 * 0.25, 0.25 * 0.25, 0.75], abs=0.03)
    only = SegmentIndex.open([(corpus, 1.0), (mixes, 0.0)], sources=SOURCES, split="train")
    assert {song.track_id for song in only.songs} == {"a", "b"}


def test_starts_cover_the_whole_song(index: SegmentIndex) -> None:
    places = [draw(index, seed=0, number=number, num_samples=1000)[0] for number in range(3000)]
    starts = [start for song, start in places if song.track_id == "b"]
    assert min(starts) < 50
    assert 1950 < max(starts) <= 2000


def test_a_remixed_row_has_each_stem_from_a_song_of_its_own_and_others_stay_as_they_were(tmp_path: Path) -> None:
    address = store(tmp_path, {name: ("train", 5000) for name in "abcdefgh"})
    index = SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train")
    plain, mixed = (batch(index, range(60), num_samples=900, remix_all=share) for share in (0.0, 0.5))
    again = batch(index, range(60), num_samples=900, remix_all=0.5)
    np.testing.assert_array_equal(mixed, again)
    apart = 0
    for number in range(60):
        places = draw(index, seed=0, number=number, num_samples=900, remix_all=0.5)
        if len(places) == 1:
            np.testing.assert_array_equal(mixed[number], plain[number])
            continue
        apart += places[0][0].track_id != places[1][0].track_id
        for source, (song, start) in enumerate(places):
            stem_CT = stems(song.track_id, song.num_samples)[source, :, start : start + 900]
            np.testing.assert_array_equal(mixed[number, source], stem_CT)
    assert 15 < apart < 45


def _half_silent(folder: Path) -> ShardSet:
    """Four songs whose second half has no bass, and a third of each no sound at all; chunks of two seconds."""
    rows = []
    for name in "abcd":
        stems_SCT = stems(name, 24_000)
        stems_SCT[1, :, 12_000:] = 0
        stems_SCT[:, :, 16_000:] *= 1e-4
        header = SongHeader(track_id=name, title=name, split="train", license="", origin="corpus", sample_rate=RATE)
        rows += song_rows(stems_SCT, header, sources=SOURCES, chunk_s=2)
    shard = shards.write_shard(folder, "k", rows, sources=SOURCES)
    return manifests.write_manifest(folder, table="chunks", step="ingest", key="k", shards=[shard])


def _active(index: SegmentIndex, *, remix_all: float = 0.0) -> float:
    """The share of stems in 200 rows that pass -40 dBFS."""
    rows_BSCT = batch(index, range(200), num_samples=500, remix_all=remix_all)
    return float(np.mean(np.square(rows_BSCT).mean(axis=(2, 3)) > 1e-4))


def test_silence_that_counts_less_leaves_more_stems_that_sound(tmp_path: Path) -> None:
    def opened(weight: float) -> SegmentIndex:
        return SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train", silence_weight=weight)

    address = _half_silent(tmp_path)
    shares = [_active(opened(weight)) for weight in (1.0, 0.3, 0.0)]
    # Of 24 s, 16 have drums and 12 bass. Without silence, a chunk counts by how many of its sources sound.
    assert shares == pytest.approx([28 / 48, 13.3 / 17, 13 / 14], abs=0.03)
    assert _active(opened(0.0), remix_all=1.0) > 0.93  # each stem from where its own source sounds
    np.testing.assert_array_equal(*(batch(opened(0.0), range(9), num_samples=500) for _ in range(2)))


def test_where_a_source_is_silent_everywhere_its_time_cannot_be_left_out(tmp_path: Path) -> None:
    stems_SCT = stems("a", 4000)
    stems_SCT[1] = 0
    header = SongHeader(track_id="a", title="a", split="train", license="", origin="corpus", sample_rate=RATE)
    shard = shards.write_shard(tmp_path, "k", song_rows(stems_SCT, header, sources=SOURCES), sources=SOURCES)
    address = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="k", shards=[shard])
    with pytest.raises(InputError, match=r"no stored second of bass .*train\.silence_weight"):
        SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train", silence_weight=0.0)
    SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train", silence_weight=0.1)


def test_an_index_that_cannot_be_drawn_from_is_refused(tmp_path: Path) -> None:
    address = store(tmp_path, {"a": ("train", 900)})
    for kwargs in ({"split": "valid"}, {"split": "train", "keep": {"z"}}):
        with pytest.raises(InputError, match=r"the (valid|train) split is empty"):
            SegmentIndex.open([(address, 1.0)], sources=SOURCES, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the train split is empty"):
        SegmentIndex.open([], sources=SOURCES, split="train")
    with pytest.raises(InputError, match="weight"):
        SegmentIndex.open([(address, -1.0)], sources=SOURCES, split="train")
    with pytest.raises(InputError, match=r"holds drums, bass, and no vocals"):
        SegmentIndex.open([(address, 1.0)], sources=("drums", "vocals"), split="train")
    with pytest.raises(InputError, match=r"longest song has 0\.90 s .* takes 1\.00 s .* shorter segment"):
        SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train", segment_samples=1000)
    SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train", segment_samples=900)


def test_songs_of_two_rates_are_refused(tmp_path: Path) -> None:
    header = SongHeader(track_id="x", title="x", split="train", license="", origin="corpus", sample_rate=2 * RATE)
    rows = song_rows(stems("x", 3000), header, sources=SOURCES)
    shard = shards.write_shard(tmp_path, "x", rows, sources=SOURCES)
    other = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="x", shards=[shard])
    tables = [(store(tmp_path, SONGS), 1.0), (other, 1.0)]
    with pytest.raises(InputError, match=r"\(1000, 2\), \(2000, 2\).*one ingest\.sample_rate"):
        SegmentIndex.open(tables, sources=SOURCES, split="train")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    address = store(tmp_path, {"a": ("train", 1900)})
    index = SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train")
    path = tmp_path / "chunks" / "k.parquet"
    data = path.read_bytes()
    batch(index, [0], num_samples=500)
    path.write_bytes(data[:1000])
    with pytest.raises(InputError, match=r"k\.parquet cannot be read"):
        batch(index, [row_rng(0).integers(1 << 20)], num_samples=500)


@pytest.mark.parametrize("remix_all", [0.0, 1.0])
def test_stems_are_brought_to_the_level_of_their_own_songs(index: SegmentIndex, remix_all: float) -> None:
    options = {"num_samples": 900, "remix_all": remix_all}
    plain, normal = (batch(index, range(30), normalize=on, **options) for on in (False, True))  # type: ignore[arg-type]
    for number in range(30):
        places = draw(index, seed=0, number=number, **options)  # type: ignore[arg-type]
        for k in range(2):
            song, _ = places[k if len(places) > 1 else 0]
            level = np.sqrt(np.square(stems(song.track_id, song.num_samples)).mean(axis=(1, 2)).sum())
            np.testing.assert_allclose(normal[number, k], plain[number, k] / level, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("level", "raised"), [(3e-5, True), (3e-6, False)])
def test_a_song_below_100_db_under_full_scale_stays_as_quiet_as_it_is(
    tmp_path: Path, level: float, raised: bool
) -> None:
    header = SongHeader(track_id="a", title="a", split="train", license="", origin="corpus", sample_rate=RATE)
    rows = song_rows(np.full((2, 1, 3000), level, np.float32), header, sources=SOURCES, chunk_s=2, bits=24)
    shard = shards.write_shard(tmp_path, "k", rows, sources=SOURCES)
    address = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="k", shards=[shard])
    index = SegmentIndex.open([(address, 1.0)], sources=SOURCES, split="train")
    loudest = np.abs(batch(index, [0], num_samples=500, normalize=True)).max()
    assert loudest == pytest.approx(0.5**0.5 if raised else level, rel=0.05)


def test_an_index_knows_its_playing_time_and_an_epoch_has_a_row_at_least(index: SegmentIndex) -> None:
    assert (index.sample_rate, index.channels) == (RATE, 2)
    assert index.duration_s == pytest.approx((9000 + 3000 + 700) / RATE)
    assert [index.epoch_rows(length) for length in (100, 1000, 12_000, 30_000)] == [127, 13, 1, 1]
    ((song, start),) = draw(index, seed=0, number=5, num_samples=30_000)
    assert (song.track_id in SONGS, start) == (True, 0)


def test_a_draw_walks_through_no_list_of_songs(index: SegmentIndex) -> None:
    """With thousands of songs each row of a batch would."""

    class Unwalked(tuple[Song, ...]):
        def __iter__(self) -> Iterator[Song]:
            raise AssertionError("walked through all songs")

    expected = draw(index, seed=0, number=7, num_samples=500)
    assert draw(replace(index, songs=Unwalked(index.songs)), seed=0, number=7, num_samples=500) == expected


def test_weights_of_tables_are_numbers(tmp_path: Path) -> None:
    address = store(tmp_path, {"a": ("train", 900)})
    for weight in (float("inf"), float("nan"), -0.5):
        with pytest.raises(InputError, match="weight"):
            SegmentIndex.open([(address, weight)], sources=SOURCES, split="train")


def test_the_level_counts_each_chunk_by_its_length_and_only_the_sources_asked_for(tmp_path: Path) -> None:
    quiet, loud = np.full((2, 1, 4000), 0.01, np.float32), np.full((2, 1, 500), 0.5, np.float32)
    header = SongHeader(track_id="a", title="a", split="train", license="", origin="corpus", sample_rate=RATE)
    rows = song_rows(np.concatenate([quiet, loud], axis=2), header, sources=SOURCES, chunk_s=2, bits=24)
    shard = shards.write_shard(tmp_path, "k", rows, sources=SOURCES)
    address = manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="k", shards=[shard])
    (song,) = manifests.read_songs(address)
    power = (4000 * 0.01**2 + 500 * 0.5**2) / 4500
    assert song_level(song, SOURCES[:1]) == pytest.approx(power**0.5, rel=1e-3)
    assert song_level(song, SOURCES) == pytest.approx((2 * power) ** 0.5, rel=1e-3)


def test_a_table_without_songs_of_the_split_changes_nothing(tmp_path: Path) -> None:
    songs, none = store(tmp_path / "one", SONGS), store(tmp_path / "other", {"e": ("test", 4000)})
    alone, both = (
        SegmentIndex.open(tables, sources=SOURCES, split="train")
        for tables in ([(songs, 1.0)], [(none, 3.0), (songs, 1.0), (none, 2.0)])
    )
    assert [song.track_id for song in both.songs] == [song.track_id for song in alone.songs]
    np.testing.assert_array_equal(both.cumulative, alone.cumulative)
    np.testing.assert_array_equal(
        batch(both, range(8), seed=1, num_samples=500), batch(alone, range(8), seed=1, num_samples=500)
    )
