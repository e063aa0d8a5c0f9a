"""What is stored is not planned again, and what is planned depends on the songs alone."""

import json
from dataclasses import replace
from pathlib import Path

from datasets.schema import StemFile, Track
from datasets.seeding import row_rng
from datasets.shards import shards
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.shard_planning import plan_shards, read_store, stored_bytes
from tests.datasets.shards.test_dataset_versions import _song

RATE = 8000
SOURCES = ("drums", "bass")


def _track(name: str, fingerprint: str = "f", files: tuple[StemFile, ...] = ()) -> Track:
    return Track(
        track_id=name,
        title=name,
        group=name,
        split="train",
        license="",
        layout="folders",
        stems={"drums": files},
        fingerprint=fingerprint,
    )


def _corpus(sizes: list[int]) -> list[Track]:
    """One file of a track for each size."""
    return [
        _track(f"song {number:03d}", files=(StemFile(path=f"{number:03d}.flac", num_bytes=size),))
        for number, size in enumerate(sizes)
    ]


def _plan(tracks: list[Track], *, shard_bytes: int = 1000) -> dict[str, list[str]]:
    keys = {track.track_id: f"{track.fingerprint} {track.pad_s} {track.stems}" for track in tracks}
    plans = plan_shards(tracks, keys=keys, shard_bytes=shard_bytes)
    return {plan.spec: [track.track_id for track in plan.tracks] for plan in plans}


def test_a_plan_is_the_same_in_any_order_and_whatever_part_of_it_is_left_to_do() -> None:
    sizes = [int(size) for size in row_rng(0, "sizes").integers(50, 700, 60)]
    tracks = _corpus(sizes)
    whole = _plan(tracks)
    assert list(_plan(tracks[::-1])) == list(whole)
    assert sorted(name for names in whole.values() for name in names) == [track.track_id for track in tracks]
    assert max(sum(sizes[int(name[-3:])] for name in names) for names in whole.values()) < 1000 + 700
    for kept in range(len(whole)):
        left = [spec for position, spec in enumerate(whole) if position % 3 == kept % 3 or position == kept]
        missing = [track for track in tracks if any(track.track_id in whole[spec] for spec in left)]
        assert _plan(missing) == {spec: whole[spec] for spec in left}


def test_the_name_of_a_shard_stands_for_all_that_its_rows_hold() -> None:
    (track,) = _corpus([10])
    others = [
        replace(track, fingerprint="g"),
        replace(track, split="test"),
        replace(track, license="CC0"),
        replace(track, title="t"),
        replace(track, pad_s=1.0),
        replace(track, stems={"drums": (replace(track.stems["drums"][0], side="left"),)}),
    ]
    assert len({next(iter(_plan([one]))) for one in [track, *others]}) == 7


def test_sizes_are_those_of_the_files_by_kind_and_streams_count_once() -> None:
    sizes = {"a.wav": 1000, "b.mp3": 100, "missing.wav": 0}
    files = [StemFile(path=name, num_bytes=size) for name, size in sizes.items()]
    assert stored_bytes(_track("x", files=tuple(files))) == 950
    streams = {str(k): (StemFile(path="c.stem.mp4", stream=k, num_bytes=500),) for k in (1, 2, 3, 4)}
    assert stored_bytes(replace(_track("x"), stems=streams)) == 1400


def test_only_whole_shards_of_ingest_count_as_stored(tmp_path: Path) -> None:
    def written(name: str) -> None:
        refused = {"track_id": f"{name} bad", "reason": "empty_file"}
        extra = {"keys": {name: f"key {name}", f"{name} bad": f"key {name} bad"}, "rejected": [refused]}
        header = SongHeader(track_id=name, title=name, split="train", license="", origin="corpus", sample_rate=RATE)
        stems = row_rng(0, name).uniform(-0.5, 0.5, (2, 2, 9000)).astype("float32")
        rows = song_rows(stems, header, sources=SOURCES, chunk_s=1)
        shards.write_shard(tmp_path, name, rows, sources=SOURCES, extra=lambda: extra)

    for name in ("a", "b", "c"):
        written(name)
    _song(tmp_path, "mix", audio="automix has no keys")
    (tmp_path / "chunks" / "b.parquet").write_bytes(b"cut")
    (tmp_path / "chunks" / "c.json").write_text(json.dumps({"half": 1}))
    stored = read_store(tmp_path)
    assert (set(stored.songs), set(stored.refused)) == ({"key a"}, {"key a bad"})
    assert "key a" in stored
    assert "key b" not in stored
