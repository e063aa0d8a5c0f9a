"""Erased audio is on no disk any more, every other song stays as it was, and a kill at any line is made good."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.schema import PLANS, MixPlan, Part, ShardSet
from datasets.shards import manifests, shards
from datasets.shards.arrow_tables import table_of, verify, write_table
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.manifests import Song, read_manifest, write_manifest
from datasets.shards.shard_planning import read_store
from datasets.shards.shards import read_song, write_shard
from datasets.store import storage
from pipelines.lineage import erasure, training_recordings
from tests.pipelines.songs import RATE, SOURCES, stems
from tests.s3 import BUCKET, object_store


def shard(store: Path | str, spec: str, names: list[str], *, origin: str = "corpus") -> manifests.Shard:
    rows = []
    for name in names:
        header = SongHeader(
            track_id=name, title=name, split="train", license="CC-BY-NC-4.0", origin=origin, sample_rate=RATE
        )
        rows += song_rows(stems(name, 3 * RATE), header, sources=SOURCES, chunk_s=2)
    extra = {"keys": {name: f"key of {name}" for name in names}, "rejected": []} if origin == "corpus" else {}
    return write_shard(store, spec, rows, sources=SOURCES, extra=lambda: extra)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two shards of songs and one of mixes; two datasets of songs, of which only one holds `x`, and one of mixes."""
    first, second = shard(tmp_path, "aaaa", ["a", "x", "b"]), shard(tmp_path, "bbbb", ["c"])
    write_manifest(tmp_path, table="chunks", step="ingest", key="all", shards=[first, second])
    songs = [song for song in stored(tmp_path, "ingest-all") if song.track_id != "x"]
    write_manifest(tmp_path, table="chunks", step="curate", key="some", shards=[first, second], songs=songs)
    mixes = shard(tmp_path, "mix-1", ["a ~ mix 0", "x ~ mix 0"], origin="automix")
    write_manifest(tmp_path, table="chunks", step="automix", key="m", shards=[mixes])
    plans = [plan("a ~ mix 0", "a", "b"), plan("x ~ mix 0", "c", "x")]
    write_table(tmp_path, "plans", table_of(plans, PLANS), key="p")
    shard(tmp_path, "cccc", ["x"])  # of no dataset any more
    (tmp_path / "chunks" / "dddd.parquet").write_bytes((tmp_path / "chunks" / "cccc.parquet").read_bytes())  # a kill's
    (tmp_path / "chunks" / ".tmp-eeee.parquet-1").write_bytes(b"x")
    cache = tmp_path / "rows"
    cache.mkdir()
    mixed = next(song.audio for song in stored(tmp_path, "automix-m") if song.track_id == "x ~ mix 0")
    for name in (f"{digest(tmp_path)}-0.flac", f"{mixed}-0.flac", "ffff-0.flac", "another file.txt"):
        (cache / name).write_bytes(b"x")
    return tmp_path


def plan(mix_id: str, *names: str) -> MixPlan:
    parts = tuple(
        Part(track_id=name, source="bass", stretch=1.0, semitones=0, shift_samples=0, gain_db=0.0) for name in names
    )
    return MixPlan(
        mix_id=mix_id, seed=0, split="train", tempo_bpm=0.0, key="", parts=parts, beat_error_ms=0.0, key_distance=0.0,
        reason="",
    )  # fmt: skip


def stored(store: Path, name: str) -> tuple[Song, ...]:
    return read_manifest(str(store / "manifests" / f"{name}.json")).songs


def digest(store: Path) -> str:
    return next(song.audio for song in stored(store, "ingest-all") if song.track_id == "x")


def audio_of(store: Path) -> list[bytes]:
    """A stretch of the FLAC of every stem of `x`, to be looked for in all files."""
    song = next(song for song in stored(store, "ingest-all") if song.track_id == "x")
    with shards.open_parquet(song.path) as file:
        row = file.read_row_group(song.first_row).to_pylist()[0]
    return [row[source][200:400] for source in SOURCES]


def whole(store: Path) -> dict[str, set[str]]:
    """The songs of every dataset, after all of them were read and found as they were made."""
    found = {}
    for name in ("ingest-all", "curate-some", "automix-m"):
        uri = str(store / "manifests" / f"{name}.json")
        verify(ShardSet(uri=uri, table="chunks", num_rows=0, digest=""))
        for song in read_manifest(uri).songs:
            np.testing.assert_allclose(read_song(song), stems(song.track_id, 3 * RATE), atol=1e-4)
        found[name] = {song.track_id for song in read_manifest(uri).songs}
    return found


LEFT = {"ingest-all": {"a", "b", "c"}, "curate-some": {"a", "b", "c"}, "automix-m": {"a ~ mix 0"}}


