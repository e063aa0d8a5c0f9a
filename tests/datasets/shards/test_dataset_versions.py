"""Versions tell their story: what they hold, how they differ, and on which side songs stood."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.seeding import row_rng
from datasets.shards import dataset_versions, manifests, shards
from datasets.shards.chunks import SongHeader, song_rows

RATE = 8000
SOURCES = ("drums", "bass")


def _song(store: Path, name: str, *, audio: str, split: str = "train") -> manifests.Shard:
    header = SongHeader(track_id=name, title=name, split=split, license="", origin="corpus", sample_rate=RATE)
    stems = row_rng(0, audio).uniform(-0.5, 0.5, (2, 2, 9000)).astype("float32")
    rows = song_rows(stems, header, sources=SOURCES, chunk_s=1)
    return shards.write_shard(store, f"{name}-{audio}", rows, sources=SOURCES)


def _version(store: Path, key: str, songs: dict[str, str], *, step: str = "ingest", **extra: object) -> ShardSet:
    """A dataset of songs of this audio, made one second after the one before."""
    written = [_song(store, name, audio=audio) for name, audio in songs.items()]
    address = manifests.write_manifest(store, table="chunks", step=step, key=key, shards=written, extra=extra)
    made_s = 1_700_000_000 + len(list((store / "manifests").glob("*.json")))
    os.utime(address.uri, (made_s, made_s))
    return address


def test_versions_are_listed_with_what_they_hold_and_what_changed(tmp_path: Path) -> None:
    first = _version(tmp_path, "aaaa1111", {"a": "1"})
    Path(first.uri).with_suffix(".toml").write_text('[ingest]\nbits = 24\n[corpus]\nroot = "/songs"\n')
    second = _version(tmp_path, "aaaa2222", {"a": "1", "b": "1"}, rejected=[{"track_id": "c"}])
    Path(second.uri).with_suffix(".toml").write_text('[ingest]\nbits = 16\n[corpus]\nroot = "/songs"\n')
    _version(
        tmp_path, "cccc", {"b": "1"}, step="curate", made_from="ingest-aaaa2222", summary={"dropped": {"lossy": 1}}
    )
    curated, newer, older = dataset_versions.list_versions(tmp_path)
    assert [version.id for version in (curated, newer, older)] == ["cccc", "aaaa22", "aaaa11"]
    assert (newer.num_songs, newer.splits, newer.num_left_out) == (2, {"train": 2, "valid": 0, "test": 0}, 1)
    assert newer.hours == pytest.approx(2 * 9000 / RATE / 3600)
    assert newer.num_bytes == 2 * older.num_bytes > 0
    assert newer.changed_settings == {"ingest.bits": (24, 16)}
    assert (older.changed_settings, older.made_from) == ({}, "/songs")
    assert (curated.made_from, curated.num_left_out) == ("ingest aaaa22", 1)
    assert older.made_at < newer.made_at < curated.made_at
    assert older.digest == first.digest


def test_two_versions_differ_by_song_audio_split_and_license(tmp_path: Path) -> None:
    _version(tmp_path, "one", {"a": "1", "b": "1", "c": "1", "d": "1"})
    second = _version(tmp_path, "two", {"a": "1", "b": "2", "c": "1", "e": "1"})
    whole = manifests.read_manifest(second)
    moved = [replace(song, split="test", license="CC0") if song.track_id == "c" else song for song in whole.songs]
    manifests.write_manifest(tmp_path, table="chunks", step="ingest", key="two", shards=whole.shards, songs=moved)
    found = dataset_versions.diff(tmp_path, "one", "ingest-two")
    assert (found.added, found.removed, found.changed_audio) == (("e",), ("d",), ("b",))
    assert (found.changed_split, found.changed_license) == ({"c": ("train", "test")}, {"c": ("", "CC0")})
    assert found.unchanged == 1
    same = dataset_versions.diff(tmp_path, "two", "two")
    assert (same.added, same.removed, same.changed_audio, same.unchanged) == ((), (), (), 4)


def test_a_song_is_found_by_id_by_title_and_by_a_part_of_it(tmp_path: Path) -> None:
    _version(tmp_path, "one", {"Long Song": "1", "Song": "1"})
    _version(tmp_path, "two", {"Long Song": "2"})
    found = dataset_versions.find(tmp_path, "Long Song")
    assert list(found) == ["two", "one"]
    assert found["two"][0].audio != found["one"][0].audio
    assert {song.track_id for songs in dataset_versions.find(tmp_path, "song").values() for song in songs} == {"Song"}
    assert {song.track_id for songs in dataset_versions.find(tmp_path, "ong s").values() for song in songs} == {
        "Long Song"
    }
    with pytest.raises(InputError, match=r"none of the 2 datasets .* called 'Lung Song'; did you mean 'Long Song'"):
        dataset_versions.find(tmp_path, "Lung Song")


def test_what_is_no_version_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no store at"):
        dataset_versions.list_versions(tmp_path / "none")
    assert dataset_versions.list_versions(tmp_path) == []
    _version(tmp_path, "abc1", {"a": "1"})
    _version(tmp_path, "abc2", {"a": "1"})
    with pytest.raises(InputError, match=r"2 datasets are called 'abc' .* abc1 \(ingest\), abc2 \(ingest\)"):
        dataset_versions.diff(tmp_path, "abc", "abc1")
    with pytest.raises(InputError, match=r"no dataset is called 'x'.* abc1 \(ingest\)"):
        dataset_versions.diff(tmp_path, "abc1", "x")
    with pytest.raises(InputError, match="no dataset is called ''"):
        dataset_versions.diff(tmp_path, "abc1", "")


def test_sides_drawn_by_the_same_rule_are_remembered_the_latest_first(tmp_path: Path) -> None:
    rule = {"seed": 0, "valid_fraction": 0.1, "test_fraction": 0.2}
    drawn: list[tuple[str, dict[str, object], dict[str, str]]] = [
        ("ingest", rule, {"A": "train", "B": "test"}),
        ("ingest", {**rule, "seed": 1}, {"A": "valid", "C": "valid"}),
        ("curate", rule, {"A": "test"}),
        ("ingest", rule, {"B": "train", "D": "valid"}),
        ("ingest", {}, {"A": "valid"}),
    ]
    assert dataset_versions.drawn_sides(tmp_path, rule) == {}
    for number, (step, made_by, sides) in enumerate(drawn):
        rows = []
        for name, split in sides.items():
            header = SongHeader(track_id=name, title=name, split=split, license="", origin="corpus", sample_rate=RATE)
            rows += song_rows(np.zeros((2, 1, 100), np.float32), header, sources=SOURCES)
        shard = shards.write_shard(tmp_path, f"s{number}", rows, sources=SOURCES)
        extra = {"split_rule": made_by} if made_by else {}
        manifests.write_manifest(tmp_path, table="chunks", step=step, key=f"{number}", shards=[shard], extra=extra)
        os.utime(tmp_path / "manifests" / f"{step}-{number}.json", (number, number))
    assert dataset_versions.drawn_sides(tmp_path, rule) == {"A": "train", "B": "train", "D": "valid"}
    assert dataset_versions.drawn_sides(tmp_path, rule, step="curate") == {"A": "test"}
    (tmp_path / "manifests" / "ingest-3.json").write_text("{ damaged")
    (tmp_path / "manifests" / "ingest-9.json").write_text("[]")
    assert dataset_versions.drawn_sides(tmp_path, rule) == {"A": "train", "B": "test"}
