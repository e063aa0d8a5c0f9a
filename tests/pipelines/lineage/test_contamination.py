"""Songs that a model knows are found by their audio and by ear, in its own dataset and in another's."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets.quality.fingerprint import FingerprintExtractor, pack
from datasets.schema import LANDMARKS, Landmarks, ShardSet
from datasets.seeding import row_rng
from datasets.shards.arrow_tables import table_of, write_table
from datasets.shards.manifests import Song, write_manifest
from pipelines.lineage.contamination import SAME_AUDIO, Contamination, find, heard_songs, learnt_songs
from tests.datasets import toy_store

RATE = 11025


def tune(seed: int, *, speed: float = 1.0) -> np.ndarray:
    """Twenty seconds of tones that begin at drawn times, mono."""
    rng = row_rng(seed, "tune")
    time_T = np.arange(int(20 * RATE / speed)) / RATE * speed
    sound = np.zeros(len(time_T))
    for start_s in np.sort(rng.uniform(0, 19, 120)):
        since_T = np.clip(time_T - start_s, 0, None)
        pitch_hz = 220 * 2 ** rng.uniform(0, 3.5)
        sound += np.sin(2 * np.pi * pitch_hz * since_T) * np.exp(-6 * since_T) * (since_T > 0)
    return (0.1 * sound).astype(np.float32)


def sounds(mono_T: np.ndarray) -> str:
    listener = FingerprintExtractor(RATE)
    listener.add(mono_T)
    return pack(listener.signature())


def song(name: str, split: str, audio: str) -> Song:
    return Song(
        track_id=name, title=name, split=split, audio=audio, sample_rate=RATE, channels=1, num_samples=20 * RATE,
        chunk_samples=RATE, first_row=0, num_chunks=20, path="",
    )  # fmt: skip


def dataset(store: Path, key: str, songs: list[tuple[str, str, str]], heard: dict[str, str] | None) -> ShardSet:
    """A manifest of songs by name, split and audio; with what they sound like, where that is kept."""
    extra = {}
    if heard is not None:
        rows = [Landmarks(track_id=name, audio=audio, signature=heard[audio]) for name, _, audio in songs]
        table = write_table(store, "landmarks", table_of(rows, LANDMARKS), key=key)
        extra = {"landmarks": {"uri": table.uri, "table": "landmarks", "num_rows": len(rows), "digest": table.digest}}
    listed = [song(*one) for one in songs]
    return write_manifest(store, table="chunks", step="curate", key=key, shards=[], songs=listed, extra=extra)


@pytest.fixture(scope="module")
def heard() -> dict[str, str]:
    found = {str(seed): sounds(tune(seed)) for seed in range(4)}
    return {**found, "1 faster": sounds(tune(1, speed=1.03))}


def test_another_speed_of_a_song_that_the_champion_learnt_from_is_heard(tmp_path: Path, heard: dict[str, str]) -> None:
    ours = dataset(
        tmp_path, "a", [("new", "test", "0"), ("odd", "test", "1 faster"), ("same", "test", "2"), ("x", "train", "3")],
        heard,
    )  # fmt: skip
    champions = dataset(tmp_path, "b", [("old", "train", "1"), ("named otherwise", "valid", "2")], heard)
    found = find(ours, [champions.uri], split="test", min_similarity=0.5)
    assert found.known
    assert found.by_fingerprint
    assert set(found.songs) == {"odd", "same"}
    assert found.songs["same"] == SAME_AUDIO
    assert "is (training) old from 0:00" in found.songs["odd"]
    assert "+3" in found.songs["odd"] or "+2.9" in found.songs["odd"]
    assert set(find(ours, [champions.uri], split="test", min_similarity=2).songs) == {"same"}


def test_what_cannot_be_looked_at_is_said(tmp_path: Path, heard: dict[str, str]) -> None:
    songs = [("new", "test", "0"), ("twice", "test", "1"), ("twice again", "train", "1")]
    ours, deaf = dataset(tmp_path, "a", songs, heard), dataset(tmp_path, "b", [("old", "train", "0")], None)
    gone = find(ours, [str(tmp_path / "manifests" / "none.json")], split="test", min_similarity=0.5)
    assert (gone.known, gone.by_fingerprint, set(gone.songs)) == (False, True, {"twice"})
    assert not find(ours, [""], split="test", min_similarity=0.5).known
    by_digest = find(ours, [deaf.uri], split="test", min_similarity=0.5)
    assert (by_digest.known, by_digest.by_fingerprint, set(by_digest.songs)) == (True, False, {"new", "twice"})
    (tmp_path / "tables" / "landmarks-a.parquet").unlink()
    assert not find(ours, [], split="test", min_similarity=0.5).by_fingerprint


def test_songs_that_both_are_compared_on_or_kept_for_tests_were_not_learnt_from() -> None:
    ours = [song("x", "test", "1"), song("y", "test", "2"), song("z", "test", "3"), song("v", "valid", "4")]
    champions = [song("other name", "train", "1"), song("y", "test", "2"), song("chosen by", "valid", "3")]

    def heard(songs: list[Song], *, split: str) -> list[str]:
        return heard_songs(ours, learnt_songs([*ours, *songs], split=split), split=split)

    assert heard(champions, split="test") == ["x", "z"]
    assert heard([*champions, song("y again", "train", "2")], split="test") == ["x", "y", "z"]
    # Songs that both were chosen by are no reason to compare nothing at all.
    assert heard([song("v", "valid", "4")], split="valid") == []
    assert heard([song("v", "train", "4")], split="valid") == ["v"]
    # Of a split that models are trained with, every training song of the other counts.
    assert heard([song("t", "train", "4")], split="train") == []
    assert learnt_songs([song("t", "train", "4"), song("u", "test", "5"), song("w", "valid", "6")], split="train") == [
        song("t", "train", "4"), song("w", "valid", "6"),
    ]  # fmt: skip


def test_where_nothing_was_found_all_is_known_and_was_listened_to() -> None:
    nothing = Contamination()
    assert (dict(nothing.songs), nothing.known, nothing.by_fingerprint, nothing.gaps) == ({}, True, True, ())


def test_all_of_a_song_may_be_asked_for_and_above_that_nothing_is_listened_to(
    tmp_path: Path, heard: dict[str, str]
) -> None:
    ours = dataset(tmp_path, "a", [("new", "test", "0")], heard)
    theirs = dataset(tmp_path, "b", [("old", "train", "1")], heard)
    for least, listened in ((0.5, True), (1.0, True), (1.01, False)):
        assert find(ours, [theirs.uri], split="test", min_similarity=least).by_fingerprint is listened


def test_only_songs_of_the_split_in_question_are_looked_for(tmp_path: Path, heard: dict[str, str]) -> None:
    ours = dataset(tmp_path, "a", [("v", "valid", "0"), ("t", "test", "1 faster"), ("u", "train", "3")], heard)
    theirs = dataset(tmp_path, "b", [("old", "train", "1"), ("older", "train", "2")], heard)
    assert set(find(ours, [theirs.uri], split="test", min_similarity=0.5).songs) == {"t"}
    assert not find(ours, [theirs.uri], split="valid", min_similarity=0.5).songs


def test_songs_that_resemble_each_other_and_nothing_learnt_are_not_known_to_a_model(
    tmp_path: Path, heard: dict[str, str]
) -> None:
    """Two tests of one recording; and a training song that is another's, which is heard in no test."""
    ours = dataset(tmp_path, "a", [("t", "test", "1"), ("u", "test", "1 faster"), ("x", "train", "3")], heard)
    theirs = dataset(tmp_path, "b", [("old", "train", "3"), ("older", "train", "2")], heard)
    found = find(ours, [theirs.uri], split="test", min_similarity=0.5)
    assert (dict(found.songs), found.known, found.by_fingerprint) == ({}, True, True)


def test_what_no_table_tells_is_listened_to_and_kept_in_the_store_or_said_to_be_unknown(
    tmp_path: Path, heard: dict[str, str]
) -> None:
    songs = toy_store.store(tmp_path / "store", {"x": ("train", 20_000), "y": ("test", 20_000)})
    found = find(songs, [], split="test", min_similarity=0.5)
    assert (dict(found.songs), found.by_fingerprint) == ({}, True)
    assert len(list((tmp_path / "store" / "cache" / "sounds").glob("*.json"))) == 2
    shutil.rmtree(tmp_path / "store" / "cache")
    shard = tmp_path / "store" / "chunks" / "k.parquet"
    shard.write_bytes(shard.read_bytes()[:1000])  # there, but nothing can be heard of it
    assert not find(songs, [], split="test", min_similarity=0.5).by_fingerprint