def check(store: Path, audio: str, traces: list[bytes]) -> None:
    assert whole(store) == LEFT
    for path in store.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(trace in content for trace in traces), path
    assert erasure.holdings(str(store), {audio}) == []
    assert {path.name for path in (store / "rows").iterdir()} == {"ffff-0.flac", "another file.txt"}
    names = {path.name for path in (store / "chunks").iterdir() if path.suffix == ".parquet"}
    assert "bbbb.parquet" in names
    assert not {"aaaa.parquet", "cccc.parquet", "dddd.parquet", "mix-1.parquet", ".tmp-eeee.parquet-1"} & names


def test_the_audio_is_gone_and_everything_else_is_as_it_was(store: Path) -> None:
    audio, traces = digest(store), audio_of(store)
    for place, path in enumerate(sorted((store / "manifests").iterdir())):
        os.utime(path, (1e9 + place, 1e9 + place))
    ages = {path: path.stat().st_mtime_ns for path in (store / "manifests").iterdir()}
    assert any(traces[0] in path.read_bytes() for path in (store / "chunks").glob("*.parquet"))
    made = erasure.run(str(store), {audio}, row_cache=str(store / "rows"))
    check(store, audio, traces)
    assert {path: path.stat().st_mtime_ns for path in ages} == ages  # the newest dataset is the one that it was
    assert set(made.songs) == {"x", "x ~ mix 0"}
    assert set(made.shards) == {"chunks/aaaa.parquet", "chunks/cccc.parquet", "chunks/mix-1.parquet"}
    assert made.rows == 2  # its own, and those of the mix
    # Who learnt from the dataset has heard the song all the same.
    found = training_recordings.of_dataset(str(store / "manifests" / "ingest-all.json"))
    assert [(one.track_id, one.license) for one in found.heard if one.audio == audio] == [("x", "CC-BY-NC-4.0")]
    assert training_recordings.of_dataset(str(store / "manifests" / "curate-some.json")).heard
    # Ingest knows what it has, and decodes the erased song never again.
    known = read_store(store)
    assert set(known.songs) == {"key of a", "key of b", "key of c"}
    assert known.refused["key of x"]["reason"] == "forgotten"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and path.name != ".lock"}
    assert erasure.run(str(store), {audio}, row_cache=str(store / "rows")).shards == ()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_second_song_is_erased_from_what_the_first_left(store: Path) -> None:
    audio = digest(store)
    erasure.run(str(store), {audio}, row_cache=str(store / "rows"))
    other = next(song.audio for song in stored(store, "ingest-all") if song.track_id == "c")
    erasure.run(str(store), {other})
    assert whole(store) == {"ingest-all": {"a", "b"}, "curate-some": {"a", "b"}, "automix-m": {"a ~ mix 0"}}
    found = training_recordings.of_dataset(str(store / "manifests" / "ingest-all.json"))
    assert {one.audio for one in found.heard} >= {audio, other}


@pytest.mark.parametrize(("where", "name"), [(storage, "replacing"), (storage, "remove"), (Path, "unlink")])
def test_killed_before_any_file_is_written_or_removed_the_same_command_completes_it(
    store: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    audio, traces = digest(store), audio_of(store)
    kills = 0
    for at in range(60):
        calls = 0

        def dying(real: Callable[..., Any], at: int = at) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > at:
                    raise KeyboardInterrupt
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(where, name, dying(getattr(where, name)))
            try:
                erasure.run(str(store), {audio}, row_cache=str(store / "rows"))
            except KeyboardInterrupt:
                kills += 1
            else:
                break
        for songs in whole(store).values():  # every dataset is readable at every moment
            assert songs
    assert kills >= 4
    check(store, audio, traces)


@pytest.mark.slow
def test_shards_in_s3_are_rewritten_as_well_and_the_newest_dataset_stays_the_newest() -> None:
    with object_store():
        tables = f"s3://{BUCKET}/data"
        first, second = shard(tables, "aaaa", ["a", "x"]), shard(tables, "bbbb", ["c"])
        old = write_manifest(tables, table="chunks", step="ingest", key="old", shards=[first])
        time.sleep(1.1)
        new = write_manifest(tables, table="chunks", step="ingest", key="new", shards=[second])
        audio = next(song.audio for song in read_manifest(old).songs if song.track_id == "x")
        erasure.run(tables, {audio})
        assert [song.track_id for song in read_manifest(old).songs] == ["a"]
        np.testing.assert_allclose(read_song(read_manifest(old).songs[0]), stems("a", 3 * RATE), atol=1e-4)
        assert erasure.holdings(tables, {audio}) == []
        assert "aaaa.parquet" not in storage.names(f"{tables}/chunks")
        assert erasure.changed_ns(old.uri) < erasure.changed_ns(new.uri)
